"""The visit greedy of practice with nothing left to guess: it knows the demand and the drift to come.

It is no bound (that is `benchmarks.switching_bound`): it chooses by the same score, minute by minute. What it earns
above `visit_greedy` is what forecasts are worth to such a rule.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from agents.practice.node_switching import best_matching, towards
from qkd_gym import struct
from qkd_gym.envs.network import switching
from qkd_gym.envs.network.switching import UNIT_BITS, decode
from qkd_gym.evaluation.agent import PrivilegedAgent


@struct.dataclass
class ForesightGreedy(PrivilegedAgent[Any]):
    """Key that the next complete block will bring into the store, by the time that it takes, relock and all."""

    urgent: Any = struct.field(1.0, low=0.0, doc="weight of the demand that goes unserved, over key a minute")
    sunk: Any = struct.field(1.25, low=1.0, doc="factor on a pair that relocks or has an open block")
    settle: Any = struct.field(1.25, low=1.0, doc="factor on a locked pair between blocks")

    def init(self, key, env, params, trace):
        demand = jnp.cumsum(trace["demand"].at[0].set(0), axis=0, dtype=jnp.float32)  # until each minute
        excess = jnp.cumsum(trace["excess_db"], axis=0, dtype=jnp.float32) - trace["excess_db"]
        return demand, excess

    def act(self, key, carry, obs, mask, episode):
        demand, excess = carry
        state, reading = episode.state, decode(obs)
        own, taken = state.held, reading.taken
        relock, block = (jnp.round(x).astype(jnp.int32) for x in (reading.relock_min, reading.block_min))
        left = (state.relock_left + block - state.progress)[:, None]
        time = jnp.where(own, left, relock + block + taken)
        last = len(demand) - 1
        end = jnp.minimum(state.time + time, last)

        def at(table, when):
            return jnp.take_along_axis(table, when[None], axis=0)[0]

        needed = at(demand, end) - demand[state.time]
        ahead = jnp.maximum(state.level - needed, 0)
        seen = jnp.where(own, state.excess_sum[:, None], 0)
        begin = jnp.where(own & (state.progress > 0)[:, None], state.time, jnp.maximum(end - block, 0))
        mean = (seen + at(excess, end) - at(excess, begin)) / block
        lump = jnp.exp(switching.at_excess(state.log_key, mean)) / UNIT_BITS
        gain = jnp.minimum(lump, state.capacity - ahead) * (state.time + time <= last)
        unserved = jnp.maximum(needed - state.level, 0)
        busy = ((state.progress > 0) | (state.relock_left > 0))[:, None]
        stay = jnp.where(own, jnp.where(busy, self.sunk, self.settle), 1.0)
        score = (gain + self.urgent * unserved) / time * stay
        return towards(best_matching(score), reading), carry


AGENTS: dict[str, PrivilegedAgent] = {"foresight_greedy": ForesightGreedy()}

"""What operators do about a shared switch: fixed pairs, turns, the longest queue, MaxWeight, and a look at visits.

The rules are one operator's: they read all transmitters' observations (and nothing else) and choose for all at once, by
the best matching of a score. They differ in the score. `own_visits` has no operator: each transmitter reads its own.
`python -m agents.practice.node_switching` searches their constants on tuning seeds.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from agents.practice.tuning import Grid, tune_named, tuning_parser
from qkd_gym import struct
from qkd_gym.envs.network.node_switching import NodeSwitching
from qkd_gym.envs.network.switching import Reading, decode
from qkd_gym.evaluation.agent import Agent

#: Up to so many ports on the larger side the best matching is found among all; beyond, pair by pair.
_ALL_UP_TO = 6


@functools.cache
def _matchings(n: int, m: int) -> np.ndarray:
    """All matchings that leave no port idle that could be paired, float32 `(matchings, n m)`."""
    wide = max(n, m)
    seen = {tuple(p[i] if p[i] < m else -1 for i in range(n)) for p in itertools.permutations(range(wide))}
    return np.array([(np.array(p)[:, None] == np.arange(m)).ravel() for p in sorted(seen)], np.float32)


def best_matching(score: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    """The matching of greatest total score; among more than 6 ports the one that takes the greatest first."""
    n, m = score.shape
    if max(n, m) <= _ALL_UP_TO:
        table = jnp.asarray(_matchings(n, m))
        best = jnp.argmax(table @ score.reshape(-1))
        picked = (np.arange(len(table)) == best).astype(jnp.float32)
        return (picked @ table).reshape(n, m) > 0.5
    chosen, left = jnp.zeros((n, m), bool), score
    for _ in range(min(n, m)):
        pick = (np.arange(n * m) == jnp.argmax(left)).reshape(n, m)
        chosen = chosen | pick
        left = jnp.where(jnp.any(pick, axis=0)[None] | jnp.any(pick, axis=1)[:, None], -jnp.inf, left)
    return chosen


def towards(target: Bool[Array, "n m"], reading: Reading) -> Array:
    """Actions that lead to a matching: stay, take what is free, and release where a receiver is still to come free."""
    m = target.shape[1]
    free = target & ~reading.taken
    receiver = jnp.sum(jnp.where(free, np.arange(m, dtype=np.int32)[None], 0), axis=1, dtype=jnp.int32)
    return jnp.where(jnp.any(free, axis=1), receiver, m).astype(jnp.int32)


@struct.dataclass
class _Rule(Agent[Any]):
    """Score the pairs, take the best matching, go there."""

    def init(self, key, env, params):
        return ()

    def act(self, key, carry, obs, mask):
        reading = decode(obs)
        return towards(best_matching(self.score(reading)), reading), carry

    def score(self, reading: Reading) -> Float[Array, "n m"]:
        """What each pair is worth now, those that are paired with what speaks for staying."""
        raise NotImplementedError


@struct.dataclass
class StaticPairs(Agent[Any]):
    """The matching that serves most mean demand by the data sheet, once and for all."""

    def init(self, key, env, params):
        return jnp.zeros((env.num_transmitters, env.num_receivers), bool)

    def act(self, key, carry, obs, mask):
        reading = decode(obs)
        made = reading.size * reading.store_min * reading.block_share / reading.block_min
        target = jnp.where(jnp.any(carry), carry, best_matching(jnp.minimum(reading.size, made)))
        return towards(target, reading), target


@struct.dataclass
class RoundRobin(Agent[Any]):
    """Everyone moves on to the next receiver at once, after so many blocks."""

    blocks: Any = struct.field(1.0, low=1.0, doc="complete blocks in a visit")

    def init(self, key, env, params):
        return jnp.int32(0), jnp.int32(0)

    def act(self, key, carry, obs, mask):
        turn, waited = carry
        reading = decode(obs)
        n, m = reading.own.shape
        wide = max(n, m)
        dwell = 1 + reading.relock_min + self.blocks * reading.block_min
        moves = waited >= jnp.round(dwell)
        turn = jnp.where(moves, (turn + 1) % wide, turn)
        waited = jnp.where(moves, 1, waited + 1)
        target = ((np.arange(n)[:, None] + turn) % wide) == np.arange(m)[None]
        return towards(target, reading), (turn, waited)


@struct.dataclass
class LongestQueue(_Rule):
    """The emptiest stores first; a pair stays until another's gap is larger by a margin, the more so in mid-block."""

    by_size: Any = struct.field(0.75, low=0.0, high=1.0, doc="0: gaps count in minutes of demand; 1: in bits")
    margin: Any = struct.field(0.3, low=0.0, doc="gap, over a store, that staying is worth ...")
    open_block: Any = struct.field(0.6, low=0.0, doc="... and more of it for a block nearly complete")

    def weight(self, reading: Reading) -> Float[Array, "n m"]:
        """Of a pair whose store is empty."""
        return jnp.exp(self.by_size * jnp.log(reading.size * reading.store_min))

    def score(self, reading):
        weight = self.weight(reading)
        # a relock that has begun counts as the start of a block
        stay = self.margin + self.open_block * reading.block_fill[:, None]
        return weight * (1 - reading.fill) + jnp.where(reading.own, stay * weight, 0)


@struct.dataclass
class MaxWeight(LongestQueue):
    """Gap times rate, the throughput-optimal rule of Tassiulas and Ephremides, IEEE TAC 37, 1936 (1992), with the same
    hysteresis."""

    by_size: Any = struct.field(0.5, low=0.0, high=1.0, doc="0: gaps count in minutes of demand; 1: in bits")
    rate_power: Any = struct.field(0.25, low=0.0, high=1.0, doc="of the rate in the weight; 1 is MaxWeight proper")

    def weight(self, reading):
        rate = reading.size * reading.store_min * reading.block_share
        return jnp.exp(self.by_size * jnp.log(reading.size * reading.store_min) + self.rate_power * jnp.log(rate))


@struct.dataclass
class VisitGreedy(_Rule):
    """Key that the next complete block would bring into the store, by the time that it takes, relock and all."""

    trust: Any = struct.field(1.0, low=0.0, high=1.0, doc="power of the recent demand's ratio to its mean in forecasts")
    urgent: Any = struct.field(1.0, low=0.0, doc="weight of the demand that goes unserved, over key a minute")
    sunk: Any = struct.field(1.25, low=1.0, doc="factor on a pair that relocks or has an open block")
    settle: Any = struct.field(1.25, low=1.0, doc="factor on a locked pair between blocks")

    def score(self, reading):
        demand = jnp.exp(self.trust * jnp.log(reading.demand_ratio)) / reading.store_min  # stores a minute
        left = reading.relock_left_min[:, None] + (1 - reading.block_fill[:, None]) * reading.block_min
        anew = reading.relock_min + reading.block_min + reading.taken
        time = jnp.where(reading.own, left, anew)
        ahead = jnp.maximum(reading.fill - demand * time, 0)
        gain = jnp.minimum(reading.block_share, 1 - ahead) / time
        unserved = jnp.maximum(demand * time - reading.fill, 0) / time
        busy = (reading.block_fill > 0)[:, None] | (reading.relock_left_min > 0.5)[:, None]
        stay = jnp.where(reading.own, jnp.where(busy, self.sunk, self.settle), 1.0)
        return (gain + self.urgent * unserved) * stay * reading.size * reading.store_min


@struct.dataclass
class OwnVisits(VisitGreedy):
    """The same score without an operator: every transmitter takes the best receiver that it may, and lets go of its own
    where one that another holds is better by far."""

    urgent: Any = struct.field(4.0, low=0.0, doc="weight of the demand that goes unserved, over key a minute")
    sunk: Any = struct.field(50.0, low=1.0, doc="factor on a pair that relocks or has an open block")
    settle: Any = struct.field(3.0, low=1.0, doc="factor on a locked pair between blocks")
    yields: Any = struct.field(1.0, low=1.0, doc="a taken receiver must be worth so much more than the best at hand")
    spread: Any = struct.field(0.45, low=0.0, doc="random part of the scores' logarithms, against collisions")

    def act(self, key, carry, obs, mask):
        reading = decode(obs)
        n, m = reading.own.shape
        noise = self.spread * jax.random.gumbel(key, (n, m), jnp.float32)
        score = jnp.log(jnp.maximum(self.score(reading), 1e-9)) + jnp.where(reading.own, 0, noise)
        at_hand = jnp.where(reading.taken, -jnp.inf, score)
        elsewhere = jnp.max(jnp.where(reading.taken, score, -jnp.inf), axis=1)
        stays = jnp.max(at_hand, axis=1) + jnp.log(self.yields) >= elsewhere
        return jnp.where(stays, jnp.argmax(at_hand, axis=1), m).astype(jnp.int32), carry


AGENTS: dict[str, Agent] = {
    "static_pairs": StaticPairs(),
    "round_robin": RoundRobin(),
    "longest_queue": LongestQueue(),
    "max_weight": MaxWeight(),
    "own_visits": OwnVisits(),
    "visit_greedy": VisitGreedy(),
}

#: Values that are tried, one constant after the other.
GRIDS: dict[str, Grid] = {
    "round_robin": {"blocks": (1.0, 2.0, 3.0, 4.0)},
    "longest_queue": {
        "margin": (0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
        "open_block": (0.0, 0.2, 0.4, 0.8, 1.5),
        "by_size": (0.0, 0.25, 0.5, 0.75, 1.0),
    },
    "max_weight": {
        "margin": (0.0, 0.1, 0.2, 0.3, 0.5, 0.8),
        "open_block": (0.0, 0.2, 0.4, 0.8, 1.5),
        "by_size": (0.0, 0.5, 1.0),
        "rate_power": (0.25, 0.5, 0.75, 1.0),
    },
    "visit_greedy": {
        "sunk": (1.0, 1.25, 1.5, 2.0, 3.0),
        "settle": (1.0, 1.1, 1.25, 1.5),
        "urgent": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
        "trust": (0.0, 0.25, 0.5, 0.75, 1.0),
    },
    "own_visits": {
        "sunk": (1.25, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0),
        "settle": (1.0, 1.25, 1.5, 2.0, 3.0),
        "yields": (1.0, 1.25, 1.5, 2.0, 3.0),
        "spread": (0.1, 0.2, 0.3, 0.45, 0.6, 1.0),
        "urgent": (0.0, 0.5, 1.0, 2.0, 4.0),
    },
}


def main(argv: list[str] | None = None) -> int:
    options = tuning_parser("node_switching", __doc__, GRIDS).parse_args(argv)
    return tune_named(NodeSwitching(), AGENTS, GRIDS, options)


if __name__ == "__main__":
    raise SystemExit(main())

"""Yardsticks of routing: rules of practice whose nodes see all pools as they are, for what old news costs.

No agent's bound: a rule told the truth can still be a poor rule. The bound is the clairvoyant linear program of
`benchmarks.key_routing`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from agents.practice.key_routing import AGENTS as PRACTICE
from agents.practice.key_routing import Reservation, Rule
from qkd_gym.envs.network.relay import path_figures
from qkd_gym.envs.network.routing import KeyRoutingParams, decode
from qkd_gym.evaluation.agent import PrivilegedAgent


@dataclasses.dataclass(frozen=True)
class FreshNews(PrivilegedAgent[KeyRoutingParams]):
    """A rule that knows every pool at this moment. The mask stays that of old news, and others may still be faster."""

    rule: Rule = dataclasses.field(default_factory=Reservation)
    role: ClassVar[str] = "oracle"

    def init(self, key, env, params, trace):
        return params

    def act(self, key, carry, obs, mask, episode):
        state, paths = episode.state, mask.shape[-1] - 2
        everyone = (obs.shape[0], state.level.shape[-1])
        fill = jnp.broadcast_to(state.level / jnp.maximum(state.capacity, 1), everyone)
        level, ages = jnp.broadcast_to(state.level, everyone), jnp.zeros(everyone, jnp.float32)
        least_fill, least, scarcity, oldest = path_figures(state.words, level, fill, ages)
        size = state.size[:, :1]
        reading = decode(obs, paths)._replace(
            least_fill=least_fill,
            demand_share=jnp.clip(size / jnp.maximum(least, 1), 0, 2),
            scarcity=scarcity,
            path_age_s=oldest,
            fill=fill,
            age_s=ages,
        )
        truly = mask.at[:, :paths].set(mask[:, :paths] & (least >= size))
        return self.rule.choose(key, reading, truly, carry), carry


AGENTS: dict[str, Any] = {f"{name}_fresh": FreshNews(PRACTICE[name]) for name in ("reservation", "prices")}

"""What operators do about routing: fixed paths, wide paths, unloaded paths, reserves for the important, prices.

Every rule is each node's own: it reads that node's observation and mask and nothing else. They differ in how they rank
the paths and in whom they let in. `python -m agents.practice.key_routing` searches their constants on tuning seeds.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents.practice.tuning import Grid, tune_named, tuning_parser
from qkd_gym import struct
from qkd_gym.arguments import count, refusing
from qkd_gym.envs.network.key_routing import KeyRouting
from qkd_gym.envs.network.routing import KeyRoutingParams, Reading, decode
from qkd_gym.evaluation.agent import Agent


@struct.dataclass
class Rule(Agent[KeyRoutingParams]):
    """Rank the legal paths and take the best, or wait; give up a request that holds up others."""

    hold: Any = struct.field(2.0, low=1.0, unit="request", doc="a low request is given up if so many are in the queue")

    def init(self, key, env, params):
        return params

    def act(self, key, carry, obs, mask):
        return self.choose(key, decode(obs, mask.shape[-1] - 2), mask, carry), carry

    def choose(
        self, key: PRNGKeyArray, reading: Reading, mask: Array, params: KeyRoutingParams
    ) -> Int[Array, " nodes"]:
        """Each node's action, from what it reads."""
        nodes, paths = reading.hops.shape
        noise = jax.random.gumbel(key, (nodes, paths), jnp.float32)
        ranks, admitted = self.judge(reading, params)
        open_paths = mask[:, :paths] & admitted
        best = jnp.argmax(jnp.where(open_paths, ranks + self.spread(noise), -jnp.inf), axis=1)
        hopeless = mask[:, -1] & ~reading.high & (reading.queue > self.hold - 0.5)
        other = jnp.where(hopeless, paths + 1, paths)
        return jnp.where(jnp.any(open_paths, axis=1), best, other).astype(jnp.int32)

    def spread(self, noise: Array) -> Array:
        """What is added to the ranks so that nodes with one and the same news do not all rush to one path."""
        return jnp.zeros_like(noise)

    def judge(
        self, reading: Reading, params: KeyRoutingParams
    ) -> tuple[Float[Array, "nodes paths"], Bool[Array, "..."]]:
        """(rank of each path, whether it may be taken)."""
        raise NotImplementedError


@struct.dataclass
class ShortestPath(Rule):
    """The first path or none."""

    def judge(self, reading, params):
        first = jnp.arange(reading.hops.shape[-1]) == 0
        return jnp.zeros_like(reading.hops), jnp.broadcast_to(first, reading.hops.shape)


@struct.dataclass
class FirstFit(Rule):
    """The first path in the list that holds enough."""

    def judge(self, reading, params):
        ranks = jnp.broadcast_to(-jnp.arange(reading.hops.shape[-1], dtype=jnp.float32), reading.hops.shape)
        return ranks, jnp.bool_(True)


@struct.dataclass
class WidestPath(Rule):
    """The path whose least pool holds most key."""

    def judge(self, reading, params):
        return -reading.demand_share, jnp.bool_(True)


@struct.dataclass
class LeastLoaded(Rule):
    """The path whose least pool is fullest for its size."""

    def judge(self, reading, params):
        return reading.least_fill, jnp.bool_(True)


@struct.dataclass
class Reservation(Rule):
    """Least loaded, long paths dear; low requests must leave a reserve, the larger the longer the path."""

    per_hop: Any = struct.field(0.0, doc="fill that an additional hop must be worth")
    reserve: Any = struct.field(0.0, doc="fill that a low request must leave ...")
    reserve_per_hop: Any = struct.field(0.1, doc="... and more of it for each further hop")
    old_news: Any = struct.field(0.0, doc="fill taken off for news a minute old")
    temperature: Any = struct.field(0.05, low=0.0, doc="fill by which ranks are blurred at random")

    def spread(self, noise):
        return self.temperature * noise

    def judge(self, reading, params):
        left = reading.least_fill * (1 - reading.demand_share)
        further = jnp.maximum(reading.hops - 1, 0)
        ranks = left - self.per_hop * further - self.old_news * reading.path_age_s / 60
        return ranks, reading.high[:, None] | (left >= self.reserve + self.reserve_per_hop * further)


@struct.dataclass
class Prices(Rule):
    """Primal-dual routing: a bit of a pool costs exponentially more the emptier it is; a request must be worth it.

    The price of a link is (steep^(1 - fill) - 1) / (steep - 1), after Awerbuch, Azar and Plotkin, FOCS 1993. Of a path
    a node knows the least fill and the mean, so the least pool is priced by itself and the others at their mean.
    """

    steep: Any = struct.field(50.0, low=1.001, doc="price of an empty pool over that of a full one, plus 1")
    worth: Any = struct.field(0.25, low=0.0, doc="price that a low bit is worth; a high one its weight times as much")
    base: Any = struct.field(0.0, low=0.0, doc="price of a full pool")
    temperature: Any = struct.field(0.0, low=0.0, doc="price by which ranks are blurred at random")

    def spread(self, noise):
        return self.temperature * noise

    def judge(self, reading, params):
        def price(empty: Array) -> Array:
            return self.base + jnp.expm1(jnp.log(self.steep) * jnp.clip(empty, 0, 1)) / (self.steep - 1)

        least = 1 - reading.least_fill * (1 - reading.demand_share)
        others = jnp.maximum(reading.hops - 1, 0)
        mean = (reading.scarcity - (1 - reading.least_fill)) / jnp.maximum(others, 1)
        cost = price(least) + others * price(mean)
        worth = self.worth * jnp.where(reading.high, params.high_weight, 1.0)
        return -cost, cost <= worth[:, None]


AGENTS: dict[str, Agent] = {
    "shortest_path": ShortestPath(),
    "first_fit": FirstFit(),
    "widest_path": WidestPath(),
    "least_loaded": LeastLoaded(),
    "reservation": Reservation(),
    "prices": Prices(hold=1.0),
}

#: Values that are tried, one constant after the other.
GRIDS: dict[str, Grid] = {
    "reservation": {
        "reserve": (0.0, 0.15, 0.3, 0.45, 0.6, 0.75),
        "reserve_per_hop": (0.0, 0.05, 0.1, 0.15),
        "per_hop": (0.0, 0.05, 0.1, 0.2, 0.4),
        "old_news": (0.0, 0.1, 0.2),
        "temperature": (0.0, 0.02, 0.05, 0.1),
        "hold": (1.0, 2.0, 3.0, 5.0),
    },
    "prices": {
        "worth": (0.03, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0),
        "steep": (5.0, 20.0, 50.0, 200.0, 1000.0),
        "base": (0.0, 0.02, 0.05, 0.1, 0.2),
        "temperature": (0.0, 0.02, 0.05, 0.1),
        "hold": (1.0, 2.0, 3.0, 5.0),
    },
}


def main(argv: list[str] | None = None) -> int:
    parser = tuning_parser("key_routing", __doc__, GRIDS)
    parser.add_argument("--paths", type=count(), default=5, help="default: %(default)s")
    options = parser.parse_args(argv)
    with refusing(parser):
        env = KeyRouting(num_paths=options.paths)
    return tune_named(env, AGENTS, GRIDS, options)


if __name__ == "__main__":
    raise SystemExit(main())

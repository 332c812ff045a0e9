"""What `key_routing` is made of: its units, parameters and state; observations in physical units."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.envs.core import EnvParams, EnvState
from qkd_gym.envs.network.links import TwoDecoyDevices, pulses_of, secret_bits, transmittance
from qkd_gym.envs.network.routes import fluid_limit, routes_of
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.topologies import Topology, TopologyError

#: Key is counted in whole units of this many bits, so that int32 books are exact.
UNIT_BITS = 1000
#: Places in a node's queue.
QUEUE = 4
#: Load of the scenarios, relative to the fluid limit (design values).
TRAINING_LOAD, OVERLOAD = 0.3, 0.55
#: Requests a second that enter at a node on average, and the ratio of the largest to the smallest (design values).
REQUESTS_PER_S, SIZE_RATIO = 0.15, 32.0


@struct.dataclass
class KeyRoutingParams(TwoDecoyDevices, EnvParams):
    """One network: its links, what it is asked for, and how news of its pools spreads. Defaults are design values
    where no source is named."""

    max_steps_in_episode: int = struct.field(default=600, low=1, high=100_000, unit="step", doc="time limit, 10 min")
    epoch_s: float = struct.field(default=1.0, low=0.01, high=60.0, unit="s", doc="one step")
    graph: int = struct.field(default=0, low=0, high=1, doc="0: the topology named; 1: its held-out stand-in")
    # links
    length_km: Any = struct.field(default=(50.0,), low=0.0, high=500.0, unit="km", doc="fibre of each link (links,)")
    loss_db_per_km: float = struct.field(default=0.2, low=0.0, high=5.0, unit="dB/km", doc="of the fibre")
    extra_loss_db: Any = struct.field(default=(0.0,), low=0.0, high=30.0, unit="dB", doc="splices, switches (links,)")
    misalignment_error: Any = struct.field(
        default=(0.005,), low=0.0, high=0.2, doc="optical error probability (links,)"
    )
    block_clicks: float = struct.field(
        default=5e6, low=1e4, high=1e10, unit="count", doc="key-basis clicks of a finite-key block"
    )
    fail_interval_s: float = struct.field(default=3600.0, low=1.0, unit="s", doc="mean time to a link's failure")
    repair_s: float = struct.field(default=60.0, low=1.0, unit="s", doc="mean time to its recovery")
    # pools
    pool_s: float = struct.field(default=30.0, low=0.0, unit="s", doc="a pool holds so much of its link's key ...")
    pool_lumps: float = struct.field(default=2.0, low=1.0, unit="block", doc="... and at least so many blocks")
    start_fill: float = struct.field(default=0.5, low=0.0, high=1.0, doc="of each pool at the start, on average")
    failed_share: float = struct.field(
        default=0.5, low=0.0, high=1.0, doc="of the key that a failed relay burns on the hops that had enough"
    )
    # demand
    demand_kbit_per_s: float = struct.field(default=3e3, low=0.0, unit="kbit/s", doc="mean of all requests together")
    node_mass: Any = struct.field(default=(1.0,), low=0.0, high=1e3, doc="gravity of each node (nodes,)")
    smallest_kbit: float = struct.field(default=60.0, low=1.0, unit="kbit", doc="least size; sizes are log-uniform")
    largest_kbit: float = struct.field(default=2000.0, low=1.0, high=1e6, unit="kbit", doc="greatest size")
    high_share: float = struct.field(default=0.25, low=0.0, high=1.0, doc="of requests of the high class")
    high_weight: float = struct.field(default=5.0, low=1.0, high=100.0, doc="value of its bits; a low one's is 1")
    two_path_share: float = struct.field(
        default=0.1, low=0.0, high=1.0, doc="of requests that want two disjoint paths, where there are any"
    )
    shortest_deadline_s: float = struct.field(default=5.0, low=0.0, unit="s", doc="time to serve a request, from ...")
    longest_deadline_s: float = struct.field(default=30.0, low=0.0, unit="s", doc="... to")
    hot_share: float = struct.field(default=0.3, low=0.0, high=1.0, doc="of requests between the hot pair")
    hot_s: float = struct.field(default=300.0, low=1.0, unit="s", doc="mean time that a pair is hot")
    # news
    gossip_interval_s: float = struct.field(
        default=45.0, low=0.0, unit="s", doc="a pool is read for the others so often"
    )
    gossip_delay_s: float = struct.field(
        default=15.0, low=0.0, unit="s", doc="and known to them so much later; at most the interval"
    )


@struct.dataclass
class KeyRoutingState(EnvState):
    """Key in units of 1000 bit. A request is two int32: its size, 0 for none, and a tag (see `pack_tag`)."""

    # this network's constants
    lump: Any  # i32 (links,), key of a block
    interval: Any  # f32 (links,), epochs between blocks
    capacity: Any  # i32 (links,)
    # links and pools
    level: Any  # i32 (links,)
    progress: Any  # f32 (links,), share of the open block
    up: Any  # bool (links,)
    # news
    read_age: Any  # i32 (links,), epochs since the pool was last read for the others
    read: Any  # i32 (links,), that reading, on its way
    known: Any  # i32 (links,), what the others know
    known_age: Any  # i32 (links,), epochs
    # requests
    size: Any  # i32 (nodes, QUEUE), head first
    tag: Any  # i32 (nodes, QUEUE)
    failed: Any  # bool (nodes,), the last attempt failed
    hot: Any  # i32 (2,)
    # choices of the heads
    words: Any  # u32 (nodes, paths, words)
    legal: Any  # bool (nodes, paths + 2)
    # what happened, whatever the agents did
    arrived_size: Any  # i32 (nodes,)
    arrived_tag: Any  # i32 (nodes,)
    made: Any  # i32 (links,), key in the last epoch
    # books: made = stored + delivered on all hops + spilled + burnt
    made_total: Any  # i32 (), with the stock at the start
    delivered_total: Any  # i32 (), bits x hops
    spilled_total: Any  # i32 ()
    burnt_total: Any  # i32 ()


class Reading(NamedTuple):
    """Observations in physical units, for rule-based agents; everything has a leading axis of nodes."""

    waiting: Any  # bool, a request is at the head
    size_kbit: Any
    high: Any  # bool
    two: Any  # bool
    seconds_left: Any
    queue: Any  # requests
    failed: Any  # bool
    links_up: Any  # share of the own links
    target: Any  # i32, node
    hops: Any  # (paths,), links used; 0 where there is no path
    least_fill: Any  # (paths,), of the pools on it as known
    demand_share: Any  # (paths,), of the least pool as known; at most 2
    scarcity: Any  # (paths,), sum of 1 - fill over its links
    path_age_s: Any  # (paths,), of the oldest news
    fill: Any  # (links,), as known
    age_s: Any  # (links,)


#: Components of an observation before those of paths and links; components of each path and each link.
HEAD, PER_PATH, PER_LINK = 9, 5, 2


def block_key(params: KeyRoutingParams) -> tuple[Float[Array, " links"], Float[Array, " links"]]:
    """Secret bits of a block of `block_clicks` on each link, and the seconds that it takes."""
    f = jnp.float32
    loss = jnp.asarray(params.length_km, f) * params.loss_db_per_km + jnp.asarray(params.extra_loss_db, f)
    eta = transmittance(params, loss)
    # 0.3 clicks in the key basis per pulse and transmittance: the settings hardly depend on it
    settings = near_optimal_settings(params.block_clicks / (0.3 * eta), eta)
    sent = pulses_of(params, settings, eta, params.misalignment_error)
    q = sent.key_basis
    pulses = params.block_clicks / (q * q * jnp.sum(sent.probabilities * sent.clicks.click, axis=-1))
    return secret_bits(params, sent, pulses), pulses / params.clock_hz


def mean_value_per_epoch(params: KeyRoutingParams) -> ArrayLike:
    """Mean weighted demand of an epoch, in units of key: what rewards are measured in."""
    return params.demand_kbit_per_s * params.epoch_s * (1 + (params.high_weight - 1) * params.high_share)


@functools.cache
def nominal(topology: str | Topology, held: bool) -> KeyRoutingParams:
    """The network as its data sheets say, all nodes of one mass, at the load of the training scenario."""
    routes = routes_of(topology, 1, held)
    with jax.ensure_compile_time_eval(), jax.enable_x64(False):
        bits, seconds = (np.asarray(x) for x in jax.jit(block_key)(KeyRoutingParams(length_km=routes.lengths_km)))
    dead = [f"{link.a} - {link.b}" for link, key in zip(routes.net.links, bits, strict=False) if key < UNIT_BITS]
    if dead:
        raise TopologyError(
            f"{routes.net.name}: no key over {', '.join(dead[:4])}: too long; use scaled() or with_trusted_nodes()"
        )
    limit = fluid_limit(routes, bits / seconds / UNIT_BITS)
    links, nodes = len(routes.lengths_km), len(routes.net.nodes)
    demand = TRAINING_LOAD * limit
    smallest = max(demand / (REQUESTS_PER_S * nodes) * math.log(SIZE_RATIO) / (SIZE_RATIO - 1), 1.0)
    return KeyRoutingParams(
        graph=int(held),
        length_km=routes.lengths_km,
        extra_loss_db=np.zeros(links, np.float32),
        misalignment_error=np.full(links, 0.005, np.float32),
        node_mass=np.ones(nodes, np.float32),
        demand_kbit_per_s=round(demand, 1),
        smallest_kbit=round(smallest, 1),
        largest_kbit=round(SIZE_RATIO * smallest, 1),
    )


def decode(obs: Float[Array, "nodes n"], num_paths: int) -> Reading:
    """All nodes' observations in physical units (up to the clipping of extreme values), leading axis `nodes`."""
    head, rest = obs[:, :HEAD], obs[:, HEAD:]
    path = rest[:, : PER_PATH * num_paths].reshape(len(obs), PER_PATH, num_paths)
    link = rest[:, PER_PATH * num_paths :].reshape(len(obs), PER_LINK, -1)
    return Reading(
        waiting=head[..., 0] > 0.5,
        size_kbit=10 * jnp.exp(head[..., 1] * math.log(1e5)),
        high=head[..., 2] > 0.5,
        two=head[..., 3] > 0.5,
        seconds_left=30 * head[..., 4],
        queue=QUEUE * head[..., 5],
        failed=head[..., 6] > 0.5,
        links_up=head[..., 7],
        target=jnp.round(head[..., 8] * len(obs)).astype(jnp.int32) - 1,
        hops=jnp.round(8 * path[:, 0]),
        least_fill=path[:, 1],
        demand_share=path[:, 2],
        scarcity=8 * path[:, 3],
        path_age_s=60 * path[:, 4],
        fill=link[:, 0],
        age_s=60 * link[:, 1],
    )

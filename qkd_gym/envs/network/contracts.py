"""Tenants' contracts over the pools of a network: who is served over which links, orders and their deadlines.

A tenant joins two nodes over a fixed route. It places one order after the other: so much key until then; what is not
delivered by the deadline is lost, and the next order comes. Everything is whole units of key.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qkd_gym import topologies
from qkd_gym.physics import networks
from qkd_gym.topologies import Topology, TopologyError

#: Default network: six nodes of a metropolitan area, eight links of 19 to 64 km, 300 km of fibre (generated).
METRO = topologies.generate_metro(6, 8, seed=0, total_km=300.0)
#: Routes have few hops (each burns the key once), among equals the shorter fibre.
_HOP_PER_KM = 1e-5
_SEEDS = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Tables of one network.

    Attributes:
        net: the network. lengths_km: float32 `(links,)`.
        receiver: int32 `(links,)`, the node whose detectors a link shares: that of its ends with more links.
        together: float32 `(links, links)`, 1 where two links share detectors, a link with itself too.
        routes: float32 `(pairs, links)`, 1 for the links of the route between each pair of nodes.
        pairs: `(pairs, 2)` numbers of the nodes.
    """

    net: Topology
    lengths_km: np.ndarray
    receiver: np.ndarray
    together: np.ndarray
    routes: np.ndarray
    pairs: np.ndarray


def network(topology: str | Topology) -> Topology:
    """The default network ("metro6"), a shipped one by its name, or one's own."""
    if isinstance(topology, str):
        net = METRO if topology == METRO.name else topologies.load(topology)
    else:
        net = topology
    if len(net.nodes) < 3 or len(net.links) > 64:
        raise TopologyError(
            f"allocation needs three nodes or more and at most 64 links; {net.name} has {len(net.nodes)} nodes "
            f"and {len(net.links)} links"
        )
    return net


@functools.cache
def held_out(topology: str | Topology) -> Topology:
    """Another generated network of as many nodes, links and kilometres; where there is none, lengths change places."""
    net = network(topology)
    nodes, links, total = len(net.nodes), len(net.links), float(net.lengths_km.sum())
    for seed in range(5, _SEEDS) if links >= nodes - 1 else ():
        other = topologies.generate_metro(nodes, links, seed=seed, total_km=total)
        if len(other.links) == links:
            return other
    turned = tuple(
        dataclasses.replace(link, length_km=other.length_km)
        for link, other in zip(net.links, net.links[::-1], strict=True)
    )
    return dataclasses.replace(net, name=f"{net.name}, lengths exchanged", links=turned)


@functools.cache
def plan_of(topology: str | Topology, held: bool = False) -> Plan:
    """Tables of a network or of its held-out stand-in."""
    net = held_out(topology) if held else network(topology)
    ends = net.ends
    degree = np.bincount(ends.ravel(), minlength=len(net.nodes))
    receiver = np.where(degree[ends[:, 0]] >= degree[ends[:, 1]], ends[:, 0], ends[:, 1]).astype(np.int32)
    costs = np.where(np.isfinite(net.length_matrix_km), 1 + _HOP_PER_KM * net.length_matrix_km, np.inf)
    np.fill_diagonal(costs, 0.0)
    link_at = {pair: i for i, (a, b) in enumerate(ends.tolist()) for pair in ((a, b), (b, a))}
    pairs = np.array(list(itertools.combinations(range(len(net.nodes)), 2)), np.int32)
    routes = np.zeros((len(pairs), len(ends)), np.float32)
    for row, (a, b) in enumerate(pairs.tolist()):
        _, path = networks.shortest_paths(costs, a, b, 1)[0]
        routes[row, [link_at[hop] for hop in itertools.pairwise(path)]] = 1
    together = (receiver[:, None] == receiver[None]).astype(np.float32)
    return Plan(net, net.lengths_km.astype(np.float32), receiver, together, routes, pairs)


# ---- detectors in time slots -----------------------------------------------------------------------------------------


def time_shares(
    claims: Float[Array, "links slots"], together: Float[Array, "links links"], resync_share: Any
) -> tuple[Float[Array, " links"], Float[Array, " links"]]:
    """Share of the step that each link has detectors for, and number of its slots that others claim too.

    A slot that one link claims is its own. One that k links claim is divided among them after `resync_share` of it is
    lost to changing over.
    """
    rivals = jnp.sum(together[:, :, None] * claims[None], axis=1)  # (links, slots), with itself
    contested = claims * (rivals > 1)
    part = jnp.where(rivals > 1, (1 - resync_share) / jnp.maximum(rivals, 1), 1.0)
    return jnp.mean(claims * part, axis=-1), jnp.sum(contested, axis=-1)


# ---- orders ----------------------------------------------------------------------------------------------------------


def new_orders(u: Float[Array, "2 tenants"], demand: Float[Array, " tenants"], params: Any) -> tuple[Array, Array]:
    """Size and time to the deadline in steps of each tenant's next order, int32; sizes log-uniform around the mean."""
    span = params.longest_order_steps - params.shortest_order_steps + 1.0
    steps = params.shortest_order_steps + jnp.floor(jnp.minimum(u[0] * span, span - 1))
    spread = jnp.log(params.order_spread)
    mean = jnp.where(spread > 1e-3, jnp.sinh(spread) / jnp.maximum(spread, 1e-3), 1.0)
    size = demand * steps * jnp.exp(spread * (2 * u[1] - 1)) / mean
    return jnp.floor(size).astype(jnp.int32), steps.astype(jnp.int32)


def serve(
    level: Int[Array, " links"],
    backlog: Int[Array, " tenants"],
    route: Int[Array, "tenants links"],
    released: Bool[Array, "tenants links"],
) -> tuple[Array, Array]:
    """Levels afterwards, and key delivered to each tenant: tenant by tenant, as much as its whole route releases.

    Delivered bits are burnt on every link of the route.
    """
    delivered = []
    for tenant in range(backlog.shape[-1]):
        on = route[tenant] > 0
        most = jnp.min(jnp.where(on, jnp.where(released[tenant], level, 0), 2**30))
        given = jnp.minimum(most, backlog[tenant])
        level = level - jnp.where(on, given, 0)
        delivered.append(given)
    return level, jnp.stack(delivered)

"""Routes of a network as tables of bits: which links each of the K shortest paths between two nodes takes.

Made on the host, once per network, in NumPy. A path is a set of links, held as 32-bit words, so that a node's choices
are a few integers and whether all pools on a path hold enough is one comparison of words.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np

from qkd_gym import topologies
from qkd_gym.physics import networks
from qkd_gym.topologies import Topology, TopologyError

#: Lengths of the national benchmarks are divided by this: 15 to 140 km, a network of metropolitan and regional links.
BENCHMARK_SCALE = 1 / 25
#: A path's partner, and the fluid limit, are looked for among this many shortest paths, whatever agents choose from.
CANDIDATES = 12
#: Paths have few hops first (each burns the key once); among equals the shorter fibre.
_HOP_PER_KM = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Routes:
    """Paths of one network. `links` may exceed the network's own: the rest are unused places.

    Attributes:
        net: the network, lengths as used. ends: int32 `(links, 2)`, -1 in unused places.
        lengths_km: float32 `(links,)`. real: bool `(links,)`, False in unused places.
        own: bool `(nodes, links)`, links that end at a node.
        words: uint32 `(nodes, 2, nodes, paths, words)`: from a node, for one or two disjoint paths, to a node,
            the path's links; bit l % 32 of word l // 32 is link l. All 0 where there is no such path.
        two: bool `(nodes, nodes)`, whether two paths without a common node between exist.
        candidates: bool `(pairs, CANDIDATES, links)`, the shortest paths of each pair of nodes.
    """

    net: Topology
    ends: np.ndarray
    lengths_km: np.ndarray
    real: np.ndarray
    own: np.ndarray
    words: np.ndarray
    two: np.ndarray
    candidates: np.ndarray


def network(topology: str | Topology) -> Topology:
    """A shipped network by its name, national benchmarks at 1/25 of their lengths; or one's own as it is."""
    net = topologies.load(topology) if isinstance(topology, str) else topology
    if isinstance(topology, str) and net.label == "benchmark":
        net = net.scaled(BENCHMARK_SCALE)
    if len(net.nodes) < 3:
        raise TopologyError(f"routing needs three nodes or more, {net.name} has {len(net.nodes)}")
    if len(net.nodes) > 256:
        raise TopologyError(f"routing takes at most 256 nodes, {net.name} has {len(net.nodes)}")
    return net


@functools.cache
def held_out(topology: str | Topology) -> Topology:
    """A generated network of as many nodes, at most as many links, and as much fibre, for `ood-topology`."""
    net = network(topology)
    nodes, links = len(net.nodes), len(net.links)
    return topologies.generate_metro(nodes, links, seed=nodes, total_km=float(net.lengths_km.sum()))


@functools.cache
def routes_of(topology: str | Topology, paths: int, held: bool = False) -> Routes:
    """Tables of a network, or (`held`) of its held-out stand-in, padded to the links of the larger of the two."""
    nets = network(topology), held_out(topology)
    net = nets[int(held)]
    nodes, links = len(net.nodes), max(len(one.links) for one in nets)
    ends = np.full((links, 2), -1, np.int32)
    ends[: len(net.links)] = net.ends
    lengths = np.ones(links, np.float32)
    lengths[: len(net.links)] = net.lengths_km
    real = np.arange(links) < len(net.links)
    own = np.zeros((nodes, links), bool)
    own[net.ends.T.ravel(), np.tile(np.arange(len(net.links)), 2)] = True

    costs = np.where(np.isfinite(net.length_matrix_km), 1 + _HOP_PER_KM * net.length_matrix_km, np.inf)
    np.fill_diagonal(costs, 0.0)
    link_at = {pair: i for i, (a, b) in enumerate(net.ends.tolist()) for pair in ((a, b), (b, a))}
    on_path = np.zeros((nodes, 2, nodes, paths, links), bool)
    two = np.zeros((nodes, nodes), bool)
    candidates = np.zeros((nodes * (nodes - 1) // 2, CANDIDATES, links), bool)
    for pair, (a, b) in enumerate(itertools.combinations(range(nodes), 2)):
        found = [path for _, path in networks.shortest_paths(costs, a, b, max(paths, CANDIDATES))]
        used = np.zeros((len(found), links), bool)
        for row, path in enumerate(found):
            used[row, [link_at[hop] for hop in itertools.pairwise(path)]] = True
        between = [frozenset(path[1:-1]) for path in found]
        for k in range(min(paths, len(found))):
            single = used[k]
            # two ways share no node between, and the direct link is no partner of itself
            partner = next(
                (j for j in range(min(CANDIDATES, len(found))) if j != k and not between[j] & between[k]), None
            )
            on_path[a, 0, b, k] = on_path[b, 0, a, k] = single
            if partner is not None:
                on_path[a, 1, b, k] = on_path[b, 1, a, k] = single | used[partner]
        two[a, b] = two[b, a] = on_path[a, 1, b, 0].any()
        candidates[pair, : min(len(found), CANDIDATES)] = used[:CANDIDATES]
    return Routes(net, ends, lengths, real, own, pack(on_path), two, candidates)


def pack(on_path: np.ndarray) -> np.ndarray:
    """Sets of links, bool `(..., links)`, as uint32 `(..., words)`."""
    links = on_path.shape[-1]
    words = -(-links // 32)
    padded = np.zeros((*on_path.shape[:-1], words * 32), np.uint32)
    padded[..., :links] = on_path
    return (padded.reshape(*on_path.shape[:-1], words, 32) << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def unpack(words: np.ndarray, links: int) -> np.ndarray:
    """The reverse of `pack`."""
    bits = words[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return bits.reshape(*words.shape[:-1], -1)[..., :links].astype(bool)


def fluid_limit(routes: Routes, rates: np.ndarray, rounds: int = 400) -> float:
    """Largest total demand, equal between all pairs, that the network carries as a fluid, in the unit of the rates.

    The maximum concurrent flow over the candidate paths, from below, by multiplicative weights on the links: each round
    every pair sends its demand over its cheapest path, and links that were crowded become dearer. The mean flow of all
    rounds, scaled to fit, is feasible; 400 rounds are within 1 % of the linear program.

    Args:
        rates: `(links,)`.
    """
    if np.any(rates[routes.real] <= 0):
        raise TopologyError(f"{routes.net.name} has a link beyond reach: it makes no key")
    load = np.float32(1) / np.where(routes.real, rates, np.inf).astype(np.float32) * routes.candidates
    pairs, count, links = load.shape
    none = np.where(routes.candidates.any(axis=-1), 0, np.inf).astype(np.float32)
    price, total = np.zeros(links, np.float32), np.zeros(links, np.float32)
    flat, rows = load.reshape(-1, links), np.arange(pairs) * count
    for step in range(rounds):
        cost = (flat @ np.exp(np.maximum(price - price.max(), -60))).reshape(pairs, count) + none
        now = flat[rows + cost.argmin(axis=1)].mean(axis=0)
        total += now
        price = np.float32(2 * math.sqrt(math.log(links) * (step + 1))) * total / total.max()
    return float(rounds / total.max())

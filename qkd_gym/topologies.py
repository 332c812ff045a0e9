"""Networks with the lengths of their links: published ones, benchmarks, generated ones, and a user's own.

    from qkd_gym import topologies
    net = topologies.load("nsfnet").scaled(1 / 20)
    net = topologies.from_graph("my_city.graphml")

`data/topologies.json` says of every network where its figures come from and what in them is not certain. Parallel
links are merged: their rates add, the shortest length stays; loops at one node are dropped. The links of the national
benchmarks, 250 to 2800 km, are far beyond the reach of any of them: use `scaled` (by 1/20 they are a metropolitan
network) or `with_trusted_nodes` (one at most every 80 km); a network remembers which in `scale` and `max_hop_km`.

Everything here runs on the host, once; arrays are NumPy.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qkd_gym.physics import networks


class TopologyError(ValueError):
    """A network that cannot be used, with its fault and what would do."""


@dataclasses.dataclass(frozen=True)
class Link:
    """One link between nodes `a` and `b`.

    Attributes:
        length_km: length of the fibre. loss_db_per_km: its attenuation, where known.
        rate_kbit_per_s: published secret-key rate, of all parallel systems together, where known.
        systems: what runs on it.
    """

    a: str
    b: str
    length_km: float
    loss_db_per_km: float | None = None
    rate_kbit_per_s: float | None = None
    systems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Topology:
    """A connected network of named nodes. Node i and link i keep their places in every array.

    Attributes:
        label: "published", "benchmark", "stand-in", "generated", "design" or "user".
        source: where the figures come from, and which of them are uncertain.
        scale: factor by which lengths were multiplied. max_hop_km: largest spacing after `with_trusted_nodes`.

    Raises:
        TopologyError: if it is not connected, a length is not positive, or a node or link occurs twice.
    """

    name: str
    nodes: tuple[str, ...]
    links: tuple[Link, ...]
    label: str = "user"
    source: str = ""
    scale: float = 1.0
    max_hop_km: float | None = None

    def __post_init__(self) -> None:
        _check(self)

    def index(self, node: str) -> int:
        """Place of a node; an unknown one is refused with the known ones."""
        if node not in self.nodes:
            raise TopologyError(f"{self.name} has no node {node!r}; it has: {', '.join(self.nodes)}")
        return self.nodes.index(node)

    @property
    def ends(self) -> np.ndarray:
        """Node numbers of each link, int32 `(links, 2)`."""
        place = {node: i for i, node in enumerate(self.nodes)}
        return np.array([(place[link.a], place[link.b]) for link in self.links], np.int32).reshape(-1, 2)

    @property
    def lengths_km(self) -> np.ndarray:
        """Length of each link, float64 `(links,)`."""
        return np.array([link.length_km for link in self.links], np.float64)

    @property
    def length_matrix_km(self) -> np.ndarray:
        """Lengths between neighbours, float64 `(nodes, nodes)`; inf elsewhere, 0 on the diagonal."""
        matrix = np.full((len(self.nodes), len(self.nodes)), np.inf)
        np.fill_diagonal(matrix, 0.0)
        for (i, j), length in zip(self.ends, self.lengths_km, strict=True):
            matrix[i, j] = matrix[j, i] = length
        return matrix

    def shortest_km(self, a: str, b: str) -> float:
        """Length of the shortest path."""
        return float(networks.shortest_lengths(self.length_matrix_km)[self.index(a), self.index(b)])

    def paths(self, a: str, b: str, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The `count` shortest simple paths: bool `(count, links)` and lengths in km `(count,)`.

        Where fewer exist, the rest are empty rows of length inf.
        """
        on_path = np.zeros((count, len(self.links)), bool)
        lengths = np.full(count, np.inf)
        link_at = {frozenset(pair): i for i, pair in enumerate(self.ends.tolist())}
        found = networks.shortest_paths(self.length_matrix_km, self.index(a), self.index(b), count)
        for row, (length, nodes) in enumerate(found):
            lengths[row] = length
            on_path[row, [link_at[frozenset(pair)] for pair in itertools.pairwise(nodes)]] = True
        return on_path, lengths

    def scaled(self, factor: float) -> Topology:
        """The same network with all lengths multiplied by `factor`."""
        if not (math.isfinite(factor) and factor > 0):
            raise TopologyError(f"a scale must be positive and finite, got {factor}")
        links = tuple(dataclasses.replace(link, length_km=link.length_km * factor) for link in self.links)
        return dataclasses.replace(self, links=links, scale=self.scale * factor)

    def with_trusted_nodes(self, max_hop_km: float = networks.MAX_HOP_KM) -> Topology:
        """Each link cut into equal hops of at most `max_hop_km` by trusted nodes `a~b~1`, `a~b~2`, ...

        Nodes of the network keep their places; the new ones follow. Published rates stay behind: they were measured on
        the whole link.
        """
        if not (math.isfinite(max_hop_km) and max_hop_km > 0):
            raise TopologyError(f"a hop must have a positive, finite length, got {max_hop_km} km")
        nodes, links = list(self.nodes), []
        for link in self.links:
            hops = max(math.ceil(link.length_km / max_hop_km * (1 - 1e-12)), 1)  # a rounding is no hop
            if hops == 1:
                links.append(link)
                continue
            between = [f"{link.a}~{link.b}~{i}" for i in range(1, hops)]
            nodes += between
            chain = [link.a, *between, link.b]
            links += [
                dataclasses.replace(link, a=a, b=b, length_km=link.length_km / hops, rate_kbit_per_s=None, systems=())
                for a, b in itertools.pairwise(chain)
            ]
        return dataclasses.replace(self, nodes=tuple(nodes), links=tuple(links), max_hop_km=max_hop_km)


# ---- the shipped networks -----------------------------------------------------------------------------------------


@functools.cache
def _shipped() -> Mapping[str, Any]:
    text = importlib.resources.files("qkd_gym").joinpath("data", "topologies.json").read_text(encoding="utf-8")
    return json.loads(text)


def names() -> tuple[str, ...]:
    """Names that `load` takes, without their aliases."""
    return tuple(_shipped())


def load(name: str) -> Topology:
    """A shipped network by its name or an alias ("nsfnet" for "nsfnet14").

    Raises:
        TopologyError: for an unknown name, with the known ones.
    """
    for key, entry in _shipped().items():
        if name == key or name in entry.get("aliases", ()):
            return _from_entry(key, entry)
    raise TopologyError(f"no topology is called {name!r}; there are: {', '.join(names())}")


def _from_entry(name: str, entry: Mapping[str, Any]) -> Topology:
    links = merged(Link(**(link | {"systems": tuple(link.get("systems", ()))})) for link in entry["links"])
    return Topology(name, tuple(entry["nodes"]), links, entry["label"], entry["source"])


def merged(links: Iterable[Link]) -> tuple[Link, ...]:
    """Links without loops and parallels: of parallel ones rates add and the shortest length and its loss stay."""
    kept: dict[frozenset[str], Link] = {}
    for link in links:
        pair = frozenset((link.a, link.b))
        if link.a == link.b:
            continue
        if pair not in kept:
            kept[pair] = link
            continue
        shorter, longer = sorted((kept[pair], link), key=lambda one: one.length_km)
        rates = [r for r in (kept[pair].rate_kbit_per_s, link.rate_kbit_per_s) if r is not None]
        kept[pair] = dataclasses.replace(
            shorter,
            a=kept[pair].a,
            b=kept[pair].b,
            loss_db_per_km=shorter.loss_db_per_km if shorter.loss_db_per_km is not None else longer.loss_db_per_km,
            rate_kbit_per_s=math.fsum(rates) if rates else None,
            systems=kept[pair].systems + link.systems,
        )
    return tuple(kept.values())


# ---- a user's own -------------------------------------------------------------------------------------------------


def from_graph(path: str | Path) -> Topology:
    """A network from a file: `.json` or `.graphml`.

    JSON holds `nodes` (names, or objects with an `id`) and `links` (or `edges`): objects with `a` and `b` (or `source`
    and `target`), `length_km` and, if known, `loss_db_per_km` and `rate_kbit_per_s`. That takes what networkx writes as
    node-link data, too. GraphML has the same attributes on its edges, and needs networkx.

    Raises:
        TopologyError: with the file's fault: not readable, a missing or unknown entry, a length that is not positive, a
            link or node that occurs twice, a loop, or parts that are not connected.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".json", ".graphml"):
        raise TopologyError(f"{path}: a topology is a .json or a .graphml file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: cannot be read: {error}") from None
    data = _parse_json(path, text) if suffix == ".json" else _parse_graphml(path, text)
    nodes, links = data.get("nodes"), data.get("links", data.get("edges"))
    if not isinstance(nodes, list) or not isinstance(links, list):
        raise TopologyError(f"{path}: needs a list 'nodes' and a list 'links'")
    try:
        return Topology(
            str(data.get("name") or path.stem),
            tuple(_node(node) for node in nodes),
            tuple(_link(place, link) for place, link in enumerate(links)),
            source=str(data.get("source") or path),
        )
    except TopologyError as error:
        raise TopologyError(f"{path}: {error}") from None


def _parse_json(path: Path, text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise TopologyError(f"{path}: is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise TopologyError(f"{path}: must be a JSON object with 'nodes' and 'links'")
    return data


def _parse_graphml(path: Path, text: str) -> Mapping[str, Any]:
    try:
        import networkx
    except ImportError:
        raise ImportError("reading GraphML needs networkx: pip install 'qkd-gym[render]', or use JSON") from None
    try:
        graph = networkx.parse_graphml(text)
    except Exception as error:  # networkx lets the XML parser's and its own errors through
        raise TopologyError(f"{path}: is not GraphML: {error}") from None
    edges = [{"a": str(a), "b": str(b), **attributes} for a, b, attributes in graph.edges(data=True)]
    return {"nodes": [str(node) for node in graph.nodes], "links": edges}


def _node(node: Any) -> str:
    if isinstance(node, dict):
        if "id" not in node:
            raise TopologyError(f"node {node!r} has no 'id'")
        node = node["id"]
    if isinstance(node, bool) or not isinstance(node, (str, int)):
        raise TopologyError(f"node {node!r} is neither a name nor a number")
    return str(node)


def _link(place: int, link: Any) -> Link:
    if not isinstance(link, dict):
        raise TopologyError(f"link {place}: {link!r} is not an object with 'a', 'b' and 'length_km'")
    ends = [link.get(short, link.get(long)) for short, long in (("a", "source"), ("b", "target"))]
    if any(end is None for end in ends):
        raise TopologyError(f"link {place}: has no 'a' and 'b' (or 'source' and 'target')")
    a, b = (_node(end) for end in ends)
    if "length_km" not in link:
        raise TopologyError(f"link {place} ({a} - {b}): has no 'length_km'")
    loss, rate = (
        None if link.get(key) is None else _number(place, a, b, key, link[key])
        for key in ("loss_db_per_km", "rate_kbit_per_s")
    )
    return Link(a, b, _number(place, a, b, "length_km", link["length_km"]), loss, rate)


def _number(place: int, a: str, b: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TopologyError(f"link {place} ({a} - {b}): {key} = {value!r} is not a number")
    return float(value)


def _check(net: Topology) -> None:
    twice = sorted({node for node in net.nodes if net.nodes.count(node) > 1})
    if twice:
        raise TopologyError(f"node {', '.join(twice)} occurs twice")
    if len(net.nodes) < 2:
        raise TopologyError(f"a network has at least two nodes, got {len(net.nodes)}")
    seen: set[frozenset[str]] = set()
    for link in net.links:
        where = f"link {link.a} - {link.b}"
        unknown = [end for end in (link.a, link.b) if end not in net.nodes]
        if unknown:
            raise TopologyError(f"{where}: {', '.join(unknown)} is not among the nodes")
        if link.a == link.b:
            raise TopologyError(f"{where}: is a loop; drop it")
        if frozenset((link.a, link.b)) in seen:
            raise TopologyError(f"{where}: occurs twice; merge parallel links (`topologies.merged` adds their rates)")
        seen.add(frozenset((link.a, link.b)))
        if not (math.isfinite(link.length_km) and link.length_km > 0):
            raise TopologyError(f"{where}: length_km = {link.length_km} must be positive and finite")
        for key, value in (("loss_db_per_km", link.loss_db_per_km), ("rate_kbit_per_s", link.rate_kbit_per_s)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise TopologyError(f"{where}: {key} = {value} must be finite and not negative")
    reached, edge = {net.nodes[0]}, [net.nodes[0]]
    while edge:
        here = edge.pop()
        for link in net.links:
            if here in (link.a, link.b):
                there = link.b if link.a == here else link.a
                if there not in reached:
                    reached.add(there)
                    edge.append(there)
    lost = [node for node in net.nodes if node not in reached]
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise TopologyError(f"is not connected: no path from {net.nodes[0]} to {shown}")


# ---- made ones ----------------------------------------------------------------------------------------------------


def chain(nodes: int = 6, length_km: float = 40.0) -> Topology:
    """`nodes` in a row, `length_km` apart."""
    links = tuple(Link(str(i), str(i + 1), length_km) for i in range(nodes - 1))
    return Topology(f"chain{nodes}", tuple(str(i) for i in range(nodes)), links, "design", "equal hops in a row")


def ring(nodes: int = 6, length_km: float = 40.0) -> Topology:
    """`nodes`, three or more, in a circle, neighbours `length_km` apart."""
    if nodes < 3:
        raise TopologyError(f"a ring has at least three nodes, got {nodes}")
    links = tuple(Link(str(i), str((i + 1) % nodes), length_km) for i in range(nodes))
    return Topology(f"ring{nodes}", tuple(str(i) for i in range(nodes)), links, "design", "equal hops in a circle")


def generate_metro(
    nodes: int = 46, links: int = 69, seed: int = 46, radius_km: float = 15.0, total_km: float | None = None
) -> Topology:
    """A made-up metropolitan network: points in a disc, joined as ducts would join them.

    Points are uniform in the disc. Links are the minimum spanning tree, then the shortest others of the Gabriel graph
    (no third node inside the circle over a link) between nodes of fewer than four links. Fibre is 1.4 times as long as
    the straight line (design value), rounded to 0.1 km, at least 0.5 km.

    Args:
        links: at least nodes - 1; fewer come out where no candidate is left.
        total_km: scales the disc so that all fibre together is about this long.
    """
    if nodes < 3 or links < nodes - 1:
        raise TopologyError(f"a metro has at least 3 nodes and nodes - 1 links, got {nodes} and {links}")
    rng = np.random.default_rng(seed)
    radius, angle = radius_km * np.sqrt(rng.uniform(size=nodes)), 2 * np.pi * rng.uniform(size=nodes)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    gabriel = [
        (i, j)
        for i in range(nodes)
        for j in range(i + 1, nodes)
        if all(squared[i, k] + squared[j, k] >= squared[i, j] for k in range(nodes) if k not in (i, j))
    ]
    gabriel.sort(key=lambda pair: squared[pair])
    part, chosen, degree = list(range(nodes)), [], [0] * nodes
    for i, j in gabriel:  # Kruskal; the Gabriel graph contains the spanning tree
        if part[i] != part[j]:
            part = [part[i] if p == part[j] else p for p in part]
            chosen.append((i, j))
            degree[i], degree[j] = degree[i] + 1, degree[j] + 1
    for i, j in gabriel:
        if len(chosen) < links and (i, j) not in chosen and max(degree[i], degree[j]) < 4:
            chosen.append((i, j))
            degree[i], degree[j] = degree[i] + 1, degree[j] + 1
    fibre = 1.4 * np.sqrt([squared[pair] for pair in chosen])
    fibre = fibre if total_km is None else fibre * (total_km / fibre.sum())
    return Topology(
        f"metro{nodes}",
        tuple(str(i) for i in range(nodes)),
        tuple(
            Link(str(i), str(j), max(round(float(length), 1), 0.5))
            for (i, j), length in zip(chosen, fibre, strict=True)
        ),
        "generated",
        f"generate_metro(nodes={nodes}, links={links}, seed={seed}, radius_km={radius_km}, total_km={total_km})",
    )

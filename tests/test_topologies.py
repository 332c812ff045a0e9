"""Shipped networks hold what they say; a user's own is checked at the door."""

import json
import subprocess
import sys
from pathlib import Path

import networkx
import numpy as np
import pytest

from qkd_gym import topologies
from qkd_gym.topologies import Link, Topology, TopologyError

#: Nodes, links after merging, and kilometres of fibre.
SHIPPED = {
    "chain6": (6, 5, 200),
    "ring6": (6, 6, 240),
    "secoqc2008": (6, 7, 177.28),
    "tokyo2010": (4, 3, 82),
    "cambridge2019": (3, 3, 25.4),
    "madqci": (9, 13, 130),
    "beijing_shanghai": (32, 31, 2032),
    "nsfnet14": (14, 21, 22700),
    "usnet24": (24, 43, 42700),
    "metro46": (46, 69, 309.1),
}


@pytest.mark.parametrize("name", topologies.names())
def test_shipped_networks(name):
    net = topologies.load(name)
    nodes, links, fibre = SHIPPED[name]
    assert (len(net.nodes), len(net.links)) == (nodes, links)
    assert net.lengths_km.sum() == pytest.approx(fibre, abs=0.3)
    assert len(net.source) > 20 and net.label in ("published", "benchmark", "stand-in", "generated", "design")


def test_aliases_and_unknown_names():
    assert topologies.load("nsfnet") == topologies.load("nsfnet14")
    with pytest.raises(TopologyError, match=r"arpanet.*nsfnet14"):
        topologies.load("arpanet")


def test_parallel_links_are_merged_and_loops_dropped():
    tokyo = topologies.load("tokyo")
    (merged,) = [link for link in tokyo.links if {link.a, link.b} == {"Koganei", "Otemachi"}]
    assert merged.rate_kbit_per_s == pytest.approx(81.7 + 2.1 + 304.0)
    assert merged.length_km == 45 and len(merged.systems) == 3 and merged.loss_db_per_km == 0.3
    assert all(link.a != link.b for link in tokyo.links)
    (vienna,) = [link for link in topologies.load("secoqc").links if {link.a, link.b} == {"SIE", "ERD"}]
    assert vienna.rate_kbit_per_s == pytest.approx(3.5) and vienna.length_km == 16


def test_generated_networks_come_out_of_their_generator():
    made = topologies.generate_metro()
    shipped = topologies.load("metro")
    assert shipped.label == "generated" and made.links == shipped.links and made.nodes == shipped.nodes
    stand_in = topologies.generate_metro(nodes=9, links=13, seed=4, radius_km=15.0, total_km=130.0)
    assert stand_in.links == topologies.load("madrid").links
    assert topologies.chain().links == topologies.load("chain").links
    assert topologies.ring().links == topologies.load("ring").links
    degree = np.bincount(made.ends.ravel())
    assert degree.max() <= 8 and degree.min() >= 1
    assert topologies.generate_metro(seed=1).links != made.links


def test_scaling_and_trusted_nodes():
    net = topologies.load("nsfnet")
    small = net.scaled(1 / 20)
    assert small.scale == 1 / 20 and small.lengths_km.max() == pytest.approx(140)
    dense = net.with_trusted_nodes(80.0)
    assert dense.max_hop_km == 80 and dense.lengths_km.max() <= 80 and dense.nodes[:14] == net.nodes
    assert dense.lengths_km.sum() == pytest.approx(net.lengths_km.sum())
    assert dense.shortest_km("1", "14") == pytest.approx(net.shortest_km("1", "14"))
    assert topologies.load("metro").with_trusted_nodes().links == topologies.load("metro").links
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(TopologyError, match="positive"):
            net.scaled(bad)
        with pytest.raises(TopologyError, match="positive"):
            net.with_trusted_nodes(bad)


def test_paths_as_links():
    net = topologies.load("ring")
    on_path, lengths = net.paths("0", "2", 4)
    np.testing.assert_array_equal(lengths, [80, 160, np.inf, np.inf])
    np.testing.assert_array_equal(on_path.sum(-1), [2, 4, 0, 0])
    np.testing.assert_array_equal(on_path[0] ^ on_path[1], np.ones(6, bool))
    with pytest.raises(TopologyError, match="no node 'x'"):
        net.paths("x", "0")


# ---- a user's own -------------------------------------------------------------------------------------------------

GOOD = {
    "nodes": ["a", {"id": "b"}, 3],
    "links": [
        {"a": "a", "b": "b", "length_km": 10, "loss_db_per_km": 0.25},
        {"source": "b", "target": 3, "length_km": 20.5, "rate_kbit_per_s": 7},
    ],
}


def write(tmp_path, data, name="net.json"):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_json(tmp_path):
    net = topologies.from_graph(write(tmp_path, GOOD))
    assert net.nodes == ("a", "b", "3") and net.name == "net" and net.label == "user"
    assert net.links == (Link("a", "b", 10.0, 0.25), Link("b", "3", 20.5, None, 7.0))


def test_networkx_files(tmp_path):
    graph = networkx.Graph()
    graph.add_edge("a", "b", length_km=10.0)
    graph.add_edge("b", "c", length_km=12)
    networkx.write_graphml(graph, tmp_path / "net.graphml")
    as_json = write(tmp_path, networkx.node_link_data(graph, edges="links"))
    for path in (tmp_path / "net.graphml", as_json):
        net = topologies.from_graph(path)
        assert net.nodes == ("a", "b", "c") and net.shortest_km("a", "c") == 22


def link(**changes):
    entry = {"a": "a", "b": "b", "length_km": 10} | changes
    return {key: value for key, value in entry.items() if value is not None}


FAULTS = {
    "no links": ({"nodes": ["a", "b"]}, "a list 'links'"),
    "not an object": ([1], "JSON object"),
    "broken": ("{", "not JSON"),
    "one node": ({"nodes": ["a"], "links": []}, "at least two nodes"),
    "node twice": ({"nodes": ["a", "b", "a"], "links": [link()]}, "node a occurs twice"),
    "odd node": ({"nodes": ["a", None], "links": [link()]}, "neither a name"),
    "unknown end": ({"nodes": ["a", "c"], "links": [link()]}, "b is not among the nodes"),
    "no end": ({"nodes": ["a", "b"], "links": [link(b=None)]}, "no 'a' and 'b'"),
    "loop": ({"nodes": ["a", "b"], "links": [link(), link(b="a")]}, "is a loop"),
    "link twice": ({"nodes": ["a", "b"], "links": [link(), link(a="b", b="a")]}, "occurs twice; merge"),
    "no length": ({"nodes": ["a", "b"], "links": [link(length_km=None)]}, "no 'length_km'"),
    "a word": ({"nodes": ["a", "b"], "links": [link(length_km="far")]}, "'far' is not a number"),
    "zero": ({"nodes": ["a", "b"], "links": [link(length_km=0)]}, "positive and finite"),
    "infinite": (
        '{"nodes": ["a", "b"], "links": [{"a": "a", "b": "b", "length_km": Infinity}]}',
        "positive and finite",
    ),
    "negative loss": ({"nodes": ["a", "b"], "links": [link(loss_db_per_km=-1)]}, "loss_db_per_km = -1"),
    "link is a list": ({"nodes": ["a", "b"], "links": [["a", "b", 1]]}, "is not an object"),
    "in two parts": (
        {"nodes": list("abcd"), "links": [link(), link(a="c", b="d")]},
        "not connected: no path from a to c, d",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_refused_with_its_reason(name, tmp_path):
    data, reason = FAULTS[name]
    path = write(tmp_path, data)
    with pytest.raises(TopologyError, match=reason) as caught:
        topologies.from_graph(path)
    assert str(path) in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(TopologyError, match="cannot be read"):
        topologies.from_graph(tmp_path / "absent.json")
    with pytest.raises(TopologyError, match=r"\.json or a \.graphml"):
        topologies.from_graph(tmp_path / "net.csv")
    with pytest.raises(TopologyError, match="not GraphML"):
        topologies.from_graph(write(tmp_path, "<graphml>", "net.graphml"))
    with pytest.raises(TopologyError, match="no 'length_km'"):
        graph = networkx.path_graph(3)
        networkx.write_graphml(graph, tmp_path / "bare.graphml")
        topologies.from_graph(tmp_path / "bare.graphml")


def test_generators_refuse_the_impossible():
    with pytest.raises(TopologyError, match="three nodes"):
        topologies.ring(2)
    with pytest.raises(TopologyError, match="nodes - 1"):
        topologies.generate_metro(10, 5)
    with pytest.raises(TopologyError, match="positive"):
        topologies.chain(3, -1.0)
    with pytest.raises(TopologyError, match="not connected"):
        Topology("x", ("a", "b", "c"), (Link("a", "b", 1.0),))


def test_the_data_is_package_data(tmp_path):
    """setuptools, asked with the project's own settings, lists the file among what a wheel holds."""
    root = Path(__file__).parents[1]
    code = (
        "from setuptools import Distribution\n"
        "d = Distribution(); d.parse_config_files(); d.script_name = 'setup.py'\n"
        "b = d.get_command_obj('build_py'); b.ensure_finalized()\n"
        "print(*[f'{s}/{f}' for _, s, _, fs in b.data_files for f in fs], sep='\\n')"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert any(line.endswith("data/topologies.json") for line in out.stdout.splitlines())

"""Pools, relays and paths: conservation, brute force, networkx."""

import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest

from qkd_gym import topologies
from qkd_gym.physics import networks

# ---- pools --------------------------------------------------------------------------------------------------------


def test_pool_conserves_every_bit(dtype):
    """Whole bits below 2^24: generated = stored + served + spilled, exactly, over random play."""
    rng = np.random.default_rng(0)
    generated, demand = (rng.integers(0, 900, (500, 8)).astype(dtype) for _ in range(2))

    @jax.jit
    def play(generated, demand):
        def step(level, flows):
            after = networks.pool_step(level, *flows, 2000.0, 300.0)
            return after.level_bits, after

        return jax.lax.scan(step, jnp.zeros_like(generated[0]), (generated, demand))

    level, history = play(generated, demand)
    np.testing.assert_array_equal(generated.sum(0), level + history.served_bits.sum(0) + history.spilled_bits.sum(0))
    np.testing.assert_array_equal(demand, history.served_bits + history.dropped_bits)
    assert np.all(history.level_bits >= 0) and np.all(history.level_bits <= 2000)
    served = np.asarray(history.served_bits) > 0
    assert served.any() and not served.all() and np.asarray(history.spilled_bits).any()
    assert np.all(np.asarray(history.level_bits)[served] >= 300)  # the reserve is never served


def test_pool_by_hand(dtype):
    after = networks.pool_step(dtype.type(90), 20, 50, 100, 50)
    assert float(after.level_bits) == float(after.served_bits) == 50
    assert float(after.dropped_bits) == 0 and float(after.spilled_bits) == 10
    after = networks.pool_step(dtype.type(90), 20, 51, 100, 50)
    assert float(after.served_bits) == 0 and float(after.dropped_bits) == 51 and float(after.level_bits) == 100


def test_duplex_buffers_do_not_lend_to_each_other(dtype):
    pool = networks.DuplexPool(dtype.type(10), dtype.type(100))
    after, sent, received = networks.duplex_step(pool, dtype.type(20), 50, 50)
    assert float(sent.served_bits) == 0 and float(received.served_bits) == 50
    assert float(after.encrypt_bits) == 20 and float(after.decrypt_bits) == 60
    mirrored, *_ = networks.duplex_step(pool.other_end(), dtype.type(20), 50, 50)
    assert float(mirrored.encrypt_bits) == 60 and float(mirrored.decrypt_bits) == 20


# ---- relays -------------------------------------------------------------------------------------------------------


def test_relay_burns_on_every_hop_or_not_at_all(dtype):
    level = np.array([100, 30, 80, 5], dtype)
    path = np.array([True, True, True, False])
    after = networks.relay(level, path, 30)
    np.testing.assert_array_equal(after.level_bits, [70, 0, 50, 5])
    assert float(after.delivered_bits) == 30 and float(after.burnt_bits) == 90
    refused = networks.relay(level, path, 30, 1.0)
    np.testing.assert_array_equal(refused.level_bits, level)
    assert float(refused.delivered_bits) == float(refused.burnt_bits) == 0
    assert float(networks.available_bits(level, path)) == 30
    assert float(networks.available_bits(level, path, 40.0)) == 0


def test_relay_broadcasts_and_conserves(dtype):
    rng = np.random.default_rng(2)
    level = rng.integers(0, 100, (50, 6)).astype(dtype)
    paths = rng.uniform(size=(50, 6)) < 0.4
    after = jax.jit(networks.relay)(level, paths, dtype.type(40))
    able = np.where(paths, level, np.inf).min(-1) >= 40
    np.testing.assert_array_equal(np.asarray(after.delivered_bits), np.where(able, 40, 0))
    np.testing.assert_array_equal(level.sum(-1), after.level_bits.sum(-1) + after.burnt_bits)
    np.testing.assert_array_equal(np.asarray(networks.available_bits(level, paths)) >= 40, able)


def test_shares_pay_on_all_paths_and_twice_on_a_common_link(dtype):
    level = np.array([50, 50, 50, 50], dtype)
    paths = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    after = networks.relay_shares(level, paths, 25)
    np.testing.assert_array_equal(after.level_bits, [0, 25, 25, 50])
    assert float(after.delivered_bits) == 25 and float(after.burnt_bits) == 100
    assert float(networks.relay_shares(level, paths, 26).delivered_bits) == 0


def test_announcements_carry_the_first_key_to_the_end():
    keys = np.random.default_rng(1).integers(0, 2, (5, 64)).astype(bool)
    public = np.asarray(networks.relay_announcements(keys))
    assert public.shape == (4, 64)
    np.testing.assert_array_equal(keys[-1] ^ np.bitwise_xor.reduce(public), keys[0])


def test_latency_and_consumption(dtype):
    length = np.array([50, 100, 30], dtype)
    got = networks.path_latency_s(length, np.array([True, True, False]), 1e-3)
    assert float(got) == pytest.approx(150e3 * 1.468 / 299_792_458 + 1e-3, rel=1e-6)
    assert float(networks.path_latency_s(length, np.zeros(3, bool))) == 0
    assert float(networks.cipher_bits_per_s(60.0)) == pytest.approx(256 / 60)
    assert float(networks.one_time_pad_bits(1e6)) == 1e6


def test_trusted_hops(dtype):
    length = np.array([1, 80, 81, 240, 2800], dtype)
    np.testing.assert_array_equal(networks.trusted_hops(length), [1, 1, 2, 3, 35])
    assert float(networks.trusted_hops(dtype.type(0.3), dtype.type(0.1))) == 3  # 0.3/0.1 is a rounding off 3


# ---- paths --------------------------------------------------------------------------------------------------------


def as_graph(net):
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(net.nodes)))
    graph.add_weighted_edges_from(
        (int(i), int(j), length) for (i, j), length in zip(net.ends, net.lengths_km, strict=True)
    )
    return graph


@pytest.mark.parametrize("name", ["nsfnet", "usnet", "metro", "ring"])
def test_paths_agree_with_networkx(name):
    net = topologies.load(name)
    graph, matrix = as_graph(net), net.length_matrix_km
    lengths = dict(networkx.all_pairs_dijkstra_path_length(graph))
    want = np.array([[lengths[i][j] for j in range(len(net.nodes))] for i in range(len(net.nodes))])
    np.testing.assert_allclose(networks.shortest_lengths(matrix), want, rtol=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(3):
        a, b = (int(x) for x in rng.choice(len(net.nodes), 2, replace=False))
        found = networks.shortest_paths(matrix, a, b, 12)
        reference = []
        for nodes in networkx.shortest_simple_paths(graph, a, b, weight="weight"):
            reference.append(networkx.path_weight(graph, nodes, "weight"))
            if len(reference) == 12:
                break
        np.testing.assert_allclose([length for length, _ in found], reference, rtol=1e-12)
        assert len({nodes for _, nodes in found}) == len(found)
        for length, nodes in found:
            assert nodes[0] == a and nodes[-1] == b and len(set(nodes)) == len(nodes)
            assert networkx.path_weight(graph, nodes, "weight") == pytest.approx(length)


def test_paths_are_found_where_parts_of_the_network_lead_nowhere():
    """The mesh behind node 0 holds 10^15 paths that start there, and none that comes back to the leaves."""
    mesh, nodes = 18, 20
    matrix = np.full((nodes, nodes), np.inf)
    matrix[:mesh, :mesh] = 1.0
    matrix[18, 0] = matrix[0, 18] = matrix[19, 18] = matrix[18, 19] = 1.0
    np.fill_diagonal(matrix, 0.0)
    assert networks.shortest_paths(matrix, 19, 0, 5) == [(2.0, (19, 18, 0))]
    assert networks.shortest_paths(matrix, 0, 18, 2) == [(1.0, (0, 18))]


def test_bad_matrices_and_pairs_are_refused():
    good = np.array([[0, 1.0], [1.0, 0]])
    with pytest.raises(ValueError, match="square"):
        networks.shortest_lengths(np.ones((2, 3)))
    with pytest.raises(ValueError, match="symmetric and positive"):
        networks.shortest_lengths(np.array([[0, 1.0], [2.0, 0]]))
    with pytest.raises(ValueError, match="two different nodes"):
        networks.shortest_paths(good, 0, 0, 1)
    apart = np.array([[0, np.inf], [np.inf, 0]])
    assert networks.shortest_paths(apart, 0, 1, 3) == []

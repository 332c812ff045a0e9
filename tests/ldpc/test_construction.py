"""Codes: the degrees asked for, every check and column used, no short cycles, and what puncturing leaves decodable."""

import numpy as np
import pytest

from benchmarks.ldpc import construction, density_evolution
from benchmarks.ldpc.construction import Code

EDGES = {2: 0.2, 3: 0.35, 8: 0.45}


@pytest.fixture(scope="module")
def plain() -> Code:
    return construction.progressive_edge_growth(construction.degree_sequence(EDGES, 600), 300, 1)


@pytest.fixture(scope="module")
def lifted() -> Code:
    return construction.quasi_cyclic(construction.degree_sequence(EDGES, 24), 12, 61, 1)


def dense(code: Code) -> np.ndarray:
    matrix = np.zeros((code.checks, code.variables), int)
    np.add.at(matrix, (code.check_index, code.variable_index), 1)
    return matrix


def has_four_cycle(matrix: np.ndarray) -> bool:
    shared = matrix.T.astype(float) @ matrix
    return bool((shared - np.diag(np.diag(shared)) > 1).any())


def has_six_cycle(matrix: np.ndarray) -> bool:
    """Without 4-cycles: whether more triangles of checks exist than single variables make."""
    meet = matrix.astype(float) @ matrix.T
    meet -= np.diag(np.diag(meet))
    degrees = matrix.sum(0)
    return bool(np.trace(meet @ meet @ meet) > (degrees * (degrees - 1) * (degrees - 2)).sum())


@pytest.mark.parametrize("which", ["plain", "lifted"])
def test_degrees_are_those_asked_for(which: str, request: pytest.FixtureRequest) -> None:
    code = request.getfixturevalue(which)
    wanted = np.repeat(construction.degree_sequence(EDGES, code.variables // code.lift), code.lift)
    np.testing.assert_array_equal(code.variable_degrees, wanted)
    assert code.check_degrees.min() >= code.check_degrees.mean() - 2
    assert code.check_degrees.max() <= code.check_degrees.mean() + 2
    assert dense(code).max() == 1, "no double edges"
    assert code.rate == 0.5


def test_girth_is_that_of_the_matrix(plain: Code, lifted: Code) -> None:
    for code in (plain, lifted):
        matrix = dense(code)
        found = construction.girth(code)
        assert found >= 6
        assert not has_four_cycle(matrix)
        assert has_six_cycle(matrix) == (found == 6)


def test_girth_finds_planted_cycles() -> None:
    for half in (2, 3, 4, 5):
        ring = np.arange(half)
        checks = np.stack([ring, (ring + 1) % half], 1).ravel()
        assert construction.girth(Code(checks, np.repeat(ring, 2), half, half)) == 2 * half


def test_circulants_turn(lifted: Code) -> None:
    matrix = dense(lifted)
    z = lifted.lift
    blocks = matrix.reshape(lifted.checks // z, z, lifted.variables // z, z)
    np.testing.assert_array_equal(blocks, np.roll(blocks, (1, 1), (1, 3)))


def test_seed_decides() -> None:
    degrees = construction.degree_sequence(EDGES, 100)
    a, b, c = (construction.progressive_edge_growth(degrees, 50, seed).check_index for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_degree_two_columns_close_no_cycle_while_they_are_fewer_than_checks() -> None:
    code = construction.progressive_edge_growth(np.full(199, 2), 200, 3)
    assert construction.girth(code, most=1000) == 1000


def test_first_punctured_bits_share_no_check(plain: Code) -> None:
    order = construction.puncturing_order(plain, 5)
    assert sorted(order) == list(range(plain.variables))
    assert dense(plain)[:, order[:60]].sum(1).max() == 1


def test_syndrome_is_the_matrix_times_the_word(plain: Code) -> None:
    word = np.random.default_rng(0).integers(0, 2, plain.variables)
    np.testing.assert_array_equal(plain.syndrome(word), dense(plain) @ word % 2)


def test_density_evolution_finds_the_known_threshold_of_the_regular_code() -> None:
    # Richardson, Urbanke, IEEE Trans. Inf. Theory 47, 599 (2001): 0.084 for (3, 6) on this channel
    found = density_evolution.threshold({3: 1.0}, {6: 1.0}, 0.07, 0.1, density_evolution.Grid(), 500, 6)
    assert found == pytest.approx(0.084, abs=0.001)


def test_shipped_degrees_keep_their_rate() -> None:
    for rate, edges in density_evolution.load().items():
        mean = 1 / sum(x / d for d, x in edges.items())
        checks = density_evolution.check_edges(mean / (1 - rate))
        assert 1 - sum(x / d for d, x in checks.items()) * mean == pytest.approx(rate, abs=1e-3)
        assert sum(edges.values()) == pytest.approx(1, abs=1e-3)

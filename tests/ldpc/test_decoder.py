"""The decoder against exact marginals, its bookkeeping, and the threshold of a long regular code."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ldpc import construction, decoder
from benchmarks.ldpc.construction import Code

SHORT = construction.progressive_edge_growth(construction.degree_sequence({2: 0.3, 3: 0.7}, 120), 60, 2)


def _tree() -> Code:
    # three checks over seven bits without a cycle: here sum-product is exact
    checks, variables = [0, 0, 1, 1, 2, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 6, 6]
    return Code(np.array(checks), np.array(variables), 3, 7)


def test_beliefs_on_a_tree_are_the_exact_marginals() -> None:
    code, rng = _tree(), np.random.default_rng(4)
    prior = rng.normal(0, 1.5, (7, 5)).astype(np.float32)
    words = np.array(list(itertools.product((0, 1), repeat=7)))
    alice = rng.integers(0, 2, (7, 5))
    syndromes = np.stack([code.syndrome(w) for w in alice.T], 1)
    g = decoder.graph(code)
    sign = jnp.asarray(np.where(syndromes, -1.0, 1.0), jnp.float32)
    now = decoder.start(g, jnp.asarray(prior), jnp.asarray(alice, bool), sign)
    step = jax.jit(decoder._iterate)
    for _ in range(4):
        now = step(g, now)
    all_syndromes = np.stack([code.syndrome(w) for w in words])
    for frame in range(5):
        fits = words[(all_syndromes == syndromes[:, frame]).all(1)]
        weight = np.exp(-(fits * prior[:, frame].astype(float)).sum(1))
        one = (fits * weight[:, None]).sum(0) / weight.sum()
        exact = np.log((1 - one) / one)
        np.testing.assert_allclose(now.belief[:-1, frame], exact, rtol=1e-4, atol=1e-4)


def test_decoder_rarely_does_worse_than_exhaustive_search() -> None:
    code = construction.progressive_edge_growth(np.full(16, 3), 10, 1)
    words = np.array(list(itertools.product((0, 1), repeat=16)))
    all_syndromes = (words @ _dense(code).T) % 2
    point = decoder.Point(0.04, np.zeros(16, int), 9)
    frames = 300
    g = decoder.graph(code)
    drawn = jax.jit(decoder.draw)(g, jax.random.key(9), jnp.arange(frames), jnp.float32(0.04), jnp.zeros(16, jnp.int32))
    word, seen = np.asarray(drawn.word).T, np.asarray(drawn.prior[:-1] < 0).T
    key = 1 << np.arange(10)
    of_syndrome = {s: words[(all_syndromes @ key) == s] for s in range(1 << 10)}
    best_failures = 0
    for a, b in zip(word.astype(int), seen.astype(int), strict=True):
        coset = of_syndrome[int(code.syndrome(a) @ key)]
        best_failures += not np.array_equal(coset[np.argmin((coset ^ b).sum(1))], a)
    found = list(itertools.islice(decoder.outcomes(g, point), frames))
    failures = sum(o.failed for o in found)
    assert failures >= best_failures - 4, "nothing beats the most likely word, but for ties"
    assert failures <= best_failures + 0.1 * frames
    assert failures < frames / 2


def _dense(code: Code) -> np.ndarray:
    matrix = np.zeros((code.checks, code.variables), int)
    matrix[code.check_index, code.variable_index] = 1
    return matrix


def test_syndrome_holds_on_success_and_the_word_is_told_from_others() -> None:
    g = decoder.graph(SHORT)
    kind = jnp.zeros(120, jnp.int32)
    now = jax.jit(decoder.draw)(g, jax.random.key(3), jnp.arange(64), jnp.float32(0.06), kind)
    for _ in range(14):
        before, now = now, decoder.run(g, now)
    assert 0 < int(now.finished.sum()) < 64, "some succeed, some fail"
    word = np.asarray(now.word).T
    for frame in range(64):
        np.testing.assert_array_equal(SHORT.syndrome(word[frame]), np.asarray(now.syndrome[:, frame] < 0))
    assert (np.asarray(before.finished) == np.asarray(now.finished)).all()
    for frame in np.flatnonzero(np.asarray(now.finished & ~now.wrong)):
        assert int(now.iterations[frame]) <= decoder.MAX_ITERATIONS


def test_undetected_errors_are_counted() -> None:
    # a code of two identical columns of degree 2: the words differ by both, and no syndrome tells
    code = Code(np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2]), 2, 3)
    point = decoder.Point(0.25, np.zeros(3, int), 5)
    found = list(itertools.islice(decoder.outcomes(decoder.graph(code), point), 200))
    undetected = sum(o.wrong for o in found)
    assert undetected > 10
    assert all(o.found for o in found if o.wrong)
    assert all(o.failed for o in found if o.wrong)


def test_outcomes_do_not_depend_on_the_batch_and_come_in_order() -> None:
    g, point = decoder.graph(SHORT), decoder.Point(0.05, np.zeros(120, int), 11)
    a = list(itertools.islice(decoder.outcomes(g, point, batch=32), 60))
    b = list(itertools.islice(decoder.outcomes(g, point, batch=8), 60))
    assert a == b
    assert [o.frame for o in a] == list(range(60))


def test_punctured_bits_hurt_and_shortened_bits_help() -> None:
    g = decoder.graph(SHORT)
    order = construction.puncturing_order(SHORT, 0)
    failures = {}
    for name, number in (("sent", 0), ("punctured", 1), ("shortened", 2)):
        kind = np.zeros(120, int)
        kind[order[:20]] = number
        found = itertools.islice(decoder.outcomes(g, decoder.Point(0.05, kind, 2)), 300)
        failures[name] = sum(o.failed for o in found)
    assert failures["shortened"] < failures["sent"] < failures["punctured"]


def test_unsorted_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend in degree"):
        decoder.graph(Code(np.array([0, 1, 0]), np.array([0, 0, 1]), 2, 2))


def test_long_regular_code_works_below_its_threshold_and_not_above() -> None:
    # density evolution: 0.084 for (3, 6); 20,000 bits and 100 iterations stay a little below
    g = decoder.graph(construction.quasi_cyclic(np.full(20, 3), 10, 1000, 1))
    kind = np.zeros(20_000, int)
    below, above = (
        [o.failed for o in itertools.islice(decoder.outcomes(g, decoder.Point(q, kind, 1), batch=8), 8)]
        for q in (0.077, 0.088)
    )
    assert not any(below)
    assert all(above)

"""The noise of a step and the count samplers, against exact distributions at 1e5 draws.

Seeds are fixed, so the outcome is too; the thresholds are what an exact sampler passes with probability 0.9999 or more.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qkd_gym.physics import sampling

DRAWS = 100_000
MEANS = (0.05, 0.3, 1.0, 2.5, 3.99, 4.01, 5.0, 8.0, 15.0, 31.0, 100.0, 1e3, 1e4, 1e6)
BINOMIALS = (
    (3, 0.3),
    (10, 0.5),
    (17, 0.45),
    (40, 0.1),
    (1000, 0.03),
    (5000, 0.25),
    (200, 0.9),
    (10**6, 0.02),
    (10**9, 1e-8),
)


@pytest.fixture(scope="module")
def uniforms():
    """1e5 uniforms, each from a key of its own, as steps of many environments would draw them."""
    keys = jax.random.split(jax.random.key(7), DRAWS)
    return np.asarray(jax.jit(jax.vmap(lambda k: sampling.step_noise(k, 0, 1)[1][0]))(keys))


POISSON, BINOMIAL = jax.jit(sampling.poisson), jax.jit(sampling.binomial)


def chi_square_p(draws, law, low=10.0):
    """p-value of the draws under a discrete law; neighbouring counts share a bin until 10 draws are expected of it."""
    size = len(draws)
    first, last = int(law.ppf(1e-6)), int(law.ppf(1 - 1e-6))
    width = max(1, (last - first) // 200)
    edges = np.arange(first, last + width, width)
    expected = size * np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
    observed = np.bincount(np.searchsorted(edges, draws, side="left"), minlength=len(edges) + 1)
    bins_expected, bins_observed, e, o = [], [], 0.0, 0
    for x, y in zip(expected, observed, strict=True):
        e, o = e + x, o + y
        if e >= low:
            bins_expected.append(e)
            bins_observed.append(o)
            e, o = 0.0, 0
    bins_expected[-1] += e
    bins_observed[-1] += o
    e, o = np.array(bins_expected), np.array(bins_observed)
    return stats.chi2.sf(np.sum((o - e) ** 2 / e), len(e) - 1)


def check_law(draws, law):
    """Mean, variance, skewness, 4-sigma tails and chi-square of draws against an exact law."""
    draws = np.asarray(draws, np.float64)
    assert np.all(draws == np.floor(draws)) and draws.min() >= 0
    mean, variance, skew, excess = (float(x) for x in law.stats("mvsk"))
    sigma, n = np.sqrt(variance), len(draws)
    assert abs(draws.mean() - mean) < 4.5 * sigma / np.sqrt(n)
    assert abs(draws.var() - variance) < 4.5 * variance * np.sqrt((2 + excess) / n)
    z = (draws - mean) / sigma
    # the standard error of the third moment, from the exact law by simulation-free bootstrap of moments up to six
    sixth = law.expect(lambda x: ((x - mean) / sigma) ** 6) if mean < 2000 else 15.0
    assert abs(np.mean(z**3) - skew) < 4.5 * np.sqrt(max(sixth - skew**2, 1) / n)
    for observed, probability in (
        (np.sum(draws > mean + 4 * sigma), law.sf(np.floor(mean + 4 * sigma))),
        (np.sum(draws < mean - 4 * sigma), law.cdf(np.ceil(mean - 4 * sigma) - 1)),
    ):
        assert stats.poisson.ppf(1e-5, n * probability) <= observed <= stats.poisson.ppf(1 - 1e-5, n * probability)
    if mean < 2e7:
        assert chi_square_p(draws, law) > 1e-4


@pytest.mark.parametrize("mean", MEANS)
def test_poisson_law(mean, uniforms):
    check_law(POISSON(np.float32(mean), uniforms), stats.poisson(float(np.float32(mean))))


@pytest.mark.parametrize(("trials", "probability"), BINOMIALS)
def test_binomial_law(trials, probability, uniforms):
    p = np.float32(probability)
    draws = BINOMIAL(np.float32(trials), p, uniforms)
    assert float(jnp.max(draws)) <= trials
    check_law(draws, stats.binom(trials, float(p)))


def test_the_chi_square_can_fail(uniforms):
    """A plain normal with continuity correction is told from a Poisson law of mean 31 at these 1e5 draws."""
    plain = np.maximum(np.floor(31 + np.sqrt(31) * stats.norm.isf(uniforms.astype(np.float64)) + 0.5), 0)
    assert chi_square_p(plain, stats.poisson(31)) < 1e-10


def test_huge_counts(uniforms):
    """1e10 clicks a step: float32 holds them to 6e-8, the fluctuation (1e-5) survives."""
    draws = np.asarray(POISSON(np.float32(1e10), uniforms), np.float64)
    assert abs(draws.mean() / 1e10 - 1) < 4.5e-5 / np.sqrt(DRAWS) + 6e-8
    assert draws.std() == pytest.approx(1e5, rel=0.02)
    errors = np.asarray(BINOMIAL(np.float32(1e10), np.float32(0.02), uniforms), np.float64)
    assert errors.mean() == pytest.approx(2e8, rel=1e-6) and errors.std() == pytest.approx(np.sqrt(1.96e8), rel=0.02)


def test_edges(uniforms):
    u = uniforms
    assert not np.any(POISSON(np.float32(0.0), u))
    assert not np.any(BINOMIAL(np.float32(0.0), np.float32(0.3), u))
    assert not np.any(BINOMIAL(np.float32(1e6), np.float32(0.0), u))
    assert np.all(BINOMIAL(np.float32(1e6), np.float32(1.0), u) == 1e6)
    assert np.all(BINOMIAL(np.float32(5.0), np.float32(0.7), u) <= 5)
    extremes = jnp.array([2.0**-32, 0.5, 1 - 2.0**-24], jnp.float32)
    means = jnp.array([[1e-9], [0.1], [3.999], [4.0], [50.0], [1e12]], jnp.float32)
    counts = POISSON(means, extremes[None])
    assert np.all(np.isfinite(counts)) and np.all(np.diff(counts, axis=1) <= 0)


def test_rare_events_keep_their_probability():
    """P(X >= 1) of a mean of 1e-8 is 1e-8: the uniform is finest where survival functions are small."""
    u = jnp.array([0.9e-8, 1.1e-8], jnp.float32)
    np.testing.assert_array_equal(POISSON(jnp.float32(1e-8), u), [1, 0])


def test_never_more_errors_than_clicks():
    rng = np.random.default_rng(3)
    clicks_mean = 10 ** rng.uniform(-2, 8, DRAWS)
    u = rng.uniform(size=(2, DRAWS)).astype(np.float32)
    clicks, errors = jax.jit(sampling.clicks_and_errors)(clicks_mean, clicks_mean * rng.uniform(0, 1, DRAWS), *u)
    assert np.all(errors <= clicks) and np.all(errors >= 0)
    few = jax.jit(sampling.clicks_and_errors)(np.full(DRAWS, 7.0), np.full(DRAWS, 2.0), *u)
    check_law(few[0], stats.poisson(7.0))
    check_law(few[1], stats.poisson(2.0))


# ---- the noise itself ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def block():
    """Noise of 20 000 consecutive keys: normals (keys, 8) and uniforms (keys, 8)."""
    keys = jax.random.split(jax.random.key(11), 20_000)
    normals, uniforms = jax.jit(jax.vmap(lambda k: sampling.step_noise(k, 8, 8)))(keys)
    return tuple(np.stack(columns, axis=-1).astype(np.float64) for columns in (normals, uniforms))


def test_normals_are_normal(block):
    z = block[0].ravel()
    n = z.size
    assert abs(z.mean()) < 4.5 / np.sqrt(n)
    assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 4.5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 4.5 * np.sqrt(96 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    tail = n * stats.norm.sf(4) * 2
    assert stats.poisson.ppf(1e-5, tail) <= np.sum(np.abs(z) > 4) <= stats.poisson.ppf(1 - 1e-5, tail)


def test_uniforms_are_uniform(block):
    u = block[1].ravel()
    assert 0 < u.min() and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    counts = np.bincount((u * 1024).astype(int), minlength=1024)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_streams_are_independent(block):
    """Within a key, between the families, and from one key to the next: correlations and joint chi-squares."""
    u = np.concatenate([stats.norm.cdf(block[0]), block[1]], axis=1)
    keys, streams = u.shape
    correlation = np.corrcoef(u, rowvar=False) - np.eye(streams)
    assert np.max(np.abs(correlation)) < 4.5 / np.sqrt(keys)
    lagged = [np.corrcoef(u[:-1, i], u[1:, i])[0, 1] for i in range(streams)]
    assert np.max(np.abs(lagged)) < 4.5 / np.sqrt(keys)
    cells = (u * 8).astype(int)
    for i in range(streams):
        j = (i + 1) % streams
        joint = np.bincount(cells[:, i] * 8 + cells[:, j], minlength=64)
        assert stats.chisquare(joint).pvalue > 1e-5


def test_the_hash_avalanches():
    """Flipping any one bit of the key or any step of the counter flips each output bit with probability 1/2."""
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 2**32, (4000, 2), dtype=np.uint32)
    bits = jax.jit(jax.vmap(lambda k: sampling.random_bits(k, 2)))
    base = np.asarray(bits(keys))
    for word in range(2):
        for bit in range(0, 32, 5):
            flipped = keys.copy()
            flipped[:, word] ^= np.uint32(1 << bit)
            changed = np.unpackbits((np.asarray(bits(flipped)) ^ base).view(np.uint8), axis=-1).mean(axis=0)
            assert np.all(np.abs(changed - 0.5) < 5 * 0.5 / np.sqrt(len(keys)))
    changed = np.unpackbits((base[:, :1] ^ base[:, 1:]).copy().view(np.uint8), axis=-1).mean(axis=0)
    assert np.all(np.abs(changed - 0.5) < 5 * 0.5 / np.sqrt(len(keys)))


def test_counters_of_one_key_do_not_collide():
    words = np.asarray(sampling.random_bits(jax.random.key(3), 4096))
    assert len(np.unique(words)) >= 4096 - 12  # 2 collisions expected


def test_a_new_source_does_not_reshuffle_the_others():
    key = jax.random.key(5)
    z, u = jax.jit(lambda k: sampling.step_noise(k, 3, 4))(key)
    more_z, more_u = jax.jit(lambda k: sampling.step_noise(k, 7, 9))(key)
    np.testing.assert_array_equal(z, more_z[:3])
    np.testing.assert_array_equal(u, more_u[:4])
    assert len(np.unique(np.concatenate([more_z, more_u]))) == 16


def test_raw_and_typed_keys_jit_and_vmap_agree():
    typed = jax.random.key(9)
    raw = jax.random.key_data(typed)
    expected = sampling.step_noise(typed, 4, 4)
    for other in (
        sampling.step_noise(raw, 4, 4),
        jax.jit(lambda k: sampling.step_noise(k, 4, 4))(typed),
        jax.tree.map(lambda x: x[0], jax.vmap(lambda k: sampling.step_noise(k, 4, 4))(typed[None])),
    ):
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
            assert b.dtype == jnp.float32 and b.shape == ()


def test_normal_quantile(dtype):
    p = np.concatenate([np.logspace(-9, -0.4, 60), 1 - np.logspace(-6, -0.4, 60)]).astype(dtype)
    z = np.asarray(sampling.normal_quantile(p), np.float64)
    error = np.abs(z - stats.norm.ppf(p.astype(np.float64)))
    assert error.max() < 5e-4 and error[np.abs(z) < 5].max() < 3e-6

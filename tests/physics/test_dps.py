"""Differential phase shift: limits, the edge of validity, numerics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import dps, information
from tests.physics.conftest import precision

RATE, COMPRESSION, OBSERVE = jax.jit(dps.key_rate), jax.jit(dps.compression), jax.jit(dps.observe)


def random_links(count, dtype):
    rng = np.random.default_rng(0)
    users = dps.DpsSettings(rng.uniform(0.01, 0.5, count))
    link = dps.DpsLink(
        10 ** -rng.uniform(0, 5, count), 10 ** -rng.uniform(4, 9, count), rng.uniform(0, 0.1, count),
        rng.uniform(1, 1.3, count),
    )  # fmt: skip
    return jax.tree.map(lambda x: x.astype(dtype), (users, link))


def test_without_errors_only_splitting_costs(x64):
    """Without errors a bit loses only what Eve takes by splitting, 2 mu; the rate is (1 - 2 mu) of the clicks."""
    for mu in (0.01, 0.2, 0.45):
        users, link = dps.DpsSettings(mu), dps.DpsLink(0.1, 0.0, 0.0, 1.16)
        assert float(COMPRESSION(users, link)) == pytest.approx(1 - 2 * mu, rel=1e-14)
        assert float(RATE(users, link)) == pytest.approx(-np.expm1(-0.1 * mu) * (1 - 2 * mu), rel=1e-13)


def test_compression_is_a_collision_probability(x64):
    """-log2 of 1 - e^2 - (1 - 6e)^2 / 2, whose expanded form is computed."""
    e = np.linspace(0, 0.1666, 50)
    link = dps.DpsLink(np.full(50, 0.1), np.zeros(50), e, np.ones(50))
    want = -0.6 * np.log2(1 - e**2 - (1 - 6 * e) ** 2 / 2)
    np.testing.assert_allclose(COMPRESSION(dps.DpsSettings(np.full(50, 0.2)), link), want, rtol=1e-13)


def test_beyond_validity_nothing_is_secret(dtype):
    noisy = dps.DpsLink(0.1, 0.0, 0.2, 1.16)
    assert COMPRESSION(dps.DpsSettings(0.2), noisy) == 0 and RATE(dps.DpsSettings(0.2), noisy) < 0
    assert COMPRESSION(dps.DpsSettings(0.5), dps.DpsLink()) == 0
    with pytest.raises(ValueError, match="intensity"):
        dps.DpsSettings(0.6)


def test_dark_link(dtype):
    seen = OBSERVE(dps.DpsSettings(0.2), dps.DpsLink(transmittance=0.0))
    np.testing.assert_allclose([seen.gain, seen.qber], [2e-6, 0.5], rtol=1e-6)
    silent = OBSERVE(dps.DpsSettings(0.0), dps.DpsLink(dark_count_prob_per_gate=0.0))
    assert silent.gain == 0 and silent.qber == 0


def test_rate_falls_with_every_imperfection(x64):
    steps = np.linspace(0, 1, 40)

    def rate(loss_db=15.0, dark=1e-7, error=0.01, f=1.16):
        values = (10 ** (-np.asarray(loss_db) / 10), dark, error, f)
        link = dps.DpsLink(*(np.broadcast_to(v, 40) for v in values))
        return np.maximum(RATE(dps.DpsSettings(np.full(40, 0.2)), link), 0)

    for curve in (rate(40 * steps), rate(dark=1e-3 * steps), rate(error=0.1 * steps), rate(f=1 + 5 * steps)):
        assert curve[0] > 0 and np.all(np.diff(curve) <= 0) and curve[-1] < curve[0]


def test_never_above_plob(dtype):
    users, link = random_links(500, dtype)
    assert np.all(RATE(users, link) <= information.plob_bound(link.transmittance))


def test_optimum(x64):
    """Without noise (1 - e^(-mu t)) (1 - 2 mu) is largest at mu = 1/4 for small t."""
    mu, rate = jax.jit(dps.optimal_rate)(dps.DpsLink(1e-3, 0.0, 0.0, 1.0))
    assert float(mu) == pytest.approx(0.25, abs=1e-3) and float(rate) == pytest.approx(1.25e-4, rel=1e-3)


def test_float32_error():
    """Clicks to 5e-7, rates to 2e-6 of the clicks."""
    users, link = random_links(2000, np.float32)
    with precision("float64"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (users, link))
        gain, rate = np.asarray(OBSERVE(*wide).gain), np.asarray(RATE(*wide))
        clear = np.abs(np.asarray(OBSERVE(*wide).qber) - dps.LARGEST_ERROR) > 1e-6  # the rate jumps there
    with precision("float32"):
        ours = np.asarray(OBSERVE(users, link).gain, np.float64), np.asarray(RATE(users, link), np.float64)
    np.testing.assert_allclose(ours[0], gain, rtol=5e-7)
    assert np.max(np.abs(ours[1] - rate)[clear] / gain[clear]) < 2e-6


def test_gradient_matches_finite_differences(x64):
    leaves, tree = jax.tree.flatten((dps.DpsSettings(0.2), dps.DpsLink(0.01, 1e-5, 0.02, 1.16)))

    @jax.jit
    def at(x):
        return 1e3 * dps.key_rate(*jax.tree.unflatten(tree, list(x)))

    x = np.array(leaves)
    numeric = [(at(x + row) - at(x - row)) / 2e-6 for row in np.diag(1e-6 * x)]
    np.testing.assert_allclose(jax.jit(jax.grad(at))(jnp.asarray(x)) * x, numeric, rtol=1e-6, atol=1e-8)


def positive(high):
    return st.sampled_from([0.0, high]) | st.floats(-15, 0).map(lambda x: high * 10**x)


@jax.jit
def probe(users, link):
    return jax.value_and_grad(dps.key_rate, argnums=(0, 1))(users, link)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(positive(0.5), st.tuples(positive(1.0), positive(0.5), positive(0.5) | st.just(1 / 6), positive(10.0)))
def test_nothing_in_range_is_nan(mu, link):
    for dtype in (np.float32, np.float64):
        with precision(dtype):
            value, gradient = probe(dps.DpsSettings(dtype(mu)), dps.DpsLink(*map(dtype, link)))
            assert all(np.isfinite(leaf) for leaf in jax.tree.leaves((value, gradient)))
            assert value <= information.plob_bound(dtype(link[0])) or value <= 0

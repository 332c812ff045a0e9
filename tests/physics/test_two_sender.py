"""Bessel excess, quotients and Chernoff bounds that the two-sender protocols share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import fibre, two_sender
from tests.physics.conftest import precision


def test_bessel_excess_is_the_mean_of_an_exponential(dtype):
    """I0(z) - 1 is the mean of e^(z cos phi) - 1 over phi, by the trapezoidal rule, which is exact for a full turn."""
    z = np.array([1e-3, 0.1, 1.0, 3.0, 7.0, 10.0])
    phase = np.arange(64) * 2 * np.pi / 64
    mean = np.mean(np.expm1(z[:, None] * np.cos(phase)), axis=-1)
    ours = two_sender.bessel_excess((z * z / 4).astype(dtype))
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, mean, rtol=1e-9 if dtype == np.float64 else 5e-7)


def test_bessel_excess_keeps_small_arguments(dtype):
    w = np.array([0.0, 1e-30, 1e-12], dtype)
    np.testing.assert_allclose(two_sender.bessel_excess(w), w * (1 + w / 4), rtol=3e-7)
    assert float(jax.grad(two_sender.bessel_excess)(jnp.asarray(0.0, dtype))) == 1


def test_ratio_and_its_derivative_survive_small_denominators():
    with precision("float32"):
        value, (da, db) = jax.value_and_grad(two_sender.ratio, (0, 1))(jnp.float32(2e-26), jnp.float32(1e-25))
    np.testing.assert_allclose([value, da, db], [0.2, 1e25, -2e24], rtol=1e-6)
    assert float(two_sender.ratio(1.0, 0.0, otherwise=0.5)) == 0.5
    assert jax.grad(two_sender.ratio, (0, 1))(1.0, 0.0) == (0, 0)


def test_arms_multiply_to_the_link(x64):
    loss = np.linspace(0, 200, 9)
    arm = two_sender.arm_transmittance_from_db(loss)
    np.testing.assert_allclose(arm * arm, fibre.transmittance_from_db(loss), rtol=1e-13)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1e6), st.floats(1, 60))
def test_bounds_bracket_the_count(count, log_term):
    with precision("float64"):
        low, high = two_sender.rate_bounds(count, 1e7, log_term)
        assert 0 <= low <= count / 1e7 <= high <= 1
        assert 0 <= two_sender.certain_count(count, log_term) <= count
        error = two_sender.sampled_error(count, 0.1, log_term)
        assert 0.1 <= error <= 0.5


def test_bounds_hold_as_often_as_they_say():
    """At eps = 1e-2 of either side, sampled Poisson counts leave the bounds no more often than that."""
    rng = np.random.default_rng(0)
    log_term = np.log(100.0)
    with precision("float64"):
        for mean in (3.0, 30.0, 3000.0):
            seen = rng.poisson(mean, 40_000).astype(float)
            low, high = two_sender.rate_bounds(seen, 1e6, log_term)
            assert np.mean(low > mean / 1e6) < 1e-2
            assert np.mean(high < mean / 1e6) < 1e-2
            assert np.mean(seen < two_sender.certain_count(mean, log_term)) < 1e-2
            wrong = rng.poisson(0.1 * mean, 40_000)
            assert np.mean(wrong / mean > two_sender.sampled_error(mean, 0.1, log_term)) < (1e-2 if mean > 100 else 0.2)


def test_nothing_sent_nothing_known():
    assert tuple(map(float, two_sender.rate_bounds(0.0, 0.0, 20.0))) == (0.0, 1.0)
    assert float(two_sender.certain_count(0.0, 20.0)) == 0
    assert float(two_sender.sampled_error(0.0, 0.1, 20.0)) == 0.5


def test_security_out_of_range_is_refused():
    with pytest.raises(ValueError, match="eps_per_bound"):
        two_sender.BlockSecurity(eps_per_bound=0.0)

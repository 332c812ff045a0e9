"""Drift processes: their laws do not depend on the length of the step; phase errors against integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.physics import drift

N = 40_000


def test_two_ou_steps_are_one_of_twice_the_length():
    z = jax.random.normal(jax.random.key(0), (2, N))
    arguments = {"correlation_time_s": 10.0, "stationary_std": 2.0, "mean": 1.0}
    once = drift.ornstein_uhlenbeck_step(5.0, z[0], 6.0, **arguments)
    twice = drift.ornstein_uhlenbeck_step(
        drift.ornstein_uhlenbeck_step(5.0, z[0], 3.0, **arguments), z[1], 3.0, **arguments
    )
    mean, variance = 1 + 4 * np.exp(-0.6), 4 * (1 - np.exp(-1.2))
    for x in (once, twice):
        assert abs(float(jnp.mean(x)) - mean) < 4.5 * np.sqrt(variance / N)
        assert float(jnp.var(x)) == pytest.approx(variance, rel=4.5 * np.sqrt(2 / N))


def test_ou_is_stationary_and_exact_for_tiny_steps(dtype):
    """The step's noise keeps its digits when dt/T is 1e-9."""
    step = drift.ornstein_uhlenbeck_step(dtype.type(0), 1.0, 1e-9, 1.0, 1.0)
    np.testing.assert_allclose(step, np.sqrt(2e-9), rtol=1e-6)
    still = drift.ornstein_uhlenbeck_step(dtype.type(3), 0.0, 1e9, 1.0, 1.0, 0.5)
    assert float(still) == 0.5


def test_wiener_ramp_and_tone():
    z = jax.random.normal(jax.random.key(1), (N,))
    assert float(jnp.var(drift.wiener_step(0.0, z, 0.1, 40.0))) == pytest.approx(4.0, rel=4.5 * np.sqrt(2 / N))
    assert float(drift.ramp_step(1.0, 0.5, 4.0)) == 3.0
    assert float(drift.tone(0.25, 2.0, 1.0)) == pytest.approx(2.0)
    assert float(drift.diurnal(drift.DAY_S / 2, 3.0)) == pytest.approx(-3.0)


def test_phase_of_a_tone_survives_a_long_run_in_float32():
    """A day of 50 us steps at 130 Hz: the advanced phase stays right where 2 pi f t has lost it."""
    steps = 20_000

    @jax.jit
    def run(phase):
        return jax.lax.fori_loop(0, steps, lambda _, p: drift.advance_phase(p, 50e-6, 130.0), phase)

    exact = np.angle(np.exp(2j * np.pi * 130 * 50e-6 * steps))
    assert abs(np.angle(np.exp(1j * (float(run(jnp.float32(0.0))) - exact)))) < 2e-2
    wrapped = drift.wrap_phase(np.array([np.pi + 0.1, -np.pi - 0.1, 0.3, 50.0]))
    np.testing.assert_allclose(wrapped, [0.1 - np.pi, np.pi - 0.1, 0.3, 50 - 16 * np.pi], atol=1e-5)


def test_jumps_have_their_rate_and_size():
    u, z = jax.random.uniform(jax.random.key(2), (N,)), jax.random.normal(jax.random.key(3), (N,))
    x = np.asarray(drift.jump_step(0.0, u, z, 2.0, 0.05, 0.5))
    probability = 1 - np.exp(-0.1)
    share = np.mean(x != 0)
    assert abs(share - probability) < 4.5 * np.sqrt(probability * (1 - probability) / N)
    assert x[x != 0].std() == pytest.approx(0.5, rel=0.06)


def test_phase_errors_against_integrals(dtype):
    """Gaussian phase and ramps: the mean of sin^2(phase/2)."""
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    for variance in (1e-8, 0.01, 1.0):
        exact = np.sum(weight * np.sin(np.sqrt(variance) * z / 2) ** 2) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(drift.wiener_qber(dtype.type(variance)), exact, rtol=2e-6)
    x, weight = np.polynomial.legendre.leggauss(80)
    for v, t in ((1e-3, 1e-1), (2.4, 0.1), (6.0, 0.5), (20.0, 1.0)):
        exact = np.sum(weight * np.sin(v * t * (x + 1) / 4) ** 2) / 2
        np.testing.assert_allclose(drift.ramp_qber(dtype.type(v), dtype.type(t)), exact, rtol=3e-6)


def test_ramp_error_is_smooth_across_its_series(dtype):
    x = np.array([0.0, 1e-6, 0.999999, 1.0, 1.000001, 3.0], dtype)
    exact = 1 - np.sinc(x.astype(np.float64) / np.pi)
    exact[1] = 1e-12 / 6 * (1 - 1e-12 / 20)
    np.testing.assert_allclose(drift.one_minus_sinc(x), exact, rtol=8 * np.finfo(dtype).eps + 1e-15)
    assert np.all(np.isfinite(jax.vmap(jax.grad(drift.one_minus_sinc))(x)))


def test_linewidths_and_fibre_drift():
    assert float(drift.linewidth_variance(1e3, 2e3, 1e-5)) == pytest.approx(2 * np.pi * 0.03)
    assert float(drift.fibre_drift_rate_std(100.0)) == pytest.approx(2.56)
    assert float(drift.fibre_drift_rate_std(550.0)) == pytest.approx(6.0, rel=0.01)

"""Transmitters: what is emitted against what was asked, bias against the modulator's curve, noise against integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from qkd_gym.physics import interference, transmitter
from qkd_gym.physics.transmitter import Modulator
from tests.physics.conftest import precision

EMIT = jax.jit(transmitter.emitted_intensities)
DRIVE = jax.jit(transmitter.drive_phase_rad)
VACUUM = jax.jit(transmitter.noisy_vacuum_prob)
WISH = (0.5, 0.1, 0.0)


def test_drive_inverts_the_modulator(dtype):
    t = np.array([1, 0.999999, 0.5, 0.1, 0.004, 0.00252], dtype)
    phase = DRIVE(t, np.full_like(t, 26))
    back = interference.modulator_transmittance(phase, np.full_like(t, 26))
    np.testing.assert_allclose(back, t, rtol=1e-12 if dtype == np.float64 else 2e-5)
    assert np.all(np.diff(phase) > 0)
    assert float(DRIVE(dtype.type(0), 26.0)) == pytest.approx(np.pi)
    assert float(DRIVE(dtype.type(0.5), 0.0)) == 0  # no modulator at all


def test_vacuum_leaks_by_the_extinction(dtype):
    """26 dB leaves 0.0025 of the signal in the vacuum; what lies above stays as asked."""
    emitted = EMIT(Modulator(dtype.type(26), dtype.type(0)), np.array(WISH, dtype))
    np.testing.assert_allclose(emitted, [0.5, 0.1, 0.5 * 10**-2.6], rtol=2e-5 if dtype == np.float32 else 1e-12)
    perfect = EMIT(Modulator(dtype.type(100), dtype.type(0)), np.array(WISH, dtype))
    np.testing.assert_allclose(perfect, WISH, atol=3e-8)
    assert np.all(np.asarray(EMIT(Modulator(), np.zeros(3, dtype))) == 0)


def test_bias_error_lights_the_vacuum_first(x64):
    """Second order in the bias where the modulator is at an end, first order between."""
    nominal, off = EMIT(Modulator(30.0, 0.0), jnp.array(WISH)), EMIT(Modulator(30.0, 0.02), jnp.array(WISH))
    change = np.asarray(off - nominal) / 0.5
    np.testing.assert_allclose(change[0], -(np.sin(0.01) ** 2) * (1 - 1e-3), rtol=1e-9)
    np.testing.assert_allclose(change[2], np.sin(0.01) ** 2 * (1 - 1e-3), rtol=1e-9)
    assert abs(change[1]) > 50 * abs(change[0])
    flipped = EMIT(Modulator(30.0, -0.02), jnp.array(WISH))
    np.testing.assert_allclose(flipped[2], off[2], rtol=1e-12)
    assert (off[1] - nominal[1]) * (flipped[1] - nominal[1]) < 0


def test_effective_extinction(dtype):
    good = transmitter.effective_extinction_db(Modulator(dtype.type(30), dtype.type(0)))
    assert float(good) == pytest.approx(30, rel=1e-5)
    curve = [
        float(transmitter.effective_extinction_db(Modulator(dtype.type(30), dtype.type(b)))) for b in (0, 0.05, 0.2)
    ]
    assert curve[0] > curve[1] > curve[2]
    assert float(
        transmitter.effective_extinction_db(Modulator(dtype.type(30), dtype.type(np.pi / 2)))
    ) == pytest.approx(0, abs=1e-5)


def test_mean_leakage_is_the_mean_over_the_bias(dtype):
    z, weight = np.polynomial.hermite_e.hermegauss(40)
    for er, std in ((20.0, 0.005), (60.0, 0.02), (30.0, 0.5)):
        r = 10 ** (-er / 10)
        exact = np.sum(weight * (r + (1 - r) * np.sin(std * z / 2) ** 2)) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(transmitter.mean_leakage(dtype.type(er), dtype.type(std**2)), exact, rtol=3e-6)


def test_noisy_pulses_against_the_gamma_integral(x64):
    for mu, noise in ((0.5, 0.03), (0.5, 0.3), (5.0, 0.1)):
        law = stats.gamma(1 / noise**2, scale=mu * noise**2)
        exact, _ = integrate.quad(lambda x: law.pdf(x) * np.exp(-x), *law.ppf([1e-15, 1 - 1e-15]), epsrel=1e-11)  # noqa: B023
        np.testing.assert_allclose(VACUUM(mu, noise), exact, rtol=1e-9)
    # to second order e^-mu (1 + mu^2 v/2), whatever the law
    np.testing.assert_allclose(VACUUM(0.5, 0.01), np.exp(-0.5) * (1 + 0.125e-4), rtol=1e-8)


def test_steady_pulses_are_poissonian(dtype):
    mu = np.array([0, 0.1, 0.5, 10], dtype)
    np.testing.assert_allclose(VACUUM(mu, np.zeros_like(mu)), np.exp(-mu), rtol=1e-6)
    # across the seam of its series
    x = np.array([0.999e-3, 1.001e-3], dtype)
    got = VACUUM(x, np.ones_like(x))
    np.testing.assert_allclose(got, 1 / (1 + x.astype(float)), rtol=1e-15 if dtype == np.float64 else 2e-7)


def test_intensity_bounds(dtype):
    low, high = transmitter.intensity_bounds(np.array(WISH, dtype), dtype.type(0.03))
    np.testing.assert_allclose(low, np.array(WISH) * 0.97, rtol=1e-6)
    np.testing.assert_allclose(high, np.array(WISH) * 1.03, rtol=1e-6)


def test_memory_of_the_pattern(dtype):
    """Each pulse misses a share of the step from the one before: simulate a sequence."""
    mu, p = np.array([0.5, 0.1, 0.002], dtype), np.array([0.5, 0.3, 0.2], dtype)
    table = np.asarray(transmitter.pattern_intensities(mu, dtype.type(0.02)))
    np.testing.assert_allclose(np.diag(table), mu, rtol=1e-6)  # after its own kind a pulse is right
    kinds = np.random.default_rng(0).choice(3, size=50_000, p=[0.5, 0.3, 0.2])
    sent = mu[kinds[1:]] + 0.02 * (mu[kinds[:-1]] - mu[kinds[1:]])
    np.testing.assert_allclose(sent, table[kinds[1:], kinds[:-1]], rtol=1e-5)
    mean = np.asarray(transmitter.pattern_mean_intensities(mu, p, dtype.type(0.02)))
    for k in range(3):
        mine = sent[kinds[1:] == k]
        assert abs(mine.mean() - mean[k]) < 4.5 * mine.std() / np.sqrt(len(mine))
    worst = np.asarray(transmitter.pattern_deviation(mu, dtype.type(0.02)))
    np.testing.assert_allclose(worst, np.max(np.abs(table / mu[:, None] - 1), axis=1), rtol=1e-4)
    assert worst[0] < 0.02 < worst[1] < worst[2]  # weak pulses suffer most
    np.testing.assert_array_equal(transmitter.pattern_deviation(np.array(WISH, dtype), dtype.type(0)), 0)
    assert np.isinf(transmitter.pattern_deviation(np.array(WISH, dtype), dtype.type(0.02))[2])


def test_gradients(x64):
    def light(bias, er):
        return transmitter.emitted_intensities(Modulator(er, bias), jnp.array(WISH))

    jacobian, light = jax.jit(jax.jacobian(light, (0, 1))), jax.jit(light)
    slope = jacobian(0.05, 26.0)
    h = 1e-6
    np.testing.assert_allclose(slope[0], (light(0.05 + h, 26.0) - light(0.05 - h, 26.0)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(slope[1], (light(0.05, 26 + h) - light(0.05, 26 - h)) / (2 * h), rtol=1e-5, atol=1e-10)
    assert np.all(np.isfinite(jax.tree.leaves(jacobian(0.0, 26.0))))
    wished = jax.jit(jax.jacobian(lambda mu: transmitter.emitted_intensities(Modulator(), mu)))(jnp.array(WISH))
    assert np.all(np.isfinite(wished))


@settings(deadline=None, max_examples=80)
@given(st.floats(0, 100), st.floats(-3.14, 3.14), st.floats(0, 10), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_nothing_is_nan(er, bias, strongest, a, b, noise):
    with precision("float32"):
        wish = np.array([strongest, strongest * a, strongest * b], np.float32)
        emitted = np.asarray(EMIT(Modulator(np.float32(er), np.float32(bias)), wish))
        assert np.all(np.isfinite(emitted)) and np.all(emitted >= -1e-6) and np.all(emitted <= strongest * (1 + 1e-5))
        assert np.all(np.isfinite(transmitter.pattern_intensities(wish, np.float32(noise))))
        vacuum = float(VACUUM(np.float32(strongest), np.float32(noise)))
        assert np.exp(-strongest) * (1 - 1e-5) <= vacuum <= 1

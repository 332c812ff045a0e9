"""Phase drift: laws that do not depend on the step, errors against integrals and samples, all causes together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from qkd_gym.physics import drift, interference, phase_drift
from qkd_gym.physics.phase_drift import PhaseDrift
from tests.physics.conftest import precision

X, WEIGHT = np.polynomial.legendre.leggauss(100)
QBER = jax.jit(phase_drift.mean_qber)
STEP = jax.jit(phase_drift.rate_step)


def test_rate_variance_is_the_double_integral_of_its_correlation(dtype):
    """Var = 2 s^2 int_0^t (t - u) e^(-u/T) du."""
    s, time = 2.4, 2.0
    for t in (1e-6, 0.01, 0.999, 1.001, 5.0, 200.0):
        u = t * (X + 1) / 2
        exact = 2 * s * s * np.sum(WEIGHT * t / 2 * (t - u) * np.exp(-u / time)) if t < 50 else None
        if exact is None:
            exact = 2 * s * s * time * time * (t / time - 1)
        got = phase_drift.rate_variance(dtype.type(s), dtype.type(time), dtype.type(t))
        np.testing.assert_allclose(got, exact, rtol=1e-12 if dtype == np.float64 else 5e-6)


def test_rate_variance_runs_from_ramp_to_diffusion(dtype):
    s, time = dtype.type(2.0), dtype.type(3.0)
    np.testing.assert_allclose(phase_drift.rate_variance(s, time, dtype.type(1e-4)), 4e-8, rtol=2e-5)
    np.testing.assert_allclose(phase_drift.rate_variance(s, time, dtype.type(3e5)), 2 * 4 * 3 * 3e5, rtol=2e-5)


def test_rate_step_has_one_law_whatever_the_step():
    """Mean and covariance of (phase, rate) from the linear map: one step of 2 dt is two of dt, exactly."""
    for dt in (1e-4, 0.05, 0.29, 0.31, 1.0, 8.0):
        with precision("float64"):

            def law(step, mean, covariance, dt=dt):
                zero = jnp.zeros(2)

                def apply(phase, rate, z):
                    return jnp.stack(phase_drift.rate_step(phase, rate, z, step * dt, 1.0, 0.7))

                a = jnp.stack([apply(1.0, 0.0, zero), apply(0.0, 1.0, zero)], axis=1)
                b = jnp.stack([apply(0.0, 0.0, z) for z in jnp.eye(2)], axis=1)
                return a @ mean, a @ covariance @ a.T + b @ b.T

            mean, covariance = jnp.array([0.3, -1.2]), jnp.zeros((2, 2))
            once = law(2, mean, covariance)
            twice = law(1, *law(1, mean, covariance))
            np.testing.assert_allclose(once[0], twice[0], rtol=1e-10)
            np.testing.assert_allclose(once[1], twice[1], rtol=1e-9)
            # from a stationary rate, the variance of the phase is that of `rate_variance`
            _, settled = law(1, mean, jnp.diag(jnp.array([0.0, 0.49])))
            np.testing.assert_allclose(settled[0, 0], phase_drift.rate_variance(0.7, 1.0, dt), rtol=1e-9)
            np.testing.assert_allclose(settled[1, 1], 0.49, rtol=1e-12)


def test_rate_step_samples_what_it_says():
    n, dt = 40_000, 0.6
    z = jax.random.normal(jax.random.key(4), (n, 2))
    v = 2.4 * jax.random.normal(jax.random.key(5), (n,))
    phase, rate = STEP(jnp.zeros(n), v, z, dt, 2.0, 2.4)
    variance = float(phase_drift.rate_variance(2.4, 2.0, dt))
    assert float(jnp.var(phase)) == pytest.approx(variance, rel=4.5 * np.sqrt(2 / n))
    assert float(jnp.var(rate)) == pytest.approx(2.4**2, rel=4.5 * np.sqrt(2 / n))
    # the error of the sampled phases is the closed one
    flips = np.sin(np.asarray(phase, float) / 2) ** 2
    assert abs(flips.mean() - float(drift.wiener_qber(variance))) < 4.5 * flips.std() / np.sqrt(n)


def test_window_errors_against_integrals(dtype):
    for y in (1e-3, 0.1, 0.499, 0.501, 3.0, 40.0):
        t = (X + 1) / 2
        ramp = np.sum(WEIGHT / 2 * -np.expm1(-((y * t) ** 2) / 2) / 2) if y < 10 else None
        if ramp is None:
            ramp = (1 - np.sqrt(np.pi / 2) / y) / 2
        got = phase_drift.gaussian_ramp_qber(dtype.type(y), dtype.type(1))
        np.testing.assert_allclose(got, ramp, rtol=1e-12 if dtype == np.float64 else 5e-6)
    for d in (1e-5, 0.1, 0.999, 1.001, 20.0):
        exact = np.sum(WEIGHT / 2 * -np.expm1(-d * (X + 1) / 4) / 2)
        got = phase_drift.wiener_window_qber(dtype.type(d), dtype.type(1))
        np.testing.assert_allclose(got, exact, rtol=1e-12 if dtype == np.float64 else 5e-6)


def test_gaussian_ramp_is_the_mean_of_ramps(x64):
    """Average `drift.ramp_qber` over a normal rate by Gauss-Hermite."""
    v, weight = np.polynomial.hermite_e.hermegauss(60)
    for s, t in ((2.4, 0.1), (6.0, 0.3)):
        mean = np.sum(weight * np.asarray(drift.ramp_qber(np.abs(s * v), t))) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(phase_drift.gaussian_ramp_qber(s, t), mean, rtol=1e-10)


def test_tone_error_is_the_bessel_function(dtype):
    a = np.array([1e-3, 0.1, 1.0, 2.404825557695773, 10.0, 25.0], dtype)
    exact = (1 - special.j0(a.astype(float))) / 2
    exact[0] = 1e-6 / 8  # (A/2)^2 / 2
    np.testing.assert_allclose(phase_drift.tone_qber(a), exact, rtol=1e-7 if dtype == np.float64 else 5e-6)
    np.testing.assert_allclose(phase_drift.tone_qber(a[1:]), exact[1:], rtol=1e-12 if dtype == np.float64 else 5e-6)
    # a tone against itself half a period later is twice the tone, a period later nothing
    assert float(phase_drift.tone_difference_rad(0.4, 100.0, 5e-3)) == pytest.approx(0.8)
    assert float(phase_drift.tone_difference_rad(0.4, 100.0, 1e-2)) == pytest.approx(0, abs=1e-6)


def test_all_causes_against_samples():
    """Draw every cause by itself, add the phases, look at the interference."""
    cause = PhaseDrift(
        diffusion_rad2_per_s=40.0, rate_std_rad_per_ms=1.5, rate_correlation_ms=2.0, linewidth_a_hz=2e3,
        linewidth_b_hz=1e3, frequency_offset_hz=150.0, tone_amplitude_rad=0.3, tone_frequency_hz=400.0,
    )  # fmt: skip
    delay, n = 5e-4, 200_000
    rng = np.random.default_rng(7)
    variance = 40 * delay + 2 * np.pi * 3e3 * delay + float(phase_drift.rate_variance(1.5, 2.0, 0.5))
    start = rng.uniform(0, 2 * np.pi, n)
    tone = 0.3 * (np.sin(start + 2 * np.pi * 400 * delay) - np.sin(start))
    phase = np.sqrt(variance) * rng.normal(size=n) + tone + 2 * np.pi * 150 * delay
    assert float(phase_drift.phase_variance(cause, delay)) == pytest.approx(variance, rel=1e-5)
    flips = np.sin(phase / 2) ** 2
    assert abs(flips.mean() - float(QBER(cause, delay))) < 4.5 * flips.std() / np.sqrt(n)
    # visibility and error are one statement
    v = phase_drift.mean_visibility(cause, delay, 0.98)
    assert float(v) == pytest.approx(0.98 * (1 - 2 * float(QBER(cause, delay))), rel=1e-6)
    assert float(interference.visibility_qber(phase_drift.mean_visibility(cause, 0.0))) == 0


def test_published_drift_of_long_fibre():
    """Lucamarini 2018: 2.4 rad/ms at 100 km; corrected every 0.1 ms that costs half a per cent."""
    fibre = PhaseDrift(
        rate_std_rad_per_ms=drift.fibre_drift_rate_std(100.0), rate_correlation_ms=1e6, linewidth_a_hz=0.0,
        linewidth_b_hz=0.0,
    )  # fmt: skip
    at_end = float(QBER(fibre, 1e-4))
    assert at_end == pytest.approx(0.256**2 / 4, rel=0.05)
    assert float(phase_drift.gaussian_ramp_qber(2.56, 0.1)) == pytest.approx(at_end / 3, rel=0.05)


def test_pairing_interval(x64):
    rate = 2 * np.pi * 4e3
    delay = phase_drift.longest_delay_s(0.1, rate)
    np.testing.assert_allclose(drift.linewidth_variance(2e3, 2e3, delay), 0.1, rtol=1e-12)
    assert np.isinf(phase_drift.longest_delay_s(0.1, 0.0))


def test_gradients(x64):
    def f(t):
        return phase_drift.mean_qber(PhaseDrift(frequency_offset_hz=50.0, tone_amplitude_rad=0.2), t)

    for t in (1e-5, 1e-4, 5e-4):
        h = 1e-4 * t
        np.testing.assert_allclose(jax.grad(f)(t), (f(t + h) - f(t - h)) / (2 * h), rtol=1e-6)
    for function in (phase_drift.gaussian_ramp_qber, phase_drift.wiener_window_qber):
        for t in (0.0, 0.4, 2.0):
            assert np.isfinite(jax.grad(function)(1.0, t))


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0, 1e9), st.floats(0, 1e3), st.floats(1e-6, 1e6), st.floats(0, 1e9), st.floats(-1e10, 1e10),
    st.floats(0, 1e3), st.floats(0, 10),
)  # fmt: skip
def test_errors_stay_probabilities(diffusion, rate, time, width, offset, amplitude, delay):
    with precision("float32"):
        values = (np.float32(x) for x in (diffusion, rate, time, width, width, offset, amplitude, 130.0))
        q = float(QBER(PhaseDrift(*values), np.float32(delay)))
        assert 0 <= q <= 1 + 1e-6

"""Processes by which a link drifts, in steps of any length, and what drift does to an interferometer.

Each `..._step` takes standard noise from outside (`sampling.step_noise`) and returns the next value. Discretisations
are exact: two steps of dt have the law of one step of 2 dt.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.information import as_float
from qkd_gym.physics.numerics import sin_cos

DAY_S = 86_400.0
#: Spread of the drift rate of a fibre's phase at 1 km, rad/ms; grows as the square root of the length (2.4 rad/ms at
#: 100 km, 6 rad/ms at 550 km: Lucamarini et al., Nature 557, 400 (2018)).
DRIFT_RATE_RAD_PER_MS_AT_1_KM = 0.256


# ---- processes ----------------------------------------------------------------------------------------------------


def ornstein_uhlenbeck_step(
    value: ArrayLike,
    normal: ArrayLike,
    step_s: ArrayLike,
    correlation_time_s: ArrayLike,
    stationary_std: ArrayLike,
    mean: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """One exact step of an Ornstein-Uhlenbeck process: mean + (x - mean) e^(-dt/T) + std sqrt(1 - e^(-2 dt/T)) z."""
    x, z, dt, time, std, centre = as_float(value, normal, step_s, correlation_time_s, stationary_std, mean)
    ratio = dt / time
    return centre + (x - centre) * jnp.exp(-ratio) + std * jnp.sqrt(-jnp.expm1(-2 * ratio)) * z


def wiener_step(
    value: ArrayLike, normal: ArrayLike, step_s: ArrayLike, variance_per_s: ArrayLike
) -> Float[Array, "..."]:
    """One step of a Wiener process whose variance grows by `variance_per_s`."""
    x, z, dt, rate = as_float(value, normal, step_s, variance_per_s)
    return x + jnp.sqrt(rate * dt) * z


def ramp_step(value: ArrayLike, step_s: ArrayLike, rate_per_s: ArrayLike) -> Float[Array, "..."]:
    """One step of a steady ramp."""
    x, dt, rate = as_float(value, step_s, rate_per_s)
    return x + rate * dt


def tone(
    time_s: ArrayLike, amplitude: ArrayLike, frequency_hz: ArrayLike, phase_rad: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """A sinusoid A sin(2 pi f t + phase). In float32 keep f t below 1e4, or advance the phase with `advance_phase`."""
    t, a, f, phase = as_float(time_s, amplitude, frequency_hz, phase_rad)
    return a * sin_cos(2 * math.pi * f * t + phase)[0]


def advance_phase(phase_rad: ArrayLike, step_s: ArrayLike, frequency_hz: ArrayLike) -> Float[Array, "..."]:
    """The phase of a tone one step later, wrapped to [-pi, pi), so that float32 holds it for ever."""
    phase, dt, f = as_float(phase_rad, step_s, frequency_hz)
    return wrap_phase(phase + 2 * math.pi * f * dt)


def wrap_phase(phase_rad: ArrayLike) -> Float[Array, "..."]:
    """An angle brought to [-pi, pi)."""
    (phase,) = as_float(phase_rad)
    return phase - 2 * math.pi * jnp.floor(phase / (2 * math.pi) + 0.5)


def diurnal(time_s: ArrayLike, amplitude: ArrayLike, peak_s: ArrayLike = 0.0) -> Float[Array, "..."]:
    """A daily swing, A cos(2 pi (t - peak) / 24 h): 0.1-0.5 K for buried fibre, 5-15 K for aerial (design values)."""
    t, a, peak = as_float(time_s, amplitude, peak_s)
    return a * jnp.cos(2 * math.pi / DAY_S * (t - peak))


def jump_occurs(uniform: ArrayLike, step_s: ArrayLike, rate_per_s: ArrayLike) -> Array:
    """Whether a Poisson process of the given rate fires in a step, 1 - e^(-rate dt); bool."""
    u, dt, rate = as_float(uniform, step_s, rate_per_s)
    return u < -jnp.expm1(-rate * dt)


def jump_step(
    value: ArrayLike,
    uniform: ArrayLike,
    normal: ArrayLike,
    step_s: ArrayLike,
    rate_per_s: ArrayLike,
    size_std: ArrayLike,
) -> Float[Array, "..."]:
    """One step of a process that jumps by a normal amount at Poisson times (at most one jump a step)."""
    x, z, std = as_float(value, normal, size_std)
    return x + jnp.where(jump_occurs(uniform, step_s, rate_per_s), std * z, 0)


# ---- phase errors -------------------------------------------------------------------------------------------------


def wiener_qber(phase_variance: ArrayLike) -> Float[Array, "..."]:
    """Error rate under a Gaussian phase error of the given variance, (1 - e^(-Var/2)) / 2."""
    (variance,) = as_float(phase_variance)
    return -jnp.expm1(-variance / 2) / 2


def linewidth_variance(linewidth_a_hz: ArrayLike, linewidth_b_hz: ArrayLike, delay_s: ArrayLike) -> Float[Array, "..."]:
    """Variance of the phase between two lasers after a delay, 2 pi (sum of linewidths) x delay, rad^2."""
    a, b, delay = as_float(linewidth_a_hz, linewidth_b_hz, delay_s)
    return 2 * math.pi * (a + b) * delay


def ramp_qber(drift_rad_per_ms: ArrayLike, window_ms: ArrayLike) -> Float[Array, "..."]:
    """Error rate averaged over a window after a perfect correction while the phase ramps, (1 - sin(x)/x)/2, x = v t."""
    v, window = as_float(drift_rad_per_ms, window_ms)
    return one_minus_sinc(v * window) / 2


def one_minus_sinc(x: ArrayLike) -> Float[Array, "..."]:
    """1 - sin(x)/x without cancellation near zero."""
    (x,) = as_float(x)
    squared = x * x
    small = squared < 1
    t = jnp.where(small, squared, 0)
    # t/6 (1 - t/20 (1 - t/42 (...))): the next term is below 1e-17 at x = 1
    series = 1.0
    for n in range(9, 1, -1):
        series = 1 - t / ((2 * n) * (2 * n + 1)) * series
    big = jnp.where(small, 1, x)
    return jnp.where(small, t / 6 * series, 1 - jnp.sin(big) / big)


def fibre_drift_rate_std(length_km: ArrayLike) -> Float[Array, "..."]:
    """Standard deviation of a fibre's phase drift rate, rad/ms, 0.256 sqrt(L / km)."""
    (length,) = as_float(length_km)
    return DRIFT_RATE_RAD_PER_MS_AT_1_KM * jnp.sqrt(length)

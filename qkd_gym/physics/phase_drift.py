"""Phase between two beams that interfere after long fibres: its law over a delay, and what it costs.

For twin-field, mode-pairing and continuous-variable links. Five independent causes: diffusion (Wiener), a drift rate
that wanders (Ornstein-Uhlenbeck; a ramp within its correlation time), the lasers' linewidths, tones from acoustics, and
a constant frequency offset. Independent causes multiply visibilities, so errors combine like independent flips.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.drift import linewidth_variance, wiener_qber
from qkd_gym.physics.information import as_float
from qkd_gym.physics.interference import combine_errors

_NODES = 16  # midpoints of a quarter period: exact to rounding for tones up to 25 rad


@struct.dataclass
class PhaseDrift:
    """What moves the phase between two arms. Default: 100 km of fibre on spools, 1 kHz lasers."""

    diffusion_rad2_per_s: Any = struct.field(
        default=0.0, unit="rad^2/s", low=0.0, high=1e9, doc="growth of the variance of a Wiener phase"
    )
    rate_std_rad_per_ms: Any = struct.field(
        default=2.56, unit="rad/ms", low=0.0, high=1e3, doc="spread of the drift rate; 0.256 sqrt(L/km) on spools"
    )
    rate_correlation_ms: Any = struct.field(
        default=2.0, unit="ms", low=1e-6, high=1e6, doc="correlation time of the drift rate; 1-5 ms (design value)"
    )
    linewidth_a_hz: Any = struct.field(default=1e3, unit="Hz", low=0.0, high=1e9, doc="Lorentzian width of laser A")
    linewidth_b_hz: Any = struct.field(default=1e3, unit="Hz", low=0.0, high=1e9, doc="Lorentzian width of laser B")
    frequency_offset_hz: Any = struct.field(
        default=0.0, unit="Hz", low=-1e10, high=1e10, doc="frequency of A minus frequency of B"
    )
    tone_amplitude_rad: Any = struct.field(
        default=0.0, unit="rad", low=0.0, high=1e3, doc="amplitude of a sinusoidal phase (acoustics)"
    )
    tone_frequency_hz: Any = struct.field(default=130.0, unit="Hz", low=0.0, high=1e6, doc="frequency of that tone")


# ---- law ----------------------------------------------------------------------------------------------------------


def rate_variance(rate_std: ArrayLike, correlation_time: ArrayLike, delay: ArrayLike) -> Float[Array, "..."]:
    """Variance of the phase after a delay when its rate is a stationary Ornstein-Uhlenbeck process, rad^2.

    2 s^2 T^2 (x - 1 + e^(-x)), x = delay/T: a ramp s^2 t^2 for short delays, diffusion 2 s^2 T t for long ones. Rate in
    rad per the unit of both times.
    """
    s, time, t = as_float(rate_std, correlation_time, delay)
    x = t / time
    return s * s * t * t * _ramp_share(x)


def phase_variance(drift: PhaseDrift, delay_s: ArrayLike) -> Float[Array, "..."]:
    """Variance of the random part of the phase after a delay: diffusion, drift rate and linewidths, rad^2.

    Offset and tone are no Gaussian phases: see `mean_qber`.
    """
    (delay,) = as_float(delay_s)
    (diffusion,) = as_float(drift.diffusion_rad2_per_s)
    lasers = linewidth_variance(drift.linewidth_a_hz, drift.linewidth_b_hz, delay)
    return diffusion * delay + lasers + rate_variance(drift.rate_std_rad_per_ms, drift.rate_correlation_ms, delay * 1e3)


def offset_phase_rad(frequency_offset_hz: ArrayLike, delay_s: ArrayLike) -> Float[Array, "..."]:
    """Phase 2 pi df t that a frequency offset adds over a delay."""
    df, t = as_float(frequency_offset_hz, delay_s)
    return 2 * math.pi * df * t


def tone_difference_rad(amplitude_rad: ArrayLike, frequency_hz: ArrayLike, delay_s: ArrayLike) -> Float[Array, "..."]:
    """Amplitude of the difference of a tone with itself a delay later, 2 A |sin(pi f t)|."""
    a, f, t = as_float(amplitude_rad, frequency_hz, delay_s)
    return 2 * a * jnp.abs(jnp.sin(math.pi * f * t))


def rate_step(
    phase_rad: ArrayLike,
    rate: ArrayLike,
    normals: ArrayLike,
    step: ArrayLike,
    correlation_time: ArrayLike,
    rate_std: ArrayLike,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """One exact step of a phase whose rate is Ornstein-Uhlenbeck: `(phase, rate)` from their joint Gaussian law.

    Two steps have the law of one of twice the length, whatever the length is against the correlation time.

    Args:
        rate: in rad per the unit of `step` and `correlation_time`. normals: `(..., 2)`, standard.
    """
    phase, v, z, dt, time, s = as_float(phase_rad, rate, normals, step, correlation_time, rate_std)
    x = dt / time
    rate_sd = s * jnp.sqrt(-jnp.expm1(-2 * x))
    # Given the new rate, the phase is the mean of both rates, weighted, and a bridge between them.
    new_rate = v * jnp.exp(-x) + rate_sd * z[..., 0]
    share = jnp.tanh(x / 2) * time
    bridge = s * time * jnp.sqrt(2 * _bridge_variance(x))
    return phase + (v + new_rate) * share + bridge * z[..., 1], new_rate


# ---- errors -------------------------------------------------------------------------------------------------------


def mean_qber(drift: PhaseDrift, delay_s: ArrayLike) -> Float[Array, "..."]:
    """Error rate a delay after a perfect correction, all causes together."""
    sine = jnp.sin(offset_phase_rad(drift.frequency_offset_hz, delay_s) / 2)
    return combine_errors(
        wiener_qber(phase_variance(drift, delay_s)),
        tone_qber(tone_difference_rad(drift.tone_amplitude_rad, drift.tone_frequency_hz, delay_s)),
        sine * sine,
    )


def mean_visibility(drift: PhaseDrift, delay_s: ArrayLike, visibility: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Visibility a delay after a perfect correction, V0 (1 - 2 QBER)."""
    (v,) = as_float(visibility)
    return v * (1 - 2 * mean_qber(drift, delay_s))


def gaussian_ramp_qber(rate_std: ArrayLike, window: ArrayLike) -> Float[Array, "..."]:
    """Error rate averaged over a window after a correction, and over ramps with normal rates of zero mean.

    (1 - sqrt(pi/2) erf(y / sqrt 2) / y) / 2 with y = rate_std x window.
    """
    s, t = as_float(rate_std, window)
    y = s * t
    squared = y * y
    small = squared < 0.25
    u = jnp.where(small, squared / 2, 0)
    # 1 - sum (-u)^n / (n! (2n + 1))
    series, term = jnp.zeros_like(u), jnp.ones_like(u)
    for n in range(1, 10):
        term = term * (-u / n)
        series = series - term / (2 * n + 1)
    safe = jnp.where(small, 1, y)
    return jnp.where(small, series, 1 - math.sqrt(math.pi / 2) * erf(safe * math.sqrt(0.5)) / safe) / 2


def wiener_window_qber(diffusion_rad2_per_s: ArrayLike, window_s: ArrayLike) -> Float[Array, "..."]:
    """Error rate of a Wiener phase averaged over a window after a correction, (1 - (1 - e^-x)/x)/2, x = D t / 2."""
    d, t = as_float(diffusion_rad2_per_s, window_s)
    x = d * t / 2
    small = x < 0.5
    u = jnp.where(small, x, 0)
    series = jnp.ones_like(u)
    for n in range(15, 2, -1):
        series = 1 - u / n * series
    safe = jnp.where(small, 1, x)
    return jnp.where(small, u / 2 * series, 1 + jnp.expm1(-safe) / safe) / 2


def tone_qber(amplitude_rad: ArrayLike) -> Float[Array, "..."]:
    """Error rate (1 - J0(A))/2 under a sinusoidal phase of amplitude A, averaged over its period; A up to 25 rad."""
    (a,) = as_float(amplitude_rad)
    angles = np.sin((np.arange(_NODES) + 0.5) * (np.pi / 2 / _NODES))
    total = jnp.zeros_like(a)
    for angle in angles:
        sine = jnp.sin(a * (0.5 * float(angle)))
        total = total + sine * sine
    return total / _NODES


def longest_delay_s(variance_limit: ArrayLike, variance_per_s: ArrayLike) -> Float[Array, "..."]:
    """Delay after which a diffusing phase has the given variance: how far apart mode pairing may pair. inf for none."""
    limit, rate = as_float(variance_limit, variance_per_s)
    return jnp.where(rate > 0, limit / jnp.where(rate > 0, rate, 1), jnp.inf)


# ---- series -------------------------------------------------------------------------------------------------------


def _ramp_share(x: Array) -> Array:
    """2 (x - 1 + e^-x) / x^2: 1 at 0."""
    small = x < 0.5
    t = jnp.where(small, x, 0)
    series = jnp.ones_like(t)
    for n in range(16, 2, -1):
        series = 1 - t / n * series
    safe = jnp.where(small, 1, x)
    return jnp.where(small, series, 2 * (safe + jnp.expm1(-safe)) / (safe * safe))


def _bridge_variance(x: Array) -> Array:
    """x - 2 tanh(x/2): variance of the integral between two given rates, over 2 s^2 T^2. x^3/12 near 0."""
    small = x < 0.3
    t = jnp.where(small, x * x, 0)
    # x - 2 tanh(x/2) = x^3/12 - x^5/120 + 17 x^7/20160 - 31 x^9/362880 + 691 x^11/79833600 - ...
    coefficients = (1 / 12, -1 / 120, 17 / 20160, -31 / 362880, 691 / 79833600, -5461 / 6227020800)
    series = jnp.zeros_like(t)
    for c in reversed(coefficients):
        series = series * t + c
    root = jnp.where(small, x, 0)
    return jnp.where(small, root * t * series, x - 2 * jnp.tanh(x / 2))

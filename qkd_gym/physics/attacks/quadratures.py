"""Attacks on continuous variables: what is measured in shot noise goes wrong with the unit, or with the range.

Variances are in the unit that the users calibrated. Eve may intercept and resend a share p of the pulses meanwhile,
which costs 2 p of excess noise at the channel's input (Lodewyck et al., Phys. Rev. Lett. 98, 030503 (2007)); an attack
is worth what of it no longer shows in the estimated noise.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.attacks.telemetry import Eve, Telemetry, mixed, ratio
from qkd_gym.physics.information import as_float

#: Excess noise of intercept-resend on every pulse, at the channel's input, in shot-noise units.
FULL_INTERCEPT_NOISE = 2.0
#: Least squared slope of a saturated receiver that estimates divide by.
_MIN_SLOPE_SQUARED = 1e-12
#: What a clipped variance may be off by, in roundings of the variance before.
_ROUNDINGS = 64


@struct.dataclass
class LocalOscillator:
    """Eve dims the local oscillator, while the users keep their old shot-noise calibration.

    Ma, Sun, Jiang, Liang, Phys. Rev. A 88, 022339 (2013); Jouguet, Kunz-Jacques, Diamanti, Phys. Rev. A 87, 062313
    (2013). Measuring the shot noise in real time shows it.
    """

    power_factor: Any = struct.field(default=1.0, low=0.01, high=2.0, doc="k, power over its calibration")
    intercepted_fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="p, pulses intercepted meanwhile")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        attacked, eve = _rescaled(honest, self.power_factor, self.intercepted_fraction)
        return struct.replace(attacked, local_oscillator=honest.local_oscillator * self.power_factor), eve


@struct.dataclass
class Calibration:
    """Eve delays the receiver's trigger, so that the shot noise per power of the local oscillator falls below what is
    believed; the power itself stays. Jouguet, Kunz-Jacques, Diamanti, Phys. Rev. A 87, 062313 (2013).
    """

    shot_noise_factor: Any = struct.field(default=1.0, low=0.01, high=2.0, doc="true over believed shot noise")
    intercepted_fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="p, pulses intercepted meanwhile")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        return _rescaled(honest, self.shot_noise_factor, self.intercepted_fraction)


@struct.dataclass
class EstimateBias:
    """What any other attack on the receiver's beam splitter or unit comes to: a bias of T and xi.

    Wavelength and hybrid attacks: Huang et al., Phys. Rev. A 87, 062329 (2013).
    """

    transmittance_factor: Any = struct.field(default=1.0, low=0.01, high=10.0, doc="estimated over true T")
    excess_noise_shift: Any = struct.field(default=0.0, unit="SNU", low=-10.0, high=10.0, doc="added to estimated xi")
    intercepted_fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="p, pulses intercepted meanwhile")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        p, factor = self.intercepted_fraction, self.transmittance_factor
        added = FULL_INTERCEPT_NOISE * p + self.excess_noise_shift
        scale = honest.receiver_efficiency * honest.channel_transmittance
        light = scale * ((factor - 1) * (honest.modulation_variance + honest.excess_noise) + factor * added)
        attacked = struct.replace(
            honest,
            channel_transmittance=honest.channel_transmittance * factor,
            excess_noise=honest.excess_noise + added,
            quadrature_variance=jnp.maximum(honest.quadrature_variance + light, 0),
        )
        return attacked, _worth(p, -self.excess_noise_shift)


def estimates_with_dimmed_oscillator(
    transmittance: ArrayLike, excess_noise: ArrayLike, power_factor: ArrayLike, receiver_efficiency: ArrayLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(T, xi)` as estimated with an old calibration: k T and xi - (1-k)/(k eta T)."""
    t, xi, k, eta = as_float(transmittance, excess_noise, power_factor, receiver_efficiency)
    return k * t, xi - hidden_noise(t, k, eta)


def hidden_noise(
    transmittance: ArrayLike, power_factor: ArrayLike, receiver_efficiency: ArrayLike
) -> Float[Array, "..."]:
    """Excess noise (1-k)/(k eta T) at the channel's input that a dimmed oscillator hides; 0 where nothing arrives."""
    t, k, eta = as_float(transmittance, power_factor, receiver_efficiency)
    return ratio(1 - k, k * eta * t)


def factor_that_hides(
    intercepted_fraction: ArrayLike, transmittance: ArrayLike, receiver_efficiency: ArrayLike
) -> Float[Array, "..."]:
    """The factor k = 1/(1 + 2 p eta T) at which intercepting a share p leaves the estimated noise where it was."""
    p, t, eta = as_float(intercepted_fraction, transmittance, receiver_efficiency)
    return 1 / (1 + FULL_INTERCEPT_NOISE * p * eta * t)


def _rescaled(honest: Telemetry, k: Array, p: Array) -> tuple[Telemetry, Eve]:
    """Light and shot noise times k in the believed unit; electronic noise as it was."""
    t, eta = honest.channel_transmittance, honest.receiver_efficiency
    step = FULL_INTERCEPT_NOISE * eta * t
    before = honest.quadrature_variance + p * step
    after = before + (k - 1) * (before - honest.electronic_noise)
    hidden = hidden_noise(t, k, eta)
    jump = k * step
    attacked = struct.replace(
        honest,
        shot_noise=honest.shot_noise * k,
        quadrature_mean=honest.quadrature_mean * jnp.sqrt(k),
        quadrature_variance=after,
        # pulses with and without Eve's noise: a mixture of two Gaussians
        quadrature_kurtosis=honest.quadrature_kurtosis + 3 * p * (1 - p) * ratio(jump * jump, after * after),
        channel_transmittance=k * t,
        excess_noise=honest.excess_noise + FULL_INTERCEPT_NOISE * p - hidden,
    )
    return attacked, _worth(p, hidden)


def _worth(intercepted: Array, hidden: Array) -> Eve:
    """Eve knows what she intercepts; of that goes unseen what the hidden noise would pay for."""
    unseen = jnp.clip(hidden / FULL_INTERCEPT_NOISE, 0, intercepted)
    return Eve(known_bits=intercepted, unpriced_bits=unseen)


# ---- saturation ---------------------------------------------------------------------------------------------------


@struct.dataclass
class Saturation:
    """Eve displaces what arrives, so that the receiver's finite range cuts it, and the noise looks smaller.

    Qin, Kumar, Alleaume, Phys. Rev. A 94, 012325 (2016).
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses displaced")
    displacement: Any = struct.field(default=0.0, unit="sqrt(SNU)", low=-1e3, high=1e3, doc="of the mean")
    limit: Any = struct.field(default=20.0, unit="sqrt(SNU)", low=1e-3, high=1e3, doc="receiver's range is +- this")
    intercepted_fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="of the displaced pulses")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        x, p = self.fraction, self.intercepted_fraction
        v, mean, kurtosis = honest.quadrature_variance, honest.quadrature_mean, honest.quadrature_kurtosis
        scale = honest.receiver_efficiency * honest.channel_transmittance
        noisy = v + p * FULL_INTERCEPT_NOISE * scale
        cut = clipped_moments(mean + self.displacement, jnp.sqrt(noisy), self.limit)
        # Moments of the mixture, as changes of the honest ones: nothing moves where x = 0.
        gap = cut.mean - mean
        own, other = (1 - x) * gap, x * gap
        change = (cut.variance - v) + (1 - x) * gap * gap
        after = v + x * change
        # a variance of a few roundings has no fourth moment to speak of
        resolved = jnp.where(after > _ROUNDINGS * jnp.finfo(after.dtype).eps * noisy, after, 0)
        fourth = (
            cut.fourth
            + 4 * cut.third * own
            + 6 * cut.variance * own * own
            + own * own * own * own
            + (1 - x) * gap * (6 * v * other + other * other * other)
            - kurtosis * (v * v + 2 * v * change + x * change * change)
        )
        slope = mixed(jnp.ones_like(x), cut.linear_gain, x)
        slope2 = jnp.maximum(slope * slope, _MIN_SLOPE_SQUARED)
        signal = honest.modulation_variance + honest.excess_noise
        noise = honest.excess_noise + signal * (1 / slope2 - 1) + ratio(x * change, scale) / slope2
        attacked = struct.replace(
            honest,
            quadrature_mean=mean + x * gap,
            quadrature_variance=jnp.maximum(after, 0),
            quadrature_kurtosis=jnp.maximum(kurtosis + ratio(ratio(x * fourth, resolved), resolved), 1),
            channel_transmittance=honest.channel_transmittance * slope2,
            excess_noise=noise,
        )
        true_noise = honest.excess_noise + x * p * FULL_INTERCEPT_NOISE
        return attacked, _worth(x * p, true_noise - noise)


@struct.dataclass
class ClippedMoments:
    """A Gaussian whose values beyond a limit are set to it."""

    mean: Any = struct.field(doc="mean")
    variance: Any = struct.field(low=0.0, doc="variance")
    third: Any = struct.field(doc="third central moment")
    fourth: Any = struct.field(low=0.0, doc="fourth central moment")
    linear_gain: Any = struct.field(low=0.0, high=1.0, doc="P(|x| < limit), slope of the mean against a small signal")


def clipped_moments(mean: ArrayLike, std: ArrayLike, limit: ArrayLike) -> ClippedMoments:
    """Moments of a Gaussian clipped to +-limit, all arguments `(...)`, `std` at least 1e-6 of the limit.

    A signal under the Gaussian passes with slope P(|x| < limit) (Bussgang's theorem). Absolute errors are a few
    roundings of std^n; a Gaussian that lies whole beyond the limit keeps no digit of its variance.
    """
    m, s, top = as_float(mean, std, limit)
    sign = jnp.where(m < 0, -1, 1).astype(m.dtype)
    m = jnp.abs(m)
    s = jnp.maximum(s, 1e-6 * top)
    low, high = (jnp.clip((edge - m) / s, -40, 40) for edge in (-top, top))
    density_low, density_high = (jnp.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (low, high))
    inside, below, above = ndtr(high) - ndtr(low), ndtr(low), ndtr(-high)
    # partial moments of the standard normal between the limits
    i1 = density_low - density_high
    i2 = inside + low * density_low - high * density_high
    i3 = 2 * i1 + low * low * density_low - high * high * density_high
    i4 = 3 * i2 + low * low * low * density_low - high * high * high * density_high
    # about the point nearest to the mean, so that neither a free nor a saturated Gaussian subtracts large numbers
    centre = jnp.minimum(m, top)
    d, down, up = m - centre, -top - centre, top - centre
    d2, s2, down2, up2 = d * d, s * s, down * down, up * up
    e1 = d * inside + s * i1 + below * down + above * up
    e2 = d2 * inside + 2 * d * s * i1 + s2 * i2 + below * down2 + above * up2
    e3 = d2 * d * inside + 3 * d2 * s * i1 + 3 * d * s2 * i2 + s2 * s * i3 + below * down2 * down + above * up2 * up
    e4 = d2 * d2 * inside + 4 * d2 * d * s * i1 + 6 * d2 * s2 * i2 + 4 * d * s2 * s * i3 + s2 * s2 * i4
    e4 = e4 + below * down2 * down2 + above * up2 * up2
    variance = e2 - e1 * e1
    third = e3 - 3 * e1 * e2 + 2 * e1 * e1 * e1
    fourth = e4 - 4 * e1 * e3 + 6 * e1 * e1 * e2 - 3 * e1 * e1 * e1 * e1
    return ClippedMoments(
        mean=sign * (centre + e1),
        variance=jnp.maximum(variance, 0),
        third=sign * third,
        fourth=jnp.maximum(fourth, 0),
        linear_gain=jnp.clip(inside, 0, 1),
    )

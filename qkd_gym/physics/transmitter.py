"""What a sender's intensity modulator really emits: extinction, bias drift, noise, memory of the previous pulse.

Intensities are mean photon numbers per pulse on a last axis `(..., k)`. A Mach-Zehnder modulator is driven to the phase
that would give the wished transmittance; a bias error adds to that phase and hits the dark states hardest.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import NEPER_PER_DB, as_float
from qkd_gym.physics.interference import leakage_ratio, modulator_transmittance


@struct.dataclass
class Modulator:
    """An intensity modulator and its driver."""

    extinction_db: Any = struct.field(
        default=26.0, unit="dB", low=0.0, high=100.0, doc="full on over full off, at the right bias"
    )
    bias_error_rad: Any = struct.field(
        default=0.0, unit="rad", low=-math.pi, high=math.pi, doc="phase by which the bias is off"
    )
    intensity_noise: Any = struct.field(
        default=0.0, low=0.0, high=1.0, doc="relative standard deviation, pulse to pulse; 0.01-0.03 (design value)"
    )
    pattern_memory: Any = struct.field(
        default=0.0, low=0.0, high=1.0,
        doc="share of the step from the previous pulse that is missing; 0.01-0.05 at GHz clocks (design value)",
    )  # fmt: skip


# ---- extinction and bias ------------------------------------------------------------------------------------------


def drive_phase_rad(transmittance: ArrayLike, extinction_db: ArrayLike) -> Float[Array, "..."]:
    """Phase in [0, pi] that gives a transmittance at the right bias; pi for anything below the extinguished state.

    Inverse of `interference.modulator_transmittance`: sin^2(phase/2) = (1 - T)/(1 - r).
    """
    t, er = as_float(transmittance, extinction_db)
    r = leakage_ratio(er)
    span = -jnp.expm1(-NEPER_PER_DB * er)  # 1 - r
    works = span > 0
    # the angle from both legs: precise at both ends
    sine = jnp.clip(1 - t, 0, span)
    cosine = jnp.clip(t - r, 0, span)
    ends = (sine <= 0) | (cosine <= 0)
    angle = 2 * jnp.arctan2(jnp.sqrt(jnp.where(ends, 1, sine)), jnp.sqrt(jnp.where(ends, 1, cosine)))
    edge = jnp.where(sine <= 0, 0, math.pi)
    return jnp.where(works, jnp.where(ends, edge, angle), 0)


def emitted_intensities(modulator: Modulator, wished: ArrayLike) -> Float[Array, "... k"]:
    """Mean photon numbers that leave when `wished` `(..., k)` are set, the strongest of them at full transmission.

    At the right bias only what lies below the extinguished state changes: a "vacuum" is the strongest x 10^(-ER/10).
    """
    (mu,) = as_float(wished)
    er, bias = (x[..., None] for x in as_float(modulator.extinction_db, modulator.bias_error_rad))
    strongest = jnp.max(mu, axis=-1, keepdims=True)
    light = strongest > 0
    er, bias = jnp.broadcast_to(er, mu.shape), jnp.broadcast_to(bias, mu.shape)
    wish = jnp.where(light, mu / jnp.where(light, strongest, 1), 0)
    return strongest * modulator_transmittance(drive_phase_rad(wish, er) + bias, er)


def effective_extinction_db(modulator: Modulator) -> Float[Array, "..."]:
    """Extinction between "on" and "off" with the bias error in both."""
    er, bias = as_float(modulator.extinction_db, modulator.bias_error_rad)
    on, off = modulator_transmittance(bias, er), modulator_transmittance(math.pi - bias, er)
    return (jnp.log(on) - jnp.log(off)) / NEPER_PER_DB


def mean_leakage(extinction_db: ArrayLike, bias_variance: ArrayLike) -> Float[Array, "..."]:
    """Mean transmittance of the "off" state under a normal bias error: r + (1 - r)(1 - e^(-Var/2))/2.

    Dither control leaves 5-20 mrad rms (design value): 6-100 ppm, a floor at 52-40 dB.
    """
    er, variance = as_float(extinction_db, bias_variance)
    span = -jnp.expm1(-NEPER_PER_DB * er)
    return leakage_ratio(er) - span * jnp.expm1(-variance / 2) / 2


# ---- noise --------------------------------------------------------------------------------------------------------


def noisy_vacuum_prob(mean_photons: ArrayLike, intensity_noise: ArrayLike) -> Float[Array, "..."]:
    """Mean of e^(-mu) over gamma-distributed intensities, (1 + mu v)^(-1/v), v the squared relative noise.

    With eta mu for mu: the chance that nothing arrives. Larger than e^(-mean): noise loses clicks.
    """
    mu, noise = as_float(mean_photons, intensity_noise)
    x = mu * noise * noise
    small = x < 1e-3
    t = jnp.where(small, x, 0)
    # ln(1 + x)/x
    slope = jnp.where(small, 1 - t * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t / 5))), jnp.log1p(x) / jnp.where(small, 1, x))
    return jnp.exp(-mu * slope)


def intensity_bounds(
    intensities: ArrayLike, relative_deviation: ArrayLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(lower, upper)` intensities under a relative deviation: put each into a bound where it hurts more."""
    mu, deviation = as_float(intensities, relative_deviation)
    return mu * jnp.maximum(1 - deviation, 0), mu * (1 + deviation)


# ---- memory -------------------------------------------------------------------------------------------------------


def pattern_intensities(intensities: ArrayLike, pattern_memory: ArrayLike) -> Float[Array, "... k k"]:
    """Intensity of pulse k (row) after pulse j (column): mu_k + m (mu_j - mu_k), a driver of finite bandwidth.

    Args:
        intensities: `(..., k)`. pattern_memory: `(...)`.
    """
    mu, memory = as_float(intensities, pattern_memory)
    now, before = mu[..., :, None], mu[..., None, :]
    return now + jnp.broadcast_to(memory[..., None, None], (*mu.shape, mu.shape[-1])) * (before - now)


def pattern_mean_intensities(
    intensities: ArrayLike, probabilities: ArrayLike, pattern_memory: ArrayLike
) -> Float[Array, "... k"]:
    """Mean intensity of each kind of pulse, over what came before it; `probabilities` `(..., k)`."""
    mu, p, memory = as_float(intensities, probabilities, pattern_memory)
    average = jnp.sum(mu * p, axis=-1, keepdims=True)
    return mu + jnp.broadcast_to(memory[..., None], mu.shape) * (average - mu)


def pattern_deviation(intensities: ArrayLike, pattern_memory: ArrayLike) -> Float[Array, "... k"]:
    """Largest relative deviation of each intensity over the previous pulse; inf where a wished 0 becomes light.

    A few per cent of the signal are many per cent of a weak decoy that follows it.
    """
    (mu,) = as_float(intensities)
    excess = jnp.max(jnp.abs(pattern_intensities(mu, pattern_memory) - mu[..., :, None]), axis=-1)
    light = mu > 0
    return jnp.where(light, excess / jnp.where(light, mu, 1), jnp.where(excess > 0, jnp.inf, 0))

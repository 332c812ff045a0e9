"""Errors of interferometers and of the states that a sender prepares.

All errors are probabilities per detected photon. Independent small errors add; `combine_errors` is exact for
independent flips.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.information import NEPER_PER_DB, as_float


def visibility_qber(visibility: ArrayLike) -> Float[Array, "..."]:
    """Error rate (1 - V)/2 of an interferometer with visibility V."""
    (v,) = as_float(visibility)
    return (1 - v) / 2


def visibility_with_offset(visibility: ArrayLike, phase_rad: ArrayLike) -> Float[Array, "..."]:
    """Visibility behind a constant residual phase, V cos(phase)."""
    v, phase = as_float(visibility, phase_rad)
    return v * jnp.cos(phase)


def visibility_with_noise(visibility: ArrayLike, phase_variance: ArrayLike) -> Float[Array, "..."]:
    """Visibility behind Gaussian phase noise, V e^(-Var/2)."""
    v, variance = as_float(visibility, phase_variance)
    return v * jnp.exp(-variance / 2)


def jones_angle_qber(angle_rad: ArrayLike) -> Float[Array, "..."]:
    """Error rate sin^2(theta) of a polarisation turned by a Jones angle (half the Stokes angle)."""
    (theta,) = as_float(angle_rad)
    s = jnp.sin(theta)
    return s * s


def combine_errors(*errors: ArrayLike) -> Float[Array, "..."]:
    """Error rate of independent flips together: 1 - 2e = prod(1 - 2 e_i)."""
    values = as_float(*errors)
    total = values[0]
    for e in values[1:]:
        total = total + e - 2 * total * e
    return total


def extinction_qber(extinction_db: ArrayLike) -> Float[Array, "..."]:
    """Error rate of time bins with finite intensity extinction, 1 / (1 + 10^(ER/10))."""
    r = leakage_ratio(extinction_db)
    return r / (1 + r)


def leakage_ratio(extinction_db: ArrayLike) -> Float[Array, "..."]:
    """Share 10^(-ER/10) of the strongest intensity that "vacuum" still carries: 26 dB leaves 0.0025."""
    (er,) = as_float(extinction_db)
    return jnp.exp(-NEPER_PER_DB * er)


def modulator_transmittance(phase_rad: ArrayLike, extinction_db: ArrayLike) -> Float[Array, "..."]:
    """Mach-Zehnder intensity modulator, (1 + V cos(phase)) / (1 + V) with V = (1-r)/(1+r), r the leakage ratio.

    Written as cos^2(phase/2) + r sin^2(phase/2): the extinguished state keeps its digits.
    """
    r = leakage_ratio(extinction_db)
    (phase,) = as_float(phase_rad)
    s = jnp.sin(phase / 2)
    s2 = s * s
    return (1 - s2) + r * s2


def coin_phase_error(bit_error: ArrayLike, coin_imbalance: ArrayLike) -> Float[Array, "..."]:
    """Phase error of a source whose states betray the basis: the quantum-coin bound of GLLP.

    e + 4 D (1-D)(1-2e) + 4 (1-2D) sqrt(D (1-D) e (1-e)), D the coin imbalance divided by the single-photon yield;
    1/2 for D >= 1/2. Lucamarini et al., Phys. Rev. X 5, 031030 (2015).
    """
    e, d = as_float(bit_error, coin_imbalance)
    inside = (d < 0.5) & (d >= 0)
    safe = jnp.where(inside, d, 0.25)
    spread = safe * (1 - safe)
    product = spread * e * (1 - e)
    root = jnp.where(product > 0, jnp.sqrt(jnp.where(product > 0, product, 1)), 0)
    value = e + 4 * spread * (1 - 2 * e) + 4 * (1 - 2 * safe) * root
    return jnp.where(inside, jnp.clip(value, 0, 0.5), 0.5)


def flawed_state_phase_error(
    bit_error: ArrayLike, fidelity: ArrayLike, single_photon_yield: ArrayLike, loss_tolerant: bool = False
) -> Float[Array, "..."]:
    """Phase error with imperfect states, `fidelity` that of the two bases' mixed states.

    GLLP lets Eve use loss to raise the imbalance (1 - F)/2 by 1/yield. The loss-tolerant protocol (Tamaki et al., Phys.
    Rev. A 90, 052314 (2014)) pays nothing for flaws inside the qubit space, here up to 0.15 rad.
    """
    e, f, y = as_float(bit_error, fidelity, single_photon_yield)
    if loss_tolerant:
        return jnp.clip(e, 0, 0.5)
    positive: Array = y > 0
    return coin_phase_error(e, jnp.where(positive, (1 - f) / 2 / jnp.where(positive, y, 1), 1))

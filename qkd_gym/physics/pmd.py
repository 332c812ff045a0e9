"""Polarisation-mode dispersion: what a spread of arrival times between two polarisations costs a broad pulse.

First order, Gaussian spectrum, launch averaged over the Poincare sphere. The differential group delay (DGD) of a long
fibre follows Maxwell's law about its mean. Negligible for spectra below 10 GHz on new fibre.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.detectors import FWHM_PER_SIGMA
from qkd_gym.physics.information import as_float

#: Mean DGD over the square root of length, ps/sqrt(km): (low, typical, high). Design values.
PMD_PS_PER_SQRT_KM: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"new": (0.04, 0.05, 0.1), "old": (0.1, 0.5, 1.0)}
)


@struct.dataclass
class PmdLink:
    """A fibre and the spectrum that it carries."""

    pmd_ps_per_sqrt_km: Any = struct.field(
        default=0.1, unit="ps/sqrt(km)", low=0.0, high=10.0, doc="mean DGD coefficient; 0.04-0.1 new, 0.5 old fibre"
    )
    length_km: Any = struct.field(default=50.0, unit="km", low=0.0, high=2000.0, doc="length")
    spectral_fwhm_ghz: Any = struct.field(
        default=10.0, unit="GHz", low=0.0, high=1e4, doc="full width of the optical spectrum (power)"
    )


def mean_dgd_ps(link: PmdLink) -> Float[Array, "..."]:
    """Mean differential group delay D sqrt(L)."""
    coefficient, length = as_float(link.pmd_ps_per_sqrt_km, link.length_km)
    positive = length > 0
    return coefficient * jnp.where(positive, jnp.sqrt(jnp.where(positive, length, 1)), 0)


def dgd_from_normals_ps(link: PmdLink, normals: ArrayLike) -> Float[Array, "..."]:
    """A DGD drawn from Maxwell's law: the length of a Gaussian vector, from `normals` `(..., 3)`."""
    (z,) = as_float(normals)
    x, y, w = z[..., 0], z[..., 1], z[..., 2]
    return mean_dgd_ps(link) * math.sqrt(math.pi / 8) * jnp.sqrt(x * x + y * y + w * w)


def depolarisation_qber(dgd_ps: ArrayLike, spectral_fwhm_ghz: ArrayLike) -> Float[Array, "..."]:
    """Error rate (1 - DOP)/2 = (1 - e^(-s^2 tau^2 / 2)) / 3 at a DGD tau; s the angular rms width of the spectrum."""
    phase = _phase_rad(*as_float(dgd_ps, spectral_fwhm_ghz))
    return -jnp.expm1(-phase * phase / 2) / 3


def degree_of_polarisation(dgd_ps: ArrayLike, spectral_fwhm_ghz: ArrayLike) -> Float[Array, "..."]:
    """DOP averaged over the launch, (1 + 2 e^(-s^2 tau^2 / 2)) / 3."""
    return 1 - 2 * depolarisation_qber(dgd_ps, spectral_fwhm_ghz)


def qber_at_mean_dgd(link: PmdLink) -> Float[Array, "..."]:
    """Error rate of a fibre whose DGD is the mean one."""
    return depolarisation_qber(mean_dgd_ps(link), link.spectral_fwhm_ghz)


def mean_qber(link: PmdLink) -> Float[Array, "..."]:
    """Error rate averaged over Maxwell's law: (1 - (1 + pi s^2 tau^2 / 8)^(-3/2)) / 3, tau the mean DGD."""
    phase = _phase_rad(mean_dgd_ps(link), *as_float(link.spectral_fwhm_ghz))
    return -jnp.expm1(-1.5 * jnp.log1p(math.pi / 8 * phase * phase)) / 3


def _phase_rad(dgd_ps: Array, fwhm_ghz: Array) -> Array:
    """s tau: the rms phase between the polarisations over the spectrum."""
    return (2 * math.pi * 1e-3 / FWHM_PER_SIGMA) * fwhm_ghz * dgd_ps

"""Optical fibre: loss, delay, and what temperature does to them.

A loss of a dB transmits e^(-0.230 a); powers of ten are never taken as powers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import NEPER_PER_DB, as_float

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
#: Group index of standard single-mode fibre at 1550 nm.
GROUP_INDEX = 1.468
#: Change of delay with temperature, ps per km and K (37-40 for standard coated fibre; design value).
DELAY_PS_PER_KM_K = 37.0

#: Attenuation in dB/km by kind of fibre: (low, typical, high). Typical figures of the class.
ATTENUATION_DB_PER_KM: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "standard-1550nm": (0.18, 0.20, 0.20),
        "standard-1310nm": (0.32, 0.33, 0.35),
        "ultra-low-loss-1550nm": (0.155, 0.16, 0.17),
        "deployed-metro-1550nm": (0.25, 0.30, 0.50),
    }
)
#: Insertion loss in dB by component: (low, high).
INSERTION_LOSS_DB: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"connector": (0.2, 0.5), "splice": (0.02, 0.1), "dwdm-filter": (0.5, 2.5), "optical-switch": (0.5, 1.0)}
)


@struct.dataclass
class Fibre:
    """A stretch of fibre with its fixed losses."""

    length_km: Any = struct.field(default=50.0, unit="km", low=0.0, high=2000.0, doc="length")
    loss_db_per_km: Any = struct.field(default=0.2, unit="dB/km", low=0.0, high=5.0, doc="attenuation")
    insertion_loss_db: Any = struct.field(
        default=0.0, unit="dB", low=0.0, high=60.0, doc="connectors, filters, switches"
    )

    @property
    def loss_db(self) -> Float[Array, "..."]:
        """Total loss in dB."""
        length, alpha, fixed = as_float(self.length_km, self.loss_db_per_km, self.insertion_loss_db)
        return alpha * length + fixed

    @property
    def transmittance(self) -> Float[Array, "..."]:
        """Share of light that arrives."""
        return transmittance_from_db(self.loss_db)


def transmittance_from_db(loss_db: ArrayLike) -> Float[Array, "..."]:
    """Transmittance 10^(-loss/10), as an exponential."""
    (loss,) = as_float(loss_db)
    return jnp.exp(-NEPER_PER_DB * loss)


def loss_db_from_transmittance(transmittance: ArrayLike) -> Float[Array, "..."]:
    """Loss -10 log10(eta) in dB; inf at 0."""
    (eta,) = as_float(transmittance)
    return -jnp.log(eta) / NEPER_PER_DB


def group_delay_s(length_km: ArrayLike, group_index: ArrayLike = GROUP_INDEX) -> Float[Array, "..."]:
    """Propagation time, 4.9 us per km."""
    length, index = as_float(length_km, group_index)
    return length * 1e3 * index / SPEED_OF_LIGHT_M_PER_S


def thermal_delay_ps(
    length_km: ArrayLike, temperature_change_k: ArrayLike, ps_per_km_k: ArrayLike = DELAY_PS_PER_KM_K
) -> Float[Array, "..."]:
    """Change of delay by a change of the fibre's temperature."""
    length, change, coefficient = as_float(length_km, temperature_change_k, ps_per_km_k)
    return length * change * coefficient


def thermal_phase_rad(
    length_km: ArrayLike,
    temperature_change_k: ArrayLike,
    wavelength_nm: ArrayLike = 1550.0,
    ps_per_km_k: ArrayLike = DELAY_PS_PER_KM_K,
) -> Float[Array, "..."]:
    """Change of optical phase, 2 pi (c / wavelength) x delay: about 4.5e4 rad per km and K."""
    delay, wavelength = as_float(thermal_delay_ps(length_km, temperature_change_k, ps_per_km_k), wavelength_nm)
    return 2 * math.pi * SPEED_OF_LIGHT_M_PER_S * 1e-3 * delay / wavelength

"""Photons from power: constants of nature and the units of a power meter.

h and k_B are exact by the definition of the SI (2019).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.fibre import SPEED_OF_LIGHT_M_PER_S
from qkd_gym.physics.information import NEPER_PER_DB, as_float

PLANCK_J_S = 6.62607015e-34
BOLTZMANN_J_PER_K = 1.380649e-23
#: Photons per mW, ns and nm of wavelength. Formed once: h c alone is a subnormal distance from float32's end.
PHOTONS_PER_MW_NS_NM = 1e-21 / (PLANCK_J_S * SPEED_OF_LIGHT_M_PER_S)


def photons_in_gate(power_mw: ArrayLike, gate_ns: ArrayLike, wavelength_nm: ArrayLike) -> Float[Array, "..."]:
    """Mean number of photons P t lambda / (h c) of a power in mW during a gate in ns."""
    power, gate, wavelength = as_float(power_mw, gate_ns, wavelength_nm)
    return PHOTONS_PER_MW_NS_NM * wavelength * gate * power


def mw_from_dbm(power_dbm: ArrayLike) -> Float[Array, "..."]:
    """Power in mW from dBm."""
    (dbm,) = as_float(power_dbm)
    return jnp.exp(NEPER_PER_DB * dbm)


def frequency_thz(wavelength_nm: ArrayLike) -> Float[Array, "..."]:
    """Optical frequency c / lambda."""
    (wavelength,) = as_float(wavelength_nm)
    return SPEED_OF_LIGHT_M_PER_S * 1e-3 / wavelength


def click_prob(mean_counts: ArrayLike) -> Float[Array, "..."]:
    """Probability 1 - e^(-n) that Poissonian light with a mean of n counts fires a threshold detector."""
    (n,) = as_float(mean_counts)
    return -jnp.expm1(-n)

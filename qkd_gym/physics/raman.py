"""Spontaneous Raman noise from classical channels in the same fibre, and other light that leaks through the filter.

Eraerds, Walenta, Legre, Gisin, Zbinden, New J. Phys. 12, 063027 (2010). Directions are those of the classical light
with respect to the quantum light at the quantum receiver. All counts are for the *whole* receiver: half goes to
each of two detectors, the whole adds to the background yield Y0. Four-wave mixing is left out: it needs equally spaced
channels in a fibre of low dispersion.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import NEPER_PER_DB, as_float
from qkd_gym.physics.light import BOLTZMANN_J_PER_K, PLANCK_J_S, click_prob, frequency_thz, photons_in_gate

#: Spontaneous Raman coefficient on the Stokes side of the pump, 1/(km nm), at these frequency shifts in THz. A design
#: curve good to +-50 %: 2e-9 within 20 nm of a C-band pump, 4.5e-9 near 95 nm, and at 36 THz what leaves 5e-12 at
#: 1310 nm of a 1550 nm pump on the anti-Stokes side.
STOKES_SHIFT_THZ = (0.0, 2.5, 12.0, 36.0)
STOKES_COEFFICIENT_PER_KM_NM = (2e-9, 2e-9, 4.5e-9, 1.5e-9)


@struct.dataclass
class ClassicalChannels:
    """Classical channels; every field is one channel or an array whose last axis runs over them."""

    launch_power_mw: Any = struct.field(default=1.0, unit="mW", low=0.0, high=1e4, doc="power launched into the fibre")
    raman_coefficient_per_km_nm: Any = struct.field(
        default=2e-9, unit="1/(km nm)", low=0.0, high=1e-6, doc="rho; 1.5-3e-9 in the C band, 5e-12 at 1310 nm"
    )
    loss_db_per_km: Any = struct.field(
        default=0.2, unit="dB/km", low=0.0, high=5.0, doc="attenuation of the classical light"
    )
    counter_propagating: Any = struct.field(
        default=0.0, low=0.0, high=1.0, doc="1: runs against the quantum light, 0: along with it"
    )


@struct.dataclass
class NoiseReceiver:
    """The quantum receiver as noise meets it."""

    wavelength_nm: Any = struct.field(default=1550.0, unit="nm", low=300.0, high=3000.0, doc="quantum wavelength")
    loss_db_per_km: Any = struct.field(
        default=0.2, unit="dB/km", low=0.0, high=5.0, doc="attenuation at the quantum wavelength"
    )
    filter_nm: Any = struct.field(default=0.1, unit="nm", low=0.0, high=200.0, doc="width of the optical filter")
    gate_ns: Any = struct.field(default=1.0, unit="ns", low=0.0, high=1e6, doc="gate of the detectors")
    efficiency: Any = struct.field(default=0.1, low=0.0, high=1.0, doc="receiver optics and detector")


# ---- power at the receiver ----------------------------------------------------------------------------------------


def co_propagating_length_km(
    length_km: ArrayLike, classical_db_per_km: ArrayLike, quantum_db_per_km: ArrayLike
) -> Float[Array, "..."]:
    """(e^(-a_c L) - e^(-a_q L)) / (a_q - a_c): what scatters along the way, and survives to the far end; L e^(-a L)
    for equal attenuations."""
    length, ac, aq = as_float(length_km, classical_db_per_km, quantum_db_per_km)
    ac, aq = NEPER_PER_DB * ac, NEPER_PER_DB * aq
    half = (aq - ac) * length / 2
    square = half * half
    near = square < 1
    t = jnp.where(near, square, 0)
    # sinh(x)/x, even in the difference: smooth where the attenuations are equal
    series = 1 + t / 6 * (1 + t / 20 * (1 + t / 42 * (1 + t / 72 * (1 + t / 110 * (1 + t / 156 * (1 + t / 210))))))
    close = jnp.exp(-(ac + aq) / 2 * length) * series
    apart = jnp.exp(-jnp.minimum(ac, aq) * length) * _mean_decay(2 * jnp.abs(jnp.where(near, 1, half)))
    return length * jnp.where(near, close, apart)


def counter_propagating_length_km(
    length_km: ArrayLike, classical_db_per_km: ArrayLike, quantum_db_per_km: ArrayLike
) -> Float[Array, "..."]:
    """(1 - e^(-(a_c + a_q) L)) / (a_c + a_q): back-scattered light, which saturates with length."""
    length, ac, aq = as_float(length_km, classical_db_per_km, quantum_db_per_km)
    return length * _mean_decay(NEPER_PER_DB * (ac + aq) * length)


def noise_power_mw(channels: ClassicalChannels, receiver: NoiseReceiver, length_km: ArrayLike) -> Float[Array, "..."]:
    """Raman power within the filter at the far end, per channel, mW: P rho dlambda times the effective length."""
    power, rho, ac, counter, aq, width, length = as_float(
        channels.launch_power_mw,
        channels.raman_coefficient_per_km_nm,
        channels.loss_db_per_km,
        channels.counter_propagating,
        receiver.loss_db_per_km,
        receiver.filter_nm,
        length_km,
    )
    along, against = co_propagating_length_km(length, ac, aq), counter_propagating_length_km(length, ac, aq)
    return power * rho * width * (along + counter * (against - along))


def launch_power_mw(
    received_power_mw: ArrayLike, length_km: ArrayLike, loss_db_per_km: ArrayLike
) -> Float[Array, "..."]:
    """Launch power that leaves a stated power at the classical receiver, P e^(a L)."""
    received, length, loss = as_float(received_power_mw, length_km, loss_db_per_km)
    return received * jnp.exp(NEPER_PER_DB * loss * length)


def leaked_power_mw(received_power_mw: ArrayLike, isolation_db: ArrayLike) -> Float[Array, "..."]:
    """Classical light that a filter of finite isolation lets through to the quantum receiver."""
    received, isolation = as_float(received_power_mw, isolation_db)
    return received * jnp.exp(-NEPER_PER_DB * isolation)


# ---- counts -------------------------------------------------------------------------------------------------------


def counts_per_gate(noise_mw: ArrayLike, receiver: NoiseReceiver) -> Float[Array, "..."]:
    """Mean counts per gate of the whole receiver from noise power in its filter; add it to Y0 while it is small."""
    power, efficiency = as_float(noise_mw, receiver.efficiency)
    return efficiency * photons_in_gate(power, receiver.gate_ns, receiver.wavelength_nm)


def noise_prob_per_detector(noise_mw: ArrayLike, receiver: NoiseReceiver) -> Float[Array, "..."]:
    """Probability per gate that noise fires one of two detectors, 1 - e^(-n/2); adds to its dark count probability."""
    return click_prob(counts_per_gate(noise_mw, receiver) / 2)


# ---- coefficient --------------------------------------------------------------------------------------------------


def raman_coefficient_per_km_nm(
    quantum_nm: ArrayLike, pump_nm: ArrayLike, temperature_k: ArrayLike = 293.0
) -> Float[Array, "..."]:
    """Coefficient rho from the design curve: log-linear in the shift; the anti-Stokes side carries e^(-h nu / k T).

    Good to +-50 %: measure your fibre. Beyond 36 THz the curve stays level.
    """
    quantum, pump, temperature = as_float(quantum_nm, pump_nm, temperature_k)
    shift = frequency_thz(pump) - frequency_thz(quantum)  # positive on the Stokes side
    nodes = jnp.asarray(STOKES_SHIFT_THZ, shift.dtype)
    logs = jnp.asarray(np.log(STOKES_COEFFICIENT_PER_KM_NM), shift.dtype)
    anti = jnp.maximum(-shift, 0)
    return jnp.exp(
        jnp.interp(jnp.abs(shift), nodes, logs) - (PLANCK_J_S * 1e12 / BOLTZMANN_J_PER_K) * anti / temperature
    )


def _mean_decay(x: Array) -> Array:
    """(1 - e^-x) / x for x >= 0, 1 at 0, to full precision and with its slope."""
    small = x < 1e-2
    t = jnp.where(small, x, 0)
    series = 1 - t / 2 * (1 - t / 3 * (1 - t / 4 * (1 - t / 5 * (1 - t / 6 * (1 - t / 7)))))
    safe = jnp.where(small, 1, x)
    return jnp.where(small, series, -jnp.expm1(-safe) / safe)

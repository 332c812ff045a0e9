"""Quantum channels beside classical ones in one fibre: noise of each lit channel, key of a minute, traffic's comings.

Noise: spontaneous Raman scattering of every lit classical channel (`qkd_gym.physics.raman`), and what its neighbours
leak through the quantum filter. Key: two-decoy BB84 with finite statistics (`qkd_gym.physics.finite_key`). Arrays run
over links, quantum wavelengths (`waves`), classical positions (`channels`).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qkd_gym import struct
from qkd_gym.envs.network.links import Devices
from qkd_gym.physics import raman
from qkd_gym.physics.finite_key import ClickProbs, Distillation, expected_counts, lim_channel, two_decoy_key
from qkd_gym.physics.information import NEPER_PER_DB
from qkd_gym.physics.light import mw_from_dbm

#: What a classical position holds: nothing, a lightpath of the common format, or one of the high format.
DARK, COMMON, HIGH = 0, 1, 2


@struct.dataclass
class Coexistence(Devices):
    """Fibres, transceivers and classical traffic of a network. Defaults are design values where no source is named."""

    # the grid: classical channels at a 200 GHz spacing, quantum ones half way between or in the O band
    quantum_nm: Any = struct.field(
        default=(1310.0, 1539.0, 1542.2, 1547.0, 1551.8, 1555.0),
        low=1200.0,
        high=1700.0,
        unit="nm",
        doc="quantum wavelengths (waves,)",
    )
    classical_nm: Any = struct.field(
        default=tuple(1538.2 + 1.6 * i for i in range(12)),
        low=1200.0,
        high=1700.0,
        unit="nm",
        doc="classical wavelengths (channels,)",
    )
    # fibres
    length_km: Any = struct.field(default=(40.0,), low=0.0, high=200.0, unit="km", doc="of each link (links,)")
    loss_db_per_km: float = struct.field(default=0.2, low=0.0, high=5.0, unit="dB/km", doc="C band, G.652.D")
    o_band_loss_db_per_km: float = struct.field(default=0.33, low=0.0, high=5.0, unit="dB/km", doc="O band, G.652.D")
    extra_loss_db: Any = struct.field(default=(1.0,), low=0.0, high=30.0, unit="dB", doc="splices, filters (links,)")
    raman_factor: Any = struct.field(
        default=(1.0,), low=0.0, high=10.0, doc="Raman coefficient of the fibre over the design curve (links,)"
    )
    neighbour_isolation_db: Any = struct.field(
        default=72.0, low=0.0, high=200.0, unit="dB", doc="of the quantum filters against neighbours (links, waves)"
    )
    far_isolation_db: float = struct.field(
        default=110.0, low=0.0, high=200.0, unit="dB", doc="against all other classical channels"
    )
    guard_nm: float = struct.field(default=1.2, low=0.0, high=50.0, unit="nm", doc="closer channels are neighbours")
    # quantum light
    misalignment_error: Any = struct.field(
        default=(0.005,), low=0.0, high=0.2, doc="optical error probability (links,)"
    )
    filter_nm: float = struct.field(default=0.1, low=0.001, high=10.0, unit="nm", doc="width of the quantum filter")
    gate_ns: float = struct.field(default=0.2, low=0.01, high=10.0, unit="ns", doc="gate that noise falls into")
    intensities: Any = struct.field(
        default=(0.443, 0.216, 2e-4), low=0.0, high=2.0, unit="photon/pulse", doc="signal, decoy, vacuum (3,)"
    )
    probabilities: Any = struct.field(default=(0.59, 0.28, 0.13), low=0.0, high=1.0, doc="of the intensities (3,)")
    key_basis_prob: float = struct.field(default=0.895, low=0.01, high=0.999, doc="of both users")
    # classical transceivers
    high_sensitivity_dbm: float = struct.field(
        default=-20.0, low=-60.0, high=20.0, unit="dBm", doc="least power at the receiver of a high-format lightpath"
    )
    common_sensitivity_dbm: float = struct.field(
        default=-26.0, low=-60.0, high=20.0, unit="dBm", doc="the same of a common one"
    )
    launch_margin_db: float = struct.field(
        default=6.0, low=-20.0, high=40.0, unit="dB", doc="of full power over the high format, without extra loss"
    )
    power_step_db: float = struct.field(default=3.0, low=0.0, high=10.0, unit="dB", doc="between launch powers")
    # classical traffic
    hold_min: float = struct.field(default=45.0, low=1.0, unit="min", doc="mean life of a lightpath")
    quiet_min: float = struct.field(
        default=60.0, low=1.0, unit="min", doc="mean time to a lightpath at a free position, fibre quiet"
    )
    busy_min: float = struct.field(default=20.0, low=1.0, unit="min", doc="the same, fibre busy")
    regime_min: float = struct.field(default=120.0, low=1.0, unit="min", doc="mean time of a fibre quiet or busy")
    high_share: float = struct.field(default=0.2, low=0.0, high=1.0, doc="of lightpaths that take the high format")


# ---- light -----------------------------------------------------------------------------------------------------------


def loss_db_per_km(params: Any) -> Float[Array, " waves"]:
    """Attenuation at each quantum wavelength."""
    return jnp.where(params.quantum_nm < 1400.0, params.o_band_loss_db_per_km, params.loss_db_per_km)


def transmittance(params: Any) -> Float[Array, "links waves"]:
    """Channel and receiver together."""
    loss = params.length_km[:, None] * loss_db_per_km(params)[None] + params.extra_loss_db[:, None]
    return params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss)


def noise_per_channel(params: Any) -> Float[Array, "links waves channels"]:
    """Mean counts per gate of the whole quantum receiver from each classical channel, lit at full power."""
    length = params.length_km[:, None, None]
    quantum, classical = params.quantum_nm[None, :, None], params.classical_nm[None, None, :]
    launch_dbm = params.high_sensitivity_dbm + params.launch_margin_db + params.length_km * params.loss_db_per_km
    launch_mw = mw_from_dbm(launch_dbm)[:, None, None]
    receiver = raman.NoiseReceiver(
        wavelength_nm=quantum,
        loss_db_per_km=loss_db_per_km(params)[None, :, None],
        filter_nm=params.filter_nm,
        gate_ns=params.gate_ns,
        efficiency=params.receiver_efficiency,
    )
    channels = raman.ClassicalChannels(
        launch_power_mw=launch_mw,
        raman_coefficient_per_km_nm=raman.raman_coefficient_per_km_nm(quantum, classical)
        * params.raman_factor[:, None, None],
        loss_db_per_km=params.loss_db_per_km,
    )
    scattered = raman.noise_power_mw(channels, receiver, length)
    near = jnp.abs(quantum - classical) < params.guard_nm
    neighbour = jnp.broadcast_to(params.neighbour_isolation_db, (*scattered.shape[:2],))[..., None]
    received = launch_mw * jnp.exp(-NEPER_PER_DB * params.loss_db_per_km * length)
    leaked = raman.leaked_power_mw(received, jnp.where(near, neighbour, params.far_isolation_db))
    extra = jnp.exp(-NEPER_PER_DB * params.extra_loss_db)[:, None, None]
    return raman.counts_per_gate((scattered + leaked) * extra, receiver)


def power_factor(power: Array, params: Any) -> Array:
    """Launch power of a step over full power."""
    return jnp.exp(-NEPER_PER_DB * params.power_step_db * power)


def margin_db(power: Any, params: Any) -> tuple[Array, Array]:
    """(common, high): received power above the sensitivity of either format, of each link."""
    high = params.launch_margin_db - params.power_step_db * power - params.extra_loss_db
    return high + params.high_sensitivity_dbm - params.common_sensitivity_dbm, high


def cut_off(lit: Int[Array, "links channels"], power: Array, params: Any) -> tuple[Array, Array]:
    """(common, high): lightpaths of each link that get too little power, float32 `(links,)`."""
    common, high = margin_db(power, params)
    count = [jnp.sum(lit == kind, axis=-1, dtype=jnp.float32) for kind in (COMMON, HIGH)]
    return jnp.where(common < 0, count[0], 0.0), jnp.where(high < 0, count[1], 0.0)


# ---- key -------------------------------------------------------------------------------------------------------------


def click_probs(eta: Array, noise: Array, error: Any, params: Any) -> ClickProbs:
    """Clicks and errors per pulse and intensity, `(..., 3)`; half of the noise falls on each detector.

    Args:
        error: misalignment.
    """
    dark = params.dark_count_prob_per_gate + noise / 2
    return lim_channel(params.intensities, eta, dark, params.afterpulse_prob, error)


def block_bits(eta: Array, noise: Array, pulses: Array, error: Any, params: Any) -> Float[Array, "..."]:
    """Secret bits of a block of so many pulses under one noise; mean counts. Arguments broadcast."""
    clicks = click_probs(eta, noise, error, params)
    counts = expected_counts(pulses, params.key_basis_prob, params.probabilities, clicks, clicks)
    rules = Distillation(params.error_correction_efficiency, params.eps_sec, params.eps_cor)
    return two_decoy_key(counts, params.intensities, params.probabilities, rules).secret_bits


# ---- traffic ---------------------------------------------------------------------------------------------------------


def at_start(u: Float[Array, "links channels"], busy: Array, params: Any) -> Int[Array, "links channels"]:
    """Lit positions in the long run of each fibre's regime."""
    wait = jnp.where(busy, params.busy_min, params.quiet_min)[:, None]
    return _lights(u, params.hold_min / (params.hold_min + wait), params)


def comings(
    lit: Int[Array, "links channels"], u: Float[Array, "links channels"], busy: Array, minutes: Any, params: Any
) -> Int[Array, "links channels"]:
    """Lit positions some minutes later: free ones are taken, lightpaths end, all independently."""
    wait = jnp.where(busy, params.busy_min, params.quiet_min)[:, None]
    taken = _lights(u, -jnp.expm1(-minutes / wait), params)
    ends = u < -jnp.expm1(-minutes / params.hold_min)
    return jnp.where(lit == DARK, taken, jnp.where(ends, DARK, lit)).astype(jnp.int32)


def _lights(u: Array, chance: Array, params: Any) -> Array:
    return jnp.where(u < chance * params.high_share, HIGH, jnp.where(u < chance, COMMON, DARK)).astype(jnp.int32)


def occupancy(params: Any) -> Array:
    """Mean share of positions that are lit."""
    share = [params.hold_min / (params.hold_min + wait) for wait in (params.quiet_min, params.busy_min)]
    return (share[0] + share[1]) / 2

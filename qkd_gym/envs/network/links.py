"""Key that a fibre link makes in a finite-key block: the two-decoy BB84 of Lim 2014, for the network tasks."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.finite_key import ClickProbs, Distillation, expected_counts, lim_channel, two_decoy_key
from qkd_gym.physics.information import NEPER_PER_DB


@struct.dataclass
class Devices:
    """Transmitters, receivers and distillation of a network: those of Lim et al., PRA 89, 022307 (2014), at 1 GHz."""

    clock_hz: float = struct.field(default=1e9, low=1e6, high=1e10, unit="Hz", doc="pulse rate")
    receiver_efficiency: float = struct.field(default=0.1, low=1e-4, high=1.0, doc="detector and optics")
    dark_count_prob_per_gate: float = struct.field(default=6e-7, low=0.0, high=0.01, unit="1/gate", doc="per detector")
    afterpulse_prob: float = struct.field(default=0.04, low=0.0, high=0.5, doc="per click")
    error_correction_efficiency: float = struct.field(
        default=1.16, low=1.0, high=2.0, doc="disclosed bits per Shannon limit"
    )
    eps_sec: float = struct.field(default=1e-10, low=1e-20, high=1e-2, doc="secrecy parameter of a block")
    eps_cor: float = struct.field(default=1e-15, low=1e-30, high=1e-2, doc="correctness parameter of a block")


@struct.dataclass
class TwoDecoyDevices(Devices):
    """Those whose other intensities are chosen for the loss of each link."""

    vacuum_intensity: float = struct.field(
        default=2e-4, low=0.0, high=0.01, unit="photon/pulse", doc="weakest intensity"
    )


class Pulses(NamedTuple):
    """What a pulse does on a link with given settings; `...` are links."""

    intensities: Float[Array, "... 3"]
    probabilities: Float[Array, "... 3"]
    key_basis: Float[Array, "..."]  # probability
    clicks: ClickProbs


def transmittance(params: Devices, loss_db: ArrayLike) -> Float[Array, "..."]:
    """From the transmitter to a click, receiver included."""
    return params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * jnp.asarray(loss_db, jnp.float32))


def pulses_of(
    params: TwoDecoyDevices, settings: Float[Array, "... 5"], eta: Float[Array, "..."], misalignment_error: ArrayLike
) -> Pulses:
    """Clicks and errors per pulse, with `settings` (mu1, mu2, p1, p2, q) over a transmittance `eta`."""
    mu1, mu2, p1, p2, q = (settings[..., i] for i in range(5))
    mu = jnp.stack([mu1, mu2, jnp.full_like(mu1, params.vacuum_intensity)], axis=-1)
    p = jnp.stack([p1, p2, 1 - p1 - p2], axis=-1)
    error = jnp.broadcast_to(jnp.asarray(misalignment_error, jnp.float32), eta.shape)
    clicks = lim_channel(mu, eta, params.dark_count_prob_per_gate, params.afterpulse_prob, error)
    return Pulses(mu, p, q, clicks)


def secret_bits(params: TwoDecoyDevices, sent: Pulses, number: ArrayLike) -> Float[Array, "..."]:
    """Secret bits of a block of `number` pulses, at its mean counts."""
    counts = expected_counts(number, sent.key_basis, sent.probabilities, sent.clicks, sent.clicks)
    rules = Distillation(params.error_correction_efficiency, params.eps_sec, params.eps_cor)
    return two_decoy_key(counts, sent.intensities, sent.probabilities, rules).secret_bits

"""Key that a fibre link makes in a finite-key block: the two-decoy BB84 of Lim 2014, for the network tasks."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.finite_key import ClickProbs, Distillation, expected_counts, lim_channel, two_decoy_key
from qkd_gym.physics.information import NEPER_PER_DB


class LinkConstants(Protocol):
    """What the parameters of a task say of its transmitters, receivers and distillation; see `KeyRoutingParams`."""

    @property
    def clock_hz(self) -> Any: ...
    @property
    def receiver_efficiency(self) -> Any: ...
    @property
    def dark_count_prob_per_gate(self) -> Any: ...
    @property
    def afterpulse_prob(self) -> Any: ...
    @property
    def vacuum_intensity(self) -> Any: ...
    @property
    def error_correction_efficiency(self) -> Any: ...
    @property
    def eps_sec(self) -> Any: ...
    @property
    def eps_cor(self) -> Any: ...


class Pulses(NamedTuple):
    """What a pulse does on a link with given settings; `...` are links."""

    intensities: Float[Array, "... 3"]
    probabilities: Float[Array, "... 3"]
    key_basis: Float[Array, "..."]  # probability
    clicks: ClickProbs


def transmittance(params: LinkConstants, loss_db: ArrayLike) -> Float[Array, "..."]:
    """From the transmitter to a click, receiver included."""
    return params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * jnp.asarray(loss_db, jnp.float32))


def pulses_of(
    params: LinkConstants, settings: Float[Array, "... 5"], eta: Float[Array, "..."], misalignment_error: ArrayLike
) -> Pulses:
    """Clicks and errors per pulse, with `settings` (mu1, mu2, p1, p2, q) over a transmittance `eta`."""
    mu1, mu2, p1, p2, q = (settings[..., i] for i in range(5))
    mu = jnp.stack([mu1, mu2, jnp.full_like(mu1, params.vacuum_intensity)], axis=-1)
    p = jnp.stack([p1, p2, 1 - p1 - p2], axis=-1)
    error = jnp.broadcast_to(jnp.asarray(misalignment_error, jnp.float32), eta.shape)
    clicks = lim_channel(mu, eta, params.dark_count_prob_per_gate, params.afterpulse_prob, error)
    return Pulses(mu, p, q, clicks)


def secret_bits(params: LinkConstants, sent: Pulses, number: ArrayLike) -> Float[Array, "..."]:
    """Secret bits of a block of `number` pulses, at its mean counts."""
    counts = expected_counts(number, sent.key_basis, sent.probabilities, sent.clicks, sent.clicks)
    rules = Distillation(params.error_correction_efficiency, params.eps_sec, params.eps_cor)
    return two_decoy_key(counts, sent.intensities, sent.probabilities, rules).secret_bits

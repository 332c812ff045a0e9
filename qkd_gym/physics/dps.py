"""Differential-phase-shift QKD against *individual* attacks, which is not secure against general ones at this rate.

Inoue, Waks, Yamamoto, Phys. Rev. Lett. 89, 037902 (2002); rate: Waks, Takesue, Yamamoto, Phys. Rev. A 73, 012344
(2006). Alice's train of weak pulses carries its bits in the phase steps of neighbours, Bob reads them with a one-slot
interferometer. Rates are in bit per slot and keep their sign. Valid for fewer than half a photon per pulse and error
rates below 1/6; beyond, the compression factor is 0. float32: clicks to 5e-7, rates to 2e-6 of the clicks.

The rate assumes that Eve holds photons one by one and measures before she has the last word. Attacks on runs of pulses
(Curty, Zhang, Lo, Luetkenhaus, Quantum Inf. Comput. 7, 665 (2007)) do better, and proofs against general attacks give
far less key. Use it to teach and to compare with the experiments of its time, never to promise key.

Coherent-one-way (COW) is left out: its advertised rate, linear in the transmittance, is broken by a zero-error attack
that shows none of the watched errors (Gonzalez-Payo, Trenyi, Wang, Curty, Phys. Rev. Lett. 125, 260510 (2020)); what
can still be proven falls with the square of the transmittance.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qkd_gym import struct
from qkd_gym.physics.decoy_bb84 import Gains
from qkd_gym.physics.information import LN2, as_float, binary_entropy
from qkd_gym.physics.numerics import ratio
from qkd_gym.physics.optimum import maximise

#: From this error rate on, individual attacks leave no key.
LARGEST_ERROR = 1 / 6


@struct.dataclass
class DpsSettings:
    """What the sender chooses."""

    intensity: Any = struct.field(
        default=0.2, unit="photon/pulse", low=0.0, high=0.5, doc="mu, mean photon number of a pulse"
    )


@struct.dataclass
class DpsLink:
    """Channel and receiver. Defaults: 50 km of fibre before a gated receiver."""

    transmittance: Any = struct.field(default=0.01, low=0.0, high=1.0, doc="t, channel and receiver together")
    dark_count_prob_per_gate: Any = struct.field(
        default=1e-6, unit="1/gate", low=0.0, high=0.5, doc="pd, per detector; two detectors"
    )
    baseline_error: Any = struct.field(default=0.01, low=0.0, high=0.5, doc="e_b, error of clicks by light")
    error_correction_efficiency: Any = struct.field(
        default=1.16, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )


def observe(settings: DpsSettings, link: DpsLink) -> Gains:
    """Clicks p = 1 - (1 - 2 pd) e^(-mu t) and wrong ones e p = e_b (1 - e^(-mu t)) + pd, per slot."""
    mu, t, dark, eb = as_float(
        settings.intensity, link.transmittance, link.dark_count_prob_per_gate, link.baseline_error
    )
    arrive = -jnp.expm1(-mu * t)
    clicks = arrive + 2 * dark * jnp.exp(-mu * t)
    return Gains(gain=clicks, error_gain=eb * arrive + dark)


def compression(settings: DpsSettings, link: DpsLink) -> Float[Array, "..."]:
    """tau = -(1 - 2 mu) log2[1 - e^2 - (1 - 6e)^2 / 2], secret bits per click before error correction.

    0 for e >= 1/6 and for mu >= 1/2 (Waks 2006). The argument is (1 + 12 e - 38 e^2)/2.
    """
    seen = observe(settings, link)
    mu, e = as_float(settings.intensity, ratio(seen.error_gain, seen.gain))
    valid = e < LARGEST_ERROR
    inner = jnp.where(valid, e, 0)
    collision = 1 - jnp.log1p(inner * (12 - 38 * inner)) / LN2
    return jnp.where(valid, jnp.maximum(1 - 2 * mu, 0) * collision, 0)


def key_rate(settings: DpsSettings, link: DpsLink) -> Float[Array, "..."]:
    """p [tau - f h(e)], bit per slot, unclipped; against individual attacks only."""
    seen = observe(settings, link)
    gain, error, f, tau = as_float(
        seen.gain, ratio(seen.error_gain, seen.gain), link.error_correction_efficiency, compression(settings, link)
    )
    return gain * (tau - f * binary_entropy(jnp.clip(error, 0, 0.5)))


def optimal_rate(link: DpsLink) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(intensity, rate)` that maximise the key rate; the rate is unclipped."""

    def rate(mu: Array) -> Array:
        return key_rate(jax.tree.unflatten(jax.tree.structure(DpsSettings()), [mu]), link)

    return maximise(rate, 1e-4, 0.5)

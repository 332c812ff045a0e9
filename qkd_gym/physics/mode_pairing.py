"""Mode-pairing QKD: rounds that clicked are paired afterwards, so that no phase has to be locked.

Zeng, Zhou, Wu, Ma, Nat. Commun. 13, 3903 (2022), arXiv:2201.04300. In each round either side sends no light or a pulse
of random phase, with equal probability; exactly one click of the middle node's two detectors is a success. It is paired
with the next success, if that comes within the longest pairing length. With a length of 1 the rate falls with the whole
loss, as for MDI; with lengths far above the mean distance of clicks, with its square root. The length is limited by how
long the lasers stay in phase. Both arms are alike.

float32: all within 2e-6 of its float64 value, but errors with drift within 3e-7 absolute, and rates within 4e-6 of the
pairing rate, down to arms of 100 dB.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float, binary_entropy
from qkd_gym.physics.numerics import ratio
from qkd_gym.physics.optimum import maximise
from qkd_gym.physics.twin_field_sns import OneClick, one_click


@struct.dataclass
class ModePairingSettings:
    """What the users choose."""

    intensity: Any = struct.field(default=0.5, unit="photon/pulse", low=0.0, high=10.0, doc="mu of a sent pulse")
    max_pairing_rounds: Any = struct.field(
        default=1000.0, unit="round", low=1.0, high=1e12, doc="l, longest distance of two paired clicks"
    )


@struct.dataclass
class ModePairingLink:
    """Arms and middle node. Defaults: 60 dB in all."""

    arm_transmittance: Any = struct.field(
        default=1e-3, low=0.0, high=1.0, doc="t of one arm, detector included; the whole link has t^2"
    )
    dark_count_prob_per_gate: Any = struct.field(
        default=1.2e-8, unit="1/gate", low=0.0, high=0.5, doc="of each of the two detectors"
    )
    misalignment_error: Any = struct.field(
        default=0.04, low=0.0, high=0.5, doc="e_d, phase error of pairs at no distance"
    )
    phase_variance_rad2_per_round: Any = struct.field(
        default=0.0, unit="rad^2/round", low=0.0, high=10.0,
        doc="growth of the variance of the senders' phase difference; 2 pi (linewidths) / clock from lasers alone",
    )  # fmt: skip
    error_correction_efficiency: Any = struct.field(
        default=1.1, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )


@struct.dataclass
class ModePairingGains:
    """What pairing shows, `(...)`."""

    clicks: OneClick = struct.field(doc="successes by how many sides sent")
    click_prob: Any = struct.field(unit="1/round", low=0.0, high=1.0, doc="success of a round, p")
    pairing_rate: Any = struct.field(unit="pair/round", low=0.0, high=0.5, doc="pairs formed, r_p")
    key_fraction: Any = struct.field(low=0.0, high=1.0, doc="share of pairs in which either side sent once, r_s")
    qber: Any = struct.field(low=0.0, high=1.0, doc="bit error rate of those, E_Z")
    pair_misalignment: Any = struct.field(
        low=0.0, high=0.5, doc="misalignment error of paired rounds, drift over their distance included"
    )


def observe(settings: ModePairingSettings, link: ModePairingLink) -> ModePairingGains:
    """Clicks, pairs and their bit errors, `(...)`."""
    rounds, mis, variance = as_float(
        settings.max_pairing_rounds, link.misalignment_error, link.phase_variance_rad2_per_round
    )
    clicks = one_click(settings.intensity, link.arm_transmittance, link.dark_count_prob_per_gate)
    p = (clicks.none + 2 * clicks.one + clicks.both) / 4
    none, one, both = (ratio(x, 4 * p) for x in (clicks.none, clicks.one, clicks.both))
    same_round, other_round = none * both, one * one
    coherence = _coherence(p, rounds, variance)
    return ModePairingGains(
        clicks=clicks,
        click_prob=p,
        pairing_rate=pairing_rate(p, rounds),
        key_fraction=2 * (same_round + other_round),
        qber=ratio(same_round, same_round + other_round),
        pair_misalignment=mis + (0.5 - mis) * (1 - coherence),
    )


def pairing_rate(click_prob: ArrayLike, max_pairing_rounds: ArrayLike) -> Float[Array, "..."]:
    """Pairs per round, 1 / (1/(p (1 - (1-p)^l)) + 1/p), of clicks of probability `p` and a longest distance `l`.

    A click waits for a partner; a click that comes too late waits in its place (Zeng et al. 2022).
    """
    p, rounds = as_float(click_prob, max_pairing_rounds)
    in_time = -jnp.expm1(rounds * jnp.log1p(-p))
    return p * in_time / (1 + in_time)


def _coherence(p: Array, rounds: Array, variance: Array) -> Array:
    """Mean of e^(-variance distance / 2) over the distances of pairs: geometric, cut off at `rounds`."""
    stay = jnp.log1p(-p)
    faded = stay - variance / 2
    partners = -jnp.expm1(rounds * stay) * -jnp.expm1(faded)
    coherent = p * jnp.exp(-variance / 2) * -jnp.expm1(rounds * faded)
    return jnp.minimum(ratio(coherent, partners, otherwise=1.0), 1)


def single_photon_pairs(
    settings: ModePairingSettings, link: ModePairingLink
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(q_11, e_11)`: share of key pairs with one photon from each side, and their phase error; 1/2 without any.

    One photon of each side clicks in different rounds, or both in one round and a dark count in the other; only the
    former, with both photons seen, interferes.
    """
    mu, t, dark = as_float(settings.intensity, link.arm_transmittance, link.dark_count_prob_per_gate)
    gains = observe(settings, link)
    clicks, mis = gains.clicks, gains.pair_misalignment
    lost = (1 - t) * dark
    scale = 1 - dark
    none, one = clicks.none, scale * (t + 2 * lost)
    both = 2 * scale * (t * (1 - t / 2) + lost * (1 - t))
    # Yields relative to the click probability of one pulse: products of the bare ones leave float32's range.
    signal, first = ratio(scale * t, clicks.one), ratio(one, clicks.one)
    dark_part = ratio(scale * 2 * lost, clicks.one)
    bunched = ratio(both, clicks.one) * ratio(none, clicks.one)
    signals = signal * signal
    random = dark_part * (signal + first) + bunched
    total = signals + random
    seen = 1 + ratio(clicks.both, clicks.one) * ratio(none, clicks.one)
    share = mu * jnp.exp(-mu)
    q11 = share * share * total / seen
    return q11, ratio(mis * signals + random / 2, total, otherwise=0.5)


def key_rate(settings: ModePairingSettings, link: ModePairingLink) -> Float[Array, "..."]:
    """r_p r_s {q_11 [1 - h(e_11)] - f h(E_Z)}, bit per round, unclipped. Endless data and decoys."""
    (f,) = as_float(link.error_correction_efficiency)
    gains = observe(settings, link)
    q11, e11 = single_photon_pairs(settings, link)
    secret = q11 * (1 - binary_entropy(jnp.clip(e11, 0, 0.5))) - f * binary_entropy(jnp.clip(gains.qber, 0, 1))
    return gains.pairing_rate * gains.key_fraction * secret


def optimal_rate(
    link: ModePairingLink, max_pairing_rounds: ArrayLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(intensity, rate)` that maximise the key rate at a given pairing length, each `(...)`; the rate is unclipped."""

    def rate(mu: Array) -> Array:
        return key_rate(ModePairingSettings(mu, max_pairing_rounds), link)

    return maximise(rate, 1e-3, 3.0, grid=48, sections=32)

"""Twin-field QKD by sending or not sending: key rate with endless data, odd-parity pairing, and a finite block.

Protocol: Wang, Yu, Hu, Phys. Rev. A 98, 062323 (2018), arXiv:1805.09222. Pairing: Xu, Yu, Jiang, Hu, Wang, Phys. Rev.
A 101, 042330 (2020). Finite block: after Jiang, Yu, Hu, Wang, Phys. Rev. Applied 12, 024061 (2019). In a key window
either side sends a phase-randomised pulse with probability epsilon, or nothing; exactly one click of the middle node's
two detectors is a success, and whether one sent is the bit. Misalignment enters through the phase error of single
photons alone, so it may be large; two pulses that meet are bit errors, which keeps epsilon small unless bits are
paired. Both arms are alike.

float32: gains within 1e-6 of their float64 value and rates within 2e-6 of the gain, down to arms of 100 dB. In a block
of 1e11 to 1e15 windows, arms to 45 dB, the yield bound is within 2e-6 of the yield and the key length within 1e-6 of
the key-window counts.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import LN2, as_float, binary_entropy
from qkd_gym.physics.numerics import ratio
from qkd_gym.physics.optimum import maximise_plane
from qkd_gym.physics.two_sender import BlockSecurity, bessel_excess, certain_count, rate_bounds, sampled_error

#: What is done with the sifted bits: nothing, or active odd-parity pairing.
METHODS = ("plain", "aopp")

#: Gauss-Legendre nodes and weights over a phase slice, on [0, 1].
_NODES, _WEIGHTS = (
    (0.01985507175123188, 0.10166676129318664, 0.2372337950418355, 0.4082826787521751,
     0.5917173212478249, 0.7627662049581645, 0.8983332387068134, 0.9801449282487681),
    (0.05061426814518813, 0.11119051722668724, 0.15685332293894363, 0.18134189168918100,
     0.18134189168918100, 0.15685332293894363, 0.11119051722668724, 0.05061426814518813),
)  # fmt: skip


@struct.dataclass
class SnsSettings:
    """What both sides choose for the key windows."""

    signal_intensity: Any = struct.field(default=0.4, unit="photon/pulse", low=0.0, high=10.0, doc="mu of a sent pulse")
    sending_prob: Any = struct.field(
        default=0.03, low=0.0, high=1.0, doc="epsilon; about 0.03 plain, about 0.26 with pairing"
    )


@struct.dataclass
class SnsLink:
    """Arms and middle node. Defaults: 80 dB in all, superconducting detectors."""

    arm_transmittance: Any = struct.field(
        default=1e-4, low=0.0, high=1.0, doc="t of one arm, detector included; the whole link has t^2"
    )
    dark_count_prob_per_gate: Any = struct.field(
        default=1e-11, unit="1/gate", low=0.0, high=0.5, doc="of each of the two detectors"
    )
    misalignment_error: Any = struct.field(
        default=0.05, low=0.0, high=0.5, doc="e_d, single photons that leave by the wrong port"
    )
    error_correction_efficiency: Any = struct.field(
        default=1.1, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )


@struct.dataclass
class OneClick:
    """Probability of exactly one click when none, one or both of the sides send a phase-randomised pulse, `(...)`."""

    none: Any = struct.field(unit="1/window", low=0.0, high=1.0, doc="P0")
    one: Any = struct.field(unit="1/window", low=0.0, high=1.0, doc="P1, of a given sender")
    both: Any = struct.field(unit="1/window", low=0.0, high=1.0, doc="P2")


@struct.dataclass
class SnsGains:
    """What the key windows show, `(...)`."""

    clicks: OneClick = struct.field(doc="successes by how many sides sent")
    gain: Any = struct.field(unit="1/window", low=0.0, doc="success, S_Z")
    error_gain: Any = struct.field(unit="1/window", low=0.0, doc="success with both or none sending, E_Z S_Z")

    @property
    def qber(self) -> Array:
        """Bit error rate; 0 where nothing clicks."""
        return ratio(self.error_gain, self.gain)


@struct.dataclass
class OddParityPairs:
    """What active odd-parity pairing leaves, per key window, `(...)`."""

    pairs: Any = struct.field(unit="1/window", low=0.0, doc="pairs formed")
    survival: Any = struct.field(low=0.0, high=1.0, doc="share of pairs with odd parity on both sides")
    qber: Any = struct.field(low=0.0, high=1.0, doc="bit error rate of the survivors")
    untagged: Any = struct.field(unit="1/window", low=0.0, doc="surviving pairs of two single-photon bits")
    phase_error: Any = struct.field(low=0.0, high=0.5, doc="their phase error rate, 2 e_1 (1 - e_1)")


def one_click(intensity: ArrayLike, arm_transmittance: ArrayLike, dark_count_prob_per_gate: ArrayLike) -> OneClick:
    """Exactly one click of two detectors behind a beam splitter, from none, one or two pulses of random phase."""
    mu, t, dark = as_float(intensity, arm_transmittance, dark_count_prob_per_gate)
    light = mu * t
    none = 2 * dark * (1 - dark)
    one = 2 * (1 - dark) * jnp.exp(-light) * (jnp.expm1(light / 2) + dark)
    meeting = jnp.exp(light) * bessel_excess(light * light / 4)
    both = 2 * (1 - dark) * jnp.exp(-2 * light) * (jnp.expm1(light) + meeting + dark)
    return OneClick(*jnp.broadcast_arrays(none, one, both))


def observe(settings: SnsSettings, link: SnsLink) -> SnsGains:
    """Success and error of the key windows, `(...)`."""
    (eps,) = as_float(settings.sending_prob)
    clicks = one_click(settings.signal_intensity, link.arm_transmittance, link.dark_count_prob_per_gate)
    wrong = eps * eps * clicks.both + (1 - eps) * (1 - eps) * clicks.none
    return SnsGains(clicks=clicks, gain=2 * eps * (1 - eps) * clicks.one + wrong, error_gain=wrong)


def single_photons(link: SnsLink) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(s_1, e_1)`: success probability of one photon from one side, and its phase error; 1/2 where nothing clicks."""
    t, dark, mis = as_float(link.arm_transmittance, link.dark_count_prob_per_gate, link.misalignment_error)
    success = t + 2 * (1 - t) * dark
    return (1 - dark) * success, ratio(t * mis + (1 - t) * dark, success, otherwise=0.5)


def odd_parity_pairs(settings: SnsSettings, link: SnsLink) -> OddParityPairs:
    """Active odd-parity pairing of the key bits, with endless data (Xu et al. 2020).

    One side pairs each of its bits 0 with a bit 1; the other keeps pairs of odd parity and one bit of each is key.
    """
    mu, eps = as_float(settings.signal_intensity, settings.sending_prob)
    clicks = observe(settings, link).clicks
    s1, e1 = single_photons(link)
    right = eps * (1 - eps) * clicks.one
    zeros, ones = right + eps * eps * clicks.both, right + (1 - eps) * (1 - eps) * clicks.none
    pairs = jnp.minimum(zeros, ones)
    wrong_zero, wrong_one = ratio(eps * eps * clicks.both, zeros), ratio((1 - eps) * (1 - eps) * clicks.none, ones)
    both_wrong = wrong_zero * wrong_one
    survival = ratio(right, zeros) * ratio(right, ones) + both_wrong
    single = eps * (1 - eps) * mu * jnp.exp(-mu) * s1
    return OddParityPairs(
        pairs=pairs,
        survival=survival,
        qber=ratio(both_wrong, survival),
        untagged=pairs * ratio(single, zeros) * ratio(single, ones),
        phase_error=2 * e1 * (1 - e1),
    )


def key_rate(settings: SnsSettings, link: SnsLink, method: str = "plain") -> Float[Array, "..."]:
    """Key rate in bit per key window, unclipped, with endless data and decoys.

    Args:
        method: "plain": 2 eps (1 - eps) mu e^-mu s_1 [1 - h(e_1)] - f S_Z h(E_Z); "aopp": active odd-parity pairing,
            which gains a factor 1.75 to 2.5 near 300 km. With endless data that overstates what finite blocks gain.
    """
    _check(method)
    mu, eps, f = as_float(settings.signal_intensity, settings.sending_prob, link.error_correction_efficiency)
    if method == "aopp":
        left = odd_parity_pairs(settings, link)
        secret = left.untagged * (1 - binary_entropy(jnp.clip(left.phase_error, 0, 0.5)))
        return secret - f * left.pairs * left.survival * binary_entropy(jnp.clip(left.qber, 0, 1))
    gains = observe(settings, link)
    s1, e1 = single_photons(link)
    single = 2 * eps * (1 - eps) * mu * jnp.exp(-mu) * s1
    return single * (1 - binary_entropy(e1)) - f * _entropy_per_window(eps, gains)


def optimal_rate(
    link: SnsLink, method: str = "plain"
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """`(intensity, sending probability, rate)` that maximise the key rate, each `(...)`; the rate is unclipped."""
    _check(method)
    return maximise_plane(
        lambda mu, eps: key_rate(SnsSettings(mu, eps), link, method), (1e-2, 1e-4), (2.0, 0.6), grid=32
    )


# ---- a finite block -----------------------------------------------------------------------------------------------


@struct.dataclass
class SnsBlockSettings:
    """What both sides choose for a block. Both choose a key window: it is one; neither does: it is a test window."""

    signal_intensity: Any = struct.field(default=0.4, unit="photon/pulse", low=0.0, high=10.0, doc="mu, key windows")
    sending_prob: Any = struct.field(default=0.03, low=0.0, high=1.0, doc="epsilon, key windows")
    decoy_intensity: Any = struct.field(default=0.3, unit="photon/pulse", low=0.0, high=10.0, doc="mu_2, above mu_1")
    weak_intensity: Any = struct.field(default=0.05, unit="photon/pulse", low=0.0, high=10.0, doc="mu_1, above 0")
    key_window_prob: Any = struct.field(default=0.7, low=0.0, high=1.0, doc="probability of a key window on one side")
    decoy_prob: Any = struct.field(default=0.05, low=0.0, high=1.0, doc="probability of mu_2 on one side")
    weak_prob: Any = struct.field(
        default=0.15, low=0.0, high=1.0, doc="probability of mu_1 on one side; no light in a test window is the rest"
    )
    phase_slice_rad: Any = struct.field(
        default=0.2, unit="rad", low=1e-4, high=math.pi / 2, doc="largest phase difference, to 0 or pi, kept for e_1"
    )

    def __post_init__(self) -> None:
        values = (self.decoy_intensity, self.weak_intensity, self.key_window_prob, self.decoy_prob, self.weak_prob)
        if any(isinstance(v, Tracer) for v in values):
            return
        decoy, weak, *probs = (np.asarray(v) for v in values)
        if np.any(weak <= 0) or np.any(decoy <= weak):
            raise ValueError(f"SnsBlockSettings needs 0 < weak < decoy intensity, got weak {weak}, decoy {decoy}")
        if np.any(sum(probs) > 1):
            raise ValueError(
                f"key_window_prob + decoy_prob + weak_prob = {sum(probs)} is above 1; no light is the rest"
            )


@struct.dataclass
class SnsRates:
    """What the test windows show, as probabilities per window of their kind, or bounds on them; all `(...)`."""

    none: Any = struct.field(unit="1/window", low=0.0, doc="one click when neither sends")
    weak: Any = struct.field(unit="1/window", low=0.0, doc="one click when one side sends mu_1, mean of both sides")
    decoy: Any = struct.field(unit="1/window", low=0.0, doc="one click when one side sends mu_2, mean of both sides")
    slice_error: Any = struct.field(
        unit="1/window", low=0.0, doc="one click, at the wrong port, when both send mu_1 with phases in the slice"
    )


@struct.dataclass
class SnsCounts:
    """Successes of one block, all `(...)`."""

    n_key: Any = struct.field(low=0.0, unit="count", doc="in key windows")
    m_key: Any = struct.field(low=0.0, unit="count", doc="errors among them: both sent, or none")
    n_none: Any = struct.field(low=0.0, unit="count", doc="in test windows without light")
    n_weak: Any = struct.field(low=0.0, unit="count", doc="in test windows with mu_1 from one side")
    n_decoy: Any = struct.field(low=0.0, unit="count", doc="in test windows with mu_2 from one side")
    m_slice: Any = struct.field(
        low=0.0, unit="count", doc="wrong port, in test windows with mu_1 from both sides and phases in the slice"
    )


@struct.dataclass
class SnsKey:
    """Bounds and key of a block, all `(...)`. Bounds are clipped; `raw_bits` is not."""

    single_yield: Any = struct.field(low=0.0, high=1.0, doc="s_1, lower bound")
    single_error: Any = struct.field(low=0.0, high=0.5, doc="e_1, mean phase error of single photons, upper bound")
    n_untagged: Any = struct.field(low=0.0, unit="count", doc="key bits of one photon from one side, lower bound")
    phase_error: Any = struct.field(low=0.0, high=0.5, doc="their phase error rate in this block, upper bound")
    qber_key: Any = struct.field(low=0.0, high=1.0, doc="bit error rate of the key windows")
    leak_bits: Any = struct.field(low=0.0, unit="bit", doc="disclosed by error correction")
    raw_bits: Any = struct.field(unit="bit", doc="key length before floor and clip; may be negative")
    secret_bits: Any = struct.field(low=0.0, unit="bit", doc="key length, a whole number; 0 where no bound holds")


def slice_error(intensity: ArrayLike, phase_slice_rad: ArrayLike, link: SnsLink) -> Float[Array, "..."]:
    """Probability of one click, at the wrong port, of two pulses whose phases differ by up to `phase_slice_rad`.

    The light divides with visibility 1 - 2 e_d: a phase difference d sends [1 - (1 - 2 e_d) cos d] / 2 of it the wrong
    way. Mean over the slice by eight Gauss-Legendre nodes, exact to rounding.
    """
    mu, width, t, dark, mis = as_float(
        intensity, phase_slice_rad, link.arm_transmittance, link.dark_count_prob_per_gate, link.misalignment_error
    )
    light = 2 * mu * t
    mean = jnp.zeros_like(light * width)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        half = jnp.sin(0.5 * node * width)
        wrong = mis + (1 - 2 * mis) * half * half
        mean = mean + weight * jnp.expm1(light * wrong)
    return (1 - dark) * jnp.exp(-light) * (mean + dark)


def decoy_rates(settings: SnsBlockSettings, link: SnsLink) -> SnsRates:
    """What the test windows show on average."""
    t, dark = link.arm_transmittance, link.dark_count_prob_per_gate
    weak, decoy = one_click(settings.weak_intensity, t, dark), one_click(settings.decoy_intensity, t, dark)
    wrong = slice_error(settings.weak_intensity, settings.phase_slice_rad, link)
    return SnsRates(*jnp.broadcast_arrays(weak.none, weak.one, decoy.one, wrong))


def windows(settings: SnsBlockSettings, pulses: ArrayLike) -> tuple[Float[Array, "..."], SnsRates]:
    """Mean number of key windows, and of test windows of each kind in the fields of `SnsRates`, among `pulses`."""
    n, p_z, p_2, p_1, width = as_float(
        pulses, settings.key_window_prob, settings.decoy_prob, settings.weak_prob, settings.phase_slice_rad
    )
    p_0 = jnp.maximum(1 - p_z - p_2 - p_1, 0)
    in_slice = width * (2 / math.pi)  # both 0 and pi are kept
    sent = (n * p_0 * p_0, 2 * n * p_0 * p_1, 2 * n * p_0 * p_2, n * p_1 * p_1 * in_slice)
    return n * p_z * p_z, SnsRates(*jnp.broadcast_arrays(*sent))


def expected_counts(settings: SnsBlockSettings, link: SnsLink, pulses: ArrayLike) -> SnsCounts:
    """Mean counts of a block of `pulses` windows."""
    key = observe(_settings(settings.signal_intensity, settings.sending_prob), link)
    rates = decoy_rates(settings, link)
    key_windows, sent = windows(settings, pulses)
    return SnsCounts(
        n_key=key_windows * key.gain,
        m_key=key_windows * key.error_gain,
        n_none=sent.none * rates.none,
        n_weak=sent.weak * rates.weak,
        n_decoy=sent.decoy * rates.decoy,
        m_slice=sent.slice_error * rates.slice_error,
    )


def decoy_bounds(
    settings: SnsBlockSettings, low: SnsRates, high: SnsRates
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(s_1 lower, e_1 upper)` from intervals of the test windows (Jiang et al. 2019).

    The yield is 0 or more, the error 1/2 where the yield is 0. Two pulses of one phase difference are a Poissonian
    mixture of photon numbers of mean 2 mu_1, whose vacuum errs half the time.
    """
    mu1, mu2, none_low, none_high, weak_low, decoy_high, wrong = as_float(
        settings.weak_intensity, settings.decoy_intensity, low.none, high.none, low.weak, high.decoy, high.slice_error
    )
    ordered = (mu1 > 0) & (mu2 > mu1)
    mu1, mu2 = jnp.where(ordered, mu1, 1), jnp.where(ordered, mu2, 2)
    first = (jnp.exp(mu1) * weak_low - none_high) / mu1
    second = (jnp.exp(mu2) * decoy_high - none_high) / mu2
    s1 = (mu2 * first - mu1 * second) / (mu2 - mu1)
    s1 = jnp.where(ordered, jnp.clip(s1, 0, 1), 0)
    errors = (jnp.exp(2 * mu1) * wrong - none_low / 2) / (2 * mu1)
    return s1, jnp.clip(ratio(errors, s1, otherwise=0.5), 0, 0.5)


def decoy_key_rate(settings: SnsBlockSettings, link: SnsLink) -> Float[Array, "..."]:
    """What `finite_key_rate` tends to for ever larger blocks: the same decoys, nothing left to chance.

    Bit per window of any kind, unclipped. It tends to `key_rate` as mu_1 and the slice tend to 0 and all windows are
    key windows.
    """
    mu, eps, p_z, f = as_float(
        settings.signal_intensity, settings.sending_prob, settings.key_window_prob, link.error_correction_efficiency
    )
    rates = decoy_rates(settings, link)
    s1, e1 = decoy_bounds(settings, rates, rates)
    gains = observe(_settings(mu, eps), link)
    single = 2 * eps * (1 - eps) * mu * jnp.exp(-mu) * s1
    return p_z * p_z * (single * (1 - binary_entropy(e1)) - f * _entropy_per_window(eps, gains))


def finite_key(
    counts: SnsCounts,
    settings: SnsBlockSettings,
    pulses: ArrayLike,
    error_correction_efficiency: ArrayLike = 1.1,
    security: BlockSecurity | None = None,
) -> SnsKey:
    """Secret key of a block of `pulses` windows, without pairing, from its counts (form of Jiang et al. 2019).

    Seven Chernoff bounds fail with `eps_per_bound` each: on means, those of no light (both sides), mu_1, mu_2 and the
    slice's errors; from means to this block, the untagged bits and their phase errors. The length is
    n_1 [1 - h(e_ph)] - leak - log2(2/eps_cor) - 2 log2(1/(sqrt(2) eps^2)), its last terms spent only where there are
    single photons.

    Left out, all of which would gain key: windows where only one side chose the key (their silent half tells of no
    light too), joint bounds on sums of counts, intensities of the slice other than mu_1, pairing of the bits, arms
    that differ. Left out, which would cost key: intensity noise, and senders whose mu_1 or mu_2 differ.

    Args:
        counts: real-valued expectations or sampled whole numbers.
        pulses: windows of any kind, `(...)`.
    """
    s = security or BlockSecurity()
    n_key, m_key, mu, eps_send, f, eps, eps_cor = as_float(
        counts.n_key, counts.m_key, settings.signal_intensity, settings.sending_prob, error_correction_efficiency,
        s.eps_per_bound, s.eps_cor,
    )  # fmt: skip
    log_term = -jnp.log(eps)
    key_windows, sent = windows(settings, pulses)
    bounds = [
        rate_bounds(events, sent_of_kind, log_term)
        for events, sent_of_kind in (
            (counts.n_none, sent.none),
            (counts.n_weak, sent.weak),
            (counts.n_decoy, sent.decoy),
            (counts.m_slice, sent.slice_error),
        )
    ]
    s1, e1 = decoy_bounds(settings, SnsRates(*(b[0] for b in bounds)), SnsRates(*(b[1] for b in bounds)))
    single = 2 * eps_send * (1 - eps_send) * mu * jnp.exp(-mu) * s1
    untagged = jnp.minimum(certain_count(key_windows * single, log_term), n_key)
    phase_error = sampled_error(untagged, e1, log_term)
    qber = jnp.clip(ratio(m_key, n_key), 0, 1)
    leak = f * n_key * binary_entropy(qber)
    fixed = (4 * log_term - jnp.log(eps_cor)) / LN2  # log2(2/cor) + 2 log2(1/(sqrt(2) eps^2))
    extracted = untagged > 0
    raw = jnp.where(extracted, untagged * (1 - binary_entropy(phase_error)) - fixed, 0) - leak
    return SnsKey(
        single_yield=s1,
        single_error=e1,
        n_untagged=untagged,
        phase_error=phase_error,
        qber_key=qber,
        leak_bits=leak,
        raw_bits=raw,
        secret_bits=jnp.floor(jnp.maximum(raw, 0)),
    )


def finite_key_rate(
    settings: SnsBlockSettings, link: SnsLink, pulses: ArrayLike, security: BlockSecurity | None = None
) -> Float[Array, "..."]:
    """Key of the mean counts of a block of `pulses` windows, in bit per window, unclipped."""
    counts = expected_counts(settings, link, pulses)
    key = finite_key(counts, settings, pulses, link.error_correction_efficiency, security)
    (total,) = as_float(pulses)
    return ratio(key.raw_bits, total)


def _entropy_per_window(eps: Array, gains: SnsGains) -> Array:
    """S_Z h(E_Z), by the rarer of right and wrong bits: of an error rate near 1 single precision leaves no entropy."""
    right = 2 * eps * (1 - eps) * gains.clicks.one
    return gains.gain * binary_entropy(jnp.clip(ratio(jnp.minimum(right, gains.error_gain), gains.gain), 0, 0.5))


def _settings(mu: ArrayLike, eps: ArrayLike) -> SnsSettings:
    mu, eps = as_float(mu, eps)
    return SnsSettings(*jnp.broadcast_arrays(mu, eps))


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")

"""Measurement-device-independent QKD: gains of weak coherent pulses, key with endless data and with a finite block.

Idea: Lo, Curty, Qi, Phys. Rev. Lett. 108, 130503 (2012), arXiv:1109.1473. Gains: Ma, Razavi, Phys. Rev. A 86, 062319
(2012), arXiv:1204.4856. Finite block: the four-intensity protocol of Zhou, Yu, Wang, Phys. Rev. A 93, 042324 (2016),
arXiv:1502.01262. Both senders emit phase-randomised pulses; the middle node has a beam splitter, two polarising beam
splitters and four threshold detectors, and announces both psi- and psi+. Polarisation misalignment is one effective
error; small errors of the two arms add (Xu, Curty, Qi, Lo, New J. Phys. 15, 113007 (2013)).

In the test basis an error rate near 1/4 is right: two-photon pulses of one sender fake a coincidence. The error of the
single-photon pairs is what enters the key.

float32: gains within 1e-6 of their float64 value, the asymptotic rate within 2e-6 of the key-basis gain, down to arms
of 100 dB. Of a block of 1e11 to 1e15 pairs, arms to 16 dB, the yield bound is within 5e-6 of the yield and the key
length within 3e-6 of the key-basis counts.
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

#: Intensities of the two senders in the test basis, in the order of the last axis of `FourIntensityCounts`: x the weak,
#: y the stronger decoy, o no light.
TEST_PAIRS = ("xx", "xo", "ox", "oo", "yy", "yo", "oy")


@struct.dataclass
class MdiSettings:
    """Mean photon numbers of the signal pulses."""

    intensity_a: Any = struct.field(default=0.4, unit="photon/pulse", low=0.0, high=10.0, doc="mu_a, first sender")
    intensity_b: Any = struct.field(default=0.4, unit="photon/pulse", low=0.0, high=10.0, doc="mu_b, second sender")


@struct.dataclass
class MdiLink:
    """Both arms and the middle node. Defaults: 25 km each of 0.2 dB/km, detectors as in Ma and Razavi 2012."""

    transmittance_a: Any = struct.field(
        default=0.04585302607, low=0.0, high=1.0, doc="eta_a, first arm, detector included"
    )
    transmittance_b: Any = struct.field(
        default=0.04585302607, low=0.0, high=1.0, doc="eta_b, second arm, detector included"
    )
    dark_count_prob_per_gate: Any = struct.field(
        default=6.02e-6, unit="1/gate", low=0.0, high=0.5, doc="of each of the four detectors"
    )
    misalignment_error: Any = struct.field(default=0.015, low=0.0, high=0.5, doc="e_d, of both arms together")
    error_correction_efficiency: Any = struct.field(
        default=1.16, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )
    sifting: Any = struct.field(
        default=1.0, low=0.0, high=1.0, doc="probability that both send signal in the key basis, asymptotic rate only"
    )


@struct.dataclass
class MdiGains:
    """What the middle node shows for one pair of intensities; probabilities per pulse pair, averaged over the bits."""

    gain_z: Any = struct.field(unit="1/pair", low=0.0, doc="success in the key basis, Q_Z")
    error_gain_z: Any = struct.field(unit="1/pair", low=0.0, doc="success with a wrong bit, E_Z Q_Z")
    gain_x: Any = struct.field(unit="1/pair", low=0.0, doc="success in the test basis, Q_X")
    error_gain_x: Any = struct.field(unit="1/pair", low=0.0, doc="success with a wrong bit, E_X Q_X")

    @property
    def qber_z(self) -> Array:
        """Error rate of the key basis; 0 where nothing clicks."""
        return ratio(self.error_gain_z, self.gain_z)

    @property
    def qber_x(self) -> Array:
        """Error rate of the test basis; 0 where nothing clicks."""
        return ratio(self.error_gain_x, self.gain_x)


def observe(settings: MdiSettings, link: MdiLink) -> MdiGains:
    """Gains of one pair of intensities (Ma and Razavi 2012), `(...)`.

    Written in u = 1 - y and I0 - 1, with no difference of near equals, so that they hold at any loss.
    """
    mu_a, mu_b, eta_a, eta_b, dark, mis = as_float(
        settings.intensity_a, settings.intensity_b, link.transmittance_a, link.transmittance_b,
        link.dark_count_prob_per_gate, link.misalignment_error,
    )  # fmt: skip
    a, b = eta_a * mu_a, eta_b * mu_b
    quiet = jnp.log1p(-dark)
    light = a + b
    y = jnp.exp(quiet - light / 4)
    y2 = y * y
    correct = 2 * y2 * jnp.expm1(quiet - a / 2) * jnp.expm1(quiet - b / 2)
    both_excess = bessel_excess(a * b / 4)  # I0(2x) - 1
    wrong = 2 * dark * y2 * (both_excess - jnp.expm1(quiet - light / 2))
    u = -jnp.expm1(quiet - light / 4)
    interfering = 2 * y2 * both_excess
    rest = 4 * y2 * (u * u - 2 * y * bessel_excess(a * b / 16))
    return MdiGains(
        gain_z=correct + wrong,
        error_gain_z=mis * correct + (1 - mis) * wrong,
        gain_x=interfering + rest,
        error_gain_x=mis * interfering + rest / 2,
    )


def single_photon_pairs(link: MdiLink) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(Y_11, e_11)`: success probability when each sender emits one photon, and its error rate in the test basis.

    The yield is the same in both bases; the test basis' error is the key's phase error. 1/2 where nothing clicks.
    """
    a, b, dark, mis = as_float(
        link.transmittance_a, link.transmittance_b, link.dark_count_prob_per_gate, link.misalignment_error
    )
    quiet = (1 - dark) * (1 - dark)
    both = quiet * a * b / 2
    # 2a + 2b - 3ab = 2a(1-b) + 2b(1-a) + ab
    random = quiet * dark * (2 * a * (1 - b) + 2 * b * (1 - a) + a * b + 4 * (1 - a) * (1 - b) * dark)
    total = both + random
    return total, ratio(mis * both + random / 2, total, otherwise=0.5)


def key_rate(settings: MdiSettings, link: MdiLink) -> Float[Array, "..."]:
    """Q_11 [1 - h(e_11)] - f Q_Z h(E_Z), times `sifting`; bit per pulse pair, unclipped. Endless data and decoys."""
    mu_a, mu_b, f, sifting = as_float(
        settings.intensity_a, settings.intensity_b, link.error_correction_efficiency, link.sifting
    )
    gains = observe(settings, link)
    y11, e11 = single_photon_pairs(link)
    q11 = mu_a * mu_b * jnp.exp(-mu_a - mu_b) * y11
    return sifting * (q11 * (1 - binary_entropy(e11)) - f * gains.gain_z * binary_entropy(gains.qber_z))


def optimal_rate(link: MdiLink) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """`(mu_a, mu_b, rate)` that maximise the asymptotic key rate, each `(...)`; the rate is unclipped."""
    return maximise_plane(lambda mu_a, mu_b: key_rate(MdiSettings(mu_a, mu_b), link), (1e-3, 1e-3), (3.0, 3.0))


# ---- four intensities and a finite block --------------------------------------------------------------------------


@struct.dataclass
class FourIntensitySettings:
    """What both senders choose for a block: z in the key basis only; y, x and no light in the test basis only."""

    signal_intensity: Any = struct.field(default=0.35, unit="photon/pulse", low=0.0, high=10.0, doc="z, key basis")
    decoy_intensity: Any = struct.field(default=0.3, unit="photon/pulse", low=0.0, high=10.0, doc="y, above x")
    weak_intensity: Any = struct.field(default=0.05, unit="photon/pulse", low=0.0, high=10.0, doc="x, above 0")
    signal_prob: Any = struct.field(default=0.6, low=0.0, high=1.0, doc="probability of z")
    decoy_prob: Any = struct.field(default=0.05, low=0.0, high=1.0, doc="probability of y")
    weak_prob: Any = struct.field(default=0.3, low=0.0, high=1.0, doc="probability of x; no light is what is left")

    def __post_init__(self) -> None:
        values = (self.decoy_intensity, self.weak_intensity, self.signal_prob, self.decoy_prob, self.weak_prob)
        if any(isinstance(v, Tracer) for v in values):
            return
        y, x, *probs = (np.asarray(v) for v in values)
        if np.any(x <= 0) or np.any(y <= x):
            raise ValueError(f"FourIntensitySettings needs 0 < weak < decoy intensity, got weak {x}, decoy {y}")
        if np.any(sum(probs) > 1):
            raise ValueError(f"signal_prob + decoy_prob + weak_prob = {sum(probs)} is above 1; no light is the rest")


@struct.dataclass
class FourIntensityCounts:
    """Successes and errors of one block."""

    n_key: Any = struct.field(low=0.0, unit="count", doc="successes with z on both sides (...)")
    m_key: Any = struct.field(low=0.0, unit="count", doc="errors among them (...)")
    n_test: Any = struct.field(low=0.0, unit="count", doc="successes of each pair of TEST_PAIRS (..., 7)")
    m_test: Any = struct.field(low=0.0, unit="count", doc="errors among them (..., 7)")


@struct.dataclass
class FourIntensityKey:
    """Bounds and key of a block, all `(...)`. Bounds are clipped; `raw_bits` is not."""

    yield_11: Any = struct.field(low=0.0, high=1.0, doc="single-photon pairs' success probability, lower bound")
    error_11: Any = struct.field(low=0.0, high=0.5, doc="their mean error rate in the test basis, upper bound")
    n_key_11: Any = struct.field(low=0.0, unit="count", doc="single-photon pairs in the key, lower bound")
    phase_error: Any = struct.field(low=0.0, high=0.5, doc="their phase error rate in this block, upper bound")
    qber_key: Any = struct.field(low=0.0, high=1.0, doc="error rate of the key basis")
    leak_bits: Any = struct.field(low=0.0, unit="bit", doc="disclosed by error correction")
    raw_bits: Any = struct.field(unit="bit", doc="key length before floor and clip; may be negative")
    secret_bits: Any = struct.field(low=0.0, unit="bit", doc="key length, a whole number; 0 where no bound holds")


def decoy_gains(settings: FourIntensitySettings, link: MdiLink) -> tuple[Float[Array, "... 7"], Float[Array, "... 7"]]:
    """Gains and error gains of each pair of `TEST_PAIRS` in the test basis, `(..., 7)`."""
    x, y, *arms = jnp.broadcast_arrays(
        *as_float(
            settings.weak_intensity, settings.decoy_intensity, link.transmittance_a, link.transmittance_b,
            link.dark_count_prob_per_gate, link.misalignment_error,
        )
    )  # fmt: skip
    of = {"x": x, "y": y, "o": jnp.zeros_like(x)}
    first, second = (jnp.stack([of[pair[side]] for pair in TEST_PAIRS], axis=-1) for side in (0, 1))
    seen = observe(MdiSettings(first, second), MdiLink(*(arm[..., None] for arm in arms)))
    return seen.gain_x, seen.error_gain_x


def decoy_pulses(settings: FourIntensitySettings, pulses: ArrayLike) -> Float[Array, "... 7"]:
    """Mean number of pulse pairs of each pair of `TEST_PAIRS` among `pulses`, `(..., 7)`."""
    n, p_z, p_y, p_x = jnp.broadcast_arrays(
        *as_float(pulses, settings.signal_prob, settings.decoy_prob, settings.weak_prob)
    )
    p = {"y": p_y, "x": p_x, "o": jnp.maximum(1 - p_z - p_y - p_x, 0)}
    return n[..., None] * jnp.stack([p[first] * p[second] for first, second in TEST_PAIRS], axis=-1)


def expected_counts(settings: FourIntensitySettings, link: MdiLink, pulses: ArrayLike) -> FourIntensityCounts:
    """Mean counts of a block of `pulses` pulse pairs."""
    n, p_z = as_float(pulses, settings.signal_prob)
    key = observe(_settings(settings.signal_intensity, settings.signal_intensity), link)
    gains, errors = decoy_gains(settings, link)
    sent = decoy_pulses(settings, pulses)
    return FourIntensityCounts(
        n_key=n * p_z * p_z * key.gain_z,
        m_key=n * p_z * p_z * key.error_gain_z,
        n_test=_times(sent, gains),
        m_test=_times(sent, errors),
    )


def decoy_bounds(
    settings: FourIntensitySettings,
    gains: tuple[ArrayLike, ArrayLike],
    error_gains: tuple[ArrayLike, ArrayLike],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(Y_11 lower, e_11 upper)` from intervals of the test basis (Zhou, Yu, Wang 2016).

    Each interval stands by itself; the paper's joint constraints on their sums, left out here, gain more key. The yield
    is 0 or more, the error 1/2 where the yield is 0.

    Args:
        gains, error_gains: (lower, upper), each `(..., 7)` in the order of `TEST_PAIRS`.
    """
    x, y, low, high, errors_low, errors_high = as_float(
        settings.weak_intensity, settings.decoy_intensity, *gains, *error_gains
    )
    x, y = jnp.broadcast_arrays(x, y)
    info = jnp.finfo(x.dtype)
    # a weak decoy whose weights leave the float's range tells of nothing
    ordered = (x > 0) & (y > x) & (x * x * (y - x) > math.sqrt(float(info.tiny)))
    x, y = jnp.where(ordered, x, 1), jnp.where(ordered, y, 2)
    # S(a) = e^2a Q_aa - e^a (Q_ao + Q_oa) + Q_oo is the sum over n, m >= 1 of a^(n+m) Y_nm / (n! m!). In
    # y^3 S(x) - x^3 S(y) the order x^3 cancels and every higher one is negative: over x^2 y^2 (y - x), it bounds Y_11.
    one_x, one_y = jnp.exp(x), jnp.exp(y)
    of_x, of_y = ratio(y, x * x * (y - x)), ratio(x, y * y * (y - x))
    mixed_x, mixed_y = one_x * of_x, one_y * of_y
    zero = jnp.zeros_like(x)
    raising = jnp.stack([one_x * mixed_x, zero, zero, of_x - of_y, zero, mixed_y, mixed_y], axis=-1)
    lowering = jnp.stack([zero, mixed_x, mixed_x, zero, one_y * mixed_y, zero, zero], axis=-1)
    up, down = _times(raising, low), _times(lowering, high)
    # less what rounding may add: with the weakest decoys the difference is all rounding
    rounding = 2 * float(info.eps) * jnp.sum(up + down, axis=-1)
    y11 = jnp.where(ordered, jnp.clip(jnp.sum(up - down, axis=-1) - rounding, 0, 1), 0)
    inverse = ratio(1, x * x)
    raising = jnp.stack([one_x * one_x * inverse, zero, zero, inverse, zero, zero, zero], axis=-1)
    lowering = jnp.stack([zero, one_x * inverse, one_x * inverse, zero, zero, zero, zero], axis=-1)
    wrong = jnp.sum(_times(raising, errors_high) - _times(lowering, errors_low), axis=-1)
    return y11, jnp.clip(ratio(wrong, y11, otherwise=0.5), 0, 0.5)


def decoy_key_rate(settings: FourIntensitySettings, link: MdiLink) -> Float[Array, "..."]:
    """What `finite_key_rate` tends to for ever larger blocks: the same decoys, nothing left to chance.

    Bit per pulse pair, unclipped; `link.sifting` is not used, p_z^2 is the sifting here.
    """
    z, p_z, f = as_float(settings.signal_intensity, settings.signal_prob, link.error_correction_efficiency)
    gains, errors = decoy_gains(settings, link)
    y11, e11 = decoy_bounds(settings, (gains, gains), (errors, errors))
    key = observe(_settings(z, z), link)
    single = z * z * jnp.exp(-2 * z) * y11
    return p_z * p_z * (single * (1 - binary_entropy(e11)) - f * key.gain_z * binary_entropy(key.qber_z))


def finite_key(
    counts: FourIntensityCounts,
    settings: FourIntensitySettings,
    pulses: ArrayLike,
    error_correction_efficiency: ArrayLike = 1.16,
    security: BlockSecurity | None = None,
) -> FourIntensityKey:
    """Secret key of a block of `pulses` pulse pairs (Zhou, Yu, Wang 2016), from its counts.

    Thirteen Chernoff bounds fail with `eps_per_bound` each: seven in the yield, four in the error, two from means to
    this block. The length is n_11 [1 - h(e_ph)] - leak - log2(8/eps_cor) - 2 log2(2/eps^2) - 2 log2(1/(2 eps)), the
    last terms as in Curty et al., Nat. Commun. 5, 3732 (2014); they are spent only where there are single photons.

    Args:
        counts: real-valued expectations or sampled whole numbers.
        pulses: sent by each side, `(...)`.
    """
    s = security or BlockSecurity()
    n_key, m_key, n_test, m_test, z, p_z, total, f, eps, eps_cor = as_float(
        counts.n_key, counts.m_key, counts.n_test, counts.m_test, settings.signal_intensity, settings.signal_prob,
        pulses, error_correction_efficiency, s.eps_per_bound, s.eps_cor,
    )  # fmt: skip
    log_term = -jnp.log(eps)
    sent, n_test, m_test, each = _same_rank(decoy_pulses(settings, total), n_test, m_test, log_term[..., None])
    y11, e11 = decoy_bounds(settings, rate_bounds(n_test, sent, each), rate_bounds(m_test, sent, each))
    n11 = jnp.minimum(certain_count(total * p_z * p_z * z * z * jnp.exp(-2 * z) * y11, log_term), n_key)
    phase_error = sampled_error(n11, e11, log_term)
    qber = jnp.clip(ratio(m_key, n_key), 0, 1)
    leak = f * n_key * binary_entropy(qber)
    fixed = (6 * log_term - jnp.log(eps_cor)) / LN2 + 3  # log2(8/cor) + 2 log2(2/eps^2) + 2 log2(1/(2 eps))
    extracted = n11 > 0
    raw = jnp.where(extracted, n11 * (1 - binary_entropy(phase_error)) - fixed, 0) - leak
    return FourIntensityKey(
        yield_11=y11,
        error_11=e11,
        n_key_11=n11,
        phase_error=phase_error,
        qber_key=qber,
        leak_bits=leak,
        raw_bits=raw,
        secret_bits=jnp.floor(jnp.maximum(raw, 0)),
    )


def finite_key_rate(
    settings: FourIntensitySettings, link: MdiLink, pulses: ArrayLike, security: BlockSecurity | None = None
) -> Float[Array, "..."]:
    """Key of the mean counts of a block of `pulses` pulse pairs, in bit per pulse pair, unclipped."""
    counts = expected_counts(settings, link, pulses)
    key = finite_key(counts, settings, pulses, link.error_correction_efficiency, security)
    (total,) = as_float(pulses)
    return ratio(key.raw_bits, total)


def _settings(mu_a: ArrayLike, mu_b: ArrayLike) -> MdiSettings:
    mu_a, mu_b = as_float(mu_a, mu_b)
    return MdiSettings(*jnp.broadcast_arrays(mu_a, mu_b))


def _same_rank(*values: Array) -> list[Array]:
    """Leading axes of length 1 where a value has fewer axes: broadcasting is explicit here."""
    rank = max(v.ndim for v in values)
    return [v.reshape((1,) * (rank - v.ndim) + v.shape) for v in values]


def _times(a: Array, b: Array) -> Array:
    a, b = _same_rank(a, b)
    return a * b

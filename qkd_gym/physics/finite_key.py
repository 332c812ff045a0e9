"""Finite-key decoy BB84: from a block's counts to the length of its secret key.

Two decoys: Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014), arXiv:1311.7129.
One decoy: Rusca, Boaron, Gruenenfelder, Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018), arXiv:1801.03443.

Shapes: `counts`, `intensities` and `probabilities` carry a trailing axis over intensities, strongest first; everything
else broadcasts over the leading axes. Key comes from all intensities in the key basis; the phase error is read in the
test basis. Bounds are clipped in the order the sources state, and never exceed the clicks that they are part of: counts
that no Poissonian source can produce earn nothing. `raw_bits` keeps its sign for gradients and optimisers.

float32: sums are never formed from terms that cancel beyond the decoy estimate itself, so the key length is within
2e-6 of the number of key-basis clicks of its float64 value, whatever the block (tested up to 1e12 pulses).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import LN2, as_float, binary_entropy

#: Number of error terms that share `eps_sec` in either analysis.
LIM_ERROR_TERMS = 21
RUSCA_ERROR_TERMS = 19
#: Smallest probability of an intensity that the estimates divide by.
_MIN_PROBABILITY = 1e-9


@struct.dataclass
class Distillation:
    """How a block of raw key is turned into secret key."""

    error_correction_efficiency: Any = struct.field(
        default=1.16, low=0.0, high=10.0, doc="bits disclosed per Shannon limit of the key basis; 1 is the limit"
    )
    eps_sec: Any = struct.field(default=1e-10, low=0.0, high=1.0, doc="secrecy parameter")
    eps_cor: Any = struct.field(default=1e-15, low=0.0, high=1.0, doc="correctness parameter")


@struct.dataclass
class BlockSettings:
    """What the sender chooses for a block. Defaults: two decoys, the worked point of the two-decoy analysis."""

    intensities: Any = struct.field(
        default=(0.5, 0.15, 2e-4),
        unit="photon/pulse",
        low=0.0,
        high=10.0,
        doc="mean photon numbers, strongest first (..., k)",
    )
    probabilities: Any = struct.field(
        default=(0.4, 0.4, 0.2), low=0.0, high=1.0, doc="probability of each intensity (..., k)"
    )
    key_basis_prob: Any = struct.field(
        default=0.9, low=0.0, high=1.0, doc="probability of the key basis, both users (...)"
    )


@struct.dataclass
class BlockLink:
    """Channel and receiver of a block. Defaults: gated InGaAs of Lim 2014, table I."""

    transmittance: Any = struct.field(default=0.01, low=0.0, high=1.0, doc="channel and receiver together (...)")
    dark_count_prob_per_gate: Any = struct.field(
        default=6e-7, low=0.0, high=0.5, unit="1/gate", doc="per detector (...)"
    )
    afterpulse_prob: Any = struct.field(default=0.04, low=0.0, high=1.0, doc="per click (...)")
    misalignment_error: Any = struct.field(default=0.005, low=0.0, high=0.5, doc="optical error probability (...)")


@struct.dataclass
class ClickProbs:
    """Probabilities per pulse and intensity, all `(..., k)`."""

    detection: Any = struct.field(low=0.0, high=1.0, unit="1/pulse", doc="detection without afterpulses, D_k")
    click: Any = struct.field(low=0.0, high=2.0, unit="1/pulse", doc="detection with afterpulses, R_k = D_k (1 + p_ap)")
    error: Any = struct.field(low=0.0, high=1.0, unit="1/pulse", doc="click *and* error: joint, not conditional")


@struct.dataclass
class BlockCounts:
    """Sifted detections and errors of one block, all `(..., k)`."""

    n_key: Any = struct.field(low=0.0, unit="count", doc="detections in the key basis")
    m_key: Any = struct.field(low=0.0, unit="count", doc="errors in the key basis")
    n_test: Any = struct.field(low=0.0, unit="count", doc="detections in the test basis")
    m_test: Any = struct.field(low=0.0, unit="count", doc="errors in the test basis")


@struct.dataclass
class BlockKey:
    """Bounds and key of a block, all of the leading shape. Bounds are clipped; `raw_bits` is not."""

    tau_0: Any = struct.field(low=0.0, high=1.0, doc="probability of an empty pulse")
    tau_1: Any = struct.field(low=0.0, high=1.0, doc="probability of a single photon")
    s_key_0: Any = struct.field(low=0.0, unit="count", doc="vacuum detections in the key basis, lower bound")
    s_key_0_upper: Any = struct.field(low=0.0, unit="count", doc="the same, upper bound (inf where not estimated)")
    s_key_1: Any = struct.field(low=0.0, unit="count", doc="single-photon detections in the key basis, lower bound")
    s_test_0: Any = struct.field(low=0.0, unit="count", doc="vacuum detections in the test basis, lower bound")
    s_test_0_upper: Any = struct.field(low=0.0, unit="count", doc="the same, upper bound (inf where not estimated)")
    s_test_1: Any = struct.field(low=0.0, unit="count", doc="single-photon detections in the test basis, lower bound")
    v_test_1: Any = struct.field(low=0.0, unit="count", doc="single-photon errors in the test basis, upper bound")
    gamma: Any = struct.field(low=0.0, doc="sampling deviation of the phase error")
    phase_error: Any = struct.field(low=0.0, high=0.5, doc="phase error of the key's single photons, upper bound")
    qber_key: Any = struct.field(low=0.0, high=1.0, doc="error rate of the key basis over all intensities")
    leak_bits: Any = struct.field(low=0.0, unit="bit", doc="disclosed by error correction")
    raw_bits: Any = struct.field(unit="bit", doc="key length before floor and clip; may be negative")
    secret_bits: Any = struct.field(low=0.0, unit="bit", doc="key length, a whole number; 0 where no bound holds")


def lim_channel(
    intensities: ArrayLike,
    transmittance: ArrayLike,
    dark_count_prob_per_gate: ArrayLike,
    afterpulse_prob: ArrayLike = 0.0,
    misalignment_error: ArrayLike = 0.0,
) -> ClickProbs:
    """Click and error probabilities of Lim 2014, per pulse, for each intensity `(..., k)`; the rest is `(...)`.

    D_k = 1 - (1 - 2 p_dc) e^(-eta k), R_k = D_k (1 + p_ap), e_k = p_dc + e_mis (1 - e^(-eta k)) + p_ap D_k / 2.
    The printed error model has the channel's eta in the exponent; its own figures follow from the whole eta, used here.
    """
    k, eta, dark, after, mis = as_float(
        intensities, transmittance, dark_count_prob_per_gate, afterpulse_prob, misalignment_error
    )
    detections, errors = [], []
    for mu in columns(k):
        light = eta * mu
        detections.append(_detection(dark, light))
        errors.append(dark - mis * jnp.expm1(-light) + 0.5 * after * detections[-1])
    return ClickProbs(
        detection=stack(detections), click=stack([d * (1 + after) for d in detections]), error=stack(errors)
    )


@jax.custom_jvp
def _detection(dark: Array, light: Array) -> Array:
    """1 - (1 - 2 p_dc) e^(-light), whose derivative is finite where every gate clicks, p_dc = 1/2, too."""
    return -jnp.expm1(jnp.log1p(-2 * dark) - light)


@_detection.defjvp
def _detection_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    dark, light = primals
    dark_dot, light_dot = tangents
    return _detection(dark, light), jnp.exp(-light) * (2 * dark_dot + (1 - 2 * dark) * light_dot)


def expected_counts(
    pulses: ArrayLike, key_basis_prob: ArrayLike, probabilities: ArrayLike, key: ClickProbs, test: ClickProbs
) -> BlockCounts:
    """Mean counts of a block of `pulses`, from the click probabilities in either basis (pass one twice if equal)."""
    n, q, p = as_float(pulses, key_basis_prob, probabilities)
    in_key, in_test = n * q * q, n * (1 - q) * (1 - q)

    def times(weight: Array, x: Array) -> Array:
        return stack([weight * p_k * x_k for p_k, x_k in zip(columns(p), columns(x), strict=True)])

    return BlockCounts(
        n_key=times(in_key, key.click),
        m_key=times(in_key, key.error),
        n_test=times(in_test, test.click),
        m_test=times(in_test, test.error),
    )


def counts_of(settings: BlockSettings, link: BlockLink, pulses: ArrayLike) -> BlockCounts:
    """Mean counts of a block that sends `pulses` with `settings` over `link`."""
    clicks = lim_channel(
        settings.intensities,
        link.transmittance,
        link.dark_count_prob_per_gate,
        link.afterpulse_prob,
        link.misalignment_error,
    )
    return expected_counts(pulses, settings.key_basis_prob, settings.probabilities, clicks, clicks)


def certifiable_bits(
    pulses: ArrayLike,
    key_basis_prob: ArrayLike,
    intensities: ArrayLike,
    probabilities: ArrayLike,
    transmittance: ArrayLike,
    dark_count_prob_per_gate: ArrayLike,
    afterpulse_prob: ArrayLike = 0.0,
    misalignment_error: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """Mean key that `pulses` could yield with photon numbers known, an endless block and nothing disclosed, in bit.

    n q^2 (1 + p_ap) [tau_0 Y_0 + tau_1 Y_1 (1 - h(e_1))]: the vacuum and single-photon terms of Lim 2014, eq. 1, with
    the true yields Y_0 = 2 p_dc, Y_1 = 1 - (1 - 2 p_dc)(1 - eta) and the true single-photon error e_1 of `lim_channel`
    in place of bounds. Convex in the error, so that a sum over steps bounds the key of the steps pooled.

    Args:
        intensities, probabilities: `(..., k)`; the rest is `(...)`.
        misalignment_error: of the *test* basis, whose error is the key's phase error; above 1/2 it counts as 1/2.
    """
    n, q, mu, p, eta, dark, after, mis = as_float(
        pulses, key_basis_prob, intensities, probabilities,
        transmittance, dark_count_prob_per_gate, afterpulse_prob, misalignment_error,
    )  # fmt: skip
    tau_0, tau_1 = _tau(columns(mu), columns(p))
    single = eta + 2 * dark * (1 - eta)
    lit = single > 0
    wrong = (dark + mis * eta + 0.5 * after * single) / (jnp.where(lit, single, 1) * (1 + after))
    secret = 1 - binary_entropy(jnp.clip(wrong, 0, 0.5))
    return n * q * q * (1 + after) * (tau_0 * 2 * dark + tau_1 * single * secret)


def two_decoy_key(
    counts: BlockCounts,
    intensities: ArrayLike,
    probabilities: ArrayLike,
    distillation: Distillation | None = None,
    statistics: str = "hoeffding",
) -> BlockKey:
    """Secret key of a block with two decoys, three intensities mu1 > mu2 + mu3, mu2 > mu3 >= 0 (Lim 2014, eqs. 1-5).

    Args:
        counts: the block's counts, `(..., 3)`; real-valued expectations or sampled whole numbers.
        intensities, probabilities: `(..., 3)`.
        distillation: defaults to `Distillation()`.
        statistics: "hoeffding" as published, or "chernoff", tighter for weak intensities.

    Returns:
        `BlockKey`. Where the intensities are not ordered as required, no bound holds and the key is 0.
    """
    d = distillation or Distillation()
    (n_key, m_key, n_test, m_test, mu, p), f, eps_sec, eps_cor = _prepare(counts, intensities, probabilities, d, 3)
    mu1, mu2, mu3 = mu
    tau_0, tau_1 = _tau(mu, p)
    ordered = (mu1 > mu2 + mu3) & (mu2 > mu3) & (tau_0 > 0)
    empty = jnp.where(ordered, tau_0, 1)
    gap_23 = jnp.where(ordered, mu2 - mu3, 1)
    gap_1 = jnp.where(ordered, mu1 - mu2 - mu3, 1)
    mu1 = jnp.where(ordered, mu1, 1)
    log_term = jnp.log(LIM_ERROR_TERMS / eps_sec)

    def vacuum_and_single(n: list[Array]) -> tuple[Array, Array]:
        low, high = _weighted_bounds(n, mu, p, log_term, statistics)
        s0 = tau_0 * (mu2 * low[2] - mu3 * high[1]) / gap_23
        total = _total(n)
        s0 = jnp.where(ordered, jnp.clip(s0, 0, total), 0)
        # mu1 (mu2 - mu3) - mu2^2 + mu3^2 = (mu2 - mu3)(mu1 - mu2 - mu3): divide early, nothing cancels twice.
        slope = (low[1] - high[2]) / gap_23 - (mu2 + mu3) / (mu1 * mu1) * (high[0] - s0 / empty)
        s1 = tau_1 * mu1 * slope / gap_1
        return s0, jnp.where(ordered, jnp.clip(s1, 0, total - s0), 0)

    s_key_0, s_key_1 = vacuum_and_single(n_key)
    s_test_0, s_test_1 = vacuum_and_single(n_test)
    low, high = _weighted_bounds(m_test, mu, p, log_term, statistics)
    v_test_1 = jnp.maximum(tau_1 * (high[1] - low[2]) / gap_23, 0)
    unknown = jnp.full_like(s_key_0, jnp.inf)
    return _finish(
        n_key, m_key, tau_0, tau_1, s_key_0, unknown, s_key_1, s_test_0, unknown, s_test_1, v_test_1,
        log_term, f, eps_cor,
    )  # fmt: skip


def two_decoy_key_per_bit_secrecy(
    counts: BlockCounts,
    intensities: ArrayLike,
    probabilities: ArrayLike,
    eps_sec_per_bit: ArrayLike = 1e-15,
    error_correction_efficiency: ArrayLike = 1.16,
    eps_cor: ArrayLike = 1e-15,
) -> Float[Array, "..."]:
    """Unfloored key length l with eps_sec = `eps_sec_per_bit` x l, the fixed point behind the figures of Lim 2014.

    The map l -> key(eps l) is nearly constant (l enters under a logarithm), so 40 rounds reach the rounding error. 0
    where there is no key.
    """
    kappa, f, cor = as_float(eps_sec_per_bit, error_correction_efficiency, eps_cor)

    def key_at(bits: Array) -> Array:
        eps = jnp.minimum(kappa * jnp.maximum(bits, 1), 0.5)
        key = two_decoy_key(counts, intensities, probabilities, Distillation(f, eps, cor))
        return jnp.where((key.s_key_1 > 0) & (key.s_test_1 > 0), jnp.maximum(key.raw_bits, 0), 0)

    start = jnp.sum(jnp.asarray(counts.n_key), axis=-1)
    return jax.lax.fori_loop(0, 40, lambda _, bits: key_at(bits), key_at(start))


def one_decoy_key(
    counts: BlockCounts,
    intensities: ArrayLike,
    probabilities: ArrayLike,
    distillation: Distillation | None = None,
    statistics: str = "hoeffding",
) -> BlockKey:
    """Secret key of a block with one decoy, two intensities mu1 > mu2 > 0 (Rusca 2018).

    The upper bound on vacuum detections comes from errors of the *same* basis and enters the single-photon bound; the
    lower one enters the key. Arguments and result as in `two_decoy_key`, with a trailing axis of 2.
    """
    d = distillation or Distillation()
    (n_key, m_key, n_test, m_test, mu, p), f, eps_sec, eps_cor = _prepare(counts, intensities, probabilities, d, 2)
    mu1, mu2 = mu
    tau_0, tau_1 = _tau(mu, p)
    ordered = (mu1 > mu2) & (mu2 > 0) & (tau_0 > 0)
    empty = jnp.where(ordered, tau_0, 1)
    gap = jnp.where(ordered, mu1 - mu2, 1)
    mu1, mu2 = jnp.where(ordered, mu1, 1), jnp.where(ordered, mu2, 1)
    ratio = mu2 / mu1
    log_term = jnp.log(RUSCA_ERROR_TERMS / eps_sec)

    def vacuum_and_single(n: list[Array], m: list[Array]) -> tuple[Array, Array, Array]:
        low, high = _weighted_bounds(n, mu, p, log_term, statistics)
        _, errors_high = _weighted_bounds(m, mu, p, log_term, statistics)
        total = _total(n)
        lower = jnp.clip(tau_0 * (mu1 * low[1] - mu2 * high[0]) / gap, 0, total)
        upper = 2 * (tau_0 * jnp.minimum(errors_high[0], errors_high[1]) + _hoeffding(total, log_term))
        upper = jnp.minimum(upper, total)
        slope = low[1] - ratio * ratio * high[0] - (1 - ratio) * (1 + ratio) * upper / empty
        s1 = jnp.clip(tau_1 * mu1 * slope / (mu2 * gap), 0, total - lower)
        return jnp.where(ordered, lower, 0), upper, jnp.where(ordered, s1, 0)

    s_key_0, s_key_0_upper, s_key_1 = vacuum_and_single(n_key, m_key)
    s_test_0, s_test_0_upper, s_test_1 = vacuum_and_single(n_test, m_test)
    low, high = _weighted_bounds(m_test, mu, p, log_term, statistics)
    v_test_1 = jnp.maximum(tau_1 * (high[0] - low[1]) / gap, 0)
    return _finish(
        n_key, m_key, tau_0, tau_1, s_key_0, s_key_0_upper, s_key_1, s_test_0, s_test_0_upper, s_test_1, v_test_1,
        log_term, f, eps_cor,
    )  # fmt: skip


def sampling_deviation(
    log_term: ArrayLike, rate: ArrayLike, n_test: ArrayLike, n_key: ArrayLike
) -> Float[Array, "..."]:
    """Deviation gamma(eps, b, c, d) of a rate `b` seen on `c` test samples when it is inferred on `d` key samples.

    sqrt{ (c+d)(1-b) b / (c d ln 2) log2[ (c+d)/(c d (1-b) b) K^2/eps^2 ] }, Lim 2014 eq. 5; `log_term` = ln(K/eps).
    Written with 1/c + 1/d and a sum of logarithms, so that float32 neither overflows nor loses digits. 0 at b = 0.
    """
    log_term, b, c, d = as_float(log_term, rate, n_test, n_key)
    valid = (b > 0) & (b < 1) & (c > 0) & (d > 0)
    variance = jnp.where(valid, b * (1 - b), 0.25)
    inverse = 1 / jnp.where(valid, c, 1) + 1 / jnp.where(valid, d, 1)
    argument = variance * inverse * (jnp.log(inverse) - jnp.log(variance) + 2 * log_term) / LN2**2
    positive = valid & (argument > 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, argument, 1)), 0)


def expectation_bounds(observed: ArrayLike, log_term: ArrayLike) -> tuple[Array, Array]:
    """Chernoff bounds (lower, upper) on the mean behind an observed count; `log_term` = ln(1/eps) of either side.

    Upper x + b + sqrt(2 b x + b^2), lower max(0, x + b/2 - sqrt(2 b x + b^2/4)), from exp(-d^2 x/(2+d)), exp(-d^2 x/2).
    """
    x, b = as_float(observed, log_term)
    # x + b/2 - sqrt((x + b/2)^2 - x (x - b)) without the difference of near equals.
    root = jnp.sqrt(2 * b * x + b * b / 4)
    lower = x * (x - b) / (x + b / 2 + root)
    return jnp.maximum(lower, 0), x + b + jnp.sqrt(2 * b * x + b * b)


def observation_bounds(expected: ArrayLike, log_term: ArrayLike) -> tuple[Array, Array]:
    """Chernoff bounds (lower, upper) on a count to come from its mean; the converse of `expectation_bounds`."""
    x, b = as_float(expected, log_term)
    lower = jnp.maximum(x - jnp.sqrt(2 * b * x), 0)
    return lower, x + b / 2 + jnp.sqrt(2 * b * x + b * b / 4)


# ---- shared by the two analyses -----------------------------------------------------------------------------------


def columns(x: ArrayLike) -> list[Array]:
    """`x` taken apart along its last axis. Inside, everything is a column of the leading shape: one fused loop."""
    array = jnp.asarray(x)
    return [array[..., i] for i in range(array.shape[-1])]


def stack(values: list[Array]) -> Array:
    """Columns put together along a new last axis, after broadcasting them against each other."""
    return jnp.stack(jnp.broadcast_arrays(*values), axis=-1)


def _total(values: list[Array]) -> Array:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _prepare(
    counts: BlockCounts, intensities: ArrayLike, probabilities: ArrayLike, d: Distillation, k: int
) -> tuple[list[list[Array]], Array, Array, Array]:
    """Columns of the four counts, the intensities and the probabilities; then f, eps_sec and eps_cor; one dtype."""
    *arrays, f, eps_sec, eps_cor = as_float(
        counts.n_key, counts.m_key, counts.n_test, counts.m_test, intensities, probabilities,
        d.error_correction_efficiency, d.eps_sec, d.eps_cor,
    )  # fmt: skip
    for name, array in zip(("n_key", "m_key", "n_test", "m_test", "intensities", "probabilities"), arrays, strict=True):
        if array.ndim == 0 or array.shape[-1] != k:
            raise ValueError(f"{name} has shape {array.shape}; this analysis takes {k} intensities on the last axis")
    return [columns(a) for a in arrays], f, eps_sec, eps_cor


def _tau(mu: list[Array], p: list[Array]) -> tuple[Array, Array]:
    """Probabilities that a pulse of the mixture holds no photon, and one."""
    weights = [p_k * jnp.exp(-k) for k, p_k in zip(mu, p, strict=True)]
    return _total(weights), _total([w * k for k, w in zip(mu, weights, strict=True)])


def _hoeffding(total: Array, log_term: Array) -> Array:
    positive = total > 0
    return jnp.where(positive, jnp.sqrt(0.5 * jnp.where(positive, total, 1) * log_term), 0)


def _weighted_bounds(
    n: list[Array], mu: list[Array], p: list[Array], log_term: Array, statistics: str
) -> tuple[list[Array], list[Array]]:
    """(e^k / p_k) times the lower and upper bound of each intensity's mean count; lists over intensities."""
    scale = [jnp.exp(k) / jnp.maximum(p_k, _MIN_PROBABILITY) for k, p_k in zip(mu, p, strict=True)]
    if statistics == "hoeffding":
        delta = _hoeffding(_total(n), log_term)  # of the pooled count, not of n_k
        bounds = [(n_k - delta, n_k + delta) for n_k in n]
    elif statistics == "chernoff":
        bounds = [expectation_bounds(n_k, log_term) for n_k in n]
    else:
        raise ValueError(f"statistics={statistics!r} is unknown; choose 'hoeffding' or 'chernoff'")
    low = [w * b[0] for w, b in zip(scale, bounds, strict=True)]
    high = [w * b[1] for w, b in zip(scale, bounds, strict=True)]
    return low, high


def _finish(
    n_key: list[Array], m_key: list[Array], tau_0: Array, tau_1: Array,
    s_key_0: Array, s_key_0_upper: Array, s_key_1: Array, s_test_0: Array, s_test_0_upper: Array, s_test_1: Array,
    v_test_1: Array, log_term: Array, f: Array, eps_cor: Array,
) -> BlockKey:  # fmt: skip
    """Phase error, leak and key length from the decoy bounds."""
    estimated = (s_key_1 > 0) & (s_test_1 > 0)
    ratio = jnp.minimum(v_test_1 / jnp.where(estimated, s_test_1, 1), 0.5)
    ratio = jnp.where(estimated, ratio, 0.5)
    gamma = jnp.where(estimated, sampling_deviation(log_term, ratio, s_test_1, s_key_1), 0)
    phase_error = jnp.minimum(ratio + gamma, 0.5)
    n, m = _total(n_key), _total(m_key)
    qber = jnp.clip(jnp.where(n > 0, m / jnp.where(n > 0, n, 1), 0), 0, 1)
    leak = f * n * binary_entropy(qber)
    fixed = (6 * log_term - jnp.log(eps_cor)) / LN2 + 1  # 6 log2(K/eps_sec) + log2(2/eps_cor)
    raw = s_key_0 + s_key_1 * (1 - binary_entropy(phase_error)) - leak - fixed
    secret = jnp.where(estimated, jnp.floor(jnp.maximum(raw, 0)), 0)
    shape = raw.shape
    return BlockKey(
        tau_0=jnp.broadcast_to(tau_0, shape),
        tau_1=jnp.broadcast_to(tau_1, shape),
        s_key_0=s_key_0,
        s_key_0_upper=s_key_0_upper,
        s_key_1=s_key_1,
        s_test_0=s_test_0,
        s_test_0_upper=s_test_0_upper,
        s_test_1=s_test_1,
        v_test_1=v_test_1,
        gamma=gamma,
        phase_error=phase_error,
        qber_key=qber,
        leak_bits=leak,
        raw_bits=raw,
        secret_bits=secret,
    )

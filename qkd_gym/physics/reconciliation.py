"""What error correction discloses and how often it fails; what confirming and authenticating it costs.

`efficiency` f is disclosed bits over the Shannon limit n h(Q): 1 is perfect. For Gaussian symbols the reconciliation
efficiency beta is the code's rate over the capacity, at most 1.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.information import LN2, as_float, binary_entropy, inverse_binary_entropy

#: (QBER, efficiency) of the original Cascade, Brassard and Salvail, EUROCRYPT '93; values as usually quoted.
CASCADE_EFFICIENCY: tuple[tuple[float, float], ...] = ((0.01, 1.16), (0.05, 1.16), (0.10, 1.22), (0.15, 1.35))
#: Cascade with large blocks, Martinez-Mateo et al., QIC 15, 453 (2015): 1.03-1.05.
LARGE_BLOCK_CASCADE_EFFICIENCY = 1.05
#: (rate, SNR, beta) of multi-edge LDPC codes with multidimensional reconciliation: Jouguet, Kunz-Jacques, Leverrier,
#: Phys. Rev. A 84, 062317 (2011). Their frame error rates are 0.1 to 0.5 there: always count (1 - FER) of the key.
GAUSSIAN_CODES: tuple[tuple[float, float, float], ...] = (
    (0.5, 1.097, 0.936),
    (0.1, 0.161, 0.929),
    (0.05, 0.075, 0.958),
    (0.02, 0.029, 0.970),
)
#: (rate, beta) of rate-adaptive multi-edge codes, Wang et al., arXiv:1703.04916.
RATE_ADAPTIVE_GAUSSIAN_CODES: tuple[tuple[float, float], ...] = ((0.1, 0.935), (0.05, 0.954), (0.02, 0.964))


def leak_bits(bits: ArrayLike, qber: ArrayLike, efficiency: ArrayLike) -> Float[Array, "..."]:
    """Disclosed bits f n h(Q)."""
    n, q, f = as_float(bits, qber, efficiency)
    return f * n * binary_entropy(q)


def cascade_efficiency(qber: ArrayLike) -> Float[Array, "..."]:
    """Efficiency of the original Cascade, interpolated in `CASCADE_EFFICIENCY` and constant outside."""
    (q,) = as_float(qber)
    x, y = zip(*CASCADE_EFFICIENCY, strict=True)
    return jnp.interp(q, jnp.asarray(x, q.dtype), jnp.asarray(y, q.dtype))


def adapted_rate(mother_rate: ArrayLike, shortened: ArrayLike, punctured: ArrayLike) -> Float[Array, "..."]:
    """Rate (R0 - s) / (1 - p - s) of a code with a fraction s shortened and p punctured.

    Elkouss, Martinez-Mateo, Lancho, Martin, ITW 2010, arXiv:1006.2660.
    """
    r0, s, p = as_float(mother_rate, shortened, punctured)
    return (r0 - s) / (1 - p - s)


def efficiency_of_rate(rate: ArrayLike, qber: ArrayLike) -> Float[Array, "..."]:
    """Efficiency (1 - R) / h(Q) of a code of rate R at error rate Q; inf at Q = 0."""
    r, q = as_float(rate, qber)
    return (1 - r) / binary_entropy(q)


def decodable_qber(rate: ArrayLike, efficiency: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Largest error rate that a code of rate R corrects at efficiency f: h(Q) = (1 - R) / f."""
    r, f = as_float(rate, efficiency)
    return inverse_binary_entropy(jnp.clip((1 - r) / f, 0, 1))


def dispersion(qber: ArrayLike) -> Float[Array, "..."]:
    """Dispersion of the binary symmetric channel, V = Q (1-Q) log2^2((1-Q)/Q), bit^2 per symbol; 0 at Q = 0 and 1/2."""
    (q,) = as_float(qber)
    inside = (q > 0) & (q < 1)
    safe = jnp.where(inside, q, 0.5)
    slope = (jnp.log1p(-safe) - jnp.log(safe)) / LN2
    return jnp.where(inside, safe * (1 - safe) * slope * slope, 0)


def finite_length_leak_bits(bits: ArrayLike, qber: ArrayLike, frame_error_rate: ArrayLike) -> Float[Array, "..."]:
    """Least disclosure of one-way reconciliation of n bits at a frame error rate, to second order.

    n h + sqrt(n V) Phi^-1(1 - FER) - log2(n)/2. Tomamichel, Martinez-Mateo, Pacher, Elkouss, Quantum Inf. Process. 16,
    280 (2017), arXiv:1401.5194.
    """
    n, q, fer = as_float(bits, qber, frame_error_rate)
    return n * binary_entropy(q) - jnp.sqrt(n * dispersion(q)) * ndtri(fer) - jnp.log(n) / (2 * LN2)


def finite_length_efficiency(bits: ArrayLike, qber: ArrayLike, frame_error_rate: ArrayLike) -> Float[Array, "..."]:
    """`finite_length_leak_bits` over the Shannon limit n h(Q)."""
    n, q, fer = as_float(bits, qber, frame_error_rate)
    return finite_length_leak_bits(n, q, fer) / (n * binary_entropy(q))


def frame_error_rate(
    efficiency: ArrayLike,
    qber: ArrayLike,
    bits: ArrayLike,
    threshold_efficiency: ArrayLike = 1.05,
    width: ArrayLike = 1.5,
) -> Float[Array, "..."]:
    """Frame error rate of a code family: upper Gaussian tail of (f - f0) h(Q) sqrt(n/V) / c.

    A parametric model of this suite, not of the literature: f0 is the family's threshold efficiency, c >= 1 widens the
    waterfall beyond the finite-length bound.
    """
    f, q, n, f0, c = as_float(efficiency, qber, bits, threshold_efficiency, width)
    return _upper_tail((f - f0) * binary_entropy(q), n, dispersion(q), c)


def gaussian_frame_error_rate(
    reconciliation_efficiency: ArrayLike,
    snr: ArrayLike,
    symbols: ArrayLike,
    threshold_efficiency: ArrayLike,
    width: ArrayLike = 1.5,
) -> Float[Array, "..."]:
    """The same model for Gaussian symbols: beta0 - beta bits of capacity to spare, and the dispersion of that channel.

    V = (SNR/2)(SNR+2)/(SNR+1)^2 log2^2(e) per symbol; capacity log2(1+SNR)/2.
    """
    beta, s, n, beta0, c = as_float(reconciliation_efficiency, snr, symbols, threshold_efficiency, width)
    spare = (beta0 - beta) * jnp.log1p(s) / (2 * LN2)
    variance = s / 2 * (s + 2) / ((s + 1) * (s + 1)) / LN2**2
    return _upper_tail(spare, n, variance, c)


def gaussian_efficiency(rate: ArrayLike, snr: ArrayLike) -> Float[Array, "..."]:
    """Reconciliation efficiency beta = R / (log2(1 + SNR)/2) of R bits per Gaussian symbol; inf at SNR = 0."""
    r, s = as_float(rate, snr)
    return r / (jnp.log1p(s) / (2 * LN2))


def gaussian_snr_threshold(rate: ArrayLike, efficiency: ArrayLike = 1.0) -> Float[Array, "..."]:
    """Least SNR at which a code of R bits per symbol and efficiency beta decodes: 2^(2R/beta) - 1."""
    r, beta = as_float(rate, efficiency)
    return jnp.expm1(2 * LN2 * r / beta)


def verification_bits(eps_cor: ArrayLike) -> Float[Array, "..."]:
    """Bits of the universal hash that confirms equal keys, log2(2/eps_cor): 51 for 1e-15."""
    (eps,) = as_float(eps_cor)
    return 1 - jnp.log(eps) / LN2


def authentication_bits(messages: ArrayLike, tag_bits: ArrayLike = 64.0) -> Float[Array, "..."]:
    """Key that authenticates `messages`: for each a fresh hash and a mask of its tag, 2 x tag; 64 to 128 bit are usual.

    Wegman, Carter, J. Comput. Syst. Sci. 22, 265 (1981).
    """
    count, tag = as_float(messages, tag_bits)
    return 2 * count * tag


def _upper_tail(spare: Array, n: Array, variance: Array, width: Array) -> Array:
    positive = variance > 0
    x = spare * jnp.sqrt(n / jnp.where(positive, variance, 1)) / width
    certain = jnp.where(spare > 0, 0.0, 1.0)  # without dispersion the threshold is sharp
    return jnp.where(positive, ndtr(-x), certain)

"""Continuous-variable QKD with Gaussian-modulated coherent states (GG02): covariances, Holevo bound, key rates.

Grosshans, Grangier, Phys. Rev. Lett. 88, 057902 (2002); heterodyne detection: Weedbrook et al., Phys. Rev. Lett. 93,
170504 (2004); detector model and symplectic eigenvalues: Lodewyck et al., Phys. Rev. A 76, 042305 (2007) and Fossier et
al., J. Phys. B 42, 114014 (2009); finite size: Leverrier, Grosshans, Grangier, Phys. Rev. A 81, 062343 (2010),
arXiv:1005.0339. Gaussian collective attacks, reverse reconciliation. Rates are in bit per symbol and keep their sign.

Variances are in shot-noise units: 1 is the vacuum, per quadrature. Excess noise is counted at the channel's *input*,
electronic noise per homodyne detector (a heterodyne receiver has two). A trusted receiver's loss and noise are out of
Eve's reach; an untrusted receiver's belong to her.

The published forms, A^2 - 4B and nu - 1, lose everything in single precision. Here nothing that matters is a difference
of near equals. With g = T xi, the state of Alice and Bob has nu_1 nu_2 - 1 = p and |nu_1 - nu_2| = |d|, where

    u = p + d = g (V_A + 2),    w = p - d = V_A (2 (1 - T) + g)

are sums of positive terms; so are the invariants of Eve's state once Bob has measured, and the Holevo bound is a sum of
drops of the thermal entropy, taken at closed-form differences of eigenvalues. float32: mutual information, Holevo bound
and each nu - 1 are within 2e-6 of their own float64 value (0 to 150 km, V_A 0.5 to 20, excess noise to 0.05), so a rate
is within 2e-6 of I_AB + chi_BE.

The finite-size rate of the source puts the worst-case channel into the Holevo bound alone and keeps the expected one in
the mutual information. At a given output noise that bound *grows* with T up to T of 0.5 to 0.8, so on a longer link the
pair is not the worst case: `CvDistillation(mutual_information_at="worst")` puts the same channel into both, is never
above the published rate, and costs 6 % of it with the defaults at 50 km and 1e8 symbols.
Composable proofs (Leverrier, Phys. Rev. Lett. 118, 200501 (2017)) ask for more than either. Frames that fail
reconciliation are charged through `frame_error_rate`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import LN2, as_float
from qkd_gym.physics.optimum import maximise

DETECTIONS = ("homodyne", "heterodyne")
RECEIVERS = ("trusted", "untrusted")
CHANNELS = ("expected", "worst")


@struct.dataclass
class CvSettings:
    """What the users choose."""

    modulation_variance: Any = struct.field(
        default=4.0, unit="SNU", low=0.0, high=1e6, doc="V_A, variance of either quadrature of Alice's states"
    )
    key_fraction: Any = struct.field(
        default=0.5, low=0.0, high=1.0, doc="share of a block that makes key, the rest estimates; finite blocks only"
    )


@struct.dataclass
class CvLink:
    """Channel, receiver and reconciliation. Defaults: 25 km of fibre and a typical receiver."""

    transmittance: Any = struct.field(default=0.316227766, low=0.0, high=1.0, doc="T, channel without the detector")
    excess_noise: Any = struct.field(default=0.01, unit="SNU", low=0.0, high=10.0, doc="xi, at the channel's input")
    detector_efficiency: Any = struct.field(default=0.6, low=0.01, high=1.0, doc="eta")
    electronic_noise: Any = struct.field(
        default=0.01, unit="SNU", low=0.0, high=10.0, doc="v_el, per homodyne detector"
    )
    reconciliation_efficiency: Any = struct.field(
        default=0.95, low=0.0, high=1.0, doc="beta, share of the mutual information that is reconciled"
    )
    frame_error_rate: Any = struct.field(
        default=0.0, low=0.0, high=1.0, doc="share of frames that fail and are dropped"
    )
    detection: str = struct.field(default="homodyne", static=True, doc="homodyne or heterodyne")
    receiver: str = struct.field(default="trusted", static=True, doc="trusted or untrusted")

    def __post_init__(self) -> None:
        for name, value, known in (
            ("detection", self.detection, DETECTIONS),
            ("receiver", self.receiver, RECEIVERS),
        ):
            if value not in known:
                raise ValueError(f"CvLink.{name} = {value!r} is unknown; choose one of {', '.join(known)}")


@struct.dataclass
class CvDistillation:
    """Failure probabilities of a finite block."""

    eps_pe: Any = struct.field(default=1e-10, low=1e-30, high=1.0, doc="parameter estimation")
    eps_bar: Any = struct.field(default=1e-10, low=1e-30, high=1.0, doc="smoothing of the min-entropy")
    eps_pa: Any = struct.field(default=1e-10, low=1e-30, high=1.0, doc="privacy amplification")
    mutual_information_at: str = struct.field(
        default="expected", static=True, doc="channel of I_AB: expected, as published, or worst, as in the Holevo bound"
    )

    def __post_init__(self) -> None:
        if self.mutual_information_at not in CHANNELS:
            raise ValueError(
                f"CvDistillation.mutual_information_at = {self.mutual_information_at!r} is unknown; "
                f"choose one of {', '.join(CHANNELS)}"
            )


@struct.dataclass
class Quadratures:
    """What Alice and Bob estimate: second moments of one quadrature, `(...)`."""

    bob_variance: Any = struct.field(unit="SNU", low=0.0, doc="of one homodyne detector's output")
    covariance: Any = struct.field(unit="SNU", low=0.0, doc="of Alice's modulation and that output")
    noise_variance: Any = struct.field(unit="SNU", low=0.0, doc="of that output, given Alice's modulation")
    snr: Any = struct.field(low=0.0, doc="signal-to-noise ratio of Bob's data")


@struct.dataclass
class Holevo:
    """Eve's information on Bob's data, and the symplectic eigenvalues nu behind it, `(...)`.

    Given as nu - 1, since nu rounds to 1. The fifth eigenvalue, 1, adds nothing.
    """

    bits: Any = struct.field(unit="bit/symbol", low=0.0, doc="Holevo bound chi_BE")
    excess_1: Any = struct.field(low=0.0, doc="nu_1 - 1, Alice and Bob, the larger")
    excess_2: Any = struct.field(low=0.0, doc="nu_2 - 1, Alice and Bob, the smaller")
    excess_3: Any = struct.field(low=0.0, doc="nu_3 - 1, given Bob's data, the larger")
    excess_4: Any = struct.field(low=0.0, doc="nu_4 - 1, given Bob's data, the smaller")


@struct.dataclass
class WorstCase:
    """Channel that a finite block cannot exclude, `(...)`."""

    confidence: Any = struct.field(low=0.0, doc="z, standard deviations at eps_pe, two-sided")
    transmittance: Any = struct.field(low=0.0, high=1.0, doc="lowest T; 0 where the block says nothing")
    output_noise: Any = struct.field(unit="SNU", low=0.0, doc="largest T xi, excess noise at the channel's output")

    @property
    def excess_noise(self) -> Array:
        """Largest xi at the channel's input; infinite where the transmittance may be 0."""
        seen = self.transmittance > 0
        return jnp.where(seen, self.output_noise / jnp.where(seen, self.transmittance, 1), jnp.inf)


def observe(settings: CvSettings, link: CvLink) -> Quadratures:
    """Second moments at the receiver: y = t x + z with t^2 = eta T / k and noise 1 + v_el + eta T xi / k.

    k = 1 for homodyne, 2 for heterodyne, whose light is split over two detectors.
    """
    va, transmittance, xi, eta, v = as_float(
        settings.modulation_variance, link.transmittance, link.excess_noise, link.detector_efficiency,
        link.electronic_noise,
    )  # fmt: skip
    gain = eta * transmittance / _detectors(link)
    noise = 1 + v + gain * xi
    return Quadratures(
        bob_variance=noise + gain * va,
        covariance=jnp.sqrt(gain) * va,
        noise_variance=noise,
        snr=gain * va / noise,
    )


def mutual_information(settings: CvSettings, link: CvLink) -> Float[Array, "..."]:
    """I_AB of Gaussian data in bit per symbol: log2(1 + SNR), halved for homodyne, which reads one quadrature."""
    return 0.5 * _detectors(link) * jnp.log1p(observe(settings, link).snr) / LN2


def holevo(settings: CvSettings, link: CvLink) -> Holevo:
    """Eve's Holevo information on Bob's data by the best Gaussian collective attack (Lodewyck 2007, Fossier 2009)."""
    return _holevo(settings.modulation_variance, *_seen_by_eve(link), link.detection)


def key_rate(settings: CvSettings, link: CvLink) -> Float[Array, "..."]:
    """(1 - FER) (beta I_AB - chi_BE), bit per symbol, endless block, unclipped."""
    beta, fer, information = as_float(
        link.reconciliation_efficiency, link.frame_error_rate, mutual_information(settings, link)
    )
    return (1 - fer) * (beta * information - holevo(settings, link).bits)


def worst_case(
    settings: CvSettings, link: CvLink, pulses: ArrayLike, distillation: CvDistillation | None = None
) -> WorstCase:
    """Lowest transmittance and largest noise in the confidence region of `pulses` symbols (Leverrier 2010).

    The share 1 - key_fraction of the symbols is disclosed; each heterodyne symbol gives two samples. With an untrusted
    receiver the channel is the one that includes it.
    """
    n, fraction, va, t, g, eta, v, eps = as_float(
        pulses, settings.key_fraction, settings.modulation_variance, *_seen_by_eve(link),
        (distillation or CvDistillation()).eps_pe,
    )  # fmt: skip
    k = _detectors(link)
    noise = k * (1 + v) / eta + g  # k sigma^2 / eta
    z = jnp.maximum(-ndtri(eps / 2), 0)  # sqrt(2) erfinv(1 - eps) without 1 - eps, which no float holds
    samples = k * n * (1 - fraction)
    known = (samples >= 1) & (va > 1e-20) & (t > 0)  # the slope of 1/sqrt(V_A) overflows further down
    samples, va = jnp.where(known, samples, 1), jnp.where(known, va, 1)
    # sqrt(k / eta) t_min, t_min = sqrt(eta T / k) - z sqrt(sigma^2 / (M V_A))
    root = jnp.maximum(jnp.sqrt(jnp.where(known, t, 1)) - z * jnp.sqrt(noise / (samples * va)), 0)
    return WorstCase(
        confidence=jnp.broadcast_to(z, root.shape),
        transmittance=jnp.where(known, root * root, 0),
        # (sigma^2_max - 1 - v_el) k / eta, its known part taken out
        output_noise=g + noise * z * jnp.sqrt(2 / samples),
    )


def worst_holevo(settings: CvSettings, link: CvLink, worst: WorstCase) -> Holevo:
    """Eve's Holevo information if the channel is the `worst_case` of the same settings and link."""
    _, _, eta, v = _seen_by_eve(link)
    return _holevo(settings.modulation_variance, worst.transmittance, worst.output_noise, eta, v, link.detection)


def finite_key_rate(
    settings: CvSettings, link: CvLink, pulses: ArrayLike, distillation: CvDistillation | None = None
) -> Float[Array, "..."]:
    """Key rate of a block of `pulses` symbols in bit per symbol sent, unclipped (Leverrier 2010).

    (1 - FER) (n/N) [beta I_AB - chi_BE(T_min, xi_max) - Delta(n)] with n = key_fraction N. Where the block cannot
    exclude T = 0, or nothing is disclosed to estimate from, the rate is never positive.
    """
    d = distillation or CvDistillation()
    n, fraction, beta, fer, eps_bar, eps_pa, information = as_float(
        pulses, settings.key_fraction, link.reconciliation_efficiency, link.frame_error_rate, d.eps_bar, d.eps_pa,
        mutual_information(settings, link),
    )  # fmt: skip
    worst = worst_case(settings, link, n, d)
    chi = worst_holevo(settings, link, worst).bits
    if d.mutual_information_at == "worst":
        _, _, eta, v = _seen_by_eve(link)
        light = eta * worst.transmittance * settings.modulation_variance
        snr = light / (_detectors(link) * (1 + v) + eta * worst.output_noise)
        information = 0.5 * _detectors(link) * jnp.log1p(snr) / LN2
    rate = fraction * (beta * information - chi - penalty(fraction * n, eps_bar, eps_pa))
    return (1 - fer) * jnp.where(worst.transmittance > 0, rate, jnp.minimum(rate, 0))


def penalty(key_symbols: ArrayLike, eps_bar: ArrayLike = 1e-10, eps_pa: ArrayLike = 1e-10) -> Float[Array, "..."]:
    """Delta(n) = 7 sqrt(log2(2/eps_bar) / n) + (2/n) log2(1/eps_pa), bit per key symbol; n counts as at least 1."""
    n, bar, pa = as_float(key_symbols, eps_bar, eps_pa)
    n = jnp.maximum(n, 1)
    return 7 * jnp.sqrt((1 - jnp.log(bar) / LN2) / n) - 2 * jnp.log(pa) / (LN2 * n)


def optimal_rate(
    link: CvLink, low: float = 0.05, high: float = 100.0
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(modulation variance, rate)` that maximise the key rate of an endless block over [low, high]; unclipped.

    Finite for beta < 1, 1 to 10 at long distance; grows with beta towards 1 and at short distance.
    """

    def rate(va: Array) -> Array:
        template = CvSettings()
        settings = jax.tree.unflatten(jax.tree.structure(template), [va, jnp.asarray(template.key_fraction, va.dtype)])
        return key_rate(settings, link)

    return maximise(rate, low, high, grid=96)


def thermal_entropy(excess: ArrayLike) -> Float[Array, "..."]:
    """Entropy in bit of a thermal mode of symplectic eigenvalue 1 + `excess`: G(n), n = excess / 2 photons.

    G(n) = (n + 1) log2(n + 1) - n log2 n, as ln(1 + n) + n ln(1 + 1/n), which holds at both ends. G(0) = 0.
    """
    (x,) = as_float(excess)
    return entropy_drop(x / 2, jnp.zeros_like(x), x / 2)


@jax.custom_jvp
def entropy_drop(upper: Array, lower: Array, gap: Array) -> Array:
    """G(upper) - G(lower) in bit, to the precision of the difference.

    Arguments in photons; `gap` = upper - lower, of either sign. float32: to 1e-6 of itself up to 100 photons.
    """
    near = jnp.abs(gap) < 0.25 * lower
    # far apart: ln((1+x)/(1+y)) + L(x) - L(y), L(n) = n ln(1 + 1/n)
    far = jnp.log1p(gap / (1 + lower)) + _bounded_part(upper) - _bounded_part(lower)
    # close: gap ln(1 + 1/x) + c(y+1) - c(y), c(u) = u ln(1 + gap/u) - gap; the first term of c is taken by hand
    y, step = jnp.where(near, lower, 1), jnp.where(near, gap, 0)
    first = 2 * step / (2 * y + step) * step / (2 * y + 2 + step)
    close = step * jnp.log1p(1 / (y + step)) + first + _rest(y + 1, step) - _rest(y, step)
    return jnp.where(near, close, far) / LN2


@entropy_drop.defjvp
def _entropy_drop_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    upper, lower, gap = primals
    _, d_lower, d_gap = tangents
    least = max(float(jnp.finfo(upper.dtype).tiny), 1e-15)  # the slope of G diverges at 0
    top, floor = jnp.maximum(upper, least), jnp.maximum(lower, least)
    # G'(upper) d_gap + [G'(upper) - G'(lower)] d_lower, G'(n) = ln(1 + 1/n)
    bend = -jnp.log1p(gap / (floor * (1 + top)))
    return entropy_drop(upper, lower, gap), (jnp.log1p(1 / top) * d_gap + bend * d_lower) / LN2


def _bounded_part(n: Array) -> Array:
    some = n > 0
    safe = jnp.where(some, n, 1)
    return jnp.where(some, safe * jnp.log1p(1 / safe), 0)


def _rest(u: Array, step: Array) -> Array:
    """u ln(1 + step/u) - step + step^2 / (2u + step) for small step/u: 2u (artanh t - t), t = step / (2u + step)."""
    t = step / (2 * u + step)
    s = t * t
    odd = 1 / 3 + s * (1 / 5 + s * (1 / 7 + s * (1 / 9 + s * (1 / 11 + s * (1 / 13 + s * (1 / 15 + s / 17))))))
    return 2 * u * t * s * odd


def _detectors(link: CvLink) -> int:
    return 2 if link.detection == "heterodyne" else 1


def _seen_by_eve(link: CvLink) -> tuple[Array, Array, Array, Array]:
    """`(T, g = T xi, eta, v_el)` of the security analysis.

    An untrusted receiver is an ideal one behind a worse channel: T -> eta T, g -> eta g + k v_el, eta -> 1, v_el -> 0.
    """
    t, xi, eta, v = as_float(link.transmittance, link.excess_noise, link.detector_efficiency, link.electronic_noise)
    if link.receiver == "trusted":
        return t, t * xi, eta, v
    return eta * t, eta * t * xi + _detectors(link) * v, jnp.ones_like(eta), jnp.zeros_like(v)


def _holevo(modulation: ArrayLike, t: Array, g: Array, eta: Array, v: Array, detection: str) -> Holevo:
    """Holevo bound with the channel given by T and g = T xi."""
    va, t, g, eta, v = as_float(modulation, t, g, eta, v)
    lost, noise = 1 - t, 1 - eta + v
    u, w = g * (va + 2), va * (2 * lost + g)
    x_u, x_w = _excess_pair(u, w)
    seen = eta * (t * va + g)  # what the light adds to the receiver's own vacuum and noise
    if detection == "homodyne":
        pairs = _given_homodyne(va, t, g, eta, v, x_u, x_w)
    else:
        # nu_3 nu_4 - 1 and nu_3 - nu_4 follow from u', w' as nu_1, nu_2 do from u, w
        share = 1 / (2 * (1 + v) + seen)
        y_u, y_w = _excess_pair(2 * noise * u * share, 2 * (1 + v) * w * share)
        u_drop, w_drop = (2 * eta + seen) * u * share, seen * w * share
        gap_u = (u_drop * (1 + y_u / 2) - w_drop * y_u / 2) / (2 + x_w + y_u)
        gap_w = (w_drop * (1 + y_w / 2) - u_drop * y_w / 2) / (2 + x_u + y_w)
        pairs = ((x_u, y_u, gap_u), (x_w, y_w, gap_w))
    (x_a, y_a, gap_a), (x_b, y_b, gap_b) = pairs
    bits = entropy_drop(x_a / 2, y_a / 2, gap_a / 2) + entropy_drop(x_b / 2, y_b / 2, gap_b / 2)
    return Holevo(
        bits=jnp.maximum(bits, 0),
        excess_1=jnp.maximum(x_a, x_b),
        excess_2=jnp.minimum(x_a, x_b),
        excess_3=jnp.maximum(y_a, y_b),
        excess_4=jnp.minimum(y_a, y_b),
    )


def _excess_pair(u: Array, w: Array) -> tuple[Array, Array]:
    """nu - 1 of the two eigenvalues with (product - 1) = (u + w)/2 and difference (u - w)/2; the first is 0 with u."""
    p, d = (u + w) / 2, (u - w) / 2
    root = jnp.sqrt(4 + d * d + 4 * p)  # nu_1 + nu_2
    wide = root + jnp.abs(d)
    narrow = 4 * (1 + p) / wide  # root - |d|
    rising = d > 0
    return 2 * u / (2 + jnp.where(rising, narrow, wide)), 2 * w / (2 + jnp.where(rising, wide, narrow))


def _given_homodyne(
    va: Array, t: Array, g: Array, eta: Array, v: Array, x_u: Array, x_w: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """`(excess, excess given Bob's data, their difference)` of both eigenvalues, larger ones first.

    X = nu^2 - 1 are the roots of X^2 - S X + P: for Alice and Bob S = d^2 + 2p and P = u w; given Bob's data
    S' = [c S + eta V_A (V_A + 2)(1 - T + g)] / r and P' = c P / r, with c = 1 - eta + v_el, r = 1 + v_el + eta (b - 1).
    """
    lost, noise = 1 - t, 1 - eta + v
    u, w = g * (va + 2), va * (2 * lost + g)
    seen = eta * (t * va + g)
    share = 1 / (1 + v + seen)
    d = (u - w) / 2
    total = d * d + u + w
    product = u * w
    total_3 = (noise * total + eta * va * (va + 2) * (lost + g)) * share
    product_3 = noise * product * share
    disc = total_3 * total_3 - 4 * product_3
    split = disc > 0
    big = total_3 + jnp.where(split, jnp.sqrt(jnp.where(split, disc, 1)), 0)
    # far from where its square underflows, for the gradient
    least = math.sqrt(float(jnp.finfo(big.dtype).tiny)) * 1e3
    some = big > least
    y_1 = big / 2
    y_2 = jnp.where(some, 2 * product_3 / jnp.where(some, big, 1), 0)
    e_1, e_2 = jnp.maximum(x_u, x_w), jnp.minimum(x_u, x_w)
    x_1, x_2 = e_1 * (e_1 + 2), e_2 * (e_2 + 2)
    # b S - V_A (V_A + 2)(1 - T + g), whose terms of order 1 have cancelled on paper
    y = t * va
    rest = y * va * lost * (1 + va * lost) + g * (2 + 2 * y + y * (3 * y - 2 * va) + g * (3 * (1 + y) + g))
    total_drop = eta * rest * share
    product_drop = product * (eta + seen) * share
    apart = x_1 - y_2
    clear = apart > least
    gap_1 = jnp.where(clear, (total_drop * x_1 - product_drop) / jnp.where(clear, apart, 1), 0)
    # X_4 / X_2 = (c / r) X_1 / X_3
    gap_2 = jnp.where(some, x_2 * ((eta + seen) * y_1 - noise * gap_1) * share / jnp.where(some, y_1, 1), 0)
    root_1, root_2 = jnp.sqrt(1 + y_1), jnp.sqrt(1 + y_2)
    return (
        (e_1, y_1 / (1 + root_1), gap_1 / (1 + e_1 + root_1)),
        (e_2, y_2 / (1 + root_2), gap_2 / (1 + e_2 + root_2)),
    )

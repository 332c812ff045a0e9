"""Entanglement-based BBM92: a pulsed down-conversion source, a continuous one, and the CHSH value of a Werner state.

Bennett, Brassard, Mermin, Phys. Rev. Lett. 68, 557 (1992). Pulsed source: Ma, Fung, Lo, Phys. Rev. A 76, 012307 (2007),
quant-ph/0703122. Continuous source: Neumann, Scheidl, Selimovic, Pivoluska, Liu, Bohmann, Ursin, Phys. Rev. A 104,
022406 (2021). The source may be anyone's; both users have threshold detectors and assign double clicks at random.
One-way error correction, as much phase error as bit error. Rates keep their sign.

A pulse holds n pairs with probability P(n) = (n+1) lambda^n / (1+lambda)^(n+2): lambda is *half* the mean number of
pairs mu, which is what `mean_pairs_per_pulse` states. The published gain is a difference of numbers near 1; here it is
a sum of positive terms. float32: gains, error gains to 2e-6 and rates to 1e-5 of the gain (mu 1e-3 to 1, 0 to 35 dB per
arm).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float, binary_entropy
from qkd_gym.physics.numerics import ratio
from qkd_gym.physics.optimum import maximise

#: Largest CHSH value of quantum mechanics.
TSIRELSON_BOUND = 2 * math.sqrt(2.0)


@struct.dataclass
class PairSettings:
    """What the operator of a pulsed source chooses."""

    mean_pairs_per_pulse: Any = struct.field(
        default=0.1, unit="pair/pulse", low=0.0, high=20.0, doc="mu = 2 lambda, mean number of pairs"
    )


@struct.dataclass
class PairLink:
    """Both arms and both receivers. Defaults: 15 dB per arm and the receivers of Ma, Fung, Lo 2007."""

    transmittance_alice: Any = struct.field(default=4.5853e-3, low=0.0, high=1.0, doc="eta_A, arm and detectors")
    transmittance_bob: Any = struct.field(default=4.5853e-3, low=0.0, high=1.0, doc="eta_B, arm and detectors")
    background_yield_alice: Any = struct.field(
        default=6.02e-6, unit="1/pulse", low=0.0, high=1.0, doc="Y0A, all of Alice's detectors together"
    )
    background_yield_bob: Any = struct.field(
        default=6.02e-6, unit="1/pulse", low=0.0, high=1.0, doc="Y0B, all of Bob's detectors together"
    )
    misalignment_error: Any = struct.field(default=0.015, low=0.0, high=0.5, doc="e_d, error of a true pair")
    background_error: Any = struct.field(default=0.5, low=0.0, high=0.5, doc="e0, error of uncorrelated clicks")
    error_correction_efficiency: Any = struct.field(
        default=1.22, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )
    sifting: Any = struct.field(
        default=0.5, low=0.0, high=1.0, doc="q: 1/2 for equal bases, towards 1 for a biased choice"
    )


@struct.dataclass
class Coincidences:
    """What a link shows; per pulse for a pulsed source, per second for a continuous one."""

    gain: Any = struct.field(low=0.0, unit="1/pulse or 1/s", doc="coincidences, Q")
    error_gain: Any = struct.field(low=0.0, unit="1/pulse or 1/s", doc="coincidences with unequal bits, E Q")

    @property
    def qber(self) -> Array:
        """Error rate E of the coincidences; 0 where there are none."""
        return ratio(self.error_gain, self.gain)


def observe(settings: PairSettings, link: PairLink) -> Coincidences:
    """Coincidence gain and error gain of a pulsed source (Ma, Fung, Lo 2007).

    Q = A B + (1-A)(1-B)(2 delta + delta^2): A and B are what either side clicks, delta = eta_A eta_B lambda (1+lambda)
    / (1 + (eta_A + eta_B - eta_A eta_B) lambda) is what the pairs add. With K = delta / [(1 + eta_A lambda)
    (1 + eta_B lambda)], E Q = e0 (Q - 2K) + 2 e_d K.
    """
    mu, eta_a, eta_b, y_a, y_b, ed, e0 = as_float(
        settings.mean_pairs_per_pulse, link.transmittance_alice, link.transmittance_bob,
        link.background_yield_alice, link.background_yield_bob, link.misalignment_error, link.background_error,
    )  # fmt: skip
    lam = mu / 2
    a, dark_a, lit_a = _side(eta_a, lam, y_a)
    b, dark_b, lit_b = _side(eta_b, lam, y_b)
    delta = eta_a * eta_b * lam * (1 + lam) / (1 + (eta_a + eta_b * (1 - eta_a)) * lam)
    pairs = dark_a * dark_b * delta * (2 + delta)
    correlated = delta / (lit_a * lit_b)
    # Q - 2K, its terms of order delta taken together: 1 - (1-Y0A)(1-Y0B)/[(1+eta_A lambda)(1+eta_B lambda)] is small
    missing = (y_a + eta_a * lam) / lit_a
    missing = missing + (y_b + eta_b * lam) / lit_b * (1 - missing)
    uncorrelated = jnp.maximum(a * b + dark_a * dark_b * delta * delta - 2 * correlated * missing, 0)
    return Coincidences(gain=a * b + pairs, error_gain=e0 * uncorrelated + 2 * ed * correlated)


def _side(eta: Array, lam: Array, background: Array) -> tuple[Array, Array, Array]:
    """`(clicks, no click, 1 + eta lambda)` of one side alone."""
    lit = 1 + eta * lam
    dark = (1 - background) / (lit * lit)
    # 1 - (1 - Y0) / (1 + x)^2 = [Y0 + x (2 + x)] / (1 + x)^2
    return (background + eta * lam * (2 + eta * lam)) / (lit * lit), dark, lit


def key_rate(settings: PairSettings, link: PairLink) -> Float[Array, "..."]:
    """q Q [1 - f h(E) - h(E)], bit per pulse, unclipped."""
    return _rate(observe(settings, link), link.error_correction_efficiency, link.sifting)


def optimal_rate(link: PairLink) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(mean pairs per pulse, rate)` that maximise the key rate; the rate is unclipped."""

    def rate(mu: Array) -> Array:
        return key_rate(jax.tree.unflatten(jax.tree.structure(PairSettings()), [mu]), link)

    return maximise(rate, 1e-5, 20.0)


def _rate(seen: Coincidences, efficiency: ArrayLike, sifting: ArrayLike) -> Array:
    gain, error, f, q = as_float(seen.gain, seen.qber, efficiency, sifting)
    return q * gain * (1 - (1 + f) * binary_entropy(jnp.clip(error, 0, 0.5)))


# ---- continuous source --------------------------------------------------------------------------------------------


@struct.dataclass
class ContinuousSettings:
    """What the operator of a continuous source chooses."""

    pair_rate_hz: Any = struct.field(default=1e7, unit="1/s", low=0.0, high=1e12, doc="pairs made per second, B")
    coincidence_window_s: Any = struct.field(
        default=3e-10, unit="s", low=0.0, high=1e-6, doc="full width of the window, tau_cc"
    )


@struct.dataclass
class ContinuousLink:
    """Both arms and receivers of a continuous source. Defaults: 10 dB per arm before SNSPDs, a free design point."""

    transmittance_alice: Any = struct.field(default=0.08, low=0.0, high=1.0, doc="eta_A, heralding included")
    transmittance_bob: Any = struct.field(default=0.08, low=0.0, high=1.0, doc="eta_B, heralding included")
    dark_count_rate_alice_hz: Any = struct.field(
        default=400.0, unit="1/s", low=0.0, high=1e9, doc="all of Alice's detectors together"
    )
    dark_count_rate_bob_hz: Any = struct.field(
        default=400.0, unit="1/s", low=0.0, high=1e9, doc="all of Bob's detectors together"
    )
    timing_jitter_fwhm_s: Any = struct.field(
        default=1e-10, unit="s", low=0.0, high=1e-6, doc="of the difference of both arrival times; 0: none"
    )
    polarisation_error: Any = struct.field(default=0.01, low=0.0, high=0.5, doc="e_pol, error of a true pair")
    error_correction_efficiency: Any = struct.field(
        default=1.1, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )
    sifting: Any = struct.field(default=0.5, low=0.0, high=1.0, doc="q: 1/2 for equal bases")


def window_share(coincidence_window_s: ArrayLike, timing_jitter_fwhm_s: ArrayLike) -> Float[Array, "..."]:
    """Share of true coincidences inside a centred window, erf(sqrt(ln 2) tau / FWHM) for Gaussian jitter."""
    tau, width = as_float(coincidence_window_s, timing_jitter_fwhm_s)
    inside = erf(math.sqrt(math.log(2)) * ratio(tau, width))
    return jnp.where(width > 0, inside, jnp.where(tau > 0, 1.0, 0.0))


def observe_continuous(settings: ContinuousSettings, link: ContinuousLink) -> Coincidences:
    """True coincidences inside the window plus accidentals S_A S_B tau_cc, per second (Neumann 2021).

    Valid while a window rarely holds two clicks of one side, S tau_cc << 1. Dead time is the caller's.
    """
    pairs, tau, eta_a, eta_b, dark_a, dark_b, e_pol = as_float(
        settings.pair_rate_hz, settings.coincidence_window_s, link.transmittance_alice, link.transmittance_bob,
        link.dark_count_rate_alice_hz, link.dark_count_rate_bob_hz, link.polarisation_error,
    )  # fmt: skip
    true = pairs * eta_a * eta_b * window_share(tau, link.timing_jitter_fwhm_s)
    accidental = (pairs * eta_a + dark_a) * ((pairs * eta_b + dark_b) * tau)
    return Coincidences(gain=true + accidental, error_gain=e_pol * true + accidental / 2)


def key_rate_continuous(settings: ContinuousSettings, link: ContinuousLink) -> Float[Array, "..."]:
    """q C [1 - f h(E) - h(E)] of a continuous source, bit per *second*, unclipped."""
    return _rate(observe_continuous(settings, link), link.error_correction_efficiency, link.sifting)


# ---- Werner states ------------------------------------------------------------------------------------------------


def werner_qber(visibility: ArrayLike) -> Float[Array, "..."]:
    """Error rate (1 - V)/2 of the state V |Bell><Bell| + (1 - V) 1/4 in any basis that both users share."""
    (v,) = as_float(visibility)
    return (1 - v) / 2


def werner_chsh(visibility: ArrayLike) -> Float[Array, "..."]:
    """CHSH value S = 2 sqrt(2) V of a Werner state at the best settings; above 2, for V > 0.7071, it is nonlocal."""
    (v,) = as_float(visibility)
    return TSIRELSON_BOUND * v

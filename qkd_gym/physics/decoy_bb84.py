"""Decoy-state BB84 with infinite data: gains, decoy bounds, key rate.

Ma, Qi, Zhao, Lo, Phys. Rev. A 72, 012326 (2005), quant-ph/0503005; GLLP: Gottesman, Lo, Luetkenhaus, Preskill, QIC 4,
325 (2004). Phase-randomised Poissonian source, threshold detectors, double clicks assigned at random, detection
independent of the basis. Yields follow the paper's convention Y_n = Y0 + 1 - (1 - eta)^n throughout.

The shape of every protocol here: a struct of *settings* (what the sender chooses), a struct of the *link*, a function
from both to observable gains and errors, and from those to a rate. Rates are in bit per emitted pulse and keep their
sign (`clipped` brings them to 0 for a report), so that gradients and optimisers see where the key would return.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float, binary_entropy
from qkd_gym.physics.numerics import ratio
from qkd_gym.physics.optimum import maximise

#: How the single-photon part is bounded.
METHODS = ("infinite", "vacuum+weak", "two-weak", "none")


@struct.dataclass
class DecoySettings:
    """Mean photon numbers of the three kinds of pulses."""

    signal_intensity: Any = struct.field(default=0.48, unit="photon/pulse", low=0.0, high=10.0, doc="mu")
    decoy_intensity: Any = struct.field(default=0.05, unit="photon/pulse", low=0.0, high=10.0, doc="nu (nu1), below mu")
    weakest_intensity: Any = struct.field(
        default=0.0, unit="photon/pulse", low=0.0, high=10.0, doc="nu2, below nu1; 0: vacuum"
    )

    def __post_init__(self) -> None:
        values = (self.signal_intensity, self.decoy_intensity, self.weakest_intensity)
        if any(isinstance(v, Tracer) for v in values):
            return
        mu, nu, nu2 = (np.asarray(v) for v in values)
        if np.any(nu + nu2 >= mu) or np.any(nu2 >= nu):
            raise ValueError(
                f"DecoySettings needs decoy + weakest < signal and weakest < decoy intensity, got signal {mu}, "
                f"decoy {nu}, weakest {nu2} photon/pulse"
            )


@struct.dataclass
class DecoyLink:
    """Channel and receiver. Defaults: Gobby-Yuan-Shields 2004 at zero length."""

    transmittance: Any = struct.field(default=0.045, low=0.0, high=1.0, doc="channel and receiver together")
    background_yield: Any = struct.field(
        default=1.7e-6, unit="1/pulse", low=0.0, high=1.0, doc="Y0, both detectors together"
    )
    misalignment_error: Any = struct.field(
        default=0.033, low=0.0, high=0.5, doc="e_d, optical error of arriving photons"
    )
    background_error: Any = struct.field(default=0.5, low=0.0, high=0.5, doc="e0, error rate of background clicks")
    error_correction_efficiency: Any = struct.field(
        default=1.22, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )
    sifting: Any = struct.field(
        default=0.5, low=0.0, high=1.0, doc="q: 1/2 for equal bases, towards 1 for a biased choice"
    )


@struct.dataclass
class Gains:
    """What a link shows at one intensity."""

    gain: Any = struct.field(unit="1/pulse", low=0.0, doc="probability of a click, Q")
    error_gain: Any = struct.field(unit="1/pulse", low=0.0, doc="probability of a wrong click, E Q")

    @property
    def qber(self) -> Array:
        """Error rate E of the clicks; 0 where nothing clicks."""
        return ratio(self.error_gain, self.gain)


def photon_yield(photons: ArrayLike, link: DecoyLink) -> Float[Array, "..."]:
    """True yield Y_n = Y0 + 1 - (1 - eta)^n of an n-photon pulse."""
    n, y0, eta = as_float(photons, link.background_yield, link.transmittance)
    lossless = eta >= 1
    arrive = -jnp.expm1(n * jnp.log1p(-jnp.where(lossless, 0.5, eta)))
    return y0 + jnp.where(lossless, jnp.where(n > 0, 1.0, 0.0), arrive)


def photon_error(photons: ArrayLike, link: DecoyLink) -> Float[Array, "..."]:
    """True error rate e_n of clicks from an n-photon pulse: (e0 Y0 + e_d eta_n) / Y_n."""
    total = photon_yield(photons, link)
    y0, e0, ed = as_float(link.background_yield, link.background_error, link.misalignment_error)
    clicks = total > 0
    return jnp.where(clicks, (e0 * y0 + ed * (total - y0)) / jnp.where(clicks, total, 1), 0)


def observe(intensity: ArrayLike, link: DecoyLink) -> Gains:
    """Gain Q = Y0 + 1 - e^(-eta mu) and error gain E Q = e0 Y0 + e_d (1 - e^(-eta mu)) at one intensity."""
    mu, eta, y0, e0, ed = as_float(
        intensity, link.transmittance, link.background_yield, link.background_error, link.misalignment_error
    )
    light = -jnp.expm1(-eta * mu)
    return Gains(gain=y0 + light, error_gain=e0 * y0 + ed * light)


# ---- bounds on the single photons, from what is observed ----------------------------------------------------------


def vacuum_weak_bounds(
    settings: DecoySettings, signal: Gains, decoy: Gains, background_yield: ArrayLike, background_error: ArrayLike = 0.5
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(Y_1 lower, e_1 upper)` from one weak decoy and a measured vacuum (Ma 2005, eqs. 34, 37).

    The yield may come out negative, when the gains are not those of an honest link; the error is then 1/2.
    """
    mu, nu, y0, e0 = as_float(settings.signal_intensity, settings.decoy_intensity, background_yield, background_error)
    ratio = nu / mu
    inner = decoy.gain * jnp.exp(nu) - signal.gain * jnp.exp(mu) * ratio * ratio - (1 - ratio) * (1 + ratio) * y0
    y1 = inner / (nu * (1 - ratio))
    return y1, _error_bound(decoy.error_gain * jnp.exp(nu) - e0 * y0, y1 * nu)


def two_weak_bounds(
    settings: DecoySettings, signal: Gains, decoy: Gains, weakest: Gains
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """`(Y_0 lower, Y_1 lower, e_1 upper)` from two weak decoys (Ma 2005, eqs. 18, 21, 25)."""
    mu, nu1, nu2 = as_float(settings.signal_intensity, settings.decoy_intensity, settings.weakest_intensity)
    q1, q2 = decoy.gain * jnp.exp(nu1), weakest.gain * jnp.exp(nu2)
    gap = nu1 - nu2
    y0 = jnp.maximum((nu1 * q2 - nu2 * q1) / gap, 0)
    # mu nu1 - mu nu2 - nu1^2 + nu2^2 = (nu1 - nu2)(mu - nu1 - nu2)
    slope = (q1 - q2) / gap - (nu1 + nu2) / (mu * mu) * (signal.gain * jnp.exp(mu) - y0)
    y1 = mu * slope / (mu - nu1 - nu2)
    return y0, y1, _error_bound(decoy.error_gain * jnp.exp(nu1) - weakest.error_gain * jnp.exp(nu2), gap * y1)


def _error_bound(numerator: Array, denominator: Array) -> Array:
    valid = denominator > 0
    return jnp.where(valid, jnp.clip(numerator / jnp.where(valid, denominator, 1), 0, 0.5), 0.5)


# ---- rates --------------------------------------------------------------------------------------------------------


def gllp_rate(
    signal: Gains, single_gain: ArrayLike, single_error: ArrayLike, efficiency: ArrayLike, sifting: ArrayLike
) -> Float[Array, "..."]:
    """q { -Q f h(E) + Q_1 [1 - h(e_1)] }, bit per pulse, unclipped; `single_error` is clipped to 1/2."""
    q1, e1, f, q = as_float(single_gain, single_error, efficiency, sifting)
    return q * (q1 * (1 - binary_entropy(jnp.clip(e1, 0, 0.5))) - signal.gain * f * binary_entropy(signal.qber))


def key_rate(settings: DecoySettings, link: DecoyLink, method: str = "vacuum+weak") -> Float[Array, "..."]:
    """Key rate in bit per emitted signal pulse, unclipped.

    Args:
        method: "infinite" (yields known), "vacuum+weak", "two-weak", or "none": no decoys, every multi-photon pulse is
            Eve's (GLLP worst case).
    """
    _check(method)
    mu = jnp.asarray(settings.signal_intensity)
    signal = observe(mu, link)
    f, q = link.error_correction_efficiency, link.sifting
    if method == "none":
        return _rate_without_decoys(mu, signal, link)
    if method == "infinite":
        y1, e1 = photon_yield(1, link), photon_error(1, link)
    elif method == "vacuum+weak":
        decoy = observe(settings.decoy_intensity, link)
        y1, e1 = vacuum_weak_bounds(settings, signal, decoy, link.background_yield, link.background_error)
    else:
        decoy, weakest = observe(settings.decoy_intensity, link), observe(settings.weakest_intensity, link)
        _, y1, e1 = two_weak_bounds(settings, signal, decoy, weakest)
    return gllp_rate(signal, mu * jnp.exp(-mu) * jnp.maximum(y1, 0), e1, f, q)


def _rate_without_decoys(mu: Array, signal: Gains, link: DecoyLink) -> Array:
    f, q = as_float(link.error_correction_efficiency, link.sifting)
    # 1 - (1 + mu) e^-mu without the difference of near equals
    multi = -jnp.expm1(-mu) - mu * jnp.exp(-mu)
    series = mu * mu * (0.5 - mu * (1 / 3 - mu * (1 / 8 - mu * (1 / 30 - mu * (1 / 144 - mu / 840)))))
    multi = jnp.where(mu < 0.02, series, multi)
    tagged = jnp.minimum(multi / jnp.where(signal.gain > 0, signal.gain, 1), 1)
    untagged = 1 - tagged
    safe = jnp.where(untagged > 0, untagged, 1)
    error = jnp.clip(jnp.where(untagged > 0, signal.qber / safe, 0.5), 0, 0.5)
    return q * signal.gain * (untagged * (1 - binary_entropy(error)) - f * binary_entropy(signal.qber))


def optimal_rate(
    link: DecoyLink, method: str = "vacuum+weak", decoy_intensity: ArrayLike = 0.05, weakest_intensity: ArrayLike = 0.0
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(signal intensity, rate)` that maximise the key rate at given decoys; the rate is unclipped.

    Without decoys the optimum is 0.5 to 0.6 of the transmittance.
    """
    _check(method)

    def rate(mu: Array) -> Array:
        settings = _unchecked(mu, decoy_intensity, weakest_intensity)
        value = key_rate(settings, link, method)
        lowest = {"vacuum+weak": decoy_intensity, "two-weak": jnp.asarray(decoy_intensity) + weakest_intensity}
        return jnp.where(mu > lowest[method], value, -jnp.inf) if method in lowest else value

    return maximise(rate, 1e-9 if method == "none" else 1e-4, 3.0, grid=512 if method == "none" else 256)


def clipped(rate: ArrayLike) -> Float[Array, "..."]:
    """The rate as reported: never below zero."""
    (r,) = as_float(rate)
    return jnp.maximum(r, 0)


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")


def _unchecked(mu: ArrayLike, nu: ArrayLike, nu2: ArrayLike) -> DecoySettings:
    """Settings whose order is not checked: a search strays outside and is sent back by its value."""
    template = DecoySettings(1.0, 0.5, 0.0)
    return jax.tree.unflatten(jax.tree.structure(template), [jnp.asarray(mu), jnp.asarray(nu), jnp.asarray(nu2)])

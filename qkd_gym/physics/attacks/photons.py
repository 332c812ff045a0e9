"""Attacks on the photons in the channel: intercept-resend and photon-number splitting.

Both lie inside the security model: the key formula pays for them, so what Eve knows is taken away again.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.attacks.telemetry import (
    KEY,
    Eve,
    Telemetry,
    light_error_of,
    mixed,
    over_gains,
    ratio,
)
from qkd_gym.physics.information import as_float

#: Photon numbers summed; at 10 photon/pulse the tail beyond is below 1e-16.
_TERMS = 48


@struct.dataclass
class InterceptResend:
    """Eve measures a share of the pulses in a random basis and resends what she found, at the gain of the channel.

    Bennett, Brassard, Proc. IEEE Int. Conf. Computers, Systems and Signal Processing (1984). She stands at the sender's
    door and resends pulses of the sender's intensities: no reading but the errors moves.
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses attacked")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        p = over_gains(self.fraction)
        attacked = struct.replace(
            honest, error_gain=mixed(honest.error_gain, honest.gain / 4 + honest.error_gain / 2, p)
        )
        return attacked, Eve(known_bits=self.fraction / 2, unpriced_bits=jnp.zeros_like(self.fraction))


def intercepted_qber(qber: ArrayLike, fraction: ArrayLike) -> Float[Array, "..."]:
    """Error rate (1-p) e + p (1/4 + e/2) under intercept-resend of a share p."""
    e, p = as_float(qber, fraction)
    return mixed(e, 0.25 + e / 2, p)


def intercepted_chsh(qber: ArrayLike, fraction: ArrayLike) -> Float[Array, "..."]:
    """CHSH value 2 sqrt2 V (1-p) + sqrt2 V p, V = 1 - 2e, when a share p is measured and resent in either BB84 basis.

    A measurement along one of the two axes keeps one of the two correlations that S adds up.
    """
    e, p = as_float(qber, fraction)
    return math.sqrt(2) * (1 - 2 * e) * (2 - p)


# ---- photon-number splitting --------------------------------------------------------------------------------------


@struct.dataclass
class PhotonNumberSplitting:
    """Eve counts photons, keeps one of two or more, forwards the rest, and blocks single photons.

    Huttner, Imoto, Gisin, Mor, Phys. Rev. A 51, 1863 (1995); Luetkenhaus, Phys. Rev. A 61, 052304 (2000). Blocking and
    her own transmittance are the two dials by which she holds a gain (`transmittance_that_keeps_gain`); she cannot hold
    the gains of two intensities at once. Singles that are let through pass her channel too.
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses attacked")
    single_photon_block_prob: Any = struct.field(default=1.0, low=0.0, high=1.0, doc="of single photons")
    eve_transmittance: Any = struct.field(default=1.0, low=0.0, high=1.0, doc="from Eve to a click, detector included")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        block, eta = self.single_photon_block_prob[..., None], self.eve_transmittance[..., None]
        clicks = forwarded_clicks(honest.intensities, block, eta)
        light = clicks.detection[..., None, :]
        x, y0 = over_gains(self.fraction), over_gains(honest.vacuum_yield)
        gain = mixed(honest.gain, y0 + light, x)
        error_gain = mixed(honest.error_gain, y0 / 2 + light_error_of(honest) * light, x)
        # Two detectors, each with half the background, and photons that split evenly between them.
        dark = honest.vacuum_yield / 2
        one, both = clicks.one_detector[..., 0], clicks.both_detectors[..., 0]
        double = both + 2 * dark * (one - both) + dark * dark * (1 - 2 * one + both)
        attacked = struct.replace(
            honest,
            gain=gain,
            error_gain=error_gain,
            double_click_prob=mixed(honest.double_click_prob, double, self.fraction),
        )
        copied = self.fraction * clicks.split[..., 0]
        known = jnp.clip(ratio(copied, gain[..., KEY, 0]), 0, 1)
        return attacked, Eve(known_bits=known, unpriced_bits=jnp.zeros_like(known))


@struct.dataclass
class ForwardedClicks:
    """Clicks by the light of pulses that Eve has split, without background."""

    detection: Any = struct.field(low=0.0, high=1.0, unit="1/pulse", doc="any click")
    split: Any = struct.field(low=0.0, high=1.0, unit="1/pulse", doc="a click, and Eve holds a photon")
    one_detector: Any = struct.field(low=0.0, high=1.0, unit="1/pulse", doc="a given detector, photons split evenly")
    both_detectors: Any = struct.field(low=0.0, high=1.0, unit="1/pulse", doc="both of them")


def forwarded_clicks(
    intensity: ArrayLike, single_photon_block_prob: ArrayLike, eve_transmittance: ArrayLike
) -> ForwardedClicks:
    """Poissonian pulses behind photon-number splitting: sums of positive terms over photon numbers up to 48.

    For two photons or more the closed form is [(1 - e^(-eta mu)) - eta (1 - e^(-mu))] / (1 - eta), which loses its
    digits for weak pulses and at eta = 1; a test holds one against the other.
    """
    mu, block, eta = as_float(intensity, single_photon_block_prob, eve_transmittance)
    shape = jnp.broadcast_shapes(mu.shape, block.shape, eta.shape)
    mu, block, eta = (jnp.broadcast_to(x, shape) for x in (mu, block, eta))
    weight = mu * jnp.exp(-mu)
    passed = weight * (1 - block)
    half = eta / 2
    nothing = jnp.zeros_like(mu)

    def add_photon(n: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        weight, any_click, one_click, both_click, split, one_detector, both_detectors = carry
        weight = weight * mu / n
        both_click = both_click + eta * (one_click - both_click)
        one_click = one_click + half * (1 - one_click)
        any_click = any_click + eta * (1 - any_click)
        return (
            weight,
            any_click,
            one_click,
            both_click,
            split + weight * any_click,
            one_detector + weight * one_click,
            both_detectors + weight * both_click,
        )

    start = (weight, nothing, nothing, nothing, nothing, passed * half, nothing)
    *_, split, one_detector, both_detectors = jax.lax.fori_loop(2, _TERMS + 1, add_photon, start)
    return ForwardedClicks(
        detection=passed * eta + split, split=split, one_detector=one_detector, both_detectors=both_detectors
    )


def split_yield(
    photons: ArrayLike, background_yield: ArrayLike, single_photon_block_prob: ArrayLike, eve_transmittance: ArrayLike
) -> Float[Array, "..."]:
    """Yield of an n-photon pulse under the attack: Y0, Y0 + (1-b) eta_E, and Y0 + 1 - (1 - eta_E)^(n-1) from n = 2."""
    n, y0, block, eta = as_float(photons, background_yield, single_photon_block_prob, eve_transmittance)
    lossless = eta >= 1
    many = -jnp.expm1((n - 1) * jnp.log1p(-jnp.where(lossless, 0.5, eta)))
    many = jnp.where(lossless, 1.0, many)
    return y0 + jnp.where(n < 1, 0.0, jnp.where(n < 2, (1 - block) * eta, many))


def transmittance_that_keeps_gain(
    light_gain: ArrayLike, intensity: ArrayLike, single_photon_block_prob: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """The eta_E at which attacked pulses of one intensity click as often as honest ones; 1 if even that is too few.

    Args:
        light_gain: honest clicks without background, 1 - e^(-eta mu).
    """
    target, mu, block = as_float(light_gain, intensity, single_photon_block_prob)
    shape = jnp.broadcast_shapes(target.shape, mu.shape, block.shape)
    target, mu, block = (jnp.broadcast_to(x, shape) for x in (target, mu, block))

    def excess(eta: Array) -> Array:
        return forwarded_clicks(mu, block, eta).detection - target

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        over = excess(middle) > 0
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    steps = jnp.finfo(target.dtype).nmant + 8
    low, high = jax.lax.fori_loop(0, steps, halve, (jnp.zeros(shape, mu.dtype), jnp.ones(shape, mu.dtype)))
    eta = jax.lax.stop_gradient((low + high) / 2)
    value, slope = jax.jvp(excess, (eta,), (jnp.ones_like(eta),))
    rising = slope > 0
    # One Newton step carries the derivative of the inverse.
    return jnp.clip(eta - value / jnp.where(rising, jax.lax.stop_gradient(slope), 1), 0, 1)

"""Twin-field QKD after Curty, Azuma and Lo: coherent states for the key, photon-number yields for the phase error.

Curty, Azuma, Lo, npj Quantum Inf. 5, 64 (2019), arXiv:1807.07667. Key pulses are |alpha> or |-alpha> on either side;
one beam splitter and two threshold detectors meet them in the middle, and one click of exactly one detector is a
success. The phase error follows from the yields of photon-number states, here known exactly (endless decoys), or known
up to a total number of photons and taken as 1 beyond it, which is what few decoys can do.

Dark counts enter the phase error as the square root of the vacuum's yield; that term limits the reach.

float32: gains within 1e-6 of their float64 value, yields of up to 20 + 20 photons within 2e-6, the phase error within
3e-6, the rate within 4e-6 of the gain, down to arms of 100 dB.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float, binary_entropy
from qkd_gym.physics.numerics import ratio
from qkd_gym.physics.optimum import maximise

#: Largest photon number of either sender in the phase error. At |alpha|^2 = 1 what is left out is below 1e-9.
MAX_PHOTONS = 20


@struct.dataclass
class Cal19Settings:
    """What the users choose."""

    key_intensity: Any = struct.field(
        default=0.02, unit="photon/pulse", low=0.0, high=1.0, doc="|alpha|^2 of the key pulses, alike on both sides"
    )


@struct.dataclass
class Cal19Link:
    """Arms and middle node. Defaults: 50 dB in all, 2 % error each by phase and by polarisation."""

    arm_transmittance: Any = struct.field(
        default=0.00316227766, low=0.0, high=1.0, doc="t of one arm, detector included; the whole link has t^2"
    )
    dark_count_prob_per_gate: Any = struct.field(
        default=1e-7, unit="1/gate", low=0.0, high=0.5, doc="of each of the two detectors"
    )
    phase_mismatch_rad: Any = struct.field(
        default=0.0628, unit="rad", low=-math.pi, high=math.pi, doc="phi, between the two senders' light"
    )
    polarization_mismatch_rad: Any = struct.field(
        default=0.1419, unit="rad", low=-math.pi, high=math.pi, doc="theta, Jones angle between the two senders' light"
    )
    error_correction_efficiency: Any = struct.field(
        default=1.16, low=0.0, high=10.0, doc="f, disclosed bits per Shannon limit"
    )


@struct.dataclass
class Cal19Gains:
    """Clicks of *one given* detector, and no other, per key pulse; the other detector's are alike."""

    gain: Any = struct.field(unit="1/pulse", low=0.0, doc="success, p_XX")
    error_gain: Any = struct.field(unit="1/pulse", low=0.0, doc="success with a wrong bit, e_X p_XX")

    @property
    def qber(self) -> Array:
        """Bit error rate; 0 where nothing clicks."""
        return ratio(self.error_gain, self.gain)


def observe(settings: Cal19Settings, link: Cal19Link) -> Cal19Gains:
    """Success and error of the key pulses, `(...)`.

    (1 - pd) e^(-2g) [e^(g (1 +- cos phi cos theta)) - (1 - pd)] / 2 with g = t |alpha|^2, from terms that only add.
    """
    intensity, t, dark, phi, theta = as_float(
        settings.key_intensity, link.arm_transmittance, link.dark_count_prob_per_gate,
        link.phase_mismatch_rad, link.polarization_mismatch_rad,
    )  # fmt: skip
    g = t * intensity
    half_phi, half_theta = jnp.sin(phi / 2), jnp.sin(theta / 2)
    mismatch = 2 * (half_phi * half_phi + jnp.cos(phi) * half_theta * half_theta)  # 1 - cos phi cos theta
    scale = 0.5 * (1 - dark) * jnp.exp(-2 * g)
    right = scale * (jnp.expm1(g * (2 - mismatch)) + dark)
    wrong = scale * (jnp.expm1(g * mismatch) + dark)
    return Cal19Gains(gain=right + wrong, error_gain=wrong)


def fock_yields(
    arm_transmittance: ArrayLike,
    dark_count_prob_per_gate: ArrayLike,
    polarization_overlap: ArrayLike = 1.0,
    max_photons: int = MAX_PHOTONS,
) -> Float[Array, "... n m"]:
    """Probability Y_nm that only one given detector clicks on n photons of one sender and m of the other.

    (1 - pd) sum over k of C(n,k) C(m,k) (t cos theta / 2)^2k (1 - t/2)^(n+m-2k) - (1 - pd)^2 (1 - t)^(n+m), by
    recurrences whose terms only add: no digits are lost at high loss.

    Args:
        arm_transmittance, dark_count_prob_per_gate: as in `Cal19Link`, `(...)`.
        polarization_overlap: cos theta, `(...)`.
        max_photons: largest n and m.

    Returns:
        `(..., max_photons + 1, max_photons + 1)`.
    """
    t, dark, overlap = jnp.broadcast_arrays(
        *as_float(arm_transmittance, dark_count_prob_per_gate, polarization_overlap)
    )
    missed, lost = 1 - t / 2, 1 - t

    def one_more(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        arrived, silent = carry  # (1 - t/2)^N - (1 - t)^N, and (1 - t)^N
        return (missed * arrived + t / 2 * silent, lost * silent), arrived + dark * silent

    start = (jnp.zeros_like(t), jnp.ones_like(t))
    _, without_pairs = jax.lax.scan(one_more, start, length=2 * max_photons + 1)
    count = np.arange(max_photons + 1)
    yields = jnp.moveaxis(without_pairs, 0, -1)[..., count[:, None] + count[None, :]]
    if max_photons > 0:
        k = count[1:]
        binomial = np.array([[math.comb(n, j) for j in k] for n in count], np.float64)
        power = _powers(missed, max_photons)[..., np.maximum(count[:, None] - k[None, :], 0)]
        amplitude = power * jnp.asarray(binomial, t.dtype).reshape((1,) * t.ndim + binomial.shape)
        pair = t * overlap / 2
        weighted = amplitude * _powers(pair * pair, max_photons)[..., None, 1:]
        yields = yields + jnp.einsum("...nk,...mk->...nm", weighted, amplitude, precision=jax.lax.Precision.HIGHEST)
    return (1 - dark)[..., None, None] * yields


def phase_error(
    settings: Cal19Settings, link: Cal19Link, known_photons: int | None = None, max_photons: int = MAX_PHOTONS
) -> Float[Array, "..."]:
    """Upper bound on the phase error rate e_Z of the key pulses' successes, `(...)`; not clipped to 1/2.

    e_Z p_XX <= sum over even and odd of [sum over n, m of that parity of c_n c_m sqrt(Y_nm)]^2, with the amplitudes
    c_n = e^(-|alpha|^2 / 2) alpha^n / sqrt(n!) of the key pulses.

    Args:
        known_photons: yields of n + m above this are taken as 1, as if decoys told nothing of them; None: all known.
        max_photons: where the sums end.
    """
    root = _root_yields(link, known_photons, max_photons)
    return _phase_error(settings, link, root)


def key_rate(
    settings: Cal19Settings, link: Cal19Link, known_photons: int | None = None, max_photons: int = MAX_PHOTONS
) -> Float[Array, "..."]:
    """2 p_XX [1 - f h(e_X) - h(e_Z)], both detectors together; bit per pulse, unclipped; e_Z no more than 1/2."""
    return _rate(settings, link, _root_yields(link, known_photons, max_photons))


def optimal_rate(link: Cal19Link, known_photons: int | None = None) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(|alpha|^2, rate)` that maximise the key rate, each `(...)`; the rate is unclipped."""
    root = _root_yields(link, known_photons, MAX_PHOTONS)
    return maximise(lambda a: _rate(Cal19Settings(a), link, root), 1e-4, 0.5, grid=40, sections=28)


def _root_yields(link: Cal19Link, known_photons: int | None, max_photons: int) -> Array:
    """Square roots of the yields as far as they are known, `(..., n, m)`; free of the senders' choice."""
    t, dark, theta = as_float(link.arm_transmittance, link.dark_count_prob_per_gate, link.polarization_mismatch_rad)
    yields = fock_yields(t, dark, jnp.cos(theta), max_photons)
    if known_photons is not None:
        count = np.arange(max_photons + 1)
        known = count[:, None] + count[None, :] <= known_photons
        yields = jnp.where(known.reshape((1,) * (yields.ndim - 2) + known.shape), yields, 1)
    positive = yields > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, yields, 1)), 0)


def _phase_error(settings: Cal19Settings, link: Cal19Link, root: Array) -> Array:
    intensity, root = as_float(settings.key_intensity, root)
    shape = jnp.broadcast_shapes(intensity.shape, root.shape[:-2])
    intensity = jnp.broadcast_to(intensity, shape)
    root = jnp.broadcast_to(root, shape + root.shape[-2:])
    # alpha enters by even powers only: alpha^(n+m) = alpha^2p x (|alpha|^2)^(n//2 + m//2), p the parity
    powers = _powers(intensity, (root.shape[-1] - 1) // 2)
    total = jnp.zeros_like(intensity)
    for parity in (0, 1):
        numbers = np.arange(parity, root.shape[-1], 2)
        scale = np.array([1 / math.sqrt(math.factorial(n)) for n in numbers]).reshape((1,) * intensity.ndim + (-1,))
        weight = powers[..., : len(numbers)] * jnp.asarray(scale, intensity.dtype)
        part = root[..., parity::2, parity::2] * weight[..., None, :] * weight[..., :, None]
        amplitude = jnp.exp(-intensity) * jnp.sum(part, axis=(-2, -1))
        total = total + (intensity * intensity if parity else 1) * amplitude * amplitude
    return ratio(total, observe(settings, link).gain, otherwise=0.5)


def _powers(base: Array, largest: int) -> Array:
    """1, x, x^2, ..., x^largest along a new last axis."""
    _, powers = jax.lax.scan(lambda power, _: (power * base, power), jnp.ones_like(base), length=largest + 1)
    return jnp.moveaxis(powers, 0, -1)


def _rate(settings: Cal19Settings, link: Cal19Link, root: Array) -> Array:
    gains = observe(settings, link)
    (f,) = as_float(link.error_correction_efficiency)
    e_z = jnp.minimum(_phase_error(settings, link, root), 0.5)
    return 2 * gains.gain * (1 - f * binary_entropy(jnp.clip(gains.qber, 0, 1)) - binary_entropy(e_z))

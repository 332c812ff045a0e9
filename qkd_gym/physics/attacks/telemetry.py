"""What a link reports, what Eve gains, and the one function that turns an honest report into an attacked one."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.decoy_bb84 import DecoyLink, observe
from qkd_gym.physics.information import as_float

#: Order of the basis axis of `Telemetry.gain` and `Telemetry.error_gain`.
KEY, TEST = 0, 1

A = TypeVar("A", bound="Attack")


@struct.dataclass
class Telemetry:
    """What the users can know of their link, as expectations; samplers put counting noise on top.

    The first three fields have trailing axes: intensities, strongest first, and before them the basis (key, test).
    Everything else has the leading shape. A receiver without single-photon detectors, or without a local oscillator,
    leaves the other half at its defaults, which no attack on its own half moves.
    """

    intensities: Any = struct.field(
        unit="photon/pulse", low=0.0, high=10.0, doc="as the sender believes them, strongest first (..., k)"
    )
    gain: Any = struct.field(
        unit="1/pulse", low=0.0, high=1.0, doc="clicks per pulse, both in that basis (..., 2 bases, k)"
    )
    error_gain: Any = struct.field(
        unit="1/pulse", low=0.0, high=1.0, doc="wrong clicks per pulse, both in that basis (..., 2 bases, k)"
    )
    vacuum_yield: Any = struct.field(default=0.0, unit="1/pulse", low=0.0, high=1.0, doc="clicks per empty pulse, Y0")
    double_click_prob: Any = struct.field(
        default=0.0, unit="1/pulse", low=0.0, high=1.0, doc="both detectors, per signal pulse measured in a wrong basis"
    )
    dark_count_prob_per_gate: Any = struct.field(
        default=0.0, unit="1/gate", low=0.0, high=0.5, doc="per detector, mean over time"
    )
    photocurrent_ua: Any = struct.field(default=0.05, unit="uA", low=0.0, high=1e5, doc="mean current of a detector")
    back_reflection_photons: Any = struct.field(
        default=1.0, unit="photon/pulse", low=0.0, high=1e15, doc="watchdog at the sender's exit"
    )
    source_monitor: Any = struct.field(default=1.0, low=0.0, high=1e3, doc="laser power over its calibration")
    detector_share: Any = struct.field(default=0.5, low=0.0, high=1.0, doc="share of the light's clicks in detector 0")
    timing_mean_ps: Any = struct.field(default=0.0, unit="ps", low=-1e6, high=1e6, doc="mean of the timing histogram")
    timing_width_ps: Any = struct.field(
        default=100.0, unit="ps", low=0.0, high=1e6, doc="standard deviation of the timing histogram"
    )
    basis_ratio: Any = struct.field(
        default=0.5, low=0.0, high=1.0, doc="share of the key basis in a passive receiver's clicks"
    )
    wavelength_basis_correlation: Any = struct.field(
        default=0.0, low=-1.0, high=1.0, doc="of wavelength and basis; a receiver with a wavelength monitor only"
    )
    modulation_variance: Any = struct.field(default=0.0, unit="SNU", low=0.0, high=1e4, doc="V_A, sent")
    receiver_efficiency: Any = struct.field(default=0.6, low=0.0, high=1.0, doc="of the homodyne receiver, calibrated")
    electronic_noise: Any = struct.field(default=0.0, unit="SNU", low=0.0, high=10.0, doc="v_el, calibrated")
    local_oscillator: Any = struct.field(default=1.0, low=0.0, high=1e3, doc="its power over its calibration")
    shot_noise: Any = struct.field(
        default=1.0, low=0.0, high=1e3, doc="N0 measured in real time over its calibration; a receiver that does so"
    )
    quadrature_mean: Any = struct.field(default=0.0, unit="sqrt(SNU)", doc="in calibrated units")
    quadrature_variance: Any = struct.field(default=1.0, unit="SNU", low=0.0, doc="in calibrated units")
    quadrature_kurtosis: Any = struct.field(default=3.0, low=1.0, doc="fourth central moment over variance squared")
    channel_transmittance: Any = struct.field(default=0.0, low=0.0, high=10.0, doc="T as estimated")
    excess_noise: Any = struct.field(default=0.0, unit="SNU", doc="xi at the channel's input, as estimated")

    @property
    def qber(self) -> Float[Array, "... 2 k"]:
        """Error rates of the clicks; 0 where nothing clicks."""
        clicks = self.gain > 0
        return jnp.where(clicks, self.error_gain / jnp.where(clicks, self.gain, 1), 0)


@struct.dataclass
class Eve:
    """What an attack is worth, in bit per sifted bit (per raw symbol of a continuous-variable link)."""

    known_bits: Any = struct.field(low=0.0, high=1.0, unit="bit/bit", doc="that Eve knows through the attack")
    unpriced_bits: Any = struct.field(
        low=0.0, high=1.0, unit="bit/bit", doc="of them, those that the key formula does not take away"
    )


class Attack(Protocol):
    """A struct of parameters that maps an honest report to an attacked one. `apply` aligns the shapes first."""

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        """All leaves of either struct come with one leading shape and one precision."""
        ...


def apply(attack: Attack, honest: Telemetry) -> tuple[Telemetry, Eve]:
    """What the users read under an attack, and what Eve gains. Strength 0 returns the honest report, bit for bit.

    Args:
        attack: any struct with an `act`; its leaves broadcast with the leading shape of `honest`.
        honest: the undisturbed link.

    Raises:
        ValueError: if the bases or intensities of `honest` do not match.
    """
    bases, gains = jnp.shape(honest.intensities)[-1:], jnp.shape(honest.gain)[-2:]
    if gains != (2, *bases) or jnp.shape(honest.error_gain)[-2:] != gains:
        raise ValueError(
            f"Telemetry takes intensities (..., k) and gains (..., 2 bases, k); got intensities "
            f"{jnp.shape(honest.intensities)}, gain {jnp.shape(honest.gain)}, error_gain {jnp.shape(honest.error_gain)}"
        )
    trailing = {"intensities": 1, "gain": 2, "error_gain": 2}
    ranks = [trailing.get(f.name, 0) for f in dataclasses.fields(Telemetry)]
    readings, structure = jax.tree.flatten(honest)
    dials, attack_structure = jax.tree.flatten(attack)
    values = as_float(*readings, *dials)
    ranks += [0] * len(dials)
    lead = jnp.broadcast_shapes(*(v.shape[: v.ndim - r] for v, r in zip(values, ranks, strict=True)))
    wide = [jnp.broadcast_to(v, lead + v.shape[v.ndim - r :]) for v, r in zip(values, ranks, strict=True)]
    honest = jax.tree.unflatten(structure, wide[: len(readings)])
    attack = jax.tree.unflatten(attack_structure, wide[len(readings) :])
    return attack.act(honest)


# ---- honest reports -----------------------------------------------------------------------------------------------


def decoy_telemetry(intensities: ArrayLike, link: DecoyLink, **readings: ArrayLike) -> Telemetry:
    """Report of an honest decoy link with equal detectors.

    Args:
        intensities: `(..., k)`, strongest first; the link broadcasts over the leading axes.
        link: channel and receiver; its misalignment is that of both bases unless `test_misalignment_error` is given.
        readings: other fields of `Telemetry`; `test_misalignment_error` for the test basis.
    """
    test_error = readings.pop("test_misalignment_error", link.misalignment_error)
    mu, test_error, *hardware = as_float(intensities, test_error, *jax.tree.leaves(link))
    lead = jnp.broadcast_shapes(mu.shape[:-1], test_error.shape, *(x.shape for x in hardware))
    mu = jnp.broadcast_to(mu, lead + mu.shape[-1:])
    wide = jax.tree.unflatten(jax.tree.structure(link), [jnp.broadcast_to(x, lead)[..., None] for x in hardware])
    key = observe(mu, wide)
    test = observe(mu, struct.replace(wide, misalignment_error=jnp.broadcast_to(test_error, lead)[..., None]))
    eta, y0 = wide.transmittance[..., 0], wide.background_yield[..., 0]
    dark = y0 / 2
    one = dark - (1 - dark) * jnp.expm1(-eta * mu[..., 0] / 2)
    report = {
        "gain": jnp.stack([key.gain, test.gain], axis=-2),
        "error_gain": jnp.stack([key.error_gain, test.error_gain], axis=-2),
        "vacuum_yield": y0,
        "double_click_prob": one * one,
        "dark_count_prob_per_gate": dark,
    }
    return Telemetry(intensities=mu, **(report | readings))


def homodyne_telemetry(
    modulation_variance: ArrayLike,
    channel_transmittance: ArrayLike,
    excess_noise: ArrayLike,
    receiver_efficiency: ArrayLike = 0.6,
    electronic_noise: ArrayLike = 0.01,
) -> Telemetry:
    """Report of an honest Gaussian-modulated link with homodyne detection, all arguments `(...)`, in shot-noise units.

    Variance eta T (V_A + xi) + 1 + v_el (Lodewyck et al., Phys. Rev. A 76, 042305 (2007)).
    """
    v_a, t, xi, eta, v_el = as_float(
        modulation_variance, channel_transmittance, excess_noise, receiver_efficiency, electronic_noise
    )
    nothing = jnp.zeros((2, 1), v_a.dtype)
    return Telemetry(
        intensities=nothing[0],
        gain=nothing,
        error_gain=nothing,
        modulation_variance=v_a,
        receiver_efficiency=eta,
        electronic_noise=v_el,
        quadrature_variance=eta * t * (v_a + xi) + 1 + v_el,
        channel_transmittance=t,
        excess_noise=xi,
    )


# ---- as one vector ------------------------------------------------------------------------------------------------


def feature_names(intensities: int) -> tuple[str, ...]:
    """Names of the components of `features` for a link with that many intensities."""
    wide = [f"{name}_{basis}_{k}" for name in ("gain", "qber") for basis in ("key", "test") for k in range(intensities)]
    return (*wide, *_SCALARS)


def features(report: Telemetry) -> Float[Array, "... features"]:
    """The readings side by side, unscaled, in the order of `feature_names`; settings are left out."""
    gain, qber, *scalars = as_float(report.gain, report.qber, *(getattr(report, name) for name in _SCALARS))
    lead = jnp.broadcast_shapes(gain.shape[:-2], *(s.shape for s in scalars))
    wide = [jnp.broadcast_to(x, lead + x.shape[-2:]).reshape(*lead, -1) for x in (gain, qber)]
    return jnp.concatenate([*wide, *(jnp.broadcast_to(s, lead)[..., None] for s in scalars)], axis=-1)


_SETTINGS = ("intensities", "modulation_variance", "receiver_efficiency", "electronic_noise")
_SCALARS = tuple(f.name for f in dataclasses.fields(Telemetry) if f.name not in (*_SETTINGS, "gain", "error_gain"))


# ---- shared arithmetic of the attacks -----------------------------------------------------------------------------


def mixed(honest: Array, attacked: Array, share: Array) -> Array:
    """(1 - share) honest + share attacked: exact at either end."""
    return (1 - share) * honest + share * attacked


def ratio(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """Quotient with a value, and no NaN in its derivative, where the denominator is not positive."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), otherwise)


def over_gains(x: Array) -> Array:
    """A leading-shape array beside gains (..., 2, k)."""
    return x[..., None, None]


def light_of(report: Telemetry) -> Float[Array, "... 2 k"]:
    """Clicks that are not background, Q - Y0, kept below 1."""
    light = report.gain - over_gains(report.vacuum_yield)
    return jnp.clip(light, 0, 1 - jnp.finfo(light.dtype).eps)


def light_error_of(report: Telemetry) -> Float[Array, "... 2 k"]:
    """Error rate of those clicks, (E Q - Y0/2) / (Q - Y0), in [0, 1/2]."""
    wrong = report.error_gain - over_gains(report.vacuum_yield) / 2
    return jnp.clip(ratio(wrong, light_of(report)), 0, 0.5)


def received_photons(report: Telemetry) -> Float[Array, "..."]:
    """Mean photons detected per signal pulse in the key basis, eta mu = -ln(1 - (Q - Y0))."""
    return -jnp.log1p(-light_of(report)[..., KEY, 0])


def phase_qber(report: Telemetry) -> Float[Array, "..."]:
    """Signal error rate in the test basis, at most 1/2: what a formula takes as the phase error."""
    return jnp.clip(ratio(report.error_gain[..., TEST, 0], report.gain[..., TEST, 0]), 0, 0.5)


def wider(width: Array, extra_variance: Array) -> Array:
    """Width of a histogram whose variance changes; no change leaves it exactly."""
    variance = width * width + extra_variance
    total = jnp.sqrt(jnp.where(variance > 0, variance, 1)) + width
    return jnp.where(variance > 0, width + extra_variance / total, 0)

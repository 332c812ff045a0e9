"""Light through air between two telescopes: a Gaussian beam, a round aperture, pointing, atmosphere, sky.

Radii of beams are 1/e^2 radii of the intensity; apertures are *radii* too. Angles are half angles and standard
deviations per axis. A beam that wanders fast against the integration time is broader (`long_term_radius_m`); one that
wanders slowly gives a transmittance that fluctuates (`Wander`): use one or the other, never both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float
from qkd_gym.physics.light import photons_in_gate

#: Zenith transmittance of a clear sky by wavelength: (low, typical, high). Design values.
ZENITH_TRANSMITTANCE: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"785-850nm": (0.6, 0.7, 0.8), "1550nm": (0.8, 0.85, 0.9)}
)
#: Elevation below which a plane atmosphere is no model of a round one.
LOWEST_ELEVATION_RAD = math.radians(5)
#: Spectral radiance of the sky, W/(m^2 sr um). Er-long et al., New J. Phys. 7, 215 (2005); orders of magnitude.
SKY_RADIANCE_W_PER_M2_SR_UM: Mapping[str, float] = MappingProxyType(
    {"moonless-night": 1.5e-5, "full-moon": 1.5e-3, "clear-day": 1.5, "bright-cloudy-day": 150.0}
)


@struct.dataclass
class FreeSpaceLink:
    """Two telescopes and what lies between, apart from turbulence and weather."""

    waist_radius_m: Any = struct.field(default=0.05, unit="m", low=1e-4, high=10.0, doc="1/e^2 radius at the sender")
    wavelength_nm: Any = struct.field(default=850.0, unit="nm", low=300.0, high=3000.0, doc="wavelength")
    beam_quality: Any = struct.field(
        default=1.0, low=1.0, high=100.0, doc="M^2: divergence over that of an ideal beam of the same waist"
    )
    aperture_radius_m: Any = struct.field(default=0.5, unit="m", low=0.0, high=20.0, doc="receiver aperture, radius")
    obscuration_radius_m: Any = struct.field(
        default=0.0, unit="m", low=0.0, high=20.0, doc="central obscuration of the receiver, radius"
    )
    pointing_jitter_urad: Any = struct.field(
        default=1.0, unit="urad", low=0.0, high=1e4, doc="pointing error of the sender, standard deviation per axis"
    )


@struct.dataclass
class Wander:
    """Transmittance against the displacement r of the beam, peak x exp(-(r/scale)^shape): Vasylyev et al. 2012."""

    peak: Any = struct.field(low=0.0, high=1.0, doc="transmittance of a centred beam")
    shape: Any = struct.field(low=0.0, doc="exponent lambda, 2 for wide beams")
    scale_m: Any = struct.field(unit="m", low=0.0, doc="displacement at which the transmittance is peak/e")


@struct.dataclass
class SkyReceiver:
    """A telescope with detector as the sky fills it."""

    field_of_view_rad: Any = struct.field(default=1e-4, unit="rad", low=0.0, high=1.0, doc="full angle")
    diameter_m: Any = struct.field(default=1.0, unit="m", low=0.0, high=40.0, doc="aperture, diameter")
    filter_nm: Any = struct.field(default=1.0, unit="nm", low=0.0, high=200.0, doc="width of the optical filter")
    gate_ns: Any = struct.field(default=1.0, unit="ns", low=0.0, high=1e6, doc="time window")
    wavelength_nm: Any = struct.field(default=850.0, unit="nm", low=300.0, high=3000.0, doc="wavelength")
    efficiency: Any = struct.field(default=0.25, low=0.0, high=1.0, doc="receiver optics and detector")


# ---- beam ---------------------------------------------------------------------------------------------------------


def beam_radius_m(link: FreeSpaceLink, distance_km: ArrayLike) -> Float[Array, "..."]:
    """1/e^2 radius w0 sqrt(1 + (M^2 z lambda / (pi w0^2))^2) after a distance."""
    w0, wavelength, quality, z = as_float(link.waist_radius_m, link.wavelength_nm, link.beam_quality, distance_km)
    spread = quality * z * wavelength * (1e-6 / math.pi) / (w0 * w0)
    return w0 * jnp.sqrt(1 + spread * spread)


def long_term_radius_m(radius_m: ArrayLike, jitter_urad: ArrayLike, distance_km: ArrayLike) -> Float[Array, "..."]:
    """Radius averaged over pointing, sqrt(w^2 + 4 (sigma z)^2), sigma the jitter per axis."""
    w, sigma, z = as_float(radius_m, jitter_urad, distance_km)
    shift = sigma * z * 1e-3
    return jnp.sqrt(w * w + 4 * shift * shift)


def capture(
    radius_m: ArrayLike, aperture_radius_m: ArrayLike, obscuration_radius_m: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """Share e^(-2 b^2/w^2) - e^(-2 a^2/w^2) of a centred beam inside a ring; 0 where the obscuration is the larger."""
    w, a, b = as_float(radius_m, aperture_radius_m, obscuration_radius_m)
    w2 = w * w
    ring = jnp.maximum((a - b) * (a + b), 0)
    return -jnp.exp(-2 * b * b / w2) * jnp.expm1(-2 * ring / w2)


def long_term_transmittance(link: FreeSpaceLink, distance_km: ArrayLike) -> Float[Array, "..."]:
    """Mean share of the light that enters the receiver, pointing averaged over. Without atmosphere."""
    w = long_term_radius_m(beam_radius_m(link, distance_km), link.pointing_jitter_urad, distance_km)
    return capture(w, link.aperture_radius_m, link.obscuration_radius_m)


def displaced_capture(
    radius_m: ArrayLike, aperture_radius_m: ArrayLike, displacement_m: ArrayLike, order: int = 64
) -> Float[Array, "..."]:
    """Share of a beam inside a round aperture whose centre it misses by a displacement: the exact overlap integral.

    (4/w^2) int_0^a exp(-2 (r^2 + p^2)/w^2) I0(4 r p/w^2) p dp by Gauss-Legendre of the given order, over the part of
    the aperture that lies within 5 w of the beam; relative error below 1e-12 in float64 for r < 4 w.
    """
    w, a, r = jnp.broadcast_arrays(*as_float(radius_m, aperture_radius_m, displacement_m))
    nodes, weights = np.polynomial.legendre.leggauss(order)
    low = jnp.minimum(jnp.maximum(r - 5 * w, 0), a)
    high = jnp.minimum(a, r + 5 * w)
    half = (high - low) / 2
    x, weight = _along_last(nodes, half), _along_last(weights, half)
    p = (low[..., None] + half[..., None] * (x + 1)) / w[..., None]
    d = (r / w)[..., None] - p
    return 4 * (half / w) * jnp.sum(weight * p * jnp.exp(-2 * d * d) * i0e(4 * (r / w)[..., None] * p), axis=-1)


# ---- slow wander --------------------------------------------------------------------------------------------------


def wander(radius_m: ArrayLike, aperture_radius_m: ArrayLike) -> Wander:
    """Vasylyev, Semenov, Vogel, Phys. Rev. Lett. 108, 220501 (2012): the law of a displaced beam behind an aperture.

    Away from `displaced_capture` by at most 0.3 % of the peak for w >= 2 a and 1.4 % for w >= 0.5 a; a narrow beam
    misses by more at the rim (4.4 % at w = 0.1 a). Formed from I0 - 1 by series, so that a wide beam (shape 2, scale
    w/sqrt 2) keeps its digits in float32.
    """
    w, a = as_float(radius_m, aperture_radius_m)
    peak = -jnp.expm1(-2 * (a / w) * (a / w))
    ratio = jnp.maximum(a / w, 1e-9)  # a closed aperture: the limit of shape and scale, not 0/0
    x = 4 * ratio * ratio
    bessel = _scaled_i0_minus_1(x)  # e^-x (I0(x) - 1)
    share = -jnp.expm1(-x) - bessel  # 1 - e^-x I0(x)
    missing = -jnp.expm1(-x / 2)
    logarithm = jnp.log1p((missing * missing + bessel) / share)  # ln(2 peak / share)
    shape = 2 * x * i1e(x) / (share * logarithm)
    return Wander(peak=peak, shape=shape, scale_m=ratio * w * jnp.exp(-jnp.log(logarithm) / shape))


def wander_transmittance(law: Wander, displacement_m: ArrayLike) -> Float[Array, "..."]:
    """Transmittance of a beam displaced by r: peak x exp(-(r/scale)^shape)."""
    peak, shape, scale, r = as_float(law.peak, law.shape, law.scale_m, displacement_m)
    return peak * jnp.exp(-_power(r / scale, shape))


def wander_from_normals(law: Wander, deviation_m: ArrayLike, normals: ArrayLike) -> Float[Array, "..."]:
    """Transmittance of one pulse train: a displacement with `deviation_m` per axis from `normals` `(..., 2)`."""
    sigma, z = as_float(deviation_m, normals)
    x, y = z[..., 0], z[..., 1]
    squared = x * x + y * y
    positive = squared > 0
    return wander_transmittance(law, sigma * jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0))


def mean_wander_transmittance(law: Wander, deviation_m: ArrayLike) -> Float[Array, "..."]:
    """Mean over a displacement that is normal with `deviation_m` per axis (Rayleigh), relative error 1e-10 in float64.

    peak int_0^inf e^-u [1 - exp(-(scale^2 / 2 sigma^2) u^(2/shape))] du (by parts): smooth for any shape. The double
    exponential rule u = exp(v - e^-v) in 96 points: for analysis, not for a step.
    """
    peak, shape, scale, sigma = jnp.broadcast_arrays(*as_float(law.peak, law.shape, law.scale_m, deviation_m))
    moving = sigma > 0
    ratio = jnp.minimum(scale / jnp.where(moving, sigma, scale), 1e9)
    depth = ratio * ratio / 2
    v, step = np.linspace(-3.7, 3.9, 96, retstep=True)
    log_u = v - np.exp(-v)
    weights = step * np.exp(log_u - np.exp(log_u)) * (1 + np.exp(-v))
    power = jnp.exp(2 * _along_last(log_u, depth) / shape[..., None])
    total = -jnp.sum(_along_last(weights, depth) * jnp.expm1(-depth[..., None] * power), axis=-1)
    return peak * jnp.where(moving, total, 1)


# ---- atmosphere and sky -------------------------------------------------------------------------------------------


def atmosphere_transmittance(
    elevation_rad: ArrayLike, zenith_transmittance: ArrayLike, lowest_elevation_rad: ArrayLike = LOWEST_ELEVATION_RAD
) -> Float[Array, "..."]:
    """Transmittance eta_zenith^(1/sin(el)) of a plane atmosphere; 0 below the lowest elevation, where it fails."""
    el, zenith, lowest = as_float(elevation_rad, zenith_transmittance, lowest_elevation_rad)
    visible = el > lowest
    sine = jnp.sin(jnp.where(visible, el, math.pi / 2))
    opaque = zenith <= 0
    depth = jnp.log(jnp.where(opaque, 1, zenith))
    return jnp.where(visible & ~opaque, jnp.exp(depth / sine), 0)


def background_counts(radiance_w_per_m2_sr_um: ArrayLike, receiver: SkyReceiver) -> Float[Array, "..."]:
    """Mean counts per gate from the sky, H pi (FOV/2)^2 (pi D^2/4) dlambda dt eta lambda/(hc), all detectors together.

    Half goes to each of two detectors; the whole adds to Y0.
    """
    radiance, fov, diameter, width, efficiency = as_float(
        radiance_w_per_m2_sr_um,
        receiver.field_of_view_rad,
        receiver.diameter_m,
        receiver.filter_nm,
        receiver.efficiency,
    )
    etendue = (math.pi * math.pi / 16) * fov * fov * diameter * diameter
    # W/um x nm is mW
    return efficiency * photons_in_gate(radiance * etendue * width, receiver.gate_ns, receiver.wavelength_nm)


def _power(base: Array, exponent: Array) -> Array:
    """base^exponent for base >= 0 and exponent > 1: 0, with slope 0, at 0."""
    positive = base > 0
    # beyond e^80 nothing is left of e^-power, and float32 ends
    return jnp.where(positive, jnp.exp(jnp.minimum(exponent * jnp.log(jnp.where(positive, base, 1)), 80)), 0)


def _along_last(constants: np.ndarray, like: Array) -> Array:
    """Constants `(n,)` on a last axis behind the axes of `like`."""
    return jnp.asarray(constants, like.dtype).reshape((1,) * like.ndim + (-1,))


def _scaled_i0_minus_1(x: Array) -> Array:
    """e^-x (I0(x) - 1) for x >= 0 without cancellation."""
    small = x < 1
    quarter = jnp.where(small, x * x / 4, 0)
    series = jnp.ones_like(quarter)
    for k in range(9, 1, -1):
        series = 1 + quarter / (k * k) * series
    large = jnp.where(small, 1, x)
    return jnp.where(small, jnp.exp(-x) * quarter * series, i0e(large) - jnp.exp(-large))

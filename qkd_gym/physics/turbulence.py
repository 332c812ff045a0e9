"""Turbulence on a path between ground and space: its strength, and the fading of the power that arrives.

Hufnagel-Valley profile; Rytov variance and Fried parameter of a plane wave that comes down; scintillation by the
gamma-gamma model with aperture averaging. Fading is correlated over 1-10 ms: hold it within a pulse train, draw anew
every millisecond. Downlink only: an uplink beam also wanders as a whole before it reaches space.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import gammainc
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float

#: Rytov variance above which fading is gamma-gamma rather than log-normal.
WEAK_BELOW = 0.5


@struct.dataclass
class HufnagelValley:
    """Structure parameter C_n^2 against height. Default: HV 5/7 (5 cm Fried parameter, 7 urad, at 500 nm)."""

    wind_m_per_s: Any = struct.field(default=21.0, unit="m/s", low=0.0, high=100.0, doc="rms wind between 5 and 20 km")
    ground_m: Any = struct.field(
        default=1.7e-14, unit="m^(-2/3)", low=0.0, high=1e-11, doc="A: C_n^2 at the ground, without the other layers"
    )
    top_m: Any = struct.field(default=20_000.0, unit="m", low=1.0, high=1e5, doc="height up to which it is integrated")


@struct.dataclass
class Fading:
    """Law of the received power over its mean, as `fade` draws from it."""

    rytov_variance: Any = struct.field(low=0.0, doc="Rytov variance before the aperture averages")
    log_variance: Any = struct.field(low=0.0, doc="variance of the logarithm in the log-normal law")
    alpha: Any = struct.field(low=0.0, doc="large-scale parameter of the gamma-gamma law")
    beta: Any = struct.field(low=0.0, doc="small-scale parameter of the gamma-gamma law")


# ---- strength -----------------------------------------------------------------------------------------------------


def structure_parameter(profile: HufnagelValley, height_m: ArrayLike) -> Float[Array, "..."]:
    """C_n^2(h) = 0.00594 (v/27)^2 (1e-5 h)^10 e^(-h/1000) + 2.7e-16 e^(-h/1500) + A e^(-h/100), m^(-2/3)."""
    wind, ground, h = as_float(profile.wind_m_per_s, profile.ground_m, height_m)
    v, x = wind / 27, h * 1e-5
    x2 = x * x
    x4 = x2 * x2
    return (
        0.00594 * v * v * (x4 * x4 * x2) * jnp.exp(-h / 1000)
        + 2.7e-16 * jnp.exp(-h / 1500)
        + ground * jnp.exp(-h / 100)
    )


def structure_moment(profile: HufnagelValley, power: float) -> Float[Array, "..."]:
    """int_0^top C_n^2(h) h^power dh in closed form (incomplete gamma functions). `power` is a Python number > -1."""
    wind, ground, top = as_float(profile.wind_m_per_s, profile.ground_m, profile.top_m)
    v = wind / 27

    def layer(extra: int, scale_m: float, log_factor: float) -> Array:
        s = extra + power + 1
        # formed in logarithms: (1e-5)^10 alone is no float32
        size = math.exp(log_factor + s * math.log(scale_m) + math.lgamma(s))
        return size * gammainc(jnp.asarray(s, top.dtype), top / scale_m)

    high = v * v * layer(10, 1000.0, math.log(0.00594) + 10 * math.log(1e-5))
    return high + layer(0, 1500.0, math.log(2.7e-16)) + ground * layer(0, 100.0, 0.0)


def rytov_variance(
    profile: HufnagelValley, wavelength_nm: ArrayLike, zenith_angle_rad: ArrayLike
) -> Float[Array, "..."]:
    """Rytov variance of a downlink, 2.25 k^(7/6) sec^(11/6)(zeta) int C_n^2 h^(5/6) dh; zenith angle below 85 deg."""
    k, secant = _log_wavenumber(wavelength_nm), _log_secant(zenith_angle_rad)
    return 2.25 * structure_moment(profile, 5 / 6) * jnp.exp(7 / 6 * k + 11 / 6 * secant)


def fried_parameter_m(
    profile: HufnagelValley, wavelength_nm: ArrayLike, zenith_angle_rad: ArrayLike
) -> Float[Array, "..."]:
    """Coherence diameter r0 = [0.423 k^2 sec(zeta) int C_n^2 dh]^(-3/5)."""
    k, secant = _log_wavenumber(wavelength_nm), _log_secant(zenith_angle_rad)
    return jnp.exp(-0.6 * (jnp.log(0.423 * structure_moment(profile, 0.0)) + 2 * k + secant))


def gamma_gamma_parameters(rytov: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(alpha, beta)` of a plane wave behind a point aperture, zero inner scale, from a Rytov variance > 0.

    Al-Habash, Andrews, Phillips, Opt. Eng. 40, 1554 (2001).
    """
    (variance,) = as_float(rytov)
    twelve_fifths = jnp.exp(1.2 * jnp.log(variance))
    large = 0.49 * variance * jnp.exp(-7 / 6 * jnp.log1p(1.11 * twelve_fifths))
    small = 0.51 * variance * jnp.exp(-5 / 6 * jnp.log1p(0.69 * twelve_fifths))
    return 1 / jnp.expm1(large), 1 / jnp.expm1(small)


def gamma_gamma_scintillation(alpha: ArrayLike, beta: ArrayLike) -> Float[Array, "..."]:
    """Scintillation index (variance over squared mean) 1/alpha + 1/beta + 1/(alpha beta)."""
    a, b = as_float(alpha, beta)
    return 1 / a + 1 / b + 1 / a / b


def log_normal_scintillation(log_variance: ArrayLike) -> Float[Array, "..."]:
    """Scintillation index e^(s^2) - 1 of log-normal power with variance s^2 of its logarithm."""
    (variance,) = as_float(log_variance)
    return jnp.expm1(variance)


def aperture_averaging(diameter_m: ArrayLike, wavelength_nm: ArrayLike, path_m: ArrayLike) -> Float[Array, "..."]:
    """Factor [1 + 1.062 k D^2 / (4 L)]^(-7/6) by which an aperture lowers the scintillation of a plane wave.

    Andrews, J. Opt. Soc. Am. A 9, 597 (1992). `path_m` is the path through turbulence: from space, the height
    of the tropopause (about 10 km) over cos(zenith angle), not the range.
    """
    d, path = as_float(diameter_m, path_m)
    return jnp.exp(-7 / 6 * jnp.log1p(0.2655 * d * d / path * jnp.exp(_log_wavenumber(wavelength_nm))))


# ---- fading -------------------------------------------------------------------------------------------------------


def fading(rytov: ArrayLike, averaging: ArrayLike = 1.0) -> Fading:
    """Law of the power behind an aperture: log-normal below a Rytov variance of 0.5, gamma-gamma above.

    `averaging` multiplies the scintillation index. Both scales of the gamma-gamma law shrink by one common factor: a
    design choice; the index is exact.
    """
    variance, factor = as_float(rytov, averaging)
    variance, factor = jnp.broadcast_arrays(variance, factor)
    alpha, beta = gamma_gamma_parameters(jnp.maximum(variance, 1e-3))
    p, q = 1 / alpha, 1 / beta
    target = factor * (p + q + p * q)
    total = p + q
    # s (p + q) + s^2 p q = target, the root without cancellation
    shrink = 2 * target / (total + jnp.sqrt(total * total + 4 * p * q * target))
    shrink = jnp.maximum(shrink, 1e-6)
    log_variance = jnp.log1p(factor * jnp.expm1(jnp.minimum(variance, 4.0)))
    return Fading(variance, log_variance, alpha / shrink, beta / shrink)


def fade(law: Fading, normals: ArrayLike) -> Float[Array, "..."]:
    """Received power over its mean, from `normals` `(..., 2)`: no loop, no rejection, mean 1.

    Gamma-gamma: the product of two gammas by `log_gamma_quantile`, each off by at most 0.02 % for parameters above 5
    and 2 % at 1; mean within 0.06 % and scintillation index within 0.5 % (tested).
    """
    (z,) = as_float(normals)
    z0, z1 = z[..., 0], z[..., 1]
    variance = law.log_variance
    weak = jnp.sqrt(jnp.maximum(variance, 1e-30)) * z0 - variance / 2
    strong = log_gamma_quantile(law.alpha, z0) + log_gamma_quantile(law.beta, z1)
    return jnp.exp(jnp.where(law.rytov_variance < WEAK_BELOW, weak, strong))


def log_gamma_quantile(shape: ArrayLike, normal: ArrayLike) -> Float[Array, "..."]:
    """ln of a gamma variable of unit mean, as the quantile that a standard normal has in its own law; shape >= 1.

    Temme, Math. Comp. 58, 755 (1992): with eta^2/2 = lambda - 1 - ln(lambda) for the variable lambda, and
    eta_0 = z/sqrt(a), eta = eta_0 + e_1/a + e_2/a^2 from expanding f(eta) exp(-a eta^2/2) d eta, f = eta/(lambda - 1).
    Uniform over the whole law, unlike Wilson-Hilferty, which turns negative below -2.7 sigma at shape 1.
    """
    a, z = as_float(shape, normal)
    eta = z / jnp.sqrt(a)
    near = jnp.abs(eta) < _NEAR
    t = jnp.where(near, eta, 0)
    far = jnp.where(near, 1, eta)
    log = _log_lambda(far)
    f = far / (log + far * far / 2)
    first = jnp.log(f) / far
    slope = (1 - jnp.exp(log) * f * f) / far  # f'/f
    second = (slope * first + (slope - first) / far - first * first / 2 - 1 / 12) / far
    first, second = jnp.where(near, _series(t, _FIRST), first), jnp.where(near, _series(t, _SECOND), second)
    # a + 1/4 for a stands in for the third order: the mean at a = 1 comes from 0.35 % to 0.05 %
    return _log_lambda(eta + (first + second / (a + 0.25)) / a)


_NEAR = 0.6  # |eta| below which series stand for quotients of small differences (they converge to 3.5)
_LAMBDA = (1, -1 / 6, 1 / 36, -1 / 270, 1 / 4320, 1 / 17010, -139 / 5443200, 1 / 204120, -571 / 2351462400)
_FIRST = (-1 / 3, 1 / 36, 1 / 1620, -7 / 6480, 5 / 18144, -11 / 382725, -101 / 16329600, 37 / 9797760)
_SECOND = (
    -7 / 405,
    -7 / 2592,
    533 / 204120,
    -1579 / 2099520,
    109 / 1749600,
    10217 / 251942400,
    -9281803 / 436490208000,
)


def _log_lambda(eta: Array) -> Array:
    """ln(lambda) with lambda - 1 - ln(lambda) = eta^2/2, on the side of eta's sign: a series or three Newton steps."""
    near = jnp.abs(eta) < _NEAR
    t = jnp.where(near, eta, 0)
    far = jnp.where(near, 1, eta)
    half = far * far / 2
    middle = far * (1 - far * (1 / 6 - far / 36))
    log = jnp.where(far > 1, jnp.log1p(jnp.maximum(far, 0) * (1 + far / 3)), jnp.where(far < -1.5, -1 - half, middle))
    for _ in range(3):
        gain = jnp.expm1(log)
        log = log - (gain - log - half) / gain
    return jnp.where(near, t * _series(t, _LAMBDA), log)


def _series(x: Array, coefficients: tuple[float, ...]) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def _log_wavenumber(wavelength_nm: ArrayLike) -> Array:
    """ln of k = 2 pi / lambda in 1/m."""
    (wavelength,) = as_float(wavelength_nm)
    return math.log(2e9 * math.pi) - jnp.log(wavelength)


def _log_secant(zenith_angle_rad: ArrayLike) -> Array:
    (zeta,) = as_float(zenith_angle_rad)
    return -jnp.log(jnp.cos(zeta))

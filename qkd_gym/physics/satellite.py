"""A pass of a satellite in low orbit over a ground station, and the link budget of its downlink.

Circular orbit over a round Earth that does not turn: a station moves by up to 0.46 km/s against 7 km/s of the ground
track, so durations are good to some per cent. Defaults follow Micius (Liao et al., Nature 549, 43 (2017)): 500 km,
850 nm, 1 m telescope; the fixed loss is calibrated so that 530 km cost 29 dB, and the published 36 dB at 1000 km are
then met to 0.5 dB. Geometry is written with 1 - cos(gamma), so that float32 holds a pass through the zenith.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.fibre import SPEED_OF_LIGHT_M_PER_S
from qkd_gym.physics.free_space import LOWEST_ELEVATION_RAD, atmosphere_transmittance, capture, long_term_radius_m
from qkd_gym.physics.information import NEPER_PER_DB, as_float


@struct.dataclass
class Orbit:
    """A circular pass; the station is reached no closer than a central angle."""

    altitude_km: Any = struct.field(default=500.0, unit="km", low=100.0, high=50_000.0, doc="height of the orbit")
    closest_angle_rad: Any = struct.field(
        default=0.0, unit="rad", low=0.0, high=math.pi / 2,
        doc="smallest angle at the Earth's centre between ground track and station (0: through the zenith)",
    )  # fmt: skip
    earth_radius_km: Any = struct.field(
        default=6371.0, unit="km", low=1000.0, high=100_000.0, doc="radius of the Earth"
    )
    gravity_km3_per_s2: Any = struct.field(
        default=398_600.4418, unit="km^3/s^2", low=1.0, high=1e9, doc="G M of the Earth"
    )


@struct.dataclass
class Downlink:
    """Telescopes, sky and everything that does not change during the pass."""

    divergence_urad: Any = struct.field(
        default=5.0, unit="urad", low=0.01, high=1e4, doc="far-field half angle to 1/e^2 of the intensity"
    )
    aperture_radius_m: Any = struct.field(default=0.5, unit="m", low=0.0, high=20.0, doc="ground telescope, radius")
    obscuration_radius_m: Any = struct.field(default=0.0, unit="m", low=0.0, high=20.0, doc="its obscuration, radius")
    pointing_jitter_urad: Any = struct.field(
        default=1.2, unit="urad", low=0.0, high=1e4, doc="pointing of the satellite, standard deviation per axis"
    )
    zenith_transmittance: Any = struct.field(default=0.7, low=0.0, high=1.0, doc="atmosphere straight up")
    fixed_loss_db: Any = struct.field(
        default=14.85, unit="dB", low=0.0, high=60.0, doc="optics, filters, coupling, detectors"
    )
    lowest_elevation_rad: Any = struct.field(
        default=math.radians(10), unit="rad", low=LOWEST_ELEVATION_RAD, high=math.pi / 2, doc="no link below"
    )


@struct.dataclass
class Sight:
    """Where the satellite stands."""

    elevation_rad: Any = struct.field(unit="rad", low=-math.pi / 2, high=math.pi / 2, doc="above the horizon")
    range_km: Any = struct.field(unit="km", low=0.0, doc="distance to the station")
    range_rate_km_per_s: Any = struct.field(unit="km/s", doc="its growth")


# ---- geometry -----------------------------------------------------------------------------------------------------


def angular_rate_rad_per_s(orbit: Orbit) -> Float[Array, "..."]:
    """Orbital rate sqrt(G M / r^3)."""
    h, earth, gravity = as_float(orbit.altitude_km, orbit.earth_radius_km, orbit.gravity_km3_per_s2)
    radius = earth + h
    return jnp.sqrt(gravity / radius) / radius


def sight(orbit: Orbit, time_s: ArrayLike) -> Sight:
    """Elevation, range and range rate at a time from culmination (negative: before)."""
    h, earth, closest, t = as_float(orbit.altitude_km, orbit.earth_radius_km, orbit.closest_angle_rad, time_s)
    radius = earth + h
    rate = angular_rate_rad_per_s(orbit)
    half_closest, half_track = jnp.sin(closest / 2), jnp.sin(rate * t / 2)
    # 1 - cos(gamma) with cos(gamma) = cos(closest) cos(rate t)
    versine = 2 * (half_closest * half_closest + jnp.cos(closest) * half_track * half_track)
    distance = jnp.sqrt(h * h + 2 * earth * radius * versine)
    # cos(gamma) - earth/radius over sin(gamma), the tangent of the elevation
    above = h / radius - versine
    product = versine * (2 - versine)
    away = product > 0
    sine = jnp.where(away, jnp.sqrt(jnp.where(away, product, 1)), 0)
    speed = earth * radius * jnp.cos(closest) * rate * jnp.sin(rate * t) / distance
    return Sight(elevation_rad=jnp.arctan2(above, sine), range_km=distance, range_rate_km_per_s=speed)


def range_at_elevation_km(orbit: Orbit, elevation_rad: ArrayLike) -> Float[Array, "..."]:
    """Range sqrt((R sin el)^2 + 2 R h + h^2) - R sin el of a satellite seen at an elevation."""
    h, earth, el = as_float(orbit.altitude_km, orbit.earth_radius_km, elevation_rad)
    height = earth * jnp.sin(el)
    reach = h * (2 * earth + h)
    root = jnp.sqrt(height * height + reach)
    # the difference as a quotient above the horizon, where it cancels
    up = height > 0
    return jnp.where(up, reach / (root + jnp.maximum(height, 0)), root - height)


def central_angle_rad(orbit: Orbit, elevation_rad: ArrayLike) -> Float[Array, "..."]:
    """Angle at the Earth's centre to a satellite seen at an elevation, arccos(rho cos el) - el."""
    earth, el = as_float(orbit.earth_radius_km, elevation_rad)
    # the satellite's place along the station's horizon and vertical, seen from the Earth's centre
    distance = range_at_elevation_km(orbit, el)
    return jnp.arctan2(distance * jnp.cos(el), earth + distance * jnp.sin(el))


def orbit_through(altitude_km: ArrayLike, highest_elevation_rad: ArrayLike) -> Orbit:
    """The pass that culminates at an elevation."""
    overhead = Orbit(altitude_km=altitude_km)
    return struct.replace(
        overhead, closest_angle_rad=jnp.maximum(central_angle_rad(overhead, highest_elevation_rad), 0)
    )


def duration_s(orbit: Orbit, lowest_elevation_rad: ArrayLike) -> Float[Array, "..."]:
    """Time that the satellite spends above an elevation; 0 if it never gets there."""
    closest, limit = as_float(orbit.closest_angle_rad, central_angle_rad(orbit, lowest_elevation_rad))
    # cos(limit) = cos(closest) cos(track): sin^2(track/2) as a product keeps short passes
    square = jnp.sin((limit - closest) / 2) * jnp.sin((limit + closest) / 2) / jnp.cos(closest)
    seen = square > 0
    half = jnp.arcsin(jnp.sqrt(jnp.clip(jnp.where(seen, square, 0.25), 0, 1)))
    return jnp.where(seen, 4 * half, 0) / angular_rate_rad_per_s(orbit)


def doppler_ghz(view: Sight, wavelength_nm: ArrayLike) -> Float[Array, "..."]:
    """First-order Doppler shift -v/lambda of what the station receives."""
    speed, wavelength = as_float(view.range_rate_km_per_s, wavelength_nm)
    return -1e3 * speed / wavelength


def point_ahead_urad(orbit: Orbit) -> Float[Array, "..."]:
    """Point-ahead angle 2 v/c of a link to the satellite at the zenith; 50 urad for low orbits."""
    h, earth = as_float(orbit.altitude_km, orbit.earth_radius_km)
    return (2e9 / SPEED_OF_LIGHT_M_PER_S) * angular_rate_rad_per_s(orbit) * (earth + h)


# ---- link budget --------------------------------------------------------------------------------------------------


def downlink_transmittance(view: Sight, link: Downlink) -> Float[Array, "..."]:
    """Mean transmittance: diffraction and pointing, atmosphere, fixed losses; 0 below the lowest elevation.

    The beam is the Gaussian far field, w = divergence x range: calibrate it against a budget that counts a uniform disk
    (22 dB at 1200 km for Micius, 18.6 dB here), and never add the two. Fading (`turbulence`) has unit mean on top.
    """
    distance, divergence, a, b, jitter, loss = as_float(
        view.range_km,
        link.divergence_urad,
        link.aperture_radius_m,
        link.obscuration_radius_m,
        link.pointing_jitter_urad,
        link.fixed_loss_db,
    )
    width = long_term_radius_m(1e-3 * divergence * distance, jitter, distance)
    air = atmosphere_transmittance(view.elevation_rad, link.zenith_transmittance, link.lowest_elevation_rad)
    return capture(width, a, b) * air * jnp.exp(-NEPER_PER_DB * loss)

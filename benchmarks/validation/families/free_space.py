"""Light through air: beams, turbulence, passes, sky."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import free_space, satellite
from qkd_gym.physics import turbulence as turbulence_physics

_mean_wander = jax.jit(free_space.mean_wander_transmittance)
_overlap = jax.jit(free_space.displaced_capture)


@family("freespace")
def freespace(table: Table):
    """Gaussian beam, capture, pointing: long-term mean and slow wander."""
    a, b = table.number("a"), table.number("b")
    sigma, z = table.number("sig"), table.number("z")
    link = free_space.FreeSpaceLink(
        waist_radius_m=table.number("w0"),
        wavelength_nm=table.number("lam"),
        beam_quality=table.number("M2", 1.0),
        aperture_radius_m=a,
        obscuration_radius_m=b,
        pointing_jitter_urad=sigma,
    )
    w = free_space.beam_radius_m(link, z)
    law = free_space.wander(w, a)
    result = {
        "w": w,
        "eta_static": free_space.capture(w, a, b),
        "eta_longterm": free_space.long_term_transmittance(link, z),
        "eta0": law.peak,
        "lam_s": law.shape,
        "R_s": law.scale_m,
        "mean_weibull": _mean_wander(law, sigma * z * 1e-3),
    }
    if {"eta_weibull_r", "eta_exact_r"} & set(table.outputs):
        r = table.number("r_test")
        result |= {"eta_weibull_r": free_space.wander_transmittance(law, r), "eta_exact_r": _overlap(w, a, r)}
    return result


@family("turbulence")
def turbulence(table: Table):
    """Hufnagel-Valley downlink: Rytov variance, Fried parameter, scintillation."""
    profile = turbulence_physics.HufnagelValley(
        wind_m_per_s=table.number("wind_m_per_s", 21.0),
        ground_m=table.number("A", 1.7e-14),
        top_m=table.number("h_top_m", 20_000.0),
    )
    wavelength, zenith = table.number("lam"), jnp.deg2rad(table.number("zenith"))
    variance = turbulence_physics.rytov_variance(profile, wavelength, zenith)
    alpha, beta = turbulence_physics.gamma_gamma_parameters(variance)
    return {
        "rytov2": variance,
        "r0": turbulence_physics.fried_parameter_m(profile, wavelength, zenith),
        "alpha": alpha,
        "beta": beta,
        "SI_gg": turbulence_physics.gamma_gamma_scintillation(alpha, beta),
        "SI_ln": turbulence_physics.log_normal_scintillation(variance),
    }


@family("leo_pass")
def leo_pass(table: Table):
    """Geometry of a circular pass, and the atmosphere along it."""
    orbit = satellite.Orbit(
        altitude_km=table.number("h"),
        closest_angle_rad=np.deg2rad(table.number("gmin")),
        earth_radius_km=table.number("RE_km", 6371.0),
        gravity_km3_per_s2=table.number("GM", 398_600.4418),
    )
    view = satellite.sight(orbit, table.number("t"))
    return {
        "el": jnp.rad2deg(view.elevation_rad),
        "range": view.range_km,
        "range2": satellite.range_at_elevation_km(orbit, view.elevation_rad),
        "eta_atm": free_space.atmosphere_transmittance(view.elevation_rad, table.number("zenith_transmittance", 0.7)),
    }


@family("background")
def background(table: Table):
    """Counts from the sky."""
    receiver = free_space.SkyReceiver(
        field_of_view_rad=table.number("fov"),
        diameter_m=table.number("D"),
        filter_nm=table.number("dlam"),
        gate_ns=table.number("gate"),
        wavelength_nm=table.number("lam"),
        efficiency=table.number("eta"),
    )
    return {"n_bg": free_space.background_counts(table.number("Hb"), receiver)}

"""Passes: geometry against vectors, ranges and durations that invert each other, the published budget of Micius."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from qkd_gym.physics import satellite
from qkd_gym.physics.satellite import Downlink, Orbit
from tests.physics.conftest import precision

SIGHT = jax.jit(satellite.sight)
BUDGET = jax.jit(satellite.downlink_transmittance)


def vectors(altitude, closest, t):
    """Satellite on a circle in the x-y plane, station `closest` off that plane: elevation, range in NumPy."""
    radius = 6371.0 + altitude
    angle = np.sqrt(398600.4418 / radius**3) * t
    place = radius * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    up = np.array([np.cos(closest), 0, np.sin(closest)])
    line = place - 6371.0 * up
    distance = np.linalg.norm(line, axis=-1)
    return np.arcsin(np.clip(line @ up / distance, -1, 1)), distance


@pytest.mark.parametrize("closest", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("altitude", [400.0, 500.0, 1200.0, 20_000.0])
def test_sight_against_vectors(altitude, closest, dtype):
    t = np.linspace(-400, 400, 41)
    elevation, distance = vectors(altitude, closest, t)
    orbit = Orbit(dtype.type(altitude), dtype.type(closest), dtype.type(6371), dtype.type(398600.4418))
    orbit = jax.tree.map(lambda x: np.full(len(t), x), orbit)
    view = SIGHT(orbit, t.astype(dtype))
    # arcsin in the reference loses half its digits at the zenith; float32: an angle to 1e-6 rad, a range to 3e-6
    np.testing.assert_allclose(view.elevation_rad, elevation, atol=3e-8 if dtype == np.float64 else 3e-6)
    np.testing.assert_allclose(view.range_km, distance, rtol=1e-12 if dtype == np.float64 else 3e-6)
    again = satellite.range_at_elevation_km(orbit, view.elevation_rad)
    np.testing.assert_allclose(again, distance, rtol=1e-12 if dtype == np.float64 else 2e-5)


def test_range_rate_is_the_derivative_of_the_range(x64):
    orbit = Orbit(500.0, 0.05)
    for t in (-300.0, -40.0, 0.0, 120.0):
        slope = jax.grad(lambda s: satellite.sight(orbit, s).range_km)(t)
        np.testing.assert_allclose(satellite.sight(orbit, t).range_rate_km_per_s, slope, rtol=1e-12, atol=1e-14)
    # receding light is red: 7 km/s at 850 nm is 8 GHz at most
    away = satellite.doppler_ghz(satellite.sight(orbit, 300.0), 850.0)
    assert -9 < float(away) < -7


def test_elevation_range_and_angle_are_one_triangle(dtype):
    orbit = Orbit(dtype.type(500))
    el = np.radians([0, 5, 30, 60, 89.9, 90]).astype(dtype)
    gamma = np.asarray(satellite.central_angle_rad(orbit, el), float)
    rho = 6371 / 6871
    exact = np.arccos(rho * np.cos(el.astype(float))) - el
    np.testing.assert_allclose(gamma, exact, atol=1e-12 if dtype == np.float64 else 1e-6)
    assert float(satellite.range_at_elevation_km(orbit, dtype.type(np.pi / 2))) == pytest.approx(500, rel=1e-5)
    below = satellite.range_at_elevation_km(orbit, dtype.type(-0.1))
    assert float(below) > float(satellite.range_at_elevation_km(orbit, dtype.type(0)))


def test_pass_through_an_elevation(x64):
    for highest in (20.0, 45.0, 80.0, 90.0):
        orbit = satellite.orbit_through(500.0, np.radians(highest))
        np.testing.assert_allclose(satellite.sight(orbit, 0.0).elevation_rad, np.radians(highest), rtol=1e-9)
        lasts = float(satellite.duration_s(orbit, np.radians(15.0)))
        edge = satellite.sight(orbit, lasts / 2).elevation_rad
        np.testing.assert_allclose(edge, np.radians(15.0), rtol=1e-9)
        assert float(satellite.duration_s(orbit, np.radians(min(highest + 1, 90)))) == pytest.approx(0, abs=1e-3)


def test_orbit_figures(x64):
    """A 500 km orbit takes 94.5 min; point-ahead is 50 urad."""
    assert 2 * np.pi / float(satellite.angular_rate_rad_per_s(Orbit())) / 60 == pytest.approx(94.5, abs=0.2)
    assert float(satellite.point_ahead_urad(Orbit())) == pytest.approx(50.8, abs=0.2)


def loss_db(range_km, link):
    orbit = Orbit()
    el = optimize.brentq(lambda e: float(satellite.range_at_elevation_km(orbit, e)) - range_km, 0.05, np.pi / 2)
    return -10 * np.log10(float(BUDGET(satellite.Sight(el, range_km, 0.0), link)))


def test_budget_of_micius(x64):
    """Liao et al. 2017: 29 dB at 530 km (calibrated), 36 dB at 1000 km (predicted to 0.5 dB); pass of 273 s."""
    link = Downlink()
    assert loss_db(530.0, link) == pytest.approx(29, abs=0.05)
    assert loss_db(1000.0, link) == pytest.approx(36, abs=0.5)
    # on axis, w = 6 m at 1200 km costs 18.6 dB
    still = Downlink(pointing_jitter_urad=0.0, zenith_transmittance=1.0, fixed_loss_db=0.0)
    assert loss_db(1200.0, still) == pytest.approx(18.6, abs=0.05)
    # 273 s is a high pass above some 20 degrees
    assert 18 < np.degrees(optimize.brentq(lambda e: float(satellite.duration_s(Orbit(), e)) - 273, 0.1, 1.0)) < 28


def test_loss_grows_away_from_the_zenith(dtype):
    t = np.linspace(0, 250, 60).astype(dtype)
    link = jax.tree.map(lambda x: np.full(len(t), x, dtype), Downlink())
    orbit = jax.tree.map(lambda x: np.full(len(t), x, dtype), Orbit())
    eta = np.asarray(BUDGET(SIGHT(orbit, t), link))
    assert np.all(np.diff(eta) <= 0) and eta[0] > 1e-3
    dark = np.asarray(SIGHT(orbit, t).elevation_rad) < np.radians(10)
    assert dark.any() and np.all(eta[dark] == 0) and np.all(eta[~dark] > 0)


def test_float32_holds_a_pass():
    """The largest errors of float32 over a pass: 5e-6 in the transmittance."""
    t = np.linspace(-220, 220, 401)
    with precision("float64"):
        exact = np.asarray(BUDGET(*_pass(t, np.float64)))
    with precision("float32"):
        got = np.asarray(BUDGET(*_pass(t, np.float32)), float)
    seen = exact > 0
    assert np.max(np.abs(got[seen] / exact[seen] - 1)) < 1e-5


def _pass(t, dtype):
    def many(node):
        return jax.tree.map(lambda x: np.full(len(t), x, dtype), node)

    return SIGHT(many(Orbit()), t.astype(dtype)), many(Downlink())


def test_gradients(x64):
    def eta(t):
        return satellite.downlink_transmittance(satellite.sight(Orbit(), t), Downlink())

    slope = jax.jit(jax.grad(eta))
    for t in (-150.0, 20.0, 90.0):
        np.testing.assert_allclose(slope(t), (eta(t + 1e-3) - eta(t - 1e-3)) / 2e-3, rtol=1e-6)
    assert float(slope(0.0)) == 0  # culmination through the zenith


@settings(deadline=None, max_examples=80)
@given(st.floats(100, 50_000), st.floats(0, np.pi / 2), st.floats(-1e5, 1e5), st.floats(0.01, 1e4), st.floats(0, 1e4))
def test_nothing_is_nan(altitude, closest, t, divergence, jitter):
    with precision("float32"):
        orbit = Orbit(np.float32(altitude), np.float32(closest), np.float32(6371), np.float32(398600.4418))
        view = SIGHT(orbit, np.float32(t))
        assert all(np.isfinite(x) for x in jax.tree.leaves(view))
        assert altitude * (1 - 1e-5) <= float(view.range_km) <= (2 * 6371 + altitude) * (1 + 1e-5)
        link = jax.tree.map(np.float32, Downlink(divergence_urad=divergence, pointing_jitter_urad=jitter))
        assert 0 <= float(BUDGET(view, link)) <= 1
        assert 0 <= float(satellite.duration_s(orbit, np.float32(0.2))) < np.inf

"""Free space: beams against Gaussian optics, captures against integrals, wander against the exact overlap, the sky."""

import jax
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from qkd_gym.physics import fibre, free_space, light
from qkd_gym.physics.free_space import FreeSpaceLink, SkyReceiver
from tests.physics.conftest import precision

WANDER = jax.jit(free_space.wander)
OVERLAP = jax.jit(free_space.displaced_capture)
MEAN = jax.jit(free_space.mean_wander_transmittance)


def test_beam_spreads_from_its_waist(dtype):
    link = FreeSpaceLink(dtype.type(0.1), dtype.type(850), dtype.type(1), 0.5, 0.0, 0.0)
    assert float(free_space.beam_radius_m(link, 0.0)) == pytest.approx(0.1)
    rayleigh_km = np.pi * 0.01 / 850e-9 / 1e3
    np.testing.assert_allclose(free_space.beam_radius_m(link, dtype.type(rayleigh_km)), 0.1 * np.sqrt(2), rtol=1e-6)
    far = free_space.beam_radius_m(link, dtype.type(1e5))
    np.testing.assert_allclose(far / 1e8, 850e-9 / (np.pi * 0.1), rtol=1e-6)
    worse = FreeSpaceLink(dtype.type(0.1), dtype.type(850), dtype.type(2), 0.5, 0.0, 0.0)
    np.testing.assert_allclose(free_space.beam_radius_m(worse, dtype.type(1e5)), 2 * far, rtol=1e-6)


def test_capture_is_the_integral_over_the_ring(x64):
    w, a, b = 0.7, 0.5, 0.12
    exact, _ = integrate.quad(lambda r: 4 * r / w**2 * np.exp(-2 * r * r / w**2), b, a, epsabs=1e-15)
    np.testing.assert_allclose(free_space.capture(w, a, b), exact, rtol=1e-12)
    assert float(free_space.capture(w, 0.1, 0.2)) == 0
    # far away the ring counts by its area
    np.testing.assert_allclose(free_space.capture(1e4, a, b), 2 * (a * a - b * b) / 1e8, rtol=1e-8)


def test_long_term_beam_is_the_mean_over_pointing(x64):
    """Averaging a Gaussian beam over a Gaussian displacement gives a Gaussian beam: brute force by Gauss-Laguerre."""
    w, a = 0.8, 0.5
    shift = 0.6e-6 * 500e3
    u, weight = np.polynomial.laguerre.laggauss(60)
    displaced = OVERLAP(w, a, shift * np.sqrt(2 * u))
    broad = free_space.long_term_radius_m(w, 0.6, 500.0)
    np.testing.assert_allclose(free_space.capture(broad, a), np.sum(weight * np.asarray(displaced)), rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_displaced_capture_is_the_noncentral_chi_square(ratio, x64):
    """The share of a displaced Gaussian within a circle: P(chi'^2_2 < (2a/w)^2) with non-centrality (2r/w)^2."""
    a = 0.5
    w = a * ratio
    r = np.array([0, 0.3, 1.0, 2.5]) * w
    np.testing.assert_allclose(OVERLAP(w, a, r), _exact_share(a, w, r), rtol=1e-9)


def _exact_share(a, w, r):
    return stats.ncx2.cdf((2 * a / w) ** 2, 2, np.maximum((2 * r / w) ** 2, 1e-300))


def test_wander_meets_the_exact_overlap_as_well_as_it_claims(x64):
    ratio = np.array([0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0])[:, None]  # w/a
    w = 0.5 * ratio
    law = WANDER(w, np.full_like(w, 0.5))
    r = 1.5 * np.maximum(ratio, 1) * np.linspace(0, 1, 300)
    off = np.abs(np.asarray(free_space.wander_transmittance(law, r)) - _exact_share(0.5, w, r)) / np.asarray(law.peak)
    worst = off.max(axis=1)
    assert np.all(worst[-2:] < 0.003) and 0.013 < worst[1:].max() < 0.014 and 0.04 < worst[0] < 0.044
    assert worst[6] == pytest.approx(0.010, abs=5e-4)  # w = a


def test_wander_matches_its_textbook_form(dtype):
    """The published expressions in 60 digits: they cancel twice for wide beams. Both precisions keep all of theirs."""
    ratio = np.array([0.05, 0.3, 1.0, 3.0, 10.0, 100.0, 1e5])  # w/a
    eta0, shape, scale = np.zeros((3, len(ratio)))
    with mpmath.workdps(60):
        for i, k in enumerate(ratio):
            x = 4 / mpmath.mpf(k) ** 2
            peak, share = 1 - mpmath.exp(-x / 2), 1 - mpmath.exp(-x) * mpmath.besseli(0, x)
            log = mpmath.log(2 * peak / share)
            power = 2 * x * mpmath.exp(-x) * mpmath.besseli(1, x) / share / log
            eta0[i], shape[i], scale[i] = peak, power, mpmath.mpf(0.5) * log ** (-1 / power)
    law = WANDER((0.5 * ratio).astype(dtype), np.full(len(ratio), 0.5, dtype))
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(law.peak, eta0, rtol=rtol)
    np.testing.assert_allclose(law.shape, shape, rtol=3 * rtol)
    np.testing.assert_allclose(law.scale_m, scale, rtol=3 * rtol)


def test_wander_of_a_wide_beam_is_the_beam(dtype):
    """w >> a: the transmittance follows the intensity, exp(-2 r^2/w^2)."""
    law = WANDER(dtype.type(500), dtype.type(0.5))
    np.testing.assert_allclose(law.shape, 2, rtol=3e-6)
    np.testing.assert_allclose(law.scale_m, 500 / np.sqrt(2), rtol=3e-6)
    np.testing.assert_allclose(law.peak, 2e-6, rtol=3e-6)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 0.5, 2.0, 50.0])
@pytest.mark.parametrize("w", [0.02, 0.3, 0.6, 3.0, 30.0])
def test_mean_over_wander(w, sigma, x64):
    """Brute force over the Rayleigh law, in the form that the double exponential rule does not use."""
    law = WANDER(w, 0.5)
    peak, shape, scale = (float(v) for v in (law.peak, law.shape, law.scale_m))
    top = min(9 * sigma, scale * 60 ** (1 / shape))

    def density(r):
        return r / sigma**2 * np.exp(-r * r / (2 * sigma**2) - (r / scale) ** shape)

    exact, _ = integrate.quad(density, 0, top, epsabs=0, epsrel=1e-12, limit=400, points=[min(scale, top)])
    np.testing.assert_allclose(MEAN(law, sigma), peak * exact, rtol=1e-9)


def test_sampled_wander_has_the_mean(dtype):
    law = WANDER(dtype.type(0.6), dtype.type(0.5))
    z = np.random.default_rng(0).normal(size=(60_000, 2)).astype(dtype)
    drawn = np.asarray(free_space.wander_from_normals(law, dtype.type(0.3), z), float)
    assert abs(drawn.mean() - float(MEAN(law, dtype.type(0.3)))) < 4.5 * drawn.std() / np.sqrt(len(z))
    assert float(MEAN(law, dtype.type(0))) == pytest.approx(float(law.peak), rel=1e-5)
    still = free_space.wander_from_normals(law, dtype.type(0.3), np.zeros(2, dtype))
    assert float(still) == pytest.approx(float(law.peak))


def test_atmosphere(dtype):
    el = np.radians(np.array([90, 30, 10, 4.9, -20])).astype(dtype)
    got = free_space.atmosphere_transmittance(el, dtype.type(0.7))
    np.testing.assert_allclose(got, [0.7, 0.49, 0.7 ** (1 / np.sin(np.radians(10))), 0, 0], rtol=2e-6)
    assert float(free_space.atmosphere_transmittance(1.0, 0.0)) == 0
    assert float(free_space.atmosphere_transmittance(1.0, 1.0)) == 1


def test_sky_counts_its_photons(dtype):
    """Power = radiance x solid angle x area x width; over the energy of a photon."""
    night = free_space.SKY_RADIANCE_W_PER_M2_SR_UM["full-moon"]
    receiver = SkyReceiver(1e-4, 1.0, 1.0, 1.0, 850.0, 0.25)
    power = night * np.pi * (0.5e-4) ** 2 * np.pi / 4 * 1e-3
    energy = light.PLANCK_J_S * fibre.SPEED_OF_LIGHT_M_PER_S / 850e-9
    counts = free_space.background_counts(dtype.type(night), receiver)
    np.testing.assert_allclose(counts, power * 1e-9 * 0.25 / energy, rtol=2e-6)
    # a day is not a night
    day = free_space.SKY_RADIANCE_W_PER_M2_SR_UM["clear-day"]
    np.testing.assert_allclose(free_space.background_counts(dtype.type(day), receiver) / counts, 1000, rtol=2e-6)


def test_ranges_are_checked():
    with pytest.raises(ValueError, match="aperture_radius_m = -1"):
        FreeSpaceLink(aperture_radius_m=-1.0)


def test_gradients(x64):
    @jax.jit
    def transmittance(z):
        return free_space.long_term_transmittance(FreeSpaceLink(), z)

    for z in (5.0, 80.0, 900.0):
        h = 1e-5 * z
        np.testing.assert_allclose(
            jax.grad(transmittance)(z), (transmittance(z + h) - transmittance(z - h)) / (2 * h), rtol=1e-6, atol=1e-13
        )

    @jax.jit
    def faded(r, w):
        return free_space.wander_transmittance(free_space.wander(w, 0.5), r)

    gradient = jax.jit(jax.grad(faded, (0, 1)))
    for r, w in ((0.0, 0.4), (0.3, 0.4), (2.0, 5.0)):
        slope = gradient(r, w)
        h = 1e-6
        np.testing.assert_allclose(slope[1], (faded(r, w + h) - faded(r, w - h)) / (2 * h), rtol=1e-6)
        if r:
            np.testing.assert_allclose(slope[0], (faded(r + h, w) - faded(r - h, w)) / (2 * h), rtol=1e-6)
        else:
            assert float(slope[0]) == 0


@settings(deadline=None, max_examples=60)
@given(
    st.floats(1e-4, 10), st.floats(1, 100), st.floats(0, 20), st.floats(0, 20), st.floats(0, 1e4), st.floats(0, 40_000),
    st.floats(0, 1e4),
)  # fmt: skip
def test_transmittances_stay_shares(waist, quality, a, b, jitter, z, r):
    with precision("float32"):
        waist, quality, a, b, jitter, z, r = (np.float32(x) for x in (waist, quality, a, b, jitter, z, r))
        link = FreeSpaceLink(waist, np.float32(850), quality, a, b, jitter)
        assert 0 <= float(free_space.long_term_transmittance(link, z)) <= 1
        w = free_space.beam_radius_m(link, z)
        law = WANDER(w, a)
        for value in (free_space.wander_transmittance(law, r), MEAN(law, r), OVERLAP(w, a, np.minimum(r, 4 * w))):
            assert 0 <= float(value) <= 1 + 1e-5

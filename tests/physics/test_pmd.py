"""Polarisation-mode dispersion: the mean against Maxwell's integral, the error against a spectrum of rotations."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import pmd
from tests.physics.conftest import precision

CASES = [(0.04, 1.0, 1.0), (0.1, 50.0, 10.0), (0.5, 100.0, 100.0), (1.0, 500.0, 1000.0)]
MEAN = jax.jit(pmd.mean_qber)


@pytest.mark.parametrize("case", CASES)
def test_mean_over_maxwell(case, dtype):
    """Brute force over the density sqrt(2/pi) t^2/s^3 e^(-t^2/2s^2), whose mean is 2 s sqrt(2/pi)."""
    link = pmd.PmdLink(*(dtype.type(x) for x in case))
    mean = case[0] * np.sqrt(case[1])
    s = mean / (2 * np.sqrt(2 / np.pi))
    x, weight = np.polynomial.legendre.leggauss(400)
    t = 6 * s * (x + 1)
    density = np.sqrt(2 / np.pi) * t * t / s**3 * np.exp(-t * t / (2 * s * s)) * weight * 6 * s
    assert np.sum(density) == pytest.approx(1, rel=1e-12)
    assert np.sum(density * t) == pytest.approx(mean, rel=1e-12)
    width = 2 * np.pi * case[2] * 1e-3 / (2 * np.sqrt(2 * np.log(2)))  # rad/ps
    exact = np.sum(density * -np.expm1(-((width * t) ** 2) / 2) / 3)
    np.testing.assert_allclose(MEAN(link), exact, rtol=1e-12 if dtype == np.float64 else 2e-6)


def test_error_is_that_of_a_spectrum_whose_colours_turn_apart(x64):
    """A state at angle b from the axis: what lies across it turns by w tau at each frequency; mean over launches."""
    dgd, fwhm = 2.0, 120.0
    w, weight = np.polynomial.hermite_e.hermegauss(60)
    phase = 2 * np.pi * fwhm * 1e-3 / (2 * np.sqrt(2 * np.log(2))) * dgd
    across = np.sum(weight * np.cos(w * phase)) / np.sqrt(2 * np.pi)  # mean of the turning component
    cosine, uniform = np.polynomial.legendre.leggauss(20)  # cos b is uniform over the sphere
    overlap = np.sum(uniform / 2 * (cosine**2 + (1 - cosine**2) * across))
    np.testing.assert_allclose(pmd.depolarisation_qber(dgd, fwhm), (1 - overlap) / 2, rtol=1e-12)
    np.testing.assert_allclose(pmd.degree_of_polarisation(dgd, fwhm), overlap, rtol=1e-12)


def test_sampled_delays_follow_maxwell():
    link = pmd.PmdLink(0.1, 50.0, 100.0)
    n = 60_000
    dgd = np.asarray(pmd.dgd_from_normals_ps(link, jax.random.normal(jax.random.key(0), (n, 3))), float)
    mean = 0.1 * np.sqrt(50)
    spread = mean * np.sqrt(3 * np.pi / 8 - 1)
    assert abs(dgd.mean() - mean) < 4.5 * spread / np.sqrt(n)
    q = np.asarray(pmd.depolarisation_qber(dgd.astype(np.float32), 100.0), float)
    assert abs(q.mean() - float(pmd.mean_qber(link))) < 4.5 * q.std() / np.sqrt(n)


def test_limits(dtype):
    """Small: s^2 tau^2/6, larger by 3 pi/8 in the mean. Large: a third, the error of complete depolarisation but for
    launches along the axis. Nothing at 0 km."""
    link = pmd.PmdLink(dtype.type(0.04), dtype.type(1), dtype.type(1e-3))
    np.testing.assert_allclose(pmd.mean_qber(link) / pmd.qber_at_mean_dgd(link), 3 * np.pi / 8, rtol=1e-5)
    wide = pmd.PmdLink(dtype.type(10), dtype.type(2000), dtype.type(1e4))
    assert float(pmd.qber_at_mean_dgd(wide)) == pytest.approx(1 / 3)
    assert float(pmd.mean_qber(wide)) == pytest.approx(1 / 3, rel=1e-3)
    none = pmd.PmdLink(dtype.type(0.1), dtype.type(0), dtype.type(100))
    assert float(pmd.mean_qber(none)) == 0 and float(pmd.mean_dgd_ps(none)) == 0


def test_gradients(x64):
    def f(x):
        return pmd.mean_qber(pmd.PmdLink(0.5, x, 100.0))

    for length in (1.0, 50.0, 400.0):
        np.testing.assert_allclose(jax.grad(f)(length), (f(length + 1e-4) - f(length - 1e-4)) / 2e-4, rtol=1e-7)
    assert np.isfinite(jax.grad(f)(0.0))


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 10), st.floats(0, 2000), st.floats(0, 1e4))
def test_errors_stay_between_none_and_a_third(d, length, fwhm):
    with precision("float32"):
        link = pmd.PmdLink(*(np.float32(x) for x in (d, length, fwhm)))
        for q in (MEAN(link), pmd.qber_at_mean_dgd(link)):
            assert 0 <= float(q) <= 1 / 3 + 1e-7

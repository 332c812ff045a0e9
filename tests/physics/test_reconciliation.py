"""Codes for Gaussian symbols, and what confirming and authenticating a block costs."""

import jax
import numpy as np
import pytest

from qkd_gym.physics import reconciliation


def test_published_gaussian_codes_are_consistent(dtype):
    """Rate over capacity gives the published efficiency to its printed digits."""
    rate, snr, beta = (np.array(x, dtype) for x in zip(*reconciliation.GAUSSIAN_CODES, strict=True))
    np.testing.assert_allclose(reconciliation.gaussian_efficiency(rate, snr), beta, atol=0.006)
    threshold = reconciliation.gaussian_snr_threshold(rate, beta)
    np.testing.assert_allclose(reconciliation.gaussian_efficiency(rate, threshold), beta, rtol=1e-6)
    np.testing.assert_allclose(threshold, snr, rtol=0.02)
    assert all(0.9 < b < 1 for _, b in reconciliation.RATE_ADAPTIVE_GAUSSIAN_CODES)


def test_an_efficiency_of_one_is_the_capacity(dtype):
    snr = np.logspace(-4, 2, 30).astype(dtype)
    capacity = np.log2(1 + snr.astype(np.float64)) / 2
    np.testing.assert_allclose(reconciliation.gaussian_efficiency(capacity.astype(dtype), snr), 1, rtol=1e-5)
    np.testing.assert_allclose(reconciliation.gaussian_snr_threshold(capacity.astype(dtype)), snr, rtol=1e-5)
    assert np.isposinf(float(reconciliation.gaussian_efficiency(dtype.type(0.1), dtype.type(0))))


def test_gaussian_dispersion_by_sampling(x64):
    """Variance of the information density of Gaussian symbols in Gaussian noise, against the model's width."""
    snr, n = 0.5, 400_000
    rng = np.random.default_rng(0)
    x, z = rng.normal(0, np.sqrt(snr), n), rng.normal(0, 1, n)
    y = x + z
    # shell of fixed power: the term in x^2 of an unconstrained Gaussian input does not count
    density = (np.log2(1 + snr) + (y**2 / (1 + snr) - z**2) * np.log2(np.e)) / 2
    density = density - (x**2 - snr) * np.log2(np.e) / (2 * (1 + snr))
    dispersion = snr / 2 * (snr + 2) / (snr + 1) ** 2 * np.log2(np.e) ** 2
    assert density.var() == pytest.approx(dispersion, rel=0.02)
    # one standard deviation of spare capacity, width 1: Phi(-1)
    symbols = 1e4
    spare = np.sqrt(dispersion / symbols) / (np.log2(1 + snr) / 2)
    fer = reconciliation.gaussian_frame_error_rate(0.95 - spare, snr, symbols, 0.95, 1.0)
    assert float(fer) == pytest.approx(0.158655, abs=1e-6)


def test_best_efficiency_lies_inside(x64):
    """Net disclosure (1 - FER)(1 - f h) has its optimum between the threshold and a safe code."""

    @jax.jit
    def net(f):
        fer = reconciliation.frame_error_rate(f, 0.03, 1e4)
        return (1 - fer) * (1 - 2 * f * 0.19439)

    f = np.linspace(1.0, 1.6, 601)
    best = f[int(np.argmax(net(f)))]
    assert 1.06 < best < 1.3


def test_costs_of_confirming(dtype):
    assert float(reconciliation.verification_bits(dtype.type(1e-15))) == pytest.approx(50.83, abs=0.01)
    np.testing.assert_array_equal(reconciliation.authentication_bits(np.array([0, 1, 5], dtype), 100), [0, 200, 1000])

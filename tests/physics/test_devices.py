"""Detectors, fibre, interferometers, reconciliation, the optimum search, and the metadata of every struct."""

import dataclasses
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import qkd_gym.physics
from qkd_gym.physics import detectors, fibre, interference, optimum, reconciliation

# ---- detectors ----------------------------------------------------------------------------------------------------


def test_dead_times_order_and_saturate(dtype):
    rate = np.logspace(2, 9, 30).astype(dtype)
    still, paralysed = detectors.non_paralysable_rate(rate, 1e-6), detectors.paralysable_rate(rate, 1e-6)
    assert np.all(paralysed <= still) and np.all(still <= np.minimum(rate, 1e6)) and np.all(np.diff(still) > 0)
    np.testing.assert_allclose(still[0], rate[0] * (1 - rate[0] * 1e-6), rtol=1e-6)


def test_gated_hold_off_is_the_renewal_rate():
    """A click every 1/p live gates, then k dead ones; and a simulation of it."""
    p, k, gates = 0.05, 30, 400_000
    fired = np.random.default_rng(0).uniform(size=gates) < p
    clicks, dead = 0, 0
    for hit in fired:
        if dead:
            dead -= 1
        elif hit:
            clicks, dead = clicks + 1, k
    expected = float(detectors.gated_click_prob(p, k))
    assert clicks / gates == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("clock", "tau", "gates"), [(1e9, 30e-9, 30), (1e9, 30.4e-9, 30), (2.5e9, 1e-6, 2500), (1e8, 0, 0)]
)
def test_hold_off_counts_whole_gates(clock, tau, gates, dtype):
    assert float(detectors.hold_off_gates(dtype.type(clock), dtype.type(tau))) == gates


def test_afterpulses():
    np.testing.assert_allclose(detectors.afterpulse_first_order(0.01, 0.04), 0.0104, rtol=1e-6)
    geometric = sum(0.01 * 0.04**n for n in range(50))
    np.testing.assert_allclose(detectors.afterpulse_geometric(0.01, 0.04), geometric, rtol=1e-6)
    assert float(detectors.afterpulse_after_dead_time(0.05, 2e-6, 2e-6)) == pytest.approx(0.05 / np.e)


def test_gate_has_an_optimal_width(x64):
    """A narrow gate trades clicks against dark counts: between 1 and 4 widths of the jitter lies the best key."""
    gate = np.linspace(20, 2000, 400)
    inside = detectors.fraction_in_gate(200.0, gate)
    assert np.all(np.diff(inside) >= 0) and float(inside[-1]) == pytest.approx(1, abs=1e-9)
    dark = detectors.dark_prob_from_rate(5e4, gate)
    merit = np.asarray(inside) * 1e-3 - 5 * np.asarray(dark)
    assert 100 < gate[np.argmax(merit)] < 800
    drawn = np.random.default_rng(1).normal(0, 200 / detectors.FWHM_PER_SIGMA, 200_000)
    np.testing.assert_allclose(
        np.mean(np.abs(drawn + 50) < 150), detectors.fraction_in_gate(200.0, 300.0, 50.0), atol=4e-3
    )
    np.testing.assert_array_equal(detectors.fraction_in_gate(0.0, 300.0, np.array([100.0, 150.0, 200.0])), [1, 0.5, 0])


def test_mismatch():
    assert float(detectors.bit_bias(1.0)) == 0.5
    assert float(detectors.mismatch_key_factor(0.2, 0.1)) == pytest.approx(2 / 3)
    assert float(detectors.mismatch_key_factor(0.0, 0.0)) == 0


# ---- fibre --------------------------------------------------------------------------------------------------------


def test_fibre(dtype):
    loss = np.array([0, 3, 10, 80], dtype)
    np.testing.assert_allclose(fibre.transmittance_from_db(loss), 10 ** (-loss / 10), rtol=60 * np.finfo(dtype).eps)
    np.testing.assert_allclose(fibre.loss_db_from_transmittance(fibre.transmittance_from_db(loss)), loss, atol=1e-5)
    link = fibre.Fibre(length_km=50.0, loss_db_per_km=0.2, insertion_loss_db=3.0)
    assert float(link.loss_db) == pytest.approx(13)
    assert float(fibre.group_delay_s(1.0)) == pytest.approx(4.9e-6, rel=2e-3)
    assert float(fibre.thermal_phase_rad(1.0, 1.0)) == pytest.approx(4.5e4, rel=1e-3)
    with pytest.raises(ValueError, match="length_km = -1"):
        fibre.Fibre(length_km=-1.0)


# ---- interferometers ----------------------------------------------------------------------------------------------


def test_errors_combine_like_independent_flips(dtype):
    errors = [dtype.type(e) for e in (0.01, 0.2, 0.03)]
    expected = (1 - (1 - 0.02) * (1 - 0.4) * (1 - 0.06)) / 2
    np.testing.assert_allclose(interference.combine_errors(*errors), expected, rtol=1e-6)


def test_visibility_limits():
    assert float(interference.visibility_qber(interference.visibility_with_offset(1.0, np.pi))) == pytest.approx(1)
    assert float(interference.visibility_qber(interference.visibility_with_noise(1.0, 0.2))) == pytest.approx(
        (1 - np.exp(-0.1)) / 2
    )
    assert float(interference.jones_angle_qber(0.1)) == pytest.approx(np.sin(0.1) ** 2)


def test_modulator_keeps_its_dark_state(dtype):
    for er in (15.0, 30.0, 60.0):
        dark = interference.modulator_transmittance(dtype.type(np.pi), dtype.type(er))
        np.testing.assert_allclose(dark, 10 ** (-er / 10), rtol=1e-6 if dtype == np.float64 else 2e-1)
    assert float(interference.leakage_ratio(26.0)) == pytest.approx(0.0025, rel=0.01)


def test_coin_phase_error_is_monotone_and_bounded(dtype):
    d = np.linspace(0, 0.6, 100).astype(dtype)
    e = np.asarray(interference.coin_phase_error(dtype.type(0.02), d))
    assert float(e[0]) == pytest.approx(0.02) and np.all(np.diff(e) >= -1e-6) and np.all(e <= 0.5) and e[-1] == 0.5
    lossy = interference.flawed_state_phase_error(0.02, 0.999999, 1e-4)
    clean = interference.flawed_state_phase_error(0.02, 0.999999, 1e-4, loss_tolerant=True)
    assert 0.07 < float(lossy) < 0.09 and float(clean) == pytest.approx(0.02)
    assert np.isfinite(jax.grad(lambda e: interference.coin_phase_error(e, 0.0))(0.0))


# ---- reconciliation -----------------------------------------------------------------------------------------------


def test_decodable_error_rates(x64):
    """The error limits of code rates, h^-1(1 - R)."""
    rates = np.array([0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9])
    limits = [0.1100, 0.0794, 0.0532, 0.0417, 0.0311, 0.0215, 0.0130]
    np.testing.assert_allclose(reconciliation.decodable_qber(rates), limits, atol=5e-5)
    np.testing.assert_allclose(
        reconciliation.efficiency_of_rate(rates, reconciliation.decodable_qber(rates, 1.1)), 1.1, rtol=1e-9
    )


def test_finite_length_limit_falls_to_shannon(dtype):
    n = np.logspace(3, 9, 20).astype(dtype)
    f = np.asarray(reconciliation.finite_length_efficiency(n, 0.03, 0.01))
    assert np.all(np.diff(f) < 0) and f[-1] == pytest.approx(1, abs=4e-4) and np.all(f > 1)


def test_frame_error_rate_is_a_waterfall(dtype):
    f = np.linspace(1.0, 1.4, 50).astype(dtype)
    rate = np.asarray(reconciliation.frame_error_rate(f, 0.03, 1e4))
    assert np.all(np.diff(rate) <= 0) and rate[0] > 0.7 and rate[-1] < 1e-2
    assert float(reconciliation.frame_error_rate(1.05, 0.03, 1e4)) == pytest.approx(0.5)
    assert float(reconciliation.frame_error_rate(1.2, 0.0, 1e4)) == 1  # nothing to spare where nothing is to correct
    gaussian = reconciliation.gaussian_frame_error_rate(np.array([0.9, 0.95, 0.99], dtype), 0.1, 1e6, 0.95)
    assert float(gaussian[0]) < 0.5 and float(gaussian[1]) == pytest.approx(0.5) and float(gaussian[2]) > 0.5


def test_leak_and_verification():
    assert float(reconciliation.leak_bits(1e4, 0.11, 1.16)) == pytest.approx(1.16e4 * 0.499916, rel=1e-5)
    assert float(reconciliation.verification_bits(1e-15)) == pytest.approx(50.83, abs=0.01)
    assert float(reconciliation.cascade_efficiency(0.03)) == pytest.approx(1.16)
    sd = np.sqrt(float(reconciliation.dispersion(0.05)))
    flips = np.array([np.log2(0.05), np.log2(0.95)])
    assert sd == pytest.approx(
        np.sqrt(np.average(flips**2, weights=[0.05, 0.95]) - np.average(flips, weights=[0.05, 0.95]) ** 2)
    )
    assert stats.norm.sf(0) == 0.5


# ---- search -------------------------------------------------------------------------------------------------------


def test_maximise_finds_batched_optima(dtype):
    centre = np.array([0.003, 0.2, 1.7], dtype)
    best, value = jax.jit(lambda c: optimum.maximise(lambda x: -jnp.square(jnp.log(x / c)), 1e-4, 3.0))(centre)
    np.testing.assert_allclose(best, centre, rtol=1e-3 if dtype == np.float32 else 1e-7)
    assert np.all(np.abs(value) < 1e-6)
    with pytest.raises(ValueError, match="0 < low < high"):
        optimum.maximise(jnp.log, 0.0, 1.0)


# ---- metadata -----------------------------------------------------------------------------------------------------


def structs():
    for module in pkgutil.walk_packages(qkd_gym.physics.__path__, "qkd_gym.physics."):
        loaded = importlib.import_module(module.name)
        for value in vars(loaded).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == loaded.__name__:
                if any("unit" in f.metadata for f in dataclasses.fields(value)):
                    yield value


@pytest.mark.parametrize("cls", list(structs()), ids=lambda c: c.__name__)
def test_every_quantity_says_what_it_is(cls):
    assert cls.__doc__
    for f in dataclasses.fields(cls):
        assert f.metadata["doc"], f"{cls.__name__}.{f.name} has no meaning"
        assert f.metadata["low"] <= f.metadata["high"]
        if isinstance(f.default, (int, float)):
            assert f.metadata["low"] <= f.default <= f.metadata["high"]

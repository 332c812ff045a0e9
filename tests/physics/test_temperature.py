"""Temperature: the day repeats, the weather has its law, delay and phase are one change."""

import jax
import numpy as np
import pytest

from qkd_gym.physics import fibre, temperature
from qkd_gym.physics.drift import DAY_S
from qkd_gym.physics.temperature import CLIMATES, ThermalFibre, climate


def test_climates():
    assert 0.1 <= climate("buried").diurnal_amplitude_k <= 0.5
    assert 5 <= climate("aerial").diurnal_amplitude_k <= 15
    with pytest.raises(ValueError, match="buried"):
        climate("orbital")
    with pytest.raises(ValueError, match=r"mean_k = 20.* K is outside"):
        temperature.Climate(mean_k=20.0)
    with pytest.raises(TypeError):
        CLIMATES["mine"] = CLIMATES["buried"]


def test_the_day_repeats_and_peaks_when_it_should(x64):
    t = np.linspace(0, DAY_S, 1441)
    curve = np.asarray(temperature.temperature_k(climate("aerial"), t))
    assert t[np.argmax(curve)] == 54_000 and curve.max() == pytest.approx(293) and curve.min() == pytest.approx(277)
    np.testing.assert_allclose(temperature.temperature_k(climate("aerial"), t + DAY_S), curve, atol=1e-10)
    # its rate is the derivative
    rate = jax.vmap(jax.grad(lambda s: temperature.temperature_k(climate("aerial"), s)))(t[::60])
    np.testing.assert_allclose(temperature.diurnal_rate_k_per_s(climate("aerial"), t[::60]), rate, atol=1e-15)


def test_changes_keep_their_digits_in_float32():
    """A millikelvin moves 50 km by 1.85 ps; read off a sum with 285 K it would come in steps of 56 ps."""
    buried, t = climate("buried"), np.float32(54_000)
    small = np.float32(1e-3)
    difference = temperature.change_k(buried, t, small) - temperature.change_k(buried, t, np.float32(0))
    assert float(difference) == pytest.approx(1e-3, rel=1e-3)


def test_weather_is_stationary():
    n = 40_000
    air = climate("aerial")
    z = jax.random.normal(jax.random.key(0), (2, n))
    later = temperature.weather_step(air, air.weather_std_k * z[0], z[1], 3600.0)
    assert float(np.var(later)) == pytest.approx(4.0, rel=4.5 * np.sqrt(2 / n))
    correlation = float(np.mean(np.asarray(later) * np.asarray(z[0]))) / 2
    assert correlation == pytest.approx(np.exp(-0.5), abs=0.02)


def test_delay_and_phase_are_one_change(dtype):
    spool = ThermalFibre(dtype.type(25), dtype.type(37), dtype.type(1550), dtype.type(0))
    delay, phase = temperature.delay_change_ps(spool, dtype.type(0.4)), temperature.phase_change_rad(spool, 0.4)
    assert float(delay) == pytest.approx(370)
    optical = fibre.SPEED_OF_LIGHT_M_PER_S / 1550e-9
    assert float(phase) == pytest.approx(2 * np.pi * optical * 370e-12, rel=1e-5)
    assert float(temperature.phase_change_rad(ThermalFibre(1.0), 1.0)) == pytest.approx(4.5e4, rel=0.01)
    # a reference in the same fibre sees nine tenths of it
    shared = ThermalFibre(dtype.type(25), dtype.type(37), dtype.type(1550), dtype.type(0.9))
    assert float(temperature.delay_change_ps(shared, 0.4)) == pytest.approx(37, rel=1e-5)


def test_a_steady_rise_is_a_doppler_shift(x64):
    spool = ThermalFibre(100.0)
    rate = 1e-3  # K/s
    per_ms = temperature.phase_rate_rad_per_ms(spool, rate)
    np.testing.assert_allclose(per_ms * 1e3, temperature.phase_change_rad(spool, rate), rtol=1e-12)
    np.testing.assert_allclose(temperature.doppler_hz(spool, rate), -per_ms * 1e3 / (2 * np.pi), rtol=1e-12)
    assert np.isfinite(jax.grad(lambda k: temperature.phase_change_rad(spool, k))(0.0))

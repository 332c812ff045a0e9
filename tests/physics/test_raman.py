"""Raman noise: effective lengths against the integral along the fibre, limits, units, the coefficient's anchors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import fibre, light, raman
from tests.physics.conftest import precision

X, WEIGHT = np.polynomial.legendre.leggauss(80)
NOISE = jax.jit(raman.noise_power_mw)


def channels(counter=0.0, loss=0.2, power=1.0):
    return raman.ClassicalChannels(power, 2e-9, loss, counter)


@pytest.mark.parametrize("length", [0.1, 10.0, 100.0, 300.0])
@pytest.mark.parametrize(("ac", "aq"), [(0.2, 0.2), (0.21, 0.19), (0.19, 0.21), (0.35, 0.2), (0.2, 0.2000001)])
def test_effective_lengths_are_the_integral_along_the_fibre(length, ac, aq, dtype):
    """Light scattered at z has travelled z in the classical channel and still has L - z, or z, to go."""
    z = length * (X + 1) / 2
    dz = WEIGHT * length / 2
    pump = 10 ** (-ac * z / 10)
    along = np.sum(dz * pump * 10 ** (-aq * (length - z) / 10))
    against = np.sum(dz * pump * 10 ** (-aq * z / 10))
    arguments = [dtype.type(v) for v in (length, ac, aq)]
    # float32: an exponent of up to 14 nepers, rounded to 2^-24 of itself
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(raman.co_propagating_length_km(*arguments), along, rtol=rtol)
    np.testing.assert_allclose(raman.counter_propagating_length_km(*arguments), against, rtol=rtol)


def test_limits(dtype):
    """Short fibre: L for both. Co-propagating light peaks at 1/a and dies; counter-propagating light saturates."""
    for function in (raman.co_propagating_length_km, raman.counter_propagating_length_km):
        np.testing.assert_allclose(function(dtype.type(1e-6), 0.2, 0.2), 1e-6, rtol=1e-6)
        assert float(function(dtype.type(0), 0.2, 0.2)) == 0
        assert float(function(dtype.type(50), 0.0, 0.0)) == 50  # no loss: every km counts
    length = np.linspace(1, 200, 400).astype(dtype)
    along = np.asarray(raman.co_propagating_length_km(length, 0.2, 0.2))
    against = np.asarray(raman.counter_propagating_length_km(length, 0.2, 0.2))
    assert length[np.argmax(along)] == pytest.approx(10 / (0.2 * np.log(10)), abs=0.6)
    assert np.all(np.diff(against) >= -2e-7 * against[1:]) and np.all(against >= along * (1 - 1e-6))
    assert against[-1] == pytest.approx(1 / (2 * 0.2 * np.log(10) / 10), rel=1e-3)


def test_gradient_through_equal_attenuations(x64):
    """The formula has a removable 0/0 there; its derivative is -L^2/2 e^(-aL) in each attenuation."""
    slope = jax.grad(lambda a: raman.co_propagating_length_km(40.0, a, 0.2))
    per_db = np.log(10) / 10
    np.testing.assert_allclose(slope(0.2), -(40.0**2) / 2 * np.exp(-0.2 * per_db * 40) * per_db, rtol=1e-12)
    for a in (0.19, 0.1999, 0.2001, 0.21, 0.3):
        h = 1e-6
        difference = (
            raman.co_propagating_length_km(40.0, a + h, 0.2) - raman.co_propagating_length_km(40.0, a - h, 0.2)
        ) / (2 * h)
        np.testing.assert_allclose(slope(a), difference, rtol=1e-7)


def test_channels_add_and_received_power_is_launch_power_behind_the_fibre(dtype):
    """Four channels down and one up, -34 dBm each at their receiver, as in Lim 2014, figure 2."""
    length, receiver = dtype.type(50), raman.NoiseReceiver()
    received = light.mw_from_dbm(dtype.type(-34))
    launched = raman.launch_power_mw(received, length, 0.2)
    np.testing.assert_allclose(launched * fibre.transmittance_from_db(10.0), received, rtol=1e-6)
    five = raman.ClassicalChannels(
        launched * np.ones(5, dtype), np.full(5, 2e-9, dtype), np.full(5, 0.2, dtype), np.array([0, 0, 0, 0, 1], dtype)
    )
    receiver_five = jax.tree.map(lambda x: np.full(5, x, dtype), receiver)
    each = NOISE(five, receiver_five, np.full(5, length))
    down, up = (raman.noise_power_mw(channels(c, power=launched), receiver, length) for c in (0.0, 1.0))
    np.testing.assert_allclose(jnp.sum(each), 4 * down + up, rtol=1e-6)
    # direct: received power x rho x filter x length, for light that runs along
    np.testing.assert_allclose(down, 10**-3.4 * 2e-9 * 0.1 * 50, rtol=1e-5)


def test_counts_follow_from_the_energy_of_a_photon(dtype):
    receiver = raman.NoiseReceiver(1550.0, 0.2, 0.1, 1.0, 0.1)
    energy = light.PLANCK_J_S * fibre.SPEED_OF_LIGHT_M_PER_S / 1550e-9
    counts = raman.counts_per_gate(dtype.type(1e-9), receiver)
    np.testing.assert_allclose(counts, 1e-12 * 1e-9 * 0.1 / energy, rtol=2e-6)
    per_detector = raman.noise_prob_per_detector(dtype.type(1e-9), receiver)
    np.testing.assert_allclose(per_detector, -np.expm1(-np.asarray(counts, float) / 2), rtol=2e-6)
    assert float(raman.leaked_power_mw(dtype.type(1e-3), 80.0)) == pytest.approx(1e-11, rel=1e-5)


def test_coefficient_meets_its_anchors(dtype):
    near = raman.raman_coefficient_per_km_nm(dtype.type(1560), dtype.type(1550))
    far = raman.raman_coefficient_per_km_nm(dtype.type(1645), dtype.type(1550))
    o_band = raman.raman_coefficient_per_km_nm(dtype.type(1310), dtype.type(1550))
    assert float(near) == pytest.approx(2e-9, rel=0.01)
    assert 4e-9 < float(far) < 5e-9
    assert 4e-12 < float(o_band) < 6e-12
    # detailed balance: the same shift the other way costs e^(-h nu / k T)
    shift = 10.0
    blue = fibre.SPEED_OF_LIGHT_M_PER_S * 1e-3 / (light.frequency_thz(1550.0) + shift)
    red = fibre.SPEED_OF_LIGHT_M_PER_S * 1e-3 / (light.frequency_thz(1550.0) - shift)
    ratio = float(raman.raman_coefficient_per_km_nm(blue, 1550.0) / raman.raman_coefficient_per_km_nm(red, 1550.0))
    assert ratio == pytest.approx(np.exp(-light.PLANCK_J_S * shift * 1e12 / (light.BOLTZMANN_J_PER_K * 293)), rel=1e-3)
    cold = raman.raman_coefficient_per_km_nm(1310.0, 1550.0, 253.0)
    assert float(cold) < float(o_band)


@settings(deadline=None, max_examples=80)
@given(
    st.floats(0, 2000), st.floats(0, 5), st.floats(0, 5), st.floats(0, 1e4), st.sampled_from([0.0, 1.0]),
    st.floats(0, 200), st.floats(0, 1e6),
)  # fmt: skip
def test_nothing_is_nan(length, ac, aq, power, counter, width, gate):
    with precision("float32"):
        f = np.float32
        source = raman.ClassicalChannels(f(power), f(2e-9), f(ac), f(counter))
        receiver = raman.NoiseReceiver(f(1550), f(aq), f(width), f(gate), f(0.1))
        noise = NOISE(source, receiver, f(length))
        assert 0 <= float(noise) <= power * 2e-9 * width * length * (1 + 1e-5)
        assert 0 <= float(raman.noise_prob_per_detector(noise, receiver)) <= 1

"""Detectors beyond saturation: bias, blanked pairs, afterpulses in time, gates that drift apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from qkd_gym.physics import detectors
from qkd_gym.physics.detectors import Detector, Traps
from tests.physics.conftest import precision


def test_bias_trades_efficiency_against_noise(dtype):
    apd = Detector(0.1, 1e-6, 0.01, 1e4, 200.0, 1000.0)
    raised = detectors.at_excess_bias(apd, dtype.type(0.2))
    np.testing.assert_allclose(raised.dark_count_prob_per_gate, 4e-6, rtol=1e-5)
    np.testing.assert_allclose(raised.afterpulse_prob, 0.02, rtol=1e-5)
    assert raised.dead_time_ns == apd.dead_time_ns
    same = detectors.at_excess_bias(apd, dtype.type(0.1))
    np.testing.assert_allclose(same.dark_count_prob_per_gate, 1e-6, rtol=1e-6)
    assert float(detectors.at_excess_bias(apd, 1.0, 0.01, 0.01).dark_count_prob_per_gate) == 0.5


@pytest.mark.parametrize("blank_both", [True, False])
def test_pairs_against_a_gate_by_gate_simulation(blank_both):
    p, k, gates = (0.06, 0.03), 12, 150_000
    fired = np.random.default_rng(3).uniform(size=(gates, 2)) < p
    clicks, dead = np.zeros(2), [0, 0]
    for row in fired.tolist():
        ready = [d == 0 for d in dead]
        dead = [max(d - 1, 0) for d in dead]
        hits = [i for i in (0, 1) if row[i] and ready[i]]
        for i in hits:
            clicks[i] += 1
        for i in (0, 1) if hits and blank_both else hits:
            dead[i] = k
    expected = np.array(detectors.gated_pair_click_probs(*p, k, blank_both), float)
    # five standard deviations of a Poisson count, an upper bound with a dead time
    assert np.all(np.abs(clicks - gates * expected) < 5 * np.sqrt(gates * expected))


def test_a_blanked_pair_of_one_is_a_single_detector(dtype):
    p = np.logspace(-6, -0.5, 9).astype(dtype)
    one, other = detectors.gated_pair_click_probs(p, np.zeros_like(p), dtype.type(30))
    np.testing.assert_allclose(one, detectors.gated_click_prob(p, 30), rtol=1e-6)
    assert np.all(np.asarray(other) == 0)


TRAPS = Traps(np.array([0.7, 0.3]), np.array([1e-6, 5e-6]))


def test_afterpulse_density_integrates_to_its_window(x64):
    x, weight = np.polynomial.legendre.leggauss(60)
    for start, width in ((0.0, 1e-6), (5e-6, 2e-6), (2e-5, 1e-5)):
        t = start + width * (x + 1) / 2
        integral = np.sum(weight * np.asarray(detectors.afterpulse_density_per_s(0.05, TRAPS, t))) * width / 2
        np.testing.assert_allclose(detectors.afterpulse_in_window(0.05, TRAPS, start, width), integral, rtol=1e-12)
    np.testing.assert_allclose(detectors.afterpulse_in_window(0.05, TRAPS, 0.0, np.inf), 0.05, rtol=1e-14)


def test_one_trap_family_is_the_exponential_rule(dtype):
    one = Traps(np.ones(1, dtype), np.array([2e-6], dtype))
    dead = np.array([0, 1e-6, 1e-5, 1e-4], dtype)
    left = detectors.afterpulse_in_window(dtype.type(0.05), one, dead, dtype.type(np.inf))
    np.testing.assert_allclose(left, detectors.afterpulse_after_dead_time(0.05, dead, 2e-6), rtol=2e-5)


def test_traps_conserve_carriers_and_reach_balance(dtype):
    step = dtype.type(1e-6)
    filled, out = jnp.zeros(2, dtype), []
    advance = jax.jit(lambda f: detectors.trap_step(f, dtype.type(100), dtype.type(0.05), TRAPS, step))
    for _ in range(80):
        filled, released = advance(filled)
        out.append(float(released))
    assert np.all(np.diff(out) >= -1e-5) and out[-1] == pytest.approx(5.0, rel=1e-5)  # in balance all is given back
    assert sum(out) + float(jnp.sum(filled)) == pytest.approx(80 * 5, rel=1e-5)
    # balance: arrivals x lifetime
    np.testing.assert_allclose(filled, [5 * 0.7 * 1, 5 * 0.3 * 5], rtol=0.2)


def test_two_trap_steps_are_one_long_one(x64):
    filled = jnp.array([3.0, 1.0])
    rate = 1e7  # clicks per second, even
    once, released = detectors.trap_step(filled, rate * 2e-6, 0.05, TRAPS, 2e-6)
    half, first = detectors.trap_step(filled, rate * 1e-6, 0.05, TRAPS, 1e-6)
    half, second = detectors.trap_step(half, rate * 1e-6, 0.05, TRAPS, 1e-6)
    np.testing.assert_allclose(half, once, rtol=1e-13)
    np.testing.assert_allclose(first + second, released, rtol=1e-13)


def test_trap_steps_far_shorter_than_a_lifetime_keep_their_digits(dtype):
    for ratio in (1e-8, 1e-4, 0.0999, 0.1001, 1.0, 50.0):
        traps = Traps(np.ones(1, dtype), np.ones(1, dtype))
        _, released = detectors.trap_step(np.zeros(1, dtype), dtype.type(1), dtype.type(0.5), traps, dtype.type(ratio))
        series = ratio / 2 - ratio**2 / 6 if ratio < 1e-3 else 1 - (1 - np.exp(-ratio)) / ratio
        np.testing.assert_allclose(released, 0.5 * series, rtol=5e-6 if dtype == np.float32 else 1e-8)


def test_shares_in_and_outside_the_gate(dtype):
    offset = np.array([0, 50, 150, 400], dtype)
    inside = detectors.fraction_in_gate(dtype.type(200), dtype.type(400), offset)
    outside = detectors.fraction_outside_gate(dtype.type(200), dtype.type(400), offset)
    np.testing.assert_allclose(inside + outside, 1, rtol=1e-6)
    # five sigma within the gate: a loss that 1 - inside cannot hold in float32
    lost = detectors.fraction_outside_gate(dtype.type(50), dtype.type(10 * 50 / detectors.FWHM_PER_SIGMA))
    np.testing.assert_allclose(lost, special.erfc(5 / np.sqrt(2)), rtol=5e-6)
    sharp = detectors.fraction_outside_gate(dtype.type(0), dtype.type(300), np.array([100, 200], dtype))
    np.testing.assert_array_equal(sharp, [0, 1])


def test_a_detector_behind_its_gate():
    nominal = Detector(0.2, 1e-6, 0.0, 0.0, 200.0, 400.0)
    centred, late = detectors.in_gate(nominal), detectors.in_gate(nominal, 150.0)
    assert float(centred.efficiency) == pytest.approx(0.2 * 0.9814683222473)
    assert float(late.efficiency) == pytest.approx(0.2 * 0.7219515452812)
    assert late.dark_count_prob_per_gate == nominal.dark_count_prob_per_gate


def test_skewed_gates_give_efficiency_mismatch(dtype):
    """Equal in the middle, reciprocal in the wings; bias and key factor follow."""
    offset = np.linspace(-300, 300, 25).astype(dtype)
    ratio = np.asarray(detectors.timing_mismatch(dtype.type(100), dtype.type(500), offset, dtype.type(60)))
    assert ratio[12] == pytest.approx(1)
    assert np.all(np.diff(ratio) >= -1e-6)  # late light favours the later gate
    np.testing.assert_allclose(ratio * ratio[::-1], 1, rtol=1e-4)
    assert np.all((np.asarray(detectors.bit_bias(ratio)) - 0.5) * (ratio - 1) <= 0)
    edge = detectors.timing_mismatch(0.0, 400.0, np.array([-225.0, 225.0, 900.0]), 100.0)
    np.testing.assert_array_equal(edge, [0, np.inf, 1])


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(1, 1e5),
    st.floats(-1e5, 1e5), st.floats(1e-9, 1e-2),
)  # fmt: skip
def test_nothing_is_nan(eta, dark, after, hold_off, jitter, gate, offset, time):
    with precision("float32"):
        outputs = [
            detectors.gated_pair_click_probs(eta, dark, hold_off),
            detectors.fraction_in_gate(jitter, gate, offset),
            detectors.fraction_outside_gate(jitter, gate, offset),
            detectors.afterpulse_density_per_s(after, TRAPS, time),
            detectors.afterpulse_in_window(after, TRAPS, time, time),
            detectors.trap_step(jnp.ones(2), 1e6 * eta, after, TRAPS, time),
        ]
        for value in jax.tree.leaves(outputs):
            assert np.all(np.isfinite(value)) and np.all(np.asarray(value) >= 0)
        assert not np.isnan(detectors.timing_mismatch(jitter, gate, offset, 10.0))

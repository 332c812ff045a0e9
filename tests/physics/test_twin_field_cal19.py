"""CAL19: fields at two detectors, photon numbers, exact phase errors, crossings, precision, derivatives."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import information
from qkd_gym.physics import twin_field_cal19 as cal19
from qkd_gym.physics.two_sender import arm_transmittance_from_db
from tests.physics import fuzz
from tests.physics.conftest import precision

OBSERVE = jax.jit(cal19.observe)
RATE = jax.jit(cal19.key_rate, static_argnames=("known_photons", "max_photons"))
PHASE_ERROR = jax.jit(cal19.phase_error, static_argnames=("known_photons", "max_photons"))
YIELDS = jax.jit(cal19.fock_yields, static_argnames="max_photons")


def link_at(loss_db, **changes):
    shape = np.broadcast_shapes(np.shape(loss_db), *(np.shape(v) for v in changes.values()))
    values = {"arm_transmittance": np.asarray(arm_transmittance_from_db(loss_db))} | changes
    values = {
        "dark_count_prob_per_gate": 1e-7, "phase_mismatch_rad": 0.0, "polarization_mismatch_rad": 0.0,
        "error_correction_efficiency": 1.16,
    } | values  # fmt: skip
    return cal19.Cal19Link(**{k: np.broadcast_to(v, shape) for k, v in values.items()})


def only_one(field_a, field_b, theta, t, dark):
    """Probability that one given detector alone clicks, from the fields: two ports, two polarisations."""
    along_a, along_b, across_b = (np.sqrt(t) * x for x in (field_a, field_b * np.cos(theta), field_b * np.sin(theta)))
    here = (np.abs(along_a + along_b) ** 2 + np.abs(across_b) ** 2) / 2
    there = (np.abs(along_a - along_b) ** 2 + np.abs(across_b) ** 2) / 2
    return (1 - (1 - dark) * np.exp(-here)) * (1 - dark) * np.exp(-there)


def test_worked_point(x64):
    link, pulses = link_at(50.0), cal19.Cal19Settings(0.02)
    gains = cal19.observe(pulses, link)
    got = [gains.gain, gains.qber, PHASE_ERROR(pulses, link), RATE(pulses, link)]
    np.testing.assert_allclose(np.array(got, float), [6.33415e-5, 7.89272e-4, 0.0767943, 7.58149e-5], rtol=6e-6)


@pytest.mark.parametrize("case", [(0.02, 1e-3, 0.06, 0.14, 1e-7), (0.5, 0.9, 1.0, 0.7, 0.01), (1.0, 1.0, 3.0, 2.0, 0)])
def test_gains_are_those_of_the_fields(case, x64):
    """One detector, averaged over the four pairs of signs; equal signs are right at this port."""
    intensity, t, phi, theta, dark = case
    alpha = np.sqrt(intensity)
    same = only_one(alpha, alpha * np.exp(1j * phi), theta, t, dark)
    different = only_one(alpha, -alpha * np.exp(1j * phi), theta, t, dark)
    gains = cal19.observe(cal19.Cal19Settings(intensity), cal19.Cal19Link(t, dark, phi, theta))
    np.testing.assert_allclose(gains.gain, (same + different) / 2, rtol=1e-9)
    np.testing.assert_allclose(gains.error_gain, different / 2, rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize("case", [(0.3, 1e-3, 0.4), (1.0, 0.02, 0.0), (0.8, 0.0, 1.2)])
def test_yields_sum_to_the_phase_averaged_clicks(case, x64):
    """sum over n, m of Poisson(n; a) Poisson(m; b) Y_nm is the click probability of two pulses of random phase."""
    t, dark, theta = case
    a, b = 0.9, 0.5
    phi = np.arange(64) * 2 * np.pi / 64
    brute = np.mean(only_one(np.sqrt(a), np.sqrt(b) * np.exp(1j * phi), theta, t, dark))
    yields = np.asarray(YIELDS(t, dark, np.cos(theta)))
    assert np.all((yields >= 0) & (yields <= 1))
    poisson = [np.array([math.exp(-x) * x**n / math.factorial(n) for n in range(21)]) for x in (a, b)]
    np.testing.assert_allclose(poisson[0] @ yields @ poisson[1], brute, rtol=1e-12)


def test_two_photons_leave_together(x64):
    """Hong, Ou, Mandel: one photon each way, all alike, never gives two detectors a click."""
    np.testing.assert_allclose(cal19.fock_yields(1.0, 0.0, 1.0, 1), [[0, 0.5], [0.5, 0.5]], atol=1e-15)
    np.testing.assert_allclose(cal19.fock_yields(1.0, 0.0, 0.0, 1)[1, 1], 0.25, rtol=1e-15)
    np.testing.assert_allclose(cal19.fock_yields(0.4, 0.1, 1.0, 0), [[0.1 * 0.9]], rtol=1e-15)


def clicks_by_parity(intensity, t, dark):
    """Probability that one given detector alone clicks, per parities of the two senders' light, perfectly aligned.

    The even and odd parts of |alpha> are sums of coherent states, between which the click operator, a difference of
    normally ordered exponentials, has closed matrix elements. A phase error is a click with equal parities.
    """
    signs = [(p, q) for p in (1, -1) for q in (1, -1)]

    def click(bra, ket):
        overlap = np.exp(-2 * intensity + intensity * (bra[0] * ket[0] + bra[1] * ket[1]))
        here = t / 2 * intensity * (bra[0] + bra[1]) * (ket[0] + ket[1])
        there = t / 2 * intensity * (bra[0] - bra[1]) * (ket[0] - ket[1])
        return overlap * ((1 - dark) * np.exp(-there) - (1 - dark) ** 2 * np.exp(-there - here))

    def of(first, second):
        weight = {s: (first if s[0] < 0 else 1) * (second if s[1] < 0 else 1) / 4 for s in signs}
        return sum(weight[b] * weight[k] * click(b, k) for b in signs for k in signs)

    return {parities: of(*parities) for parities in signs}


@pytest.mark.parametrize("dark", [0.0, 1e-6, 1e-3])
def test_the_bound_holds_for_the_exact_state(dark, x64):
    for intensity in (0.01, 0.05, 0.3, 1.0):
        for t in (1e-3, 0.1, 1.0):
            link, pulses = (
                link_at(0.0, arm_transmittance=t, dark_count_prob_per_gate=dark),
                cal19.Cal19Settings(intensity),
            )
            gain = float(OBSERVE(pulses, link).gain)
            parts = clicks_by_parity(intensity, t, dark)
            np.testing.assert_allclose(sum(parts.values()), gain, rtol=1e-9)
            truth, bound = parts[1, 1] + parts[-1, -1], float(PHASE_ERROR(pulses, link)) * gain
            assert truth <= bound * (1 + 1e-9)
            if intensity <= 0.05 and dark < 1e-4:
                assert bound < 3 * truth


def test_without_light_the_phase_is_random(x64):
    """All yields are then Y_00 = pd (1 - pd); the bound is that of the amplitudes alone, (sum of c_n)^4 by parity."""
    pulses, link = cal19.Cal19Settings(0.01), link_at(0.0, arm_transmittance=0.0, dark_count_prob_per_gate=1e-4)
    np.testing.assert_allclose(YIELDS(0.0, 1e-4, 1.0), np.full((21, 21), 1e-4 * (1 - 1e-4)), rtol=1e-12)
    c = np.array([math.exp(-5e-3) * 0.1**n / math.sqrt(math.factorial(n)) for n in range(21)])
    np.testing.assert_allclose(PHASE_ERROR(pulses, link), sum(np.sum(c[p::2]) ** 4 for p in (0, 1)), rtol=1e-9)
    assert RATE(pulses, link) < 0


def test_the_vacuum_limits_the_reach(x64):
    """sqrt(Y_00) mixes with sqrt(Y_02), ...: in sqrt(pd), the phase error grows with a finite slope."""
    dark = np.array([1e-12, 4e-12])
    link = link_at(60.0, dark_count_prob_per_gate=dark)
    none = float(PHASE_ERROR(cal19.Cal19Settings(0.02), link_at(60.0, dark_count_prob_per_gate=0.0)))
    growth = np.asarray(PHASE_ERROR(cal19.Cal19Settings(0.02), link)) - none
    assert growth[0] > 0 and growth[1] / growth[0] == pytest.approx(2, rel=0.01)


def test_crosses_plob_where_it_should(x64):
    """With 2 % mismatch of phase and polarisation the optimised rate passes PLOB between 32 and 34.5 dB."""
    loss = np.array([31.0, 34.5, 31.0, 34.5])
    aligned = np.array([0.0, 0.0, 1.0, 1.0])
    link = link_at(
        loss,
        dark_count_prob_per_gate=1e-8,
        phase_mismatch_rad=0.02 * np.pi * aligned,
        polarization_mismatch_rad=np.arcsin(np.sqrt(0.02)) * aligned,
    )
    _, rate = jax.jit(cal19.optimal_rate)(link)
    above = np.asarray(rate > information.plob_bound_from_loss(loss))
    np.testing.assert_array_equal(above, [False, True, False, True])


def test_four_photons_known_are_nearly_enough(x64):
    """The paper's remark: yields of up to four photons in all leave a few per cent of the key to be gained."""
    link = link_at(40.0, phase_mismatch_rad=0.0628, polarization_mismatch_rad=0.1419)
    optimum = jax.jit(cal19.optimal_rate, static_argnames="known_photons")
    rates = [float(optimum(link, known)[1]) for known in (2, 4, None)]
    assert 0 < rates[0] < rates[1] < rates[2]
    assert rates[1] > 0.97 * rates[2]


def random_links(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    link = cal19.Cal19Link(
        arm_transmittance=10 ** rng.uniform(-6, 0, count),
        dark_count_prob_per_gate=10 ** rng.uniform(-10, -6, count),
        phase_mismatch_rad=rng.uniform(-0.3, 0.3, count),
        polarization_mismatch_rad=rng.uniform(-0.3, 0.3, count),
        error_correction_efficiency=rng.uniform(1, 1.3, count),
    )
    return jax.tree.map(lambda x: x.astype(dtype), (cal19.Cal19Settings(rng.uniform(1e-3, 0.2, count)), link))


def test_never_above_the_bound_of_a_middle_node(dtype):
    """It beats PLOB, but not -log2(1 - sqrt(eta)), eta that of the whole link."""
    pulses, link = random_links(500, dtype)
    rate = RATE(pulses, link)
    assert np.all(rate <= information.plob_bound(link.arm_transmittance))
    assert np.any(rate > information.plob_bound(link.arm_transmittance * link.arm_transmittance))


def test_rate_falls_with_every_imperfection(x64):
    s = np.linspace(0, 1, 40)
    for changes in (
        {"loss_db": 80 * s},
        {"dark_count_prob_per_gate": 1e-5 * s},
        {"phase_mismatch_rad": s},
        {"polarization_mismatch_rad": s},
        {"error_correction_efficiency": 1 + s},
    ):
        rate = np.maximum(RATE(cal19.Cal19Settings(0.02), link_at(changes.pop("loss_db", 30.0), **changes)), 0)
        assert np.shape(rate) == (40,) and rate[0] > 0 and np.all(np.diff(rate) <= 0)


def test_float32_error():
    """Gains to 1e-6, yields of up to 40 photons to 2e-6, phase error to 3e-6, rate to 4e-6 of the gain; 0 to 100 dB."""
    rng = np.random.default_rng(1)
    pulses, link = random_links(500, np.float32)
    deep = (10 ** rng.uniform(-10, 0, 500)).astype(np.float32)
    link = cal19.Cal19Link(
        deep, link.dark_count_prob_per_gate, link.phase_mismatch_rad, link.polarization_mismatch_rad,
        link.error_correction_efficiency,
    )  # fmt: skip

    def everything(pulses, link):
        seen = OBSERVE(pulses, link)
        yields = YIELDS(link.arm_transmittance, link.dark_count_prob_per_gate, 0.9)
        return [
            np.asarray(x) for x in (seen.gain, seen.error_gain, yields, PHASE_ERROR(pulses, link), RATE(pulses, link))
        ]

    with precision("float32"):
        ours = everything(pulses, link)
    with precision("float64"):
        exact = everything(*jax.tree.map(lambda x: np.asarray(x, np.float64), (pulses, link)))
    assert all(x.dtype == np.float32 for x in ours)
    for mine, true, rtol in zip(ours, exact, (1e-6, 1e-6, 2e-6, 3e-6), strict=False):
        np.testing.assert_allclose(mine, true, rtol=rtol)
    assert np.max(np.abs(ours[4] - exact[4]) / exact[0]) < 4e-6


@fuzz.Finite
def edge(intensity, t, dark, phi, theta, f):
    return cal19.key_rate(cal19.Cal19Settings(intensity), cal19.Cal19Link(t, dark, phi, theta, f))


ANGLE = st.sampled_from([0.0, math.pi / 2, math.pi, -math.pi]) | st.floats(-math.pi, math.pi)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([0.0, 1.0]) | st.floats(1e-6, 1), fuzz.ARM, fuzz.DARK, ANGLE, ANGLE, fuzz.EFFICIENCY)
def test_finite_at_the_edges(intensity, t, dark, phi, theta, f):
    rate = edge(intensity=intensity, t=t, dark=dark, phi=phi, theta=theta, f=f)
    if f >= 1:
        assert rate <= fuzz.plob(t) * (1 + 1e-9)


def test_gradient_matches_finite_differences():
    edge.check_gradient(intensity=0.03, t=0.01, dark=1e-7, phi=0.06, theta=0.14, f=1.16)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="key_intensity"):
        cal19.Cal19Settings(1.5)
    with pytest.raises(ValueError, match="arm_transmittance"):
        cal19.Cal19Link(arm_transmittance=-0.1)

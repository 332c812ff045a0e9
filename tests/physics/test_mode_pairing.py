"""Mode pairing: pairs drawn one by one, yields, worked point, scaling, drift, precision, derivatives."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import information, twin_field_cal19
from qkd_gym.physics import mode_pairing as mp
from qkd_gym.physics.two_sender import arm_transmittance_from_db
from tests.physics import fuzz
from tests.physics.conftest import precision

OBSERVE, SINGLE, RATE = jax.jit(mp.observe), jax.jit(mp.single_photon_pairs), jax.jit(mp.key_rate)
OPTIMUM = jax.jit(mp.optimal_rate)


def link_at(loss_db, detector=1.0, **changes):
    arm = detector * np.asarray(arm_transmittance_from_db(loss_db))
    shape = np.broadcast_shapes(arm.shape, *(np.shape(v) for v in changes.values()))
    values = {
        "arm_transmittance": arm, "dark_count_prob_per_gate": 1.2e-8, "misalignment_error": 0.04,
        "phase_variance_rad2_per_round": 0.0, "error_correction_efficiency": 1.1,
    } | changes  # fmt: skip
    return mp.ModePairingLink(**{k: np.broadcast_to(v, shape) for k, v in values.items()})


def test_worked_point(x64):
    link, choice = link_at(60.0), mp.ModePairingSettings(0.5, 1000.0)
    seen = mp.observe(choice, link)
    got = [seen.click_prob, seen.pairing_rate, seen.key_fraction, seen.qber, *SINGLE(choice, link), RATE(choice, link)]
    want = [4.99774e-4, 1.41104e-4, 0.125043, 9.59959e-5, 0.368120, 0.0400441, 4.89255e-6]
    np.testing.assert_allclose(np.array(got, float), want, rtol=6e-6)


def draw_pairs(clicks, longest):
    """Indices of paired rounds: each click waits for the next; one that comes too late waits in its place."""
    pairs, waiting = [], None
    for index in np.flatnonzero(clicks):
        if waiting is not None and index - waiting <= longest:
            pairs.append((waiting, index))
            waiting = None
        else:
            waiting = index
    return np.array(pairs)


def test_pairs_drawn_one_by_one():
    """Rate, share of key pairs, errors and coherence of pairs, from rounds that are drawn and paired one by one."""
    choice, longest, variance = mp.ModePairingSettings(0.5, 12.0), 12, 0.05
    link = link_at(20.0, dark_count_prob_per_gate=0.02, phase_variance_rad2_per_round=variance, misalignment_error=0.0)
    with precision("float64"):
        seen = jax.tree.map(float, OBSERVE(choice, link))
    rng = np.random.default_rng(0)
    rounds = 1_000_000
    sends = rng.random((rounds, 2)) < 0.5
    chance = np.array([seen.clicks.none, seen.clicks.one, seen.clicks.both])[sends.sum(axis=1)]
    pairs = draw_pairs(rng.random(rounds) < chance, longest)
    count = len(pairs)
    np.testing.assert_allclose(count / rounds, seen.pairing_rate, rtol=4 / np.sqrt(count))
    early, late = sends[pairs[:, 0]], sends[pairs[:, 1]]
    key = np.all(early ^ late, axis=1)  # either side sent in exactly one of the two rounds
    np.testing.assert_allclose(key.mean(), seen.key_fraction, rtol=4 / np.sqrt(key.sum()))
    same = (early[:, 0] == early[:, 1])[key]
    np.testing.assert_allclose(same.mean(), seen.qber, rtol=4 / np.sqrt(same.sum()))
    walk = np.cumsum(rng.normal(0, np.sqrt(variance), rounds))
    drifted = (1 - np.cos(walk[pairs[:, 1]] - walk[pairs[:, 0]])) / 2
    np.testing.assert_allclose(drifted.mean(), seen.pair_misalignment, rtol=4 / np.sqrt(count))


def test_single_photon_pairs_are_counted_from_yields(x64):
    """Yields of either detector from the photon-number formula of the other twin-field protocol."""
    mu, t, dark = 0.4, 0.3, 1e-2
    choice, link = mp.ModePairingSettings(mu, 100.0), link_at(0.0, t, dark_count_prob_per_gate=dark)
    y = 2 * np.asarray(twin_field_cal19.fock_yields(t, dark, 1.0, 1))
    clicks = OBSERVE(choice, link).clicks
    total = y[1, 0] * y[0, 1] + y[1, 1] * y[0, 0]
    share = (mu * np.exp(-mu)) ** 2 * total / (clicks.one**2 + clicks.none * clicks.both)
    signal = (t * (1 - dark)) ** 2
    q11, e11 = SINGLE(choice, link)
    np.testing.assert_allclose(q11, share, rtol=1e-12)
    np.testing.assert_allclose(e11, (0.04 * signal + (total - signal) / 2) / total, rtol=1e-12)


def test_rate_scales_with_the_loss_or_its_root(x64):
    """Neighbouring rounds only: with the whole transmittance, as MDI; any distance: with its square root."""
    link = link_at(np.array([40.0, 60.0]), dark_count_prob_per_gate=1e-12)
    for longest, power in ((1.0, 2.0), (1e9, 1.0)):
        rate = RATE(mp.ModePairingSettings(np.full(2, 0.5), np.full(2, longest)), link)
        assert np.log10(rate[0] / rate[1]) == pytest.approx(power, abs=0.02)


def test_crosses_plob_where_it_should(x64):
    """PLOB of the fibre alone is passed near 300 km with a pairing length of 1e5, and not at all with 1e3."""
    length = np.array([285.0, 300.0, 285.0, 300.0, 350.0])
    longest = np.array([1e5, 1e5, 1e3, 1e3, 1e3])
    _, rate = OPTIMUM(link_at(0.2 * length, 0.2), longest)
    above = np.asarray(rate > information.plob_bound_from_loss(0.2 * length))
    np.testing.assert_array_equal(above, [False, True, False, False, False])


def test_coherence_is_the_mean_over_the_distances(x64):
    """Against the sum over distances 1 ... l; without drift there is no loss of coherence at all."""
    choice = mp.ModePairingSettings(0.5, 200.0)
    for loss, variance in ((20.0, 1e-2), (40.0, 3e-3), (80.0, 1.0)):
        link = link_at(loss, phase_variance_rad2_per_round=variance)
        seen = OBSERVE(choice, link)
        distance = np.arange(1, 201)
        weight = (1 - float(seen.click_prob)) ** (distance - 1)
        coherence = np.sum(weight * np.exp(-variance * distance / 2)) / np.sum(weight)
        np.testing.assert_allclose(seen.pair_misalignment, 0.04 + 0.46 * (1 - coherence), rtol=1e-9)
    np.testing.assert_allclose(OBSERVE(choice, link_at(60.0)).pair_misalignment, 0.04, rtol=1e-12)


def test_drift_makes_for_a_best_pairing_length(x64):
    longest = 10.0 ** np.arange(1, 8)
    choice = mp.ModePairingSettings(np.full(7, 0.5), longest)
    still = np.asarray(RATE(choice, link_at(60.0, misalignment_error=np.full(7, 0.04))))
    drifting = np.asarray(RATE(choice, link_at(60.0, phase_variance_rad2_per_round=np.full(7, 1e-3))))
    assert np.all(np.diff(still) >= 0)
    best = np.argmax(drifting)
    assert 0 < best < 6 and drifting[best] > 1.2 * drifting[[0, -1]].max()
    assert np.all(drifting <= still)


def random_links(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    link = mp.ModePairingLink(
        arm_transmittance=10 ** rng.uniform(-6, 0, count),
        dark_count_prob_per_gate=10 ** rng.uniform(-11, -7, count),
        misalignment_error=rng.uniform(0, 0.1, count),
        phase_variance_rad2_per_round=10 ** rng.uniform(-9, -3, count),
        error_correction_efficiency=rng.uniform(1, 1.3, count),
    )
    choice = mp.ModePairingSettings(rng.uniform(0.05, 1, count), 10 ** rng.uniform(0, 7, count))
    return jax.tree.map(lambda x: x.astype(dtype), (choice, link))


def test_never_above_the_bound_of_a_middle_node(dtype):
    """It beats PLOB, but not -log2(1 - sqrt(eta)), eta that of the whole link."""
    choice, link = random_links(2000, dtype)
    rate = RATE(choice, link)
    assert np.all(rate <= information.plob_bound(link.arm_transmittance))
    assert np.any(rate > information.plob_bound(link.arm_transmittance * link.arm_transmittance))


def test_rate_falls_with_every_imperfection(x64):
    s = np.linspace(0, 1, 40)
    choice = mp.ModePairingSettings(np.full(40, 0.4), np.full(40, 1e4))
    for changes in (
        {"loss_db": 120 * s},
        {"dark_count_prob_per_gate": 1e-5 * s},
        {"misalignment_error": 0.3 * s},
        {"phase_variance_rad2_per_round": 1e-3 * s},
        {"error_correction_efficiency": 1 + s},
    ):
        rate = np.maximum(RATE(choice, link_at(changes.pop("loss_db", 50.0), **changes)), 0)
        assert rate.shape == (40,) and rate[0] > 0 and np.all(np.diff(rate) <= 1e-18)


def test_float32_error():
    """All to 2e-6, errors with drift to 3e-7 absolute, rates to 4e-6 of the pairing rate; arms of 0 to 100 dB."""
    rng = np.random.default_rng(1)
    choice, link = random_links(3000, np.float32)
    deep = (10 ** rng.uniform(-10, 0, 3000)).astype(np.float32)
    link = mp.ModePairingLink(
        deep, link.dark_count_prob_per_gate, link.misalignment_error, link.phase_variance_rad2_per_round,
        link.error_correction_efficiency,
    )  # fmt: skip

    def everything(choice, link):
        seen, (q11, e11) = OBSERVE(choice, link), SINGLE(choice, link)
        precise = (*jax.tree.leaves(seen.clicks), seen.click_prob, seen.pairing_rate, seen.key_fraction, seen.qber, q11)
        return jax.tree.map(np.asarray, (precise, (seen.pair_misalignment, e11), RATE(choice, link)))

    with precision("float32"):
        ours = everything(choice, link)
    with precision("float64"):
        exact = everything(*jax.tree.map(lambda x: np.asarray(x, np.float64), (choice, link)))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(ours))
    for mine, true in zip(ours[0], exact[0], strict=True):
        np.testing.assert_allclose(mine, true, rtol=2e-6)
    for mine, true in zip(ours[1], exact[1], strict=True):
        np.testing.assert_allclose(mine, true, rtol=0, atol=3e-7)
    assert np.max(np.abs(ours[2] - exact[2]) / exact[0][4]) < 4e-6


@fuzz.Finite
def edge(mu, longest, t, dark, mis, variance, f):
    return mp.key_rate(mp.ModePairingSettings(mu, longest), mp.ModePairingLink(t, dark, mis, variance, f))


LENGTH = st.sampled_from([1.0, 1e12]) | st.floats(0, 12).map(lambda x: 10**x)
VARIANCE = st.sampled_from([0.0, 10.0]) | st.floats(-12, 1).map(lambda x: 10**x)


@settings(max_examples=100, deadline=None)
@given(fuzz.INTENSITY, LENGTH, fuzz.ARM, fuzz.DARK, fuzz.ERROR, VARIANCE, fuzz.EFFICIENCY)
def test_finite_at_the_edges(mu, longest, t, dark, mis, variance, f):
    rate = edge(mu=mu, longest=longest, t=t, dark=dark, mis=mis, variance=variance, f=f)
    if f >= 1:
        assert rate <= fuzz.plob(t) * (1 + 1e-9)


def test_gradient_matches_finite_differences():
    edge.check_gradient(mu=0.4, longest=300.0, t=0.01, dark=1e-6, mis=0.04, variance=1e-4, f=1.1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="max_pairing_rounds"):
        mp.ModePairingSettings(max_pairing_rounds=0.0)
    with pytest.raises(ValueError, match="arm_transmittance"):
        mp.ModePairingLink(arm_transmittance=1.2)

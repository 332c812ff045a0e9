"""SNS: fields at two detectors, worked point, reach, PLOB, pairing, finite blocks, precision, derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import information
from qkd_gym.physics import twin_field_sns as sns
from qkd_gym.physics.two_sender import BlockSecurity, arm_transmittance_from_db
from tests.physics import fuzz
from tests.physics.conftest import precision

OBSERVE, PAIRS = jax.jit(sns.observe), jax.jit(sns.odd_parity_pairs)
RATE = jax.jit(sns.key_rate, static_argnames="method")
OPTIMUM = jax.jit(sns.optimal_rate, static_argnames="method")
FINITE, LIMIT = jax.jit(sns.finite_key_rate), jax.jit(sns.decoy_key_rate)
BOUNDS = jax.jit(lambda choice, link: sns.decoy_bounds(choice, *(sns.decoy_rates(choice, link),) * 2))


def link_at(loss_db, detector=1.0, **changes):
    arm = detector * np.asarray(arm_transmittance_from_db(loss_db))
    shape = np.broadcast_shapes(arm.shape, *(np.shape(v) for v in changes.values()))
    values = {
        "arm_transmittance": arm, "dark_count_prob_per_gate": 1e-11, "misalignment_error": 0.05,
        "error_correction_efficiency": 1.1,
    } | changes  # fmt: skip
    return sns.SnsLink(**{k: np.broadcast_to(v, shape) for k, v in values.items()})


def silent_ports(mu_a, mu_b, t, dark, phase, visibility=1.0):
    """Probabilities that either port's detector stays silent, from the light that leaves by it."""
    light, cross = t * (mu_a + mu_b) / 2, t * np.sqrt(mu_a * mu_b) * visibility * np.cos(phase)
    return (1 - dark) * np.exp(-(light + cross)), (1 - dark) * np.exp(-(light - cross))


TURN = np.arange(64) * 2 * np.pi / 64


@pytest.mark.parametrize("case", [(0.4, 1e-4, 1e-11), (0.5, 0.3, 1e-3), (3.0, 1.0, 0.05), (0.4, 0.0, 1e-6)])
def test_one_click_is_that_of_two_detectors(case, x64):
    """Fields of random phase at a beam splitter: exactly one of two detectors clicks."""
    mu, t, dark = case
    clicks = sns.one_click(mu, t, dark)
    for ours, (a, b) in ((clicks.none, (0, 0)), (clicks.one, (mu, 0)), (clicks.both, (mu, mu))):
        right, wrong = silent_ports(a, b, t, dark, TURN)
        # float64: the brute force takes 1 - (1 - 1e-11), which costs it five digits of dark counts
        np.testing.assert_allclose(ours, np.mean(right * (1 - wrong) + wrong * (1 - right)), rtol=1e-8, atol=2e-16)


def test_single_photons_are_the_lowest_order_of_the_clicks(x64):
    """d/dmu of e^mu P1(mu) at 0 is s_1; of the slice's wrong clicks, e^(2 mu) T(mu), it is 2 e_1 s_1."""
    link = link_at(0.0, 0.6, dark_count_prob_per_gate=1e-3)
    s1, e1 = sns.single_photons(link)
    slope = jax.grad(lambda mu: jnp.exp(mu) * sns.one_click(mu, 0.6, 1e-3).one)(0.0)
    np.testing.assert_allclose(s1, slope, rtol=1e-12)
    slope = jax.grad(lambda mu: jnp.exp(2 * mu) * sns.slice_error(mu, 1e-4, link))(0.0)
    np.testing.assert_allclose(2 * s1 * e1, slope, rtol=1e-6)


def test_worked_point(x64):
    link, choice = link_at(80.0), sns.SnsSettings(0.4, 0.03)
    gains = sns.observe(choice, link)
    got = [gains.gain, gains.qber, *sns.single_photons(link), sns.key_rate(choice, link)]
    np.testing.assert_allclose(np.array(got, float), [2.39995e-6, 0.030007, 1.0e-4, 0.0500001, 6.00305e-7], rtol=6e-6)


def test_published_reach(x64):
    """Wang, Yu, Hu 2018 exceed 700, 600, 500 and 300 km at e_d of 15, 25, 35 and 45 %; here 705, 625, 515 and 295 km.

    Dark counts, efficiency and attenuation (1e-11, 0.8, 0.2 dB/km) are of the class of theirs.
    """
    length = np.array([705.0, 710.0, 625.0, 630.0, 515.0, 520.0, 295.0, 300.0])
    link = link_at(0.2 * length, 0.8, misalignment_error=np.repeat([0.15, 0.25, 0.35, 0.45], 2))
    _, _, rate = OPTIMUM(link)
    np.testing.assert_array_equal(rate > 0, [True, False] * 4)


def test_crosses_plob_where_it_should(x64):
    """At e_d = 15 % the rate passes PLOB of the fibre alone at 303 km."""
    length = np.array([300.0, 306.0])
    _, _, rate = OPTIMUM(link_at(0.2 * length, 0.8, misalignment_error=0.15))
    np.testing.assert_array_equal(rate > information.plob_bound_from_loss(0.2 * length), [False, True])


def test_pairing_gains_what_it_should(x64):
    """At 300 km, 1.74 times the rate at e_d = 3 % and 2.54 times at 20 %, with far more sending."""
    link = link_at(60.0, 0.8, misalignment_error=np.array([0.03, 0.2]))
    _, eps, plain = OPTIMUM(link)
    mu, eps_paired, paired = OPTIMUM(link, method="aopp")
    np.testing.assert_allclose(paired / plain, [1.7376, 2.5412], rtol=1e-3)
    assert np.all(eps < 0.05) and np.all(np.abs(eps_paired - 0.27) < 0.03) and np.all(np.abs(mu - 0.5) < 0.02)


def test_pairing_of_sampled_bits():
    """Bits drawn from the click probabilities, a 0 of one side paired with a 1, odd parity of the other side kept."""
    choice, link = sns.SnsSettings(0.45, 0.25), link_at(15.0, dark_count_prob_per_gate=5e-3)
    with precision("float64"):
        left, clicks = PAIRS(choice, link), OBSERVE(choice, link).clicks
        none, one, both = (float(x) for x in (clicks.none, clicks.one, clicks.both))
    rng = np.random.default_rng(0)
    sends = rng.random((1_000_000, 2)) < 0.25
    p = np.array([none, one, both])[sends.sum(axis=1)]
    bits = sends[rng.random(len(p)) < p]
    alice, bob = bits[:, 0], ~bits[:, 1]  # a right bit: exactly one of them sends
    zeros, ones = (rng.permutation(alice[bob == value]) for value in (False, True))
    count = min(len(zeros), len(ones))
    odd = zeros[:count] != ones[:count]
    wrong = zeros[:count][odd]
    np.testing.assert_allclose(count / len(p), left.pairs, rtol=5 / np.sqrt(count))
    np.testing.assert_allclose(odd.mean(), left.survival, rtol=5 / np.sqrt(count))
    np.testing.assert_allclose(wrong.mean(), left.qber, rtol=5 / np.sqrt(wrong.sum()))


def test_without_dark_counts_the_error_is_the_sending_probability(x64):
    gains = sns.observe(sns.SnsSettings(0.4, 0.03), link_at(100.0, dark_count_prob_per_gate=0.0))
    np.testing.assert_allclose(gains.qber, 0.03, rtol=1e-4)
    pairs = sns.odd_parity_pairs(sns.SnsSettings(0.4, 0.3), link_at(100.0, dark_count_prob_per_gate=0.0))
    assert pairs.qber == 0  # silence cannot err, so no pair holds two wrong bits


def random_links(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    link = sns.SnsLink(
        arm_transmittance=10 ** rng.uniform(-6, 0, count),
        dark_count_prob_per_gate=10 ** rng.uniform(-12, -8, count),
        misalignment_error=rng.uniform(0, 0.3, count),
        error_correction_efficiency=rng.uniform(1, 1.3, count),
    )
    choice = sns.SnsSettings(rng.uniform(0.05, 1, count), 10 ** rng.uniform(-3, -0.5, count))
    return jax.tree.map(lambda x: x.astype(dtype), (choice, link))


@pytest.mark.parametrize("method", sns.METHODS)
def test_never_above_the_bound_of_a_middle_node(method, dtype):
    """It beats PLOB, but not -log2(1 - sqrt(eta)), eta that of the whole link."""
    choice, link = random_links(2000, dtype)
    rate = RATE(choice, link, method=method)
    assert np.all(rate <= information.plob_bound(link.arm_transmittance))
    assert np.any(rate > information.plob_bound(link.arm_transmittance * link.arm_transmittance))


@pytest.mark.parametrize("method", sns.METHODS)
def test_rate_falls_with_every_imperfection(method, x64):
    s = np.linspace(0, 1, 40)
    choice = sns.SnsSettings(0.4, 0.03)
    for changes in (
        {"loss_db": 140 * s},
        {"dark_count_prob_per_gate": 1e-6 * s},
        {"misalignment_error": 0.5 * s},
        {"error_correction_efficiency": 1 + s},
    ):
        rate = np.maximum(RATE(choice, link_at(changes.pop("loss_db", 50.0), **changes), method=method), 0)
        assert rate.shape == (40,) and rate[0] > 0 and np.all(np.diff(rate) <= 1e-18)


def test_float32_error():
    """Gains and pairs to 1e-6, rates to 2e-6 of the gain; arms of 0 to 100 dB."""
    rng = np.random.default_rng(1)
    choice, link = random_links(3000, np.float32)
    deep = (10 ** rng.uniform(-10, 0, 3000)).astype(np.float32)
    link = sns.SnsLink(deep, link.dark_count_prob_per_gate, link.misalignment_error, link.error_correction_efficiency)

    def everything(choice, link):
        gains, pairs = OBSERVE(choice, link), PAIRS(choice, link)
        exact = (*jax.tree.leaves(gains), *jax.tree.leaves(pairs), *sns.single_photons(link))
        return [np.asarray(x) for x in (*exact, *(RATE(choice, link, method=m) for m in sns.METHODS))], gains, pairs

    with precision("float32"):
        ours, _, _ = everything(choice, link)
    with precision("float64"):
        exact, gains, pairs = everything(*jax.tree.map(lambda x: np.asarray(x, np.float64), (choice, link)))
        scale = [np.asarray(gains.gain), np.asarray(pairs.pairs)]
    assert all(x.dtype == np.float32 for x in ours)
    for mine, true in zip(ours[:-2], exact[:-2], strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-6)
    for mine, true, gain in zip(ours[-2:], exact[-2:], scale, strict=True):
        assert np.max(np.abs(mine - true) / gain) < 2e-6


# ---- a finite block -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1e-3, 0.2, math.pi / 2])
def test_slice_error_is_the_mean_over_the_slice(width, x64):
    link = link_at(0.0, 0.7, dark_count_prob_per_gate=1e-3, misalignment_error=0.1)
    phase = (np.arange(20_000) + 0.5) / 20_000 * width
    right, wrong = silent_ports(1.5, 1.5, 0.7, 1e-3, phase, visibility=0.8)
    np.testing.assert_allclose(sns.slice_error(1.5, width, link), np.mean(right * (1 - wrong)), rtol=1e-8)


def random_choices(count, dtype, seed=2):
    rng = np.random.default_rng(seed)
    weak = rng.uniform(0.02, 0.1, count)
    choice = sns.SnsBlockSettings(
        rng.uniform(0.2, 0.6, count), rng.uniform(0.01, 0.05, count), weak + rng.uniform(0.1, 0.4, count), weak,
        rng.uniform(0.4, 0.7, count), rng.uniform(0.03, 0.1, count), rng.uniform(0.05, 0.15, count),
        rng.uniform(0.05, 0.4, count),
    )  # fmt: skip
    return jax.tree.map(lambda x: x.astype(dtype), choice)


def test_decoys_bracket_the_truth(x64):
    choice = random_choices(1000, np.float64)
    _, link = random_links(1000, np.float64)
    s1, e1 = BOUNDS(choice, link)
    truth, error = sns.single_photons(link)
    assert np.all(s1 <= truth * (1 + 1e-9)) and np.all(e1 >= error * (1 - 1e-9))
    assert np.median(s1 / truth) > 0.95


def test_decoys_become_exact_and_the_rate_that_of_endless_data(x64):
    """Weaker mu_1 and a narrower slice, and only key windows: `decoy_key_rate` tends to `key_rate`."""
    link = link_at(40.0, dark_count_prob_per_gate=1e-9)
    want = float(RATE(sns.SnsSettings(0.4, 0.03), link))
    shortfall = []
    for scale in (1e-1, 1e-2, 1e-3):
        choice = sns.SnsBlockSettings(
            0.4, 0.03, 0.3, 0.05 * scale, 1 - 3 * scale * 1e-2, scale * 1e-2, scale * 1e-2, 0.3 * scale
        )
        shortfall.append(1 - float(LIMIT(choice, link)) / want)
    assert 0 < shortfall[2] < 3e-3 and shortfall[2] < shortfall[1] / 5 < shortfall[0] / 25


def test_finite_rate_tends_to_that_of_its_decoys_from_below(x64):
    """The shortfall falls with one over the square root of the block."""
    blocks = 10.0 ** np.arange(10, 27)
    rate = np.asarray(FINITE(sns.SnsBlockSettings(), link_at(40.0), blocks))
    limit = float(LIMIT(sns.SnsBlockSettings(), link_at(40.0)))
    gap = 1 - rate / limit
    assert np.all(np.diff(rate) > 0) and np.all(gap > 0)
    assert limit > 0 and gap[-1] < 1e-6 and gap[-3] / gap[-1] == pytest.approx(10, rel=0.02)


def test_finite_rate_falls_with_every_imperfection(x64):
    s = np.linspace(0, 1, 40)
    for changes in (
        {"loss_db": 100 * s},
        {"dark_count_prob_per_gate": 1e-6 * s},
        {"misalignment_error": 0.4 * s},
        {"error_correction_efficiency": 1 + s},
    ):
        link = link_at(changes.pop("loss_db", 40.0), **changes)
        rate = np.maximum(FINITE(sns.SnsBlockSettings(), link, 1e13), 0)
        assert rate[0] > 0 and np.all(np.diff(rate) <= 1e-18)


def test_more_certainty_costs_key(x64):
    rates = [FINITE(sns.SnsBlockSettings(), link_at(40.0), 1e12, BlockSecurity(eps, 1e-15)) for eps in (1e-4, 1e-10)]
    assert rates[0] > rates[1] > 0


def test_sampled_counts_are_as_good_as_their_means(x64):
    choice, link, pulses = sns.SnsBlockSettings(), link_at(40.0), 1e12
    mean = sns.expected_counts(choice, link, pulses)
    rng = np.random.default_rng(3)
    drawn = jax.tree.map(lambda n: rng.poisson(n, 200).astype(float), mean)
    keys = jax.jit(sns.finite_key)(drawn, choice, pulses)
    truth, error = sns.single_photons(link)
    assert np.all(keys.single_yield <= truth) and np.all(keys.single_error >= error)
    assert np.mean(keys.secret_bits) == pytest.approx(float(sns.finite_key(mean, choice, pulses).raw_bits), rel=5e-3)
    assert np.all(keys.secret_bits == np.floor(keys.secret_bits))


def test_no_single_photons_no_key(dtype):
    counts = sns.SnsCounts(*(np.zeros((), dtype) for _ in range(6)))
    key = sns.finite_key(counts, sns.SnsBlockSettings(), 1e12)
    assert key.secret_bits == 0 and key.phase_error == 0.5 and key.single_error == 0.5 and key.n_untagged == 0
    assert all(np.isfinite(x) for x in jax.tree.leaves(key))


def test_float32_error_of_a_block():
    """Yield bound to 2e-6 of the yield, key length to 1e-6 of the key-window counts, 0 to 90 dB and 1e11 to 1e15."""
    choice = random_choices(2000, np.float32)
    _, link = random_links(2000, np.float32)
    rng = np.random.default_rng(4)
    link = sns.SnsLink(
        (10 ** rng.uniform(-4.5, 0, 2000)).astype(np.float32), link.dark_count_prob_per_gate, link.misalignment_error,
        link.error_correction_efficiency,
    )  # fmt: skip
    pulses = (10 ** rng.uniform(11, 15, 2000)).astype(np.float32)
    analyse = jax.jit(
        lambda choice, link, pulses: sns.finite_key(sns.expected_counts(choice, link, pulses), choice, pulses)
    )
    with precision("float32"):
        ours = jax.tree.map(np.asarray, analyse(choice, link, pulses))
    with precision("float64"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (choice, link, pulses))
        exact = jax.tree.map(np.asarray, analyse(*wide))
        clicks = np.asarray(sns.expected_counts(*wide).n_key)
        truth = np.asarray(sns.single_photons(wide[1])[0])
    assert ours.raw_bits.dtype == np.float32
    assert np.max(np.abs(ours.single_yield - exact.single_yield) / truth) < 2e-6
    assert np.max(np.abs(ours.raw_bits - exact.raw_bits) / clicks) < 1e-6


# ---- edges --------------------------------------------------------------------------------------------------------


@fuzz.Finite
def edge(mu, eps, t, dark, mis, f):
    choice, link = sns.SnsSettings(mu, eps), sns.SnsLink(t, dark, mis, f)
    return sns.key_rate(choice, link) + sns.key_rate(choice, link, "aopp")


@settings(max_examples=100, deadline=None)
@given(fuzz.INTENSITY, fuzz.PROBABILITY, fuzz.ARM, fuzz.DARK, fuzz.ERROR, fuzz.EFFICIENCY)
def test_finite_at_the_edges(mu, eps, t, dark, mis, f):
    rate = edge(mu=mu, eps=eps, t=t, dark=dark, mis=mis, f=f)
    if f >= 1:
        assert rate <= 2 * fuzz.plob(t) * (1 + 1e-9)


@fuzz.Finite
def block(mu, eps, mu_2, mu_1, p_z, p_2, p_1, width, t, dark, mis, pulses):
    choice = sns.SnsBlockSettings(mu, eps, mu_2, mu_1, p_z, p_2, p_1, width)
    return sns.finite_key_rate(choice, sns.SnsLink(t, dark, mis, 1.1), pulses)


@settings(max_examples=100, deadline=None)
@given(
    fuzz.INTENSITY, fuzz.PROBABILITY, fuzz.INTENSITY, fuzz.INTENSITY, *(fuzz.PROBABILITY,) * 3,
    st.floats(1e-4, math.pi / 2), fuzz.ARM, fuzz.DARK, fuzz.ERROR, fuzz.PULSES,
)  # fmt: skip
def test_a_block_is_finite_at_the_edges(mu, eps, mu_2, mu_1, p_z, p_2, p_1, width, t, dark, mis, pulses):
    rate = block(
        mu=mu, eps=eps, mu_2=mu_2, mu_1=mu_1, p_z=p_z, p_2=p_2, p_1=p_1, width=width, t=t, dark=dark, mis=mis,
        pulses=pulses,
    )  # fmt: skip
    assert rate <= fuzz.plob(t) * (1 + 1e-9)


def test_gradients_match_finite_differences():
    edge.check_gradient(mu=0.4, eps=0.03, t=0.01, dark=1e-7, mis=0.05, f=1.1)
    block.check_gradient(
        mu=0.4, eps=0.03, mu_2=0.3, mu_1=0.05, p_z=0.7, p_2=0.05, p_1=0.15, width=0.2, t=0.01, dark=1e-8, mis=0.05,
        pulses=1e12,
    )  # fmt: skip


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="weak < decoy"):
        sns.SnsBlockSettings(decoy_intensity=0.05, weak_intensity=0.05)
    with pytest.raises(ValueError, match="above 1"):
        sns.SnsBlockSettings(key_window_prob=0.8, decoy_prob=0.2, weak_prob=0.1)
    with pytest.raises(ValueError, match="plain, aopp"):
        sns.key_rate(sns.SnsSettings(), sns.SnsLink(), "zigzag")
    with pytest.raises(ValueError, match="arm_transmittance"):
        sns.SnsLink(arm_transmittance=1.2)

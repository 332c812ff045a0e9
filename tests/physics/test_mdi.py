"""MDI: brute-force detector statistics, worked point, reach, bounds, finite blocks, precision, derivatives."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings

from qkd_gym.physics import fibre, information, mdi
from qkd_gym.physics.two_sender import BlockSecurity
from tests.physics import fuzz
from tests.physics.conftest import precision

OBSERVE, RATE, PAIRS = jax.jit(mdi.observe), jax.jit(mdi.key_rate), jax.jit(mdi.single_photon_pairs)
FINITE, LIMIT = jax.jit(mdi.finite_key_rate), jax.jit(mdi.decoy_key_rate)


def link_at(length_km=50.0, detector=0.145, **changes):
    eta = np.asarray(detector * 10 ** (-0.01 * np.asarray(length_km)))
    return mdi.MdiLink(**({"transmittance_a": eta, "transmittance_b": eta} | changes))


def click_statistics(mu_a, mu_b, eta_a, eta_b, dark, phases=96):
    """`(right, wrong)` for the Z and X basis, from the fields at four threshold detectors, averaged over the phase.

    Knows nothing of the closed forms: per pair of bits, the light of each polarisation interferes at a beam splitter,
    each detector clicks by its own intensity, exactly two clicks of different polarisation are psi- (different ports)
    or psi+ (same port). psi- means different bits; so does psi+ in Z, while in X it means equal ones.
    """
    phi = np.arange(phases) * 2 * np.pi / phases
    polarisations = {"Z": np.eye(2), "X": np.array([[1, 1], [1, -1]]) / np.sqrt(2)}
    result = {}
    for basis, vectors in polarisations.items():
        right = wrong = 0.0
        for bit_a in (0, 1):
            for bit_b in (0, 1):
                field_a = np.sqrt(eta_a * mu_a) * vectors[bit_a][:, None] * np.ones_like(phi)
                field_b = np.sqrt(eta_b * mu_b) * vectors[bit_b][:, None] * np.exp(1j * phi)
                silent_c = (1 - dark) * np.exp(-(np.abs(field_a + field_b) ** 2) / 2)
                silent_d = (1 - dark) * np.exp(-(np.abs(field_a - field_b) ** 2) / 2)

                def exactly(clicked, silent_c=silent_c, silent_d=silent_d):
                    p = 1.0
                    for name, silent in zip(("cH", "cV", "dH", "dV"), (*silent_c, *silent_d), strict=True):
                        p = p * (1 - silent if name in clicked else silent)
                    return np.mean(p)

                minus = exactly({"cH", "dV"}) + exactly({"cV", "dH"})
                plus = exactly({"cH", "cV"}) + exactly({"dH", "dV"})
                same = bit_a == bit_b
                wrong += (minus if same else 0) + (plus if same == (basis == "Z") else 0)
                right += (0 if same else minus) + (0 if same == (basis == "Z") else plus)
        result[basis] = np.array([right, wrong]) / 4
    return result


CASES = [
    (0.4, 0.4, 0.145, 0.145, 6e-6),
    (0.7, 0.1, 0.9, 0.2, 1e-3),
    (2.0, 3.0, 0.5, 0.8, 0.05),
    (0.3, 0.0, 0.3, 0.3, 1e-4),
    (0.5, 0.5, 1e-2, 3e-3, 1e-6),
]


@pytest.mark.parametrize("case", CASES)
def test_gains_are_those_of_four_detectors(case, x64):
    mu_a, mu_b, eta_a, eta_b, dark = case
    brute = click_statistics(*case)
    for mis in (0.0, 0.02):
        gains = mdi.observe(mdi.MdiSettings(mu_a, mu_b), mdi.MdiLink(eta_a, eta_b, dark, mis))
        for basis, gain, error in (
            ("Z", gains.gain_z, gains.error_gain_z), ("X", gains.gain_x, gains.error_gain_x)
        ):  # fmt: skip
            right, wrong = brute[basis]
            np.testing.assert_allclose(gain, right + wrong, rtol=1e-9, atol=1e-16)
            np.testing.assert_allclose(error, wrong + mis * (right - wrong), rtol=1e-9, atol=1e-16)


@pytest.mark.parametrize("basis", ["Z", "X"])
def test_single_photon_pairs_are_the_lowest_order_of_the_clicks(basis, x64):
    """e^(a+b) Q(a, b) = Y_00 + a Y_10 + b Y_01 + a b Y_11 + ...: its mixed difference tends to Y_11, in both bases."""
    eta_a, eta_b, dark = 0.8, 0.5, 0.03

    def mixed(x):
        def at(a, b):
            return np.exp(a + b) * click_statistics(a, b, eta_a, eta_b, dark, 32)[basis]

        return (at(x, x) - at(x, 0) - at(0, x) + at(0, 0)) / (x * x)

    # differences at x, x/2 and x/4, extrapolated to 0 twice
    first, second, third = mixed(4e-2), mixed(2e-2), mixed(1e-2)
    once = np.array([2 * second - first, 2 * third - second])
    right, wrong = (4 * once[1] - once[0]) / 3
    y11, e11 = mdi.single_photon_pairs(mdi.MdiLink(eta_a, eta_b, dark, 0.0))
    np.testing.assert_allclose(y11, right + wrong, rtol=2e-5)
    if basis == "X":  # whose error is the phase error; dark counts err more often in Z
        np.testing.assert_allclose(y11 * e11, wrong, rtol=2e-4)


def test_worked_point(x64):
    link, pulses = link_at(50.0), mdi.MdiSettings(0.4, 0.4)
    gains = mdi.observe(pulses, link)
    got = [gains.gain_z, gains.qber_z, gains.gain_x, gains.qber_x, *PAIRS(link), mdi.key_rate(pulses, link)]
    want = [1.64065e-4, 0.0162765, 3.29208e-4, 0.256704, 1.05230e-3, 0.0154914, 4.40931e-5]
    np.testing.assert_allclose(np.array(got, float), want, rtol=6e-6)


def test_published_reach(x64):
    """The papers quote about 200 km for this receiver; this model ends between 201.5 and 203 km."""
    link = jax.tree.map(lambda x: np.broadcast_to(x, (2,)), link_at(np.array([201.5, 203.0])))
    mu_a, mu_b, rate = jax.jit(mdi.optimal_rate)(link)
    assert rate[0] > 0 > rate[1]
    np.testing.assert_allclose(mu_a[0], mu_b[0], rtol=1e-2)


def test_the_senders_may_be_exchanged(x64):
    one = mdi.MdiLink(0.3, 0.02, 1e-6, 0.015)
    other = mdi.MdiLink(0.02, 0.3, 1e-6, 0.015)
    np.testing.assert_allclose(
        mdi.key_rate(mdi.MdiSettings(0.2, 0.6), one), mdi.key_rate(mdi.MdiSettings(0.6, 0.2), other), rtol=1e-13
    )


def random_links(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    link = mdi.MdiLink(
        transmittance_a=10 ** rng.uniform(-5, 0, count),
        transmittance_b=10 ** rng.uniform(-5, 0, count),
        dark_count_prob_per_gate=10 ** rng.uniform(-9, -5, count),
        misalignment_error=rng.uniform(0, 0.05, count),
        error_correction_efficiency=rng.uniform(1, 1.3, count),
        sifting=np.ones(count),
    )
    pulses = mdi.MdiSettings(rng.uniform(0.05, 0.9, count), rng.uniform(0.05, 0.9, count))
    return jax.tree.map(lambda x: x.astype(dtype), (pulses, link))


def test_never_above_plob(dtype):
    pulses, link = random_links(1000, dtype)
    bound = information.plob_bound(link.transmittance_a * link.transmittance_b)
    assert np.all(RATE(pulses, link) <= bound)


@pytest.mark.parametrize("name", ["length_km", "dark_count_prob_per_gate", "misalignment_error", "f"])
def test_rate_falls_with_every_imperfection(name, x64):
    s = np.linspace(0, 1, 40)
    scaled = {"length_km": 200 * s, "dark_count_prob_per_gate": 1e-4 * s, "misalignment_error": 0.2 * s, "f": 1 + s}
    changes = {name: scaled[name]} if name != "f" else {"error_correction_efficiency": scaled["f"]}
    link = jax.tree.map(lambda x: np.broadcast_to(x, s.shape), link_at(**changes))
    rate = np.maximum(RATE(mdi.MdiSettings(0.4, 0.4), link), 0)
    assert rate[0] > 0 and np.all(np.diff(rate) <= 0)


def test_float32_error():
    """Gains to 1e-6 and rates to 2e-6 of the key gain, arms of 0 to 100 dB."""
    rng = np.random.default_rng(1)
    pulses, link = random_links(2000, np.float32)
    deep = (10 ** rng.uniform(-10, 0, 2000)).astype(np.float32)
    link = mdi.MdiLink(
        deep, deep[::-1], link.dark_count_prob_per_gate, link.misalignment_error, link.error_correction_efficiency,
        link.sifting,
    )  # fmt: skip
    with precision("float64"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (pulses, link))
        exact, exact_pairs, exact_rate = jax.tree.map(np.asarray, (OBSERVE(*wide), PAIRS(wide[1]), RATE(*wide)))
    with precision("float32"):
        ours, pairs, rate = jax.tree.map(np.asarray, (OBSERVE(pulses, link), PAIRS(link), RATE(pulses, link)))
    assert rate.dtype == np.float32
    for name in ("gain_z", "error_gain_z", "gain_x", "error_gain_x"):
        np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(pairs, exact_pairs, rtol=1e-6)
    assert np.max(np.abs(rate - exact_rate) / exact.gain_z) < 2e-6


# ---- four intensities and a finite block --------------------------------------------------------------------------

GOOD = functools.partial(link_at, detector=0.4, dark_count_prob_per_gate=1e-7)


def test_decoys_bracket_the_truth(x64):
    rng = np.random.default_rng(2)
    count = 400
    _, link = random_links(count, np.float64)
    weak = rng.uniform(0.01, 0.15, count)
    choice = mdi.FourIntensitySettings(
        np.full(count, 0.4), weak + rng.uniform(0.05, 0.5, count), weak,
        np.full(count, 0.6), np.full(count, 0.1), np.full(count, 0.2),
    )  # fmt: skip
    gains, errors = jax.jit(mdi.decoy_gains)(choice, link)
    y11, e11 = jax.jit(mdi.decoy_bounds)(choice, (gains, gains), (errors, errors))
    truth, error = PAIRS(link)
    assert np.all(y11 <= truth * (1 + 1e-9)) and np.all(e11 >= error * (1 - 1e-9))
    alike = np.abs(np.log10(link.transmittance_a / link.transmittance_b)) < 0.3
    assert np.median((y11 / truth)[alike & (np.asarray(truth) > 1e-6)]) > 0.9


def test_decoys_become_exact_as_they_weaken(x64):
    link = link_at(0.0, detector=0.7, dark_count_prob_per_gate=1e-4)
    truth, error = mdi.single_photon_pairs(link)
    for scale, rtol in ((1e-2, 2e-2), (1e-3, 2e-3)):
        choice = mdi.FourIntensitySettings(decoy_intensity=2 * scale, weak_intensity=scale)
        gains, errors = mdi.decoy_gains(choice, link)
        y11, e11 = mdi.decoy_bounds(choice, (gains, gains), (errors, errors))
        np.testing.assert_allclose(y11, truth, rtol=rtol)
        # two photons of one sender add an error of 1/2 in proportion to x
        assert float(error) <= float(e11) < float(error) + 2 * scale


def test_finite_rate_tends_to_that_of_its_decoys_from_below(x64):
    """The shortfall falls with one over the square root of the block."""
    choice = mdi.FourIntensitySettings()
    blocks = 10.0 ** np.arange(10, 25)
    rate = FINITE(choice, GOOD(), blocks)
    limit = float(LIMIT(choice, GOOD()))
    gap = 1 - np.asarray(rate) / limit
    assert np.all(np.diff(rate) > 0) and np.all(gap > 0)
    assert gap[-1] < 1e-6
    assert gap[-3] / gap[-1] == pytest.approx(10, rel=0.02)
    assert limit < RATE(mdi.MdiSettings(0.35, 0.35), GOOD()) * 0.36


def test_finite_rate_falls_with_every_imperfection(x64):
    s = np.linspace(0, 1, 40)
    for changes in (
        {"length_km": 150 * s},
        {"dark_count_prob_per_gate": 1e-5 * s},
        {"misalignment_error": 0.1 * s},
        {"error_correction_efficiency": 1 + s},
    ):
        link = jax.tree.map(lambda x: np.broadcast_to(x, s.shape), GOOD(**changes))
        rate = np.maximum(FINITE(mdi.FourIntensitySettings(), link, 1e13), 0)
        assert rate[0] > 0 and np.all(np.diff(rate) <= 0)


def test_more_certainty_costs_key(x64):
    rates = [FINITE(mdi.FourIntensitySettings(), GOOD(), 1e12, BlockSecurity(eps, 1e-15)) for eps in (1e-4, 1e-10)]
    assert rates[0] > rates[1]


def test_sampled_counts_are_as_good_as_their_means(x64):
    choice, link, pulses = mdi.FourIntensitySettings(), GOOD(), 1e12
    mean = mdi.expected_counts(choice, link, pulses)
    rng = np.random.default_rng(3)
    drawn = jax.tree.map(lambda n: rng.poisson(np.broadcast_to(n, (200, *np.shape(n)))).astype(float), mean)
    keys = jax.jit(mdi.finite_key)(drawn, choice, pulses)
    truth, _ = mdi.single_photon_pairs(link)
    assert np.all(keys.yield_11 <= truth)
    assert np.mean(keys.secret_bits) == pytest.approx(float(mdi.finite_key(mean, choice, pulses).raw_bits), rel=5e-3)
    assert np.all(keys.secret_bits == np.floor(keys.secret_bits))


def test_no_single_photons_no_key(dtype):
    counts = mdi.FourIntensityCounts(*(np.zeros(s, dtype) for s in ((), (), (7,), (7,))))
    key = mdi.finite_key(counts, mdi.FourIntensitySettings(), 1e12)
    assert key.secret_bits == 0 and key.phase_error == 0.5 and key.error_11 == 0.5 and key.n_key_11 == 0
    assert all(np.isfinite(x) for x in jax.tree.leaves(key))


def test_float32_error_of_a_block():
    """Yield bound to 5e-6 of the yield, key length to 3e-6 of the key-basis counts, 0 to 120 km and 1e11 to 1e15."""
    rng = np.random.default_rng(4)
    count = 1000
    eta = 0.4 * 10 ** rng.uniform(-1.2, 0, count)
    link = mdi.MdiLink(
        eta, eta, 10 ** rng.uniform(-8, -6, count), rng.uniform(0, 0.03, count), np.full(count, 1.16), np.ones(count)
    )
    weak = rng.uniform(0.03, 0.1, count)
    choice = mdi.FourIntensitySettings(
        rng.uniform(0.2, 0.6, count), weak + rng.uniform(0.1, 0.4, count), weak,
        rng.uniform(0.3, 0.6, count), rng.uniform(0.05, 0.1, count), rng.uniform(0.1, 0.25, count),
    )  # fmt: skip
    pulses = 10 ** rng.uniform(11, 15, count)
    choice, link, pulses = jax.tree.map(lambda x: x.astype(np.float32), (choice, link, pulses))
    analyse = jax.jit(
        lambda choice, link, pulses: mdi.finite_key(mdi.expected_counts(choice, link, pulses), choice, pulses)
    )
    with precision("float32"):
        ours = jax.tree.map(np.asarray, analyse(choice, link, pulses))
    with precision("float64"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (choice, link, pulses))
        exact = jax.tree.map(np.asarray, analyse(*wide))
        clicks = np.asarray(mdi.expected_counts(*wide).n_key)
        truth = np.asarray(PAIRS(wide[1])[0])
    assert ours.raw_bits.dtype == np.float32
    assert np.max(np.abs(ours.yield_11 - exact.yield_11) / truth) < 5e-6
    assert np.max(np.abs(ours.raw_bits - exact.raw_bits) / clicks) < 3e-6


# ---- edges --------------------------------------------------------------------------------------------------------


@fuzz.Finite
def asymptotic(mu_a, mu_b, eta_a, eta_b, dark, mis, f):
    return mdi.key_rate(mdi.MdiSettings(mu_a, mu_b), mdi.MdiLink(eta_a, eta_b, dark, mis, f, 1.0))


@settings(max_examples=100, deadline=None)
@given(fuzz.INTENSITY, fuzz.INTENSITY, fuzz.TRANSMITTANCE, fuzz.TRANSMITTANCE, fuzz.DARK, fuzz.ERROR, fuzz.EFFICIENCY)
def test_finite_at_the_edges(mu_a, mu_b, eta_a, eta_b, dark, mis, f):
    rate = asymptotic(mu_a=mu_a, mu_b=mu_b, eta_a=eta_a, eta_b=eta_b, dark=dark, mis=mis, f=f)
    if f >= 1:
        assert rate <= fuzz.plob(eta_a * eta_b) * (1 + 1e-9)


@fuzz.Finite
def block(z, y, x, p_z, p_y, p_x, eta_a, eta_b, dark, mis, pulses):
    choice = mdi.FourIntensitySettings(z, y, x, p_z, p_y, p_x)
    return mdi.finite_key_rate(choice, mdi.MdiLink(eta_a, eta_b, dark, mis, 1.16, 1.0), pulses)


@settings(max_examples=100, deadline=None)
@given(
    *(fuzz.INTENSITY,) * 3, *(fuzz.PROBABILITY,) * 3, fuzz.TRANSMITTANCE, fuzz.TRANSMITTANCE, fuzz.DARK, fuzz.ERROR,
    fuzz.PULSES,
)  # fmt: skip
def test_a_block_is_finite_at_the_edges(z, y, x, p_z, p_y, p_x, eta_a, eta_b, dark, mis, pulses):
    rate = block(z=z, y=y, x=x, p_z=p_z, p_y=p_y, p_x=p_x, eta_a=eta_a, eta_b=eta_b, dark=dark, mis=mis, pulses=pulses)
    assert rate <= fuzz.plob(eta_a * eta_b) * (1 + 1e-9)


def test_gradients_match_finite_differences():
    asymptotic.check_gradient(mu_a=0.4, mu_b=0.3, eta_a=0.05, eta_b=0.02, dark=6e-6, mis=0.015, f=1.16)
    block.check_gradient(
        z=0.35, y=0.3, x=0.05, p_z=0.6, p_y=0.05, p_x=0.3, eta_a=0.3, eta_b=0.2, dark=1e-7, mis=0.015, pulses=1e12
    )


def test_no_light_no_key(dtype):
    for eta in (0.0, float(fibre.transmittance_from_db(400.0))):
        rate = mdi.key_rate(mdi.MdiSettings(), mdi.MdiLink(eta, eta))
        assert np.isfinite(rate) and rate <= 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="weak < decoy"):
        mdi.FourIntensitySettings(decoy_intensity=0.05, weak_intensity=0.05)
    with pytest.raises(ValueError, match="above 1"):
        mdi.FourIntensitySettings(signal_prob=0.8, decoy_prob=0.2, weak_prob=0.1)
    with pytest.raises(ValueError, match="transmittance_a"):
        mdi.MdiLink(transmittance_a=1.2)

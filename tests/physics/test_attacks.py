"""Attacks against brute force: density matrices, photon-number sums, sampled clicks and quadratures."""

import dataclasses
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from qkd_gym.physics import attacks, decoy_bb84, detectors
from qkd_gym.physics.attacks import KEY, TEST, devices, photons, quadratures
from qkd_gym.physics.information import binary_entropy
from tests.physics.conftest import precision

MU = (0.5, 0.1, 0.0)

#: Each attack at strength 0, every other dial away from its default.
IDLE = {
    "intercept-resend": {},
    "photon-number-splitting": {"single_photon_block_prob": 0.9, "eve_transmittance": 0.3},
    "trojan-horse": {"isolation_db": 100.0, "monitor_coupling": 0.1},
    "laser-seeding": {},
    "laser-damage": {"isolator_drop_db": 20.0},
    "phase-remapping": {"phase_step_rad": 1.5},
    "blinding": {"eve_efficiency": 0.1, "faked_state_error": 0.01, "matched_click_prob": 0.9},
    "time-shift": {"efficiency_ratio": 0.3, "detector_0_prob": 0.7},
    "wavelength-splitter": {"basis_control": 0.9, "eve_key_basis_prob": 0.6},
    "local-oscillator": {},
    "calibration": {},
    "estimate-bias": {},
    "saturation": {"displacement": 18.0, "limit": 19.0, "intercepted_fraction": 0.5},
}
#: The same attacks under way.
ACTIVE = {
    "intercept-resend": {"fraction": 0.1},
    "photon-number-splitting": {"fraction": 0.4, "single_photon_block_prob": 0.9, "eve_transmittance": 0.05},
    "trojan-horse": {"injected_photons": 1e9, "isolation_db": 150.0},
    "laser-seeding": {"intensity_factor": 1.3},
    "laser-damage": {"attenuator_drop_db": 1.0},
    "phase-remapping": {"fraction": 0.2, "phase_step_rad": 1.5},
    "blinding": {"fraction": 0.3, "eve_efficiency": 0.05, "faked_state_error": 0.01, "mismatched_click_prob": 0.1},
    "time-shift": {"fraction": 0.4, "efficiency_ratio": 0.3, "detector_0_prob": 0.7},
    "wavelength-splitter": {"fraction": 0.2, "basis_control": 0.9, "eve_key_basis_prob": 0.6},
    "local-oscillator": {"power_factor": 0.97, "intercepted_fraction": 0.1},
    "calibration": {"shot_noise_factor": 0.97, "intercepted_fraction": 0.1},
    "estimate-bias": {"transmittance_factor": 1.02, "excess_noise_shift": -0.1, "intercepted_fraction": 0.2},
    "saturation": {"fraction": 1.0, "displacement": 18.0, "limit": 20.0, "intercepted_fraction": 0.5},
}
NAMES = sorted(attacks.ATTACKS)
CONTINUOUS = ("local-oscillator", "calibration", "estimate-bias", "saturation")

apply = jax.jit(attacks.apply)
decoy_telemetry = jax.jit(attacks.decoy_telemetry)
homodyne_telemetry = jax.jit(attacks.homodyne_telemetry)


def decoy_report(transmittance=0.01, background=2e-6, error=0.02, **readings):
    link = decoy_bb84.DecoyLink(transmittance, background, error)
    return decoy_telemetry(np.array(MU), link, test_misalignment_error=0.015, **readings)


def homodyne_report(transmittance=0.3, noise=0.02):
    return homodyne_telemetry(4.0, transmittance, noise, 0.6, 0.01)


def report_for(name):
    return homodyne_report() if name in CONTINUOUS else decoy_report()


def scalars(report):
    return {
        f.name: float(getattr(report, f.name))
        for f in dataclasses.fields(report)
        if f.name in attacks.telemetry._SCALARS
    }


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


# ---- what holds for every attack ----------------------------------------------------------------------------------

#: One shape for all that follows, so that each attack compiles once in either precision.
BATCH = 64


@jax.jit
def probe(attack, honest, weights):
    """The attack, a weighted sum of all that it reports, and the gradient of that in its dials."""

    def worth(attack):
        attacked, eve = attacks.apply(attack, honest)
        read = jnp.concatenate(
            [attacks.features(attacked), eve.known_bits[..., None], eve.unpriced_bits[..., None]], axis=-1
        )
        value = jnp.sum(read * weights, axis=-1)
        return jnp.sum(value), (attacked, eve, value)

    (_, result), gradient = jax.value_and_grad(worth, has_aux=True)(attack)
    return *result, gradient


def tiled(tree, dtype):
    """Every leaf with a leading axis of BATCH."""
    return jax.tree.map(lambda x: jnp.asarray(np.broadcast_to(x, (BATCH, *np.shape(x))), dtype), tree)


def plain(honest):
    """Weights that bring every reading to order one."""
    size = jnp.max(jnp.abs(attacks.features(honest)), axis=0, keepdims=True)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size.shape[-1] + 2)
    scale = jnp.concatenate([1 / jnp.where(size > 0, size, 1), jnp.ones_like(size[:, :2])], axis=-1)
    return jnp.broadcast_to(scale * jnp.asarray(signs, scale.dtype)[None], (BATCH, scale.shape[-1]))


def random_cases(name, seed, dtype, edges=True):
    """Reports and attacks over their ranges; with `edges`, a third of the dials and links lie at an end."""
    rng = np.random.default_rng(seed)

    def draw(low, high, log=False):
        x = np.exp(rng.uniform(np.log(low), np.log(high), BATCH)) if log else rng.uniform(low, high, BATCH)
        ends = rng.choice([0.0 if log else low, high], BATCH)
        return np.where(edges & (rng.uniform(size=BATCH) < 1 / 3), ends, x)

    if name in CONTINUOUS:
        honest = homodyne_telemetry(
            draw(0.1, 20), draw(1e-6, 1, log=True), draw(0, 0.2), np.maximum(draw(0.1, 1), 1e-3), draw(0, 0.2)
        )
        honest = jax.tree.map(
            lambda x, rank: np.broadcast_to(x, (BATCH, *np.shape(x)[np.ndim(x) - rank :])), honest, RANKS
        )
    else:
        link = decoy_bb84.DecoyLink(draw(1e-8, 1, log=True), draw(1e-9, 1e-4, log=True), draw(0, 0.5))
        mu = np.stack([draw(0.2, 1), draw(0.01, 0.15), np.zeros(BATCH)], axis=-1)
        honest = decoy_telemetry(mu, link, basis_ratio=draw(0.1, 0.9), detector_share=draw(0, 1))
        honest = jax.tree.map(
            lambda x, rank: np.broadcast_to(x, (BATCH, *np.shape(x)[np.ndim(x) - rank :])), honest, RANKS
        )
    fields = dataclasses.fields(attacks.ATTACKS[name])
    ranges = {f.name: (max(f.metadata["low"], -30.0), min(f.metadata["high"], 30.0)) for f in fields}
    ranges |= {
        "injected_photons": (0, 1e12), "isolation_db": (60, 250), "blinding_current_ua": (0, 1e3), "shift_ps": (0, 1e3),
        "power_factor": (0.5, 1.5), "shot_noise_factor": (0.5, 1.5), "limit": (1.0, 30.0), "intensity_factor": (1, 5),
        "trigger_width_ps": (0, 200),
    }  # fmt: skip
    attack = attacks.ATTACKS[name](**{f.name: draw(*ranges[f.name]) for f in fields})
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (attack, honest))


#: Trailing axes of each leaf of a report.
RANKS = jax.tree.unflatten(
    jax.tree.structure(attacks.Telemetry(0.0, 0.0, 0.0)),
    [{"intensities": 1, "gain": 2, "error_gain": 2}.get(f.name, 0) for f in dataclasses.fields(attacks.Telemetry)],
)


def test_the_cases_cover_every_attack():
    assert set(IDLE) == set(ACTIVE) == set(attacks.ATTACKS)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_changes_nothing(name, dtype):
    """Bit for bit, whatever the other dials and however crooked the honest readings."""
    rng = np.random.default_rng(0)
    honest = jax.tree.map(
        lambda x: x * jnp.asarray(rng.uniform(0.9, 1.1, x.shape), dtype), tiled(report_for(name), dtype)
    )
    for attack in (attacks.ATTACKS[name](), attacks.ATTACKS[name](**IDLE[name])):
        attacked, eve, *_ = probe(tiled(attack, dtype), honest, plain(honest))
        for f in dataclasses.fields(honest):
            np.testing.assert_array_equal(getattr(attacked, f.name), getattr(honest, f.name), err_msg=f.name)
        assert not np.any(eve.known_bits) and not np.any(eve.unpriced_bits)


@pytest.mark.parametrize("name", NAMES)
def test_an_active_attack_shows_and_pays(name, x64):
    honest = tiled(report_for(name), np.float64)
    attacked, eve, *_ = probe(tiled(attacks.ATTACKS[name](**ACTIVE[name]), np.float64), honest, plain(honest))
    assert np.any(flat(attacked) != flat(honest))
    assert 0 < float(eve.known_bits[0]) <= 1
    assert 0 <= float(eve.unpriced_bits[0]) <= float(eve.known_bits[0])
    inside = name in ("intercept-resend", "photon-number-splitting", "phase-remapping")
    assert (float(eve.unpriced_bits[0]) == 0) == inside


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_finite_differences(name, x64):
    """Around the active cases, dials spread by 1 %; central differences."""
    rng = np.random.default_rng(4)
    honest = tiled(report_for(name), np.float64)
    dials = {dial: value * rng.uniform(0.98, 0.999, BATCH) for dial, value in ACTIVE[name].items()}
    make = attacks.ATTACKS[name]
    weights = plain(probe(tiled(make(**ACTIVE[name]), np.float64), honest, plain(honest))[0])

    def at(dials):
        base = tiled(make(), np.float64)
        return probe(dataclasses.replace(base, **{k: jnp.asarray(v) for k, v in dials.items()}), honest, weights)

    *_, gradient = at(dials)
    for dial, value in dials.items():
        step = 1e-6 * value
        high, low = (np.asarray(at(dials | {dial: value + s})[2]) for s in (step, -step))
        exact = np.asarray(getattr(gradient, dial)) * value
        np.testing.assert_allclose(exact, (high - low) / 2e-6, rtol=1e-5, atol=1e-7, err_msg=dial)


@pytest.mark.parametrize("name", NAMES)
@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=8, deadline=None)
def test_no_attack_leaves_the_range_of_its_readings(name, seed):
    """512 cases an attack and precision, edges included: finite, in range, with a finite gradient."""
    for kind in ("float64", "float32"):
        with precision(kind):
            attack, honest = random_cases(name, seed, kind)
            attacked, eve, _, gradient = probe(attack, honest, plain(honest))
            slack = 1e-5 if kind == "float32" else 1e-12
            for struct in (attacked, eve, gradient):
                for f in dataclasses.fields(struct):
                    value = np.asarray(getattr(struct, f.name), np.float64)
                    assert np.all(np.isfinite(value)), f.name
                    if struct is not gradient:
                        size = slack * max(1.0, float(np.max(np.abs(value))))
                        assert np.all(value >= f.metadata["low"] - size), f.name
                        assert np.all(value <= f.metadata["high"] + size), f.name
            assert np.all(np.asarray(eve.unpriced_bits) <= np.asarray(eve.known_bits) + slack)
            assert np.all(np.asarray(attacked.error_gain) <= np.asarray(attacked.gain) * (1 + slack))


@pytest.mark.parametrize("name", NAMES)
def test_float32_error(name):
    """Readings to 1e-5 of themselves or 1e-6 of the largest of their kind; Eve's bits to 5e-5."""
    with precision("float32"):
        attack, honest = random_cases(name, 7, "float32", edges=False)
        ours = jax.tree.map(lambda x: np.asarray(x, np.float64), probe(attack, honest, plain(honest))[:2])
    with precision("float64"):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), (attack, honest))
        exact = probe(*wide, plain(wide[1]))[:2]
    for f in dataclasses.fields(attacks.Telemetry):
        a, b = getattr(ours[0], f.name), np.asarray(getattr(exact[0], f.name))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.max(np.abs(b)), err_msg=f.name)
    for f in dataclasses.fields(attacks.Eve):
        np.testing.assert_allclose(getattr(ours[1], f.name), getattr(exact[1], f.name), atol=5e-5, err_msg=f.name)


def test_batches_broadcast_and_wrong_shapes_are_refused(x64):
    link = decoy_bb84.DecoyLink(transmittance=np.array([0.1, 0.01, 0.001]))
    honest = decoy_telemetry(np.array(MU), link)
    attacked, eve = apply(attacks.InterceptResend(np.array([[0.1], [0.2]])), honest)
    assert attacked.gain.shape == (2, 3, 2, 3) and eve.known_bits.shape == (2, 3)
    assert attacks.features(attacked).shape == (2, 3, len(attacks.feature_names(3)))
    one, _ = apply(attacks.InterceptResend(0.2), decoy_report())
    assert dict(zip(attacks.feature_names(3), attacks.features(one), strict=True))["qber_key_0"] == one.qber[KEY, 0]
    with pytest.raises(ValueError, match="2 bases"):
        attacks.apply(attacks.InterceptResend(0.1), attacks.Telemetry(np.array(MU), np.zeros(3), np.zeros(3)))
    with pytest.raises(ValueError, match="two intensities"):
        attacks.apply(attacks.LaserSeeding(1.2), homodyne_report())
    with pytest.raises(ValueError, match="fraction"):
        attacks.InterceptResend(1.5)


def test_every_quantity_says_what_it_is():
    for cls in (*attacks.ATTACKS.values(), attacks.Telemetry, attacks.Eve):
        assert cls.__doc__
        for f in dataclasses.fields(cls):
            assert f.metadata["doc"] and f.metadata["low"] <= f.metadata["high"], f.name


# ---- photons ------------------------------------------------------------------------------------------------------

PAULI_X, PAULI_Z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])


def test_intercept_resend_by_density_matrices(x64):
    """Eve measures one half of a Werner state in Z or X: the error rate in both bases, and the CHSH sum."""
    e, p = 0.03, 0.4
    bell = np.array([1, 0, 0, 1]) / math.sqrt(2)
    rho = (1 - 2 * e) * np.outer(bell, bell) + 2 * e * np.eye(4) / 4
    measured = np.zeros((4, 4))
    for axis in (PAULI_Z, PAULI_X):
        for sign in (1, -1):
            projector = np.kron(np.eye(2), (np.eye(2) + sign * axis) / 2)
            measured = measured + projector @ rho @ projector / 2
    rho = (1 - p) * rho + p * measured
    for axis in (PAULI_Z, PAULI_X):
        wrong = (1 - np.trace(rho @ np.kron(axis, axis))) / 2
        assert float(photons.intercepted_qber(e, p)) == pytest.approx(wrong, rel=1e-12)
    left, right = (PAULI_Z + PAULI_X) / math.sqrt(2), (PAULI_Z - PAULI_X) / math.sqrt(2)
    chsh = np.kron(PAULI_Z, left) + np.kron(PAULI_Z, right) + np.kron(PAULI_X, left) - np.kron(PAULI_X, right)
    assert float(photons.intercepted_chsh(e, p)) == pytest.approx(np.trace(rho @ chsh), rel=1e-12)


def test_intercept_resend_is_paid_for(x64):
    """Half a bit of each attacked one, always less than the phase error h(E') that the formula takes away."""
    p = np.linspace(0, 1, 50)
    honest = decoy_telemetry(np.array(MU), decoy_bb84.DecoyLink(0.01, 0.0, 0.0))
    attacked, eve = apply(attacks.InterceptResend(p), honest)
    qber = np.asarray(attacked.qber[:, TEST, 0])
    np.testing.assert_allclose(qber, p / 4, rtol=1e-12)
    np.testing.assert_allclose(eve.known_bits, p / 2)
    assert np.all(np.asarray(binary_entropy(qber)) >= np.asarray(eve.known_bits))


@pytest.mark.parametrize("block", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("eta", [1e-3, 0.3, 1.0])
def test_splitting_by_photon_number(block, eta, x64):
    """Against binomial sums over photon numbers, and the closed form of the docstring."""
    mu, dark = 0.8, 1e-4
    n = np.arange(60)
    weight = stats.poisson.pmf(n, mu)
    forwarded = np.maximum(n - 1, 0)
    click = 1 - stats.binom.pmf(0, forwarded, eta)
    single = weight[1] * (1 - block)
    # photons that reach the receiver, split evenly between two detectors: P(neither), P(not the first)
    silent = (1 - dark) ** 2 * stats.binom.pmf(0, forwarded, eta)
    first = (1 - dark) * stats.binom.pmf(0, forwarded, eta / 2)
    both = 1 - 2 * first + silent
    both_one = 1 - 2 * (1 - dark) * (1 - eta / 2) + (1 - dark) ** 2 * (1 - eta)
    clicks = photons.forwarded_clicks(mu, block, eta)
    assert float(clicks.split) == pytest.approx(weight[2:] @ click[2:], rel=1e-12)
    assert float(clicks.detection) == pytest.approx(weight[2:] @ click[2:] + single * eta, rel=1e-12)
    if eta < 1:
        closed = (-math.expm1(-eta * mu) + eta * math.expm1(-mu)) / (1 - eta)
        assert float(clicks.split) == pytest.approx(closed, rel=1e-10)
    honest = decoy_telemetry(np.array([mu, 0.1]), decoy_bb84.DecoyLink(0.01, 2 * dark, 0.01))
    attacked, eve = apply(attacks.PhotonNumberSplitting(1.0, block, eta), honest)
    empty = weight[0] + weight[1] * block
    double = weight[2:] @ both[2:] + single * both_one + empty * dark**2
    assert float(attacked.double_click_prob) == pytest.approx(double, rel=1e-9)
    gain = 2 * dark + weight[2:] @ click[2:] + single * eta
    assert float(attacked.gain[KEY, 0]) == pytest.approx(gain, rel=1e-12)
    assert float(eve.known_bits) == pytest.approx(weight[2:] @ click[2:] / gain, rel=1e-12)
    by_number = [float(photons.split_yield(k, 2 * dark, block, eta)) for k in range(60)]
    assert weight @ by_number == pytest.approx(gain, rel=1e-12)


def test_splitting_cannot_keep_two_gains(x64):
    """With the signal's gain held and no single let through, the decoy's falls towards the square of the ratio."""
    honest = decoy_telemetry(np.array([0.5, 0.05]), decoy_bb84.DecoyLink(1e-3, 0.0, 0.01))
    eta = photons.transmittance_that_keeps_gain(honest.gain[KEY, 0], 0.5)
    attacked, eve = apply(attacks.PhotonNumberSplitting(1.0, 1.0, eta), honest)
    assert float(attacked.gain[KEY, 0]) == pytest.approx(float(honest.gain[KEY, 0]), rel=1e-12)
    ratio = float(attacked.gain[KEY, 1] / attacked.gain[KEY, 0])
    assert 0.01 < ratio < 0.0125 < 0.09 < float(honest.gain[KEY, 1] / honest.gain[KEY, 0])
    assert float(eve.known_bits) == pytest.approx(1)
    settings = decoy_bb84.DecoySettings(0.5, 0.05, 0.0)
    signal, decoy = (decoy_bb84.Gains(attacked.gain[KEY, k], attacked.error_gain[KEY, k]) for k in (0, 1))
    assert float(decoy_bb84.vacuum_weak_bounds(settings, signal, decoy, 0.0)[0]) < 0


def test_transmittance_that_keeps_gain_inverts_and_differentiates(dtype):
    eta = np.array([1e-4, 0.01, 0.3, 0.99], dtype)
    gain = photons.forwarded_clicks(dtype.type(0.5), dtype.type(0.8), eta).detection
    found = photons.transmittance_that_keeps_gain(gain, dtype.type(0.5), dtype.type(0.8))
    np.testing.assert_allclose(found, eta, rtol=1e-12 if dtype == np.float64 else 2e-6)
    assert float(photons.transmittance_that_keeps_gain(0.4, 0.5)) == 1
    slope = jax.grad(lambda q: photons.transmittance_that_keeps_gain(q, 0.5, 0.8))(0.01)
    step = jax.jvp(lambda x: photons.forwarded_clicks(0.5, 0.8, x).detection,
                   (photons.transmittance_that_keeps_gain(0.01, 0.5, 0.8),), (jnp.ones(()),))[1]  # fmt: skip
    assert float(slope * step) == pytest.approx(1, rel=1e-4)


# ---- the sender's devices -----------------------------------------------------------------------------------------


def test_trojan_imbalance_by_fock_overlap(x64):
    """Delta = (1 - Re<sqrt(mu)|i sqrt(mu)>)/2, summed over photon numbers."""
    for mu in (1e-3, 0.3, 2.0):
        n = np.arange(80)
        overlap = np.sum(stats.poisson.pmf(n, mu) * (1j) ** n)
        assert float(devices.trojan_imbalance(mu)) == pytest.approx((1 - overlap.real) / 2, rel=1e-12)
    np.testing.assert_allclose(devices.trojan_imbalance(np.array([1e-12, 1e-9])), [5e-13, 5e-10], rtol=1e-8)


def test_trojan_bound_lies_above_what_a_leak_must_give(x64):
    leak = np.logspace(-12, -1, 60)
    phase = devices.trojan_phase_error(leak, 1.0, 0.0)
    assert np.all(np.asarray(binary_entropy(phase)) >= np.asarray(devices.leaked_holevo_bits(leak)))
    assert np.all(np.diff(phase) >= 0) and float(devices.trojan_phase_error(1e-3, 1e-4, 0.01)) == 0.5


def test_trojan_moves_the_watchdog_and_nothing_else(x64):
    honest = decoy_report()
    attack = attacks.TrojanHorse(1e10, 160.0, 1e-3)
    assert float(attack.leaked_photons) == pytest.approx(1e-6)
    attacked, eve = apply(attack, honest)
    before, after = scalars(honest), scalars(attacked)
    assert {k for k in before if before[k] != after[k]} == {"back_reflection_photons"}
    np.testing.assert_array_equal(attacked.gain, honest.gain)
    # the worth by hand: singles' share times the rise of h
    y1, share = 0.010002, 0.5 * math.exp(-0.5) * 0.010002 / float(honest.gain[KEY, 0])
    e1 = (1e-6 + 0.015 * 0.01) / y1
    rise = binary_entropy(devices.trojan_phase_error(1e-6, y1, e1)) - binary_entropy(e1)
    assert float(eve.unpriced_bits) == pytest.approx(share * float(rise), rel=1e-6)
    _, blind = apply(attacks.TrojanHorse(1e10, 60.0), honest)
    assert float(blind.known_bits) == pytest.approx(share * (1 - float(binary_entropy(e1))), rel=1e-6)


def test_seeding_is_a_brighter_source_that_the_sender_does_not_know(x64):
    g, link = 1.4, decoy_bb84.DecoyLink(0.01, 2e-6, 0.02)
    honest = decoy_telemetry(np.array(MU), link)
    brighter = decoy_telemetry(g * np.array(MU), link)
    attacked, eve = apply(attacks.LaserSeeding(g), honest)
    for name in ("gain", "error_gain", "double_click_prob", "vacuum_yield"):
        np.testing.assert_allclose(getattr(attacked, name), getattr(brighter, name), rtol=1e-12)
    assert float(attacked.source_monitor) == pytest.approx(g)

    def singles(scale):
        settings = decoy_bb84.DecoySettings(0.5 * scale, 0.1 * scale, 0.0)
        signal, weak = (decoy_bb84.Gains(brighter.gain[KEY, k], brighter.error_gain[KEY, k]) for k in (0, 1))
        y1, e1 = decoy_bb84.vacuum_weak_bounds(settings, signal, weak, 2e-6)
        return float(y1), float(0.5 * scale * jnp.exp(-0.5 * scale) * y1 * (1 - binary_entropy(e1)))

    (believed, credited), (true, secure) = singles(1.0), singles(g)
    assert believed > 1.3 * float(decoy_bb84.photon_yield(1, link)) > true
    assert float(eve.unpriced_bits) == pytest.approx((credited - secure) / float(brighter.gain[KEY, 0]), rel=1e-9)


def test_damage_is_seeding_behind_the_monitor(x64):
    honest = decoy_report()
    damaged, eve = apply(attacks.LaserDamage(2.0, 15.0), honest)
    seeded, other = apply(attacks.LaserSeeding(10**0.2), honest)
    np.testing.assert_allclose(damaged.gain, seeded.gain, rtol=1e-12)
    assert float(damaged.source_monitor) == 1 and float(eve.known_bits) == pytest.approx(float(other.known_bits))
    assert float(attacks.LaserDamage(2.0, 15.0).opened(attacks.TrojanHorse(1.0, 160.0)).isolation_db) == 145


@pytest.mark.parametrize("step", [0.1, 1.0, 2.0, math.pi])
def test_remapping_by_projection(step, x64):
    """All four states through Eve's projection, her resent state and a receiver in the right basis."""
    sent = [np.array([1, np.exp(1j * k * step / 2)]) / math.sqrt(2) for k in range(4)]
    weight = np.array([1 - abs(np.vdot(sent[1], s)) ** 2 for s in sent]) / 4  # the answer "not the second"
    resent = np.array([1, np.exp(3j * math.pi / 2)]) / math.sqrt(2)
    wrong = informed = 0.0
    for k in range(4):
        flipped = np.array([1, np.exp(1j * (k + 2) * math.pi / 2)]) / math.sqrt(2)
        wrong += weight[k] * abs(np.vdot(flipped, resent)) ** 2
    for basis in ((0, 2), (1, 3)):
        total = weight[list(basis)].sum()
        informed += total * (1 - float(binary_entropy(weight[basis[0]] / total)))
    assert float(devices.remapping_success(step)) == pytest.approx(weight.sum(), rel=1e-12)
    assert float(devices.remapping_qber(step)) == pytest.approx(wrong / weight.sum(), rel=1e-12)
    _, eve = apply(attacks.PhaseRemapping(1.0, step), decoy_report())
    assert float(eve.known_bits) == pytest.approx(informed / weight.sum(), rel=1e-9)


def test_remapping_ends_at_intercept_resend(x64):
    """Nothing remapped: 1/4. The observed 19.7 % of Xu, Qi, Lo lie between the ends."""
    e = devices.remapping_qber(np.linspace(1e-3, math.pi, 50))
    assert (
        np.all(np.diff(e) > 0) and float(e[0]) == pytest.approx(1 / 6, abs=1e-6) and float(e[-1]) == pytest.approx(0.25)
    )
    assert float(e[0]) < 0.197 < float(e[-1])
    plain, _ = apply(attacks.InterceptResend(0.3), decoy_report())
    remapped, _ = apply(attacks.PhaseRemapping(0.3), decoy_report())
    np.testing.assert_allclose(remapped.error_gain, plain.error_gain, rtol=1e-12)


# ---- the receiver's devices ---------------------------------------------------------------------------------------


def test_blinding_leaves_no_error_and_every_monitor_moved(x64):
    honest = decoy_report()
    eta = -math.log1p(-2 * -math.expm1(-0.01 * 0.5)) / 0.5  # twice the clicks make up for the wrong basis
    attacked, eve = apply(attacks.Blinding(1.0, eta), honest)
    assert float(attacked.gain[KEY, 0]) == pytest.approx(float(honest.gain[KEY, 0]), rel=1e-3)
    assert float(eve.known_bits) == 1 and float(attacked.qber.max()) == 0
    assert float(attacked.vacuum_yield) == float(attacked.double_click_prob) == 0
    assert float(attacked.dark_count_prob_per_gate) == 0 and float(attacked.photocurrent_ua) > 100
    assert float(attacked.timing_width_ps) == 30
    half, _ = apply(attacks.Blinding(0.5, eta), honest)
    assert 30 < float(half.timing_width_ps) < 100


def test_faked_states_by_simulation(x64):
    rng = np.random.default_rng(3)
    n, mu, eta, error, match, other = 400_000, 1.5, 0.6, 0.05, 0.9, 0.2
    seen = rng.uniform(size=n) < -math.expm1(-mu * eta)
    same = rng.uniform(size=n) < 0.5
    click = seen & (rng.uniform(size=n) < np.where(same, match, other))
    wrong = click & (rng.uniform(size=n) < np.where(same, error, 0.5))
    gain, error_gain = devices.faked_state_gains(mu, eta, error, match, other)
    np.testing.assert_allclose([click.mean(), wrong.mean()], [float(gain), float(error_gain)], rtol=0.02)


def test_control_is_perfect_inside_a_window_of_3_db(dtype):
    power = dtype.type(1.9)
    match, other = devices.faked_state_clicks(power, 1.0, 1.5)
    assert float(match) == 1 and float(other) == 0
    match, other = devices.faked_state_clicks(dtype.type(2.2), 1.0, 1.5)
    assert float(match) == 1 and float(other) > 0  # too bright: the wrong basis clicks
    switched, _ = devices.faked_state_clicks(power, 1.0, 1.5, 3.0)
    assert float(switched) == 0  # photons would still click half as often
    sharp, off = devices.faked_state_clicks(dtype.type(1.0), 1.0, 1.0)
    assert float(sharp) == 1 and float(off) == 0


def test_time_shift_by_simulation(x64):
    rng = np.random.default_rng(5)
    n, r, x, s, a, width, shift = 2_000_000, 0.3, 0.6, 0.7, 0.45, 100.0, 400.0
    detector = (rng.uniform(size=n) >= a).astype(int)
    shifted = rng.uniform(size=n) < x
    favoured = (rng.uniform(size=n) >= s).astype(int)
    click = ~shifted | (detector == favoured) | (rng.uniform(size=n) < r)
    time = rng.normal(0, width, n) + np.where(shifted, np.where(favoured == 0, shift, -shift), 0)
    honest = decoy_telemetry(np.array(MU), decoy_bb84.DecoyLink(0.01, 0.0, 0.02), detector_share=a)
    attacked, _ = apply(attacks.TimeShift(x, r, s, shift), honest)
    assert float(attacked.gain[KEY, 0] / honest.gain[KEY, 0]) == pytest.approx(click.mean(), rel=2e-3)
    assert float(attacked.detector_share) == pytest.approx(1 - detector[click].mean(), abs=1e-3)
    assert float(attacked.timing_mean_ps) == pytest.approx(time[click].mean(), abs=0.6)
    assert float(attacked.timing_width_ps) == pytest.approx(time[click].std(), abs=0.6)


def test_time_shift_takes_turns_and_keeps_the_errors(x64):
    honest = decoy_report(background=0.0)
    r = np.linspace(0, 1, 11)
    attacked, eve = apply(attacks.TimeShift(1.0, r), honest)
    np.testing.assert_allclose(attacked.gain[:, KEY, 0], honest.gain[KEY, 0] * (1 + r) / 2, rtol=1e-12)
    np.testing.assert_allclose(attacked.qber[:, :, 0], np.broadcast_to(honest.qber[:, 0], (11, 2)), rtol=1e-12)
    np.testing.assert_allclose(attacked.detector_share, 0.5)
    np.testing.assert_allclose(eve.known_bits, 1 - np.asarray(binary_entropy(1 - detectors.bit_bias(r))), atol=1e-12)


def test_wavelength_control_by_simulation(x64):
    """Eve, sender and receiver choose bases; control c, with Eve favouring the key basis."""
    rng = np.random.default_rng(8)
    n, c, q, e = 3_000_000, 0.8, 0.7, 0.03
    alice, eve_basis = rng.integers(0, 2, n), (rng.uniform(size=n) >= q).astype(int)
    bob = np.where(rng.uniform(size=n) < c, eve_basis, 1 - eve_basis)
    wrong = rng.uniform(size=n) < np.where(alice == eve_basis, np.where(bob == alice, e, 0.5), 0.5)
    honest = decoy_telemetry(np.array(MU), decoy_bb84.DecoyLink(0.01, 0.0, e))
    attacked, eve = apply(attacks.WavelengthSplitter(1.0, c, q), honest)
    for basis in (KEY, TEST):
        sifted = (alice == basis) & (bob == basis)
        assert float(attacked.qber[basis, 0]) == pytest.approx(wrong[sifted].mean(), abs=2e-3)
        per_pulse = sifted.sum() / (n / 4)  # an honest receiver: a quarter in each basis
        assert float(attacked.gain[basis, 0] / honest.gain[basis, 0]) == pytest.approx(per_pulse, rel=5e-3)
    key = (alice == KEY) & (bob == KEY)
    assert float(eve.known_bits) == pytest.approx((eve_basis[key] == KEY).mean(), abs=2e-3)
    assert float(attacked.basis_ratio) == pytest.approx((bob == KEY).mean(), abs=2e-3)


def test_wavelength_attack_spans_from_intercept_resend_to_no_error(x64):
    honest = decoy_report()
    plain, _ = apply(attacks.InterceptResend(0.3), honest)
    uncontrolled, _ = apply(attacks.WavelengthSplitter(0.3, 0.5), honest)
    np.testing.assert_allclose(uncontrolled.error_gain, plain.error_gain, rtol=1e-12)
    total, eve = apply(attacks.WavelengthSplitter(0.3, 1.0), honest)
    np.testing.assert_allclose(total.qber, honest.qber, rtol=1e-12)
    assert float(eve.unpriced_bits) == pytest.approx(0.3) and float(total.wavelength_basis_correlation) == 0.3


# ---- continuous variables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTINUOUS)
def test_estimates_stay_consistent_with_the_measured_variance(name, x64):
    """Users compute xi from the variance: eta T (V_A + xi) + 1 + v_el must give it back under every attack."""
    for report in (homodyne_report(), homodyne_report(0.01, 0.1)):
        a, _ = apply(attacks.ATTACKS[name](**ACTIVE[name]), report)
        variance = 0.6 * a.channel_transmittance * (4.0 + a.excess_noise) + 1 + 0.01
        assert float(a.quadrature_variance) == pytest.approx(float(variance), rel=1e-12)


def test_dimmed_oscillator_hides_an_intercept(x64):
    honest = homodyne_report(0.1, 0.01)
    k = quadratures.factor_that_hides(1.0, 0.1, 0.6)
    attacked, eve = apply(attacks.LocalOscillator(k, 1.0), honest)
    assert float(attacked.excess_noise) == pytest.approx(0.01, rel=1e-9)
    assert float(eve.unpriced_bits) == pytest.approx(1) and float(attacked.shot_noise) == pytest.approx(float(k))
    seen, eve = apply(attacks.LocalOscillator(1.0, 0.4), honest)
    assert float(seen.excess_noise) == pytest.approx(0.81) and float(eve.unpriced_bits) == 0
    delayed, _ = apply(attacks.Calibration(k, 1.0), honest)
    assert float(delayed.local_oscillator) == 1 and float(delayed.shot_noise) == pytest.approx(float(k))


def sampled_quadratures(rng, n, t, xi, share=0.0, intercepted=0.0):
    """Sent value, received value and which pulses are attacked; intercepted ones carry two units more."""
    attacked = rng.uniform(size=n) < share
    caught = attacked & (rng.uniform(size=n) < intercepted)
    sent = rng.normal(0, 2.0, n)
    noise = rng.normal(0, 1, n) * np.sqrt(0.6 * t * (xi + 2.0 * caught) + 1.01)
    return sent, math.sqrt(0.6 * t) * sent + noise, attacked


def test_dimmed_oscillator_by_simulation(x64):
    rng = np.random.default_rng(2)
    t, xi, k, p = 0.5, 0.05, 0.8, 0.3
    caught = rng.uniform(size=2_000_000) < p
    sent = rng.normal(0, 2.0, caught.size)
    light = math.sqrt(0.6 * t) * sent + rng.normal(0, 1, caught.size) * np.sqrt(1 + 0.6 * t * (xi + 2 * caught))
    y = math.sqrt(k) * light + rng.normal(0, 0.1, caught.size)
    attacked, _ = apply(attacks.LocalOscillator(k, p), homodyne_report(t, xi))
    slope = np.mean(sent * y) / 4.0
    estimate = (y.var() - 1.01 - slope**2 * 4.0) / slope**2
    assert float(attacked.channel_transmittance) == pytest.approx(slope**2 / 0.6, rel=3e-3)
    assert float(attacked.excess_noise) == pytest.approx(estimate, abs=0.02)
    assert float(attacked.quadrature_variance) == pytest.approx(y.var(), rel=3e-3)
    assert float(attacked.quadrature_kurtosis) == pytest.approx(stats.kurtosis(y, fisher=False), abs=0.02)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_saturation_by_simulation(share, x64):
    """Displaced, clipped samples: moments, and T and xi as the users would fit them."""
    rng = np.random.default_rng(11)
    t, xi, shift, limit = 0.3, 0.02, 7.0, 7.5
    sent, y, attacked_pulse = sampled_quadratures(rng, 2_000_000, t, xi, share)
    y = np.where(attacked_pulse, np.clip(y + shift, -limit, limit), y)
    attacked, _ = apply(attacks.Saturation(share, shift, limit), homodyne_report(t, xi))
    assert float(attacked.quadrature_mean) == pytest.approx(y.mean(), abs=0.01)
    assert float(attacked.quadrature_variance) == pytest.approx(y.var(), rel=3e-3)
    assert float(attacked.quadrature_kurtosis) == pytest.approx(stats.kurtosis(y, fisher=False), rel=5e-3)
    slope = np.mean(sent * (y - y.mean())) / 4.0
    assert float(attacked.channel_transmittance) == pytest.approx(slope**2 / 0.6, rel=1e-2)
    estimate = (y.var() - 1.01) / slope**2 - 4.0
    assert float(attacked.excess_noise) == pytest.approx(estimate, abs=0.02 * (4 + abs(estimate)))


def test_saturation_hides_noise(x64):
    """A full intercept, two units of noise, brought below the honest estimate by displacement alone."""
    shift = np.linspace(10, 21, 23)
    attacked, eve = apply(attacks.Saturation(1.0, shift, 20.0, 1.0), homodyne_report(0.3, 0.01))
    assert float(attacked.excess_noise[0]) == pytest.approx(2.01, rel=1e-6) and float(eve.unpriced_bits[0]) < 1e-6
    best = int(np.argmin(attacked.excess_noise))
    assert float(attacked.excess_noise[best]) < 0.01 and float(eve.unpriced_bits[best]) == 1


@pytest.mark.parametrize("mean", [-6.0, 0.0, 0.3, 4.9, 8.0])
def test_clipped_moments_by_integration(mean, x64):
    std, limit = 1.3, 5.0
    x = np.linspace(mean - 12 * std, mean + 12 * std, 2_000_001)
    weight = stats.norm.pdf(x, mean, std)
    weight /= weight.sum()
    y = np.clip(x, -limit, limit)
    centre = weight @ y
    got = quadratures.clipped_moments(mean, std, limit)
    for order, value in ((2, got.variance), (3, got.third), (4, got.fourth)):
        assert float(value) == pytest.approx(weight @ (y - centre) ** order, rel=1e-4, abs=1e-6), order
    assert float(got.mean) == pytest.approx(centre, abs=1e-6)
    assert float(got.linear_gain) == pytest.approx(stats.norm.cdf(limit, mean, std) - stats.norm.cdf(-limit, mean, std))


def test_unclipped_moments_are_gaussian(dtype):
    got = quadratures.clipped_moments(dtype.type(0.5), dtype.type(1.0), dtype.type(30.0))
    np.testing.assert_allclose(
        [got.mean, got.variance, got.fourth, got.linear_gain],
        [0.5, 1, 3, 1],
        rtol=1e-12 if dtype == np.float64 else 1e-5,
    )
    mirrored = quadratures.clipped_moments(np.array([-2.0, 2.0], dtype), 1.0, 2.5)
    np.testing.assert_array_equal(-mirrored.mean[0], mirrored.mean[1])
    np.testing.assert_array_equal(-mirrored.third[0], mirrored.third[1])

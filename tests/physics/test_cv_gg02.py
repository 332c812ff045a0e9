"""Gaussian-modulated CV-QKD: explicit covariance matrices, exact limits, finite size, single precision."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym import struct
from qkd_gym.physics import cv_gg02 as cv
from qkd_gym.physics import information
from tests.physics.conftest import precision

BOTH = pytest.mark.parametrize("detection", cv.DETECTIONS)
EITHER = pytest.mark.parametrize("receiver", cv.RECEIVERS)

#: Every call is padded to this many points, so that each kind of receiver is compiled once per precision.
BATCH = 512


@jax.jit
def compiled(users, where, pulses):
    worst = cv.worst_case(users, where, pulses)
    return {
        "information": cv.mutual_information(users, where),
        "holevo": cv.holevo(users, where),
        "rate": cv.key_rate(users, where),
        "worst": worst,
        "worst_holevo": cv.worst_holevo(users, where, worst),
        "finite": cv.finite_key_rate(users, where, pulses),
    }


@jax.jit
def gradient(users, where, pulses):
    """Of the rate, and of three times the finite-size rate, added up: each point's in its own row."""

    def total(users, where, pulses):
        return jnp.sum(cv.key_rate(users, where) + 3 * cv.finite_key_rate(users, where, pulses))

    return jax.grad(total, argnums=(0, 1, 2))(users, where, pulses)


def batched(function, users, where, pulses=1e9):
    shape = np.broadcast_shapes(*map(np.shape, jax.tree.leaves((users, where, pulses))))
    count, dtype = int(np.prod(shape, dtype=int)), jnp.result_type(float)
    rows = jax.tree.map(lambda x: np.resize(np.broadcast_to(x, shape).astype(dtype), BATCH), (users, where, pulses))
    return jax.tree.map(lambda x: np.asarray(x)[:count].reshape(shape), function(*rows))


def evaluate(users, where, pulses=1e9):
    return batched(compiled, users, where, pulses)


def information_of(*args):
    return evaluate(*args)["information"]


def holevo(*args):
    return evaluate(*args)["holevo"]


def rate(*args):
    return evaluate(*args)["rate"]


def finite_rate(*args):
    return evaluate(*args)["finite"]


def link(length_km=25.0, **changes):
    return cv.CvLink(**({"transmittance": 10 ** (-0.02 * np.asarray(length_km))} | changes))


def random_links(count, dtype, detection, receiver, seed=0):
    """Settings and links over 0 to 150 km, one in ten without excess noise."""
    rng = np.random.default_rng(seed)
    users = cv.CvSettings(np.exp(rng.uniform(np.log(0.5), np.log(20), count)), rng.uniform(0.3, 0.9, count))
    where = cv.CvLink(
        transmittance=10 ** (-0.02 * rng.uniform(0, 150, count)),
        excess_noise=rng.uniform(0, 0.05, count) * (rng.uniform(size=count) > 0.1),
        detector_efficiency=rng.uniform(0.4, 1, count),
        electronic_noise=rng.uniform(0, 0.1, count),
        reconciliation_efficiency=rng.uniform(0.9, 1, count),
        frame_error_rate=np.zeros(count),
        detection=detection,
        receiver=receiver,
    )
    return jax.tree.map(lambda x: x.astype(dtype), (users, where))


# ---- the same from matrices ----------------------------------------------------------------------------------------

Z = np.diag([1.0, -1.0])


def entropy(gamma):
    """Von Neumann entropy of a Gaussian state, from the eigenvalues of i Omega gamma, and those eigenvalues."""
    modes = len(gamma) // 2
    omega = np.kron(np.eye(modes), [[0, 1], [-1, 0]])
    nu = np.sort(np.abs(np.linalg.eigvals(1j * omega @ gamma)))[::2]
    nu = np.maximum(nu, 1)
    above = nu[nu > 1 + 1e-12]
    return np.sum((above + 1) / 2 * np.log2((above + 1) / 2) - (above - 1) / 2 * np.log2((above - 1) / 2)), nu


def measured(gamma, keep, mode, detection):
    """Covariance matrix of the modes `keep` once `mode` is measured."""
    rows = [2 * i + j for i in keep for j in (0, 1)]
    block = slice(2 * mode, 2 * mode + 2)
    rest, cross, seen = gamma[np.ix_(rows, rows)], gamma[rows, block], gamma[block, block]
    if detection == "homodyne":
        inverse = np.diag([1 / seen[0, 0], 0])
    else:
        inverse = np.linalg.inv(seen + np.eye(2))
    return rest - cross @ inverse @ cross.T


def matrices(va, t, xi):
    """Alice's half of the two-mode squeezed state and what leaves the channel."""
    v, b, c = va + 1, 1 + t * (va + xi), np.sqrt(t * va * (va + 2))
    return np.block([[v * np.eye(2), c * Z], [c * Z, b * np.eye(2)]])


def holevo_from_matrices(va, t, xi, eta, v_el, detection, receiver):
    """Trusted: Bob's detector is a beam splitter fed by half of a squeezed pair, his. Untrusted: Eve's."""
    pair = matrices(va, t, xi)
    added = v_el * (2 if detection == "heterodyne" else 1)
    if receiver == "untrusted":
        split = np.diag([1, 1, np.sqrt(eta), np.sqrt(eta)])
        state = split @ pair @ split + np.diag([0, 0, 1, 1]) * (1 - eta + added)
        return entropy(state)[0] - entropy(measured(state, [0], 1, detection))[0]
    n = 1 + added / (1 - eta)
    c = np.sqrt(n * n - 1)
    noise = np.block([[n * np.eye(2), c * Z], [c * Z, n * np.eye(2)]])
    zero = np.zeros((4, 4))
    gamma = np.block([[pair, zero], [zero, noise]])  # modes A, B, F, G
    mix = np.eye(8)
    mix[2:4, 2:4] = mix[4:6, 4:6] = np.sqrt(eta) * np.eye(2)
    mix[2:4, 4:6] = np.sqrt(1 - eta) * np.eye(2)
    mix[4:6, 2:4] = -mix[2:4, 4:6]
    before, nu = entropy(pair)
    after, nu_after = entropy(measured(mix @ gamma @ mix.T, [0, 2, 3], 1, detection))
    return before - after, nu, nu_after


@BOTH
def test_trusted_receiver_is_its_covariance_matrices(detection, x64):
    users, where = random_links(40, np.float64, detection, "trusted")
    where = struct.replace(where, detector_efficiency=np.minimum(where.detector_efficiency, 0.98))
    got = holevo(users, where)
    for i in range(40):
        bits, nu, nu_after = holevo_from_matrices(
            users.modulation_variance[i], where.transmittance[i], where.excess_noise[i], where.detector_efficiency[i],
            where.electronic_noise[i], detection, "trusted",
        )  # fmt: skip
        assert float(got.bits[i]) == pytest.approx(bits, abs=2e-11)
        np.testing.assert_allclose([got.excess_2[i], got.excess_1[i]], nu - 1, atol=1e-11 * nu[-1])
        np.testing.assert_allclose([0, got.excess_4[i], got.excess_3[i]], nu_after - 1, atol=3e-11 * nu[-1])


@BOTH
def test_untrusted_receiver_gives_eve_its_noise(detection, x64):
    users, where = random_links(40, np.float64, detection, "untrusted", seed=1)
    bits = holevo(users, where).bits
    want = [
        holevo_from_matrices(*values, detection, "untrusted")
        for values in zip(
            users.modulation_variance,
            where.transmittance,
            where.excess_noise,
            where.detector_efficiency,
            where.electronic_noise,
            strict=True,
        )
    ]
    np.testing.assert_allclose(bits, want, atol=2e-11)


def test_a_noisy_channel_whose_eigenvalues_cross(x64):
    """Excess noise above the loss makes Bob's mode the larger one; the labels swap and nothing else happens."""
    xi, t, va, eta, v = np.linspace(0, 8, 41), 0.7, 3.0, 0.8, 0.05
    for detection in cv.DETECTIONS:
        got = holevo(cv.CvSettings(va), cv.CvLink(t, xi, eta, v, detection=detection))
        want = [holevo_from_matrices(va, t, x, eta, v, detection, "trusted")[0] for x in xi]
        np.testing.assert_allclose(got.bits, want, atol=1e-11)


def test_worked_points(x64):
    users, where = cv.CvSettings(4.0), link(25.0)
    got = holevo(users, where)
    np.testing.assert_allclose(information_of(users, where), 0.403687, rtol=2e-6)
    np.testing.assert_allclose(got.bits, 0.291876, rtol=2e-6)
    eigenvalues = 1 + np.array([got.excess_1, got.excess_2, got.excess_3, got.excess_4])
    np.testing.assert_allclose(eigenvalues, [3.73593, 1.00401, 3.09596, 1.0014], rtol=0, atol=5e-6)  # as printed
    where = link(25.0, detection="heterodyne")
    np.testing.assert_allclose(information_of(users, where), 0.459813, rtol=2e-6)
    np.testing.assert_allclose(holevo(users, where).bits, 0.344070, rtol=2e-6)
    worst = cv.worst_case(users, link(25.0), 1e8)
    np.testing.assert_allclose(worst.transmittance, 0.315560, rtol=2e-6)
    np.testing.assert_allclose(worst.excess_noise, 0.0169336, rtol=4e-6)
    np.testing.assert_allclose(cv.penalty(5e7), 0.00579226, rtol=2e-6)
    np.testing.assert_allclose(finite_rate(users, link(25.0), 1e8), 0.0399522, rtol=4e-6)


# ---- exact limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.05, 0.3, 0.9])
def test_pure_loss_and_endless_modulation(t, x64):
    """The limits are approached from below as 1/V_A, so two modulations extrapolate to them."""
    n = (1 - t) / t
    limits = {
        "homodyne": 0.5 * np.log2(1 / (1 - t)),
        "heterodyne": np.log2(t / (np.e * (1 - t))) + (n + 1) * np.log2(n + 1) - n * np.log2(n),
    }
    for detection, limit in limits.items():
        ideal = cv.CvLink(t, 0.0, 1.0, 0.0, 1.0, 0.0, detection=detection)
        near, far = rate(cv.CvSettings(np.array([1e5, 1e6])), ideal)
        assert near < far < limit <= information.plob_bound(t)
        assert far + (far - near) / 9 == pytest.approx(limit, abs=1e-8)


@BOTH
@EITHER
def test_nothing_sent_or_nothing_arrives(detection, receiver, dtype):
    kinds = {"detection": detection, "receiver": receiver}
    silent = rate(cv.CvSettings(0.0), link(25.0, **kinds))
    assert information_of(cv.CvSettings(0.0), link(25.0, **kinds)) == 0 and silent <= 0
    dark = cv.CvLink(transmittance=0.0, **kinds)
    assert information_of(cv.CvSettings(), dark) == 0 and rate(cv.CvSettings(), dark) <= 0
    assert finite_rate(cv.CvSettings(), dark, 1e12) <= 0
    assert cv.worst_case(cv.CvSettings(), dark, 1e12).transmittance == 0


@BOTH
def test_no_loss_no_noise_no_eve(detection, dtype):
    perfect = cv.CvLink(transmittance=1.0, excess_noise=0.0, detection=detection)
    assert float(holevo(cv.CvSettings(), perfect).bits) == 0


@BOTH
def test_an_ideal_receiver_need_not_be_trusted(detection, dtype):
    users, where = random_links(50, dtype, detection, "trusted")
    ideal = struct.replace(where, detector_efficiency=np.ones(50, dtype), electronic_noise=np.zeros(50, dtype))
    np.testing.assert_array_equal(rate(users, ideal), rate(users, struct.replace(ideal, receiver="untrusted")))
    distrust = struct.replace(where, receiver="untrusted")
    assert np.all(holevo(users, distrust).bits >= holevo(users, where).bits * (1 - 4e-6))
    np.testing.assert_allclose(information_of(users, distrust), information_of(users, where), rtol=2e-6)


@BOTH
@EITHER
def test_never_above_plob(detection, receiver, dtype):
    users, where = random_links(BATCH, dtype, detection, receiver)
    assert np.all(rate(users, where) <= information.plob_bound(where.transmittance))


@BOTH
@EITHER
def test_rate_falls_with_every_imperfection(detection, receiver, x64):
    steps = np.linspace(0, 1, 40)

    def curve(length=20.0, **changes):
        where = struct.replace(link(length, detection=detection, receiver=receiver), **changes)
        return np.maximum(rate(cv.CvSettings(3.0), where), 0)

    curves = [
        curve(150 * steps),
        curve(excess_noise=0.2 * steps),
        curve(reconciliation_efficiency=1 - 0.3 * steps),
        curve(frame_error_rate=steps),
        curve(detector_efficiency=1 - 0.7 * steps),
    ]
    if receiver == "untrusted":  # trusted noise may help, it weakens Eve as well
        curves.append(curve(electronic_noise=0.3 * steps))
    for values in curves:
        assert values[0] > 0 and np.all(np.diff(values) <= 0) and values[-1] < values[0]


def test_optimal_modulation(x64):
    optimum = jax.jit(cv.optimal_rate)
    far, near = link(100.0), link(5.0)
    (v_far, v_near), (r_far, r_near) = optimum(link(np.array([100.0, 5.0])))
    assert 1 < v_far < 10 < v_near < 100
    for where, v, r in ((far, float(v_far), r_far), (near, float(v_near), r_near)):
        assert float(r) == pytest.approx(float(rate(cv.CvSettings(v), where)), rel=1e-12)
        assert r > rate(cv.CvSettings(1.05 * v), where) and r > rate(cv.CvSettings(v / 1.05), where)


# ---- finite blocks -------------------------------------------------------------------------------------------------


@BOTH
@EITHER
def test_finite_blocks_approach_the_endless_one(detection, receiver, x64):
    where = link(25.0 if receiver == "trusted" else 10.0, detection=detection, receiver=receiver)
    users = cv.CvSettings(4.0, 0.5)
    rates = finite_rate(users, where, 10.0 ** np.arange(4, 19))
    endless = 0.5 * float(rate(users, where))
    assert np.all(np.diff(rates) > 0) and rates[-1] < endless
    assert rates[-1] == pytest.approx(endless, rel=1e-5)


@BOTH
def test_both_worst_cases(detection, x64):
    """The rate of the worst-case channel is below the published mixture, and the lowest within the region."""
    strict = cv.CvDistillation(mutual_information_at="worst")
    for length in (5.0, 25.0, 60.0):
        users, where = cv.CvSettings(), link(length, detection=detection)
        got = evaluate(users, where, 1e9)
        worst = got["worst"]
        t = np.linspace(worst.transmittance, where.transmittance, 9)
        inside = evaluate(users, struct.replace(where, transmittance=t, excess_noise=worst.output_noise / t))
        assert np.all(np.diff(inside["rate"]) > 0)
        np.testing.assert_allclose(inside["holevo"].bits[0], got["worst_holevo"].bits, rtol=1e-12)
        least = cv.finite_key_rate(users, where, 1e9, strict)
        assert float(least) == pytest.approx(0.5 * (inside["rate"][0] - float(cv.penalty(5e8))), rel=1e-12)
        assert least < got["finite"]
    # the Holevo bound alone is larger at the channel that is expected
    assert inside["holevo"].bits[-1] > inside["holevo"].bits[0]


def test_a_short_block_knows_nothing(dtype):
    worst = evaluate(cv.CvSettings(), link(50.0), np.array([0.0, 1.0, 20.0]))["worst"]
    assert np.all(worst.transmittance == 0) and np.all(np.isinf(worst.excess_noise))
    assert np.all(finite_rate(cv.CvSettings(4.0, np.array([0.0, 1.0])), link(1.0), 1e12) <= 0)


def test_confidence_is_the_two_sided_quantile(dtype):
    """Against mpmath; erfinv(1 - eps) itself has no digits left at 1e-10."""
    mpmath.mp.dps = 60
    eps = np.array([1e-30, 1e-15, 1e-10, 1e-6, 1e-2, 0.5], dtype)
    want = [float(mpmath.sqrt(2) * mpmath.erfinv(1 - mpmath.mpf(float(e)))) for e in eps]
    users, where = cv.CvSettings(np.full(6, 4.0, dtype)), link()
    got = cv.worst_case(
        users, jax.tree.map(lambda x: np.full(6, x, dtype), where), np.full(6, 1e8, dtype), cv.CvDistillation(eps)
    )
    np.testing.assert_allclose(got.confidence, want, rtol=1e-13 if dtype == np.float64 else 5e-7)
    assert cv.worst_case(cv.CvSettings(), where, 1e8, cv.CvDistillation(1.0)).confidence == 0


# ---- numerics ------------------------------------------------------------------------------------------------------


def test_entropy_and_its_drops(dtype):
    """Against 40 digits, from vacuum to 100 photons, with steps of either sign down to 1e-9 of the argument."""
    mpmath.mp.dps = 40

    def exact(n):
        return (n + 1) * mpmath.log(n + 1, 2) - (n * mpmath.log(n, 2) if n else 0)

    rng = np.random.default_rng(3)
    lower = np.concatenate([np.zeros(20), 10 ** rng.uniform(-9, 2, 180)]).astype(dtype)
    gap = (10 ** rng.uniform(-9, 2, 200) * np.maximum(lower, 1e-3)).astype(dtype)
    fall = (rng.uniform(0, 0.9, 200) * lower).astype(dtype)
    for step in (gap, -fall):
        want = [
            float(exact(mpmath.mpf(float(a)) + mpmath.mpf(float(x))) - exact(mpmath.mpf(float(a))))
            for a, x in zip(lower, step, strict=True)
        ]
        got = np.asarray(cv.entropy_drop(jnp.asarray(lower + step), jnp.asarray(lower), jnp.asarray(step)), np.float64)
        np.testing.assert_allclose(got, want, rtol=5e-14 if dtype == np.float64 else 1e-6, atol=0)
    want = [float(exact(mpmath.mpf(float(a)))) for a in lower]
    np.testing.assert_allclose(cv.thermal_entropy(2 * lower), want, rtol=1e-15 if dtype == np.float64 else 5e-7)


@BOTH
@EITHER
def test_float32_error(detection, receiver):
    """Mutual information, Holevo bound and eigenvalues each to 2e-6 of themselves, rates to 2e-6 of I + chi."""
    for seed in range(8):
        users, where = random_links(BATCH, np.float32, detection, receiver, seed)
        pulses = (10 ** np.random.default_rng(seed).uniform(7, 12, BATCH)).astype(np.float32)
        with precision(np.float32):
            short = evaluate(users, where, pulses)
            assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(short))
        with precision(np.float64):
            exact = evaluate(users, where, pulses)
            paid = np.asarray(cv.penalty(np.float64(pulses) * users.key_fraction))
        i, chi = exact["information"], exact["holevo"].bits
        np.testing.assert_allclose(short["information"], i, rtol=1e-6)
        for name in ("bits", "excess_1", "excess_2", "excess_3", "excess_4"):
            np.testing.assert_allclose(getattr(short["holevo"], name), getattr(exact["holevo"], name), rtol=2e-6)
        assert np.max(np.abs(short["rate"] - exact["rate"]) / (i + chi)) < 2e-6
        scale = i + exact["worst_holevo"].bits + paid
        assert np.max(np.abs(short["finite"] - exact["finite"]) / scale) < 2e-6


@pytest.mark.parametrize(("detection", "receiver"), [("homodyne", "trusted"), ("heterodyne", "untrusted")])
def test_gradient_matches_finite_differences(detection, receiver, x64):
    where = struct.replace(link(20.0, detection=detection, receiver=receiver), frame_error_rate=0.1)
    leaves, tree = jax.tree.flatten((cv.CvSettings(4.0, 0.4), where, 1e8))
    x = np.array(leaves)
    step = 1e-6 * x
    points = jax.tree.unflatten(tree, list(np.concatenate([x + np.diag(step), x - np.diag(step)]).T))
    got = evaluate(*points)
    values = got["rate"] + 3 * got["finite"]
    numeric = (values[: len(x)] - values[len(x) :]) / 2e-6
    exact = x * np.array(jax.tree.leaves(batched(gradient, cv.CvSettings(4.0, 0.4), where, 1e8)))
    np.testing.assert_allclose(exact, numeric, rtol=2e-6, atol=1e-9)


def positive(high):
    """Zero, the top, and everything down to 1e-15 of it."""
    return st.sampled_from([0.0, high]) | st.floats(-15, 0).map(lambda x: high * 10**x)


SHARE = st.sampled_from([0.0, 1e-20, 1.0]) | st.floats(0, 1).map(lambda x: round(x, 6))
POINT = st.tuples(
    positive(1e6), SHARE, SHARE, positive(10.0), st.just(1.0) | st.floats(0.01, 1), positive(10.0), SHARE, SHARE,
    positive(1e18),
)  # fmt: skip


@pytest.mark.parametrize(("detection", "receiver"), [("homodyne", "trusted"), ("heterodyne", "untrusted")])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(points=st.lists(POINT, min_size=8, max_size=64))
def test_nothing_in_range_is_nan(detection, receiver, points):
    for dtype in (np.float32, np.float64):
        with precision(dtype):
            columns = [np.array(c, dtype) for c in zip(*points, strict=True)]
            users = cv.CvSettings(*columns[:2])
            where = cv.CvLink(*columns[2:8], detection=detection, receiver=receiver)
            got, slope = evaluate(users, where, columns[8]), batched(gradient, users, where, columns[8])
        endless = got["worst"].transmittance <= 0
        assert not np.any(np.isnan(got["worst"].excess_noise)) and np.all(got["finite"][endless] <= 0)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((got, slope)))
        assert all(np.all(leaf >= 0) for leaf in jax.tree.leaves((got["holevo"], got["worst_holevo"])))
        with precision(np.float64):
            slack = (1e-12 if dtype is np.float64 else 1e-5) * (1 + got["holevo"].bits)
            assert np.all(got["rate"] <= information.plob_bound(where.transmittance) + slack)


def test_wrong_kinds_are_refused():
    with pytest.raises(ValueError, match="homodyne, heterodyne"):
        cv.CvLink(detection="hom")
    with pytest.raises(ValueError, match="trusted, untrusted"):
        cv.CvLink(receiver="Bob's")
    with pytest.raises(ValueError, match="expected, worst"):
        cv.CvDistillation(mutual_information_at="best")
    with pytest.raises(ValueError, match="detector_efficiency"):
        cv.CvLink(detector_efficiency=0.0)

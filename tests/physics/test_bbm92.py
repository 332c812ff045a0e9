"""BBM92: photon-by-photon sums, pulsed against continuous source, Werner states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym import struct
from qkd_gym.physics import bbm92, information
from tests.physics.conftest import precision

OBSERVE, RATE = jax.jit(bbm92.observe), jax.jit(bbm92.key_rate)
OBSERVE_CONTINUOUS, RATE_CONTINUOUS = jax.jit(bbm92.observe_continuous), jax.jit(bbm92.key_rate_continuous)


def symmetric(eta, **changes):
    return bbm92.PairLink(transmittance_alice=eta, transmittance_bob=eta, **changes)


def random_links(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    link = bbm92.PairLink(
        transmittance_alice=10 ** -rng.uniform(0, 3.5, count),
        transmittance_bob=10 ** -rng.uniform(0, 3.5, count),
        background_yield_alice=10 ** rng.uniform(-9, -5, count),
        background_yield_bob=10 ** rng.uniform(-9, -5, count),
        misalignment_error=rng.uniform(0, 0.05, count),
        background_error=np.full(count, 0.5),
        error_correction_efficiency=rng.uniform(1, 1.3, count),
        sifting=np.full(count, 0.5),
    )
    users = bbm92.PairSettings(10 ** rng.uniform(-3, 0, count))
    return jax.tree.map(lambda x: x.astype(dtype), (users, link))


def pair_by_pair(mu, link, pairs=800):
    """Gain and error gain summed over photon numbers and how the photons split over two polarisations.

    n pairs are the state sum_m (-1)^m |n-m, m>_A |m, n-m>_B / sqrt(n+1); two threshold detectors a side, double clicks
    at random. Only the side that a lone photon points to counts for the correlation, so double clicks drop out of it.
    """
    lam = mu / 2
    gain = error = 0.0
    miss_a, miss_b = 1 - link.transmittance_alice, 1 - link.transmittance_bob
    for n in range(pairs):
        weight = np.exp(np.log(n + 1) + n * np.log(lam) - (n + 2) * np.log1p(lam))
        seen = (1 - (1 - link.background_yield_alice) * miss_a**n) * (1 - (1 - link.background_yield_bob) * miss_b**n)
        m = np.arange(n + 1)
        lean = np.mean((miss_a**m - miss_a ** (n - m)) * (miss_b**m - miss_b ** (n - m)))
        gain += weight * seen
        error += weight * (link.background_error * seen - (link.background_error - link.misalignment_error) * lean)
    return gain, error


@pytest.mark.parametrize("mu", [0.01, 0.3, 2.0, 10.0])
@pytest.mark.parametrize(("eta_a", "eta_b"), [(0.3, 0.05), (1.0, 0.7), (1.0, 1.0), (2e-3, 0.9)])
def test_gains_are_the_sum_over_pairs(mu, eta_a, eta_b, x64):
    link = bbm92.PairLink(eta_a, eta_b, 1e-3, 2e-4, 0.02)
    got = OBSERVE(bbm92.PairSettings(mu), link)
    np.testing.assert_allclose([got.gain, got.error_gain], pair_by_pair(mu, link), rtol=2e-12)


def test_worked_point(x64):
    eta = 0.145 * 10**-1.5
    link = symmetric(eta)
    got = OBSERVE(bbm92.PairSettings(0.1), link)
    np.testing.assert_allclose(
        [got.gain, got.qber, RATE(bbm92.PairSettings(0.1), link)], [2.42023e-6, 0.058009, 3.51818e-7], rtol=6e-6
    )


def test_one_way_reach(x64):
    """61.6 dB over both arms with the source in the middle and the receivers of Ma, Fung, Lo 2007."""
    loss_db = np.array([61.5, 61.7])
    _, rate = jax.jit(bbm92.optimal_rate)(
        jax.tree.map(lambda x: np.broadcast_to(x, 2), symmetric(0.145 * 10 ** (-loss_db / 20)))
    )
    assert rate[0] > 0 > rate[1]


def test_optimum_is_one(x64):
    link = symmetric(0.01)
    mu, rate = jax.jit(bbm92.optimal_rate)(link)
    assert float(rate) == pytest.approx(float(RATE(bbm92.PairSettings(float(mu)), link)), rel=1e-12)
    for factor in (0.95, 1.05):
        assert rate > RATE(bbm92.PairSettings(float(mu) * factor), link)


def test_limits(dtype):
    nothing = OBSERVE(bbm92.PairSettings(0.0), symmetric(0.1, background_yield_alice=0.0, background_yield_bob=0.0))
    assert nothing.gain == 0 and nothing.qber == 0
    dark = OBSERVE(bbm92.PairSettings(0.1), symmetric(0.0))
    np.testing.assert_allclose([dark.gain, dark.qber], [6.02e-6**2, 0.5], rtol=5e-7)
    ideal = symmetric(1.0, background_yield_alice=0.0, background_yield_bob=0.0, misalignment_error=0.0)
    assert float(OBSERVE(bbm92.PairSettings(1e-6), ideal).qber) < 1e-6


def test_rate_falls_with_every_imperfection(dtype):
    steps = np.linspace(0, 1, 40)

    def rate(loss_db=10.0, **changes):
        link = symmetric(10 ** (-0.1 * np.asarray(loss_db)), **changes)
        link = jax.tree.map(lambda x: np.broadcast_to(x, 40).astype(dtype), link)
        return np.maximum(np.asarray(RATE(bbm92.PairSettings(np.full(40, 0.05, dtype)), link), np.float64), 0)

    for curve in (
        rate(40 * steps),
        rate(background_yield_alice=1e-3 * steps),
        rate(misalignment_error=0.12 * steps),
        rate(error_correction_efficiency=1 + 3 * steps),
    ):
        assert curve[0] > 0 and curve[-1] < curve[0]
        assert np.all(np.diff(curve) <= (0 if dtype == np.float64 else 1e-6) * curve[0])


def test_never_above_the_weaker_arm(dtype):
    """A key needs a coincidence: no rate passes the repeaterless bound of either arm, nor of both in a row."""
    users, link = random_links(500, dtype)
    rate = RATE(users, link)
    arms = jnp.asarray(link.transmittance_alice) * link.transmittance_bob
    assert np.all(rate <= information.plob_bound(jnp.minimum(link.transmittance_alice, link.transmittance_bob)))
    assert np.all(rate <= information.plob_bound(arms))


def test_float32_error():
    """Gains and error gains to 2e-6, rates to 1e-5 of the gain."""
    users, link = random_links(2000, np.float32)
    with precision("float64"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (users, link))
        exact = jax.tree.map(np.asarray, (OBSERVE(*wide), RATE(*wide)))
    with precision("float32"):
        ours = jax.tree.map(lambda x: np.asarray(x, np.float64), (OBSERVE(users, link), RATE(users, link)))
    np.testing.assert_allclose(ours[0].gain, exact[0].gain, rtol=2e-6)
    np.testing.assert_allclose(ours[0].error_gain, exact[0].error_gain, rtol=2e-6)
    assert np.max(np.abs(ours[1] - exact[1]) / exact[0].gain) < 1e-5


def relative_gradient_error(function, tree):
    """Largest difference between the gradient and central differences, both in relative steps."""
    leaves, shape = jax.tree.flatten(tree)
    x = jnp.asarray(leaves, float)

    @jax.jit
    def at(x):
        return function(*jax.tree.unflatten(shape, list(x)))

    step = np.diag(1e-6 * np.asarray(x))
    numeric = np.array([(at(x + row) - at(x - row)) / 2e-6 for row in step])
    exact = np.asarray(jax.jit(jax.grad(at))(x) * x)
    return np.max(np.abs(exact - numeric)) / np.max(np.abs(exact))


def test_gradient_matches_finite_differences(x64):
    assert relative_gradient_error(bbm92.key_rate, (bbm92.PairSettings(0.08), bbm92.PairLink(0.02, 0.05))) < 1e-7
    continuous = bbm92.ContinuousSettings(), bbm92.ContinuousLink()
    assert relative_gradient_error(bbm92.key_rate_continuous, continuous) < 1e-7


# ---- continuous source ---------------------------------------------------------------------------------------------


def test_both_sources_agree_when_faint(x64):
    """A window of a continuous source is a pulse: equal gains and errors to first order in pairs and transmittance."""
    mu, tau, eta, error = 1e-3, 1e-9, 1e-4, 0.02
    pulsed = OBSERVE(
        bbm92.PairSettings(mu),
        symmetric(eta, background_yield_alice=1e-9, background_yield_bob=1e-9, misalignment_error=error),
    )
    continuous = OBSERVE_CONTINUOUS(
        bbm92.ContinuousSettings(pair_rate_hz=mu / tau, coincidence_window_s=tau),
        bbm92.ContinuousLink(eta, eta, 1e-9 / tau, 1e-9 / tau, 0.0, error),
    )
    assert float(continuous.gain * tau) == pytest.approx(float(pulsed.gain), rel=2 * mu)
    assert float(continuous.qber) == pytest.approx(float(pulsed.qber), rel=2 * mu)
    accidental = mu / 2
    assert float(continuous.qber) == pytest.approx(error + accidental, rel=2e-2)


def test_continuous_clicks_are_those_of_a_simulated_stream():
    """Clicks drawn one by one in time, jitter and all, against the closed form; 4 standard deviations."""
    rng = np.random.default_rng(11)
    seconds, rate, tau, fwhm = 2.0, 4e5, 4e-7, 3e-7
    link = bbm92.ContinuousLink(0.3, 0.2, 2e4, 3e4, fwhm, 0.0)
    born = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))
    sigma = fwhm / np.sqrt(8 * np.log(2))
    keep_a, keep_b = rng.uniform(size=born.size) < 0.3, rng.uniform(size=born.size) < 0.2
    late = born + rng.normal(0, sigma, born.size)
    alice = np.sort(np.concatenate([born[keep_a], rng.uniform(0, seconds, rng.poisson(2e4 * seconds))]))
    bob = np.sort(np.concatenate([late[keep_b], rng.uniform(0, seconds, rng.poisson(3e4 * seconds))]))
    pairs = np.sum(np.searchsorted(bob, alice + tau / 2) - np.searchsorted(bob, alice - tau / 2))
    want = float(bbm92.observe_continuous(bbm92.ContinuousSettings(rate, tau), link).gain) * seconds
    assert abs(pairs - want) < 4 * np.sqrt(want)


def test_window_has_an_optimum(dtype):
    tau = np.geomspace(1e-11, 1e-7, 200).astype(dtype)
    link = jax.tree.map(lambda x: np.full(200, x, dtype), bbm92.ContinuousLink())
    rate = np.asarray(RATE_CONTINUOUS(bbm92.ContinuousSettings(np.full(200, 1e7, dtype), tau), link))
    best = rate.argmax()
    assert 0 < best < 199 and 1e-10 < tau[best] < 1e-9
    assert float(bbm92.window_share(0.0, 1e-10)) == 0 and float(bbm92.window_share(1e-10, 0.0)) == 1


# ---- Werner states -------------------------------------------------------------------------------------------------


def test_werner_state_from_its_density_matrix(x64):
    """S and Q as expectation values of the state's matrix at the best settings."""
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    bell = np.array([1, 0, 0, 1]) / np.sqrt(2)
    for visibility in (0.0, 0.5, 0.7071, 0.9, 1.0):
        rho = visibility * np.outer(bell, bell) + (1 - visibility) * np.eye(4) / 4

        def correlation(a, b, rho=rho):
            return np.trace(rho @ np.kron(a, b)).real

        b0, b1 = (z + x) / np.sqrt(2), (z - x) / np.sqrt(2)
        s = correlation(z, b0) + correlation(x, b0) + correlation(z, b1) - correlation(x, b1)
        assert float(bbm92.werner_chsh(visibility)) == pytest.approx(s, abs=1e-14)
        for basis in (x, z):
            assert float(bbm92.werner_qber(visibility)) == pytest.approx((1 - correlation(basis, basis)) / 2, abs=1e-14)


def positive(high):
    return st.sampled_from([0.0, high]) | st.floats(-15, 0).map(lambda x: high * 10**x)


@jax.jit
def probe(users, link, continuous, stretch):
    pulsed = jax.value_and_grad(bbm92.key_rate, argnums=(0, 1))(users, link)
    return pulsed, jax.value_and_grad(bbm92.key_rate_continuous, argnums=(0, 1))(continuous, stretch)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    mu=positive(20.0),
    link=st.tuples(*[positive(1.0)] * 4, *[positive(0.5)] * 2, positive(10.0), positive(1.0)),
    continuous=st.tuples(positive(1e12), positive(1e-6)),
    stretch=st.tuples(
        *[positive(1.0)] * 2, *[positive(1e9)] * 2, positive(1e-6), positive(0.5), positive(10.0), positive(1.0)
    ),
)
def test_nothing_in_range_is_nan(mu, link, continuous, stretch):
    for dtype in (np.float32, np.float64):
        with precision(dtype):
            users, where = bbm92.PairSettings(dtype(mu)), bbm92.PairLink(*map(dtype, link))
            got = probe(
                users,
                where,
                bbm92.ContinuousSettings(*map(dtype, continuous)),
                bbm92.ContinuousLink(*map(dtype, stretch)),
            )
            assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(got))
            seen = OBSERVE(users, where)
            assert 0 <= seen.gain <= 1 + 1e-6 and 0 <= seen.qber <= 0.5 + 1e-6
            assert got[0][0] <= seen.gain


def test_values_outside_are_refused():
    with pytest.raises(ValueError, match="mean_pairs_per_pulse"):
        bbm92.PairSettings(-0.1)
    with pytest.raises(ValueError, match="transmittance_bob"):
        struct.replace(bbm92.PairLink(), transmittance_bob=1.5)

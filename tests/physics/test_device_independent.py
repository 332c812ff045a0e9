"""Device-independent key: anchors, the attack that the bound comes from, missing clicks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_gym.physics import device_independent as di
from qkd_gym.physics.bbm92 import TSIRELSON_BOUND
from tests.physics.conftest import precision

RATE = jax.jit(di.key_rate)
EVE = jax.jit(di.eve_information)


def rate(visibility, efficiency=1.0):
    return RATE(di.DeviceIndependentSettings(), di.DeviceIndependentLink(visibility, efficiency))


def test_anchors(x64):
    """Published: critical error rate 7.1 %; S = 2.578, Q = 7.8 % gives 0.158 before halving for a random key basis."""
    low, high = 0.0, 0.2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(1 - 2 * middle) > 0 else (low, middle)
    assert low == pytest.approx(0.07149, abs=1e-5)
    data = di.BellData(chsh=2.578, qber=0.078)
    assert float(di.rate_from_data(data)) == pytest.approx(0.158, abs=2.5e-3)  # S and Q are rounded
    assert float(rate(1.0)) == 1


def test_eve_information_is_that_of_her_best_attack(x64):
    """Mixing two Bell states with weights (1 +- C)/2 shows S = 2 sqrt(1 + C^2) and tells Eve h((1 + C)/2)."""
    paulis = [np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])]
    plus, minus = np.array([1, 0, 0, 1]) / np.sqrt(2), np.array([1, 0, 0, -1]) / np.sqrt(2)
    for c in (0.05, 0.3, 0.7, 0.99):
        weights = (1 + c) / 2, (1 - c) / 2
        rho = sum(w * np.outer(v, v) for w, v in zip(weights, (plus, minus), strict=True))
        correlations = np.array([[np.trace(rho @ np.kron(a, b)).real for b in paulis] for a in paulis])
        s = 2 * np.sqrt(np.sum(np.sort(np.linalg.eigvalsh(correlations.T @ correlations))[-2:]))
        # Eve holds the purification: her entropy less that of her states given Alice's bit in the z basis
        purified = sum(np.sqrt(w) * np.kron(v, e) for w, v, e in zip(weights, (plus, minus), np.eye(2), strict=True))
        state = purified.reshape(2, 2, 2)

        def entropy(m):
            p = np.linalg.eigvalsh(m)
            p = p[p > 1e-15]
            return -np.sum(p * np.log2(p))

        eve = np.einsum("abe,abf->ef", state, state)
        known = [np.einsum("be,bf->ef", state[a], state[a]) for a in (0, 1)]
        holevo = entropy(eve) - sum(np.trace(k) * entropy(k / np.trace(k)) for k in known)
        assert float(EVE(s)) == pytest.approx(holevo, abs=1e-12)


def test_missing_clicks(x64):
    """S and Q from the statistics of single trials, and the efficiency that a perfect state needs."""
    angles = {"a": (0, np.pi / 2), "b": (np.pi / 4, -np.pi / 4)}
    for visibility, eta in ((1.0, 0.93), (0.8, 0.5), (0.97, 0.0)):

        def correlation(a, b, visibility=visibility, eta=eta):
            # both click, one clicks (its outcome is random, the other's is +1), none
            return eta**2 * visibility * np.cos(a - b) + 2 * eta * (1 - eta) * 0 + (1 - eta) ** 2

        (a0, a1), (b0, b1) = angles["a"], angles["b"]
        s = correlation(a0, b0) + correlation(a1, b0) + correlation(a0, b1) - correlation(a1, b1)
        got = di.observe(di.DeviceIndependentSettings(), di.DeviceIndependentLink(visibility, eta))
        np.testing.assert_allclose([got.chsh, got.qber], [s, (1 - correlation(0, 0)) / 2], rtol=1e-14)
    assert rate(1.0, 0.922) < 0 < rate(1.0, 0.924)


def test_more_violation_more_key(dtype):
    s = np.linspace(0, TSIRELSON_BOUND, 400).astype(dtype)
    eve = np.asarray(EVE(s))
    assert np.all(np.diff(eve) <= 0) and eve[0] == 1 and abs(eve[-1]) < (1e-12 if dtype == np.float64 else 1e-5)
    assert np.all(eve[s <= 2] == 1) and np.all(eve[s > 2.001] < 1)
    assert float(EVE(dtype.type(3.5))) == 0  # no quantum state: counts as the largest violation
    visibility = np.linspace(0, 1, 200).astype(dtype)
    link = di.DeviceIndependentLink(visibility, np.ones(200, dtype))
    values = np.asarray(RATE(di.DeviceIndependentSettings(np.ones(200, dtype)), link))
    assert np.all(np.diff(values[visibility > 0.01]) > 0)
    half = np.asarray(RATE(di.DeviceIndependentSettings(np.full(200, 0.5, dtype)), link))
    np.testing.assert_allclose(half, values / 2, rtol=1e-6)


def test_float32_error():
    """Eve's information to 5e-6 of a bit: it follows S, whose rounding near 2 sqrt(2) it magnifies."""
    rng = np.random.default_rng(0)
    values = (rng.uniform(0.7, 1, 2000).astype(np.float32), rng.uniform(0.9, 1, 2000).astype(np.float32))
    with precision("float64"):
        wide = di.DeviceIndependentLink(*(np.float64(v) for v in values))
        exact = np.asarray(RATE(di.DeviceIndependentSettings(np.ones(2000)), wide))
    with precision("float32"):
        ours = RATE(di.DeviceIndependentSettings(np.ones(2000, np.float32)), di.DeviceIndependentLink(*values))
    assert np.max(np.abs(np.asarray(ours, np.float64) - exact)) < 5e-6


def test_gradient_matches_finite_differences(x64):
    @jax.jit
    def at(x):
        return di.key_rate(di.DeviceIndependentSettings(x[0]), di.DeviceIndependentLink(x[1], x[2]))

    for point in ([0.8, 0.95, 0.97], [1.0, 0.9, 0.8]):  # with and without a violation
        x = jnp.array(point)
        numeric = [(at(x + 1e-6 * e) - at(x - 1e-6 * e)) / 2e-6 for e in np.eye(3)]
        np.testing.assert_allclose(jax.jit(jax.grad(at))(x), numeric, rtol=1e-7, atol=1e-9)


share = st.sampled_from([0.0, 0.5, 2**-0.5, 1.0]) | st.floats(0, 1).map(lambda x: round(x, 9))


@jax.jit
def probe(users, link):
    return jax.value_and_grad(di.key_rate, argnums=(0, 1))(users, link)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.tuples(share, share, share))
def test_nothing_in_range_is_nan(point):
    for dtype in (np.float32, np.float64):
        with precision(dtype):
            users = di.DeviceIndependentSettings(dtype(point[0]))
            value, gradient = probe(users, di.DeviceIndependentLink(*map(dtype, point[1:])))
            assert np.isfinite(value) and value <= 1
            assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))


def test_an_error_rate_above_one_half_earns_nothing(x64):
    assert float(di.rate_from_data(di.BellData(chsh=TSIRELSON_BOUND, qber=0.99))) <= 0
    with pytest.raises(ValueError, match="chsh"):
        di.BellData(chsh=3.0, qber=0.0)

"""Asymptotic decoy BB84: worked point, anchors, and the properties every decoy protocol must have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.physics import decoy_bb84 as bb84
from qkd_gym.physics import information
from tests.physics.conftest import precision


def gys(length_km, **changes):
    eta = 0.045 * 10 ** (-0.021 * np.asarray(length_km))
    return bb84.DecoyLink(**({"transmittance": eta} | changes))


def random_links(count, dtype, seed=0):
    rng = np.random.default_rng(seed)
    link = bb84.DecoyLink(
        transmittance=10 ** rng.uniform(-5, -0.5, count),
        background_yield=10 ** rng.uniform(-8, -5, count),
        misalignment_error=rng.uniform(0, 0.05, count),
        background_error=0.5 * np.ones(count),
        error_correction_efficiency=rng.uniform(1, 1.3, count),
        sifting=0.5 * np.ones(count),
    )
    mu = rng.uniform(0.2, 0.9, count)
    nu = mu * rng.uniform(0.05, 0.45, count)
    settings = bb84.DecoySettings(mu, nu, nu * rng.uniform(0.01, 0.5, count))
    return jax.tree.map(lambda x: x.astype(dtype), (settings, link))


RATE = jax.jit(bb84.key_rate, static_argnames="method")


@jax.jit
def bounds(settings, link):
    signal, decoy, weakest = (
        bb84.observe(k, link) for k in (settings.signal_intensity, settings.decoy_intensity, settings.weakest_intensity)
    )
    one = bb84.vacuum_weak_bounds(settings, signal, decoy, link.background_yield)
    return one, bb84.two_weak_bounds(settings, signal, decoy, weakest)


def test_worked_point(x64):
    link, settings = gys(100.0), bb84.DecoySettings(0.48, 0.05, 0.0)
    signal, decoy = bb84.observe(0.48, link), bb84.observe(0.05, link)
    y1, e1 = bb84.vacuum_weak_bounds(settings, signal, decoy, link.background_yield)
    got = [
        link.transmittance, signal.gain, signal.qber, decoy.gain, decoy.qber, bb84.photon_yield(1, link), y1, e1,
        bb84.key_rate(settings, link, "infinite"), bb84.key_rate(settings, link, "vacuum+weak"),
    ]  # fmt: skip
    want = [
        3.57448e-4, 1.73260e-4, 0.0375821, 1.95722e-5, 0.0735626, 3.59148e-4, 3.53993e-4, 0.0374924, 1.71844e-5,
        1.60200e-5,
    ]  # fmt: skip
    np.testing.assert_allclose(np.array(got, float), want, rtol=6e-6)


def reach(method, mu):
    """Largest length in km with a positive key."""
    low, high = 10.0, 200.0
    for _ in range(40):
        middle = (low + high) / 2
        link = gys(middle)
        rate = RATE(bb84.DecoySettings(mu, 0.05, 0.0), link, method=method)
        low, high = (middle, high) if rate > 0 else (low, middle)
    return low


def test_published_reach(x64):
    """Ma 2005 quotes 142.05 km with infinite decoys and 140.55 km with vacuum and weak."""
    assert reach("infinite", 0.48) == pytest.approx(142.01, abs=0.01)
    assert reach("vacuum+weak", 0.48) == pytest.approx(140.62, abs=0.01)


def test_optimal_signal_intensity(x64):
    """Without background, (1 - mu) e^-mu = f h(e_d) / (1 - h(e_d)): 0.4789 for this receiver."""
    link = bb84.DecoyLink(1e-4, 0.0, 0.033, 0.5, 1.22, 0.5)
    mu, _ = jax.jit(lambda link: bb84.optimal_rate(link, "infinite"))(link)
    assert float(mu) == pytest.approx(0.4789, abs=2e-4)


def test_bounds_bracket_the_truth(dtype):
    settings, link = random_links(300, dtype)
    y1, e1, y0 = bb84.photon_yield(1, link), bb84.photon_error(1, link), link.background_yield
    (y1_one, e1_one), (y0_two, y1_two, e1_two) = bounds(settings, link)
    # float32: the bounds are differences of gains of size eta nu, over nu
    slack = 0 if dtype == np.float64 else 2e-6
    scale = y1 + y0 / settings.decoy_intensity
    for bound in (y1_one, y1_two):
        assert np.all(bound <= y1 + 1e-12 * y1 + slack * scale)
        assert np.all(bound >= 0.3 * y1 - slack * scale)
    assert np.all(y0_two <= y0 * (1 + 1e-9) + slack * (y0 + y1 * settings.decoy_intensity))
    slack_e = slack * scale / y1_two
    assert np.all(e1_one >= e1 * (1 - 1e-9) - slack_e)
    assert np.all(e1_two >= e1 * (1 - 1e-9) - slack_e)


@pytest.mark.parametrize("method", bb84.METHODS)
def test_rate_falls_with_every_imperfection(method, dtype):
    steps = np.linspace(0, 1, 40)
    mu = {"none": 0.02}.get(method, 0.48)
    settings = bb84.DecoySettings(mu, mu / 8, mu / 50)

    def rate(**changes):
        link = jax.tree.map(
            lambda x: np.broadcast_to(x, steps.shape).astype(dtype), gys(changes.pop("length", 20.0), **changes)
        )
        return np.asarray(RATE(settings, link, method=method), np.float64)

    tolerance = 0 if dtype == np.float64 else 1e-9
    for curve in (
        rate(length=150 * steps) * 1.0,
        rate(background_yield=1e-5 * steps),
        rate(misalignment_error=0.1 * steps),
        rate(error_correction_efficiency=1 + steps),
    ):
        clipped = np.maximum(curve, 0)
        assert clipped[0] > 0
        assert np.all(np.diff(clipped) <= tolerance)


def test_more_knowledge_more_key(x64):
    settings, link = random_links(200, np.float64)
    infinite, one, two, none = (RATE(settings, link, method=m) for m in bb84.METHODS)
    assert np.all(infinite >= one - 1e-15) and np.all(one >= none - 1e-15) and np.all(infinite >= two - 1e-15)


def test_never_above_plob(dtype):
    settings, link = random_links(500, dtype)
    for method in bb84.METHODS:
        assert np.all(RATE(settings, link, method=method) <= information.plob_bound(link.transmittance))


def test_float32_error():
    """Gains to 5e-7, rates to 2e-6 of the signal gain."""
    settings, link = random_links(300, np.float32)
    with precision("float64"):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (settings, link))
        exact = {m: np.asarray(RATE(*wide, method=m)) for m in bb84.METHODS}
        gain = np.asarray(bb84.observe(wide[0].signal_intensity, wide[1]).gain)
    with precision("float32"):
        np.testing.assert_allclose(
            np.asarray(bb84.observe(settings.signal_intensity, link).gain, np.float64), gain, rtol=5e-7
        )
        for method, rate in exact.items():
            ours = np.asarray(RATE(settings, link, method=method), np.float64)
            assert np.max(np.abs(ours - rate) / gain) < 2e-6, method


@pytest.mark.parametrize("method", bb84.METHODS)
def test_gradient_matches_finite_differences(method, x64):
    @jax.jit
    def rate(x):
        settings = jax.tree.unflatten(jax.tree.structure(bb84.DecoySettings()), list(x[:3]))
        link = bb84.DecoyLink(jnp.exp(x[3]), jnp.exp(x[4]), x[5], 0.5, 1.22, 0.5)
        return 1e4 * bb84.key_rate(settings, link, method)

    x = np.array([0.03 if method == "none" else 0.5, 0.01, 0.002, np.log(1e-2), np.log(2e-6), 0.03])
    step = 1e-5
    numeric = [(rate(x + step * e) - rate(x - step * e)) / (2 * step) for e in np.eye(6)]
    np.testing.assert_allclose(jax.jit(jax.grad(rate))(jnp.asarray(x)), numeric, rtol=1e-5, atol=1e-7)


def test_wrong_order_of_intensities_is_refused():
    with pytest.raises(ValueError, match="decoy \\+ weakest < signal"):
        bb84.DecoySettings(0.1, 0.2, 0.0)
    with pytest.raises(ValueError, match="infinite, vacuum"):
        bb84.key_rate(bb84.DecoySettings(), bb84.DecoyLink(), "three-weak")
    with pytest.raises(ValueError, match="transmittance"):
        bb84.DecoyLink(transmittance=1.2)


def test_no_light_no_key(dtype):
    rates = [bb84.key_rate(bb84.DecoySettings(), bb84.DecoyLink(transmittance=0.0), m) for m in bb84.METHODS]
    assert np.all(np.isfinite(rates)) and np.all(np.asarray(rates) <= 0)

"""Entropies and repeaterless bounds: edges, derivatives, order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.physics import information as info


def test_entropy_edges_and_symmetry(dtype):
    x = np.array([0, 1e-6, 0.11, 0.25, 0.5, 0.75, 1], dtype)
    h = info.binary_entropy(x)
    assert h.dtype == dtype
    assert float(h[0]) == float(h[-1]) == 0 and float(h[4]) == 1
    np.testing.assert_allclose(h[3], h[5], rtol=4 * np.finfo(dtype).eps)


def test_entropy_float32_error():
    x = np.concatenate([np.logspace(-12, -0.302, 400), 1 - np.logspace(-6, -0.302, 100)]).astype(np.float32)
    exact = x.astype(np.float64)
    exact = -(exact * np.log(exact) + (1 - exact) * np.log1p(-exact)) / np.log(2)
    np.testing.assert_allclose(np.asarray(info.binary_entropy(x), np.float64), exact, rtol=4e-7)


def test_entropy_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"\[0, 1\], got values in \[-0.1, 0.2\]"):
        info.binary_entropy(np.array([-0.1, 0.2]))
    assert np.isnan(jax.jit(info.binary_entropy)(1.5))


def test_entropy_slope(dtype):
    slope = jax.jit(jax.vmap(jax.grad(info.binary_entropy)))
    x = np.array([0.01, 0.11, 0.3, 0.49], dtype)
    np.testing.assert_allclose(slope(x), np.log2((1 - x) / x), rtol=20 * np.finfo(dtype).eps)
    assert np.all(np.isfinite(slope(np.array([0, 1, 0, 1], dtype))))


def test_inverse_entropy(dtype):
    inverse = jax.jit(info.inverse_binary_entropy)
    x = np.array([1e-5, 0.01, 0.11, 0.3, 0.45], dtype)
    np.testing.assert_allclose(inverse(info.binary_entropy(x)), x, rtol=40 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(inverse(np.array([0, 1], dtype)), np.array([0, 0.5], dtype))
    derivative = jax.grad(inverse)(jnp.asarray(0.5, dtype))
    e = 0.1100278644
    np.testing.assert_allclose(derivative, 1 / np.log2((1 - e) / e), rtol=100 * np.finfo(dtype).eps + 1e-9)


def test_bb84_threshold(x64):
    assert abs(float(info.shor_preskill_fraction(0.1100278644))) < 1e-9


def test_bounds_are_ordered_and_have_their_limits(dtype):
    eta = np.logspace(-12, -0.01, 60).astype(dtype)
    plob, tgw, node = info.plob_bound(eta), info.tgw_bound(eta), info.middle_node_bound(eta)
    assert np.all(plob < tgw) and np.all(plob < node)
    np.testing.assert_allclose(plob[:5] / eta[:5], 1 / np.log(2), rtol=1e-6)
    np.testing.assert_allclose(tgw[:5] / eta[:5], 2 / np.log(2), rtol=1e-6)
    for bound in (info.plob_bound, info.tgw_bound, info.middle_node_bound):
        assert float(bound(0.0)) == 0
        assert np.isposinf(bound(1.0))


def test_bounds_from_loss_agree_and_stay_exact_near_no_loss(dtype):
    loss = np.array([0.5, 3, 10, 100], dtype)
    eta = np.exp(-loss * np.log(10) / 10)
    rtol = 60 * np.finfo(dtype).eps
    np.testing.assert_allclose(info.plob_bound_from_loss(loss), info.plob_bound(eta.astype(dtype)), rtol=rtol)
    np.testing.assert_allclose(info.tgw_bound_from_loss(loss), info.tgw_bound(eta.astype(dtype)), rtol=rtol)
    tiny = dtype.type(1e-9)
    np.testing.assert_allclose(info.plob_bound_from_loss(tiny), -np.log2(1e-9 * np.log(10) / 10), rtol=1e-6)
    assert np.isposinf(info.plob_bound_from_loss(0.0)) and np.isposinf(info.tgw_bound_from_loss(0.0))


def test_middle_node_bound_has_a_finite_value_and_gradient_where_it_matters(dtype):
    slope = jax.grad(lambda e: info.middle_node_bound(e))(jnp.asarray(1e-4, dtype))
    np.testing.assert_allclose(slope, 1 / (2 * 0.01 * (1 - 0.01) * np.log(2)), rtol=1e-5)

"""Forms for the compiler: right values, right derivatives, and the cost that they are there for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.physics.numerics import sin_cos, stored


@pytest.mark.parametrize("largest, error", [(10.0, 1.2e-7), (1e4, 2e-7)])
def test_sine_and_cosine_in_float32(largest, error):
    x = np.random.default_rng(0).uniform(-largest, largest, 200_000).astype(np.float32)
    sine, cosine = jax.jit(sin_cos)(x)
    exact = x.astype(np.float64)
    assert sine.dtype == np.float32
    assert np.abs(sine - np.sin(exact)).max() < error
    assert np.abs(cosine - np.cos(exact)).max() < error


def test_sine_keeps_its_digits_near_zero():
    x = np.logspace(-20, -1, 100).astype(np.float32)
    np.testing.assert_allclose(sin_cos(x)[0], np.sin(x.astype(np.float64)), rtol=2e-7)


def test_derivatives_of_sine_and_cosine():
    x = jnp.linspace(-9, 9, 41)
    derivative = jax.vmap(lambda a: jnp.stack(jax.jacfwd(sin_cos)(a)))(x)
    np.testing.assert_allclose(derivative, np.stack([np.cos(x), -np.sin(x)], -1), atol=3e-6)


def test_stored_changes_nothing():
    x = jnp.array([-3.5, -0.0, 0.0, 2e-38, 7.25, 1e38, jnp.inf])
    for f in (stored, jax.jit(stored), jax.vmap(stored)):
        np.testing.assert_array_equal(f(x), x)
    assert np.isnan(stored(jnp.nan))
    assert float(jax.grad(lambda v: stored(v) ** 2)(3.0)) == 6.0


def test_a_stored_chain_costs_its_length():
    """Operations in the compiled program: linear in the length of the chain, where they double with each link."""

    def operations(links, keep):
        def chain(x, y):
            for _ in range(links):
                x, y = keep(x * y + x), keep(x * x - y)
            return x + y

        arrays = jnp.ones(4096), jnp.ones(4096)
        text = jax.jit(jax.vmap(chain)).lower(*arrays).compile().as_text()
        return text.count(" multiply(")

    assert operations(8, stored) <= 2 * operations(4, stored) + 4

"""Pooled counts keep every click in float32."""

import jax
import jax.numpy as jnp
import numpy as np

from qkd_gym.physics import accumulate


def exact(total):
    return np.asarray(total.high, np.float64) + np.asarray(total.low, np.float64)


def test_a_block_of_1e10_clicks_is_exact():
    rng = np.random.default_rng(1)
    slices = np.floor(rng.exponential(1.3e7, (1000, 3)) * np.array([1, 1e-2, 1e-6])).astype(np.float32)

    @jax.jit
    def pool(slices):
        start = accumulate.pair(jnp.zeros(3, jnp.float32))
        return jax.lax.scan(lambda total, x: (accumulate.add(total, x), None), start, slices)[0]

    total, truth = pool(slices), slices.astype(np.float64).sum(axis=0)
    assert truth[0] > 1e10
    np.testing.assert_array_equal(exact(total), truth)
    np.testing.assert_allclose(np.asarray(accumulate.value(total), np.float64), truth, rtol=6e-8)
    assert np.cumsum(slices, axis=0, dtype=np.float32)[-1, 0] != truth[0]  # what plain float32 makes of it


def test_single_clicks_count_beside_1e12_pulses():
    @jax.jit
    def count(total):
        return jax.lax.fori_loop(0, 1000, lambda _, t: accumulate.add(t, 1.0), total)

    start = accumulate.pair(jnp.float32(2.0**40))
    assert exact(count(start)) == 2.0**40 + 1000


def test_pairs_add_subtract_and_divide():
    a = accumulate.add(accumulate.pair(jnp.float32(2.0**36)), 12345.0)
    b = accumulate.add(accumulate.pair(jnp.float32(2.0**36)), 12344.0)
    assert exact(accumulate.subtract_pair(a, b)) == 1
    assert exact(accumulate.add_pair(a, b)) == 2.0**37 + 24689
    np.testing.assert_allclose(accumulate.ratio(a, b), (2.0**36 + 12345) / (2.0**36 + 12344), rtol=2e-7)
    assert float(accumulate.ratio(a, accumulate.pair(jnp.float32(0)))) == 0


def test_reset_closes_a_block():
    total = accumulate.add(accumulate.pair(jnp.full(2, 1e9, jnp.float32)), 7.0)
    closed = accumulate.reset(total, jnp.array([True, False]))
    np.testing.assert_array_equal(exact(closed), [0, 1e9 + 7])

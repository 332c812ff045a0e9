"""The Toeplitz hash against its matrix, and its costs."""

import jax
import numpy as np
import pytest

from qkd_gym.physics import privacy_amplification as amplification


@pytest.mark.parametrize(("n", "length"), [(1, 1), (7, 3), (300, 120), (1000, 1)])
def test_hash_is_the_matrix_product(n, length, dtype):
    rng = np.random.default_rng(n)
    key, seed = rng.integers(0, 2, (2, n)).astype(bool), rng.integers(0, 2, (2, n + length - 1)).astype(bool)
    for k, s, ours in zip(key, seed, np.asarray(jax.jit(amplification.toeplitz_hash)(key, seed)), strict=True):
        matrix = np.array([[s[i - j + n - 1] for j in range(n)] for i in range(length)])
        np.testing.assert_array_equal(ours, matrix.astype(int) @ k.astype(int) % 2 == 1)


def test_float32_is_exact_up_to_its_limit(dtype):
    """All ones: sums as large as the block itself. And random bits, against exact integer arithmetic."""
    length = 1024
    n = (amplification.MAX_FLOAT32_BITS - length) // 2
    ones = np.ones(n, bool)
    got = amplification.toeplitz_hash(ones, np.ones(n + length - 1, bool))
    assert got.shape == (length,) and np.all(np.asarray(got) == (n % 2 == 1))
    rng = np.random.default_rng(0)
    key, seed = rng.integers(0, 2, n), rng.integers(0, 2, n + length - 1)
    want = [int(key @ seed[i : i + n][::-1]) % 2 == 1 for i in range(0, length, 16)]
    np.testing.assert_array_equal(np.asarray(amplification.toeplitz_hash(key, seed))[::16], want)


def test_hash_is_linear_and_refuses_a_short_seed(x64):
    rng = np.random.default_rng(4)
    a, b, seed = (rng.integers(0, 2, size).astype(bool) for size in (64, 64, 80))
    mix = amplification.toeplitz_hash(a ^ b, seed)
    np.testing.assert_array_equal(
        mix, np.asarray(amplification.toeplitz_hash(a, seed)) ^ np.asarray(amplification.toeplitz_hash(b, seed))
    )
    with pytest.raises(ValueError, match="n \\+ l - 1"):
        amplification.toeplitz_hash(a, seed[:40])


def test_a_long_block_is_refused_in_float32():
    with jax.enable_x64(False), pytest.raises(ValueError, match="float32"):
        amplification.toeplitz_hash(np.zeros(200_000, bool), np.zeros(200_001, bool))


def test_costs_grow_as_n_log_n(dtype):
    n = 2.0 ** np.arange(10, 28, dtype=dtype)
    seconds = np.asarray(amplification.toeplitz_seconds(n, n / 4), np.float64)
    m = 2 * np.asarray(n, np.float64)
    np.testing.assert_allclose(seconds, 0.75 * m * np.log2(m) / 2e8, rtol=1e-5)
    np.testing.assert_allclose(amplification.toeplitz_bytes(n, n / 4), 16 * m, rtol=1e-5)
    assert np.all(np.diff(amplification.throughput_bits_per_s(n, n / 4)) < 0)
    assert float(amplification.seed_bits(dtype.type(1e6), dtype.type(2e5))) == 1_199_999
    assert float(amplification.transform_length(dtype.type(1024), dtype.type(1))) == 1024
    assert np.isfinite(float(amplification.throughput_bits_per_s(dtype.type(1), dtype.type(0))))

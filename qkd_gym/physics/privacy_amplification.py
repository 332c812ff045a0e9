"""Privacy amplification by a Toeplitz matrix: the hash itself, and what it costs.

Krawczyk, CRYPTO '94; leftover hashing by two-universal families: Bennett, Brassard, Crepeau, Maurer, IEEE Trans. Inf.
Theory 41, 1915 (1995). The matrix must have as many rows as the key may have bits: the length is computed first.
Blocks are 10^6 to 10^8 bits, so the product is a convolution by fast Fourier transform, n log n in time and memory.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from qkd_gym.physics.information import LN2, as_float

#: Butterflies per second of one core, for `toeplitz_seconds`; design value, measure your own.
BUTTERFLIES_PER_S = 2e8
#: Longest convolution whose float32 sums still round to the right integer, by test; float64 holds 2^40 and more.
MAX_FLOAT32_BITS = 1 << 18


def seed_bits(block_bits: ArrayLike, key_bits: ArrayLike) -> Float[Array, "..."]:
    """Public random bits that define the matrix, n + l - 1; they may be reused from block to block."""
    n, length = as_float(block_bits, key_bits)
    return n + length - 1


def transform_length(block_bits: ArrayLike, key_bits: ArrayLike) -> Float[Array, "..."]:
    """Points of the transform: the next power of two that holds n + l - 1."""
    size = jnp.maximum(seed_bits(block_bits, key_bits), 1)
    return jnp.exp2(jnp.ceil(jnp.log2(size) * (1 - 4 * jnp.finfo(size.dtype).eps)))


def toeplitz_seconds(
    block_bits: ArrayLike, key_bits: ArrayLike, butterflies_per_s: ArrayLike = BUTTERFLIES_PER_S
) -> Float[Array, "..."]:
    """Time of one block: three real transforms of m points, (3/4) m log2 m butterflies."""
    n, length, speed = as_float(block_bits, key_bits, butterflies_per_s)
    m = transform_length(n, length)
    return 0.75 * m * jnp.log(m) / LN2 / speed


def toeplitz_bytes(block_bits: ArrayLike, key_bits: ArrayLike, bytes_per_real: ArrayLike = 8.0) -> Float[Array, "..."]:
    """Memory of one block: two sequences of m reals, transformed in place."""
    n, length, size = as_float(block_bits, key_bits, bytes_per_real)
    return 2 * size * transform_length(n, length)


def throughput_bits_per_s(
    block_bits: ArrayLike, key_bits: ArrayLike, butterflies_per_s: ArrayLike = BUTTERFLIES_PER_S
) -> Float[Array, "..."]:
    """Reconciled key that one core can take in, n per `toeplitz_seconds`."""
    n, length, speed = as_float(block_bits, key_bits, butterflies_per_s)
    return n / jnp.maximum(toeplitz_seconds(n, length, speed), jnp.finfo(n.dtype).tiny)


def toeplitz_hash(key: ArrayLike, seed: ArrayLike) -> Bool[Array, "... key_bits"]:
    """Hash of reconciled key by the Toeplitz matrix T[i, j] = seed[i - j + n - 1], modulo 2.

    Args:
        key: bool `(..., n)`.
        seed: bool `(..., n + l - 1)`; its length sets that of the result, l.

    Raises:
        ValueError: if the seed is shorter than the key, or the block too long for float32 (enable x64).
    """
    bits, diagonal = jnp.asarray(key, bool), jnp.asarray(seed, bool)
    n, total = bits.shape[-1], diagonal.shape[-1]
    if total < n:
        raise ValueError(f"a seed has n + l - 1 bits, at least the key's n = {n}; got {total}")
    kind = jnp.result_type(float)
    points = 1 << math.ceil(math.log2(max(total + n - 1, 1)))
    if kind == jnp.float32 and points > MAX_FLOAT32_BITS:
        raise ValueError(f"{points} points are beyond float32 ({MAX_FLOAT32_BITS}); enable jax_enable_x64")
    product = jnp.fft.irfft(
        jnp.fft.rfft(bits.astype(kind), points) * jnp.fft.rfft(diagonal.astype(kind), points), points
    )
    counts = jnp.round(product[..., n - 1 : total])
    return counts - 2 * jnp.floor(counts / 2) > 0.5

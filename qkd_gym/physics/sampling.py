"""The one narrow place where chance enters a step: a block of noise per step, and count samplers without branches.

`step_noise` turns a key into named streams at once. The counter-based generator behind it costs a few integer
operations a number and fuses with what consumes it; it is seeded by JAX's own keys, so streams of different keys are
as independent as threefry makes the keys. It is for simulation, not for cryptography.

The count samplers are quantile functions: one uniform in, one count out, no loop, no rejection. Below a variance of 4
the inverse distribution function is summed term by term; above, a Cornish-Fisher series with lattice correction is
exact to within what 1e5 draws can tell (non-centrality of the chi-square below 2). Counts are floats, because a step at
1 GHz holds more than an int32 does.

For speed under `vmap`, draw the counts of a step one by one as scalars: each is then one long vector of environments,
where rows of a few counts would be read with a stride.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, UInt32

from qkd_gym.physics.information import as_float
from qkd_gym.physics.numerics import stored

#: Variance from which the Cornish-Fisher series takes over; largest count of the summed part (2e-7 lies beyond).
_SERIES_FROM = 4.0
_TERMS = 17

_MOST_NOISE = 1024
_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive counters


def random_bits(key: PRNGKeyArray, count: int) -> UInt32[Array, " count"]:
    """`count` independent 32-bit words from one key, by a counter-based hash.

    Two rounds of a full-avalanche 32-bit mixer (C. Wellons' `lowbias32`), the counter keyed by one word of the key
    before the first round and by the other before the second.
    """
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return _word(data, np.arange(count))


def _word(data: UInt32[Array, "2"], index: int | np.ndarray) -> UInt32[Array, "..."]:
    counter = (np.asarray(index, np.uint64) * _GOLDEN & 0xFFFFFFFF).astype(np.uint32)
    return _mix(_mix(data[0] + counter) ^ data[-1])


def step_noise(
    key: PRNGKeyArray, normals: int = 0, uniforms: int = 0
) -> tuple[tuple[Float[Array, ""], ...], tuple[Float[Array, ""], ...]]:
    """All noise of one step: `normals` standard normals and `uniforms` numbers in (0, 1), float32 scalars.

    Take them apart at fixed places; append a new source at the end, so that it does not reshuffle the others: normal
    i depends on the key and i alone, uniform j on the key and j alone. Scalars, because under `vmap` each is one long
    vector; columns of a matrix would be read with a stride.

    Raises:
        ValueError: for more than 1024 numbers, each of which is a node of the compiled program.
    """
    if normals + uniforms > _MOST_NOISE:
        raise ValueError(
            f"step_noise makes single numbers, at most {_MOST_NOISE} a step, not {normals} + {uniforms}; "
            "draw larger blocks with jax.random"
        )
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    # The two families take their words from different keys, so that neither count shifts the other family.
    other = jnp.stack([data[0] ^ jnp.uint32(0x85EBCA6B), data[-1] + jnp.uint32(0xC2B2AE35)])
    return (
        tuple(stored(bits_to_normal(_word(data, i))) for i in range(normals)),
        tuple(bits_to_uniform(_word(other, j)) for j in range(uniforms)),
    )


def bits_to_uniform(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Uniform float32 in the open interval (0, 1), with 2^-32 resolution near 0 (where survival functions need it)."""
    half = (bits >> 1).astype(jnp.int32).astype(jnp.float32)  # signed conversions are vectorised everywhere
    return jnp.minimum((half + 0.5) * np.float32(2.0**-31), np.float32(1 - 2.0**-24))


def bits_to_normal(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Standard normal float32 from 32 random bits: a sign and a 31-bit tail probability, which reaches 6.3 sigma."""
    tail = ((bits & jnp.uint32(0x7FFFFFFF)).astype(jnp.int32).astype(jnp.float32) + 0.5) * np.float32(2.0**-32)
    magnitude = _upper_quantile(jnp.minimum(tail, np.float32(0.5)))
    return jnp.where(bits >> 31 == 1, -magnitude, magnitude)


def normal_quantile(probability: ArrayLike) -> Float[Array, "..."]:
    """Inverse of the standard normal distribution function, for sampling: 3e-6 off up to 5 sigma, 4e-4 at 6 sigma.

    Giles, "Approximating the erfinv function", GPU Computing Gems 2 (2011), single-precision version.
    """
    (p,) = as_float(probability)
    magnitude = _upper_quantile(jnp.minimum(p, 1 - p))
    return jnp.where(p < 0.5, -magnitude, magnitude)


def poisson(mean: ArrayLike, uniform: ArrayLike) -> Float[Array, "..."]:
    """A Poisson count with the given mean, as the quantile of `uniform` (small uniform: large count).

    Args:
        mean: expected count, >= 0, up to 1e10 and more.
        uniform: number in (0, 1), e.g. from `step_noise`; broadcasts against `mean`.

    Returns:
        A whole number >= 0 as a float. Counts above 2^24 are rounded to float32.
    """
    mean, u = as_float(mean, uniform)
    summed = jnp.minimum(mean, _SERIES_FROM)
    mass = jnp.exp(-summed)
    masses = []
    for j in range(1, _TERMS + 1):
        mass = mass * (summed * (1.0 / j))
        masses.append(mass)
    low = _count_above(masses, u)
    lam = jnp.maximum(mean, _SERIES_FROM)
    high = jnp.maximum(jnp.floor(_series(lam, lam, 1.0, 1.0, 1.0, -normal_quantile(u)) + 0.5), 0)
    return stored(jnp.where(mean < _SERIES_FROM, low, high))


def binomial(trials: ArrayLike, probability: ArrayLike, uniform: ArrayLike) -> Float[Array, "..."]:
    """A binomial count, as the quantile of `uniform`; never more than `trials`.

    Args:
        trials: whole number >= 0 as a float, up to 1e10 and more.
        probability: chance of each, in [0, 1] (values outside are clipped).
        uniform: number in (0, 1); broadcasts.
    """
    n, p, u = as_float(trials, probability, uniform)
    p = jnp.clip(p, 0, 1)
    flip = p > 0.5
    p = jnp.where(flip, 1 - p, p)
    mean = n * p
    few = mean * (1 - p) < _SERIES_FROM  # the variance
    # summed part: the masses of 1, 2, ... successes by their ratio
    n_low, p_low = jnp.where(few, n, 1), jnp.where(few, p, 0)
    odds = p_low / (1 - p_low)
    n_odds = n_low * odds
    mass = jnp.exp(n_low * _log_one_minus(p_low))
    masses = []
    for j in range(1, _TERMS + 1):
        mass = mass * (jnp.maximum(n_odds - (j - 1) * odds, 0) * (1.0 / j))
        masses.append(mass)
    low = _count_above(masses, u)
    # series part: cumulants in units of the variance
    p_high, mean_high = jnp.where(few, 0.5, p), jnp.where(few, 4 * _SERIES_FROM, mean)
    q_high = 1 - p_high
    skew = q_high - p_high
    pq = p_high * q_high
    series = _series(mean_high, mean_high * q_high, skew, 1 - 6 * pq, skew * (1 - 12 * pq), -normal_quantile(u))
    high = jnp.maximum(jnp.floor(series + 0.5), 0)
    count = jnp.minimum(jnp.where(few, low, high), n)
    return stored(jnp.where(flip, n - count, count))


def clicks_and_errors(
    mean_clicks: ArrayLike, mean_errors: ArrayLike, uniform_right: ArrayLike, uniform_wrong: ArrayLike
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Poisson clicks and, among them, errors: right and wrong clicks are drawn independently (Poisson thinning, exact).

    Returns:
        `(clicks, errors)` with errors <= clicks by construction. `mean_errors` is clipped to [0, mean_clicks].
    """
    clicks, errors = as_float(mean_clicks, mean_errors)
    wrong = stored(jnp.clip(errors, 0, clicks))
    right = stored(clicks - wrong)
    wrong_count = poisson(wrong, uniform_wrong)
    return poisson(right, uniform_right) + wrong_count, wrong_count


# ---- inner workings -----------------------------------------------------------------------------------------------


def _mix(x: Array) -> Array:
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _upper_quantile(tail: Array) -> Array:
    """z >= 0 with P(Z > z) = tail, for 0 < tail <= 1/2; precise also where tail is tiny."""
    x = 1 - 2 * tail
    w = -jnp.log(4 * tail * (1 - tail))
    a, b = w - 2.5, jnp.sqrt(jnp.maximum(w, 5)) - 3
    centre = _horner(a, _CENTRE)
    far = _horner(b, _FAR)
    return np.sqrt(2.0).astype(x.dtype) * x * jnp.where(w < 5, centre, far)


_CENTRE = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_FAR = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


def _log_one_minus(p: Array) -> Array:
    """ln(1 - p) for 0 <= p <= 1/2, relative error 2e-7, as -2 artanh(p / (2 - p)): `log1p` keeps big loops scalar."""
    s = p / (2 - p)
    s2 = s * s
    return -2 * s * (1 + s2 * _horner(s2, (1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3)))


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    value = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        value = value * x + c
    return value


def _count_above(masses: list[Array], u: Array) -> Array:
    """Number of survival probabilities P(X > j) above `u`; summed from the tail: rare events keep their digits."""
    survival = masses[-1]
    count = jnp.where(u < survival, 1.0, 0.0).astype(survival.dtype)
    for mass in masses[-2::-1]:
        survival = survival + mass
        count = count + jnp.where(u < survival, 1.0, 0.0).astype(survival.dtype)
    return count


def _series(mean: Array, variance: Array, k3: ArrayLike, k4: ArrayLike, k5: ArrayLike, z: Array) -> Array:
    """Cornish-Fisher quantile of a count at half-integers; `k3`, `k4`, `k5` are cumulants over the variance.

    Cornish and Fisher (1938) to the fifth cumulant; on a lattice the variance is lessened by 1/12 (Kolassa and
    McCullagh, Ann. Stat. 18, 981 (1990)).
    """
    z2 = z * z
    sigma = jnp.sqrt(variance)
    k3_squared = k3 * k3
    first = k3 * (z2 - 1) / 6
    second = z * (k4 * (z2 - 3) / 24 - k3_squared * (2 * z2 - 5) / 36 - 1 / 24)
    third = k5 * (z2 * (z2 - 6) + 3) / 120 - k3 * k4 * (z2 * (z2 - 5) + 2) / 24
    third = third + k3_squared * k3 * (z2 * (12 * z2 - 53) + 17) / 324 + k3 * (z2 - 1) / 72
    return mean + (sigma * z + (first + (second + third / sigma) / sigma))

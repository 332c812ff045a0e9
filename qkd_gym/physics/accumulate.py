"""Counts pooled over a block in float32 without losing any: a pair of floats, high and low.

A block at 1 GHz holds 1e12 pulses and 1e10 clicks. A float32 total drops every increment below 2^-24 of itself and an
int32 overflows; the pair keeps 48 bits, exact for whole numbers up to 2^47. Sums use Knuth's two-sum, whose rounding
error is itself a float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float


@struct.dataclass
class Pair:
    """A number held as `high + low` with |low| <= ulp(high)/2. Both have the same shape."""

    high: Any = struct.field(doc="the number, rounded")
    low: Any = struct.field(doc="what the rounding left")


def pair(value: ArrayLike) -> Pair:
    """A pair that holds `value`; `pair(jnp.zeros(n))` starts a total."""
    (x,) = as_float(value)
    return Pair(high=x, low=jnp.zeros_like(x))


def add(total: Pair, increment: ArrayLike) -> Pair:
    """`total + increment`, to 48 bits. Shapes must broadcast; the dtype is the pair's."""
    x = jnp.asarray(increment, total.high.dtype)
    s, e = _two_sum(total.high, x)
    return _renormalise(s, total.low + e)


def add_pair(a: Pair, b: Pair) -> Pair:
    """Sum of two pairs."""
    s, e = _two_sum(a.high, b.high)
    return _renormalise(s, a.low + b.low + e)


def subtract_pair(a: Pair, b: Pair) -> Pair:
    """Difference of two pairs: exact for whole numbers below 2^47, however close they are."""
    return add_pair(a, Pair(high=-b.high, low=-b.low))


def value(total: Pair) -> Float[Array, "..."]:
    """The number as one float: correctly rounded, relative error 6e-8 in float32."""
    return total.high + total.low


def values(totals: Sequence[Pair]) -> Float[Array, "... n"]:
    """Several totals of one shape as floats, on a trailing axis."""
    return jnp.stack([value(total) for total in totals], axis=-1)


def ratio(numerator: Pair, denominator: Pair) -> Float[Array, "..."]:
    """Quotient of two pairs, relative error 2e-7 in float32; 0 where the denominator is 0."""
    n, d = value(numerator), value(denominator)
    return jnp.where(d != 0, n / jnp.where(d != 0, d, 1), 0)


def reset(total: Pair, when: ArrayLike) -> Pair:
    """Zero where `when` is true, unchanged elsewhere: a block that closes."""
    return Pair(high=jnp.where(when, 0, total.high), low=jnp.where(when, 0, total.low))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _renormalise(high: Array, low: Array) -> Pair:
    s = high + low
    return Pair(high=s, low=low - (s - high))

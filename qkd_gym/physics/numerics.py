"""Plain functions in forms that keep their digits, or that XLA compiles well; values and derivatives are the usual."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym.physics.information import as_float


def stored(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` itself, worked out once and kept, however many readers it has.

    XLA's fusion on CPUs repeats sums and products for every reader, so that a chain of n small matrix products costs
    4^n; what comes out of a division it keeps. This divides by a one that the compiler does not see through (a
    constant would be folded). Put it behind anything costly that is read more than once.
    """
    one = jax.lax.optimization_barrier(jnp.where(x < 0, jnp.ones_like(x), jnp.ones_like(x)))
    return x / one


def sin_cos(angle_rad: ArrayLike) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(sine, cosine)` of an angle; in float32 by polynomials that vectorise, where XLA calls a scalar function.

    Below 1e4 rad each is within 2e-7 of the exact value at that float32 angle; float64 goes to `jnp.sin`, `jnp.cos`.
    Reduction to +-pi/4 by a pi/2 in three parts (Cody and Waite, "Software Manual for the Elementary Functions",
    1980), then the minimax polynomials of the Cephes library (Moshier 1992).
    """
    (x,) = as_float(angle_rad)
    if x.dtype != jnp.float32:
        return jnp.sin(x), jnp.cos(x)
    quarters = jnp.floor(x * (2 / math.pi) + 0.5)
    r = ((x - quarters * 1.5703125) - quarters * 4.837512969970703125e-4) - quarters * 7.54978995489188216e-8
    r2 = r * r
    sine = r + r * r2 * (-1.6666654611e-1 + r2 * (8.3321608736e-3 - r2 * 1.9515295891e-4))
    cosine = 1 - 0.5 * r2 + r2 * r2 * (4.166664568298827e-2 + r2 * (-1.388731625493765e-3 + r2 * 2.443315711809948e-5))
    turned = quarters.astype(jnp.int32)
    odd = (turned & 1) == 1
    first, second = jnp.where(odd, cosine, sine), jnp.where(odd, sine, cosine)
    return (
        stored(jnp.where((turned & 2) == 2, -first, first)),
        stored(jnp.where(((turned + 1) & 2) == 2, -second, second)),
    )


@jax.custom_jvp
def _quotient(a: Array, b: Array) -> Array:
    return a / b


@_quotient.defjvp
def _quotient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    r = _quotient(a, b)
    return r, (da - r * db) / b  # JAX's own rule squares b, which float32 loses below 1e-19


def ratio(numerator: ArrayLike, denominator: ArrayLike, otherwise: float = 0.0) -> Float[Array, "..."]:
    """numerator / denominator, `otherwise` where the denominator is not positive; value and derivative finite."""
    a, b = as_float(numerator, denominator)
    positive = b > 0
    return jnp.where(positive, _quotient(jnp.where(positive, a, 0), jnp.where(positive, b, 1)), otherwise)

"""Maximum of a smooth function of one variable, inside a compiled program: a grid, then golden sections."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SECTION = (math.sqrt(5) - 1) / 2


def maximise(
    function: Callable[[Array], Array], low: float, high: float, grid: int = 256, sections: int = 48
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The largest value of `function` over [low, high]: a logarithmic grid, refined around its best point.

    Args:
        function: elementwise, takes a scalar or an array `(...)` and returns `(...)`; NaN is never best. Each component
            must be unimodal between two neighbours of the grid.
        low, high: positive ends of the search.
        grid: points of the first search. sections: golden-section steps; each shrinks the bracket by 0.618.

    Returns:
        `(argmax, maximum)`, both `(...)`. The argument is good to the square root of the rounding error only.
    """
    if not 0 < low < high:
        raise ValueError(f"maximise searches over 0 < low < high, got low={low}, high={high}")
    result = jax.eval_shape(function, jax.ShapeDtypeStruct((), jnp.result_type(float)))
    points = jnp.exp(jnp.linspace(math.log(low), math.log(high), grid, dtype=result.dtype))

    def at(x: Array) -> Array:
        values = function(x)
        return jnp.where(jnp.isnan(values), -jnp.inf, values)

    best = jnp.argmax(jax.lax.map(lambda x: at(jnp.full(result.shape, x)), points), axis=0)
    left, right = points[jnp.maximum(best - 1, 0)], points[jnp.minimum(best + 1, grid - 1)]

    def shrink(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        a, b = bracket
        x, y = b - _SECTION * (b - a), a + _SECTION * (b - a)
        keep_left = at(x) >= at(y)
        return jnp.where(keep_left, a, x), jnp.where(keep_left, y, b)

    left, right = jax.lax.fori_loop(0, sections, shrink, (left, right))
    argmax = (left + right) / 2
    return argmax, at(argmax)

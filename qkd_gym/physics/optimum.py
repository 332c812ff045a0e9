"""Maximum of a smooth function of one or two variables, inside a compiled program: a grid, then a refinement."""

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


def maximise_plane(
    function: Callable[[Array, Array], Array],
    low: tuple[float, float],
    high: tuple[float, float],
    grid: int = 24,
    steps: int = 64,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """The largest value of `function` of two variables: a logarithmic grid, then a stencil that halves where it rests.

    Args:
        function: elementwise, takes two scalars or two arrays `(...)` and returns `(...)`; NaN is never best. Each
            component must have one maximum, and no narrow ridge oblique to the axes, around the grid's best point.
        low, high: positive ends of the search, for either variable.
        grid: points of the first search along each variable. steps: of the stencil, nine evaluations each.

    Returns:
        `(first, second, maximum)`, all `(...)`. The arguments are good to the square root of the rounding error only.
    """
    if not all(0 < a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"maximise_plane searches over 0 < low < high, got low={low}, high={high}")
    scalar = jax.ShapeDtypeStruct((), jnp.result_type(float))
    result = jax.eval_shape(function, scalar, scalar)
    axes = [jnp.linspace(math.log(a), math.log(b), grid, dtype=result.dtype) for a, b in zip(low, high, strict=True)]
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = jnp.array(
        [(i, j) for i in (0, -1, 1) for j in (0, -1, 1)], result.dtype
    )  # the centre first: it wins ties

    def at(u: Array, v: Array) -> Array:
        values = function(jnp.exp(u), jnp.exp(v))
        return jnp.where(jnp.isnan(values), -jnp.inf, values)

    values = jax.lax.map(lambda p: at(jnp.full(result.shape, p[0]), jnp.full(result.shape, p[1])), points)
    best = points[jnp.argmax(values, axis=0)]

    def move(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        u, v, step = carry

        def place(first: Array, second: Array) -> tuple[Array, Array]:
            (a, b), (c, d) = ((axis[0], axis[-1]) for axis in axes)
            width = step / (grid - 1)
            return jnp.clip(u + first * width * (b - a), a, b), jnp.clip(v + second * width * (d - c), c, d)

        near = jax.lax.map(lambda offset: at(*place(offset[0], offset[1])), offsets)
        choice = jnp.argmax(near, axis=0)
        u, v = place(offsets[choice, 0], offsets[choice, 1])
        return u, v, jnp.where(choice == 0, step / 2, step)

    u, v, _ = jax.lax.fori_loop(0, steps, move, (best[..., 0], best[..., 1], jnp.full(result.shape, 0.5, result.dtype)))
    return jnp.exp(u), jnp.exp(v), at(u, v)

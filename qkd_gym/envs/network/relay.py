"""How requests travel: their tags, paths as sets of links, queues, and relaying on one network at once.

Everything is a pure function of small integer arrays of one network; `vmap` maps it over environments.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32


def pack_tag(deadline: Array, high: Array, two: Array, target: Array) -> Int[Array, "..."]:
    """Last epoch to serve a request in, its class, whether it wants two paths, and its target, in one int32."""
    return ((deadline * 2 + high) * 2 + two) * 256 + target


def target_of(tag: Array) -> Array:
    return tag & 255


def wants_two(tag: Array) -> Array:
    return (tag >> 8 & 1) == 1


def is_high(tag: Array) -> Array:
    return (tag >> 9 & 1) == 1


def deadline_of(tag: Array) -> Array:
    return tag >> 10


def unpack_words(words: UInt32[Array, "... words"], links: int) -> Bool[Array, "... links"]:
    """Sets of links from their words."""
    lead = (1,) * (words.ndim - 1)
    places = [np.arange(min(32, links - 32 * w), dtype=np.uint32).reshape(*lead, -1) for w in range(words.shape[-1])]
    return jnp.concatenate([(words[..., w, None] >> at) & 1 for w, at in enumerate(places)], axis=-1) == 1


def pack_words(links: Bool[Array, "... links"]) -> UInt32[Array, "... words"]:
    """Words from sets of links."""
    # Link by link: under vmap a sum over the last axis is not vectorised.
    words = []
    for start in range(0, links.shape[-1], 32):
        word = jnp.zeros(links.shape[:-1], jnp.uint32)
        for link in range(start, min(start + 32, links.shape[-1])):
            word = word | links[..., link].astype(jnp.uint32) << np.uint32(link - start)
        words.append(word)
    return jnp.stack(words, axis=-1)


def path_figures(
    words: UInt32[Array, "nodes paths words"],
    level: Int[Array, "nodes links"],
    fill: Float[Array, "nodes links"],
    seconds: Float[Array, "nodes links"],
) -> tuple[Array, Array, Array, Array]:
    """Of the pools on each path, as its node knows them: least fill, least level, sum of 1 - fill, oldest news."""
    shape = words.shape[:-1]
    least_fill, least = jnp.ones(shape, jnp.float32), jnp.full(shape, 2**30, jnp.int32)
    scarce = oldest = jnp.zeros(shape, jnp.float32)
    # Link by link, four times as fast as reductions over an axis of links.
    for link in range(level.shape[-1]):
        on = words[..., link // 32] >> np.uint32(link % 32) & 1 == 1
        here = fill[:, link, None]
        least_fill = jnp.minimum(least_fill, jnp.where(on, here, 1.0))
        least = jnp.minimum(least, jnp.where(on, level[:, link, None], 2**30))
        scarce = scarce + jnp.where(on, 1 - here, 0.0)
        oldest = jnp.maximum(oldest, jnp.where(on, seconds[:, link, None], 0.0))
    return least_fill, least, scarce, oldest


def close_up(size: Array, tag: Array, keep: Bool[Array, "nodes queue"]) -> tuple[Array, Array]:
    """Queues without what is not kept, in order, holes closed."""
    place = jnp.cumsum(keep, axis=1, dtype=jnp.int32) - 1
    moves = (place[:, None, :] == np.arange(keep.shape[1])[None, :, None]) & keep[:, None, :]  # (nodes, to, from)
    return tuple(jnp.sum(jnp.where(moves, x[:, None, :], 0), axis=-1, dtype=jnp.int32) for x in (size, tag))  # type: ignore[return-value]


def relay_in_order(
    level: Int[Array, " links"],
    route: UInt32[Array, "nodes words"],
    size: Int[Array, " nodes"],
    priority: Float[Array, " nodes"],
    failed_share: Any,
) -> tuple[Array, Bool[Array, " nodes"], Array, Array]:
    """Relay every node's request over its route, one after the other, smallest priority first, whole or not at all.

    A request is served if every pool on its route still holds its size, which all of them pay. Else it fails, and the
    pools on its route that did hold enough lose `failed_share` of the size.

    Args:
        size: 0 where a node attempts nothing.

    Returns:
        levels afterwards; who was served; key paid on all hops by those served, and by those who failed.
    """
    links, nodes = level.shape[-1], size.shape[-1]
    number = np.arange(nodes)
    before = (priority[None, :] < priority[:, None]) | (
        (priority[None, :] == priority[:, None]) & (number[None, :] < number[:, None])
    )
    turn = jnp.sum(before, axis=1, dtype=jnp.int32)
    order = turn[None, :] == number[:, None]  # (turn, node)
    routes = jnp.sum(jnp.where(order[:, :, None], route[None], 0), axis=1, dtype=jnp.uint32)
    sizes = jnp.sum(jnp.where(order, size[None], 0), axis=1, dtype=jnp.int32)
    parts = jnp.floor(sizes * failed_share).astype(jnp.int32)

    def serve(level: Array, request: Any) -> tuple[Array, Any]:
        route, size, part = request
        on = unpack_words(route, links)
        enough = level >= size
        granted = jnp.all(enough | ~on) & (size > 0)
        paid = jnp.where(granted, size, part)
        hops = jnp.sum(on & enough, dtype=jnp.int32)
        return level - jnp.where(on & enough, paid, 0), (granted, hops * paid)

    level, (granted, paid) = jax.lax.scan(serve, level, (routes, sizes, parts))
    served = jnp.any(order & granted[:, None], axis=0)
    delivered = jnp.sum(jnp.where(granted, paid, 0), dtype=jnp.int32)
    return level, served, delivered, jnp.sum(paid, dtype=jnp.int32) - delivered

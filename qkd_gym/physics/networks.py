"""Trusted-node networks: pools of key, relaying hop by hop, what encryption consumes, shortest paths.

Pools and relays are pure functions of arrays and can be jitted and mapped; a trailing axis `links` runs over the links
of a network. float32 counts whole bits up to 2^24 exactly, beyond that to 6e-8 of the level. The path functions at the
end are for the host: NumPy and plain Python, called once per topology.
"""

from __future__ import annotations

import functools
import heapq
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from qkd_gym import struct
from qkd_gym.physics.fibre import group_delay_s
from qkd_gym.physics.information import as_float

#: Spacing of trusted nodes on a long-haul link that its key rate still likes; design value.
MAX_HOP_KM = 80.0

# ---- pools --------------------------------------------------------------------------------------------------------


@struct.dataclass
class PoolStep:
    """A pool after one step, and where its key went; everything `(...)`."""

    level_bits: Any = struct.field(low=0.0, unit="bit", doc="stored at the end of the step")
    served_bits: Any = struct.field(low=0.0, unit="bit", doc="delivered to the request")
    dropped_bits: Any = struct.field(low=0.0, unit="bit", doc="requested and not delivered")
    spilled_bits: Any = struct.field(low=0.0, unit="bit", doc="generated above the capacity")


def pool_step(
    level_bits: ArrayLike,
    generated_bits: ArrayLike,
    demand_bits: ArrayLike,
    capacity_bits: ArrayLike = jnp.inf,
    reserve_bits: ArrayLike = 0.0,
) -> PoolStep:
    """One step of a pool: fill up to the capacity, then serve the request whole or not at all.

    Args:
        reserve_bits: kept for authentication of the link's own post-processing; a request never gets it.
    """
    level, generated, demand, capacity, reserve = as_float(
        level_bits, generated_bits, demand_bits, capacity_bits, reserve_bits
    )
    full = level + generated
    filled = jnp.minimum(full, capacity)
    granted = filled - reserve >= demand
    served = jnp.where(granted, demand, 0)
    return PoolStep(
        level_bits=filled - served,
        served_bits=served,
        dropped_bits=demand - served,
        spilled_bits=full - filled,
    )


@struct.dataclass
class DuplexPool:
    """The two buffers of one link end: what it encrypts with is what the other end decrypts with.

    Separate buffers keep both ends from taking the same key at once (ETSI GS QKD 004 and 014).
    """

    encrypt_bits: Any = struct.field(default=0.0, unit="bit", low=0.0, doc="for messages sent")
    decrypt_bits: Any = struct.field(default=0.0, unit="bit", low=0.0, doc="for messages received")

    def other_end(self) -> DuplexPool:
        """The same key as the other end sees it."""
        return DuplexPool(encrypt_bits=self.decrypt_bits, decrypt_bits=self.encrypt_bits)


def duplex_step(
    pool: DuplexPool,
    generated_bits: ArrayLike,
    encrypt_demand_bits: ArrayLike,
    decrypt_demand_bits: ArrayLike,
    capacity_bits: ArrayLike = jnp.inf,
    reserve_bits: ArrayLike = 0.0,
    encrypt_share: ArrayLike = 0.5,
) -> tuple[DuplexPool, PoolStep, PoolStep]:
    """`pool_step` on either buffer, capacity and reserve each; new key is split by `encrypt_share`."""
    generated, share = as_float(generated_bits, encrypt_share)
    to_encrypt = generated * share
    sent = pool_step(pool.encrypt_bits, to_encrypt, encrypt_demand_bits, capacity_bits, reserve_bits)
    received = pool_step(pool.decrypt_bits, generated - to_encrypt, decrypt_demand_bits, capacity_bits, reserve_bits)
    return DuplexPool(encrypt_bits=sent.level_bits, decrypt_bits=received.level_bits), sent, received


# ---- relaying -----------------------------------------------------------------------------------------------------


@struct.dataclass
class Relay:
    """A network after one end-to-end key was relayed, or not."""

    level_bits: Any = struct.field(low=0.0, unit="bit", doc="pools afterwards (..., links)")
    delivered_bits: Any = struct.field(low=0.0, unit="bit", doc="end-to-end key (...)")
    burnt_bits: Any = struct.field(low=0.0, unit="bit", doc="taken from all pools together (...)")


def available_bits(level_bits: ArrayLike, on_path: ArrayLike, reserve_bits: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Longest key that a path can relay now: the least of its pools above their reserve; inf for an empty path.

    Args:
        level_bits: `(..., links)`.
        on_path: bool `(..., links)`.
        reserve_bits: `(..., links)` or scalar.
    """
    level, reserve = as_float(level_bits, reserve_bits)
    return jnp.min(jnp.where(jnp.asarray(on_path, bool), jnp.maximum(level - reserve, 0), jnp.inf), axis=-1)


def relay(level_bits: ArrayLike, on_path: ArrayLike, demand_bits: ArrayLike, reserve_bits: ArrayLike = 0.0) -> Relay:
    """Relay an end-to-end key over trusted nodes: as many bits as it is long are burnt on *every* hop, or none at all.

    Each node in between announces the sum of its two hop keys (`relay_announcements`). Arguments as in
    `available_bits`, `demand_bits` `(...)`.
    """
    return relay_shares(level_bits, jnp.asarray(on_path, bool)[..., None, :], demand_bits, reserve_bits)


def relay_shares(
    level_bits: ArrayLike, on_paths: ArrayLike, share_bits: ArrayLike, reserve_bits: ArrayLike = 0.0
) -> Relay:
    """Relay one share of a secret over each of several paths, all or nothing.

    In an s-of-t scheme (Shamir) each share is as long as the secret and every used path pays in full; s - 1 compromised
    paths learn nothing. `delivered_bits` is the length of the secret. Paths may have links in common: these pay for
    each of them.

    Args:
        on_paths: bool `(..., paths, links)`; a path without links is an unused slot.
    """
    level, share, reserve = as_float(level_bits, share_bits, reserve_bits)
    uses = jnp.sum(jnp.asarray(on_paths, bool), axis=-2).astype(level.dtype)
    lead = jnp.broadcast_shapes(level.shape[:-1], uses.shape[:-1], share.shape)
    level, uses, reserve = (jnp.broadcast_to(x, (*lead, level.shape[-1])) for x in (level, uses, reserve))
    share = jnp.broadcast_to(share, lead)
    need = uses * share[..., None]
    granted = jnp.all((uses == 0) | (level - reserve >= need), axis=-1)
    burnt = jnp.where(granted[..., None], need, 0)
    return Relay(
        level_bits=level - burnt,
        delivered_bits=jnp.where(granted, share, 0),
        burnt_bits=jnp.sum(burnt, axis=-1),
    )


def relay_announcements(hop_keys: ArrayLike) -> Bool[Array, "... nodes bits"]:
    """What the nodes between make public: the sum modulo 2 of the keys on either side, K_i xor K_(i+1).

    Args:
        hop_keys: bool `(..., hops, bits)`. The last hop's key xor all announcements is the first hop's.
    """
    keys = jnp.asarray(hop_keys, bool)
    return keys[..., 1:, :] ^ keys[..., :-1, :]


def path_latency_s(
    length_km: ArrayLike, on_path: ArrayLike, processing_s_per_node: ArrayLike = 1e-3
) -> Float[Array, "..."]:
    """Time for a key to travel a path: light over all its hops, and handling at each node between.

    Args:
        length_km: `(..., links)`. processing_s_per_node: design value, `(...)`.
    """
    length, processing = as_float(length_km, processing_s_per_node)
    used = jnp.asarray(on_path, bool)
    hops = jnp.sum(used, axis=-1).astype(length.dtype)
    return group_delay_s(jnp.sum(jnp.where(used, length, 0), axis=-1)) + processing * jnp.maximum(hops - 1, 0)


def trusted_hops(length_km: ArrayLike, max_hop_km: ArrayLike = MAX_HOP_KM) -> Float[Array, "..."]:
    """Hops of a link with trusted nodes at most `max_hop_km` apart, ceil(L/d), at least 1.

    A length a few roundings above a whole number of hops counts as that number.
    """
    length, hop = as_float(length_km, max_hop_km)
    hops = length / hop
    return jnp.maximum(jnp.ceil(hops * (1 - 4 * jnp.finfo(hops.dtype).eps)), 1)


# ---- consumption --------------------------------------------------------------------------------------------------


def one_time_pad_bits(message_bits: ArrayLike) -> Float[Array, "..."]:
    """Key for one-time-pad encryption: one bit per bit."""
    (bits,) = as_float(message_bits)
    return bits


def cipher_bits_per_s(refresh_s: ArrayLike, key_bits: ArrayLike = 256.0) -> Float[Array, "..."]:
    """Key consumed by a block cipher whose key is renewed every `refresh_s`; AES-256 by default."""
    period, bits = as_float(refresh_s, key_bits)
    return bits / period


# ---- paths, on the host -------------------------------------------------------------------------------------------


def shortest_lengths(lengths: np.ndarray) -> np.ndarray:
    """Lengths of the shortest paths between all pairs (Floyd, Warshall).

    Args:
        lengths: symmetric `(nodes, nodes)`, inf where there is no link.

    Returns:
        float64 `(nodes, nodes)`, 0 on the diagonal, inf between parts that are not connected.
    """
    best = _checked(lengths)
    np.fill_diagonal(best, 0.0)
    for k in range(len(best)):
        np.minimum(best, best[:, k, None] + best[None, k, :], out=best)
    return best


def shortest_paths(lengths: np.ndarray, source: int, target: int, count: int) -> list[tuple[float, tuple[int, ...]]]:
    """The `count` shortest simple paths as `(length, nodes)`, shortest first, ties by the nodes' numbers.

    Best-first search over simple paths, guided by the exact distance to the target, first with the path so far allowed
    to be crossed and, once that is the least, without: so no part of a path is followed that cannot be finished. Fewer
    come back where no more exist.

    Args:
        lengths: as in `shortest_lengths`, positive. source, target: different nodes.
    """
    matrix = _checked(lengths)
    nodes = len(matrix)
    if not (0 <= source < nodes and 0 <= target < nodes) or source == target:
        raise ValueError(f"a path needs two different nodes in 0..{nodes - 1}, got {source} and {target}")
    lengths_to, neighbours = _ways(matrix.tobytes(), nodes)
    rest = lengths_to[target]
    found: list[tuple[float, tuple[int, ...]]] = []
    # (lower bound of the whole, path so far, its length, whether the bound keeps clear of the path)
    queue: list[tuple[float, tuple[int, ...], float, bool]] = [(rest[source], (source,), 0.0, True)]
    while queue and len(found) < count:
        _, path, length, clear = heapq.heappop(queue)
        if path[-1] == target:
            found.append((length, path))
            continue
        if not clear:
            bound = length + _length_around(neighbours, rest, path, target)
            if np.isfinite(bound):
                heapq.heappush(queue, (bound, path, length, True))
            continue
        for node, hop in neighbours[path[-1]]:
            if node not in path and np.isfinite(rest[node]):
                longer = length + hop
                heapq.heappush(queue, (longer + rest[node], (*path, node), longer, node == target))
    return found


@functools.lru_cache(maxsize=4)
def _ways(matrix: bytes, nodes: int) -> tuple[list[list[float]], list[list[tuple[int, float]]]]:
    """(shortest lengths to each node, neighbours of each node), once for all pairs of a network."""
    lengths = np.frombuffer(matrix, np.float64).reshape(nodes, nodes)
    neighbours = [
        [(int(j), float(row[j])) for j in np.flatnonzero(np.isfinite(row)) if j != i] for i, row in enumerate(lengths)
    ]
    return shortest_lengths(lengths).T.tolist(), neighbours


def _length_around(
    neighbours: list[list[tuple[int, float]]], rest: list[float], path: tuple[int, ...], target: int
) -> float:
    """Length of the shortest way from the end of `path` to the target that meets no other node of it; inf if none."""
    done = set(path[:-1])
    queue = [(rest[path[-1]], 0.0, path[-1])]
    while queue:
        _, length, node = heapq.heappop(queue)
        if node == target:
            return length
        if node in done:
            continue
        done.add(node)
        for other, hop in neighbours[node]:
            if other not in done:
                heapq.heappush(queue, (length + hop + rest[other], length + hop, other))
    return np.inf


def _checked(lengths: np.ndarray) -> np.ndarray:
    matrix = np.array(lengths, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"lengths must be a square matrix, got shape {matrix.shape}")
    off = ~np.eye(len(matrix), dtype=bool)
    if not np.array_equal(matrix, matrix.T) or not np.all(matrix[off] > 0):
        raise ValueError("lengths must be symmetric and positive, inf where there is no link")
    return matrix

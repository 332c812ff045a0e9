"""Parts of `node_switching`: which requests a switch grants, what blocks yield, who asks for how much, observations.

Pure functions over `(transmitters, receivers)`, written as sums over one-hot rows so that nothing is indexed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qkd_gym.envs.network.links import TwoDecoyDevices, pulses_of, secret_bits, transmittance
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.physics.numerics import stored

#: Key is counted in whole units of this many bits, so that int32 books are exact up to 2e13 bits.
UNIT_BITS = 10_000
#: Excess losses at which a block's key is worked out, dB; between them its logarithm is linear, beyond them constant.
KNOTS_DB = (-4.0, -2.0, 0.0, 2.0, 4.0)
#: Scales of the observations.
_RATIO, _BLOCKS, _RELOCK_MIN, _AGE_MIN, _RELEASE_MIN, _STORE_MIN = 3.0, 4.0, 15.0, 240.0, 20.0, 60.0
#: Components of an observation for each receiver, and beside those and its own number.
PER_RECEIVER, REST = 10, 6


class Reading(NamedTuple):
    """All transmitters' observations in physical units, for rule-based agents: `(n, m)` by transmitter and receiver."""

    fill: Any  # of the store
    demand_ratio: Any  # recent demand over its mean
    block_share: Any  # estimated key of a block over what the store holds
    age_min: Any  # of that estimate
    size: Any  # mean demand over the mean pair's
    store_min: Any  # mean demand that the store holds
    own: Any  # bool, paired now
    taken: Any  # bool, held by another transmitter
    release_min: Any  # until the block that runs at a taken receiver is complete
    other_fill: Any  # least fill of the other transmitters' stores at that receiver
    relock_left_min: Any  # (n,)
    block_fill: Any  # (n,)
    hour: Any  # (), of the day
    relock_min: Any  # (), of a new pairing
    block_min: Any  # ()


def grant(
    held: Bool[Array, "n m"], asked: Bool[Array, "n m"], valid: Bool[Array, " n"]
) -> tuple[Bool[Array, "n m"], Bool[Array, " n"], Bool[Array, " n"]]:
    """What the switch does with everyone's requests at once.

    Who asks for a receiver that another holds at this moment, or for something that does not exist, keeps what it has:
    a port must be free before it is taken. Several who ask for one free receiver are all left idle.

    Args:
        held, asked: a row has one True or, idle, none.

    Returns:
        pairs now; which transmitters were refused; which collided.
    """
    by_others = jnp.any(held, axis=0)[None] & ~held
    refused = jnp.any(asked & by_others, axis=1) | ~valid
    want = jnp.where(refused[:, None], held, asked)
    new = want & ~held
    contested = new & (jnp.sum(new, axis=0, dtype=jnp.int32) > 1)[None]
    return want & ~contested, refused, jnp.any(contested, axis=1)


def log_block_key(params: TwoDecoyDevices, loss_db: Float[Array, "n m"], error: Any, seconds: Any) -> Array:
    """Natural logarithm of the secret bits (at least one) of a block at each of `KNOTS_DB` more loss, `(knots, n, m)`.

    The settings of the source are those for the loss without excess: the operator does not know the drift.
    """
    number = params.clock_hz * jnp.asarray(seconds, jnp.float32)
    settings = near_optimal_settings(number, transmittance(params, loss_db))
    excess = np.array(KNOTS_DB, np.float32)[:, None, None]
    eta = transmittance(params, loss_db[None] + excess)
    settings = jnp.broadcast_to(settings[None], (*eta.shape, settings.shape[-1]))
    error = jnp.broadcast_to(jnp.asarray(error, jnp.float32), eta.shape[1:])[None]
    bits = secret_bits(params, pulses_of(params, settings, eta, error), number)
    return jnp.log(jnp.maximum(bits, 1.0)).astype(jnp.float32)


def at_excess(log_key: Float[Array, "knots n m"], excess_db: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """`log_block_key` at an excess loss between its knots."""
    step = KNOTS_DB[1] - KNOTS_DB[0]
    x = jnp.clip(excess_db, KNOTS_DB[0], KNOTS_DB[-1])
    return sum(log_key[k] * jnp.maximum(1 - jnp.abs(x - knot) / step, 0) for k, knot in enumerate(KNOTS_DB))  # type: ignore[return-value]


def block_units(log_key: Array) -> Int[Array, "..."]:
    """Whole units of key in a block."""
    return jnp.floor(jnp.exp(log_key) / UNIT_BITS).astype(jnp.int32)


def mean_demand(share: Float[Array, "n m"], per_min: Float[Array, "n m"], load: Any) -> Float[Array, "n m"]:
    """Demand a minute that takes port time in the proportions of `share`, the busiest port's adding up to `load`.

    A pair that asks for d and makes r while paired needs a share d/r of its ports' time. A schedule without relocks
    that gives every pair its share exists if and only if no port's shares exceed 1 (Birkhoff, von Neumann).
    """
    busiest = jnp.maximum(jnp.max(jnp.sum(share, axis=0)), jnp.max(jnp.sum(share, axis=1)))
    return load / busiest * share * per_min


def observation(
    level: Int[Array, "n m"],
    capacity: Int[Array, "n m"],
    recent: Float[Array, "n m"],
    mean: Float[Array, "n m"],
    estimate: Float[Array, "n m"],
    age: Int[Array, "n m"],
    held: Bool[Array, "n m"],
    relock_left: Int[Array, " n"],
    progress: Int[Array, " n"],
    sin_cos_hour: tuple[Array, Array],
    relock_min: Array,
    block_min: Array,
) -> Float[Array, "n components"]:
    """What each transmitter's controller reads, scaled to [-1, 1]; the card of `NodeSwitching` lists it."""
    n, m = level.shape
    store = jnp.maximum(capacity, 1).astype(jnp.float32)
    fill = stored(level / store)
    octaves = 1 / math.log(2.0)
    ratio = jnp.log(jnp.maximum(recent, 1e-3) / jnp.maximum(mean, 1e-3)) * (octaves / _RATIO)
    blocks = (estimate - jnp.log(UNIT_BITS * store)) * (octaves / _BLOCKS)
    size = jnp.log(jnp.maximum(mean, 1e-3) * (n * m) / jnp.maximum(jnp.sum(mean), 1e-3)) * (octaves / _BLOCKS)
    lasts = jnp.log(store / (_STORE_MIN * jnp.maximum(mean, 1e-3))) * (octaves / _BLOCKS)
    left = jnp.where(jnp.any(held, axis=1), relock_left + block_min - progress, 0).astype(jnp.float32)
    release = jnp.sum(jnp.where(held, left[:, None], 0), axis=0)[None]
    taken = jnp.any(held, axis=0)[None] & ~held
    others = [jnp.min(jnp.delete(fill, i, axis=0), axis=0) if n > 1 else jnp.ones(m, jnp.float32) for i in range(n)]

    def same(x: Any) -> Array:
        return jnp.broadcast_to(x, (n, 1))

    parts = [
        fill,
        ratio,
        blocks,
        age / _AGE_MIN,
        size,
        lasts,
        held,
        taken,
        jnp.where(taken, release / _RELEASE_MIN, 0),
        jnp.stack(others),
        (relock_left / _RELOCK_MIN)[:, None],
        (progress / block_min)[:, None],
        same(sin_cos_hour[0]),
        same(sin_cos_hour[1]),
        same(relock_min / _RELOCK_MIN),
        same(block_min / _RELEASE_MIN),
        np.eye(n, dtype=np.float32),
    ]
    return jnp.clip(jnp.concatenate([x.astype(jnp.float32) for x in parts], axis=1), -1, 1)


def decode(obs: Float[Array, "n components"]) -> Reading:
    """All transmitters' observations in physical units, up to the clipping of extreme values."""
    n = len(obs)
    m = (obs.shape[1] - REST - n) // PER_RECEIVER
    pair = obs[:, : PER_RECEIVER * m].reshape(n, PER_RECEIVER, m)
    rest = obs[:, PER_RECEIVER * m :]
    hour = jnp.arctan2(rest[0, 2], rest[0, 3]) * (12 / math.pi)
    return Reading(
        fill=pair[:, 0],
        demand_ratio=jnp.exp2(_RATIO * pair[:, 1]),
        block_share=jnp.exp2(_BLOCKS * pair[:, 2]),
        age_min=_AGE_MIN * pair[:, 3],
        size=jnp.exp2(_BLOCKS * pair[:, 4]),
        store_min=_STORE_MIN * jnp.exp2(_BLOCKS * pair[:, 5]),
        own=pair[:, 6] > 0.5,
        taken=pair[:, 7] > 0.5,
        release_min=_RELEASE_MIN * pair[:, 8],
        other_fill=pair[:, 9],
        relock_left_min=_RELOCK_MIN * rest[:, 0],
        block_fill=rest[:, 1],
        hour=jnp.where(hour < 0, hour + 24, hour),
        relock_min=_RELOCK_MIN * rest[0, 4],
        block_min=_RELEASE_MIN * rest[0, 5],
    )

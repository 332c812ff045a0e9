"""What `resource_allocation` is made of: its grid, choices, parameters and state; observations in physical units."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qkd_gym import struct
from qkd_gym.envs.core import EnvParams, EnvState
from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network.coexistence import Coexistence

#: Key is counted in whole units of this many bits, so that int32 books are exact.
UNIT_BITS = 10_000
#: Size of the grid, of its choices, and the number of tenants.
WAVES, CHANNELS, SLOTS, POWERS, RELEASES, TENANTS = 6, 12, 4, 4, 3, 8
#: Sets of neighbouring slots that a link can claim, float32 `(windows, SLOTS)`; the first is empty.
WINDOWS = np.array(
    [[0.0] * SLOTS]
    + [
        [float(first <= slot < first + width) for slot in range(SLOTS)]
        for width in range(1, SLOTS + 1)
        for first in range(SLOTS - width + 1)
    ],
    np.float32,
)
#: Where each kind of action begins: 0 keeps everything as it is.
TO_WAVE = 1
TO_WINDOW = TO_WAVE + WAVES
TO_POWER = TO_WINDOW + len(WINDOWS)
TO_RELEASE = TO_POWER + POWERS
ACTIONS = TO_RELEASE + RELEASES
#: What a link releases its pool to: all orders; premium ones and those due soon; premium ones only.
ALL, SOON, PREMIUM = 0, 1, 2
#: Observed noise is logarithmic: 0 at so many counts per gate, 1 so many decades above.
LEAST_NOISE, DECADES = 1e-7, 5.0


@struct.dataclass
class ResourceAllocationParams(Coexistence, EnvParams):
    """One network, its fibres, classical traffic and tenants. Defaults are design values where no source is named."""

    max_steps_in_episode: int = struct.field(default=480, low=1, high=2000, unit="step", doc="time limit, 8 h")
    step_min: float = struct.field(default=1.0, low=0.01, high=60.0, unit="min", doc="one step, one finite-key block")
    graph: int = struct.field(default=0, low=0, high=1, doc="0: the topology named; 1: its held-out stand-in")
    relock_steps: float = struct.field(
        default=5.0, low=0.0, high=100.0, unit="step", doc="without key after a change of wavelength"
    )
    resync_share: float = struct.field(
        default=0.5, low=0.0, high=1.0, doc="of a slot that several links claim, lost to changing over"
    )
    # pools
    pool_min: float = struct.field(default=30.0, low=0.0, unit="min", doc="a pool holds so much of its nominal key")
    start_fill: float = struct.field(default=0.5, low=0.0, high=1.0, doc="of each pool at the start")
    # contracts
    tenant_pair: Any = struct.field(
        default=tuple(range(TENANTS)), low=0, doc="pair of nodes that each tenant joins (tenants,)"
    )
    load: float = struct.field(
        default=2.0, low=0.0, high=10.0, doc="mean demand over what routes carry if links share all evenly"
    )
    premium_tenants: float = struct.field(
        default=3.0, low=0.0, high=TENANTS, unit="tenant", doc="so many first ones are premium"
    )
    premium_weight: float = struct.field(default=4.0, low=1.0, high=100.0, doc="value of their key; of others' 1")
    shortest_order_steps: float = struct.field(default=8.0, low=1.0, high=1e4, unit="step", doc="to deliver, from ...")
    longest_order_steps: float = struct.field(default=30.0, low=1.0, high=1e4, unit="step", doc="... to")
    order_spread: float = struct.field(default=4.0, low=1.0, high=100.0, doc="greatest order over a middling one")
    soon_steps: float = struct.field(default=5.0, low=0.0, unit="step", doc="'due soon'")
    # classical traffic
    drop_price: float = struct.field(
        default=0.4, low=0.0, high=10.0, doc="of a high lightpath's minute without power, in link values"
    )
    common_price: float = struct.field(default=0.25, low=0.0, high=10.0, doc="a common lightpath's price over that")


@struct.dataclass
class ResourceAllocationState(EnvState):
    """Key in units of 10,000 bit. Readings are those of the last step in which a link had detectors."""

    # this network's constants
    noise: Any  # f32 (links, WAVES, CHANNELS), counts per gate at full power
    eta: Any  # f32 (links, WAVES)
    nominal: Any  # f32 (links,), units of a step with the detectors to itself
    capacity: Any  # i32 (links,)
    route: Any  # i32 (TENANTS, links)
    demand: Any  # f32 (TENANTS,), units a step on average
    # classical traffic
    lit: Any  # i32 (links, CHANNELS): 0 dark, 1 common, 2 high
    busy: Any  # bool (links,)
    # settings
    wave: Any  # i32 (links,)
    window: Any  # i32 (links,)
    power: Any  # i32 (links,), steps below full power
    release: Any  # i32 (links,)
    relock: Any  # i32 (links,), steps left without key
    # pools and orders
    level: Any  # i32 (links,)
    backlog: Any  # i32 (TENANTS,)
    size: Any  # i32 (TENANTS,)
    left: Any  # i32 (TENANTS,), steps to the deadline
    # what was read
    share: Any  # f32 (links,), of the step with detectors
    contested: Any  # f32 (links,), slots
    qber: Any  # f32 (links,)
    worth: Any  # f32 (links,), key of a step with detectors to oneself, over nominal
    seen_noise: Any  # f32 (links, WAVES), counts per gate at the power then
    seen_age: Any  # i32 (links, WAVES), steps
    # what happened
    made: Any  # i32 (links,), key in the last step
    delivered: Any  # i32 (TENANTS,), in the last step
    ordered: Any  # i32 (TENANTS,), size of the orders placed in the last step
    # books: made = stored + delivered on all hops + spilled
    made_total: Any  # i32 (), with the stock at the start
    delivered_total: Any  # i32 (), units x hops
    spilled_total: Any  # i32 ()


class Reading(NamedTuple):
    """Observations in physical units, for rule-based agents; everything has a leading axis of links."""

    wave: Any  # (WAVES,) bool
    claims: Any  # (SLOTS,) bool
    power: Any  # steps below full power
    release: Any
    relock: Any  # steps
    length_km: Any
    extra_loss_db: Any
    fill: Any
    nominal_share: Any  # key of the last step over nominal
    share: Any  # of the last step with detectors
    contested: Any  # slots
    qber: Any
    rivals: Any  # links that share its detectors, itself among them
    place: Any  # its number among them
    rival_claims: Any  # (SLOTS,) others' claims on each slot
    seen_noise: Any  # (WAVES,), counts per gate
    seen_age: Any  # (WAVES,), steps; at most 120
    lit: Any  # (CHANNELS,), 0, 1, 2
    on_route: Any  # (TENANTS,) bool
    premium: Any  # (TENANTS,) bool
    backlog: Any  # (TENANTS,), in steps of the tenant's mean demand
    left: Any  # (TENANTS,), steps
    pressure: Any  # (TENANTS,), backlog over the key that this link makes nominally until the deadline
    other_fill: Any  # (links,), everybody's pools
    other_need: Any  # (links,), everybody's orders over the key that a link makes nominally until their deadlines
    other_yield: Any  # (links,), everybody's key of a step with detectors to oneself, as last made, over nominal
    rival: Any  # (links,) bool, who shares its detectors, itself among them


#: Components of an observation by group, after which come four for each link.
PARTS = (12, WAVES, SLOTS, SLOTS, WAVES, WAVES, CHANNELS, *[TENANTS] * 5)


def decode(obs: Float[Array, "links n"]) -> Reading:
    """All links' observations in physical units (up to the clipping of extreme values), leading axis `links`."""
    links = len(obs)
    parts = jnp.split(obs, np.cumsum([*PARTS, links, links, links]), axis=1)
    head, wave, claims, others, noise, age, lit, on, premium, backlog, left, pressure, *others_have = parts
    fills, needs, yields, rival = others_have
    return Reading(
        wave=wave > 0.5,
        claims=claims > 0.5,
        power=jnp.round((POWERS - 1) * head[:, 0]).astype(jnp.int32),
        release=jnp.round((RELEASES - 1) * head[:, 1]).astype(jnp.int32),
        relock=5 * head[:, 2],
        length_km=100 * head[:, 3],
        extra_loss_db=3 * head[:, 4],
        fill=head[:, 5],
        nominal_share=head[:, 6],
        share=head[:, 7],
        contested=SLOTS * head[:, 8],
        qber=head[:, 9] / 10,
        rivals=4 * head[:, 10],
        place=4 * head[:, 11],
        rival_claims=3 * others,
        seen_noise=jnp.where(noise > 0, LEAST_NOISE * 10 ** (DECADES * noise), 0.0),
        seen_age=120 * age,
        lit=jnp.round(2 * lit).astype(jnp.int32),
        on_route=on > 0.5,
        premium=premium > 0.5,
        backlog=60 * backlog,
        left=30 * left,
        pressure=2 * pressure,
        other_fill=fills,
        other_need=4 * needs,
        other_yield=2 * yields,
        rival=rival > 0.5,
    )


def claims_of(window: Int[Array, " links"]) -> Float[Array, "links slots"]:
    """Slots that each link claims."""
    chosen = window[:, None] == np.arange(len(WINDOWS))[None]
    return jnp.sum(jnp.where(chosen[:, :, None], WINDOWS[None], 0), axis=1)


def noise_at(
    table: Float[Array, "links waves channels"],
    tuned: Bool[Array, "links waves"],
    lit: Int[Array, "links channels"],
    power: Int[Array, " links"],
    params: Any,
) -> Float[Array, " links"]:
    """Counts per gate from all lit channels at the wavelengths that links are tuned to."""
    here = jnp.sum(jnp.where(tuned[:, :, None], table, 0), axis=1)
    return light.power_factor(power, params) * jnp.sum(jnp.where(lit > 0, here, 0), axis=1)


def nominal_units(eta: Array, noise: Array, params: Any) -> Float[Array, " links"]:
    """Key of a step at the best wavelength, detectors to oneself, mean traffic, power one step below full."""
    mean = light.power_factor(jnp.float32(1), params) * light.occupancy(params) * jnp.sum(noise, axis=-1)
    pulses = params.clock_hz * 60 * params.step_min
    bits = light.block_bits(eta, mean, pulses, params.misalignment_error[:, None], params)
    return jnp.max(bits, axis=1) / UNIT_BITS


def units_of_value(demand: Float[Array, " tenants"], params: Any) -> Float[Array, " tenants"]:
    """Value of a unit of key to each tenant: everyone's mean demand of a step, weighted, is worth 1 together."""
    weight = jnp.where(np.arange(TENANTS) < params.premium_tenants, params.premium_weight, 1.0)
    return weight / (demand * jnp.sum(weight))

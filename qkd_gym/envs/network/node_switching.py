"""`node_switching`: transmitters behind an optical switch take turns at the receivers; every change costs a relock."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qkd_gym import struct
from qkd_gym.envs.core import Environment, EnvParams, EnvState
from qkd_gym.envs.network import switching
from qkd_gym.envs.network.links import TwoDecoyDevices
from qkd_gym.envs.network.switching import PER_RECEIVER, REST, UNIT_BITS
from qkd_gym.physics.drift import ornstein_uhlenbeck_step
from qkd_gym.physics.numerics import sin_cos, stored
from qkd_gym.physics.sampling import bits_to_normal, bits_to_uniform, random_bits

#: One step.
STEP_S = 60.0
DAY_MIN = 1440.0
#: Insertion loss of a pairing, from unit to unit; before it is measured, controllers go by the middle.
INSERTION_DB = (1.0, 2.0)
#: Decay of the demand that is seen, min (design value).
SEEN_DEMAND_MIN = 10.0


@struct.dataclass
class NodeSwitchingParams(TwoDecoyDevices, EnvParams):
    """One switched network and a day's demand. Defaults are design values where no source is named. `n` transmitters,
    `m` receivers."""

    max_steps_in_episode: int = struct.field(default=1440, low=1, high=100_000, unit="step", doc="time limit, 24 h")
    # light
    transmitter_km: Any = struct.field(
        default=(15.0,), low=0.0, high=200.0, unit="km", doc="fibre from each transmitter to the switch (n,)"
    )
    receiver_km: Any = struct.field(
        default=(15.0,), low=0.0, high=200.0, unit="km", doc="fibre from the switch to each receiver (m,)"
    )
    loss_db_per_km: float = struct.field(default=0.2, low=0.0, high=5.0, unit="dB/km", doc="of the fibre")
    insertion_db: Any = struct.field(
        default=1.5, low=0.0, high=10.0, unit="dB", doc="of the switch and its connectors, each pairing (n, m)"
    )
    misalignment_error: Any = struct.field(
        default=0.005, low=0.0, high=0.2, doc="optical error probability of each pairing (n, m)"
    )
    drift_db: float = struct.field(
        default=1.0, low=0.0, high=2.0, unit="dB", doc="standard deviation of a pairing's excess loss"
    )
    drift_min: float = struct.field(default=240.0, low=1.0, unit="min", doc="its correlation time")
    # switching
    relock_min: float = struct.field(
        default=5.0, low=0.0, high=60.0, unit="min", doc="alignment and timing after a new pairing, whole minutes"
    )
    block_min: float = struct.field(
        default=10.0, low=1.0, high=120.0, unit="min", doc="light of a finite-key block, whole minutes"
    )
    # stores
    store_min: float = struct.field(
        default=60.0, low=1.0, high=1440.0, unit="min", doc="mean demand that a pair's store holds"
    )
    store_blocks: float = struct.field(
        default=1.0, low=0.0, high=100.0, unit="block", doc="and at least so many blocks, by the mean loss"
    )
    start_fill: float = struct.field(default=0.25, low=0.0, high=1.0, doc="of the stores at the start, on average")
    # demand
    load: float = struct.field(
        default=0.8, low=0.0, high=10.0, doc="mean demand over what time sharing without relocks could carry"
    )
    share: Any = struct.field(
        default=1.0, low=1e-3, high=1e3, doc="mean demand over what the pair makes while paired, in proportion (n, m)"
    )
    start_hour: float = struct.field(default=0.0, low=0.0, high=24.0, unit="h", doc="of the day at the start")
    wave: float = struct.field(default=0.6, low=0.0, high=1.0, doc="amplitude of the day's wave over the mean")
    peak_hour: Any = struct.field(default=15.0, low=0.0, high=24.0, unit="h", doc="its maximum, each pair (n, m)")
    burst_factor: float = struct.field(default=6.0, low=1.0, high=100.0, doc="demand in a burst over that outside")
    burst_min: float = struct.field(default=90.0, low=1.0, unit="min", doc="mean length of a burst")
    quiet_min: float = struct.field(default=480.0, low=1.0, unit="min", doc="mean time between bursts of a pair")


@struct.dataclass
class NodeSwitchingState(EnvState):
    """Key in units of 10 kbit; `n` transmitters, `m` receivers."""

    # this network's constants
    mean: Any  # f32 (n, m), mean demand of a minute
    capacity: Any  # i32 (n, m)
    log_key: Any  # f32 (knots, n, m), of a block's bits by excess loss
    peak_cos: Any  # f32 (n, m), of the hour of the peak
    peak_sin: Any  # f32 (n, m)
    # stores and demand
    level: Any  # i32 (n, m)
    burst: Any  # bool (n, m)
    demand: Any  # i32 (n, m), of the last minute
    recent: Any  # f32 (n, m), its decaying mean
    # pairs
    held: Any  # bool (n, m), who is paired with whom
    relock_left: Any  # i32 (n,), min
    progress: Any  # i32 (n,), min of light in the open block
    excess_sum: Any  # f32 (n,), dB min, of its excess loss
    excess_db: Any  # f32 (n, m)
    estimate: Any  # f32 (n, m), logarithm of a block's bits as last measured
    age: Any  # i32 (n, m), min since then
    # books: made = stored + served + spilled; open blocks hold no key
    made_total: Any  # i32 (), with the stock at the start
    served_total: Any  # i32 ()
    spilled_total: Any  # i32 ()


@dataclasses.dataclass(frozen=True)
class NodeSwitching(Environment[NodeSwitchingState, NodeSwitchingParams]):
    """Share an optical switch: each transmitter picks the receiver that it makes key with, and pays for every change.

    ## Description

    Transmitters and receivers hang on one optical cross-connect, which joins any transmitter with any receiver, one
    to one. Users of every pair draw key from that pair's store. A new pairing relocks (alignment, timing: minutes
    without key), then fills finite-key blocks; key comes when a block is complete, all at once, and a block that is
    broken off is lost. Stores are small, so no pair can be left alone for long, and none can be filled far ahead.

    ## Agents

    The transmitters `tx0`, `tx1`, ...; all at once, all rewarded alike.

    ## Observation Space

    `Box(-1, 1, (10 m + n + 6,), float32)` a transmitter, clipped; n transmitters, m receivers; `decode` turns it into
    physical units. For each receiver, all m behind each other:

    | index | quantity | scale |
    |---|---|---|
    | 0 | fill of the pair's store | 1 |
    | m | its demand, mean of the last 10 min, over its mean | log2 / 3 |
    | 2 m | key of a block, as last measured (at first by the data sheet), over what the store holds | log2 / 4 |
    | 3 m | age of that measurement | / 240 min |
    | 4 m | mean demand over the mean pair's | log2 / 4 |
    | 5 m | minutes of mean demand that the store holds | log2(/ 60 min) / 4 |
    | 6 m | paired with this transmitter | 0 or 1 |
    | 7 m | held by another transmitter | 0 or 1 |
    | 8 m | if so, time until its running block is complete | / 20 min |
    | 9 m | least fill of the other transmitters' stores at this receiver | 1 |
    | 10 m | relock time left; then fill of the open block | / 15 min; 1 |
    | 10 m + 2 | sine and cosine of the hour | 1 |
    | 10 m + 4 | relock time of this network, then length of a block | / 15 min; / 20 min |
    | 10 m + 6 | number of the transmitter, one-hot | 0 or 1 |

    ## Action Space

    `Discrete(m + 1)` a transmitter: the receiver to be paired with (the present one: stay), m: none. Masked are the
    receivers that another transmitter holds: a port must be released before it can be taken, so a swap costs a minute.
    What the mask cannot know is what others choose in the same minute: those who ask for one and the same free
    receiver are all left without. A masked choice leaves the transmitter as it is; one outside the space does too,
    and no key is credited in that minute.

    ## Transition Dynamics

    In a minute the switch grants requests; each pair's users draw from the store what they ask for as far as it goes
    (the rest is lost demand); then new pairings relock, and locked ones collect light. Blocks that are complete put
    their key into the store, and what does not fit is spilled. Demand and the excess loss of every pairing, used or
    not, move on; no action reaches them: the same key gives the same ones under any policy.

    ## Reward

    The same for all: key drawn by all users in the minute over its mean demand. The mean over steps is about the share
    of the demand that is served (exactly, that share times the day's demand over the mean).

    ## Starting State

    Transmitter i is locked to receiver i, its block in any phase; stores around a quarter full.

    ## Episode End

    Truncated after 1440 minutes. Never terminated. The time left is not observed, and key in store at the end is worth
    nothing.

    ## Arguments

    `scenario`: see *Scenarios*. `num_transmitters`, `num_receivers`: 1 to 16 each. Everything else is
    `NodeSwitchingParams`.

    ## Physics provenance

    Blocks: two-decoy BB84 of Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014), its source and receiver
    at 1 GHz, near-optimal settings for the pairing's mean loss, one block of 10 min of light. Optical switches:
    0.5-1 dB (`qkd_gym.physics.fibre`), with two connectors 1-2 dB a pairing. Excess loss: an Ornstein-Uhlenbeck
    process. Design choices without a published source: relock times, lengths of fibre, demand, sizes of stores, the
    drift's constants.

    ## Validity

    No dead time (detectors that recover within 2 ns). Blocks have their mean key at their mean excess loss in dB (0.3 %
    from that of their mean transmittance). Authentication is not debited. The switch itself takes no time. One receiver
    serves one transmitter at a time (no wavelength multiplexing).

    ## Scenarios

    `training`: relock 3-8 min, stores of an hour, bursts. `easy`: relock 1 min, blocks of 2 min, large stores, small
    bursts. `ood-relock`, `ood-load`: one shift each.

    ## Baselines

    Practice: static pairing, round robin, longest queue, MaxWeight, visit greedy. Bound: a clairvoyant Lagrangian dual
    (`python -m benchmarks.node_switching`). Figures: docs/tasks/node_switching.md.

    ## Version History

    v0: first version.
    """

    num_transmitters: int = 4
    num_receivers: int = 4

    name: ClassVar[str] = "NodeSwitching"
    scenarios: ClassVar = {
        "training": "relock 3-8 min, blocks of 10 min, stores of 60 min of mean demand, load 0.8, bursts x 6",
        "easy": "relock 1 min, blocks of 2 min, stores of 120 min, load 0.8, bursts x 3",
        "ood-relock": "training with relock 10 min and blocks of 15 min",
        "ood-load": "training at load 1.2",
    }
    metrics: ClassVar = {
        "secret_bits": "secret bit: drawn by users and credited",
        "certifiable_bits": "secret bit: of blocks completed, the stock at the start counted in the first step",
        "demand_bits": "bit: asked for",
        "spilled_bits": "bit: of blocks that did not fit into their store",
        "stored_bits": "bit: in all stores",
        "relock_min": "min: of transmitters in relock, summed over them",
        "idle_min": "min: of transmitters without a receiver, summed over them",
        "lost_light_min": "min: of light in blocks that were broken off",
        "refused": "transmitters that asked for a receiver held by another, or for none that exists",
        "collisions": "transmitters left idle because several asked for one receiver",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("num_transmitters", "num_receivers"):
            number = getattr(self, field)
            if not (isinstance(number, int) and 1 <= number <= 16):
                raise ValueError(f"{field} = {number!r} must be a whole number from 1 to 16")

    @property
    def agents(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _names(self.num_transmitters)

    @property
    def default_params(self) -> NodeSwitchingParams:
        n, m = self.num_transmitters, self.num_receivers

        def spread(low: float, high: float, of: int) -> np.ndarray:
            return (low + (high - low) * (np.arange(of) + 0.5) / of).astype(np.float32)

        def each(value: float) -> np.ndarray:
            return np.full((n, m), value, np.float32)

        return NodeSwitchingParams(
            transmitter_km=spread(5, 40, n),
            receiver_km=spread(5, 40, m),
            insertion_db=each(1.5),
            misalignment_error=each(0.006),
            share=each(1.0),
            peak_hour=each(15.0),
        )

    def sample_params(self, key, scenario=None) -> NodeSwitchingParams:
        scenario = self.check_scenario(scenario or self.scenario)
        n, m = self.num_transmitters, self.num_receivers
        u = bits_to_uniform(random_bits(key, 2 + n + m + 6 * n * m))
        pair = u[2 + n + m :].reshape(6, n, m)
        # a sum of three uniforms serves for a normal number: bounded, of unit variance
        normal = 2 * (pair[3] + pair[4] + pair[5]) - 3
        low, high = INSERTION_DB
        drawn: dict[str, Any] = dict(
            transmitter_km=5 + 35 * u[2 : 2 + n],
            receiver_km=5 + 35 * u[2 + n : 2 + n + m],
            insertion_db=low + (high - low) * pair[0],
            misalignment_error=0.003 + 0.006 * pair[1],
            share=jnp.exp(0.5 * normal),
            start_hour=24 * u[0],
            peak_hour=12 + 6 * pair[2],
            relock_min=3 + jnp.floor(6 * u[1]),
        )
        if scenario == "easy":
            drawn |= dict(relock_min=1.0, block_min=2.0, store_min=120.0, burst_factor=3.0)
        elif scenario == "ood-relock":
            drawn |= dict(relock_min=10.0, block_min=15.0)
        elif scenario == "ood-load":
            drawn |= dict(load=1.2)
        return dataclasses.replace(self.default_params, **drawn)

    def reset_env(self, key, params):
        n, m = self.num_transmitters, self.num_receivers
        words = random_bits(key, 4 * n * m + n)
        pair = words[: 4 * n * m].reshape(4, n, m)
        _, block = _minutes(params)
        loss = jnp.asarray(params.transmitter_km)[:, None] + jnp.asarray(params.receiver_km)[None]
        loss = loss * params.loss_db_per_km + params.insertion_db
        log_key = switching.log_block_key(params, loss, params.misalignment_error, STEP_S * block)
        per_min = jnp.exp(log_key[len(log_key) // 2]) / (UNIT_BITS * block)
        mean = switching.mean_demand(jnp.broadcast_to(params.share, (n, m)), per_min, params.load)
        mean = mean.astype(jnp.float32)
        store = jnp.maximum(params.store_min * mean, params.store_blocks * block * per_min)
        capacity = jnp.floor(store).astype(jnp.int32)
        spread = jnp.minimum(params.start_fill, 1 - params.start_fill)
        fill = params.start_fill + spread * (2 * bits_to_uniform(pair[0]) - 1)
        level = jnp.floor(capacity * fill).astype(jnp.int32)
        often = params.burst_min / (params.burst_min + params.quiet_min)
        burst = bits_to_uniform(pair[1]) < often
        excess = params.drift_db * bits_to_normal(pair[2])
        phase = jnp.broadcast_to(params.peak_hour, (n, m)) * (2 * math.pi / 24)
        held = jnp.asarray(np.eye(n, m, dtype=bool))
        paired = np.arange(n) < m
        progress = jnp.floor(block * bits_to_uniform(words[4 * n * m :])).astype(jnp.int32)
        progress = jnp.where(paired, jnp.minimum(progress, block - 1), 0)
        here = jnp.sum(jnp.where(held, excess, 0), axis=1)
        peak_cos, peak_sin = jnp.cos(phase).astype(jnp.float32), jnp.sin(phase).astype(jnp.float32)
        demand = _demand(mean, burst, bits_to_uniform(pair[3]), _hour(jnp.int32(0), params), peak_cos, peak_sin, params)
        # the data sheet knows the fibre and a switch of mean loss
        sheet = switching.at_excess(log_key, jnp.broadcast_to(0.5 * sum(INSERTION_DB) - params.insertion_db, (n, m)))
        state = NodeSwitchingState(
            time=jnp.int32(0),
            mean=mean,
            capacity=capacity,
            log_key=log_key,
            peak_cos=peak_cos,
            peak_sin=peak_sin,
            level=level,
            burst=burst,
            demand=demand,
            recent=demand.astype(jnp.float32),
            held=held,
            relock_left=jnp.zeros(n, jnp.int32),
            progress=progress,
            excess_sum=(progress * here).astype(jnp.float32),
            excess_db=excess.astype(jnp.float32),
            estimate=sheet.astype(jnp.float32),
            age=jnp.full((n, m), int(DAY_MIN), jnp.int32),
            made_total=jnp.sum(level, dtype=jnp.int32),
            served_total=jnp.int32(0),
            spilled_total=jnp.int32(0),
        )
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        n, m = self.num_transmitters, self.num_receivers
        action, valid = self.clean_action(action)
        words = random_bits(key, 3 * n * m).reshape(3, n, m)
        relock, block = _minutes(params)

        # the switch
        asked = action[:, None] == np.arange(m)[None]
        held, refused, collided = switching.grant(state.held, asked, valid)
        stays = jnp.any(held & state.held, axis=1)
        paired = jnp.any(held, axis=1)
        lost_light = jnp.where(stays, 0, state.progress)

        # light
        wait = jnp.where(stays, state.relock_left, relock)
        locked = paired & (wait == 0)
        light = jnp.where(stays, state.progress, 0) + locked
        here = jnp.sum(jnp.where(held, state.excess_db, 0), axis=1)
        excess_sum = jnp.where(stays, state.excess_sum, 0) + jnp.where(locked, here, 0)
        mean_excess = stored(excess_sum / jnp.maximum(light, 1))
        measured = stored(switching.at_excess(state.log_key, jnp.broadcast_to(mean_excess[:, None], (n, m))))
        lit = held & locked[:, None]
        done = locked & (light >= block)
        made = jnp.where(lit & done[:, None], switching.block_units(measured), 0)

        # stores
        mean, hour = state.mean, _hour(state.time, params)
        turns = bits_to_uniform(words[0])
        often = -jnp.expm1(-1 / jnp.where(state.burst, params.burst_min, params.quiet_min))
        burst = state.burst ^ (turns < often)
        demand = _demand(mean, burst, bits_to_uniform(words[1]), hour, state.peak_cos, state.peak_sin, params)
        served = jnp.minimum(state.level, demand)
        full = state.level - served + made
        level = jnp.minimum(full, state.capacity)
        drawn, spilled = jnp.sum(served, dtype=jnp.int32), jnp.sum(full - level, dtype=jnp.int32)

        keep = math.exp(-1 / SEEN_DEMAND_MIN)
        excess = ornstein_uhlenbeck_step(
            state.excess_db, bits_to_normal(words[2]), 1.0, params.drift_min, params.drift_db
        )
        state_next = NodeSwitchingState(
            time=state.time + 1,
            mean=mean,
            capacity=state.capacity,
            log_key=state.log_key,
            peak_cos=state.peak_cos,
            peak_sin=state.peak_sin,
            level=level,
            burst=burst,
            demand=demand,
            recent=keep * state.recent + (1 - keep) * demand,
            held=held,
            relock_left=jnp.where(paired, jnp.maximum(wait - 1, 0), 0),
            progress=jnp.where(done, 0, light),
            excess_sum=jnp.where(done, 0.0, excess_sum),
            excess_db=excess.astype(jnp.float32),
            estimate=jnp.where(lit, measured, state.estimate),
            age=jnp.where(lit, 0, state.age + 1),
            made_total=state.made_total + jnp.sum(made, dtype=jnp.int32),
            served_total=state.served_total + drawn,
            spilled_total=state.spilled_total + spilled,
        )

        def number(of: Array) -> Array:
            return jnp.sum(of, dtype=jnp.float32)

        credited = jnp.where(jnp.all(valid), drawn, 0).astype(jnp.float32)
        stock = jnp.where(state.time == 0, number(state.level), 0.0)
        info = {
            "secret_bits": UNIT_BITS * credited,
            "certifiable_bits": UNIT_BITS * (number(made) + stock),
            "demand_bits": UNIT_BITS * number(demand),
            "spilled_bits": UNIT_BITS * spilled.astype(jnp.float32),
            "stored_bits": UNIT_BITS * number(level),
            "relock_min": number(paired & (wait > 0)),
            "idle_min": number(~paired),
            "lost_light_min": number(lost_light),
            "refused": number(refused),
            "collisions": number(collided),
        }
        reward = jnp.broadcast_to(credited / jnp.maximum(jnp.sum(mean), 1e-3), (n,)).astype(jnp.float32)
        return self.observe(None, state_next, action, params), state_next, reward, jnp.bool_(False), info

    def observe(self, key, state, action, params):
        relock, block = _minutes(params)
        return switching.observation(
            state.level,
            state.capacity,
            state.recent,
            state.mean,
            state.estimate,
            state.age,
            state.held,
            state.relock_left,
            state.progress,
            sin_cos(_hour(state.time, params) * (2 * math.pi / 24)),
            relock,
            block,
        )

    def action_mask(self, state, params):
        taken = jnp.any(state.held, axis=0)[None] & ~state.held
        return jnp.concatenate([~taken, jnp.ones((self.num_transmitters, 1), bool)], axis=1)

    def exogenous(self, state, params):
        """Demand of the minute that led to `state`, and every pairing's excess loss in it."""
        return {"demand": state.demand, "excess_db": state.excess_db}

    def observation_space(self, params=None):
        size = PER_RECEIVER * self.num_receivers + REST + self.num_transmitters
        return gym.spaces.Box(-1.0, 1.0, (size,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Discrete(self.num_receivers + 1)

    @property
    def passive_action(self):
        """Everyone stays with the receiver of the start."""
        return np.minimum(np.arange(self.num_transmitters), self.num_receivers).astype(np.int32)


# ---- pure parts ------------------------------------------------------------------------------------------------------


def _minutes(params: NodeSwitchingParams) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """(relock, block) in whole minutes."""
    relock = jnp.round(jnp.asarray(params.relock_min)).astype(jnp.int32)
    return relock, jnp.maximum(jnp.round(jnp.asarray(params.block_min)), 1).astype(jnp.int32)


def _hour(time: Array, params: NodeSwitchingParams) -> Float[Array, ""]:
    """Hours since midnight of the first day."""
    return (params.start_hour + time * np.float32(1 / 60)).astype(jnp.float32)


def _demand(
    mean: Float[Array, "n m"],
    burst: Bool[Array, "n m"],
    u: Float[Array, "n m"],
    hour: Array,
    peak_cos: Array,
    peak_sin: Array,
    params: NodeSwitchingParams,
) -> Int[Array, "n m"]:
    """What users ask for in a minute: their mean, by the day's wave, bursts, and a factor from 0.5 to 1.5."""
    sine, cosine = sin_cos(hour * (2 * math.pi / 24))
    wave = 1 + params.wave * (cosine * peak_cos + sine * peak_sin)
    often = params.burst_min / (params.burst_min + params.quiet_min)
    calm = 1 / (1 + (params.burst_factor - 1) * often)
    level = jnp.where(burst, params.burst_factor * calm, calm)
    return jnp.floor(mean * wave * level * (0.5 + u) + 0.5).astype(jnp.int32)


@functools.cache
def _names(transmitters: int) -> tuple[str, ...]:
    return tuple(f"tx{i}" for i in range(transmitters))

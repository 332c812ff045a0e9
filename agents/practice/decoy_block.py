"""What operators do about block lengths: fixed lengths, event counters, Bayes filters, and alarms on telemetry.

All agents look their settings up for the planned length and the loss that the last slices showed; they differ in how
they judge the risk of the next slices. `--tune` scans each agent's constants on tuning seeds, `--settings` checks the
look-up table against a search over loss and length.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qkd_gym import struct
from qkd_gym.envs.calibration.decoy_block import (
    CHANNELS,
    DecoyBlock,
    DecoyBlockParams,
    Reading,
    Settings,
    block_key_bits,
    decode,
    decode_settings,
    encode_settings,
    hazard_of,
    mean_slice_counts,
)
from qkd_gym.evaluation.agent import Agent
from qkd_gym.evaluation.runner import evaluate
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.physics.disturbance import Hazard, hazard_law, hazard_rates, stationary_storm_prob
from qkd_gym.physics.information import NEPER_PER_DB

#: Slices ahead for which a plan weighs risk against key.
HORIZON = np.array([1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200])
#: Oldest block, in slices, that a look-ahead tells apart.
AGES = 200
#: log10(pulses x transmittance) of the rows of the block-value table.
_LIGHT = np.arange(5.5, 12.51, 0.125)
#: Loss at which that table is made; at equal light the key hardly depends on it.
_TABLE_LOSS_DB = 15.0


class Plan(NamedTuple):
    """Public constants that a plan needs, made once an episode."""

    bits_per_light: Any  # (rows,) key of a block over its pulses x transmittance
    receiver_efficiency: Any
    slice_s: Any


class Memory(NamedTuple):
    """What the rules share: the plan's constants and the loss, averaged over the last slices."""

    plan: Plan
    loss_db: Any
    own: Any  # the agent's own


def make_plan(params: DecoyBlockParams) -> Plan:
    """The value of a block by its light, from the key formula at expected counts and looked-up settings."""
    light = jnp.asarray(10**_LIGHT, jnp.float32)
    eta = params.receiver_efficiency * np.float32(10 ** (-_TABLE_LOSS_DB / 10))

    def bits(total: Array) -> Array:
        settings = Settings(*near_optimal_settings(total / eta, eta))
        slices = total / eta / (params.clock_hz * params.slice_s)
        mean = mean_slice_counts(jnp.float32(_TABLE_LOSS_DB), settings, params)
        return block_key_bits(slices * mean, settings, params)

    return Plan(jax.vmap(bits)(light) / light, params.receiver_efficiency, params.slice_s)


def light_per_slice(plan: Plan, reading: Reading, loss_db: Array) -> Array:
    """Pulses x transmittance of a slice."""
    return reading.clock_hz * plan.slice_s * plan.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)


def block_value(plan: Plan, light: Float[Array, " k"]) -> Float[Array, " k"]:
    """Key of blocks with this much light each, in bit."""
    row = jnp.clip((jnp.log10(jnp.maximum(light, 1)) - _LIGHT[0]) / (_LIGHT[1] - _LIGHT[0]), 0, len(_LIGHT) - 1)
    rows = jnp.arange(len(_LIGHT), dtype=jnp.float32)
    weights = jnp.maximum(1 - jnp.abs(row[:, None] - rows[None, :]), 0)
    return light * (weights @ plan.bits_per_light)


def plan_block(
    plan: Plan, light: Array, age: Array, survival: Float[Array, " h"], duration: Float[Array, " h"], patience: float
) -> tuple[Array, Array]:
    """Whether to close a block of `age` slices now, and the length (slices) that a fresh one should have.

    Args:
        light: of one slice. survival: chance of no event within each `HORIZON`; duration: mean slices until the event
            or the horizon, whichever comes first.
        patience: weight of the rate that a fresh block would earn against going on; 1 is the renewal argument.
    """
    horizon = jnp.asarray(HORIZON, jnp.float32)
    rate = survival * block_value(plan, light * horizon) / duration
    best = jnp.argmax(rate)
    go_on = survival * block_value(plan, light * (age + horizon)) - patience * rate[best] * duration
    stop = block_value(plan, (light * age)[None])[0]
    return (age > 0) & (stop >= jnp.max(go_on)), horizon[best]


def make_action(plan: Plan, reading: Reading, loss_db: Array, close: Array, slices: Array) -> Float[Array, "6"]:
    """Close or not, with looked-up settings for a fresh block of `slices`."""
    eta = plan.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)
    settings = near_optimal_settings(reading.clock_hz * plan.slice_s * slices, eta)
    return jnp.concatenate([jnp.where(close, 1.0, -1.0)[None], encode_settings(settings)]).astype(jnp.float32)


def survival_basis(law: Float[Array, "s s 2"]) -> tuple[Float[Array, "h s"], Float[Array, "h s"]]:
    """Survival and mean duration at each `HORIZON`, linear in the belief: multiply by it."""
    quiet = law[..., 0]

    def step(alive: Array, _: None) -> tuple[Array, Array]:
        return quiet @ alive, alive

    _, alive = jax.lax.scan(step, jnp.ones(law.shape[0], jnp.float32), None, length=int(HORIZON[-1]) + 1)
    return alive[HORIZON], jnp.cumsum(alive, axis=0)[HORIZON - 1]


def continuation(plan: Plan, light: Array, law: Float[Array, "s s 2"]) -> Float[Array, "ages s"]:
    """Worth of going on over closing at each age (slices, 0 ... `AGES`) where the filter's state is known.

    Relative value iteration of the average-reward problem, 500 sweeps; in units of the key per slice of a long block.
    """
    value = block_value(plan, light * jnp.arange(AGES + 1, dtype=jnp.float32))
    value = value * (AGES / jnp.maximum(value[-1], 1))
    quiet, event = law[..., 0], law[..., 1]
    gained = jnp.concatenate([jnp.diff(value), jnp.zeros(1)])
    now = gained[:, None] * jnp.sum(quiet, axis=1)[None] - value[:, None] * jnp.sum(event, axis=1)[None]

    def go_on(ahead: Array) -> Array:
        older = jnp.concatenate([ahead[1:], ahead[-1:]])
        return now + older @ quiet.T + (event @ ahead[0])[None]

    def sweep(_: int, ahead: Array) -> Array:
        worth = go_on(ahead)
        worth = jnp.maximum(worth, worth[:1])  # closing is going on from age 0
        return worth - worth[0, 0]

    ahead = jax.lax.fori_loop(0, 500, sweep, jnp.zeros((AGES + 1, law.shape[0]), jnp.float32))
    worth = go_on(ahead)
    return worth - worth[:1]


class Lookahead(NamedTuple):
    """Tables of `continuation` for several losses."""

    log_light: Any  # (losses,), decreasing
    worth: Any  # (..., losses, ages, s)


def make_lookahead(
    plan: Plan, params: DecoyBlockParams, laws: Float[Array, "l s s 2"], loss_offsets_db: Any
) -> Lookahead:
    """`continuation` under each of the laws at the nominal loss plus each offset."""
    loss = params.loss_db + jnp.asarray(loss_offsets_db, jnp.float32)
    light = params.clock_hz * params.slice_s * params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss)
    worth = jax.vmap(lambda law: jax.vmap(lambda x: continuation(plan, x, law))(light))(laws)
    return Lookahead(jnp.log(light), worth)


def worth_going_on(table: Lookahead, light: Array, age: Array) -> Float[Array, "l s"]:
    """Rows of the tables at this light and age, linear in the loss."""
    last = table.log_light.shape[0] - 1
    span = table.log_light[0] - table.log_light[-1]
    at = jnp.clip((table.log_light[0] - jnp.log(light)) * last / span, 0, last)
    weights = jnp.maximum(1 - jnp.abs(at - jnp.arange(last + 1, dtype=jnp.float32)), 0)
    rows = table.worth[:, :, jnp.minimum(age.astype(jnp.int32), AGES)]
    return jnp.einsum("n,lns->ls", weights, rows)


@struct.dataclass
class _Rule(Agent[Memory]):
    """Shared course: read, smooth the loss, judge the risk, plan."""

    #: Share of the last slice in the averaged loss (fixed by hand: it hardly matters at 1e7 clicks a slice).
    loss_weight: ClassVar[float] = 0.5

    def init(self, key, env, params):
        plan = make_plan(params)
        return Memory(plan, jnp.float32(0), self.start(params))

    def act(self, key, carry, obs, mask):
        reading = decode(obs)
        first = reading.time_left > 1 - 1e-6
        loss = jnp.where(first, reading.nominal_loss_db, carry.loss_db)
        loss = jnp.where(first | reading.event, loss, loss + self.loss_weight * (reading.loss_estimate_db - loss))
        own = jax.tree.map(lambda new, old: jnp.where(first, old, new), self.learn(carry.own, reading), carry.own)
        close, slices = self.decide(carry.plan, own, reading, light_per_slice(carry.plan, reading, loss))
        return make_action(carry.plan, reading, loss, close, slices), Memory(carry.plan, loss, own)

    def start(self, params: DecoyBlockParams) -> Any:
        """Own memory at the start."""
        return ()

    def learn(self, own: Any, reading: Reading) -> Any:
        """Own memory after a slice."""
        return own

    def decide(self, plan: Plan, own: Any, reading: Reading, light: Array) -> tuple[Array, Array]:
        """(close, length of a fresh block in slices)."""
        raise NotImplementedError


@struct.dataclass
class FixedLength(_Rule):
    """Blocks of one length, whatever happens."""

    slices: Any = struct.field(20, low=1, unit="slice", doc="length of a block")

    @property
    def label(self) -> str:
        return f"FixedLength{int(self.slices)}"

    def decide(self, plan, own, reading, light):
        return reading.block_slices >= self.slices, jnp.float32(self.slices)


@struct.dataclass
class EventRateRule(_Rule):
    """The block length for the average event rate of the last minutes."""

    average_s: Any = struct.field(1200.0, low=1.0, unit="s", doc="time constant of the average")
    prior_interval_s: Any = struct.field(150.0, low=1.0, unit="s", doc="mean time between events assumed at the start")
    patience: Any = struct.field(0.97, low=0.0, doc="see plan_block")

    def start(self, params):
        return jnp.float32(1 / self.prior_interval_s), params.slice_s

    def learn(self, own, reading):
        rate, slice_s = own
        keep = jnp.exp(-slice_s / self.average_s)
        return keep * rate + (1 - keep) * reading.event / slice_s, slice_s

    def decide(self, plan, own, reading, light):
        rate, slice_s = own
        hazard = rate * slice_s + 1e-6
        survival = jnp.exp(-hazard * jnp.asarray(HORIZON, jnp.float32))
        return plan_block(plan, light, reading.block_slices, survival, (1 - survival) / hazard, self.patience)


@struct.dataclass
class EventBayesRule(_Rule):
    """Bayes filter of a calm/storm hazard with the population's constants, fed with events; telemetry is ignored."""

    patience: Any = struct.field(0.95, low=0.0, doc="see plan_block")

    def start(self, params):
        return start_filter(with_announced(hazard_of(params), 0.0), params.slice_s)

    def learn(self, own, reading):
        return own._replace(belief=advance_belief(own, reading.event, jnp.zeros((4, 4), jnp.float32))[0])

    def decide(self, plan, own, reading, light):
        survival, duration = own.survival @ own.belief, own.duration @ own.belief
        return plan_block(plan, light, reading.block_slices, survival, duration, self.patience)


@struct.dataclass
class WeightedAlarmRule(_Rule):
    """Event-rate rule with an alarm: logistic regression of the next event on the telemetry, learned on line."""

    average_s: Any = struct.field(1200.0, low=1.0, unit="s", doc="time constant of the event rate's average")
    prior_interval_s: Any = struct.field(200.0, low=1.0, unit="s", doc="mean time between events assumed at the start")
    learning_rate: Any = struct.field(0.05, low=0.0, doc="step of the regression")
    alarm_slices: Any = struct.field(16.0, low=1.0, unit="slice", doc="how long the raised hazard is expected to last")
    patience: Any = struct.field(1.0, low=0.0, doc="see plan_block")

    def start(self, params):
        k = 2 * len(CHANNELS)
        return jnp.float32(1 / self.prior_interval_s), params.slice_s, jnp.zeros(k), jnp.zeros(k)

    def _odds(self, own):
        rate, slice_s, weights, features = own
        hazard = rate * slice_s + 1e-3
        return jnp.log(hazard) + weights @ features

    def learn(self, own, reading):
        rate, slice_s, weights, features = own
        surprise = reading.event - jax.nn.sigmoid(self._odds(own))
        weights = weights + self.learning_rate * surprise * features
        keep = jnp.exp(-slice_s / self.average_s)
        rate = keep * rate + (1 - keep) * reading.event / slice_s
        # Each direction of a reading has its own weight; below one deviation it says nothing.
        c = reading.telemetry
        features = jnp.clip(jnp.concatenate([c - 1, -c - 1]), 0, 3)
        return rate, slice_s, weights, features

    def decide(self, plan, own, reading, light):
        rate, slice_s, _, _ = own
        base = rate * slice_s + 1e-6
        now = jnp.clip(jax.nn.sigmoid(self._odds(own)), 1e-6, 0.9)
        alarm = -jnp.log1p(-now)
        in_alarm = jnp.minimum(HORIZON, self.alarm_slices)
        survival = jnp.exp(-alarm * in_alarm - base * (HORIZON - in_alarm))
        early = (1 - jnp.exp(-alarm * in_alarm)) / alarm
        late = jnp.exp(-alarm * in_alarm) * (1 - jnp.exp(-base * (HORIZON - in_alarm))) / base
        return plan_block(plan, light, reading.block_slices, survival, early + late, self.patience)


class Filter(NamedTuple):
    """A Bayes filter of one unit's hazard: constants and belief over 2 storm + buildup."""

    law: Any  # (4, 4, 2)
    survival: Any  # (h, 4)
    duration: Any  # (h, 4)
    belief: Any  # (..., 4)


def start_filter(hazard: Hazard, slice_s: Any) -> Filter:
    law = hazard_law(hazard_rates(hazard, slice_s)).astype(jnp.float32)
    survival, duration = survival_basis(law)
    storm = stationary_storm_prob(hazard)
    belief = jnp.stack([1 - storm, jnp.zeros_like(storm), storm, jnp.zeros_like(storm)]).astype(jnp.float32)
    return Filter(law, survival, duration, belief)


def advance_belief(filter_: Filter, event: Array, log_likelihood: Float[Array, "4 4"]) -> tuple[Array, Array]:
    """Belief after a slice, and the log-likelihood of what it showed; that of the telemetry comes in by (from, to)."""
    return _bayes_step(filter_.belief, jnp.where(event, filter_.law[..., 1], filter_.law[..., 0]), log_likelihood)


def _bayes_step(belief: Array, law: Array, log_likelihood: Array) -> tuple[Array, Array]:
    # The largest likelihood is taken out: a jump of a quiet channel is e^-100 under any state.
    top = jnp.max(log_likelihood)
    joint = belief @ (law * jnp.exp(jnp.maximum(log_likelihood - top, -60)))
    total = jnp.sum(joint) + 1e-37
    return joint / total, jnp.log(total) + top


#: Whether each state of the filter is a build-up.
BUILDUP = np.array([0, 1, 0, 1], np.float32)


def reading_likelihood(
    reading: Array, last: Array, gain: Array, on: Float[Array, " s"], noise_time_s: Any, slice_s: Any
) -> Float[Array, "s s"]:
    """Log-density of a channel's reading, by (from, to), with its AR(1) noise whitened by the last reading."""
    keep = jnp.exp(-slice_s / noise_time_s)
    mean = gain * on[None, :] + keep * (last - gain * on[:, None])
    return -0.5 * ((reading - mean) ** 2 / (1 - keep * keep) + jnp.log(1 - keep * keep))


class Mixture(NamedTuple):
    """Hypotheses of `TelemetryBayesRule`: which channel announces events, in which direction, how loudly; or none."""

    filters: Any  # Filter with beliefs (gains x channels, 4)
    deaf: Any  # Filter: nothing announces
    innocent: Any  # (gains x channels, 2): belief in an innocent excursion of that gain
    innocent_law: Any  # (2, 2)
    side: Any  # (gains x channels,) log-likelihood of a channel's readings if innocent
    evidence: Any  # (gains x channels + 1,) log-weights; the last is `deaf`
    last: Any  # (channels,) readings
    noise_time_s: Any
    slice_s: Any
    lookahead: Any


@struct.dataclass
class TelemetryBayesRule(_Rule):
    """Bayes filter over which channel announces events and how, with the population's constants and a look-ahead.

    It knows the model of the disturbances and the population that units are drawn from, but nothing of this unit: the
    strongest rule that an operator could write without hidden knowledge.
    """

    gains: Any = struct.field((1.5, 3.0, 4.5), low=0.1, unit="sd", doc="sizes of announcing readings told apart")
    deaf_prior: Any = struct.field(0.05, low=0.0, high=1.0, doc="prior that no channel announces anything")
    noticed: Any = struct.field(
        0.5, low=0.0, high=1.0, doc="announced events that the look-ahead counts on noticing, once sure of the channel"
    )
    stretch: Any = struct.field(1.5, low=0.1, doc="planned length over the best one if nothing were announced")

    def _gains(self) -> Float[Array, " h"]:
        """Gain of each hypothesis: every size in both directions, for every channel."""
        sizes = jnp.asarray(self.gains, jnp.float32)
        return jnp.repeat(jnp.concatenate([sizes, -sizes]), len(CHANNELS))

    def start(self, params):
        hypotheses, deaf = len(self._gains()), jnp.asarray(self.deaf_prior, jnp.float32)
        hazard = hazard_of(params)
        told = start_filter(hazard, params.slice_s)
        begin, end = params.slice_s / params.innocent_interval_s, params.slice_s / params.innocent_s
        return Mixture(
            filters=told._replace(belief=jnp.tile(told.belief, (hypotheses, 1))),
            deaf=start_filter(with_announced(hazard, 0.0), params.slice_s),
            innocent=jnp.tile(jnp.array([1.0, 0.0]), (hypotheses, 1)),
            innocent_law=jnp.stack([jnp.stack([1 - begin, begin]), jnp.stack([end, 1 - end])]),
            side=jnp.zeros(hypotheses),
            evidence=jnp.log(jnp.stack([(1 - deaf) / hypotheses] * hypotheses + [deaf])),
            last=jnp.zeros(len(CHANNELS)),
            noise_time_s=params.telemetry_noise_time_s,
            slice_s=params.slice_s,
            lookahead=make_lookahead(
                make_plan(params),
                params,
                jnp.stack([noticed_law(params, share) for share in (0.0, self.noticed / 2, self.noticed)]),
                np.arange(-12.0, 21.0, 4.0),
            ),
        )

    def learn(self, own, reading):
        gains = self._gains()
        repeats = len(gains) // len(CHANNELS)
        on = jnp.array([0.0, 1.0])

        def one(belief: Array, innocent: Array, gain: Array, now: Array, last: Array) -> tuple[Array, ...]:
            likelihood = reading_likelihood(now, last, gain, jnp.asarray(BUILDUP), own.noise_time_s, own.slice_s)
            belief, gained = advance_belief(own.filters._replace(belief=belief), reading.event, likelihood)
            astray = reading_likelihood(now, last, gain, on, own.noise_time_s, own.slice_s)
            return belief, gained, *_bayes_step(innocent, own.innocent_law, astray)

        beliefs, gained, innocent, side = jax.vmap(one)(
            own.filters.belief, own.innocent, gains, jnp.tile(reading.telemetry, repeats), jnp.tile(own.last, repeats)
        )
        deaf, deaf_gained = advance_belief(own.deaf, reading.event, jnp.zeros((4, 4)))

        def innocent_evidence(side: Array) -> Array:
            """Log-likelihood of each channel if it announces nothing, whatever the gain of its own excursions."""
            return jnp.tile(jax.nn.logsumexp(side.reshape(repeats, -1), axis=0), repeats)

        gained = gained - (innocent_evidence(own.side + side) - innocent_evidence(own.side))
        evidence = own.evidence + jnp.concatenate([gained, deaf_gained[None]])
        return own._replace(
            filters=own.filters._replace(belief=beliefs),
            deaf=own.deaf._replace(belief=deaf),
            innocent=innocent,
            side=own.side + side,
            evidence=evidence - jnp.max(evidence),
            last=reading.telemetry,
        )

    def decide(self, plan, own, reading, light):
        weights = jax.nn.softmax(own.evidence)
        hearing, deaf = weights[:-1] @ own.filters.belief, weights[-1] * own.deaf.belief
        survival = own.filters.survival @ hearing + own.deaf.survival @ deaf
        duration = own.filters.duration @ hearing + own.deaf.duration @ deaf
        _, slices = plan_block(plan, light, reading.block_slices, survival, duration, 1.0)
        # The surer of the channel, the more of the announced events will be noticed.
        by_channel = jnp.sum(weights[:-1].reshape(-1, len(CHANNELS)), axis=0)
        sure = jnp.maximum(1 - jnp.abs(2 * jnp.max(by_channel) - jnp.arange(3.0)), 0)
        worth = sure @ worth_going_on(own.lookahead, light, reading.block_slices) @ (hearing + deaf)
        return (reading.block_slices > 0) & (worth < 0), self.stretch * slices


def with_announced(hazard: Hazard, share: Any) -> Hazard:
    """The same hazard where only this share of the events is announced."""
    return dataclasses.replace(hazard, announced_share=jnp.asarray(share, jnp.float32))


def noticed_law(params: DecoyBlockParams, noticed: float) -> Float[Array, "4 4 2"]:
    """Law of the hazard for a look-ahead: build-ups that will not be noticed count as sudden events."""
    hazard = hazard_of(params)
    return hazard_law(hazard_rates(with_announced(hazard, noticed * hazard.announced_share), params.slice_s))


AGENTS: dict[str, Agent] = {
    "fixed-length-10": FixedLength(10),
    "fixed-length-20": FixedLength(20),
    "fixed-length-60": FixedLength(60),
    "event-rate": EventRateRule(),
    "event-bayes": EventBayesRule(),
    "weighted-alarm": WeightedAlarmRule(),
    "telemetry-bayes": TelemetryBayesRule(),
}

#: What `--tune` scans, one constant at a time around the shipped values.
TUNING: dict[str, dict[str, tuple]] = {
    "fixed-length-20": {"slices": (5, 7, 10, 14, 20, 28, 40, 60)},
    "event-rate": {
        "average_s": (600, 900, 1200, 2400),
        "prior_interval_s": (75, 150, 300, 600),
        "patience": (0.85, 0.94, 0.97, 1.0),
    },
    "event-bayes": {"patience": (0.85, 0.9, 0.95, 1.0)},
    "weighted-alarm": {
        "average_s": (600, 1200, 2400),
        "prior_interval_s": (100, 200, 400),
        "learning_rate": (0.02, 0.05, 0.1, 0.3),
        "alarm_slices": (4, 8, 16, 32),
        "patience": (0.7, 0.85, 1.0),
    },
    "telemetry-bayes": {
        "gains": ((3.0,), (2.0, 4.0), (1.5, 3.0, 4.5), (1.2, 2.4, 3.6, 4.8)),
        "deaf_prior": (0.01, 0.05, 0.2),
        "noticed": (0.3, 0.4, 0.5, 0.6, 0.7),
        "stretch": (1.0, 1.3, 1.5, 1.8),
    },
}


def tune(agents: dict[str, Any], scans: dict[str, dict[str, tuple]], episodes: int, seed: int) -> None:
    """Print the mean return of each agent with one constant changed at a time, on tuning seeds."""
    env = DecoyBlock()
    for name, constants in scans.items():
        shipped = agents[name]
        # Every constant as an array, so that all candidates share one compiled program.
        traced = {f.name: np.asarray(getattr(shipped, f.name), np.float32) for f in dataclasses.fields(shipped)}
        print(name)
        for constant, values in constants.items():
            for value in values:
                candidate = type(shipped)(**(traced | {constant: np.asarray(value, np.float32)}))
                returns = evaluate(env, candidate, episodes, seed).returns
                mark = "  <- shipped" if np.array_equal(traced[constant], np.asarray(value, np.float32)) else ""
                print(f"    {constant} = {value}: {returns.mean():.2f}{mark}", flush=True)


def check_settings() -> None:
    """Compare the look-up table with the best settings of a search, over loss and pulses; prints ratios of the keys."""
    params = DecoyBlockParams()
    print("loss dB  log10 pulses: share of the best found key")
    for loss_db in (6.0, 10.0, 14.0, 18.0, 22.0, 26.0):
        ratios = [float(_table_share(jax.random.key(0), params, loss_db, 10.0**n)) for n in (9.75, 10.5, 11.25, 12.0)]
        print(f"{loss_db:6.0f}   " + "  ".join(f"{r:.4f}" for r in ratios), flush=True)


@jax.jit
def _table_share(key: Any, params: DecoyBlockParams, loss_db: Any, pulses: Any) -> Array:
    """Key with the table's settings over the best of a cross-entropy search (60 rounds of 256 around the table's)."""
    slices = pulses / (params.clock_hz * params.slice_s)

    def bits(action: Array) -> Array:
        settings = decode_settings(jnp.clip(action, -1, 1))
        return block_key_bits(slices * mean_slice_counts(loss_db, settings, params), settings, params)

    eta = params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)
    table = encode_settings(near_optimal_settings(pulses, eta))

    def search(carry: tuple[Array, Array], key: Any) -> tuple[Any, Array]:
        mean, spread = carry
        tried = mean + spread * jax.random.normal(key, (256, 5))
        values = jax.vmap(bits)(tried)
        elite = tried[jax.lax.top_k(values, 24)[1]]
        return (elite.mean(axis=0), elite.std(axis=0) + 1e-4), values.max()

    _, best = jax.lax.scan(search, (table, jnp.full(5, 0.3)), jax.random.split(key, 60))
    return bits(table) / jnp.maximum(best.max(), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", nargs="*", metavar="AGENT", help="scan the constants of these agents (none: of all)")
    parser.add_argument("--settings", action="store_true", help="check the look-up table of settings")
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--seed", type=int, default=100, help="tuning seed; never one that scores are read on")
    args = parser.parse_args()
    if args.settings:
        check_settings()
    if args.tune is not None:
        tune(AGENTS, {n: c for n, c in TUNING.items() if not args.tune or n in args.tune}, args.episodes, args.seed)


if __name__ == "__main__":
    main()

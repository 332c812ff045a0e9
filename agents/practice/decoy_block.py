"""What operators do about block lengths: fixed lengths, event counters, Bayes filters, and alarms on telemetry.

All agents look their settings up for the planned length and the loss that the last slices showed; they differ in how
they judge the risk of the next slices. `python -m agents.practice.decoy_block` searches their constants on tuning
seeds, `--settings` checks the look-up table against a search over loss and length.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agents.practice.tuning import Grid, tune_named, tuning_parser
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
from qkd_gym.envs.core import strong
from qkd_gym.evaluation.agent import Agent
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.physics.disturbance import Hazard, hazard_law, hazard_rates, stationary_storm_prob
from qkd_gym.physics.information import NEPER_PER_DB

#: Lengths of a block, in slices, that a plan weighs.
HORIZON = np.array([1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200], np.float32)
#: A filter's hazard is its chance of an event within this many slices, evened out.
HAZARD_SLICES = 5
#: Oldest block, in slices, and log-odds of a storm that a look-ahead tells apart.
AGES = 200
LOG_ODDS = np.linspace(-6.0, 5.0, 12, dtype=np.float32)
#: log10(pulses x transmittance) of the rows of the block-value table.
_LIGHT = np.arange(5.5, 12.51, 0.125, dtype=np.float32)
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
    light = jnp.asarray(np.float32(10) ** _LIGHT)
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
    at = (jnp.log10(jnp.maximum(light, 1)) - _LIGHT[0]) / (_LIGHT[1] - _LIGHT[0])
    return light * (jax.vmap(lambda x: _hat(x, len(_LIGHT)))(at) @ plan.bits_per_light)


def plan_block(plan: Plan, light: Array, age: Array, hazard: Array, patience: Any) -> tuple[Array, Array]:
    """Whether to close a block of `age` slices now, and the length (slices) that a fresh one should have.

    The renewal argument: a block is worth going on with if some further length gains more than its chance of being lost
    and the time it takes, priced at what fresh blocks earn at this hazard.

    Args:
        light: of one slice. hazard: events per slice, taken as constant from now on.
        patience: weight of that price; 1 is the argument as it stands.
    """
    survival = jnp.exp(-hazard * HORIZON)
    duration = (1 - survival) / hazard
    rate = survival * block_value(plan, light * HORIZON) / duration
    best = jnp.argmax(rate)
    go_on = survival * block_value(plan, light * (age + HORIZON)) - patience * rate[best] * duration
    stop = block_value(plan, (light * age)[None])[0]
    return (age > 0) & (stop >= jnp.max(go_on)), jnp.asarray(HORIZON)[best]


def make_action(plan: Plan, reading: Reading, loss_db: Array, close: Array, slices: Array) -> Float[Array, "6"]:
    """Close or not, with looked-up settings for a fresh block of `slices`."""
    eta = plan.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)
    settings = near_optimal_settings(reading.clock_hz * plan.slice_s * slices, eta)
    return jnp.concatenate([jnp.where(close, 1.0, -1.0)[None], encode_settings(settings)]).astype(jnp.float32)


def continuation(plan: Plan, light: Array, law: Float[Array, "4 4 2"]) -> Float[Array, "ages 2 odds"]:
    """Worth of going on over closing, by age (0 ... `AGES`), build-up seen or not, and `LOG_ODDS` of a storm.

    Dynamic programming over the belief in a storm, where build-ups show as they are: relative value iteration of the
    average-reward problem, 400 sweeps, in units of the key per slice of a long block.
    """
    value = block_value(plan, light * jnp.arange(AGES + 1, dtype=jnp.float32))
    value = value * (AGES / jnp.maximum(value[-1], 1))
    gained = jnp.concatenate([jnp.diff(value), jnp.zeros(1, jnp.float32)])
    storm = jax.nn.sigmoid(jnp.asarray(LOG_ODDS))
    prior = jnp.stack([1 - storm, storm], axis=1)
    by_level = law.reshape(2, 2, 2, 2, 2)  # from storm, buildup to storm, buildup, event

    def outcome(before: int, after: int, event: int) -> tuple[Array, Array]:
        """Chance of an outcome from each belief, and the matrix that reads values off at the beliefs it leads to."""
        joint = prior @ by_level[:, before, :, after, event]
        odds = jnp.log(joint[:, 1] + 1e-12) - jnp.log(joint[:, 0] + 1e-12)
        at = jnp.clip((odds - LOG_ODDS[0]) / (LOG_ODDS[1] - LOG_ODDS[0]), 0, len(LOG_ODDS) - 1)
        rows = jnp.arange(len(LOG_ODDS), dtype=jnp.float32)
        return jnp.sum(joint, axis=1), jnp.maximum(1 - jnp.abs(at[None, :] - rows[:, None]), 0)

    quiet = [[outcome(before, after, 0) for after in (0, 1)] for before in (0, 1)]
    event = [outcome(before, 0, 1) for before in (0, 1)]

    def go_on(ahead: Array) -> Array:
        older = jnp.concatenate([ahead[1:], ahead[-1:]])
        worth = []
        for before in (0, 1):
            chance, leads_to = event[before]
            total = chance[None] * ((ahead[0, 0] @ leads_to)[None] - value[:, None])
            for after in (0, 1):
                chance, leads_to = quiet[before][after]
                total = total + chance[None] * (gained[:, None] + older[:, after] @ leads_to)
            worth.append(total)
        return jnp.stack(worth, axis=1)

    def sweep(_: int, ahead: Array) -> Array:
        worth = go_on(ahead)
        worth = jnp.maximum(worth, worth[:1])  # closing is going on from age 0
        return worth - worth[0, 0, 0]

    worth = go_on(jax.lax.fori_loop(0, 400, sweep, jnp.zeros((AGES + 1, 2, len(LOG_ODDS)), jnp.float32)))
    return worth - worth[:1]


class Lookahead(NamedTuple):
    """Tables of `continuation` for several laws and losses."""

    log_light: Any  # (losses,), decreasing
    worth: Any  # (laws, losses, ages, 2, odds)


def make_lookahead(
    plan: Plan, params: DecoyBlockParams, laws: Float[Array, "l 4 4 2"], loss_offsets_db: Any
) -> Lookahead:
    """`continuation` under each of the laws at the nominal loss plus each offset."""
    loss = params.loss_db + jnp.asarray(loss_offsets_db, jnp.float32)
    light = params.clock_hz * params.slice_s * params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss)
    worth = jax.vmap(lambda law: jax.vmap(lambda x: continuation(plan, x, law))(light))(laws)
    return Lookahead(jnp.log(light), worth)


def worth_going_on(table: Lookahead, light: Array, age: Array, belief: Float[Array, " 4"]) -> Float[Array, " l"]:
    """Worth of going on over closing under each law, linear in loss and log-odds, mean over build-up or not."""
    last = table.log_light.shape[0] - 1
    at = (table.log_light[0] - jnp.log(light)) * last / (table.log_light[0] - table.log_light[-1])
    by_loss = _hat(at, last + 1)
    joint = belief.reshape(2, 2) + 1e-9  # storm, buildup
    odds = jnp.log(joint[1]) - jnp.log(joint[0])
    by_odds = jax.vmap(lambda x: _hat((x - LOG_ODDS[0]) / (LOG_ODDS[1] - LOG_ODDS[0]), len(LOG_ODDS)))(odds)
    rows = table.worth[:, :, jnp.minimum(age.astype(jnp.int32), AGES)]
    return jnp.einsum("n,lnbk,bk,b->l", by_loss, rows, by_odds, jnp.sum(joint, axis=0))


def _hat(at: Array, count: int) -> Float[Array, " n"]:
    """Weights of linear interpolation at the place `at` of a row of `count` values."""
    at = jnp.clip(at, 0, count - 1)
    return jnp.maximum(1 - jnp.abs(at - jnp.arange(count, dtype=jnp.float32)), 0)


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
        return plan_block(plan, light, reading.block_slices, rate * slice_s + 1e-5, self.patience)


@struct.dataclass
class EventBayesRule(_Rule):
    """Bayes filter of a calm/storm hazard with the population's constants, fed with events; telemetry is ignored."""

    patience: Any = struct.field(0.97, low=0.0, doc="see plan_block")

    def start(self, params):
        return start_filter(with_announced(hazard_of(params), 0.0), params.slice_s)

    def learn(self, own, reading):
        return own._replace(belief=advance_belief(own, reading.event, jnp.zeros((4, 4), jnp.float32))[0])

    def decide(self, plan, own, reading, light):
        return plan_block(plan, light, reading.block_slices, hazard_ahead(own, own.belief), self.patience)


@struct.dataclass
class WeightedAlarmRule(_Rule):
    """Event-rate rule with an alarm: logistic regression of the next event on the telemetry, learned on line."""

    average_s: Any = struct.field(1200.0, low=1.0, unit="s", doc="time constant of the event rate's average")
    prior_interval_s: Any = struct.field(200.0, low=1.0, unit="s", doc="mean time between events assumed at the start")
    learning_rate: Any = struct.field(0.05, low=0.0, doc="step of the regression")
    patience: Any = struct.field(0.94, low=0.0, doc="see plan_block")

    def start(self, params):
        k = 2 * len(CHANNELS)
        return (
            jnp.float32(1 / self.prior_interval_s),
            params.slice_s,
            jnp.zeros(k, jnp.float32),
            jnp.zeros(k, jnp.float32),
        )

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
        return plan_block(plan, light, reading.block_slices, jax.nn.softplus(self._odds(own)), self.patience)


class Filter(NamedTuple):
    """A Bayes filter of one unit's hazard: constants and belief over 2 storm + buildup."""

    law: Any  # (4, 4, 2)
    survival: Any  # (4,) chance of no event within HAZARD_SLICES, from each state
    belief: Any  # (..., 4)


def start_filter(hazard: Hazard, slice_s: Any) -> Filter:
    law = hazard_law(hazard_rates(hazard, slice_s)).astype(jnp.float32)
    survival = jnp.ones(law.shape[0], jnp.float32)
    for _ in range(HAZARD_SLICES):
        survival = law[..., 0] @ survival
    storm = stationary_storm_prob(hazard)
    belief = jnp.stack([1 - storm, jnp.zeros_like(storm), storm, jnp.zeros_like(storm)]).astype(jnp.float32)
    return Filter(law, survival, belief)


def hazard_ahead(filter_: Filter, belief: Float[Array, " 4"]) -> Array:
    """Events per slice that this belief expects over the next slices."""
    return -jnp.log(filter_.survival @ belief) / HAZARD_SLICES + 1e-5


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
        0.8, low=0.0, high=1.0, doc="announced events that the look-ahead counts on noticing, once sure of the channel"
    )
    stretch: Any = struct.field(1.0, low=0.1, doc="planned length over the best one at the present hazard")

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
            innocent=jnp.tile(jnp.array([1.0, 0.0], jnp.float32), (hypotheses, 1)),
            innocent_law=jnp.stack([jnp.stack([1 - begin, begin]), jnp.stack([end, 1 - end])]),
            side=jnp.zeros(hypotheses, jnp.float32),
            evidence=jnp.log(jnp.stack([(1 - deaf) / hypotheses] * hypotheses + [deaf])),
            last=jnp.zeros(len(CHANNELS), jnp.float32),
            noise_time_s=params.telemetry_noise_time_s,
            slice_s=params.slice_s,
            lookahead=make_lookahead(
                make_plan(params),
                params,
                jnp.stack([noticed_law(params, share) for share in (0.0, self.noticed / 2, self.noticed)]),
                np.arange(-12.0, 21.0, 4.0, dtype=np.float32),
            ),
        )

    def learn(self, own, reading):
        gains = self._gains()
        repeats = len(gains) // len(CHANNELS)
        on = jnp.array([0.0, 1.0], jnp.float32)

        def one(belief: Array, innocent: Array, gain: Array, now: Array, last: Array) -> tuple[Array, ...]:
            likelihood = reading_likelihood(now, last, gain, jnp.asarray(BUILDUP), own.noise_time_s, own.slice_s)
            belief, gained = advance_belief(own.filters._replace(belief=belief), reading.event, likelihood)
            astray = reading_likelihood(now, last, gain, on, own.noise_time_s, own.slice_s)
            return belief, gained, *_bayes_step(innocent, own.innocent_law, astray)

        beliefs, gained, innocent, side = jax.vmap(one)(
            own.filters.belief, own.innocent, gains, jnp.tile(reading.telemetry, repeats), jnp.tile(own.last, repeats)
        )
        deaf, deaf_gained = advance_belief(own.deaf, reading.event, jnp.zeros((4, 4), jnp.float32))

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
        hazard = -jnp.log(own.filters.survival @ hearing + own.deaf.survival @ deaf) / HAZARD_SLICES + 1e-5
        _, slices = plan_block(plan, light, reading.block_slices, hazard, 1.0)
        # The surer of the channel, the more of the announced events will be noticed.
        by_channel = jnp.sum(weights[:-1].reshape(-1, len(CHANNELS)), axis=0)
        sure = _hat(2 * jnp.max(by_channel), 3)
        worth = sure @ worth_going_on(own.lookahead, light, reading.block_slices, hearing + deaf)
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

#: Values that are tried, one constant after the other.
GRIDS: dict[str, Grid] = {
    "fixed-length-20": {"slices": (5, 7, 10, 14, 20, 28, 40, 60)},
    "event-rate": {
        "average_s": (600, 900, 1200, 2400),
        "prior_interval_s": (75, 150, 300, 600),
        "patience": (0.85, 0.94, 0.97, 1.0),
    },
    "event-bayes": {"patience": (0.9, 0.94, 0.97, 1.0)},
    "weighted-alarm": {
        "average_s": (600, 1200, 2400),
        "prior_interval_s": (100, 200, 400),
        "learning_rate": (0.02, 0.05, 0.1, 0.3),
        "patience": (0.9, 0.94, 0.97, 1.0),
    },
    "telemetry-bayes": {
        "gains": ((3.0,), (2.0, 4.0), (1.5, 3.0, 4.5), (1.2, 2.4, 3.6, 4.8)),
        "deaf_prior": (0.01, 0.05, 0.2),
        "noticed": (0.5, 0.65, 0.8, 0.9),
        "stretch": (0.8, 1.0, 1.2, 1.5),
    },
}


def check_settings() -> None:
    """Compare the look-up table with the best settings of a search, over loss and pulses; prints ratios of the keys."""
    print("loss dB  log10 pulses: share of the best found key")
    for loss_db in (6.0, 10.0, 14.0, 18.0, 22.0, 26.0):
        ratios = [check_table_share(loss_db, 10.0**n) for n in (9.75, 10.5, 11.25, 12.0)]
        print(f"{loss_db:6.0f}   " + "  ".join(f"{r:.4f}" for r in ratios), flush=True)


def check_table_share(loss_db: float, pulses: float) -> float:
    """Key with the table's settings over the best found, for a block of `pulses` at this loss."""
    params = strong(DecoyBlockParams())
    return float(_table_share(jax.random.key(0), params, jnp.float32(loss_db), jnp.float32(pulses)))


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
        tried = mean[None] + spread[None] * jax.random.normal(key, (256, 5), jnp.float32)
        values = jax.vmap(bits)(tried)
        elite = tried[jax.lax.top_k(values, 24)[1]]
        return (elite.mean(axis=0), elite.std(axis=0) + 1e-4), values.max()

    _, best = jax.lax.scan(search, (table, jnp.full(5, 0.3, jnp.float32)), jax.random.split(key, 60))
    return bits(table) / jnp.maximum(best.max(), 1)


def main(argv: list[str] | None = None) -> int:
    parser = tuning_parser("decoy_block", __doc__, GRIDS, seed=100)
    parser.add_argument("--settings", action="store_true", help="check the look-up table of settings instead")
    options = parser.parse_args(argv)
    if options.settings:
        check_settings()
        return 0
    return tune_named(DecoyBlock(), AGENTS, GRIDS, options)


if __name__ == "__main__":
    raise SystemExit(main())

"""Yardsticks of the decoy block: a rule told the unit's constants (ceiling), and the clairvoyant optimum (oracle)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agents.practice.decoy_block import (
    BUILDUP,
    Filter,
    Plan,
    advance_belief,
    light_per_slice,
    make_action,
    make_plan,
    plan_block,
    reading_likelihood,
    start_filter,
)
from qkd_gym.envs.calibration.decoy_block import (
    DecoyBlockParams,
    Settings,
    block_key_bits,
    decode,
    encode_settings,
    hazard_of,
    mean_slice_counts,
)
from qkd_gym.evaluation.agent import PrivilegedAgent
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.physics.information import NEPER_PER_DB


class ToldMemory(NamedTuple):
    plan: Plan
    filter: Filter
    params: Any
    loss_db: Any
    last: Any  # (channels,)


@dataclasses.dataclass(frozen=True)
class UnitConstantsRule(PrivilegedAgent[ToldMemory]):
    """Bayes filter told this unit's hazard constants and telemetry gains; events, readings and loss as anyone sees them."""

    patience: float = 1.0
    role: ClassVar[str] = "ceiling"

    def init(self, key, env, params, trace):
        return ToldMemory(
            plan=make_plan(params),
            filter=start_filter(hazard_of(params), params.slice_s),
            params=params,
            loss_db=params.loss_db,
            last=jnp.zeros(params.telemetry_gain.shape, jnp.float32),
        )

    def act(self, key, carry, obs, mask, episode):
        p, reading = carry.params, decode(obs)
        first = reading.time_left > 1 - 1e-6

        def density(now: Array, last: Array, gain: Array) -> Array:
            on = jnp.asarray(BUILDUP)
            return reading_likelihood(now, last, gain, on, p.telemetry_noise_time_s, p.slice_s)

        likelihood = jnp.prod(jax.vmap(density)(reading.telemetry, carry.last, p.telemetry_gain), axis=0)
        belief, _ = advance_belief(carry.filter, reading.event, likelihood)
        belief = jnp.where(first, carry.filter.belief, belief)
        loss = jnp.where(reading.event | first, carry.loss_db, 0.5 * (carry.loss_db + reading.loss_estimate_db))
        survival, duration = carry.filter.survival @ belief, carry.filter.duration @ belief
        light = light_per_slice(carry.plan, reading, loss)
        close, slices = plan_block(carry.plan, light, reading.block_slices, survival, duration, self.patience)
        action = make_action(carry.plan, reading, loss, close, slices)
        return action, carry._replace(filter=carry.filter._replace(belief=belief), loss_db=loss, last=reading.telemetry)


class Schedule(NamedTuple):
    """What the clairvoyant does at each step: close or not, and the settings of a fresh block."""

    close: Any  # (steps,) bool
    settings: Any  # (steps, 5) action coordinates


@dataclasses.dataclass(frozen=True)
class ClairvoyantSchedule(PrivilegedAgent[Schedule]):
    """Knows every event and the loss of every slice: the closing times that maximise the expected key, by dynamic
    programming over all pairs of block ends, each block with the best settings for the light it will have."""

    def init(self, key, env, params, trace):
        return clairvoyant_schedule(trace["event"][1:], trace["loss_db"][1:], params)

    def act(self, key, carry, obs, mask, episode):
        t = jnp.minimum(episode.state.time, carry.close.shape[0] - 1)
        close = jnp.where(carry.close[t], 1.0, -1.0)
        return jnp.concatenate([close[None], carry.settings[t]]).astype(jnp.float32), carry


def clairvoyant_schedule(event: Array, loss_db: Array, params: DecoyBlockParams) -> Schedule:
    """The best closing times of an episode whose events and losses `(steps,)` are known."""
    steps = event.shape[0]
    eta = params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)
    pulses = params.clock_hz * params.slice_s
    def key_bits(light: Array, slices: Array) -> Array:
        """Expected key of a block, all its slices at the mean transmittance; exact to first order in eta mu."""
        mean_eta = light / jnp.maximum(slices, 1) / pulses
        settings = Settings(*near_optimal_settings(pulses * jnp.maximum(slices, 1), jnp.maximum(mean_eta, 1e-12)))
        loss = -jnp.log(jnp.maximum(mean_eta, 1e-12) / params.receiver_efficiency) / NEPER_PER_DB
        return block_key_bits(slices * mean_slice_counts(loss, settings, params), settings, params)

    return _solve(event, pulses * eta, key_bits, steps)


def _solve(event, light_now, key_bits, steps):
    starts = jnp.arange(steps)

    def extend(carry, now):
        best, light, slices = carry
        index, spoilt, gained = now
        inside = starts <= index
        # Blocks that hold a spoilt slice are worth nothing: they restart after it, with what was earned before.
        light = jnp.where(spoilt, 0, jnp.where(inside, light + gained, 0))
        slices = jnp.where(spoilt, 0, jnp.where(inside, slices + 1, 0))
        alive = inside & (slices == index - starts + 1)
        total = jnp.where(alive, best[:-1] + jax.vmap(key_bits)(light, slices), -1.0)
        start = jnp.argmax(total)
        idle = best[index]
        worth = jnp.maximum(total[start], idle)
        begin = jnp.where(total[start] > idle, start, index + 1)  # index + 1: this slice belongs to no block
        best = best.at[index + 1].set(worth)
        return (best, light, slices), (begin, light[start])

    zeros = jnp.zeros(steps, jnp.float32)
    first = (jnp.zeros(steps + 1, jnp.float32), zeros, zeros)
    _, (begin, light) = jax.lax.scan(extend, first, (starts, event, light_now))

    def back(carry, now):
        end_start, end_light = carry  # start and light of the block that covers the slices being walked
        index, start, total = now
        outside = index < end_start
        end_start = jnp.where(outside, start, end_start)
        end_light = jnp.where(outside, total, end_light)
        # A block is closed where the next one starts, and before a slice that belongs to none (an event).
        return (end_start, end_light), (index <= end_start, end_light)

    last = (jnp.int32(steps), jnp.float32(0))
    _, (close, total) = jax.lax.scan(back, last, (starts, begin, light), reverse=True)
    reference = jnp.float32(10 ** -2.5)
    settings = jax.vmap(lambda x: encode_settings(near_optimal_settings(jnp.maximum(x, 1) / reference, reference)))(total)
    return Schedule(close, settings)


AGENTS: dict[str, PrivilegedAgent] = {
    "unit-constants": UnitConstantsRule(),
    "clairvoyant": ClairvoyantSchedule(),
}

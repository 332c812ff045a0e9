"""Yardsticks of the decoy block: a rule told the unit's constants (ceiling), and the clairvoyant optimum (oracle)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from agents.practice.decoy_block import (
    BUILDUP,
    Filter,
    Lookahead,
    Plan,
    advance_belief,
    hazard_ahead,
    light_per_slice,
    make_action,
    make_lookahead,
    make_plan,
    noticed_law,
    plan_block,
    reading_likelihood,
    start_filter,
    worth_going_on,
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
    lookahead: Lookahead
    params: Any
    loss_db: Any
    last: Any  # (channels,) readings


@dataclasses.dataclass(frozen=True)
class UnitConstantsRule(PrivilegedAgent[ToldMemory]):
    """Bayes filter told this unit's hazard constants and telemetry gains, with a look-ahead; it sees what anyone sees.

    Args:
        noticed: share of the announced events that the look-ahead counts on noticing in time.
        stretch: planned length over the length that is best at the present hazard.
    """

    noticed: float = 0.8
    stretch: float = 1.0
    role: ClassVar[str] = "ceiling"

    def init(self, key, env, params, trace):
        plan = make_plan(params)
        law = noticed_law(params, self.noticed)
        return ToldMemory(
            plan=plan,
            filter=start_filter(hazard_of(params), params.slice_s),
            lookahead=make_lookahead(plan, params, law[None], (-4.0, 0.0, 4.0)),
            params=params,
            loss_db=params.loss_db,
            last=jnp.zeros(params.telemetry_gain.shape, jnp.float32),
        )

    def act(self, key, carry, obs, mask, episode):
        p, reading = carry.params, decode(obs)
        first = reading.time_left > 1 - 1e-6

        def density(now: Array, last: Array, gain: Array) -> Array:
            return reading_likelihood(now, last, gain, jnp.asarray(BUILDUP), p.telemetry_noise_time_s, p.slice_s)

        likelihood = jnp.sum(jax.vmap(density)(reading.telemetry, carry.last, p.telemetry_gain), axis=0)
        belief, _ = advance_belief(carry.filter, reading.event, likelihood)
        belief = jnp.where(first, carry.filter.belief, belief)
        loss = jnp.where(reading.event | first, carry.loss_db, 0.5 * (carry.loss_db + reading.loss_estimate_db))
        light = light_per_slice(carry.plan, reading, loss)
        _, slices = plan_block(carry.plan, light, reading.block_slices, hazard_ahead(carry.filter, belief), 1.0)
        worth = worth_going_on(carry.lookahead, light, reading.block_slices, belief)[0]
        close = (reading.block_slices > 0) & (worth < 0)
        action = make_action(carry.plan, reading, loss, close, self.stretch * slices)
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


#: Grid of the clairvoyant's table: log10 of a block's light, and its mean loss in dB.
_LIGHT = np.arange(5.5, 12.76, 0.0625, dtype=np.float32)
_LOSS_DB = np.arange(0.0, 45.1, 1.5, dtype=np.float32)


def clairvoyant_schedule(event: Array, loss_db: Array, params: DecoyBlockParams) -> Schedule:
    """The best closing times of an episode whose events and losses `(steps,)` are known, in expected counts.

    A block's counts depend on its light and its mean transmittance, but for terms of order (eta mu)^2 < 1e-3.
    """
    pulses = params.clock_hz * params.slice_s

    def expected_bits(light: Array, loss: Array) -> Array:
        eta = params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss)
        settings = Settings(*near_optimal_settings(light / eta, eta))
        mean = mean_slice_counts(loss, settings, params)
        return block_key_bits(light / eta / pulses * mean, settings, params) / light

    grid_light, grid_loss = jnp.asarray(np.float32(10) ** _LIGHT), jnp.asarray(_LOSS_DB)
    table = jax.vmap(lambda light: jax.vmap(lambda loss: expected_bits(light, loss))(grid_loss))(grid_light).reshape(-1)
    width = len(_LOSS_DB)

    def bits(light: Array, slices: Array) -> Array:
        row = jnp.clip((jnp.log10(jnp.maximum(light, 1)) - _LIGHT[0]) / (_LIGHT[1] - _LIGHT[0]), 0, len(_LIGHT) - 1.001)
        eta = jnp.maximum(light, 1) / (pulses * jnp.maximum(slices, 1))
        loss = -jnp.log(eta / params.receiver_efficiency) / NEPER_PER_DB
        column = jnp.clip((loss - _LOSS_DB[0]) / (_LOSS_DB[1] - _LOSS_DB[0]), 0, width - 1.001)
        i, j = row.astype(jnp.int32), column.astype(jnp.int32)
        u, v = row - i, column - j
        at = i * width + j
        low = (1 - v) * table[at] + v * table[at + 1]
        high = (1 - v) * table[at + width] + v * table[at + width + 1]
        return light * ((1 - u) * low + u * high)

    light_now = pulses * params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)
    begin, light = _best_blocks(event, light_now, bits)
    return _walk_back(begin, light)


def _best_blocks(event: Array, light_now: Array, bits: Callable[[Array, Array], Array]) -> tuple[Array, Array]:
    """For each slice: where the block that ends with it begins in the best schedule so far (the next slice: none ends
    here), and its light. Dynamic programming over all pairs of ends, one column of starts at a time."""
    steps = event.shape[0]
    starts = jnp.arange(steps, dtype=jnp.int32)

    def extend(carry: tuple[Array, Array, Array], now: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        best, light, slices = carry
        index, spoilt, gained = now
        inside = (starts <= index) & ~spoilt
        light, slices = jnp.where(inside, light + gained, 0), jnp.where(inside, slices + 1, 0)
        whole = inside & (slices == index - starts + 1)  # no event since the start
        total = jnp.where(whole, best[:-1] + bits(light, slices.astype(jnp.float32)), -1)
        start = jnp.argmax(total).astype(jnp.int32)
        used = total[start] > best[index]
        best = best.at[index + 1].set(jnp.maximum(total[start], best[index]))
        return (best, light, slices), (jnp.where(used, start, index + 1), light[start])

    nothing = (jnp.zeros(steps + 1, jnp.float32), jnp.zeros(steps, jnp.float32), jnp.zeros(steps, jnp.int32))
    _, blocks = jax.lax.scan(extend, nothing, (starts, event, light_now))
    return blocks


def _walk_back(begin: Array, light: Array) -> Schedule:
    """From the last slice to the first: where to close, and the settings of the block that covers each slice."""

    def back(carry: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        first, total = carry  # of the block that covers the slices being walked
        index, start, ended = now
        ends_here = index < first
        first, total = jnp.where(ends_here, start, first), jnp.where(ends_here, ended, total)
        # Close where the next block starts, and before a slice that belongs to none: an event.
        return (first, total), (index <= first, total)

    steps = begin.shape[0]
    end = (jnp.int32(steps), jnp.float32(0))
    _, (close, total) = jax.lax.scan(back, end, (jnp.arange(steps, dtype=jnp.int32), begin, light), reverse=True)
    eta = jnp.float32(10**-2.5)
    settings = jax.vmap(lambda x: encode_settings(near_optimal_settings(jnp.maximum(x, 1) / eta, eta)))(total)
    return Schedule(close, settings)


AGENTS: dict[str, PrivilegedAgent] = {
    "unit-constants": UnitConstantsRule(),
    "clairvoyant": ClairvoyantSchedule(),
}

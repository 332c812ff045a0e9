"""A yardstick of allocation: controllers who know their fibres and divide detectors by the key that each share makes.

No bound (that is the linear program of `benchmarks.resource_allocation`): it knows no lightpath or order to come.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from agents.practice.resource_allocation import BestFit, first_legal
from qkd_gym import struct
from qkd_gym.envs.network import allocation as task
from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network.allocation import SLOTS, UNIT_BITS, WAVES, WINDOWS, ResourceAllocationParams, claims_of
from qkd_gym.evaluation.agent import PrivilegedAgent

_WIDTHS = np.arange(SLOTS + 1)
_NEVER = -1e9


@struct.dataclass
class KnownFibres(PrivilegedAgent[ResourceAllocationParams]):
    """Best fit told the true noise, which divides each node's detectors for the most key that pools have room for.

    Key counts more the emptier its pool is. Whoever has detectors keeps them until another would do much more with
    them: a block that lasts the whole minute pays less for statistics, and its end costs nobody a collision.
    """

    rule: Any = struct.field(BestFit(gain=1.5, trust=0.0, blur=0.4), doc="for wavelength, power and release")
    empty: Any = struct.field(2.0, low=0.0, doc="power of the empty part of its pool in what a link's key counts")
    stay: Any = struct.field(2.0, low=1.0, doc="factor on what a link makes with as many slots as it has now")

    def init(self, key, env, params, trace):
        return params

    def act(self, key, carry, obs, mask, episode):
        params, state = carry, episode.state
        reading = task.decode(obs)
        wave, _, power, release = self.rule.judge(reading, params)
        # key of this minute with each number of slots, as far as the pool has room for it
        tuned = state.wave[:, None] == np.arange(WAVES)[None]
        eta = jnp.sum(jnp.where(tuned, state.eta, 0), axis=1)
        noise = task.noise_at(state.noise, tuned, state.lit, power, params)
        pulses = params.clock_hz * 60 * params.step_min * _WIDTHS / SLOTS
        bits = light.block_bits(eta[:, None], noise[:, None], pulses[None], params.misalignment_error[:, None], params)
        dark = (state.relock > 1) | (wave != state.wave)
        made = jnp.where(dark[:, None] | (_WIDTHS == 0)[None], 0, bits / UNIT_BITS)
        kept = jnp.minimum(made, (state.capacity - state.level)[:, None])
        has = jnp.sum(claims_of(state.window), axis=1)
        counts = (1 - state.level / jnp.maximum(state.capacity, 1)) ** self.empty / jnp.maximum(state.nominal, 1)
        gain = counts[:, None] * kept * jnp.where(has[:, None] == _WIDTHS[None], self.stay, 1.0)
        window = windows_of(divide(gain, reading.rival), reading.rival)
        wanted = [power + task.TO_POWER, wave + task.TO_WAVE, window + task.TO_WINDOW, release + task.TO_RELEASE]
        return first_legal(wanted, mask), carry


def divide(gain: Float[Array, "links widths"], together: Bool[Array, "links links"]) -> Int[Array, " links"]:
    """Slots for each link so that the gains of those that share detectors add up to the most (dynamic programming).

    Args:
        gain: of each link from each number of slots, 0 to `SLOTS`; none loses anything by getting none.
    """
    links = len(gain)
    # best[i, s]: the most that the links so far that share with i make of s slots
    best = jnp.full((links, SLOTS + 1), _NEVER).at[:, 0].set(0.0)
    choices = []
    for link in range(links):
        options = []
        for width in range(SLOTS + 1):
            before = jnp.concatenate([jnp.full((links, width), _NEVER), best[:, : SLOTS + 1 - width]], axis=1)
            extra = jnp.where(together[:, link], gain[link, width], _NEVER if width else 0.0)
            options.append(before + extra[:, None])
        choices.append(jnp.argmax(jnp.stack(options), axis=0))
        best = jnp.max(jnp.stack(options), axis=0)
    left = jnp.argmax(best, axis=1)
    widths = []
    for link in reversed(range(links)):
        given = jnp.sum(jnp.where(left[:, None] == _WIDTHS[None], choices[link], 0), axis=1)
        left = left - given
        widths.append(given[link])
    return jnp.stack(widths[::-1]).astype(jnp.int32)


def windows_of(width: Int[Array, " links"], together: Bool[Array, "links links"]) -> Int[Array, " links"]:
    """Numbers of the windows that lie side by side, in the order of the links that share detectors."""
    number = np.arange(len(width))
    first = jnp.sum(jnp.where(together & (number[None] < number[:, None]), width[None], 0), axis=1)
    slots = np.arange(SLOTS)[None]
    claims = (slots >= first[:, None]) & (slots < (first + width)[:, None])
    same = jnp.all(claims[:, None, :] == (WINDOWS > 0)[None], axis=2)
    return jnp.argmax(same, axis=1).astype(jnp.int32)


AGENTS: dict[str, PrivilegedAgent] = {"known_fibres": KnownFibres()}

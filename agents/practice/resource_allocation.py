"""What operators do about wavelengths beside classical traffic: a fixed band, first fit, a Raman model, best fit.

Every rule is each controller's own: it reads that link's observation and mask and nothing else. A rule says which
settings it wants; of what differs the most urgent is changed first, one a minute.
`python -m agents.practice.resource_allocation` scans the constants on tuning seeds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from agents.practice.tuning import Grid, tune_named, tuning_parser
from qkd_gym import struct
from qkd_gym.envs.network import allocation as task
from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network.allocation import (
    ALL,
    POWERS,
    PREMIUM,
    SLOTS,
    SOON,
    WAVES,
    WINDOWS,
    Reading,
    ResourceAllocationParams,
    decode,
)
from qkd_gym.envs.network.resource_allocation import ResourceAllocation
from qkd_gym.evaluation.agent import Agent

#: Window of each first slot and width: `_WINDOW_AT[first, width]`.
_WINDOW_AT = np.zeros((SLOTS + 1, SLOTS + 1), np.int32)
for _number, _claims in enumerate(WINDOWS):
    if _claims.any():
        _WINDOW_AT[int(_claims.argmax()), int(_claims.sum())] = _number


@struct.dataclass
class _Rule(Agent[ResourceAllocationParams]):
    """Go for the settings that `judge` wants, the most urgent change first."""

    def init(self, key, env, params):
        return params

    def act(self, key, carry, obs, mask):
        reading = decode(obs)
        params = dataclasses.replace(carry, length_km=reading.length_km, extra_loss_db=reading.extra_loss_db)
        wave, window, power, release = self.judge(reading, params)
        wanted = [power + task.TO_POWER, wave + task.TO_WAVE, window + task.TO_WINDOW, release + task.TO_RELEASE]
        return first_legal(wanted, mask), carry

    def judge(self, reading: Reading, params: ResourceAllocationParams) -> tuple[Array, Array, Array, Array]:
        """(wavelength, window, power, release) that each link should have, int32 `(links,)`."""
        raise NotImplementedError


def first_legal(wanted: list[Array], mask: Bool[Array, "links actions"]) -> Int[Array, " links"]:
    """Of the actions that each link wants, by urgency, the first that its mask allows; 0 (keep all) if none."""
    action = jnp.zeros(len(mask), jnp.int32)
    for choice in reversed(wanted):
        legal = jnp.any(mask & (choice[:, None] == np.arange(mask.shape[-1])[None]), axis=1)
        action = jnp.where(legal, choice, action)
    return action.astype(jnp.int32)


def fixed_turns(reading: Reading) -> Int[Array, " links"]:
    """Windows of equal width among the links that share detectors, in their order."""
    return _windows(jnp.ones_like(reading.other_fill), reading)


def _windows(weight: Float[Array, "links links"], reading: Reading) -> Int[Array, " links"]:
    """Windows in proportion to weights, by largest remainders, as every one of the sharing links works them out."""
    weight = jnp.where(reading.rival, jnp.maximum(weight, 1e-6), 0)
    exact = SLOTS * weight / jnp.sum(weight, axis=1, keepdims=True)
    whole = jnp.floor(exact + 1e-4)
    number = np.arange(weight.shape[1])
    rest = jnp.where(reading.rival, exact - whole - 1e-3 * number[None], -1e3)
    rank = jnp.sum(rest[:, None, :] > rest[:, :, None], axis=2)
    width = whole + (rank < jnp.round(SLOTS - jnp.sum(whole, axis=1, keepdims=True)))
    own = np.eye(len(number), dtype=bool)
    first = jnp.sum(jnp.where(number[None, :] < number[:, None], width, 0), axis=1)
    mine = jnp.sum(jnp.where(own, width, 0), axis=1)
    place = first[:, None, None] == np.arange(SLOTS + 1)[None, :, None]
    place &= mine[:, None, None] == np.arange(SLOTS + 1)[None, None]
    return jnp.sum(jnp.where(place, _WINDOW_AT[None], 0), axis=(1, 2), dtype=jnp.int32)


def _everywhere(value: Any, reading: Reading) -> Int[Array, " links"]:
    return jnp.broadcast_to(jnp.round(jnp.asarray(value, jnp.float32)).astype(jnp.int32), reading.fill.shape)


@struct.dataclass
class FixedBand(_Rule):
    """One wavelength for ever, a launch power that serves every format, fixed turns at the detectors."""

    wave: Any = struct.field(0.0, low=0.0, high=WAVES - 1, doc="number of the wavelength")
    power: Any = struct.field(1.0, low=0.0, high=POWERS - 1, doc="steps below full power")

    def judge(self, reading, params):
        return (
            _everywhere(self.wave, reading),
            fixed_turns(reading),
            _everywhere(self.power, reading),
            _everywhere(ALL, reading),
        )


@struct.dataclass
class FirstFit(FixedBand):
    """The first place in the C band without a lit neighbour, while it has none; the O band if there is none."""

    def judge(self, reading, params):
        near = jnp.abs(params.quantum_nm[:, None] - params.classical_nm[None]) < params.guard_nm
        taken = jnp.sum(near[None] & (reading.lit > 0)[:, None, :], axis=2)
        free = (taken == 0).at[:, 0].set(False)
        first = jnp.where(jnp.any(free, axis=1), jnp.argmax(free, axis=1), 0)
        stays = jnp.any(free & reading.wave, axis=1)
        now = jnp.argmax(reading.wave, axis=1)
        wave = jnp.where(stays, now, first).astype(jnp.int32)
        return wave, *super().judge(reading, params)[1:]


@struct.dataclass
class RamanAware(_Rule):
    """The wavelength of most key by the nominal Raman model and the traffic seen; the least power that all need."""

    gain: Any = struct.field(1.6, low=1.0, doc="key over that of the present wavelength that is worth a relock")
    spare_db: Any = struct.field(0.0, doc="margin kept above the sensitivity of what is lit")
    lowest: Any = struct.field(3.0, low=0.0, high=POWERS - 1, doc="steps below full power that it goes to")
    trust: Any = struct.field(1.0, low=0.0, high=1.0, doc="of the noise just read where it is, against the model")
    blur: Any = struct.field(0.2, low=0.0, high=1.0, doc="of mean traffic, in the place of what is lit now")

    def judge(self, reading, params):
        return (
            self.wave_of(reading, params),
            fixed_turns(reading),
            self.power_of(reading, params),
            _everywhere(ALL, reading),
        )

    def wave_of(self, reading: Reading, params: ResourceAllocationParams) -> Array:
        """The best wavelength, if it is enough better than the present one."""
        power = self.power_of(reading, params)
        bits = self.model(reading, params, power)
        now = jnp.sum(jnp.where(reading.wave, bits, 0), axis=1)
        best = jnp.max(bits, axis=1)
        moves = best > self.gain * now + 1e-3
        return jnp.where(moves, jnp.argmax(bits, axis=1), jnp.argmax(reading.wave, axis=1)).astype(jnp.int32)

    def model(self, reading: Reading, params: ResourceAllocationParams, power: Array) -> Float[Array, "links waves"]:
        """Key of a step at each wavelength, in units."""
        table = light.noise_per_channel(params)
        lit = (1 - self.blur) * (reading.lit > 0) + self.blur * light.occupancy(params)
        predicted = jnp.sum(table * lit[:, None, :], axis=2)
        # what was read speaks of the fibre's own coefficient, as far as it is fresh
        here = jnp.sum(table * (reading.lit > 0)[:, None, :], axis=2)
        before = light.power_factor(reading.power.astype(jnp.float32), params)
        known = (reading.seen_age < 1.5) & (here > 0) & (reading.seen_noise > 0)
        ratio = jnp.where(known, reading.seen_noise / jnp.maximum(here * before[:, None], 1e-12), 1.0)
        factor = jnp.clip(ratio, 0.25, 4.0) ** self.trust
        noise = predicted * factor * light.power_factor(power.astype(jnp.float32), params)[:, None]
        pulses = params.clock_hz * 60 * params.step_min / jnp.maximum(reading.rivals, 1)
        eta = light.transmittance(params)
        bits = light.block_bits(eta, noise, pulses[:, None], params.misalignment_error[:, None], params)
        return bits / task.UNIT_BITS

    def power_of(self, reading: Reading, params: ResourceAllocationParams) -> Array:
        """Most steps below full power that leave every lit format its sensitivity."""
        steps = jnp.arange(POWERS, dtype=jnp.float32)
        common, high = jax.vmap(lambda power: light.margin_db(power, params))(steps)  # (POWERS, links)
        any_high = jnp.any(reading.lit == light.HIGH, axis=1)
        fine = (common >= self.spare_db) & ((high >= self.spare_db) | ~any_high[None]) & (steps <= self.lowest)[:, None]
        return jnp.maximum(jnp.sum(fine, axis=0, dtype=jnp.int32) - 1, 0)


@struct.dataclass
class BestFit(RamanAware):
    """Raman-aware, with detectors for those in need, and pools kept for the premium tenants when they run low."""

    gain: Any = struct.field(2.0, low=1.0, doc="as above")
    share_need: Any = struct.field(0.0, doc="power of need in a link's share of the detectors")
    share_empty: Any = struct.field(4.0, doc="power of the empty part of its pool in that share")
    share_yield: Any = struct.field(1.0, doc="power of its key per time at the detectors in that share")
    reserve: Any = struct.field(0.6, low=0.0, high=1.0, doc="fill below which only premium orders are served")
    soon: Any = struct.field(0.4, low=0.0, high=1.0, doc="fill below which others are served if due soon")

    def judge(self, reading, params):
        wave, _, power, _ = super().judge(reading, params)
        need = jnp.maximum(reading.other_need, 0.02) ** self.share_need
        empty = jnp.maximum(1 - reading.other_fill, 0.02) ** self.share_empty
        each = jnp.maximum(reading.other_yield, 0.05) ** self.share_yield
        release = jnp.where(reading.fill < self.reserve, PREMIUM, jnp.where(reading.fill < self.soon, SOON, ALL))
        return wave, _windows(need * empty * each, reading), power, release.astype(jnp.int32)


AGENTS: dict[str, Agent] = {
    "fixed_band": FixedBand(),
    "first_fit": FirstFit(),
    "raman_aware": RamanAware(),
    "best_fit": BestFit(),
}

_RAMAN: dict[str, tuple[float, ...]] = {
    "gain": (1.2, 1.6, 2.0, 3.0),
    "blur": (0.0, 0.2, 0.4),
    "trust": (0.0, 0.5, 1.0),
    "lowest": (1.0, 3.0),
}
#: Values that are tried, one constant after the other.
GRIDS: dict[str, Grid] = {
    "fixed_band": {"wave": tuple(float(i) for i in range(WAVES)), "power": (0.0, 1.0, 2.0, 3.0)},
    "first_fit": {"power": (0.0, 1.0, 2.0, 3.0)},
    "raman_aware": _RAMAN,
    "best_fit": {
        "share_empty": (0.0, 2.0, 4.0, 8.0, 16.0),
        "share_need": (0.0, 0.5, 1.0),
        "share_yield": (-1.0, 0.0, 1.0, 2.0),
        "soon": (0.0, 0.2, 0.4, 0.7),
        "reserve": (0.0, 0.2, 0.4, 0.6),
        **_RAMAN,
    },
}


def main(argv: list[str] | None = None) -> int:
    options = tuning_parser("resource_allocation", __doc__, GRIDS).parse_args(argv)
    return tune_named(ResourceAllocation(), AGENTS, GRIDS, options)


if __name__ == "__main__":
    raise SystemExit(main())

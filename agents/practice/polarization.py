"""What operators do about polarisation: climb the error rate, start when it is bad, or invert a learned map.

None of these knows the unit: axes, gains and pigtail have to be found out by moving. The Bayesian agent is in
`agents.practice.polarization_filter`. The constants of the climbers and of the inversion are what
`python -m agents.practice.polarization --episodes 128` found on the tuning seed 11.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agents.practice.polarization_filter import BeliefFilter
from agents.practice.tuning import Grid, tune_named, tuning_parser
from qkd_gym import struct
from qkd_gym.envs.calibration.polarization import PolarizationAlignment, Reading, decode
from qkd_gym.evaluation.agent import Agent


class Climb(NamedTuple):
    """Memory of the hill climbers."""

    params: Any  # public constants
    move: Any  # (4,) the trial in progress, rad
    axis: Any  # i32 (), squeezer under trial
    signs: Any  # (4,) direction that worked last, per squeezer
    best: Any  # error level that a trial has to beat
    phase: Any  # i32 ()
    awake: Any  # bool ()


def excess_error(reading: Reading, params: Any, weight_x: Any) -> Array:
    """Weighted mean of both error rates above the optical floor; 0 in perfect alignment, up to noise.

    `weight_x` is the weight of the X basis, which has few counts.
    """
    mean = (1 - weight_x) * reading.qber_z + weight_x * reading.qber_x
    return jnp.where(reading.clicks_z > 0, mean - params.optical_error, 0.0)


def act_on(move: Float[Array, "..."], params: Any, share: Any = 0.0) -> Float[Array, "..."]:
    """Action of a move in rad, with reference light for `share` of the step."""
    return jnp.concatenate([jnp.clip(move / params.slew_rad, -1, 1), jnp.where(share > 0, 2 * share, -1.0)[None]])


def _start(params: Any, best: float) -> Climb:
    f = jnp.float32
    return Climb(params, jnp.zeros(4, f), jnp.int32(0), jnp.ones(4, f), f(best), jnp.int32(0), jnp.bool_(False))


@struct.dataclass
class CoordinateDescent(Agent[Climb]):
    """One squeezer at a time: keep going while the error rate falls, else step back and try the next one.

    Steps shrink with the error, `gain sqrt(excess)`, between `floor_rad` and `cap_rad`. The level to beat is the last
    one accepted, raised by a share `forget` of what is measured since, because the fibre drifts.
    """

    gain: Any = 1.0
    floor_rad: Any = 0.03
    cap_rad: Any = 0.4
    forget: Any = 0.5
    weight_x: Any = 0.5
    role: ClassVar[str] = "practice"

    def init(self, key, env, params):
        return _start(params, 1.0)

    def act(self, key, carry, obs, mask):
        move, carry = self.climb(carry, decode(obs, carry.params))
        return act_on(move, carry.params), carry

    def climb(self, c: Climb, reading: Reading) -> tuple[Array, Climb]:
        """The next move in rad."""
        excess = excess_error(reading, c.params, self.weight_x)
        size = jnp.clip(self.gain * jnp.sqrt(jnp.maximum(excess, 0)), self.floor_rad, self.cap_rad)
        better = excess < c.best
        here = jax.nn.one_hot(c.axis, 4, dtype=jnp.float32)
        signs = jnp.where(better, c.signs, c.signs * (1 - 2 * here))
        axis = jnp.where(better, c.axis, (c.axis + 1) % 4)
        trial = size * signs * jax.nn.one_hot(axis, 4, dtype=jnp.float32)
        best = jnp.where(better, excess, c.best + self.forget * (excess - c.best))
        return trial - jnp.where(better, 0.0, c.move), c._replace(move=trial, axis=axis, signs=signs, best=best)


@struct.dataclass
class Spgd(Agent[Climb]):
    """Stochastic parallel gradient descent: shake all squeezers at random, there and back, step down the difference."""

    shake: Any = 0.8
    floor_rad: Any = 0.04
    cap_rad: Any = 0.1
    rate: Any = 1.0
    weight_x: Any = 0.5
    role: ClassVar[str] = "practice"

    def init(self, key, env, params):
        return _start(params, 0.0)

    def act(self, key, carry, obs, mask):
        c = carry
        excess = excess_error(decode(obs, c.params), c.params, self.weight_x)
        fresh = jax.random.rademacher(key, (4,), jnp.float32)
        size = jnp.clip(self.shake * jnp.sqrt(jnp.maximum(excess, 0)), self.floor_rad, self.cap_rad) * fresh
        # After the shake out: remember the error, swing to the other side. After that: settle, and shake anew.
        back = c.phase == 1
        shaken = jnp.maximum(jnp.sum(jnp.abs(c.move)), 1e-6) / 4
        slope = (c.best - excess) / jnp.maximum(c.best + excess, 1e-3)
        settle = c.move - self.rate * slope * c.move / shaken * jnp.sqrt(jnp.maximum(0.5 * (c.best + excess), 0))
        move = jnp.where(back, -2 * c.move, jnp.where(c.phase == 2, settle, 0.0) + size)
        held = jnp.where(back, c.move, size)
        phase = jnp.where(back, jnp.int32(2), jnp.int32(1))
        return act_on(move, c.params), c._replace(move=held, best=jnp.where(back, excess, c.best), phase=phase)


@struct.dataclass
class Realign(Agent[Climb]):
    """Leave the link alone until an error rate passes `start`, then descend until both are below `stop`."""

    start: Any = 0.015
    stop: Any = 0.012
    descent: CoordinateDescent = dataclasses.field(default_factory=CoordinateDescent)
    role: ClassVar[str] = "practice"

    def init(self, key, env, params):
        return _start(params, 1.0)

    def act(self, key, carry, obs, mask):
        reading = decode(obs, carry.params)
        worst = jnp.where(reading.clicks_z > 0, jnp.maximum(reading.qber_z, reading.qber_x), 0.0)
        awake = jnp.where(carry.awake, worst > self.stop, worst > self.start)
        began = awake & ~carry.awake
        carry = carry._replace(move=jnp.where(began, 0.0, carry.move), best=jnp.where(began, 1.0, carry.best))
        move, climbed = self.descent.climb(carry, reading)
        # A descent that ends on a failed trial takes it back.
        stay = carry._replace(move=jnp.zeros(4, jnp.float32))
        ended = carry.awake & ~awake & (excess_error(reading, carry.params, self.descent.weight_x) >= carry.best)
        after = jax.tree.map(lambda a, b: jnp.where(awake, a, b), climbed, stay)
        move = jnp.where(awake, move, jnp.where(ended, -carry.move, 0.0))
        return act_on(move, carry.params), after._replace(awake=awake)


class Map(NamedTuple):
    """Memory of the learned inversion."""

    params: Any
    error: Any  # (3,) estimated rotation vector of the misalignment, rad
    jacobian: Any  # (3, 4) its change per rad of each voltage
    move: Any  # (4,) the last move, rad
    time: Any  # i32 ()


@struct.dataclass
class LearnedInversion(Agent[Map]):
    """Closed-form inversion of a map learned as it goes, on reference light.

    Reference readings give the rotation about S3 with its sign and the sizes of the other two; those signs are the
    ones predicted by the map (the mirrored world is as good: controls that align one align the other). Starts by moving
    one squeezer after the other. The map follows by normalised least mean squares, the control is damped least squares.
    """

    share: Any = 0.1
    period: Any = 1
    probe_rad: Any = 0.2
    probe_steps: Any = 8
    learning_rate: Any = 0.6
    damping: Any = 0.1
    gain: Any = 0.8
    trust: Any = 0.7
    role: ClassVar[str] = "practice"

    def init(self, key, env, params):
        jacobian = 0.05 * jax.random.normal(key, (3, 4), jnp.float32)
        zero = jnp.zeros(4, jnp.float32)
        return Map(params, jnp.full(3, params.start_offset_rad, jnp.float32), jacobian, zero, jnp.int32(0))

    def act(self, key, carry, obs, mask):
        c, p = carry, carry.params
        reading = decode(obs, p)
        expected = c.error + c.jacobian @ c.move
        seen = signed_misalignment(reading, p, expected)
        surprise = jnp.where(reading.bought, self.trust * (seen - expected), 0.0)
        error = expected + surprise
        moved = jnp.sum(c.move * c.move)
        jacobian = c.jacobian + self.learning_rate * surprise[:, None] * c.move[None, :] / (moved + 0.01)
        # damped least squares in closed form
        gram = jacobian @ jacobian.T + self.damping * jnp.eye(3, dtype=jnp.float32)
        invert = -self.gain * jacobian.T @ jnp.linalg.solve(gram, error)
        there = jnp.where((c.time // 4) % 2 == 0, jnp.float32(1), jnp.float32(-1))
        probe = self.probe_rad * there * jax.nn.one_hot(c.time % 4, 4, dtype=jnp.float32)
        probing = c.time < self.probe_steps
        move = jnp.clip(jnp.where(probing, probe, invert), -p.slew_rad, p.slew_rad)
        buy = probing | (c.time % self.period == 0)
        return act_on(move, p, jnp.where(buy, self.share, 0.0)), Map(p, error, jacobian, move, c.time + 1)


def signed_misalignment(reading: Reading, params: Any, expected: Float[Array, "3"]) -> Float[Array, "3"]:
    """Rotation vector behind the two-basis readings, with the signs of S1 and S2 taken from `expected`.

    To second order R_21 - R_12 = 2 r3, 1 - R_11 = (r2^2 + r3^2)/2 and 1 - R_22 = (r1^2 + r3^2)/2; the error rate of the
    quantum signal says 1 - R_11 far better than the reference does.
    """
    visibility = 1 - 2 * params.optical_error
    _, r12, r21, r22 = (reading.reference[i] / visibility for i in range(4))
    r3 = 0.5 * (r21 - r12)
    z = 2 * (reading.qber_z - params.optical_error) / visibility
    x = 2 * (reading.qber_x - params.optical_error) / visibility
    r2 = jnp.sqrt(jnp.maximum(2 * z - r3 * r3, 0))
    r1 = jnp.sqrt(jnp.maximum(x + (1 - r22) - r3 * r3, 0))
    return jnp.stack([jnp.where(expected[0] < 0, -r1, r1), jnp.where(expected[1] < 0, -r2, r2), r3])


AGENTS: dict[str, Agent] = {
    "coordinate_descent": CoordinateDescent(),
    "spgd": Spgd(),
    "realign": Realign(),
    "learned_inversion": LearnedInversion(),
    "belief_filter": BeliefFilter(),
}

#: Values that are tried, one constant after the other.
GRIDS: dict[str, Grid] = {
    "coordinate_descent": {
        "gain": (0.5, 0.75, 1.0, 1.4, 2.0), "floor_rad": (0.015, 0.03, 0.06), "cap_rad": (0.2, 0.4),
        "forget": (0.2, 0.5, 1.0), "weight_x": (0.1, 0.25, 0.5),
    },
    "spgd": {
        "shake": (0.3, 0.5, 0.8, 1.2), "floor_rad": (0.01, 0.02, 0.04), "cap_rad": (0.1, 0.2, 0.4),
        "rate": (0.3, 0.6, 1.0, 1.5, 2.5), "weight_x": (0.1, 0.25, 0.5),
    },
    "realign": {"start": (0.015, 0.02, 0.025, 0.03, 0.04), "stop": (0.012, 0.015, 0.02, 0.025)},
    "learned_inversion": {
        "share": (0.05, 0.1, 0.2), "period": (1, 2, 3), "probe_rad": (0.2, 0.4), "probe_steps": (8, 16),
        "learning_rate": (0.1, 0.3, 0.6), "damping": (0.05, 0.2), "gain": (0.5, 0.8, 1.0), "trust": (0.4, 0.7, 1.0),
    },
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    options = tuning_parser("polarization", __doc__, GRIDS, seed=11).parse_args(argv)
    return tune_named(PolarizationAlignment(), AGENTS, GRIDS, options)


if __name__ == "__main__":
    raise SystemExit(main())

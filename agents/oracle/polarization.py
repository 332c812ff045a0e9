"""Yardsticks of polarisation alignment: a filter told the unit's map (ceiling), and the exact inverse (oracle)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from agents.practice.polarization_filter import Belief, BeliefFilter, Unit, effect_of, rotation_vector, through_backlash
from qkd_gym.envs.calibration.polarization import (
    NOMINAL_AXES,
    PolarizationParams,
    net_rotation,
    wind_angle_rad,
)
from qkd_gym.evaluation.agent import PrivilegedAgent
from qkd_gym.physics import polarization as pol


def true_unit(params: PolarizationParams, particles: int) -> Unit:
    """The controller of this link, `particles` times."""
    nominal = jnp.asarray(NOMINAL_AXES, jnp.float32)
    along = jnp.sum(params.squeezer_axes * nominal, axis=-1)
    # components across S1, S2, S1, S2, over the one along it
    across = jnp.stack([jnp.stack([a[1 - k % 2], a[2]]) for k, a in enumerate(params.squeezer_axes)])
    unit = Unit(frame=pol.matrix(params.frame), tilts=across / along[:, None], log_gains=jnp.log(params.squeezer_gains))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (particles, *x.shape)), unit)


@dataclasses.dataclass(frozen=True)
class ToldFilter(PrivilegedAgent[Belief]):
    """The belief filter, told this unit's axes, gains, pigtail and walk. It sees of the light what anyone sees."""

    filter: BeliefFilter = dataclasses.field(
        default_factory=lambda: BeliefFilter(probe_steps=0, noise_floor=0.002, first_floor=0.0, threshold=0.003)
    )
    role: ClassVar[str] = "ceiling"

    def init(self, key, env, params, trace):
        belief = self.filter.init(key, env, params)
        unit = true_unit(params, self.filter.sizes.particles)
        return belief._replace(unit=unit, spread=jnp.zeros_like(belief.spread))

    def act(self, key, carry, obs, mask, episode):
        walk_rad = pol.walk_step_rad(carry.params.step_s, carry.params.decorrelation_time_s)
        told = dataclasses.replace(self.filter, walk_rad=walk_rad)
        return told.act(key, carry, obs, mask)


@dataclasses.dataclass(frozen=True)
class ExactInverse(PrivilegedAgent[None]):
    """Damped Gauss-Newton on the true rotation, under slew and range, through the true backlash; buys no reference.

    It sees the fibre as it is and not as it will be: what the walk does within the coming step is left, and so is what
    the slew does not reach. Swaying spans are met at the middle of the step.
    """

    iterations: int = 3
    damping: Any = 0.05
    centring: Any = 0.02
    role: ClassVar[str] = "oracle"

    def init(self, key, env, params, trace):
        return None

    def act(self, key, carry, obs, mask, episode):
        state, params = episode.state, episode.params
        unit = true_unit(params, 1)
        wind = wind_angle_rad(params, state, 0.5)
        goal = state.position
        for _ in range(self.iterations):
            error = rotation_vector(pol.matrix(net_rotation(params, goal, state.fibre, wind)))
            jacobian = effect_of(unit, goal[None], goal[None]).jacobian[0]
            gram = jacobian @ jacobian.T + self.damping * jnp.eye(3, dtype=jnp.float32)
            # what moves to the middle of the range, less what that does to the light
            middle = -self.centring * goal
            move = middle - jacobian.T @ jnp.linalg.solve(gram, error + jacobian @ middle)
            goal = jnp.clip(goal + move, state.position - params.slew_rad, state.position + params.slew_rad)
        push = through_backlash(goal - state.position, state.position, state.voltage, params.backlash_rad)
        return jnp.append(jnp.clip(push / params.slew_rad, -1, 1), jnp.float32(-1)), None


AGENTS: dict[str, PrivilegedAgent] = {"told_filter": ToldFilter(), "exact_inverse": ExactInverse()}

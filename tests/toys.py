"""Small tasks that exercise the contract without optics: one single-agent, one multi-agent."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from qkd_gym import struct
from qkd_gym.envs.core import Environment, EnvParams, EnvState


@struct.dataclass
class WalkParams(EnvParams):
    max_steps_in_episode: int = struct.field(7, low=1, unit="step")
    drift: float = struct.field(0.1, low=0.0, high=1.0, unit="1/step", doc="standard deviation of the walk")


@struct.dataclass
class WalkState(EnvState):
    position: Any


@dataclasses.dataclass(frozen=True)
class Walk(Environment[WalkState, WalkParams]):
    """Keep a random walk near zero; leaving (-1, 1) terminates."""

    name: ClassVar[str] = "Walk"
    scenarios: ClassVar = {"training": "slow and fast walks", "ood-fast": "fast walks"}
    metrics: ClassVar = {"distance": "absolute position [-]"}

    @property
    def default_params(self):
        return WalkParams()

    @property
    def passive_action(self):
        return np.zeros(1, np.float32)

    def sample_params(self, key, scenario=None):
        high = 1.0 if (scenario or self.scenario) == "ood-fast" else 0.15
        return WalkParams(drift=jax.random.uniform(key, (), jnp.float32, 0.05, high))

    def reset_env(self, key, params):
        state = WalkState(time=jnp.int32(0), position=jax.random.uniform(key, (), jnp.float32, -0.2, 0.2))
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        position = state.position + 0.2 * action[0] + params.drift * jax.random.normal(key, (), jnp.float32)
        state = WalkState(time=state.time + 1, position=position)
        distance = jnp.abs(position)
        reward = jnp.where(valid, 1 - distance, jnp.float32(0))
        return self.observe(None, state, action, params), state, reward, distance > 1, {"distance": distance}

    def observe(self, key, state, action, params):
        return jnp.stack([state.position, state.time / 7]).astype(jnp.float32)

    def observation_space(self, params=None):
        return gym.spaces.Box(-10.0, 10.0, (2,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


@struct.dataclass
class MeetState(EnvState):
    positions: Any


@dataclasses.dataclass(frozen=True)
class Meet(Environment[MeetState, EnvParams]):
    """Three agents on a ring of five places are paid for standing where agent 0 is; none steps back from place 0."""

    name: ClassVar[str] = "Meet"
    scenarios: ClassVar = {"training": "uniform starts"}
    metrics: ClassVar = {"together": "agents at the place of agent 0 [-]"}
    agents: ClassVar = ("a", "b", "c")

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=9)

    @property
    def passive_action(self):
        return np.ones(3, np.int32)

    def sample_params(self, key, scenario=None):
        return self.default_params

    def reset_env(self, key, params):
        state = MeetState(time=jnp.int32(0), positions=jax.random.randint(key, (3,), 0, 5, jnp.int32))
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        positions = (state.positions + action - 1) % 5
        state = MeetState(time=state.time + 1, positions=positions)
        together = positions == positions[0]
        reward = jnp.where(valid & together, jnp.float32(1), jnp.float32(0))
        metrics = {"together": together.sum(dtype=jnp.int32)}
        return self.observe(None, state, action, params), state, reward, jnp.bool_(False), metrics

    def observe(self, key, state, action, params):
        return jax.nn.one_hot(state.positions, 5, dtype=jnp.float32)

    def action_mask(self, state, params):
        return jnp.stack([state.positions != 0, jnp.ones(3, bool), jnp.ones(3, bool)], axis=1)

    def observation_space(self, params=None):
        return gym.spaces.Box(0.0, 1.0, (5,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Discrete(3)

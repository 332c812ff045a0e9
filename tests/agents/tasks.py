"""Toys for the trainers: one that only memory solves, one with several discrete choices."""

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
class RecallState(EnvState):
    cue: Any


@dataclasses.dataclass(frozen=True)
class Recall(Environment[RecallState, EnvParams]):
    """A cue of +-1 is shown at the first step only; naming its sign pays 1 at the last step."""

    name: ClassVar[str] = "Recall"
    scenarios: ClassVar = {"training": "fair cues"}

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=4)

    @property
    def passive_action(self):
        return np.int32(0)

    def sample_params(self, key, scenario=None):
        return self.default_params

    def reset_env(self, key, params):
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0).astype(jnp.float32)
        state = RecallState(time=jnp.int32(0), cue=cue)
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        state = dataclasses.replace(state, time=state.time + 1)
        last = state.time >= params.max_steps_in_episode
        reward = jnp.where(last & ((action == 1) == (state.cue > 0)), jnp.float32(1), jnp.float32(0))
        return self.observe(None, state, action, params), state, reward, jnp.bool_(False), {}

    def observe(self, key, state, action, params):
        shown = jnp.where(state.time == 0, state.cue, 0.0)
        return jnp.stack([shown, state.time / 4]).astype(jnp.float32)

    def observation_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Discrete(2)


@dataclasses.dataclass(frozen=True)
class Dials(Environment[EnvState, EnvParams]):
    """Two dials, of three and of four positions; the pair (2, 1) pays."""

    name: ClassVar[str] = "Dials"
    scenarios: ClassVar = {"training": "one machine"}

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=5)

    @property
    def passive_action(self):
        return np.zeros(2, np.int32)

    def sample_params(self, key, scenario=None):
        return self.default_params

    def reset_env(self, key, params):
        state = EnvState(time=jnp.int32(0))
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        state = EnvState(time=state.time + 1)
        hit = valid & (action[0] == 2) & (action[1] == 1)
        reward = jnp.where(hit, jnp.float32(1), jnp.float32(0))
        return self.observe(None, state, action, params), state, reward, jnp.bool_(False), {}

    def observe(self, key, state, action, params):
        return jnp.stack([state.time / 5]).astype(jnp.float32)

    def observation_space(self, params=None):
        return gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.MultiDiscrete([3, 4])

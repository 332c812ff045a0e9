"""The gymnax face: six values a step, as gymnax 1.0 has it, or five, as purejaxrl, rejax and older wrappers expect.

gymnax itself is imported only where its space classes are asked for: trainers test them with `isinstance`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from qkd_gym import struct
from qkd_gym.adapters import _door
from qkd_gym.adapters._program import drawn_link
from qkd_gym.envs.core import Environment, EnvParams, Episode, Info, as_key, restart_key


@struct.dataclass
class ScenarioParams(EnvParams):
    """Params that stand for "draw each episode's link from the scenario, with this time limit".

    Trainers hand `env.default_params` to every call. Were that one link, they would silently train on it alone.
    """


@dataclasses.dataclass(frozen=True)
class GymnaxEnv:
    """A functional environment with gymnax's methods; `step` returns
    `(obs, state, reward, terminated, truncated, info)`.

    `params` may be `ScenarioParams` (`default_params`; None is the same with the link's own limit) or the task's own
    `Params`, which fix the link. They count when an episode starts: a running one keeps the link in its state. States
    are `Episode`s and have `.time`. Instances are hashable, and survive `copy.deepcopy` and pickle.
    """

    functional: Environment

    def __post_init__(self) -> None:
        _door.environment(self.functional)

    def reset(self, key: PRNGKeyArray, params: EnvParams | None = None) -> tuple[Array, Episode]:
        """`(observation, state)` of a new episode."""
        return self.functional.reset(key, self._link(key, params))

    def step(self, key: PRNGKeyArray, state: Episode, action: Any, params: EnvParams | None = None) -> Any:
        """One step with auto-reset."""
        return self.functional.step(key, state, self._array(action), self._next_link(key, params))

    def step_env(
        self, key: PRNGKeyArray, state: Episode, action: Any, params: EnvParams | None = None
    ) -> tuple[Array, Episode, Array, Array, Info]:
        """One step without auto-reset and without the limit: `(obs, state, reward, terminated, info)`."""
        obs, after, reward, terminated, _, info = self.functional.advance(key, state, self._array(action))
        return obs, after, reward, terminated, info

    def reset_env(self, key: PRNGKeyArray, params: EnvParams | None = None) -> tuple[Array, Episode]:
        return self.reset(key, params)

    def is_truncated(self, state: Episode, params: EnvParams | None = None) -> Array:
        return self.functional.is_truncated(state.state, state.params)

    def action_mask(self, state: Episode, params: EnvParams | None = None) -> Array | None:
        """Legal actions of a running episode; None if all always are."""
        return self.functional.mask(state)

    @property
    def default_params(self) -> ScenarioParams:
        return ScenarioParams(max_steps_in_episode=_limit(self.functional))

    @property
    def name(self) -> str:
        return f"{self.functional.name}-v{self.functional.version}"

    @property
    def num_actions(self) -> int:
        """Of a discrete task, its actions; of a continuous one, its components, as in gymnax."""
        space = self.functional.action_space()
        return int(space.n) if isinstance(space, gym.spaces.Discrete) else math.prod(space.shape or ())

    def action_space(self, params: EnvParams | None = None) -> Any:
        """gymnax's own `Box`, `Discrete`, or (for MultiDiscrete) a `Tuple` of `Discrete`."""
        return _space(self.functional.action_space())

    def observation_space(self, params: EnvParams | None = None) -> Any:
        """gymnax's own `Box`."""
        return _space(self.functional.observation_space())

    def _array(self, action: Any) -> Array:
        """Actions of gymnax's `Tuple` come as a tuple, and some trainers squeeze the axis of a single component."""
        array = jnp.stack(action, axis=-1) if isinstance(action, tuple | list) else jnp.asarray(action)
        shape = self.functional.action_space().shape or ()
        return array.reshape(shape) if array.size == math.prod(shape) else array

    def _link(self, key: PRNGKeyArray, params: EnvParams | None) -> Any:
        if isinstance(params, ScenarioParams):
            return drawn_link(self.functional, key, jnp.asarray(params.max_steps_in_episode, jnp.int32))
        if params is not None and not isinstance(params, type(self.functional.default_params)):
            raise TypeError(
                f"params are {type(params).__name__}; {self.functional.name} takes "
                f"{type(self.functional.default_params).__name__} or ScenarioParams"
            )
        return params

    def _next_link(self, key: PRNGKeyArray, params: EnvParams | None) -> Any:
        """The link that follows if this step ends the episode: `Environment.step` resets with the `restart_key`."""
        if not isinstance(params, ScenarioParams):
            return self._link(key, params)
        return self._link(restart_key(as_key(key)), params)


@dataclasses.dataclass(frozen=True)
class GymnaxFiveValueEnv(GymnaxEnv):
    """`GymnaxEnv` whose `step` returns `(obs, state, reward, done, info)`; `info` still tells the two ends apart."""

    def step(self, key: PRNGKeyArray, state: Episode, action: Any, params: EnvParams | None = None) -> Any:
        """One step with auto-reset."""
        obs, after, reward, terminated, truncated, info = super().step(key, state, action, params)
        return obs, after, reward, terminated | truncated, info


def make_gymnax(
    env_id: str | Environment, *, five_values: bool = False, scenario: str | None = None, **fields: Any
) -> tuple[GymnaxEnv, ScenarioParams]:
    """`(env, params)`, as `gymnax.make` returns them. `scenario` and `fields` are the task's constructor's."""
    face = GymnaxFiveValueEnv if five_values else GymnaxEnv
    env = face(_door.environment(env_id, scenario=scenario, **fields))
    return env, env.default_params


@functools.lru_cache(maxsize=64)
def _limit(env: Environment) -> int:
    with jax.ensure_compile_time_eval():
        return int(env.sample_params(jax.random.key(0)).max_steps_in_episode)


def _space(space: gym.Space) -> Any:
    try:
        from gymnax.environments import spaces  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "spaces of the gymnax face are gymnax's own; install it with: pip install gymnax six"
        ) from error
    if isinstance(space, gym.spaces.Box):
        return spaces.Box(_bound(space.low), _bound(space.high), space.shape, jnp.dtype(space.dtype))
    if isinstance(space, gym.spaces.Discrete):
        if space.start != 0:
            raise TypeError(f"gymnax's Discrete starts at 0, and this one at {space.start}")
        return spaces.Discrete(int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete):
        return spaces.Tuple([spaces.Discrete(int(n)) for n in space.nvec.reshape(-1)])
    raise TypeError(f"gymnax has no counterpart of {type(space).__name__}")


def _bound(values: np.ndarray) -> float | np.ndarray:
    """One number where all components share it, as gymnax's own tasks have it."""
    return float(values.flat[0]) if (values == values.flat[0]).all() else values

"""The JaxMARL face: dictionaries keyed by agent, pure functions, auto-reset inside `step`.

JaxMARL is never imported by the dynamics. Where it is installed, spaces are its own classes, for its trainers test them
with `isinstance`; elsewhere they are the small ones below, with the same attributes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from qkd_gym.adapters import _door
from qkd_gym.adapters._program import drawn_link
from qkd_gym.envs.centralised import joint_view
from qkd_gym.envs.core import Environment, Episode, Info, as_key, restart_key, select

ALL = "__all__"


@dataclasses.dataclass(frozen=True)
class JaxMARLEnv:
    """A functional multi-agent environment with the methods of JaxMARL's `MultiAgentEnv`.

    Values that JaxMARL keeps per agent are dictionaries. `infos` holds arrays `(agents,)`, the shape that JaxMARL's
    trainers reshape them to: the task's metrics (a common one is repeated), and ``"terminated"``, ``"truncated"`` and
    ``"discount"``, for `dones` does not tell the two ends apart. `state` is an `Episode` and keeps its link. Everything
    is pure, for `jit`, `vmap` and `scan`; instances are hashable.

    Args:
        functional: the environment, with `agents`; `reset` draws links from its scenario.
        max_steps_in_episode: the time limit of every link; None leaves the link's own.
        final_observation: also give ``infos["final_observation"]``, `(agents, ...)`, what the step led to before an
            auto-reset. Off, because most of JaxMARL's trainers take no info of that shape.
    """

    functional: Environment
    max_steps_in_episode: int | None = None
    final_observation: bool = False

    def __post_init__(self) -> None:
        _door.joint_environment(self.functional)
        _door.time_limit(self.max_steps_in_episode, "max_steps_in_episode")

    # ---- JaxMARL's interface -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return f"{self.functional.name}-v{self.functional.version}"

    @property
    def num_agents(self) -> int:
        return self.functional.num_agents

    @property
    def agents(self) -> list[str]:
        return list(self.functional.agents)

    @property
    def agent_classes(self) -> dict[str, list[str]]:
        """All agents are of one class: they may share a policy."""
        return {"agent": self.agents}

    @property
    def observation_spaces(self) -> dict[str, Any]:
        return {agent: self.observation_space(agent) for agent in self.agents}

    @property
    def action_spaces(self) -> dict[str, Any]:
        return {agent: self.action_space(agent) for agent in self.agents}

    def observation_space(self, agent: str) -> Any:
        self._known(agent)
        return _space(self.functional.observation_space())

    def action_space(self, agent: str) -> Any:
        self._known(agent)
        return _space(self.functional.action_space())

    def reset(self, key: PRNGKeyArray) -> tuple[dict[str, Array], Episode]:
        """`(observations, state)` of a new episode."""
        obs, episode = self.functional.reset(key, self._link(key))
        return self._split(obs), episode

    def step(
        self, key: PRNGKeyArray, state: Episode, actions: Mapping[str, Array], reset_state: Episode | None = None
    ) -> tuple[dict[str, Array], Episode, dict[str, Array], dict[str, Array], Info]:
        """One step with auto-reset: `(observations, state, rewards, dones, infos)`.

        Where the episode ends, observations and state are the next one's first: of `reset_state`, or of a new episode
        whose key is the functional environment's `restart_key(key)`.
        """
        key = as_key(key)
        obs, running, rewards, dones, infos = self.step_env(key, state, actions)
        if reset_state is None:
            fresh = self.reset(restart_key(key))
        else:
            fresh = self.get_obs(reset_state), reset_state
        obs, state = select(dones[ALL], fresh, (obs, running))
        return obs, state, rewards, dones, infos

    def step_env(
        self, key: PRNGKeyArray, state: Episode, actions: Mapping[str, Array]
    ) -> tuple[dict[str, Array], Episode, dict[str, Array], dict[str, Array], Info]:
        """One step without auto-reset. The time limit counts as the end, as in JaxMARL's own tasks."""
        obs, running, reward, terminated, truncated, info = self.functional.advance(key, state, self._joint(actions))
        dones = dict.fromkeys((*self.functional.agents, ALL), terminated | truncated)
        last = info.pop("final_observation")
        infos = {
            name: jnp.broadcast_to(value, (self.num_agents,)) for name, value in info.items() if self._is_told(value)
        }
        if self.final_observation:
            infos["final_observation"] = last
        return self._split(obs), running, self._split(reward), dones, infos

    def get_obs(self, state: Episode) -> dict[str, Array]:
        """Observations in a state that a reset gave."""
        return self._split(self.functional.observe(None, state.state, None, state.params))

    def get_avail_actions(self, state: Episode) -> dict[str, Bool[Array, " choices"]]:
        """Legal choices of each agent; all True in a task without masks."""
        mask = self.functional.mask(state)
        if mask is None:
            space = self.functional.action_space()
            if isinstance(space, gym.spaces.Box):
                raise ValueError(f"only discrete actions have masks, and those of {self.name} are {space}")
            choices = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.sum(space.nvec))  # type: ignore[union-attr]
            mask = jnp.ones((self.num_agents, choices), bool)
        return self._split(mask)

    # ---- beyond JaxMARL ----------------------------------------------------------------------------------------------

    def world_state(self, state: Episode) -> Float[Array, "..."]:
        """The whole in one array, for a centralised critic: the task's `GlobalView`, or all observations joined."""
        obs = self.functional.observe(None, state.state, None, state.params)
        return joint_view(self.functional, obs, state.state, state.params)

    # ---- private -----------------------------------------------------------------------------------------------------

    def _known(self, agent: str) -> None:
        if agent not in self.functional.agents:
            names = _door.shortened(self.functional.agents)
            raise ValueError(f"there is no agent {agent!r}; the {self.num_agents} agents are: {names}")

    def _link(self, key: PRNGKeyArray) -> Any:
        if self.max_steps_in_episode is None:
            return None
        return drawn_link(self.functional, key, jnp.int32(self.max_steps_in_episode))

    def _split(self, values: Array) -> dict[str, Array]:
        return {agent: values[i] for i, agent in enumerate(self.functional.agents)}

    def _joint(self, actions: Mapping[str, Array]) -> Array:
        """The agents' actions `(agents, ...)`. Some trainers leave an axis of one, or squeeze it."""
        missing = tuple(agent for agent in self.functional.agents if agent not in actions)
        if missing:
            raise ValueError(f"{len(missing)} agents have no action: {_door.shortened(missing)}; all act in each step")
        shape = self.functional.action_space().shape or ()
        columns = [jnp.asarray(actions[agent]) for agent in self.functional.agents]
        return jnp.stack([a.reshape(shape) if a.size == math.prod(shape) else a for a in columns])

    def _is_told(self, value: Array) -> bool:
        return value.shape in ((), (self.num_agents,))


def make_jaxmarl(
    env_id: str | Environment,
    *,
    scenario: str | None = None,
    max_steps_in_episode: int | None = None,
    final_observation: bool = False,
    **fields: Any,
) -> JaxMARLEnv:
    """A task by its id, or an environment, with JaxMARL's methods; `scenario` and `fields` are its constructor's."""
    env = _door.joint_environment(env_id, scenario=scenario, **fields)
    return JaxMARLEnv(env, max_steps_in_episode, final_observation)


# ---- spaces ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Choices 0 ... n - 1."""

    n: int
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.int32

    def sample(self, key: PRNGKeyArray) -> Array:
        return jax.random.randint(key, self.shape, 0, self.n, self.dtype)

    def contains(self, x: Array) -> Array:
        return (x >= 0) & (x < self.n)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several choices at once."""

    num_categories: tuple[int, ...]
    dtype: Any = jnp.int32

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.num_categories),)

    def sample(self, key: PRNGKeyArray) -> Array:
        return jax.random.randint(key, self.shape, 0, jnp.array(self.num_categories, self.dtype), self.dtype)

    def contains(self, x: Array) -> Array:
        return jnp.all((x >= 0) & (x < jnp.array(self.num_categories, x.dtype)))


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Arrays between two bounds."""

    low: Any
    high: Any
    shape: tuple[int, ...]
    dtype: Any = jnp.float32

    def sample(self, key: PRNGKeyArray) -> Array:
        low, high = (jnp.broadcast_to(jnp.asarray(bound, self.dtype), self.shape) for bound in (self.low, self.high))
        return jax.random.uniform(key, self.shape, self.dtype, low, high)

    def contains(self, x: Array) -> Array:
        return jnp.all((x >= self.low) & (x <= self.high))


@functools.cache
def _space_classes() -> tuple[Any, Any, Any]:
    try:
        theirs = importlib.import_module("jaxmarl.environments.spaces")
    except ImportError:
        return Box, Discrete, MultiDiscrete
    return theirs.Box, theirs.Discrete, theirs.MultiDiscrete


def _space(space: gym.Space) -> Any:
    box, discrete, multi = _space_classes()
    if isinstance(space, gym.spaces.Box):
        low, high = (_bound(bound) for bound in (space.low, space.high))
        return box(low, high, space.shape, jnp.float32)
    if isinstance(space, gym.spaces.Discrete):
        if space.start != 0:
            raise TypeError(f"JaxMARL's Discrete starts at 0, and this one at {space.start}")
        return discrete(int(space.n))
    if isinstance(space, gym.spaces.MultiDiscrete):
        return multi(tuple(int(n) for n in space.nvec.reshape(-1)))
    raise TypeError(f"JaxMARL has no counterpart of {type(space).__name__}")


def _bound(values: np.ndarray) -> float | np.ndarray:
    """One number where all components share it, as JaxMARL's own tasks have it."""
    return float(values.flat[0]) if (values == values.flat[0]).all() else values

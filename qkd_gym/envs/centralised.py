"""One controller for all agents: a multi-agent task as a single-agent one.

The joint observation is what a network's control centre sees: every agent's observation side by side, or, where the
task has one, its own view of the whole (`GlobalView`), which need not repeat what several agents see.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from qkd_gym.envs.core import Environment, Info


@runtime_checkable
class GlobalView(Protocol):
    """What a multi-agent task may offer beside the agents' observations: one observation of the whole.

    It is an observation, not the hidden truth: what a control centre could know. Pure, float32, of a fixed shape.
    """

    def global_view(self, state: Any, params: Any) -> Float[Array, "..."]:
        """The view in `state`, as `global_view_space` says."""
        ...

    def global_view_space(self, params: Any = None) -> gym.spaces.Box:
        """Space of `global_view`, float32, bounded."""
        ...


def joint_space(env: Environment) -> gym.spaces.Box:
    """Space of `joint_view`."""
    if isinstance(env, GlobalView):
        return env.global_view_space()
    space = env.observation_space()
    if not isinstance(space, gym.spaces.Box):
        raise TypeError(f"observations of {env.name} must be Box to be joined, not {type(space).__name__}")
    return _repeated(space, env.num_agents)


def joint_view(env: Environment, obs: Array, state: Any, params: Any) -> Float[Array, "..."]:
    """What one controller of all agents sees: the task's `GlobalView`, or else `obs` `(agents, ...)` in one vector."""
    if isinstance(env, GlobalView):
        return env.global_view(state, params)
    return obs.reshape(-1)


@dataclasses.dataclass(frozen=True, init=False)
class Centralised(Environment[Any, Any]):
    """A multi-agent task with one controller in the place of all its agents, itself an `Environment`.

    Observation: `joint_view`. Action: those of the agents in their order, as `MultiDiscrete` (agents that choose, from
    0) or `Box` (agents that set knobs). Mask: those of the agents behind each other, as for any `MultiDiscrete`.
    Reward: the mean over the agents, which is how evaluations count a team, so returns of both forms compare. A metric
    of each agent becomes its mean. Name, version, scenarios, links and dynamics are the task's own.

    Args:
        env: the multi-agent task.
        scenario: in the place of `env`'s own; None keeps that.
    """

    env: Environment = dataclasses.field(kw_only=True)

    def __new__(cls, env: Environment, scenario: str | None = None) -> Centralised:
        # Name, scenarios and metrics are the class's by contract, so each task gets a class.
        return object.__new__(_class_for(type(env)) if cls is Centralised else cls)

    def __init__(self, env: Environment, scenario: str | None = None) -> None:
        if not env.agents:
            raise ValueError(f"{env.id} has one agent already: there is nothing to centralise")
        scenario = env.scenario if scenario is None else scenario
        object.__setattr__(self, "scenario", scenario)
        object.__setattr__(self, "env", dataclasses.replace(env, scenario=scenario))
        self.__post_init__()

    def __reduce__(self) -> tuple[Any, ...]:
        return Centralised, (self.env, self.scenario)

    @property
    def default_params(self) -> Any:
        return self.env.default_params

    @property
    def passive_action(self) -> np.ndarray:
        return (np.asarray(self.env.passive_action) - _start(self.env)).reshape(-1)

    def sample_params(self, key: PRNGKeyArray, scenario: str | None = None) -> Any:
        return self.env.sample_params(key, scenario)

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, Any]:
        obs, state = self.env.reset_env(key, params)
        return joint_view(self.env, obs, state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: Any, action: Array, params: Any
    ) -> tuple[Array, Any, Float[Array, ""], Bool[Array, ""], Info]:
        actions = self.separate(jnp.asarray(action))
        obs, state, reward, terminated, metrics = self.env.step_env(key, state, actions, params)
        team = {name: self._of_team(name, value) for name, value in metrics.items()}
        return joint_view(self.env, obs, state, params), state, reward.mean(), terminated, team

    def observe(self, key: PRNGKeyArray | None, state: Any, action: Array | None, params: Any) -> Array:
        actions = None if action is None else self.separate(jnp.asarray(action))
        return joint_view(self.env, self.env.observe(key, state, actions, params), state, params)

    def observation_space(self, params: Any = None) -> gym.spaces.Box:
        return joint_space(self.env)

    def action_space(self, params: Any = None) -> gym.spaces.Box | gym.spaces.MultiDiscrete:
        space, agents = self.env.action_space(params), self.env.num_agents
        if isinstance(space, gym.spaces.Box):
            return _repeated(space, agents)
        if isinstance(space, gym.spaces.Discrete):
            return gym.spaces.MultiDiscrete(np.full(agents, space.n))
        if isinstance(space, gym.spaces.MultiDiscrete):
            return gym.spaces.MultiDiscrete(np.tile(space.nvec.reshape(-1), agents))
        raise TypeError(f"actions of {self.name} must be Box, Discrete or MultiDiscrete, not {type(space).__name__}")

    def is_truncated(self, state: Any, params: Any) -> Bool[Array, ""]:
        return self.env.is_truncated(state, params)

    def action_mask(self, state: Any, params: Any) -> Bool[Array, " choices"] | None:
        mask = self.env.action_mask(state, params)
        return None if mask is None else mask.reshape(-1)

    def exogenous(self, state: Any, params: Any) -> Any:
        return self.env.exogenous(state, params)

    def separate(self, action: Any) -> Any:
        """The agents' own actions, `(agents, ...)`, out of a joint one; of NumPy or JAX."""
        return action.reshape(np.shape(self.env.passive_action)) + _start(self.env)

    def _of_team(self, name: str, value: Array) -> Array:
        per_agent = name in self.metrics and value.shape == (self.env.num_agents,)
        return value.astype(jnp.float32).mean() if per_agent else value


def _start(env: Environment) -> int:
    """The first action of an agent that chooses; 0 for knobs."""
    space = env.action_space()
    return int(space.start) if isinstance(space, gym.spaces.Discrete) else 0


def _repeated(space: gym.spaces.Box, agents: int) -> gym.spaces.Box:
    """The space of `agents` vectors behind each other."""
    low, high = (np.tile(bound.reshape(-1), agents) for bound in (space.low, space.high))
    return gym.spaces.Box(low, high, dtype=space.dtype.type)  # type: ignore[union-attr]


@functools.cache
def _class_for(task: type[Environment]) -> type[Centralised]:
    contents = {
        "__doc__": task.__doc__,
        "__module__": __name__,
        "name": task.name,
        "version": task.version,
        "scenarios": task.scenarios,
        "metrics": task.metrics,
    }
    return abc.ABCMeta(f"Centralised{task.__name__}", (Centralised,), contents)

"""The contract of an environment: decision problems as pure functions.

An author writes `reset_env`, `step_env`, `observe`, `sample_params` and the two spaces. Everything that an ecosystem
needs (auto-reset, batches, truncation, a uniform `info`) is derived here, once, and is final.

Multi-agent tasks obey the same contract with a leading agent axis: observations, actions, rewards and masks are
`(agents, ...)`; `terminated` and `truncated` stay scalars, because all agents live to the joint end.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar, final

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from qkd_gym import struct

ParamsT = TypeVar("ParamsT", bound="EnvParams")
StateT = TypeVar("StateT", bound="EnvState")
Info = dict[str, Any]

#: Keys that every `info` holds, from the first step on, beside the task's own metrics.
STANDARD_INFO = ("terminated", "truncated", "final_observation", "discount")


@struct.dataclass
class EnvParams:
    """Physical constants of one link. Every field is a leaf, so links can be stacked and mapped over."""

    max_steps_in_episode: int = struct.field(1000, low=1, high=2**31 - 1, unit="step", doc="time limit of an episode")


@struct.dataclass
class EnvState:
    """What a step carries over. Subclasses add their fields; all are strongly typed arrays."""

    time: Any  # int32, steps since the reset


@struct.dataclass
class Episode:
    """A running episode: its state and the link that it runs on (drawn at the reset, constant until the next one)."""

    state: Any
    params: Any

    @property
    def time(self) -> Array:
        return self.state.time


@dataclasses.dataclass(frozen=True)
class Environment(abc.ABC, Generic[StateT, ParamsT]):
    """A decision problem. Instances are frozen and hashed by value, so they can be static arguments of `jax.jit`.

    Args:
        scenario: the distribution over links that `reset` and auto-reset draw from when no `params` are given.
    """

    scenario: str = "training"

    #: Registered name without namespace, e.g. ``"PolarizationAlignment"``; `version` bumps when behaviour changes.
    name: ClassVar[str]
    version: ClassVar[int] = 0
    #: Scenario name -> one line. ``"training"`` must exist; shifted ones start with ``"ood-"``.
    scenarios: ClassVar[Mapping[str, str]]
    #: The task's scalar entries of `info` -> unit and meaning.
    metrics: ClassVar[Mapping[str, str]] = {}
    #: Names of the agents of a multi-agent task, in the order of the leading axis; empty for a single agent.
    agents: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        self.check_scenario(self.scenario)

    # ---- written by the author of a task: pure, no reset inside, no time limit inside -------------------------------

    @property
    @abc.abstractmethod
    def default_params(self) -> ParamsT:
        """One representative link of the training scenario."""

    @abc.abstractmethod
    def sample_params(self, key: PRNGKeyArray, scenario: str | None = None) -> ParamsT:
        """Draw a link from a scenario (`None`: this environment's own). Pure and mappable over `key`."""

    @abc.abstractmethod
    def reset_env(self, key: PRNGKeyArray, params: ParamsT) -> tuple[Array, StateT]:
        """Start an episode on the link `params`: `(observation, state)`."""

    @abc.abstractmethod
    def step_env(
        self, key: PRNGKeyArray, state: StateT, action: Array, params: ParamsT
    ) -> tuple[Array, StateT, Float[Array, "..."], Bool[Array, ""], Info]:
        """Advance one step: `(observation, state, reward, terminated, metrics)`. Never resets, never truncates."""

    @abc.abstractmethod
    def observe(self, key: PRNGKeyArray | None, state: StateT, action: Array | None, params: ParamsT) -> Array:
        """What the operator sees in `state`; `action` is the one that led here, None on reset."""

    @abc.abstractmethod
    def observation_space(self, params: ParamsT | None = None) -> gym.Space:
        """Space of one agent's observation."""

    @abc.abstractmethod
    def action_space(self, params: ParamsT | None = None) -> gym.Space:
        """Space of one agent's action."""

    @property
    @abc.abstractmethod
    def passive_action(self) -> np.ndarray:
        """The hands-off action: what a link does if nobody touches it."""

    def is_truncated(self, state: StateT, params: ParamsT) -> Bool[Array, ""]:
        """Whether the time limit is reached. `step_env` may ask this of the next state to settle an open block."""
        return state.time >= params.max_steps_in_episode

    def action_mask(self, state: StateT, params: ParamsT) -> Bool[Array, "..."] | None:
        """Legal actions, True where allowed; None if all always are. Whether a task masks depends on no state."""
        return None

    def exogenous(self, state: StateT, params: ParamsT) -> Any:
        """Hidden quantities that no action influences (weather, events), for bounds that know the future; or None."""
        return None

    # ---- derived, final ---------------------------------------------------------------------------------------------

    @property
    @final
    def id(self) -> str:
        """Gymnasium id, e.g. ``"qkd/PolarizationAlignment-v0"``."""
        return f"qkd/{self.name}-v{self.version}"

    @property
    @final
    def num_agents(self) -> int:
        return max(1, len(self.agents))

    @classmethod
    @final
    def check_scenario(cls, scenario: str) -> str:
        if scenario not in cls.scenarios:
            raise ValueError(f"{cls.name} has no scenario {scenario!r}; it has: {', '.join(cls.scenarios)}")
        return scenario

    @final
    def reset(self, key: PRNGKeyArray, params: ParamsT | None = None) -> tuple[Array, Episode]:
        """Start an episode on `params`, or, if None, on a link drawn from the environment's scenario.

        Returns:
            observation, float32, the space's shape (with a leading agent axis for multi-agent tasks);
            the `Episode` to hand to `step`.
        """
        key_link, key_reset = jax.random.split(as_key(key))
        link = strong(self.sample_params(key_link) if params is None else params)
        obs, state = self.reset_env(key_reset, link)
        return obs, Episode(state=state, params=link)

    @final
    def advance(
        self, key: PRNGKeyArray, episode: Episode, action: Array
    ) -> tuple[Array, Episode, Array, Array, Array, Info]:
        """One step without auto-reset: `(observation, episode, reward, terminated, truncated, info)`."""
        params = episode.params
        obs, state, reward, terminated, metrics = self.step_env(as_key(key), episode.state, action, params)
        truncated = self.is_truncated(state, params)
        info = dict(
            metrics,
            terminated=terminated,
            truncated=truncated,
            final_observation=obs,
            discount=jnp.where(terminated, jnp.float32(0), jnp.float32(1)),
        )
        return obs, Episode(state=state, params=params), reward, terminated, truncated, info

    @final
    def step(
        self, key: PRNGKeyArray, episode: Episode, action: Array, params: ParamsT | None = None
    ) -> tuple[Array, Episode, Array, Array, Array, Info]:
        """One step with auto-reset, for one environment.

        The step runs on `key` as `advance` does, and the next episode starts from `restart_key(key)`. If the episode
        ends, the observation and episode returned are the next one's first; the last observation is
        `info["final_observation"]`. `params` is the link of the *next* episode (None: drawn from the scenario); the
        running episode keeps its own.

        Returns:
            `(observation, episode, reward, terminated, truncated, info)`: reward float32 `()`, flags bool `()`.
        """
        key = as_key(key)
        obs, running, reward, terminated, truncated, info = self.advance(key, episode, action)
        obs_reset, fresh = self.reset(restart_key(key), params)
        obs, episode = select(terminated | truncated, (obs_reset, fresh), (obs, running))
        return obs, episode, reward, terminated, truncated, info

    @final
    def reset_batch(self, keys: PRNGKeyArray, params: ParamsT | None = None) -> tuple[Array, Episode]:
        """`reset` of N environments: `keys` is `(N,)`; `params` is None or stacked links with a leading axis N."""
        return jax.vmap(self.reset)(as_key(keys), params)

    @final
    def step_batch(
        self, keys: PRNGKeyArray, episodes: Episode, actions: Array, params: ParamsT | None = None
    ) -> tuple[Array, Episode, Array, Array, Array, Info]:
        """`step` of N environments at once, equal to `vmap(step)`, at the cost of a reset only where one happens.

        Under `vmap` a conditional runs both branches. Here the condition (does any environment end now?) stands
        outside the map.

        Args:
            keys: `(N,)` keys, one an environment. episodes, actions: leading axis N. params: None or stacked links.
        """
        keys = as_key(keys)
        obs, running, reward, terminated, truncated, info = jax.vmap(self.advance)(keys, episodes, actions)
        done = terminated | truncated

        def restart(now: tuple[Array, Episode]) -> tuple[Array, Episode]:
            return jax.vmap(select)(done, self.reset_batch(jax.vmap(restart_key)(keys), params), now)

        obs, episodes = jax.lax.cond(jnp.any(done), restart, lambda now: now, (obs, running))
        return obs, episodes, reward, terminated, truncated, info

    @final
    def mask(self, episode: Episode) -> Bool[Array, "..."] | None:
        """`action_mask` of a running episode."""
        return self.action_mask(episode.state, episode.params)

    @final
    def clean_action(self, action: Array) -> tuple[Array, Bool[Array, ""]]:
        """Bring an action into its space and say whether it was valid, without leaving the compiled program.

        Continuous components are clipped to the bounds (the documented convention); NaN or infinity becomes the
        middle of the range. Discrete components are clipped to the allowed indices. `valid` is False where a
        component was not finite or an index was out of range; a task credits no key for such a step.
        """
        space = self.action_space()
        if isinstance(space, gym.spaces.Box):
            action = jnp.asarray(action, jnp.float32)
            low, high = (jnp.broadcast_to(jnp.asarray(bound), action.shape) for bound in (space.low, space.high))
            finite = jnp.isfinite(action)
            cleaned = jnp.where(finite, jnp.clip(action, low, high), (low + high) / 2)
            axes = tuple(range(finite.ndim - len(space.shape), finite.ndim))
            return cleaned, jnp.all(finite, axis=axes)
        if isinstance(space, gym.spaces.Discrete):
            action = jnp.asarray(action, jnp.int32)
            start, n = int(space.start), int(space.n)
            return jnp.clip(action, start, start + n - 1), (action >= start) & (action < start + n)
        if isinstance(space, gym.spaces.MultiDiscrete):
            action = jnp.asarray(action, jnp.int32)
            n = jnp.broadcast_to(jnp.asarray(space.nvec, jnp.int32), action.shape)
            return jnp.clip(action, 0, n - 1), jnp.all((action >= 0) & (action < n), axis=-1)
        raise TypeError(f"actions of {self.name} must be Box, Discrete or MultiDiscrete, not {type(space).__name__}")


def restart_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """Key of the next episode, apart from any that a task derives by `split` from the step's own."""
    return jax.random.fold_in(key, 0x5EED_0FF)


def as_key(key: Any) -> PRNGKeyArray:
    """Typed keys as they are; raw `jax.random.PRNGKey` arrays (uint32, trailing axis 2) as typed keys."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def strong(tree: Any) -> Any:
    """Leaves as strongly typed arrays: float32, int32 or bool, whatever the precision of the caller."""

    def cast(leaf: Any) -> Array:
        kind = jnp.result_type(leaf)
        if kind == jnp.bool_:
            return jnp.asarray(leaf, jnp.bool_)
        return jnp.asarray(leaf, jnp.int32 if jnp.issubdtype(kind, jnp.integer) else jnp.float32)

    return jax.tree.map(cast, tree)


def select(condition: Bool[Array, ""], if_true: Any, if_false: Any) -> Any:
    """Leafwise choice between two pytrees of one structure. Leaves that are one and the same array pass untouched."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), if_true, if_false)

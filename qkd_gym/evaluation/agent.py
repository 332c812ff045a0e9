"""What an agent is: pure functions, so that an evaluation is one compiled scan over all its episodes.

An `Agent` gets observations and masks, nothing else. A `PrivilegedAgent` (an oracle, a bound) is handed the hidden
state; the difference is one of type, so that no ranked entry can be privileged by mistake.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from qkd_gym.envs.core import Environment, Episode
from qkd_gym.physics.sampling import step_noise

CarryT = TypeVar("CarryT")

#: Roles in the order of the leaderboard's lines.
ROLES = ("random", "passive", "practice", "learned", "ceiling", "oracle")


@dataclasses.dataclass(frozen=True)
class Agent(abc.ABC, Generic[CarryT]):
    """A policy with memory. Pure and mappable: the runner calls `vmap(init)` once and `vmap(act)` in a loop.

    An agent that holds arrays is a `struct.dataclass` (a pytree); any other is a hashable frozen dataclass.
    In a multi-agent task one agent acts for all: observations, masks and actions have the leading agent axis.
    """

    role: ClassVar[str] = "practice"

    @property
    def label(self) -> str:
        """Name in tables."""
        return type(self).__name__

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, env: Environment, params: Any) -> CarryT:
        """Memory at the start of an episode. `params` are the task's public defaults, never this link's values."""

    @abc.abstractmethod
    def act(self, key: PRNGKeyArray, carry: CarryT, obs: Array, mask: Array | None) -> tuple[Array, CarryT]:
        """`(action, carry)` for one observation of one episode."""


@dataclasses.dataclass(frozen=True)
class PrivilegedAgent(abc.ABC, Generic[CarryT]):
    """A yardstick that sees the truth: an oracle, or a ceiling that is told the unit's constants. Never ranked."""

    role: ClassVar[str] = "oracle"

    @property
    def label(self) -> str:
        return type(self).__name__

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, env: Environment, params: Any, trace: Any) -> CarryT:
        """Memory at the start of an episode on the true link `params`. `trace` is `env.exogenous` of this very
        episode, or None for tasks without one: entry `t` (leading axis, time limit + 1 entries) belongs to the state
        whose `time` is `t`, so what happens *during* the step taken at time `t` is found in entry `t + 1`."""

    @abc.abstractmethod
    def act(
        self, key: PRNGKeyArray, carry: CarryT, obs: Array, mask: Array | None, episode: Episode
    ) -> tuple[Array, CarryT]:
        """`(action, carry)`, with the hidden state in `episode`."""


@dataclasses.dataclass(frozen=True)
class RandomAgent(Agent[None]):
    """Uniform over the legal actions."""

    space: Any = dataclasses.field(default=None, compare=False)
    agents: int = 0  # of a multi-agent task; 0: a single agent
    role: ClassVar[str] = "random"

    @classmethod
    def of(cls, env: Environment) -> RandomAgent:
        return cls(space=env.action_space(), agents=len(env.agents))

    def init(self, key, env, params):
        return None

    def act(self, key, carry, obs, mask):
        if not self.agents:
            return sample_action(key, self.space, mask), None
        keys = jax.random.split(key, self.agents)
        return jax.vmap(lambda key, mask: sample_action(key, self.space, mask))(keys, mask), None


@dataclasses.dataclass(frozen=True)
class PassiveAgent(Agent[None]):
    """Hands off: the task's `passive_action` at every step."""

    action: tuple = ()
    role: ClassVar[str] = "passive"

    @classmethod
    def of(cls, env: Environment) -> PassiveAgent:
        action = np.asarray(env.passive_action)
        return cls(action=(action.dtype.str, action.shape, tuple(action.ravel().tolist())))

    def init(self, key, env, params):
        return None

    def act(self, key, carry, obs, mask):
        dtype, shape, values = self.action
        return jnp.asarray(np.array(values, dtype).reshape(shape)), None


def sample_action(key: PRNGKeyArray, space: Any, mask: Array | None = None) -> Array:
    """A uniform draw from a Box, Discrete or MultiDiscrete space, with a mask among the legal choices.

    Args:
        mask: `(n,)` of a Discrete space; of a MultiDiscrete one those of its components behind each other.
    """
    import gymnasium as gym

    if isinstance(space, gym.spaces.Box):
        _, uniforms = step_noise(key, 0, math.prod(space.shape))
        low, high = jnp.asarray(space.low), jnp.asarray(space.high)
        return low + (high - low) * jnp.stack(uniforms).reshape(space.shape)
    if isinstance(space, gym.spaces.Discrete):
        if mask is not None:
            return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)).astype(jnp.int32) + int(space.start)
        return jax.random.randint(key, (), int(space.start), int(space.start + space.n), jnp.int32)
    if isinstance(space, gym.spaces.MultiDiscrete):
        if mask is not None:
            odds = jnp.where(mask, jax.random.gumbel(key, mask.shape, jnp.float32), -jnp.inf)
            parts = jnp.split(odds, np.cumsum(space.nvec.reshape(-1))[:-1])
            return jnp.stack([jnp.argmax(part) for part in parts]).astype(jnp.int32).reshape(space.nvec.shape)
        return jax.random.randint(key, space.nvec.shape, 0, jnp.asarray(space.nvec, jnp.int32), jnp.int32)
    raise TypeError(f"cannot sample from {type(space).__name__}")

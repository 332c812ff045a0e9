"""More toys: discrete and multi-discrete actions, masks, metrics of every kind, an early end; two agents with knobs."""

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
class TokenParams(EnvParams):
    max_steps_in_episode: int = struct.field(11, low=1, unit="step")
    luck: float = struct.field(0.8, low=0.0, high=1.0, doc="chance that a payment goes through")


@struct.dataclass
class TokenState(EnvState):
    tokens: Any
    paid: Any


@dataclasses.dataclass(frozen=True)
class Token(Environment[TokenState, TokenParams]):
    """Wait for tokens, pay them (needs one), or leave: leaving ends the episode."""

    size: int = 3

    name: ClassVar[str] = "Token"
    scenarios: ClassVar = {"training": "lucky links", "ood-unlucky": "unlucky links"}
    metrics: ClassVar = {"paid": "payments in this step [-]", "rich": "two tokens or more", "share": "tokens / size"}

    @property
    def default_params(self):
        return TokenParams()

    @property
    def passive_action(self):
        return np.int32(0)

    def sample_params(self, key, scenario=None):
        low, high = (0.0, 0.3) if (scenario or self.scenario) == "ood-unlucky" else (0.5, 1.0)
        return TokenParams(luck=jax.random.uniform(key, (), jnp.float32, low, high))

    def reset_env(self, key, params):
        state = TokenState(time=jnp.int32(0), tokens=jax.random.randint(key, (), 0, 2, jnp.int32), paid=jnp.int32(0))
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        luck = jax.random.uniform(key, (2,), jnp.float32)
        pays = valid & (action == 1) & (state.tokens > 0)
        paid = (pays & (luck[0] < params.luck)).astype(jnp.int32)
        tokens = jnp.clip(state.tokens - pays + (luck[1] < 0.5), 0, self.size)
        state = TokenState(time=state.time + 1, tokens=tokens, paid=state.paid + paid)
        metrics = {"paid": paid, "rich": tokens >= 2, "share": tokens / jnp.float32(self.size)}
        reward = jnp.where(paid > 0, jnp.float32(1), jnp.float32(0))
        return self.observe(None, state, action, params), state, reward, valid & (action == 2), metrics

    def observe(self, key, state, action, params):
        return jax.nn.one_hot(state.tokens, self.size + 1, dtype=jnp.float32)

    def action_mask(self, state, params):
        return jnp.stack([jnp.bool_(True), state.tokens > 0, state.time > 1])

    def observation_space(self, params=None):
        return gym.spaces.Box(0.0, 1.0, (self.size + 1,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Discrete(3)


@struct.dataclass
class DialState(EnvState):
    dials: Any


@dataclasses.dataclass(frozen=True)
class Dials(Environment[DialState, EnvParams]):
    """Two dials of three and two positions; each is paid for standing at zero. Metrics hold an array."""

    name: ClassVar[str] = "Dials"
    scenarios: ClassVar = {"training": "uniform starts"}
    metrics: ClassVar = {}

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=6)

    @property
    def passive_action(self):
        return np.zeros(2, np.int32)

    def sample_params(self, key, scenario=None):
        return self.default_params

    def reset_env(self, key, params):
        dials = (jax.random.uniform(key, (2,), jnp.float32) * jnp.array([3.0, 2.0], jnp.float32)).astype(jnp.int32)
        state = DialState(time=jnp.int32(0), dials=dials)
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        dials = (state.dials + action) % jnp.array([3, 2], jnp.int32)
        state = DialState(time=state.time + 1, dials=dials)
        zero = (dials == 0).astype(jnp.int32)
        reward = jnp.where(valid, zero.sum(dtype=jnp.int32).astype(jnp.float32), jnp.float32(0))
        return self.observe(None, state, action, params), state, reward, jnp.bool_(False), {"at_zero": zero}

    def observe(self, key, state, action, params):
        return state.dials.astype(jnp.float32)

    def observation_space(self, params=None):
        return gym.spaces.Box(0.0, 2.0, (2,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.MultiDiscrete([3, 2])


@struct.dataclass
class PushState(EnvState):
    places: Any


@dataclasses.dataclass(frozen=True)
class Pushers(Environment[PushState, TokenParams]):
    """Two agents push themselves over a square; their meeting ends the episode. Knobs, no mask, a view of the whole."""

    name: ClassVar[str] = "Pushers"
    scenarios: ClassVar = {"training": "light and heavy ones", "ood-light": "light ones"}
    metrics: ClassVar = {
        "distance": "between the two [-]",
        "reach": "each one's distance from the middle [-]",
        "near": "closer than 1",
    }
    agents: ClassVar = ("pusher_0", "pusher_1")

    @property
    def default_params(self):
        return TokenParams(max_steps_in_episode=8)

    @property
    def passive_action(self):
        return np.zeros((2, 2), np.float32)

    def sample_params(self, key, scenario=None):
        low = 0.9 if (scenario or self.scenario) == "ood-light" else 0.2
        luck = jax.random.uniform(key, (), jnp.float32, low, 1.0)
        return TokenParams(luck=luck, max_steps_in_episode=8)

    def reset_env(self, key, params):
        places = jax.random.uniform(key, (2, 2), jnp.float32, -1.0, 1.0)
        state = PushState(time=jnp.int32(0), places=places)
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        places = jnp.clip(state.places + params.luck * action, -1.0, 1.0)
        state = PushState(time=state.time + 1, places=places)
        distance = jnp.sqrt(jnp.sum((places[0] - places[1]) ** 2))
        reach = jnp.sqrt(jnp.sum(places**2, axis=1))
        metrics = {"distance": distance, "near": distance < 1, "reach": reach, "places": places}
        reward = jnp.where(valid, reach, jnp.float32(0))
        return self.observe(None, state, action, params), state, reward, distance < 0.5, metrics

    def observe(self, key, state, action, params):
        return state.places

    def global_view(self, state, params):
        return jnp.concatenate([state.places.reshape(-1), state.time.astype(jnp.float32)[None] / 8])

    def global_view_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def observation_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


class Strip:
    """A renderer without a drawing library: the rows of the picture are the steps seen."""

    def __init__(self, env: Environment) -> None:
        self.rows = 0
        self.last: Any = None

    def add(self, episode: Any, action: Any, info: dict[str, Any]) -> None:
        self.rows += 1
        self.last = (episode, action, info)

    def frame(self) -> np.ndarray:
        picture = np.zeros((40, 40, 3), np.uint8)
        picture[: self.rows] = 255
        return picture

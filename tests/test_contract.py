"""Every registered task, and the toys, keep every promise of the contract; and each check catches who does not."""

import dataclasses
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym import registration, struct
from qkd_gym.testing import PROMISES, ConformanceError, check_environment
from tests.adapters.toys import Dials, Token
from tests.toys import Meet, Walk, WalkParams, WalkState


@pytest.mark.parametrize("env", [Walk(), Token(), Dials(), Meet()], ids=lambda env: env.name)
def test_toys_keep_the_contract(env):
    check_environment(env)


@pytest.mark.parametrize("env_id", sorted(registration.TASKS))
def test_tasks_keep_the_contract(env_id):
    check_environment(registration.make(env_id))


class Mutable(Walk):
    """Equal fields, but never equal."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Unbounded(Walk):
    def observation_space(self, params=None):
        return gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Outside(Walk):
    def observation_space(self, params=None):
        return gym.spaces.Box(-0.01, 0.01, (2,), np.float32)


class WideActions(Walk):
    def action_space(self, params=None):
        return gym.spaces.Box(-2.0, 2.0, (1,), np.float32)


class WeakReward(Walk):
    def step_env(self, key, state, action, params):
        obs, state, _, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, jnp.asarray(1.0), terminated, metrics


class WeakState(Walk):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, WalkState(time=state.time, position=jnp.asarray(0.5))


class FloatTime(Walk):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, dataclasses.replace(state, time=state.time.astype(jnp.float32)), reward, terminated, metrics


class Widening(Walk):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, reward, terminated, metrics | {"distance": jnp.arange(3).sum()}


class Undeclared(Walk):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, reward, terminated, metrics | {"speed": reward}


class Missing(Walk):
    metrics: ClassVar = {"distance": "absolute position [-]", "speed": "positions per step [1/step]"}


class Diverging(Walk):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, reward / jnp.float32(0), terminated, metrics


class EarlyReset(Walk):
    """Resets inside `step_env`."""

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        again = state.time >= params.max_steps_in_episode
        state = dataclasses.replace(state, time=jnp.where(again, 0, state.time))
        return obs, state, reward, terminated, metrics


class Coupled(Walk):
    """Pays by the number of calls of Python, so that no two programs agree."""

    calls: ClassVar[list] = []

    def step_env(self, key, state, action, params):
        self.calls.append(1)
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, reward + jnp.float32(len(self.calls)), terminated, metrics


class Deaf(Walk):
    """Ignores its key."""

    def sample_params(self, key, scenario=None):
        return WalkParams()

    def reset_env(self, key, params):
        return super().reset_env(jax.random.key(0, impl="threefry2x32"), params)


class Branching(Walk):
    """Changes the type of its state from the first step to the later ones."""

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, dataclasses.replace(state, position=state.position.astype(jnp.float16)), reward, terminated, metrics


class Gullible(Walk):
    def step_env(self, key, state, action, params):
        obs, state, _, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, jnp.float32(1), terminated, metrics


class Poisoned(Walk):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, dataclasses.replace(state, position=action[0].astype(jnp.float32)), reward, terminated, metrics


class OwnLimit(Walk):
    def is_truncated(self, state, params):
        return state.time > params.max_steps_in_episode


@struct.dataclass
class StaticParams(WalkParams):
    kind: int = struct.field(1, static=True)


class Static(Walk):
    @property
    def default_params(self):
        return StaticParams()

    def sample_params(self, key, scenario=None):
        return StaticParams(drift=jax.random.uniform(key, (), jnp.float32))


@struct.dataclass
class SizedParams(WalkParams):
    """Derives a static size from a value, so that each value is a program of its own."""

    size: int = struct.field(0, static=True)

    def __post_init__(self):
        if not isinstance(self.max_steps_in_episode, jax.core.Tracer):
            object.__setattr__(self, "size", int(np.max(self.max_steps_in_episode)))


class Sized(Walk):
    @property
    def default_params(self):
        return SizedParams()


class Reckless(Walk):
    def sample_params(self, key, scenario=None):
        return WalkParams(drift=jax.random.uniform(key, (), jnp.float32, -0.1, 0.3))


class Untrained(Walk):
    scenarios: ClassVar = {"ood-fast": "fast walks"}


class Blocked(Token):
    def action_mask(self, state, params):
        return jnp.zeros(3, bool)


class NarrowMask(Token):
    def action_mask(self, state, params):
        return jnp.ones(2, bool)


BROKEN: list[tuple[Any, str, str]] = [
    (Mutable(), "value", "a copy with the same fields is not equal"),
    (Unbounded(), "spaces", "infinite bounds"),
    (Outside(), "spaces", "observations outside Box"),
    (WideActions(), "spaces", r"trainers want Box\(-1, 1\)"),
    (WeakReward(), "dtypes", r"reward is float(32|64)\(\) \(weak\)"),
    (WeakState(), "dtypes", r"reset_env makes state\.position weakly typed"),
    (FloatTime(), "dtypes", r"state\.time is float32"),
    (Branching(), "dtypes", r"state\.position is float32\(\) after reset_env and float16\(\) after step_env"),
    (Widening(), "x64", "int32 becomes int64"),
    (Undeclared(), "info", "does not declare: speed"),
    (Missing(), "info", "missing in info: speed"),
    (Diverging(), "finite", r"reward.* is not finite"),
    (EarlyReset(), "final_observation", "step and advance|time is 0 where no episode ended|did not start again"),
    (Coupled(), "batches", "is not"),
    (Deaf(), "keys", "4 keys give one episode"),
    (Sized(), "one_compilation", "traced again"),
    (Gullible(), "bad_actions", "the action nan earns"),
    (OwnLimit(), "limit", "truncated is False at step 1 of 1"),
    (Static(), "params", "not leaves: kind"),
    (Reckless(), "scenarios", "draws an invalid link: WalkParams.drift"),
    (Untrained(scenario="ood-fast"), "scenarios", "'training' is missing"),
    (Blocked(), "masks", "forbids every choice"),
    (NarrowMask(), "masks", r"shape \(2,\), not \(3,\)"),
]


@pytest.mark.parametrize(("env", "promise", "seen"), BROKEN, ids=[f"{type(e).__name__}-{p}" for e, p, _ in BROKEN])
def test_each_check_catches_its_culprit(env, promise, seen):
    with pytest.raises(ConformanceError, match=seen) as caught:
        check_environment(env, only=[promise], steps=6, num_envs=4)
    assert "mend:" in str(caught.value) and PROMISES[promise].mend in str(caught.value)


def test_every_promise_has_a_culprit():
    assert {promise for _, promise, _ in BROKEN} == set(PROMISES)


def test_all_broken_promises_are_listed_at_once():
    with pytest.raises(ConformanceError, match="Unbounded breaks 1 of 2 promises") as caught:
        check_environment(Unbounded(), only=["value", "spaces"])
    assert "- spaces" in str(caught.value) and "- value" not in str(caught.value)


def test_unknown_promises_and_sizes_are_refused():
    with pytest.raises(ValueError, match="no promise speed; there are: value"):
        check_environment(Walk(), only=["speed"])
    with pytest.raises(ValueError, match="num_envs = 1"):
        check_environment(Walk(), num_envs=1)

"""Episodes are paired across agents, counted right, and the same in and out of the compiled loop."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym import struct
from qkd_gym.evaluation.agent import Agent, PassiveAgent, PrivilegedAgent, RandomAgent
from qkd_gym.evaluation.runner import _two_sum, episode_keys, evaluate, evaluate_vector
from tests.toys import Meet, Walk

EPISODES = 24


@dataclasses.dataclass(frozen=True)
class Steer(Agent[Any]):
    """Push against the position seen; counts its own steps, to show that memory is kept."""

    gain: float = 2.0

    def init(self, key, env, params):
        assert env.scenario == "training"
        return jnp.int32(0)

    def act(self, key, carry, obs, mask):
        return jnp.clip(-self.gain * obs[:1], -1, 1), carry + 1


@struct.dataclass
class LinearPolicy(Agent[None]):
    """The same rule with its gain as an array: one compiled program for all gains."""

    gain: Any = None

    def init(self, key, env, params):
        return None

    def act(self, key, carry, obs, mask):
        return jnp.clip(-self.gain * obs[:1], -1, 1), None


class NumpySteer:
    def start(self, num_envs):
        self.steps = 0

    def act(self, observations, masks):
        assert masks is None and observations.dtype == np.float32
        self.steps += 1
        return np.clip(-2 * observations[:, :1], -1, 1)


@dataclasses.dataclass(frozen=True)
class SeesAll(PrivilegedAgent[Any]):
    """Cancels the walk, which it knows from the trace; fails loudly if link or state are not the true ones."""

    def init(self, key, env, params, trace):
        return trace, params.drift

    def act(self, key, carry, obs, mask, episode):
        trace, drift = carry
        wrong = (drift != episode.params.drift) | (obs[0] != episode.state.position)
        at = jnp.minimum(episode.state.time + 1, trace.shape[0] - 1)
        push = jnp.clip(-5 * (episode.state.position + trace[at]), -1, 1)
        return jnp.where(wrong, jnp.nan, push)[None], carry


@dataclasses.dataclass(frozen=True)
class WindyWalk(Walk):
    """Walk whose noise is kept in the state, so that `exogenous` can show it."""

    name: ClassVar[str] = "WindyWalk"

    def exogenous(self, state, params):
        return state.wind

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs, Windy(time=state.time, position=state.position, wind=jnp.float32(0))

    def step_env(self, key, state, action, params):
        obs, after, reward, terminated, info = super().step_env(key, state, action, params)
        wind = params.drift * jax.random.normal(key, (), jnp.float32)
        return obs, Windy(time=after.time, position=after.position, wind=wind), reward, terminated, info


@struct.dataclass
class Windy:
    time: Any
    position: Any
    wind: Any


@pytest.fixture(scope="module")
def steered():
    return evaluate(Walk(), Steer(), EPISODES, seed=3)


def test_one_episode_by_hand(steered):
    env, agent = Walk(), Steer()
    keys = episode_keys(3, EPISODES)
    for i in (0, 5):
        obs, episode = env.reset(keys[i, 0])
        total, distance, done, memory = 0.0, 0.0, False, agent.init(keys[i, 2], env, env.default_params)
        while not done:
            step_key = jax.random.fold_in(keys[i, 1], episode.time)
            action, memory = agent.act(keys[i, 3], memory, obs, None)
            obs, episode, reward, terminated, truncated, info = env.advance(step_key, episode, action)
            total, distance = total + float(reward), distance + float(info["distance"])
            done = bool(terminated | truncated)
        assert int(memory) == steered.lengths[i]
        np.testing.assert_allclose(steered.returns[i], total, rtol=1e-5)
        np.testing.assert_allclose(steered.sums["distance"][i], distance, rtol=1e-5)
        np.testing.assert_allclose(steered.finals["distance"][i], float(info["distance"]), rtol=1e-5)
        np.testing.assert_allclose(steered.means["distance"][i], distance / steered.lengths[i], rtol=1e-5)
        assert steered.terminated[i] == bool(terminated)


def test_a_vector_policy_scores_the_same(steered):
    policy = NumpySteer()
    other = evaluate_vector(Walk(), policy, EPISODES, seed=3)
    np.testing.assert_allclose(other.returns, steered.returns, rtol=1e-5)
    np.testing.assert_array_equal(other.lengths, steered.lengths)
    np.testing.assert_allclose(other.sums["distance"], steered.sums["distance"], rtol=1e-5)
    assert policy.steps == steered.lengths.max()


def test_episodes_do_not_depend_on_batch_count_or_first(steered):
    seen = []
    chunks = evaluate(Walk(), Steer(), EPISODES, seed=3, chunk=10, progress=lambda done, of: seen.append((done, of)))
    np.testing.assert_allclose(chunks.returns, steered.returns, rtol=1e-6)
    assert seen == [(8, 24), (16, 24), (24, 24)]
    tail = evaluate(Walk(), Steer(), 8, seed=3, first=16)
    np.testing.assert_allclose(tail.returns, steered.returns[16:], rtol=1e-6)
    assert not np.allclose(evaluate(Walk(), Steer(), 8, seed=4).returns, steered.returns[:8])


def test_random_numbers_are_common(steered):
    """Two agents that act alike get the very same episodes, whatever randomness they use for themselves."""

    @dataclasses.dataclass(frozen=True)
    class Fidget(Steer):
        def act(self, key, carry, obs, mask):
            action, carry = super().act(key, carry, obs, mask)
            return action + 0 * jax.random.normal(key, (1,)), carry

    np.testing.assert_allclose(evaluate(Walk(), Fidget(), EPISODES, seed=3).returns, steered.returns, rtol=1e-6)


def test_arrays_of_an_agent_are_traced(steered):
    from qkd_gym.evaluation import runner

    first = evaluate(Walk(), LinearPolicy(gain=np.float32(2)), EPISODES, seed=3)
    before = runner._play._cache_size()
    second = evaluate(Walk(), LinearPolicy(gain=np.float32(0)), EPISODES, seed=3)
    assert runner._play._cache_size() == before
    np.testing.assert_allclose(first.returns, steered.returns, rtol=1e-6)
    passive = evaluate(Walk(), PassiveAgent.of(Walk()), EPISODES, seed=3)
    np.testing.assert_allclose(second.returns, passive.returns, rtol=1e-6)


def test_unhashable_agents_are_refused_with_the_remedy():
    @dataclasses.dataclass(frozen=True)
    class Table(Steer):
        table: Any = None

    with pytest.raises(TypeError, match=r"struct\.dataclass"):
        evaluate(Walk(), Table(table={}), 2)


def test_privileged_agents_see_the_truth_and_the_future():
    seer = evaluate(WindyWalk(), SeesAll(), EPISODES, seed=1)
    steer = evaluate(WindyWalk(), Steer(gain=5.0), EPISODES, seed=1)
    assert np.isfinite(seer.returns).all()
    # Who foresees the wind ends at zero to rounding, wherever the push suffices; who reacts misses by one gust.
    assert (seer.finals["distance"] < 1e-6).mean() > 0.5
    assert (steer.finals["distance"] < 1e-6).mean() < 0.1


def test_one_program_serves_all_scenarios(steered):
    from qkd_gym.evaluation import runner

    before = runner._play._cache_size()
    shifted = evaluate(Walk(scenario="ood-fast"), Steer(), EPISODES, seed=3)
    assert runner._play._cache_size() == before
    assert shifted.scenario == "ood-fast" and shifted.returns.mean() < steered.returns.mean()


def test_multi_agent():
    results = evaluate(Meet(), RandomAgent.of(Meet()), EPISODES)
    assert results.agent_returns.shape == (EPISODES, 3)
    np.testing.assert_allclose(results.returns * 3, results.sums["together"], rtol=1e-6)
    # Every random action was legal, so agent 0 was always paid for standing where it stands.
    np.testing.assert_array_equal(results.agent_returns[:, 0], 9)

    class Stay:
        def start(self, num_envs):
            pass

        def act(self, observations, masks):
            assert masks.shape == (EPISODES, 3, 3) and observations.shape == (EPISODES, 3, 5)
            return np.ones((EPISODES, 3))

    passive = evaluate(Meet(), PassiveAgent.of(Meet()), EPISODES)
    np.testing.assert_array_equal(evaluate_vector(Meet(), Stay(), EPISODES).agent_returns, passive.agent_returns)


def test_wrong_shapes_and_endless_tasks_are_refused():
    class Flat(NumpySteer):
        def act(self, observations, masks):
            return np.zeros(len(observations))

    with pytest.raises(ValueError, match=r"shape \(2,\).*wants \(2, 1\)"):
        evaluate_vector(Walk(), Flat(), 2)
    with pytest.raises(ValueError, match="must be positive"):
        evaluate(Walk(), Steer(), 0)

    @dataclasses.dataclass(frozen=True)
    class Endless(Walk):
        def is_truncated(self, state, params):
            return state.time < 0

    with pytest.raises(RuntimeError, match="did not end"):
        evaluate(Endless(), Steer(), 2)


def test_sums_keep_their_digits():
    """A million terms of about 1e6, some given back: the compensated float32 sum is exact to float64 of the terms."""
    terms = jnp.asarray(np.random.default_rng(0).normal(2e5, 1e6, 100_000), jnp.float32)
    total = jax.jit(lambda x: jax.lax.scan(lambda c, t: (_two_sum(*c, t), None), (jnp.float32(0),) * 2, x)[0])
    high, low = total(terms)
    exact = np.float64(terms).sum()
    assert abs(np.float64(high) + np.float64(low) - exact) < 1e-10 * np.abs(np.float64(terms)).sum()
    assert abs(float(jnp.cumsum(terms)[-1]) - exact) > 100 * abs(np.float64(high) + np.float64(low) - exact)

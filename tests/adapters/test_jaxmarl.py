"""The JaxMARL face: its interface, auto-reset, and a loop shaped like its trainers'."""

import functools
import sys
import types

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.adapters import jaxmarl
from qkd_gym.adapters.jaxmarl import JaxMARLEnv, make_jaxmarl
from qkd_gym.envs.core import restart_key
from tests.adapters.toys import Pushers
from tests.toys import Meet, Walk

AGENTS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def env():
    return make_jaxmarl(Meet(), max_steps_in_episode=3, final_observation=True)


@pytest.fixture(scope="module")
def step(env):
    return jax.jit(env.step)


def act(*choices):
    return dict(zip(AGENTS, map(jnp.int32, choices), strict=True))


def test_it_plays_the_functional_environment_with_auto_reset(env, step):
    task, key = Meet(), jax.random.key(5)
    advance = jax.jit(task.advance)
    obs, state = env.reset(key)
    _, episode = task.reset(key, task.default_params.__class__(max_steps_in_episode=3))
    assert list(obs) == AGENTS == env.agents and env.num_agents == 3
    for k in range(7):
        key = jax.random.fold_in(key, k)
        legal = env.get_avail_actions(state)
        np.testing.assert_array_equal(np.stack(list(legal.values())), task.mask(episode))
        last, episode, reward, _, truncated, info = advance(key, episode, jnp.array([2, 1, 1]))
        obs, state, rewards, dones, infos = step(key, state, act(2, 1, 1))
        np.testing.assert_array_equal(infos["final_observation"], last)
        np.testing.assert_array_equal(np.stack([rewards[a] for a in AGENTS]), reward)
        assert set(dones) == {*AGENTS, "__all__"} and {bool(d) for d in dones.values()} == {bool(truncated)}
        assert bool(truncated) == (k % 3 == 2)
        for name in ("together", "truncated", "terminated", "discount"):
            assert infos[name].shape == (3,)
        assert set(infos["together"].tolist()) == {int(info["together"])} and infos["truncated"][0] == truncated
        if truncated:
            last, episode = task.reset(restart_key(key), episode.params)
        np.testing.assert_array_equal(np.stack([obs[a] for a in AGENTS]), last)
        np.testing.assert_array_equal(state.state.positions, episode.state.positions)
        assert int(state.time) == int(episode.time)


def test_a_reset_state_may_be_given(env, step):
    _, state = env.reset(jax.random.key(0))
    _, chosen = env.reset(jax.random.key(1))
    for _ in range(2):
        _, state, _, dones, _ = step(jax.random.key(2), state, act(1, 1, 1), chosen)
        assert not dones["__all__"]
    obs, state, _, dones, _ = step(jax.random.key(2), state, act(1, 1, 1), chosen)
    assert dones["__all__"] and int(state.time) == 0
    np.testing.assert_array_equal(state.state.positions, chosen.state.positions)
    np.testing.assert_array_equal(obs["b"], env.get_obs(chosen)["b"])


def test_a_loop_shaped_like_independent_ppo():
    """Wrapped log, batched environments, actors in one batch, infos reshaped to actors: as JaxMARL's baselines do."""
    env, num_envs, steps = make_jaxmarl(Meet(), max_steps_in_episode=4), 5, 9
    actors = num_envs * env.num_agents

    def batchify(values):
        return jnp.stack([values[a] for a in env.agents]).reshape((actors, -1))

    def unbatchify(actions):
        rows = actions.reshape((env.num_agents, num_envs, -1))
        return {a: rows[i].squeeze() for i, a in enumerate(env.agents)}

    @jax.jit
    def train(key):
        obs, state = jax.vmap(env.reset)(jax.random.split(key, num_envs))

        def one(carry, key):
            obs, state, returns = carry
            flat = batchify(obs)
            legal = batchify(jax.vmap(env.get_avail_actions)(state))
            logits = flat @ jnp.ones((5, 3), jnp.float32) - (1 - legal) * jnp.float32(1e10)
            key_act, key_env = jax.random.split(key)
            actions = jax.random.categorical(key_act, logits)
            keys = jax.random.split(key_env, num_envs)
            obs, state, reward, done, info = jax.vmap(env.step)(keys, state, unbatchify(actions))
            info = jax.tree.map(lambda x: x.reshape(actors), info)
            returns = returns + batchify(reward)[:, 0]
            finished = jnp.tile(done["__all__"], env.num_agents)
            allowed = jnp.take_along_axis(legal, actions[:, None], axis=1)
            return (obs, state, jnp.where(finished, 0.0, returns)), (returns * finished, finished, info, allowed)

        start = (obs, state, jnp.zeros(actors, jnp.float32))
        return jax.lax.scan(one, start, jax.random.split(key, steps))[1]

    returns, finished, info, allowed = train(jax.random.PRNGKey(0))
    assert finished.sum() == 2 * actors and (returns[3] > 0).any() and allowed.all()
    np.testing.assert_array_equal(info["truncated"], np.asarray(finished))
    first = np.asarray(returns)[3].reshape(3, num_envs)[0]
    assert (first == 4).all(), "agent 0 always stands where agent 0 is"


def test_knobs_have_no_masks_and_one_view_of_the_whole():
    env = make_jaxmarl(Pushers(), scenario="ood-light")
    assert env.functional.scenario == "ood-light" and env.name == "Pushers-v0"
    _, state = env.reset(jax.random.PRNGKey(3))
    np.testing.assert_array_equal(env.world_state(state), env.functional.global_view(state.state, state.params))
    with pytest.raises(ValueError, match="only discrete actions have masks"):
        env.get_avail_actions(state)
    actions = {agent: jnp.full((1, 2), 0.1, jnp.float32) for agent in env.agents}  # an axis too many, as some leave it
    _, state, _, _, infos = env.step(jax.random.PRNGKey(4), state, actions)
    assert set(infos) == {"distance", "near", "reach", "terminated", "truncated", "discount"}
    assert infos["reach"].shape == infos["distance"].shape == (2,)
    space = env.action_spaces["pusher_0"]
    assert (space.low, space.high, space.shape) == (-1.0, 1.0, (2,))
    assert bool(space.contains(space.sample(jax.random.key(0))))


def test_masks_of_a_task_without_any_are_all_true():
    class Free(Meet):
        def action_mask(self, state, params):
            return None

    env = JaxMARLEnv(Free())
    legal = env.get_avail_actions(env.reset(jax.random.key(0))[1])
    assert list(legal) == AGENTS and all(row.shape == (3,) and row.all() for row in legal.values())


def test_spaces_are_jaxmarls_own_where_it_is_installed(env, monkeypatch):
    jaxmarl._space_classes.cache_clear()
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.spaces", None)
    space = env.action_space("a")
    assert (space.n, space.shape) == (3, ()) and isinstance(space, jaxmarl.Discrete)
    draws = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 60))
    assert set(draws.tolist()) == {0, 1, 2} and bool(space.contains(draws).all())
    multi = jaxmarl._space(gym.spaces.MultiDiscrete([2, 3]))
    assert multi.shape == (2,) and bool(multi.contains(multi.sample(jax.random.key(1))))
    assert env.observation_space("b").shape == (5,)

    named = {name: type(name, (getattr(jaxmarl, name),), {}) for name in ("Box", "Discrete", "MultiDiscrete")}
    theirs = types.SimpleNamespace(**named)
    monkeypatch.setitem(sys.modules, "jaxmarl", types.SimpleNamespace(environments=None))
    monkeypatch.setitem(sys.modules, "jaxmarl.environments", types.SimpleNamespace(spaces=theirs))
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.spaces", theirs)
    jaxmarl._space_classes.cache_clear()
    assert isinstance(env.action_space("a"), theirs.Discrete)
    assert isinstance(env.observation_spaces["c"], theirs.Box)
    jaxmarl._space_classes.cache_clear()


def test_refusals(env):
    _, state = env.reset(jax.random.key(0))
    with pytest.raises(ValueError, match="1 agents have no action: c"):
        env.step(jax.random.key(0), state, {"a": jnp.int32(0), "b": jnp.int32(0)})
    with pytest.raises(ValueError, match="no agent 'z'; the 3 agents are: a, b, c"):
        env.action_space("z")
    with pytest.raises(ValueError, match="qkd/Walk-v0 has one agent"):
        make_jaxmarl(Walk())
    with pytest.raises(ValueError, match="max_steps_in_episode = 0"):
        make_jaxmarl(Meet(), max_steps_in_episode=0)
    assert hash(env) == hash(make_jaxmarl(Meet(), max_steps_in_episode=3, final_observation=True))
    assert functools.partial(jax.jit, static_argnums=0)(lambda face, key: face.reset(key)[0]["a"])(
        env, jax.random.key(0)
    ).shape == (5,)

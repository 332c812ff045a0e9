"""A multi-agent task as a single-agent one: the same dynamics, and every face of one agent works on it."""

import copy
import dataclasses
import pickle

import gymnasium as gym
import jax
import numpy as np
import pytest

from qkd_gym import registration, rendering
from qkd_gym.adapters import gymnax
from qkd_gym.adapters.gymnasium import GymnasiumEnv, make_single
from qkd_gym.adapters.gymnasium_vector import make_vector
from qkd_gym.envs.centralised import Centralised, GlobalView
from qkd_gym.evaluation.agent import PassiveAgent, RandomAgent
from qkd_gym.evaluation.runner import evaluate
from qkd_gym.testing import check_environment
from qkd_gym.testing.conformance import Subject
from tests.adapters.toys import Pushers
from tests.toys import Meet, Walk


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(registration.TASKS, "qkd/Meet-v0", "tests.toys:Meet")
    registration.register_with_gymnasium()
    yield "qkd/Meet-v0"
    del gym.registry["qkd/Meet-v0"]


class Shifted(Meet):
    """Actions 1 to 3 rather than 0 to 2."""

    @property
    def passive_action(self):
        return np.full(3, 2, np.int32)

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        action = jax.numpy.where(valid, action - 1, -1)
        return Meet.step_env(_PLAIN, key, state, action, params)

    def action_space(self, params=None):
        return gym.spaces.Discrete(3, start=1)


class Levers(Meet):
    """Two levers an agent: the first moves it, the second does nothing."""

    @property
    def passive_action(self):
        return np.tile(np.array([1, 0], np.int32), (3, 1))

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        return Meet.step_env(_PLAIN, key, state, jax.numpy.where(valid, action[:, 0], -1), params)

    def action_mask(self, state, params):
        return jax.numpy.ones((3, 5), bool)

    def action_space(self, params=None):
        return gym.spaces.MultiDiscrete([3, 2])


_PLAIN = Meet()


@pytest.mark.parametrize("env", [Centralised(Meet()), Centralised(Pushers())], ids=["Meet", "Pushers"])
def test_it_keeps_the_contract(env):
    check_environment(env, steps=12)


def test_random_actions_are_drawn_among_the_legal_ones():
    env = Centralised(Meet())
    mask = np.array([0, 1, 1, 1, 0, 1, 0, 0, 1], bool)  # of three agents with three choices each
    agent = RandomAgent.of(env)
    act = jax.jit(jax.vmap(lambda key: agent.act(key, None, None, mask)[0]))
    drawn = {"agent": np.asarray(act(jax.random.split(jax.random.key(0), 400)))}
    drawn["conformance"] = Subject(env, 0, 400, 1).random_actions(np.tile(mask, (400, 1)))
    for actions in drawn.values():
        assert actions.shape == (400, 3) and actions.dtype == np.int32
        shares = (actions[:, :, None] == np.arange(3)).mean(axis=0)
        np.testing.assert_allclose(shares, [[0, 0.5, 0.5], [0.5, 0, 0.5], [0, 0, 1]], atol=0.1)
        assert not shares[~mask.reshape(3, 3)].any()


def play(env, steps, seed=3):
    """The task and its centralised form, side by side."""
    joint = Centralised(env)
    key = jax.random.key(seed)
    obs, episode = env.reset(key)
    seen, central = joint.reset(key)
    step, step_joint = jax.jit(env.advance), jax.jit(joint.advance)
    rng = np.random.default_rng(seed)
    rows = [((obs, episode), (seen, central))]
    for _ in range(steps):
        key = jax.random.fold_in(key, 0)
        if isinstance(env.action_space(), gym.spaces.Box):
            action = rng.uniform(-1, 1, env.passive_action.shape).astype(np.float32)
        else:
            action = rng.integers(0, 3, 3).astype(np.int32)
        one, two = step(key, episode, action), step_joint(key, central, action.reshape(-1))
        episode, central = one[1], two[1]
        rows.append((one, two))
    return joint, rows


def test_observations_masks_and_rewards_are_those_of_the_agents():
    env = Meet()
    joint, rows = play(env, 8)
    assert joint.observation_space() == gym.spaces.Box(0.0, 1.0, (15,), np.float32)
    assert joint.action_space() == gym.spaces.MultiDiscrete([3, 3, 3])
    for one, two in rows:
        np.testing.assert_array_equal(np.reshape(one[0], -1), two[0])
        np.testing.assert_array_equal(one[1].state.positions, two[1].state.positions)
        np.testing.assert_array_equal(np.reshape(env.mask(one[1]), -1), joint.mask(two[1]))
    for one, two in rows[1:]:
        assert two[2].shape == () and float(two[2]) == pytest.approx(float(np.mean(one[2])))
        assert int(two[5]["together"]) == int(one[5]["together"])
    assert any(float(two[2]) > 1 / 3 for _, two in rows[1:])


def test_a_task_with_a_view_of_its_own_shows_that_and_metrics_of_agents_become_means():
    env = Pushers()
    joint, rows = play(env, 4)
    assert isinstance(env, GlobalView) and not isinstance(Meet(), GlobalView)
    assert joint.observation_space() == env.global_view_space()
    assert joint.action_space() == gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    for one, two in rows:
        np.testing.assert_array_equal(env.global_view(one[1].state, one[1].params), two[0])
    for one, two in rows[1:]:
        np.testing.assert_allclose(two[5]["reach"], np.mean(one[5]["reach"]), rtol=1e-6)
        assert two[5]["reach"].shape == () and two[5]["places"].shape == (2, 2)
    assert float(rows[-1][1][0][-1]) == 0.5


def test_the_first_action_of_an_agent_may_be_another_than_0():
    joint = Centralised(Shifted())
    assert joint.passive_action.tolist() == [1, 1, 1]
    action = np.array([0, 1, 2], np.int32)
    np.testing.assert_array_equal(joint.separate(action), [1, 2, 3])
    _, episode = joint.reset(jax.random.key(0))
    _, plain = Meet().reset(jax.random.key(0))
    after = joint.advance(jax.random.key(1), episode, action)[1]
    np.testing.assert_array_equal(
        after.state.positions, Meet().advance(jax.random.key(1), plain, action)[1].state.positions
    )


def test_several_choices_an_agent_lie_behind_each_other():
    joint = Centralised(Levers())
    assert joint.action_space() == gym.spaces.MultiDiscrete([3, 2] * 3)
    assert joint.passive_action.tolist() == [1, 0] * 3
    np.testing.assert_array_equal(joint.separate(np.arange(6)), [[0, 1], [2, 3], [4, 5]])
    _, episode = joint.reset(jax.random.key(0))
    assert joint.mask(episode).shape == (15,)
    before = np.asarray(episode.state.positions)
    after = joint.advance(jax.random.key(1), episode, np.array([2, 0, 1, 1, 2, 1], np.int32))[1]
    np.testing.assert_array_equal(after.state.positions, (before + np.array([1, 0, 1])) % 5)


def test_it_is_a_value_with_the_name_of_its_task():
    joint = Centralised(Pushers())
    assert (joint.id, joint.name, joint.metrics, joint.agents) == ("qkd/Pushers-v0", "Pushers", Pushers.metrics, ())
    assert joint == Centralised(Pushers()) and hash(joint) == hash(Centralised(Pushers()))
    assert joint != Centralised(Pushers(scenario="ood-light")) and joint != Centralised(Meet())
    shifted = dataclasses.replace(joint, scenario="ood-light")
    assert shifted == Centralised(Pushers(), "ood-light") and shifted.env.scenario == shifted.scenario == "ood-light"
    assert pickle.loads(pickle.dumps(shifted)) == copy.deepcopy(shifted) == shifted
    with pytest.raises(ValueError, match="Pushers has no scenario 'dense'; it has: training, ood-light"):
        Centralised(Pushers(), "dense")
    with pytest.raises(ValueError, match="qkd/Walk-v0 has one agent already"):
        Centralised(Walk())


def test_returns_of_both_forms_compare():
    env = Meet()
    team = evaluate(env, PassiveAgent.of(env), 6, seed=1)
    joint = Centralised(env)
    central = evaluate(joint, PassiveAgent.of(joint), 6, seed=1)
    np.testing.assert_allclose(central.returns, team.returns, rtol=1e-6)
    np.testing.assert_allclose(central.sums["together"], team.sums["together"])
    assert central.env_id == team.env_id


def test_a_registered_task_is_centralised_for_faces_of_one_agent(registered):
    env = gym.make(registered, max_steps_in_episode=4)
    assert env.unwrapped.functional == Centralised(Meet())
    obs, info = env.reset(seed=5)
    assert env.observation_space.contains(obs) and info["action_mask"].shape == (9,)
    batch = gym.make_vec(registered, num_envs=2, vectorization_mode="vector_entry_point", max_episode_steps=4)
    np.testing.assert_array_equal(batch.reset(seed=5)[0][0], obs)
    for _ in range(4):
        action = np.array([2, 1, 1])
        obs, reward, terminated, truncated, info = env.step(action)
        many = batch.step(np.stack([action, action]))
        np.testing.assert_array_equal(many[0][0], obs)
        assert (many[1][0], many[3][0]) == (np.float32(reward), truncated) and not terminated
    assert truncated and isinstance(info["together"], int)
    assert env.unwrapped.action_masks().shape == (9,)
    assert registration.make(registered) == Meet()


def test_an_environment_of_several_agents_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"3 agents \(a, b, c\).*qkd_gym\.envs\.centralised\.Centralised"):
        GymnasiumEnv(Meet())
    env = make_single(Centralised(Pushers()), scenario="ood-light")
    assert env.functional == Centralised(Pushers(scenario="ood-light"))
    assert gymnax.GymnaxEnv(Centralised(Meet())).num_actions == 3


def test_sb3_sees_it(registered):
    sb3 = pytest.importorskip("qkd_gym.adapters.sb3", reason="stable_baselines3 is not installed")
    batch = sb3.make_vec_env(registered, 2, seed=0)
    batch.reset()
    obs, rewards, _, infos = batch.step(np.ones((2, 3), int))
    assert obs.shape == (2, 15) and rewards.shape == (2,) and infos[0]["action_mask"].shape == (9,)
    assert np.stack(batch.env_method("action_masks")).shape == (2, 9)


def test_the_picture_is_that_of_the_task(monkeypatch):
    monkeypatch.setitem(rendering.RENDERERS, "Pushers", "tests.adapters.toys:Strip")
    env = make_single(Centralised(Pushers()), render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    assert env.render().shape == (40, 40, 3) and (env.render()[:, 0, 0] > 0).sum() == 2
    inner = env._screen._renderer._inner
    np.testing.assert_array_equal(inner.last[1], np.array([[0.1, 0.2], [0.3, 0.4]], np.float32))
    vector = make_vector(Centralised(Pushers()), 2, render_mode="rgb_array")
    vector.reset(seed=0)
    assert len(vector.render()) == 2

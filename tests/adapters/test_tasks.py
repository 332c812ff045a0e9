"""The registered tasks through Gymnasium's own doors: silent checks, and faces that agree step by step on one seed."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from qkd_gym import registration

IDS = sorted(registration.TASKS)
LIMIT = 4


def actions_of(env, steps, num_envs):
    rng, space = np.random.default_rng(0), env.single_action_space
    for _ in range(steps):
        if isinstance(space, gym.spaces.Box):
            yield rng.uniform(space.low, space.high, (num_envs, *space.shape)).astype(np.float32)
        else:
            yield rng.integers(getattr(space, "nvec", getattr(space, "n", None)), size=(num_envs, *space.shape))


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_is_silent(env_id, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    env = gym.make(env_id, render_mode="rgb_array", max_steps_in_episode=LIMIT)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    assert [str(w.message) for w in heard] == []


@pytest.mark.parametrize("env_id", IDS)
def test_single_and_vector_agree_over_the_ends(env_id):
    singles = [gym.make(env_id, max_steps_in_episode=LIMIT) for _ in range(2)]
    vector = gym.make_vec(env_id, num_envs=2, autoreset_mode="SAME_STEP", max_episode_steps=LIMIT)
    starts = [env.reset(seed=30 + i)[0] for i, env in enumerate(singles)]
    np.testing.assert_allclose(vector.reset(seed=30)[0], starts, rtol=1e-5, atol=1e-6)
    ends = 0
    for actions in actions_of(vector, 2 * LIMIT + 1, 2):
        obs, rewards, terminated, truncated, infos = vector.step(actions)
        for i, env in enumerate(singles):
            seen, reward, ended, cut, info = env.step(actions[i])
            assert (ended, cut) == (terminated[i], truncated[i])
            np.testing.assert_allclose(reward, rewards[i], rtol=1e-4, atol=1e-6)
            where = infos["final_info"] if ended or cut else infos
            for name, value in info.items():
                if name != "action_mask":
                    np.testing.assert_allclose(where[name][i], value, rtol=1e-4, atol=1e-6, err_msg=name)
            if ended or cut:
                ends += 1
                np.testing.assert_allclose(infos["final_obs"][i], seen, rtol=1e-4, atol=1e-5)
                seen = env.reset()[0]
            np.testing.assert_allclose(obs[i], seen, rtol=1e-4, atol=1e-5)
    assert ends >= 4


@pytest.mark.parametrize("env_id", IDS)
def test_infos_hold_every_declared_metric(env_id):
    env = gym.make(env_id, max_steps_in_episode=LIMIT)
    env.reset(seed=0)
    info = env.step(np.asarray(env.unwrapped.functional.passive_action))[4]
    assert set(env.unwrapped.functional.metrics) <= set(info)
    assert all(isinstance(info[name], int | float | bool) for name in env.unwrapped.functional.metrics)

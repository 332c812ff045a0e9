"""The Stable-Baselines3 face: equal to SB3's own `DummyVecEnv` over single environments."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize, is_vecenv_wrapped

from qkd_gym import rendering
from qkd_gym.adapters.gymnasium import GymnasiumEnv
from qkd_gym.adapters.gymnasium_vector import GymnasiumVectorEnv
from qkd_gym.adapters.sb3 import SB3VecEnv, make_vec_env
from tests.adapters.test_gymnasium_vector import actions_of
from tests.adapters.toys import Dials, Token
from tests.toys import Walk

N = 3


@pytest.mark.parametrize("env", [Walk(), Token(), Dials()], ids=lambda e: e.name)
def test_equals_sb3s_own_vectoriser(env):
    mine, theirs = make_vec_env(env, N, monitor=False), DummyVecEnv([lambda: GymnasiumEnv(env)] * N)
    assert isinstance(mine, VecEnv)
    assert mine.seed(21) == theirs.seed(21)
    np.testing.assert_array_equal(mine.reset(), theirs.reset())
    ends = np.zeros(N, int)
    for actions in actions_of(env, 40):
        obs, rewards, dones, infos = mine.step(actions)
        for got, wanted in zip((obs, rewards, dones), theirs.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.flags.writeable and got.dtype == wanted.dtype
        for i, (info, wanted) in enumerate(zip(infos, theirs.buf_infos, strict=True)):
            ends[i] += dones[i]
            if dones[i] and "action_mask" in info:
                np.testing.assert_array_equal(info.pop("action_mask"), mine.batch.action_masks()[i])
                wanted.pop("action_mask")
            assert set(info) == set(wanted)
            for key, value in info.items():
                np.testing.assert_array_equal(np.float32(value), np.float32(wanted[key]), err_msg=key)
    assert ends.min() >= 2


def test_the_end_of_an_episode():
    env = make_vec_env(Walk(), N, seed=0, max_episode_steps=2)
    env.reset()
    _, _, dones, infos = env.step(np.zeros((N, 1)))
    assert not dones.any() and all("terminal_observation" not in info for info in infos)
    obs, _, dones, infos = env.step(np.zeros((N, 1)))
    assert dones.all() and np.all(obs[:, 1] == 0)
    for info in infos:
        assert info["TimeLimit.truncated"] is True
        assert info["terminal_observation"][1] == pytest.approx(2 / 7)
        assert info["distance"] == pytest.approx(abs(info["terminal_observation"][0]))
        assert info["episode"]["l"] == 2, "VecMonitor counts"


def test_an_own_end_is_no_time_limit():
    env = make_vec_env(Token(), N, seed=0, monitor=False)
    env.reset()
    _, _, dones, infos = env.step(np.array([2, 0, 0]))
    assert dones.tolist() == [True, False, False]
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * N


def test_seeding_repeats_and_goes_on():
    env = make_vec_env(Walk(), N, seed=4)
    first = env.reset()
    assert not np.array_equal(env.reset(), first), "seeds are used once"
    env.seed(4)
    np.testing.assert_array_equal(env.reset(), first)
    with pytest.raises(ValueError, match="seed = -1"):
        make_vec_env(Walk(), N, seed=-1)


def test_masks_reach_sb3_contrib():
    env = make_vec_env(Token(), N, seed=0)
    env.reset()
    assert is_masking_supported(env)
    for actions in actions_of(Token(), 8):
        env.step(actions)
        masks = get_action_masks(env)
        assert masks.shape == (N, 3) and masks.dtype == bool
        np.testing.assert_array_equal(masks[:, 1], env.unwrapped.batch.episodes.state.tokens > 0)
    assert get_action_masks(make_vec_env_reset(Dials())).all()
    assert not is_masking_supported(make_vec_env_reset(Walk()))


def make_vec_env_reset(env):
    made = make_vec_env(env, N, seed=0)
    made.reset()
    return made


def test_attributes_and_methods():
    env = make_vec_env_reset(Walk())
    env.set_attr("label", "a", indices=[0, 2])
    env.set_attr("label", "b", indices=1)
    assert env.get_attr("label") == ["a", "b", "a"] and env.has_attr("label") and not env.has_attr("nothing")
    assert env.get_attr("scenario") == ["training"] * N and env.get_attr("render_mode", 1) == [None]
    assert [float(e.state.time) for e in env.get_attr("episode")] == [0.0] * N
    assert env.env_is_wrapped(Monitor) == [False] * N and is_vecenv_wrapped(env, VecMonitor)
    with pytest.raises(AttributeError, match="scenario belongs to the whole batch"):
        env.set_attr("scenario", "ood-fast")
    with pytest.raises(AttributeError):
        env.env_method("jump")


def test_options_reach_the_next_reset():
    env = make_vec_env(Walk(), N, monitor=False)
    env.set_options({"scenario": "ood-fast", "params": {"drift": 0.75}})
    env.reset()
    assert env.get_attr("scenario") == ["ood-fast"] * N and np.all(env.batch.episodes.params.drift == 0.75)
    env.set_options([{"scenario": "training"}, {}, {}])
    with pytest.raises(ValueError, match="one dict for all"):
        env.reset()


def test_bad_actions_are_refused():
    env = make_vec_env_reset(Walk())
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.full((N, 1), np.nan, np.float32))
    with pytest.raises(ValueError, match="SAME_STEP, not NEXT_STEP"):
        SB3VecEnv(GymnasiumVectorEnv(Walk(), N))


def test_pictures_are_tiled(monkeypatch):
    monkeypatch.setitem(rendering.RENDERERS, "Walk", "tests.adapters.toys:Strip")
    env = make_vec_env(Walk(), 4, seed=0, render_mode="rgb_array", monitor=False)
    env.reset()
    assert env.render().shape == (80, 80, 3)
    assert [picture.shape for picture in env.env_method("render", indices=[1])] == [(40, 40, 3)]


def test_wrappers_and_copies():
    env = make_vec_env(Walk(), N, seed=0, monitor=False)
    env.reset()
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        np.testing.assert_array_equal(copy.deepcopy(env).step(np.ones((N, 1)))[0], twin.step(np.ones((N, 1)))[0])
    normal = VecNormalize(env)
    normal.reset()
    assert np.isfinite(normal.step(np.zeros((N, 1)))[0]).all()
    env.close()


@pytest.mark.parametrize("env", [Walk(), Token(), Dials()], ids=lambda e: e.name)
def test_sb3s_own_check_of_the_single_face(env):
    check_env(GymnasiumEnv(env))


def test_a_model_is_told_the_spaces():
    env = make_vec_env(Token(), 2)
    assert isinstance(env.action_space, gym.spaces.Discrete) and env.observation_space.shape == (4,)

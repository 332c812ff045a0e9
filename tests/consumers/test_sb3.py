"""Stable-Baselines3 and sb3-contrib, unmodified, on `make_vec_env` and on `gymnasium.make`."""

import gymnasium as gym
import numpy as np
import pytest

import qkd_gym  # noqa: F401 - registers the tasks
from tests.adapters.toys import Token
from tests.toys import Walk

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: a second thread of PyTorch costs more than it brings."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(model):
    return np.concatenate([p.detach().numpy().ravel().copy() for p in model.policy.parameters()])


def test_ppo_learns_a_toy():
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy

    from qkd_gym.adapters.sb3 import make_vec_env

    env = make_vec_env(Walk(), 16, seed=0)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, learning_rate=3e-3, gamma=0.9, seed=0, device="cpu")
    before, _ = evaluate_policy(model, make_vec_env(Walk(), 16, seed=1000), n_eval_episodes=200)
    model.learn(12_288)
    after, _ = evaluate_policy(model, make_vec_env(Walk(), 16, seed=1000), n_eval_episodes=200)
    assert after > before + 0.3, (before, after)
    assert model.num_timesteps == 12_288
    lengths = [info["l"] for info in model.ep_info_buffer]
    assert len(lengths) == 100 and 1 <= min(lengths) and max(lengths) == 7


@pytest.mark.parametrize("env_id", ["qkd/PolarizationAlignment-v0", "qkd/DecoyBlock-v0"])
def test_sac_trains_on_a_task(env_id):
    from stable_baselines3 import SAC

    from qkd_gym.adapters.sb3 import make_vec_env

    env = make_vec_env(env_id, 4, seed=0, max_episode_steps=20)
    small = {"net_arch": [32, 32]}
    model = SAC("MlpPolicy", env, learning_starts=64, batch_size=64, policy_kwargs=small, seed=0, device="cpu")
    before = weights(model)
    model.learn(320)
    after = weights(model)
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-4
    assert len(model.ep_info_buffer) == 16 and {info["l"] for info in model.ep_info_buffer} == {20}
    stored = model.replay_buffer
    assert stored.size() == 80 and np.isfinite(stored.rewards[:80]).all()
    assert stored.dones[19::20][:4].all() and stored.timeouts[19::20][:4].all(), "the limit is stored as a time-out"


def test_sac_stores_the_last_observation_and_not_the_next_first_one():
    from stable_baselines3 import SAC

    from qkd_gym.adapters.sb3 import make_vec_env

    env = make_vec_env(Walk(), 1, seed=0, max_episode_steps=3)
    model = SAC("MlpPolicy", env, learning_starts=1000, seed=0, device="cpu")
    model.learn(30)
    ends = np.flatnonzero(model.replay_buffer.dones[:30, 0])
    times = model.replay_buffer.next_observations[ends, 0, 1] * 7
    starts = model.replay_buffer.observations[ends[:-1] + 1, 0, 1]
    assert len(ends) >= 10 and np.all(times >= 0.99) and np.allclose(starts, 0)


def test_maskable_ppo_obeys_the_masks_and_learns():
    from sb3_contrib import MaskablePPO
    from sb3_contrib.common.maskable.utils import get_action_masks

    from qkd_gym.adapters.sb3 import make_vec_env

    env = make_vec_env(Token(), 16, seed=0)
    model = MaskablePPO(
        "MlpPolicy", env, n_steps=64, batch_size=256, learning_rate=3e-3, gamma=0.95, seed=0, device="cpu"
    )

    def play(steps=200):
        paid, obs = 0.0, (env.seed(500), env.reset())[1]
        for _ in range(steps):
            masks = get_action_masks(env)
            actions, _ = model.predict(obs, action_masks=masks)
            assert masks[np.arange(16), actions].all()
            obs, rewards, _, _ = env.step(actions)
            paid += rewards.sum()
        return paid / (16 * steps)

    before = play()
    model.learn(8_192)
    after = play()
    assert after > before + 0.05, (before, after)


def test_ppo_trains_through_gymnasium_make():
    from stable_baselines3 import PPO

    env = gym.make("qkd/DecoyBlock-v0", max_steps_in_episode=16)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=0, device="cpu")
    before = weights(model)
    model.learn(128)
    assert np.isfinite(weights(model)).all() and not np.array_equal(weights(model), before)
    assert [info["l"] for info in model.ep_info_buffer] == [16] * 8


def test_a_saved_model_acts_alike(tmp_path):
    from stable_baselines3 import PPO

    from qkd_gym.adapters.sb3 import make_vec_env

    env = make_vec_env(Walk(), 4, seed=0)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, seed=0, device="cpu")
    model.learn(64)
    model.save(tmp_path / "model")
    obs = env.reset()
    again = PPO.load(tmp_path / "model", env=env, device="cpu")
    np.testing.assert_array_equal(again.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])

"""rejax, unmodified, on the five-value face. It deep-copies its configuration, and with it the environment."""

import jax
import numpy as np
import pytest

from qkd_gym.adapters.gymnax import make_gymnax
from tests.adapters.toys import Token
from tests.toys import Walk

pytestmark = pytest.mark.filterwarnings("default")


def leaves(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def test_ppo_learns_a_continuous_toy():
    from rejax import PPO

    env, params = make_gymnax(Walk(), five_values=True)
    algorithm = PPO.create(
        env=env, env_params=params, total_timesteps=32_768, eval_freq=16_384, num_envs=64, num_steps=32,
        num_minibatches=4, num_epochs=4, learning_rate=3e-3, gamma=0.9,
        agent_kwargs={"hidden_layer_sizes": (32,), "activation": "tanh"},
    )  # fmt: skip
    _, (lengths, returns) = jax.jit(algorithm.train)(jax.random.PRNGKey(0))
    lengths, returns = np.asarray(lengths), np.asarray(returns)
    assert returns.shape == (3, 128) and np.isfinite(returns).all()
    assert lengths.min() >= 1 and lengths.max() == 7, "episodes end at the limit of the scenario"
    assert returns[-1].mean() > returns[0].mean() + 0.5, returns.mean(axis=1)


def test_dqn_knows_a_discrete_space():
    from rejax import DQN

    env, params = make_gymnax(Token(), five_values=True)
    algorithm = DQN.create(
        env=env, env_params=params, total_timesteps=2_048, eval_freq=2_048, num_envs=16, fill_buffer=512,
        batch_size=64, buffer_size=2_048, agent_kwargs={"activation": "relu"},
    )  # fmt: skip
    state = algorithm.init_state(jax.random.PRNGKey(0))
    after, (lengths, returns) = jax.jit(lambda ts: algorithm.train(train_state=ts))(state)
    assert np.isfinite(np.asarray(returns)).all() and np.asarray(lengths).max() <= 11
    change = np.abs(leaves(after.q_ts.params) - leaves(state.q_ts.params)).max()
    assert np.isfinite(leaves(after.q_ts.params)).all() and change > 1e-4


def test_ppo_trains_on_a_task():
    from rejax import PPO

    env, params = make_gymnax("qkd/PolarizationAlignment-v0", five_values=True)
    algorithm = PPO.create(
        env=env, env_params=params, total_timesteps=512, eval_freq=512, num_envs=8, num_steps=16, num_minibatches=2,
        num_epochs=2, skip_initial_evaluation=True, agent_kwargs={"hidden_layer_sizes": (16,)},
    )  # fmt: skip
    algorithm = algorithm.replace(eval_callback=lambda algo, ts, rng: ())
    state = algorithm.init_state(jax.random.PRNGKey(0))
    after, _ = jax.jit(lambda ts: algorithm.train(train_state=ts))(state)
    assert np.isfinite(leaves(after.actor_ts.params)).all() and int(after.global_step) == 512
    assert np.abs(leaves(after.actor_ts.params) - leaves(state.actor_ts.params)).max() > 1e-4
    assert np.isfinite(np.asarray(after.last_obs)).all()

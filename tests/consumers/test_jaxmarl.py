"""JaxMARL's own wrappers, unmodified, on our face: the ones that its trainers collect their episodes with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.adapters.jaxmarl import make_jaxmarl

pytestmark = pytest.mark.filterwarnings("default")

STEPS = 12


@pytest.fixture(scope="module")
def env():
    return make_jaxmarl("qkd/KeyRouting-v0", topology="ring6", max_steps_in_episode=STEPS)


def test_spaces_are_theirs(env):
    from jaxmarl.environments.spaces import Box, Discrete

    assert all(isinstance(env.observation_space(agent), Box) for agent in env.agents)
    assert all(isinstance(env.action_space(agent), Discrete) for agent in env.agents)


def test_the_log_wrapper_counts_episodes(env):
    from jaxmarl.wrappers.baselines import LogWrapper

    logged, num_envs = LogWrapper(env), 4

    def step(carry, key):
        obs, state = carry
        legal = jax.vmap(env.get_avail_actions)(state.env_state)
        keys = jax.random.split(key, (len(env.agents) + 1, num_envs))
        actions = {
            agent: jax.vmap(jax.random.categorical)(keys[i], jnp.where(legal[agent], 0.0, -jnp.inf))
            for i, agent in enumerate(env.agents)
        }
        obs, state, rewards, dones, info = jax.vmap(logged.step)(keys[-1], state, actions)
        return (obs, state), (rewards[env.agents[0]], dones["__all__"], info["returned_episode_returns"])

    start = jax.vmap(logged.reset)(jax.random.split(jax.random.key(0), num_envs))
    _, (rewards, ends, told) = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))(
        start, jax.random.split(jax.random.key(1), 2 * STEPS)
    )
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(ends).all(axis=1)), [STEPS - 1, 2 * STEPS - 1])
    assert np.abs(np.asarray(rewards)).sum() > 0
    for last in (STEPS - 1, 2 * STEPS - 1):
        whole = np.asarray(rewards)[last - STEPS + 1 : last + 1].sum(axis=0)
        np.testing.assert_allclose(np.asarray(told)[last], np.tile(whole[:, None], len(env.agents)), rtol=1e-5)


def test_the_manager_of_their_q_learners(env):
    from jaxmarl.wrappers.baselines import CTRolloutManager

    manager, agents = CTRolloutManager(env, batch_size=3), env.agents
    obs, state = manager.batch_reset(jax.random.key(0))
    width = env.observation_space(agents[0]).shape[0]
    assert obs[agents[0]].shape == (3, width + len(agents)) and obs["__all__"].shape == (3, width * len(agents))
    actions = {agent: manager.batch_sample(jax.random.key(i), agent) for i, agent in enumerate(agents)}
    obs, state, rewards, dones, _ = manager.batch_step(jax.random.key(1), state, actions)
    np.testing.assert_allclose(rewards["__all__"], sum(rewards[agent] for agent in agents), rtol=1e-6)
    assert np.isfinite(np.asarray(obs["__all__"])).all() and not np.asarray(dones["__all__"]).any()

"""Trained policies that ship: they load for the task that they name, and do something."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import qkd_gym
from agents.registry import PRETRAINED, agents_for
from qkd_gym.envs.network.node_switching import NodeSwitching
from qkd_gym.evaluation.policy_file import load_policy, read_spec
from qkd_gym.evaluation.protocol import check_training_seed

FILES = sorted(PRETRAINED.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_loads_for_its_task_and_says_how_it_was_trained(path):
    spec = read_spec(path)
    env = qkd_gym.make(spec.env_id)
    policy = load_policy(path, env)
    assert policy.role == "learned"
    assert spec.provenance["scenario"] == "training"
    check_training_seed(spec.provenance["training_seed"])


def test_a_policy_without_an_operator_shares_the_switch_better_than_fixed_pairs():
    env, episodes, steps = NodeSwitching(), 8, 480
    agents = agents_for(env)
    trained, passive = agents["node_switching-ppo-seed0"], agents["passive"]

    def play(agent, key):
        obs, running = env.reset_batch(jax.random.split(key, episodes))
        memory = jax.vmap(lambda key: agent.init(key, env, env.default_params))(jax.random.split(key, episodes))

        def step(carry, key):
            obs, running, memory = carry
            masks, keys = jax.vmap(env.mask)(running), jax.random.split(key, episodes)
            actions, memory = jax.vmap(agent.act)(keys, memory, obs, masks)
            obs, running, reward, _, _, _ = env.step_batch(keys, running, actions)
            return (obs, running, memory), reward.mean()

        return jnp.mean(jax.lax.scan(step, (obs, running, memory), jax.random.split(key, steps))[1])

    served, idle = jax.jit(lambda key: (play(trained, key), play(passive, key)))(jax.random.key(404))
    assert served > 1.5 * idle

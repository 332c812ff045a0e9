"""Practice of `qkd/NodeSwitching`: matchings, and how one gets there without asking for what another holds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from agents.practice.node_switching import AGENTS, best_matching, towards
from agents.registry import agents_for
from qkd_gym.envs.network.node_switching import NodeSwitching
from qkd_gym.envs.network.switching import PER_RECEIVER, REST, decode


@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 5), (5, 2)])
def test_the_best_matching_is_the_assignment_of_greatest_score(n, m):
    match = jax.jit(best_matching)
    rng = np.random.default_rng(0)
    for _ in range(20):
        score = rng.random((n, m)).astype(np.float32)
        found = np.asarray(match(score))
        rows, columns = linear_sum_assignment(-score)
        assert score[found].sum() == pytest.approx(score[rows, columns].sum(), rel=1e-5)
        assert found.sum() == min(n, m) and found.sum(axis=0).max() == found.sum(axis=1).max() == 1


def test_among_many_ports_the_greatest_go_first():
    score = np.random.default_rng(1).random((7, 8)).astype(np.float32)
    found = np.asarray(jax.jit(best_matching)(score))
    assert found.sum() == 7 and found.sum(axis=0).max() == 1 and found[np.unravel_index(score.argmax(), score.shape)]
    _, columns = linear_sum_assignment(-score)
    assert score[found].sum() > 0.9 * score[range(7), columns].sum()


def observations(held, rng):
    """Made-up observations of transmitters that hold these receivers."""
    n, m = held.shape
    obs = rng.uniform(-0.5, 0.5, (n, PER_RECEIVER * m + REST + n)).astype(np.float32)
    obs[:, :m] = rng.random((n, m))
    obs[:, 6 * m : 7 * m] = held
    obs[:, 7 * m : 8 * m] = held.any(axis=0) & ~held
    rest = PER_RECEIVER * m
    obs[:, rest : rest + 2] = 0
    obs[:, rest + 4 : rest + 6] = 0.5
    return obs


def test_a_swap_lets_go_first_and_takes_then():
    rng, held = np.random.default_rng(2), np.eye(3, 4, dtype=bool)
    target = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], bool)
    step = jax.jit(lambda target, obs: towards(target, decode(obs)))
    np.testing.assert_array_equal(step(target, observations(held, rng)), [4, 4, 3])
    after = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(step(target, observations(after, rng)), [1, 0, 3])


@functools.cache
def acting():
    env = NodeSwitching()
    rules = {name: rule for name, rule in agents_for(env).items() if name in AGENTS}

    @jax.jit
    def act(key, obs, mask):
        return {name: rule.act(key, rule.init(key, env, None), obs, mask)[0] for name, rule in rules.items()}

    return act


def test_no_rule_asks_for_what_another_holds():
    rng = np.random.default_rng(3)
    for round in range(20):
        held = np.eye(4, dtype=bool)[rng.permutation(4)] & (rng.random(4) < 0.7)[:, None]
        mask = np.concatenate([~(held.any(axis=0) & ~held), np.ones((4, 1), bool)], axis=1)
        obs = jnp.asarray(observations(held, rng))
        for name, action in acting()(jax.random.key(round), obs, mask).items():
            action = np.asarray(action)
            assert mask[np.arange(4), action].all(), name
            if name != "own_visits":  # one operator lets no two collide
                taken = action[action < 4]
                assert len(set(taken)) == len(taken), name

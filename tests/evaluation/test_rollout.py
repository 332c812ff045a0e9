"""A watched episode is the evaluated one; the cost of a decision is measured."""

from __future__ import annotations

import numpy as np
import pytest

from qkd_gym.evaluation.agent import RandomAgent
from qkd_gym.evaluation.footprint import measure
from qkd_gym.evaluation.policy_file import PolicySpec, save_policy
from qkd_gym.evaluation.rollout import rollout
from qkd_gym.evaluation.runner import evaluate
from tests.evaluation.test_policy_file import random_weights
from tests.evaluation.test_runner import NumpySteer, SeesAll, Steer, WindyWalk
from tests.toys import Meet, Walk


@pytest.mark.parametrize(
    ("env", "agent"), [(Walk(), Steer()), (WindyWalk(), SeesAll()), (Meet(), RandomAgent.of(Meet()))], ids=str
)
def test_a_rollout_is_the_evaluated_episode(env, agent):
    evaluated = evaluate(env, agent, 4, seed=5)
    steps = list(rollout(env, agent, seed=5, index=2))
    assert steps[0].action is None and not steps[0].done and steps[-1].done
    assert len(steps) - 1 == evaluated.lengths[2]
    np.testing.assert_allclose(sum(step.reward for step in steps), np.squeeze(evaluated.agent_returns[2]), rtol=1e-5)
    for name in env.metrics:
        total = sum(float(step.info[name]) for step in steps[1:])
        np.testing.assert_allclose(total, evaluated.sums[name][2], rtol=1e-5)
    assert [int(step.episode.time) for step in steps] == list(range(len(steps)))


def test_a_vector_policy_can_be_watched():
    steps = list(rollout(Walk(), NumpySteer(), seed=5, index=2))
    same = list(rollout(Walk(), Steer(), seed=5, index=2))
    np.testing.assert_allclose([s.reward for s in steps], [s.reward for s in same], rtol=1e-5)


def test_the_cost_of_a_decision_is_measured(tmp_path):
    spec = PolicySpec.for_env(Walk(), hidden=(16,), gru=8)
    path = save_policy(tmp_path / "p.safetensors", spec, random_weights(spec))
    cost = measure(path, Walk(), decisions=200)
    assert (cost.parameters, cost.multiply_adds) == (spec.parameters, spec.multiply_adds)
    assert 0 < cost.median_us <= cost.p99_us < 1e6
    with pytest.raises(RuntimeError, match=r"measuring .* failed: .*trained for qkd/Walk-v0"):
        measure(path, Meet(), decisions=10)

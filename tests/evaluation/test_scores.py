"""The scale, what breaks it, and what an episode may claim."""

from __future__ import annotations

import dataclasses
import json
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym import TASKS, make
from qkd_gym.evaluation import scores
from qkd_gym.evaluation.agent import PassiveAgent
from qkd_gym.evaluation.protocol import EVALUATION_SEED, PROTOCOLS, REFERENCE_SEED, check_training_seed
from qkd_gym.evaluation.runner import EpisodeResults, evaluate
from qkd_gym.evaluation.scores import Anchor, MissingReference, Reference, reference_for, score
from qkd_gym.evaluation.soundness import is_checked, violations
from tests.toys import Walk


def anchor(mean, agent="someone"):
    return Anchor(agent=agent, mean=mean, low=mean, high=mean, episodes=1, seed=0)


def results(returns, **sums):
    returns = np.asarray(returns, float)
    n = len(returns)
    return EpisodeResults(
        env_id="qkd/Walk-v0",
        scenario="training",
        seed=0,
        first=0,
        agent="x",
        returns=returns,
        agent_returns=returns[:, None],
        lengths=np.full(n, 10),
        terminated=np.zeros(n, bool),
        sums={name: np.asarray(value, float) for name, value in sums.items()},
        finals={},
    )


SCALE = Reference(zero=anchor(2.0), one=anchor(6.0))


def test_the_scale():
    line = score(results([2, 6, 4, 0]), SCALE)
    np.testing.assert_array_equal(line.per_episode, [0, 1, 0.5, -0.5])
    assert (line.score.value, line.mean_return.value, line.violations) == (0.25, 3.0, 0)
    with pytest.raises(ValueError, match="one above zero"):
        Reference(zero=anchor(1.0), one=anchor(1.0))


def test_physical_units():
    line = score(results([3, 3], skr_bps=[1e5, 3e5], secret_bits=[2e6, 4e6], certifiable_bits=[1e7, 1e7]), SCALE)
    assert line.physical["kbit/s"].value == pytest.approx(20)  # mean over 10 steps
    assert line.physical["Mbit/episode"].value == pytest.approx(3)
    assert "% QBER" not in line.physical


def test_overclaims_and_nonsense_score_nothing():
    claimed = [10.0, 10.0, 10.0, 10.0, np.nan, 10.0]
    bound = [10.0, 10.00001, 9.99, np.nan, 20.0, 20.0]
    got = results([6, 6, 6, 6, 6, np.inf], secret_bits=claimed, certifiable_bits=bound)
    np.testing.assert_array_equal(violations(got), [False, False, True, True, True, True])
    line = score(got, SCALE)
    np.testing.assert_array_equal(line.per_episode, [1, 1, 0, 0, 0, 0])
    assert line.violations == 4 and np.isfinite(line.mean_return.value)
    assert line.physical["Mbit/episode"].value == pytest.approx(1e-5)
    # An excess within float32 rounding is no claim; a relative 1e-5 is one.
    edge = results([1, 1], secret_bits=[1 + 1e-6, 1 + 1e-5], certifiable_bits=[1, 1])
    np.testing.assert_array_equal(violations(edge), [False, True])


@dataclasses.dataclass(frozen=True)
class Boast(Walk):
    """A walk that credits a bit for each step spent left of zero, where nothing could be certified."""

    metrics: ClassVar = {"secret_bits": "key credited [bit]", "certifiable_bits": "key possible [bit]"}

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, _ = super().step_env(key, state, action, params)
        bound = jnp.where(state.position > 0, jnp.float32(1), jnp.float32(0))
        return obs, state, reward, terminated, {"secret_bits": jnp.float32(1), "certifiable_bits": bound}


def test_violations_are_found_in_a_played_episode():
    assert is_checked(Boast()) and not is_checked(Walk())
    played = evaluate(Boast(), PassiveAgent.of(Boast()), 32)
    bad = violations(played)
    np.testing.assert_array_equal(bad, played.sums["certifiable_bits"] < played.lengths)
    assert 0 < bad.sum() < 32


@pytest.mark.parametrize("env_id", sorted(TASKS))
def test_every_task_lets_its_claims_be_checked(env_id):
    assert is_checked(make(env_id))


# ---- the frozen file -------------------------------------------------------------------------------------------------


@pytest.fixture
def reference_file(tmp_path):
    path = tmp_path / "reference.json"
    anchors = {"zero": dataclasses.asdict(anchor(1.0)), "one": dataclasses.asdict(anchor(5.0)), "ceiling": None}
    path.write_text(json.dumps({"schema": 1, "tasks": {"qkd/Walk-v0": {"scenarios": {"training": anchors}}}}))
    return path


def test_reading_a_reference(reference_file):
    reference = reference_for(Walk(), reference_file)
    assert reference.score(3.0) == 0.5 and reference.ceiling is None


def test_missing_references_say_what_there_is(reference_file):
    with pytest.raises(MissingReference, match=r"Walk-v0, scenario 'ood-fast'.*benchmarks\.reference --tasks Walk"):
        reference_for(Walk(scenario="ood-fast"), reference_file)

    class Walk1(Walk):
        version = 1

    with pytest.raises(MissingReference, match=r"Walk-v1: the file holds qkd/Walk-v0"):
        reference_for(Walk1(), reference_file)

    class Stroll(Walk):
        name = "Stroll"

    with pytest.raises(MissingReference, match="does not hold this task"):
        reference_for(Stroll(), reference_file)


def test_damaged_reference_files(tmp_path):
    path = tmp_path / "r.json"
    for text in ("", "[]", '{"schema": 99, "tasks": {}}', '{"schema": 1}', '{"schema": 1, "tasks": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="no reference file"):
            scores.read_references(path)


@pytest.mark.parametrize("env_id", sorted(scores.read_references()["tasks"]))
def test_shipped_references_are_of_registered_tasks_and_in_order(env_id):
    assert env_id in TASKS
    env = make(env_id)
    for scenario in env.scenarios:
        reference = reference_for(dataclasses.replace(env, scenario=scenario))
        for a in (reference.zero, reference.one, reference.practice, reference.ceiling):
            if a is not None:
                assert a.low <= a.mean <= a.high and a.seed == REFERENCE_SEED and a.episodes >= 256
        assert reference.practice is not None
        assert reference.zero.mean < reference.practice.mean < reference.one.mean


# ---- the protocol ----------------------------------------------------------------------------------------------------


def test_protocols():
    assert PROTOCOLS["quick"].scenarios(Walk()) == ("training",)
    assert PROTOCOLS["full"].scenarios(Walk()) == ("training", "ood-fast")
    assert (PROTOCOLS["quick"].episodes, PROTOCOLS["full"].episodes) == (32, 256)
    assert EVALUATION_SEED != REFERENCE_SEED
    assert check_training_seed(6999) == 6999
    for seed in (EVALUATION_SEED, REFERENCE_SEED, -1):
        with pytest.raises(ValueError, match="reserved"):
            check_training_seed(seed)

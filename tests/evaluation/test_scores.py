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
from qkd_gym.evaluation.protocol import EVALUATION_SEED, PROTOCOLS, check_training_seed
from qkd_gym.evaluation.runner import EpisodeResults, evaluate
from qkd_gym.evaluation.scores import Anchor, MissingReference, Reference, reference_for, score
from qkd_gym.evaluation.soundness import is_checked, violations
from qkd_gym.evaluation.statistics import bootstrap
from tests.toys import Walk


def anchor(mean, agent="someone"):
    return Anchor(agent=agent, mean=mean, low=mean, high=mean, episodes=1, seed=0)


def results(returns, seed=0, first=0, **sums):
    returns = np.asarray(returns, float)
    n = len(returns)
    return EpisodeResults(
        env_id="qkd/Walk-v0",
        scenario="training",
        seed=seed,
        first=first,
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
    assert not line.paired
    np.testing.assert_array_equal(line.per_episode, [0, 1, 0.5, -0.5])
    assert (line.score.value, line.mean_return.value, line.violations) == (0.25, 3.0, 0)
    with pytest.raises(ValueError, match="one above zero"):
        Reference(zero=anchor(1.0), one=anchor(1.0))


# ---- the same episodes ----------------------------------------------------------------------------------------------

#: Links that differ by far more than agents do: no mean over a few of them is near another.
LUCK = np.exp(np.random.default_rng(0).normal(0, 2, 64))
ZERO, ONE = 0.1 * LUCK, LUCK
PAIRED = Reference(zero=Anchor.of("idle", ZERO, seed=7), one=Anchor.of("seer", ONE, seed=7))


@pytest.mark.parametrize(("first", "episodes"), [(0, 64), (0, 32), (40, 24), (5, 1)])
def test_anchors_score_exactly_0_and_1_on_their_episodes(first, episodes):
    part = slice(first, first + episodes)
    for returns, wanted in ((ZERO, 0.0), (ONE, 1.0)):
        line = score(results(returns[part], seed=7, first=first), PAIRED)
        assert line.paired
        assert (line.score.value, line.score.low, line.score.high) == (wanted, wanted, wanted)
        assert line.per_episode.mean() == pytest.approx(wanted, abs=1e-15)


def test_a_score_is_a_ratio_of_means_over_the_same_episodes():
    rng = np.random.default_rng(1)
    mine = (ZERO + ONE) / 2 * rng.uniform(0.8, 1.2, 64)
    got = results(mine[:16], seed=7)
    line = score(got, PAIRED)
    wanted = (mine[:16] - ZERO[:16]).sum() / (ONE[:16] - ZERO[:16]).sum()
    assert line.score.value == pytest.approx(wanted, rel=1e-4)  # five digits are kept
    assert line.per_episode.mean() == pytest.approx(line.score.value, rel=1e-12)
    assert line.score.low < wanted < line.score.high
    # Redrawn together, the luck of the links cancels; redrawn alone, it does not.
    alone = bootstrap(line.per_episode)
    assert line.score.high - line.score.low < 0.5 * (alone.high - alone.low)
    scale = PAIRED.over(got)
    assert scale.one.mean == pytest.approx(ONE[:16].mean(), rel=1e-4) and scale.one.episodes == 16


def test_a_violation_scores_nothing_among_paired_episodes():
    claimed = np.where(np.arange(64) % 2, 2.0, 1.0)
    line = score(results(ONE, seed=7, secret_bits=claimed, certifiable_bits=np.ones(64)), PAIRED)
    honest = np.arange(64) % 2 == 0
    assert line.violations == 32 and np.all(line.per_episode[~honest] == 0)
    assert line.score.value == pytest.approx((ONE - ZERO)[honest].sum() / (ONE - ZERO).sum(), rel=1e-4)
    assert line.mean_return.value == pytest.approx(np.where(honest, ONE, ZERO).mean(), rel=1e-4)


@pytest.mark.parametrize("where", [{"seed": 8}, {"seed": 7, "first": 33}])
def test_other_episodes_are_scaled_by_the_means(where):
    got = results(ONE[:32], **where)
    line = score(got, PAIRED)
    assert not line.paired and PAIRED.over(got) is PAIRED
    wanted = (ONE[:32].mean() - ZERO.mean()) / (ONE.mean() - ZERO.mean())
    assert line.score.value == pytest.approx(wanted, rel=1e-4)
    assert abs(wanted - 1) > 0.1  # luck, which pairing takes out


def test_episodes_without_a_scale_of_their_own_take_the_means():
    """Links too bad for anyone: nothing lies between zero and one there."""
    dead = Reference(
        zero=Anchor.of("idle", [0.0, 0.0, 0.0, 1.0], seed=7), one=Anchor.of("seer", [0.0, 0.0, 0.0, 5.0], seed=7)
    )
    line = score(results([0.0, 0.0], seed=7), dead)
    assert not line.paired and line.score.value == -0.25
    line = score(results([0.0, 0.0, 0.0, 3.0], seed=7), dead)  # some redrawn samples hold no live link
    assert (line.score.value, line.score.low, line.score.high) == (0.5, 0.5, 0.5)


def test_an_anchor_holds_a_return_for_each_episode():
    with pytest.raises(ValueError, match="2 returns of 3 episodes"):
        Anchor(agent="x", mean=0.0, low=0.0, high=0.0, episodes=3, seed=0, returns=(1.0, 2.0))


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
    anchors["practice"] = dataclasses.asdict(Anchor.of("rule", [1.23456789, 2e-9, 3.0], seed=7001))
    data = {"schema": scores.SCHEMA, "tasks": {"qkd/Walk-v0": {"scenarios": {"training": anchors}}}}
    path.write_text(scores.render(data))
    assert json.loads(path.read_text()) == json.loads(json.dumps(data))
    return path


def test_reading_a_reference(reference_file):
    reference = reference_for(Walk(), reference_file)
    assert reference.score(3.0) == 0.5 and reference.ceiling is None
    assert reference.practice.returns == (1.2346, 2e-9, 3.0)


def test_a_line_of_the_file_is_a_value_or_a_whole_array(reference_file):
    lines = [line.strip() for line in reference_file.read_text().splitlines()]
    assert '"returns": [1.2346,2e-09,3.0]' in lines and '"agent": "rule",' in lines


def test_the_shipped_file_is_read_once(monkeypatch):
    scores.read_references()
    monkeypatch.setattr(scores, "_parse", lambda *a: pytest.fail("it was read again"))
    assert scores.read_references() is scores.read_references()


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
    for text in ("", "[]", '{"schema": 1, "tasks": {}}', '{"schema": 2}', '{"schema": 2, "tasks": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="no reference file"):
            scores.read_references(path)


@pytest.mark.parametrize("env_id", sorted(scores.read_references()["tasks"]))
def test_shipped_references_are_of_registered_tasks_and_in_order(env_id):
    assert env_id in TASKS
    env = make(env_id)
    held = scores.read_references()["tasks"][env_id]["scenarios"]
    assert list(held) == list(env.scenarios)
    for scenario in held:
        reference = reference_for(dataclasses.replace(env, scenario=scenario))
        for a in (reference.zero, reference.one, reference.practice, reference.ceiling):
            if a is not None:
                assert a.low <= a.mean <= a.high and (a.seed, a.first) == (EVALUATION_SEED, 0)
                assert a.episodes == len(a.returns) >= PROTOCOLS["quick"].episodes
                np.testing.assert_allclose(a.mean, np.mean(a.returns), rtol=1e-5)
        assert reference.practice is not None
        assert reference.zero.mean < reference.practice.mean < reference.one.mean


# ---- the protocol ----------------------------------------------------------------------------------------------------


def test_protocols():
    assert PROTOCOLS["quick"].scenarios(Walk()) == ("training",)
    assert PROTOCOLS["full"].scenarios(Walk()) == ("training", "ood-fast")
    assert (PROTOCOLS["quick"].episodes, PROTOCOLS["full"].episodes) == (32, 256)
    assert check_training_seed(6999) == 6999
    for seed in (EVALUATION_SEED, 7000, -1):
        with pytest.raises(ValueError, match="reserved"):
            check_training_seed(seed)

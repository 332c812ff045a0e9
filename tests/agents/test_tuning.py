"""Constants by search on tuning episodes."""

from __future__ import annotations

import pytest

from agents.practice.tuning import tune, tuning_parser
from qkd_gym.envs.core import strong
from qkd_gym.evaluation.runner import evaluate
from tests.evaluation.test_runner import LinearPolicy, WindyWalk

ENV = WindyWalk()


def test_the_best_of_the_grid_is_found(capsys):
    gains = (0.0, 2.0, 4.0, 8.0)
    found = tune(ENV, LinearPolicy(gain=0.0), {"gain": gains}, episodes=16, seed=3)
    by_hand = {gain: evaluate(ENV, strong(LinearPolicy(gain=gain)), 16, 3).returns.mean() for gain in gains}
    assert found.gain == max(by_hand, key=by_hand.__getitem__) > 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"gain = {found.gain}")


def test_of_equals_the_present_constant_stays():
    grid = {"gain": (4.0 + 1e-12,)}
    assert tune(ENV, LinearPolicy(gain=4.0), grid, episodes=16, seed=3, rounds=1).gain == 4.0


def test_seeds_of_scoring_are_refused(capsys):
    with pytest.raises(ValueError, match="7001 is reserved"):
        tune(ENV, LinearPolicy(), {}, episodes=4, seed=7001)
    with pytest.raises(SystemExit, match="2"):
        tuning_parser("walk", None, ["steer"]).parse_args(["--seed", "7001"])
    assert "7001 is reserved for scoring" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agents", "nobody"], ("nobody", "steer")),
        (["--episodes", "0"], ("--episodes", "'0'", "at least 1")),
        (["--rounds", "-1"], ("--rounds", "'-1'", "at least 1")),
        (["--seed", "one"], ("--seed", "'one'", "whole number")),
    ],
)
def test_the_commands_say_what_is_allowed(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        tuning_parser("walk", None, ["steer"]).parse_args(arguments)
    error = capsys.readouterr().err
    assert all(word in error for word in said), error

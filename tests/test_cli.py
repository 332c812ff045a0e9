"""The command: what it prints, and one line and status 2 for what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from qkd_gym import cli, registration, rendering
from qkd_gym.evaluation import scores
from qkd_gym.evaluation.agent import PassiveAgent
from qkd_gym.evaluation.policy_file import PolicySpec, save_policy
from qkd_gym.evaluation.runner import evaluate
from qkd_gym.evaluation.scores import Anchor
from tests.evaluation import onnx_writer as onnx
from tests.evaluation.test_policy_file import random_weights
from tests.toys import Walk

TOYS = {"qkd/Walk-v0": "tests.toys:Walk", "qkd/Meet-v0": "tests.toys:Meet"}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The command sees the toy tasks and nothing else, so that these tests are quick."""
    for module in (cli, registration):
        monkeypatch.setattr(module, "TASKS", TOYS)


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def policy(tmp_path):
    spec = PolicySpec.for_env(Walk(), hidden=(4,))
    return save_policy(tmp_path / "mine.safetensors", spec, random_weights(spec))


def test_list_and_info(run):
    status, out, _ = run("list")
    assert status == 0
    for word in ("qkd/Walk-v0", "ood-fast", "Keep a random walk near zero", "agents: a, b, c"):
        assert word in out
    status, out, _ = run("info", "Meet")
    assert status == 0 and "gymnasium.make('qkd/Meet-v0')" in out and "MultiDiscrete([3 3 3])" in out
    status, out, _ = run("info", "Walk")
    assert status == 0
    for word in ("Box(-1.0, 1.0, (1,), float32)", "fast walks", "drift", "1/step", "0 ... 1", "distance", "passive"):
        assert word in out


def test_evaluate(run, policy):
    status, out, err = run("evaluate", "qkd/Walk-v0", "--agent", "passive", "--episodes", "8")
    assert status == 0 and err == ""
    assert "8 episodes" in out and "benchmarks.reference --tasks Walk" in out
    status, out, _ = run(
        "evaluate", "Walk", "--agent", str(policy), "--episodes", "8", "--json", "--scenario", "ood-fast"
    )
    report = json.loads(out)
    assert status == 0
    assert (report["env_id"], report["scenario"], report["episodes"]) == ("qkd/Walk-v0", "ood-fast", 8)
    assert report["role"] == "learned" and report["score"] is None and report["violations"] is None
    assert report["return"]["low"] <= report["return"]["value"] <= report["return"]["high"]


def test_evaluate_on_the_frozen_episodes(run, monkeypatch):
    """Fewer of them are scored against the same ones, other ones against the means; the output says which."""
    seed, returns = 7001, evaluate(Walk(), PassiveAgent.of(Walk()), 16, seed=7001).returns
    scale = {"zero": Anchor.of("passive", returns, seed), "one": Anchor.of("seer", returns + 1, seed)}
    anchors = {name: dataclasses.asdict(anchor) for name, anchor in scale.items()}
    data = {"schema": scores.SCHEMA, "tasks": {"qkd/Walk-v0": {"scenarios": {"training": anchors}}}}
    monkeypatch.setattr(scores, "_shipped", lambda: data)
    command = ("evaluate", "Walk", "--agent", "passive", "--json", "--episodes", "8")
    report = json.loads(run(*command)[1])
    assert report["paired"] and report["score"]["value"] == pytest.approx(0, abs=1e-4)  # five digits are kept
    assert report["score"]["high"] - report["score"]["low"] < 1e-4
    report = json.loads(run(*command, "--seed", "3")[1])
    assert not report["paired"] and report["score"]["high"] - report["score"]["low"] > 0.1
    assert "the first 16 of seed 7001" in run(*(a for a in command if a != "--json"), "--seed", "3")[1]


def test_evaluate_onnx(run, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "still.onnx"
    nodes = [onnx.node("MatMul", ["obs", "nothing"], "action")]
    constants = [onnx.constant("nothing", np.zeros((2, 1)))]
    path.write_bytes(onnx.model(nodes, constants, [onnx.value("obs", 2)], [onnx.value("action", 1)]))
    returns = []
    for agent in (str(path), "passive"):
        status, out, _ = run("evaluate", "Walk", "--agent", agent, "--episodes", "8", "--json")
        assert status == 0
        returns.append(json.loads(out)["return"]["value"])
    assert returns[0] == pytest.approx(returns[1], rel=1e-5)


def test_a_rollout_of_several_agents(run):
    status, out, _ = run("rollout", "Meet", "--agent", "random", "--steps", "3", "--seed", "4")
    assert status == 0 and "3 steps, stopped" in out and "of the agents: a 3.0000, b " in out


def test_rollout_prints_and_draws(run, tmp_path, monkeypatch):
    drawn = []

    class Renderer:
        def __init__(self, env):
            self.time = 0

        def add(self, episode, action, info):
            assert (action is None) == (not info)
            self.time = int(episode.time)

        def frame(self):
            drawn.append(self.time)
            return np.full((8, 8, 3), 30 * self.time, np.uint8)

    monkeypatch.setattr(rendering, "renderer", Renderer)
    path = tmp_path / "walk.gif"
    status, out, _ = run("rollout", "Walk", "--agent", "passive", "--render", str(path), "--frames", "4", "--seed", "2")
    assert status == 0 and "7 steps, ended" in out and "distance" in out
    assert drawn == [0, 2, 4, 6, 7]
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.n_frames == 5 and picture.size == (8, 8)
    drawn.clear()
    still = tmp_path / "walk.png"
    status, out, _ = run("rollout", "Walk", "--agent", "random", "--render", str(still), "--steps", "3")
    assert status == 0 and "3 steps, stopped" in out and drawn == [3] and still.stat().st_size > 0


def test_refusals_are_one_line_with_status_2(run, policy, tmp_path):
    zipped = tmp_path / "model.zip"
    zipped.write_bytes(b"PK\x03\x04")
    cases = [
        (("evaluate", "Wolk", "--agent", "random"), "Did you mean 'qkd/Walk-v0'?"),
        (("info", "Nothing"), "The tasks are: qkd/Meet-v0, qkd/Walk-v0"),
        (("evaluate", "Walk", "--agent", "random", "--scenario", "sunny"), "it has: training, ood-fast"),
        (("evaluate", "Walk", "--agent", "best"), "there are: random, passive"),
        (("evaluate", "Walk", "--agent", "gone.safetensors"), "no such file"),
        (("evaluate", "Walk", "--agent", "gone.onnx"), "no such file"),
        (("evaluate", "Walk", "--agent", str(zipped)), "never loaded"),
        (("evaluate", "Meet", "--agent", str(policy)), "trained for qkd/Walk-v0"),
        (("evaluate", "Walk", "--agent", "random", "--episodes", "none"), "whole number of at least 1"),
        (("evaluate", "Walk"), "--agent"),
        (("rollout", "Walk", "--agent", "random", "--render", "walk.mp4"), ".gif"),
        (("rollout", "Walk", "--agent", "random", "--render", "no/such/folder/walk.gif"), "no folder"),
        (("rollout", "Walk", "--agent", "random", "--render", str(tmp_path / "walk.gif")), "Walk has no picture"),
        (("dance",), "invalid choice"),
        ((), "COMMAND"),
    ]
    for arguments, message in cases:
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err and err.count("\n") == 1 and err.startswith("qkd-gym: "), err


def test_help_teaches(capsys):
    for arguments in (["--help"], ["evaluate", "--help"], ["rollout", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
        assert "examples:" in capsys.readouterr().out


def test_it_is_installed():
    command = shutil.which("qkd-gym", path=sys.prefix + "/bin") or shutil.which("qkd-gym")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("qkd-gym ")

"""The command that trains: runs that resume, files that are refused, requests that make no sense."""

from __future__ import annotations

import json
import signal

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from agents.jax import train as command
from agents.jax.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from agents.jax.ppo import Trainer
from qkd_gym.evaluation.policy_file import read_spec

WALK = "tests.toys:Walk"
OPTIONS = ["--num-envs", "8", "--rollout-steps", "16", "--hidden", "8", "--steps", "1024", "--minibatches", "2"]


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run(*arguments):
    return command.main(["--env", WALK, *OPTIONS, *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert run("--out", out, "--protocol", "quick", "--evaluation-seed", 3) == 0
    return out


def test_a_run_leaves_policies_a_curve_and_a_result(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["environment_steps"] == 1024 and result["evaluation"][0]["episodes"] == 32
    assert set(result["evaluation"][0]["returns"]["seeds"]) == {"0"}
    spec = read_spec(finished / "policy-seed0.safetensors")
    assert spec.env_id == "qkd/Walk-v0" and spec.hidden == (8,) and spec.provenance["training_seed"] == 0
    curve = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert curve[-1]["steps"] == 1024 and len(curve[-1]["episode_return"]) == 1


def test_a_finished_run_is_not_repeated(finished, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained again"))
    assert run("--out", finished) == 0
    assert "finished already" in capsys.readouterr().out


def test_an_interrupted_run_resumes_to_the_same_bits(finished, tmp_path, monkeypatch, capsys):
    whole = Trainer.run

    def cut(self, state, updates):
        signal.raise_signal(signal.SIGINT)
        return whole(self, state, updates)

    monkeypatch.setattr(Trainer, "run", cut)
    assert run("--out", tmp_path, "--protocol", "none") == 130
    assert "resumes" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
    with (tmp_path / "metrics.jsonl").open("a") as curve:  # as if killed after the checkpoint, in mid-line
        curve.write('{"steps": 999999}\n{"steps": 12')
    monkeypatch.setattr(Trainer, "run", whole)
    assert run("--out", tmp_path, "--protocol", "none") == 0
    ours, theirs = (load_file(folder / "policy-seed0.safetensors") for folder in (tmp_path, finished))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    steps = [json.loads(line)["steps"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 1024


def test_another_configuration_does_not_take_the_folder(finished, capsys):
    assert run("--out", finished, "--gamma", "0.5") == 2
    assert "gamma: 0.99 there, 0.5 asked for" in capsys.readouterr().err


# --- checkpoints ------------------------------------------------------------------------------------------------------

TREE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": (np.int32(3), np.array([True, False]))}


def tree():
    return {**TREE, "key": jax.random.key(7, impl="threefry2x32")}


def test_checkpoints_return_what_was_saved(tmp_path):
    save_checkpoint(tmp_path / "c", tree(), {"updates": 3})
    loaded, header = load_checkpoint(tmp_path / "c", jax.eval_shape(tree))
    assert header == {"updates": 3}
    assert jax.random.key_data(loaded["key"]).tolist() == jax.random.key_data(tree()["key"]).tolist()
    for name in ("a", "b"):
        jax.tree.map(np.testing.assert_array_equal, loaded[name], TREE[name])


def flip(data):
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (flip, "checksum"),
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: b"\x80\x04K\x01.", "damaged"),  # a pickle
        (lambda data: data.replace(b"checkpoint/1", b"checkpoint/9"), "format"),
    ],
)
def test_spoilt_checkpoints_are_refused(tmp_path, spoil, word):
    save_checkpoint(tmp_path / "c", tree(), {})
    (tmp_path / "c").write_bytes(spoil((tmp_path / "c").read_bytes()))
    with pytest.raises(CheckpointError, match=word):
        load_checkpoint(tmp_path / "c", jax.eval_shape(tree))


def test_checkpoints_of_another_program_are_refused(tmp_path):
    save_checkpoint(tmp_path / "c", tree(), {})
    with pytest.raises(CheckpointError, match="differs in c"):
        load_checkpoint(tmp_path / "c", jax.eval_shape(lambda: {**tree(), "c": np.float32(0)}))
    with pytest.raises(CheckpointError, match=r"a is float32\(2, 3\), but this program wants float32\(2, 2\)"):
        load_checkpoint(tmp_path / "c", jax.eval_shape(lambda: {**tree(), "a": np.zeros((2, 2), np.float32)}))


def test_a_run_does_not_resume_from_a_spoilt_checkpoint(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained"))
    checkpoint = tmp_path / "checkpoint.safetensors"
    save_checkpoint(checkpoint, tree(), {"run": "another"})
    assert run("--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert "cannot resume" in error and "another version of the program" in error and error.count("\n") == 1
    assert checkpoint.exists()


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--env", "Walking"], "The tasks are: "),
        (["--env", "tests.toys:Wolk"], "cannot import the task 'tests.toys:Wolk'"),
        (["--env", "no.such:Task"], "module:Class"),
        (["--env", "tests.toys:WalkState"], "no subclass of"),
        (["--env", WALK, "--scenario", "ood-slow"], "it has: training, ood-fast"),
        (["--env", WALK, "--minibatches", "7"], "must divide"),
        (["--env", WALK, "--gamma", "1.5"], "gamma = 1.5 must lie in"),
        (["--env", WALK, "--seed", "6999", "--seeds", "2"], "seed 7000 is reserved for scoring"),
        (["--env", WALK, "--config", "no-such.yaml"], "cannot read no-such.yaml"),
    ],
)
def test_bad_requests_name_what_is_allowed(arguments, word, capsys, tmp_path):
    assert command.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("gama: 0.9", "unknown option gama; there are: steps"),
        ("gamma: high", "gamma = 'high' is not valid"),
        ("steps: 1.5", "not a whole number"),
        ("bootstrap: 1", "true or false"),
        ("- 1", "must hold a mapping"),
        ("{", "is no YAML"),
    ],
)
def test_bad_files_are_refused(text, word, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(command.UsageError, match=word):
        command.configure("qkd/Walk-v0", tmp_path / "c.yaml")


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nhidden: [32, 32]\ngamma: 0.9\nsteps: 2e6\n")
    config = command.configure("qkd/Walk-v0", tmp_path / "c.yaml", {"gamma": 0.8})
    assert (config.learning_rate, config.hidden, config.gamma, config.steps) == (1e-3, (32, 32), 0.8, 2_000_000)


def test_the_hyperparameters_of_every_task_are_valid():
    from agents import runs
    from qkd_gym.registration import TASKS

    book = runs.read_yaml(command.HYPERPARAMETERS)
    assert set(book) <= {"defaults", *TASKS}
    for task in TASKS:
        command.configure(task)

"""Training with SB3: a short run of each kind, its policy file, and what is refused."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

pytest.importorskip("sb3_contrib")

from agents.sb3 import train as command
from agents.sb3.policy import NotExportable, SB3Policy, export
from qkd_gym.adapters.sb3 import make_vec_env
from qkd_gym.evaluation.policy_file import load_policy, save_policy
from qkd_gym.evaluation.runner import evaluate, evaluate_vector
from tests.agents.tasks import Recall
from tests.toys import Walk

WALK = "tests.toys:Walk"
PPO = ["--algo", "ppo", "--steps", "512", "--n-envs", "8", "--set", "n_steps=16", "batch_size=64"]


def run(*arguments, env=WALK):
    return command.main(["--env", env, *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert run(*PPO, "--out", out, "--protocol", "quick", "--evaluation-seed", 3) == 0
    return out


def test_a_run_leaves_a_policy_logs_and_a_result(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["environment_steps"] == 512 and result["evaluation"][0]["episodes"] == 32
    load_policy(finished / "policy-seed0.safetensors", Walk())
    assert list((finished / "tensorboard").glob("events*"))
    assert json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])["steps"] == 512


def test_a_finished_run_is_not_repeated(finished, capsys, monkeypatch):
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("trained again"))
    assert run(*PPO, "--out", finished) == 0
    assert "finished already" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    whole = command.Interrupt.__bool__
    monkeypatch.setattr(command.Interrupt, "__enter__", _asking(command.Interrupt.__enter__))
    assert run(*PPO, "--out", tmp_path, "--protocol", "none") == 130
    assert "interrupted after 8 steps" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.Interrupt.__bool__ is whole
    assert run(*PPO, "--out", tmp_path, "--protocol", "none") == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert 512 <= result["environment_steps"] <= 512 + 8 * 16
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1


def _asking(enter):
    def asked(self):
        entered = enter(self)
        signal.raise_signal(signal.SIGINT)
        return entered

    return asked


def test_files_that_the_run_did_not_note_are_never_loaded(finished, tmp_path, capsys, monkeypatch):
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    model = next(out.glob("checkpoint-*")) / "model.zip"
    model.write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    monkeypatch.setattr("stable_baselines3.PPO.load", lambda *_, **__: pytest.fail("unpickled"))
    assert run(*PPO, "--out", out) == 2
    assert "not those that" in capsys.readouterr().err


@pytest.mark.parametrize("algo", ["PPO", "SAC", "TD3", "DQN", "A2C", "MaskablePPO"])
def test_an_exported_policy_acts_as_the_model(algo, tmp_path):
    from stable_baselines3.common.vec_env import VecNormalize

    from agents.sb3.algorithms import ALGORITHMS, algorithm_class

    task = Recall() if algo in ("DQN", "MaskablePPO") else Walk()
    env = VecNormalize(make_vec_env(task, 2, seed=0))
    name = next(name for name, where in ALGORITHMS.items() if where.endswith(f":{algo}"))
    model = algorithm_class(name)("MlpPolicy", env, seed=0, device="cpu")
    env.obs_rms.mean, env.obs_rms.var = np.array([0.2, -0.1]), np.array([0.5, 2.0])
    file = save_policy(tmp_path / "p.safetensors", *export(task, model, env))
    theirs = evaluate_vector(task, SB3Policy(model, env), 16, 3)
    ours = evaluate(task, load_policy(file, task), 16, 3)
    # The same arithmetic in float32, in torch and in JAX, over episodes of a few steps.
    np.testing.assert_allclose(ours.returns, theirs.returns, atol=1e-4)


def test_a_recurrent_model_is_evaluated_with_its_memory():
    from sb3_contrib import RecurrentPPO

    env = make_vec_env(Walk(), 2, seed=0)
    model = RecurrentPPO("MlpLstmPolicy", env, seed=0, device="cpu", policy_kwargs={"lstm_hidden_size": 8})
    with pytest.raises(NotExportable, match="RecurrentPPO"):
        export(Walk(), model)
    policy = SB3Policy(model)
    observations = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    policy.start(4)
    with_memory = [policy.act(obs, None) for obs in observations]
    policy.start(4)
    np.testing.assert_array_equal(policy.act(observations[0], None), with_memory[0])
    policy.start(4)
    assert not np.array_equal(policy.act(observations[2], None), with_memory[2])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--algo", "ppo", "--set", "n_stepz=3"], "ppo has no option n_stepz; it has: "),
        (["--algo", "ppo", "--set", "learning_rate=fast"], "learning_rate = 'fast' is unknown"),
        (["--algo", "ppo", "--set", "gamma"], "must be name=value"),
        (["--algo", "dqn"], "dqn refuses this"),
        (["--algo", "sac", "--seed", "7001"], "reserved for scoring"),
        (["--algo", "sac", "--steps", "0"], "steps = 0"),
        (["--algo", "sac", "--n-envs", "0"], "n_envs = 0"),
        (["--algo", "sac", "--scenario", "ood-slow"], "it has: training, ood-fast"),
    ],
)
def test_bad_requests_name_what_is_allowed(arguments, word, capsys, tmp_path):
    assert run(*arguments, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_multi_agent_tasks_are_refused(capsys, tmp_path):
    assert run("--algo", "ppo", "--out", tmp_path / "run", env="tests.toys:Meet") == 2
    assert "3 agents" in capsys.readouterr().err


def test_the_hyperparameters_are_options_that_the_algorithms_have():
    from agents import runs
    from agents.sb3.algorithms import ALGORITHMS, HYPERPARAMETERS, options
    from qkd_gym.registration import TASKS

    book = runs.read_yaml(HYPERPARAMETERS)
    assert set(book) <= {"defaults", *TASKS}
    for task in ("qkd/Other-v0", *TASKS):
        for algo in ALGORITHMS:
            options(algo, task)

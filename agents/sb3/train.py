"""Train an SB3 or sb3-contrib algorithm: ``python -m agents.sb3.train --env DecoyBlock --algo sac --steps 1e6``."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents import runs
from agents.runs import Evaluation, Interrupt, Run, UsageError
from agents.sb3.algorithms import ALGORITHMS, OWN, algorithm_class, build, options

DESCRIPTION = """\
Train an algorithm of Stable-Baselines3 or sb3-contrib on a task.

Options come from the command line, else from --config FILE, else from agents/sb3/hyperparameters.yaml. The run lives
in a folder tied to its configuration: the same command resumes a run that was cut and does nothing if it is finished.
A resumed run starts its episodes anew, so it is not the uninterrupted run to the bit.

Checkpoints are SB3's own files, which are pickles: loading one runs whatever code is in it. They are read only from
the run's own folder, and only if they are the ones that the run itself noted there by checksum. The trained policy is
saved as safetensors where its network allows (multi-layer perceptrons); that file is the one to share.
"""
EPILOG = """\
examples:
  python -m agents.sb3.train --env DecoyBlock --algo ppo --steps 1e6
  python -m agents.sb3.train --env PolarizationAlignment --algo recurrent_ppo --steps 2e6 --seed 3
  python -m agents.sb3.train --env DecoyBlock --algo sac --steps 2e5 --set gamma=0.95 learning_rate=1e-3
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 with one line on stderr for a wrong request; 130 if interrupted (the same command resumes)."""
    try:
        return _main(_parser().parse_args(argv))
    except UsageError as error:
        print(f"agents.sb3.train: {error}", file=sys.stderr)
        return 2


def _main(arguments: argparse.Namespace) -> int:
    from qkd_gym.evaluation.protocol import check_training_seed

    env = runs.task(arguments.env, arguments.scenario)
    try:
        check_training_seed(arguments.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if arguments.steps < 1:
        raise UsageError(f"steps = {arguments.steps} must be at least 1")
    given = dict(_assignment(text) for text in arguments.set) | {"n_envs": arguments.n_envs}
    values = options(arguments.algo, env.id, arguments.config, given)
    facts = {"trainer": "agents.sb3", "env": env.id, "scenario": env.scenario, "algo": arguments.algo}
    facts |= {"steps": arguments.steps, "seed": arguments.seed, "options": values}
    run = Run("sb3", facts, arguments.out)
    evaluation = None if arguments.protocol == "none" else Evaluation(arguments.protocol, arguments.evaluation_seed)
    with run.opened():
        if run.finished:
            print(f"finished already: {run.result_file}")
            return 0
        return train(env, arguments, values, run, evaluation)


def train(
    env: Any, arguments: argparse.Namespace, values: Mapping[str, Any], run: Run, evaluation: Evaluation | None
) -> int:
    """Train to the end, or until interrupted, in the folder of `run`."""
    import torch
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.vec_env import VecNormalize

    from qkd_gym.adapters.sb3 import make_vec_env

    torch.set_num_threads(arguments.threads)
    try:
        vec_env = make_vec_env(env, values["n_envs"], seed=arguments.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    checkpoints = Checkpoints(run)
    held = checkpoints.latest()
    if values["normalize_observations"] or values["normalize_rewards"]:
        if held:
            vec_env = VecNormalize.load(str(held / "normalizer.pkl"), vec_env)
        else:
            norm = {"norm_obs": values["normalize_observations"], "norm_reward": values["normalize_rewards"]}
            vec_env = VecNormalize(vec_env, **norm, gamma=values.get("gamma", 0.99))
    if held:
        model = algorithm_class(arguments.algo).load(held / "model.zip", env=vec_env, device=arguments.device)
        if (held / "replay.pkl").is_file():
            model.load_replay_buffer(held / "replay.pkl")
    else:
        model = build(arguments.algo, vec_env, values, arguments.seed, arguments.device)
    model.set_logger(configure(str(run.folder / "tensorboard"), ["tensorboard"]))
    run.rewind_log(model.num_timesteps)
    watch = runs.Stopwatch(checkpoints.seconds)
    with Interrupt() as interrupt:
        callback = _callback(run, arguments, checkpoints, watch, interrupt)
        if model.num_timesteps < arguments.steps:
            left = arguments.steps - model.num_timesteps
            model.learn(left, callback=callback, reset_num_timesteps=False)
        checkpoints.save(model, watch.seconds)
    if model.num_timesteps < arguments.steps:
        print(f"interrupted after {model.num_timesteps} steps; the same command resumes", file=sys.stderr)
        return 130
    _conclude(env, arguments, run, model, evaluation, watch.seconds)
    vec_env.close()
    return 0


def _conclude(
    env: Any, arguments: argparse.Namespace, run: Run, model: Any, evaluation: Evaluation | None, seconds: float
) -> None:
    """Export the policy if its network allows, score it, and write the result."""
    import qkd_gym
    from agents.sb3.policy import NotExportable, SB3Policy, export
    from qkd_gym.evaluation.policy_file import load_policy, save_policy

    normalizer = model.get_vec_normalize_env()
    provenance = {**run.facts, "algorithm": arguments.algo, "training_seed": arguments.seed}
    file = None
    try:
        spec, weights = export(env, model, normalizer, provenance | {"qkd_gym": qkd_gym.__version__})
        file = save_policy(run.folder / f"policy-seed{arguments.seed}.safetensors", spec, weights)
        policy: Any = load_policy(file, env)
    except NotExportable as reason:
        print(f"kept as an SB3 checkpoint only: {reason}")
        policy = SB3Policy(model, normalizer)
    records = []
    if evaluation is not None:
        print("evaluating ...", flush=True)
        records = evaluation.play(env, {arguments.seed: policy})
        runs.print_evaluation(records)
    run.finish(
        {
            **run.facts,
            "environment_steps": model.num_timesteps,
            "seconds": round(seconds, 3),
            "policies": {str(arguments.seed): file.name} if file else {},
            "evaluation": records,
        }
    )
    print(f"done: {run.folder}")


class Checkpoints:
    """SB3's files in the run's folder; a note beside them names the valid ones and their checksums.

    The note is replaced atomically after the files are complete, so a cut leaves the checkpoint before.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._note = run, run.folder / "checkpoint.json"
        self.seconds = 0.0

    def latest(self) -> Path | None:
        """Folder of the last checkpoint, its files checked; None if there is none yet."""
        import json

        if not self._note.is_file():
            return None
        try:
            note = json.loads(self._note.read_text())
            folder = self._run.folder / Path(note["folder"]).name
            self.seconds = float(note["seconds"])
            intact = note["run"] == self._run.digest and all(
                _sha256(folder / Path(name).name) == checksum for name, checksum in note["files"].items()
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UsageError(f"cannot resume: {self._note} or what it names is damaged ({error})") from error
        if not intact:
            raise UsageError(f"cannot resume: the files in {folder} are not those that {self._note} notes; not loaded")
        return folder

    def save(self, model: Any, seconds: float) -> None:
        folder = self._run.folder / f"checkpoint-{model.num_timesteps}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model.save(folder / "model.zip")
        if (normalizer := model.get_vec_normalize_env()) is not None:
            normalizer.save(str(folder / "normalizer.pkl"))
        if getattr(model, "replay_buffer", None) is not None:
            model.save_replay_buffer(folder / "replay.pkl")
        files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
        note = {"run": self._run.digest, "folder": folder.name, "files": files, "seconds": round(seconds, 3)}
        runs.write_json(self._note, note | {"steps": model.num_timesteps})
        for old in self._run.folder.glob("checkpoint-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _callback(
    run: Run, arguments: argparse.Namespace, checkpoints: Checkpoints, watch: runs.Stopwatch, interrupt: Interrupt
) -> Any:
    """Bar, learning curve, checkpoints, and the end on request."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.utils import safe_mean
    from tqdm import tqdm

    class Callback(BaseCallback):
        def _on_training_start(self) -> None:
            quiet = not sys.stderr.isatty()
            self._bar = tqdm(
                total=arguments.steps, initial=self.num_timesteps, unit="step", unit_scale=True,
                mininterval=30 if quiet else 0.1,
            )  # fmt: skip
            self._saved = self._logged = time.monotonic()

        def _on_step(self) -> bool:
            self._bar.update(min(self.num_timesteps, arguments.steps) - self._bar.n)
            now = time.monotonic()
            if now - self._logged > 2.0:
                self._log(now)
            if now - self._saved > arguments.checkpoint_every:
                checkpoints.save(self.model, watch.seconds)
                self._saved = now
            return not interrupt

        def _log(self, now: float) -> None:
            self._logged = now
            episodes = [info["r"] for info in self.model.ep_info_buffer]
            if episodes:
                value = float(safe_mean(episodes))
                self._bar.set_postfix_str(f"return {value:.3f}", refresh=False)
                run.log({"steps": self.num_timesteps, "seconds": round(watch.seconds, 1), "episode_return": value})

        def _on_training_end(self) -> None:
            self._log(time.monotonic())
            self._bar.close()

    return Callback()


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {text!r} must be name=value")
    with contextlib.suppress(yaml.YAMLError):
        return name, yaml.safe_load(value)
    raise UsageError(f"--set {text!r}: the value is no YAML")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m agents.sb3.train",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--env", required=True, metavar="ID", help="a task (see qkd-gym list), or module:Class")
    parser.add_argument("--algo", required=True, choices=sorted(ALGORITHMS), metavar="NAME", help=", ".join(ALGORITHMS))
    parser.add_argument("--scenario", default="training", metavar="NAME", help="scenario to train on")
    parser.add_argument("--steps", type=_count, default=1_000_000, metavar="N", help="environment steps (1e6)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="training seed (0)")
    parser.add_argument(
        "--n-envs", type=_count, metavar="N", help=f"environments at once ({OWN['n_envs']} or the file's)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with options of the algorithm")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of the algorithm")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: one under runs/sb3)")
    parser.add_argument(
        "--protocol", choices=("quick", "full", "none"), default="full", help="evaluation at the end (full)"
    )
    parser.add_argument("--evaluation-seed", type=int, metavar="S", help="its seed (the protocol's; tune on another)")
    parser.add_argument("--checkpoint-every", type=float, default=300.0, metavar="S", help="seconds (300)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="torch device (cpu)")
    parser.add_argument("--threads", type=_count, default=1, metavar="N", help="torch threads (1)")
    return parser


def _count(text: str) -> int:
    try:
        return runs.number(text, int)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())

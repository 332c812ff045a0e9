"""Train PPO wholly in JAX: ``python -m agents.jax.train --env DecoyBlock --steps 5e6 --seeds 5``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents import runs
from agents.runs import Evaluation, Run, UsageError

HYPERPARAMETERS = Path(__file__).with_name("hyperparameters.yaml")
#: A compiled call is made to last about this long: the bar moves, and an interrupt is heeded, at its end.
CHUNK_S = 2.0

DESCRIPTION = """\
Train PPO on a task, environment and update in one compiled program.

Options not given here come from --config FILE, else from the task's entry in agents/jax/hyperparameters.yaml, else
from the defaults below. The run lives in a folder tied to its configuration: the same command resumes a run that was
cut (to the same bits, on the same machine) and does nothing if it is finished.
"""
EPILOG = """\
the folder holds:
  config.json             all that decides the result
  metrics.jsonl           the learning curve, one line every few seconds
  checkpoint.safetensors  parameters, optimiser, environments, key
  policy-seed<S>.safetensors  the trained policies; score one with `qkd-gym evaluate ID --agent FILE`
  result.json             the evaluation at the end

examples:
  python -m agents.jax.train --env DecoyBlock --steps 1e6
  python -m agents.jax.train --env PolarizationAlignment --memory gru --seeds 5 --out runs/gru
  python -m agents.jax.train --env my_package.tasks:MyTask --memory stack:8 --protocol none
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 with one line on stderr for a wrong request; 130 if interrupted (the same command resumes)."""
    try:
        return _main(argv)
    except UsageError as error:
        print(f"agents.jax.train: {error}", file=sys.stderr)
        return 2


def _main(argv: Sequence[str] | None) -> int:
    arguments = vars(_parser().parse_args(argv))
    own = {name: arguments.pop(name) for name in ("env", "scenario", "config", "out", "protocol", "evaluation_seed")}
    own |= {name: arguments.pop(name) for name in ("checkpoint_every", "tensorboard")}
    env = runs.task(own["env"], own["scenario"])
    config = configure(env.id, own["config"], {k: v for k, v in arguments.items() if v is not None})
    facts = {"trainer": "agents.jax", "env": env.id, "scenario": env.scenario, **dataclasses.asdict(config)}
    run = Run("jax", facts, own["out"])
    evaluation = None if own["protocol"] == "none" else Evaluation(own["protocol"], own["evaluation_seed"])
    if run.finished:
        with run.opened():
            print(f"finished already: {run.result_file}")
        return 0
    with run.opened():
        return train(env, config, run, evaluation, own["checkpoint_every"], own["tensorboard"])


def configure(env_id: str, file: Path | None = None, options: Mapping[str, Any] | None = None) -> Any:
    """The `Config` for a task: options over a file over the task's own hyperparameters over the defaults."""
    from agents.jax.ppo import Config
    from qkd_gym.evaluation.protocol import check_training_seed

    book = runs.read_yaml(HYPERPARAMETERS)
    values = dict(book.get("defaults") or {}) | dict(book.get(env_id) or {})
    if file is not None:
        values |= runs.read_yaml(file)
    values |= dict(options or {})
    kinds = typing.get_type_hints(Config)
    if unknown := sorted(set(values) - set(kinds)):
        raise UsageError(f"unknown option {', '.join(unknown)}; there are: {', '.join(kinds)}")
    try:
        config = Config(**{name: _convert(name, value, kinds[name]) for name, value in values.items()})
        check_training_seed(config.seed + config.seeds - 1)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return config


def train(
    env: Any,
    config: Any,
    run: Run,
    evaluation: Evaluation | None,
    checkpoint_every: float = 60.0,
    tensorboard: bool = False,
) -> int:
    """Train to the end, or until interrupted, in the folder of `run`."""
    import jax

    from agents.jax.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
    from agents.jax.ppo import Trainer

    jax.config.update("jax_compilation_cache_dir", str(runs.ROOT / ".cache" / "jax"))
    try:
        trainer = Trainer(env, config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    checkpoint = run.folder / "checkpoint.safetensors"
    if checkpoint.is_file():
        try:
            state, header = load_checkpoint(checkpoint, trainer.template)
        except CheckpointError as error:
            raise UsageError(f"cannot resume: {error}. Remove the file to start anew") from error
        if header["run"] != run.digest:
            raise UsageError(f"cannot resume: {checkpoint} belongs to the run {header['run']}, not to {run.digest}")
    else:
        state, header = trainer.init(), {"run": run.digest, "updates": 0, "seconds": 0.0}
    per_update = config.num_envs * config.rollout_steps
    run.rewind_log(header["updates"] * per_update)
    curve = _Curve(run, config, header["updates"] * per_update, tensorboard)
    watch, saved = runs.Stopwatch(header["seconds"]), time.monotonic()
    done, chunk = header["updates"], 1
    with runs.Interrupt() as interrupt:
        while done < config.updates and not interrupt:
            chunk = min(chunk, config.updates - done)
            start = time.monotonic()
            state, metrics = trainer.run(state, chunk)
            elapsed = time.monotonic() - start
            done += chunk
            curve.add(done * per_update, chunk * per_update, elapsed, metrics)
            # The first call also compiled; from then on aim at calls of about the same length.
            chunk = max(1, min(2 * chunk, round(chunk * CHUNK_S / elapsed)))
            if time.monotonic() - saved > checkpoint_every or done == config.updates or interrupt:
                header = {"run": run.digest, "updates": done, "seconds": round(watch.seconds, 3)}
                save_checkpoint(checkpoint, state, header)
                saved = time.monotonic()
    curve.close()
    if done < config.updates:
        print(f"interrupted after {done * per_update} steps; the same command resumes", file=sys.stderr)
        return 130
    _conclude(env, config, run, trainer, state, header, evaluation)
    return 0


def _conclude(
    env: Any, config: Any, run: Run, trainer: Any, state: Any, header: Mapping[str, Any], evaluation: Evaluation | None
) -> None:
    """Save the policies, score what was saved, and write the result."""
    import jax

    import qkd_gym
    from agents.jax.policy import export
    from qkd_gym.evaluation.policy_file import load_policy, save_policy

    files = {}
    for i, seed in enumerate(trainer.seeds):
        provenance = {**run.facts, "algorithm": "PPO", "training_seed": seed, "qkd_gym": qkd_gym.__version__}
        spec, weights = export(env, config, jax.tree.map(lambda x, i=i: x[i], state), provenance)
        files[seed] = save_policy(run.folder / f"policy-seed{seed}.safetensors", spec, weights)
    records = []
    if evaluation is not None:
        print("evaluating ...", flush=True)
        records = evaluation.play(env, {seed: load_policy(file, env) for seed, file in files.items()})
        runs.print_evaluation(records)
    run.finish(
        {
            **run.facts,
            "environment_steps": config.updates * config.num_envs * config.rollout_steps,
            "seconds": header["seconds"],
            "policies": {str(seed): file.name for seed, file in files.items()},
            "evaluation": records,
        }
    )
    print(f"done: {run.folder}")


class _Curve:
    """The learning curve: a bar on the terminal, lines in a file, and TensorBoard if asked for."""

    def __init__(self, run: Run, config: Any, steps: int, tensorboard: bool) -> None:
        from tqdm import tqdm

        self._run, self._seeds = run, config.seeds
        total = config.updates * config.num_envs * config.rollout_steps
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=steps, unit="step", unit_scale=True, mininterval=30 if quiet else 0.1)
        self._writer = None
        if tensorboard:
            from tensorboard.summary import Writer

            self._writer = Writer(str(run.folder / "tensorboard"))

    def add(self, steps: int, new: int, seconds: float, metrics: Mapping[str, Any]) -> None:
        import numpy as np

        rate = new * self._seeds / seconds
        returns = metrics["episode_return"]
        record = {name: [None if np.isnan(v) else float(v) for v in values] for name, values in metrics.items()}
        self._run.log({"steps": steps, "steps_per_s": round(rate), **record})
        if np.isfinite(returns).any():
            self._bar.set_postfix_str(f"return {np.nanmean(returns):.3f}, {rate:,.0f} steps/s all seeds", refresh=False)
        self._bar.update(new)
        if self._writer is not None:
            for name, values in metrics.items():
                for seed, value in enumerate(values):
                    self._writer.add_scalar(f"{name}/{seed}", float(value), step=steps)
            self._writer.flush()

    def close(self) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


# --- command line -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from agents.jax.ppo import Config

    parser = argparse.ArgumentParser(
        "python -m agents.jax.train",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--env", required=True, metavar="ID", help="a task (see qkd-gym list), or module:Class")
    parser.add_argument("--scenario", default="training", metavar="NAME", help="scenario to train on")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with options of this command")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: one under runs/jax)")
    parser.add_argument(
        "--protocol", choices=("quick", "full", "none"), default="full", help="evaluation at the end (default: full)"
    )
    parser.add_argument(
        "--evaluation-seed", type=int, metavar="S", help="its seed (default: the protocol's; tune on another)"
    )
    parser.add_argument(
        "--checkpoint-every", type=float, default=60.0, metavar="S", help="seconds between checkpoints (default: 60)"
    )
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs")
    group = parser.add_argument_group("hyperparameters, with their defaults")
    kinds = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        flag, kind = "--" + field.name.replace("_", "-"), kinds[field.name]
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default).lower()
        text = f"{field.metadata['doc']} ({default})"
        if kind is bool:
            parser_kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            convert = functools.partial(_argument, field.name, kind=kind)
            parser_kind = {"type": convert, "metavar": kind.__name__.upper() if kind in (int, float, str) else "N,N"}
        group.add_argument(flag, default=None, help=text, **parser_kind)
    return parser


def _argument(name: str, text: str, kind: Any) -> Any:
    try:
        return _convert(name, text, kind)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _convert(name: str, value: Any, kind: Any) -> Any:
    """A value from YAML or the command line as the field's type."""
    try:
        if kind in (int, float):
            return runs.number(value, kind)
        if kind is bool:
            if not isinstance(value, bool):
                raise ValueError("true or false")
            return value
        if kind is str:
            return str(value)
        parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        return tuple(runs.number(part, int) for part in parts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} = {value!r} is not valid: {error}") from error


if __name__ == "__main__":
    sys.exit(main())

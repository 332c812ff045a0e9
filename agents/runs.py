"""What the trainers share: naming a task, options from YAML, and run folders that resume and repeat nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib
import json
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import qkd_gym
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.agent import Agent
from qkd_gym.evaluation.protocol import PROTOCOLS
from qkd_gym.evaluation.runner import EpisodeResults, evaluate, evaluate_vector
from qkd_gym.evaluation.scores import MissingReference, physical, reference_for, score
from qkd_gym.evaluation.soundness import violations
from qkd_gym.evaluation.statistics import Interval, bootstrap, iqm, stratified_bootstrap
from qkd_gym.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]


class UsageError(Exception):
    """What was asked for cannot be done; the message says why and what can."""


# --- what to train ----------------------------------------------------------------------------------------------------


def task(name: str, scenario: str) -> Environment:
    """A registered id, or ``module:Class`` for a task of your own."""
    try:
        if ":" not in name:
            return qkd_gym.make(name, scenario=scenario)
        module, _, attribute = name.partition(":")
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot import the task {name!r} ({error}); give an id, or module:Class") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not (isinstance(cls, type) and issubclass(cls, Environment)):
        raise UsageError(f"{name!r} is no subclass of qkd_gym.envs.core.Environment")
    try:
        return cls(scenario=scenario)
    except ValueError as error:
        raise UsageError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold a mapping of option: value, not a {type(values).__name__}")
    return values


def number(value: Any, kind: type[int] | type[float]) -> Any:
    """`value` as a number; YAML 1.1 reads ``3e-4`` as text, and people write ``1_000_000`` and ``2e6`` for counts."""
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    as_float = float(value)
    if kind is float:
        return as_float
    if as_float != int(as_float):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value) if isinstance(value, int) else int(as_float)


# --- run folders ------------------------------------------------------------------------------------------------------


def digest(facts: Mapping[str, Any]) -> str:
    """A short name for a configuration."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


class Run:
    """A folder that belongs to one configuration: it resumes a run that was cut, and knows one that is finished.

    Args:
        facts: all that decides the result, as plain data; the folder is tied to its hash.
        folder: where; None: a folder under `runs/` named by task, scenario and hash.
    """

    def __init__(self, trainer: str, facts: Mapping[str, Any], folder: Path | None) -> None:
        self.facts = json.loads(json.dumps(facts))
        self.digest = digest(self.facts)
        task = facts["env"].replace("/", "-").replace(":", "-")
        self.folder = folder or Path("runs") / trainer / task / f"{facts['scenario']}-{self.digest}"

    @property
    def finished(self) -> bool:
        return self.result_file.is_file()

    @property
    def result_file(self) -> Path:
        return self.folder / "result.json"

    @property
    def log_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Run]:
        """Claim the folder for this process; refuse one that holds another configuration."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process is training in {self.folder}") from None
            self._check_owner()
            yield self

    def _check_owner(self) -> None:
        config = self.folder / "config.json"
        if not config.is_file():
            write_json(config, self.facts)
            return
        try:
            held = json.loads(config.read_text())
        except ValueError as error:
            raise UsageError(f"{config} is damaged ({error}); remove the folder to start anew") from error
        if held != self.facts:
            different = sorted(k for k in held.keys() | self.facts.keys() if held.get(k) != self.facts.get(k))
            changes = "; ".join(f"{k}: {held.get(k)!r} there, {self.facts.get(k)!r} asked for" for k in different)
            raise UsageError(f"{self.folder} holds a run of another configuration ({changes}); choose another --out")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the learning curve."""
        with self.log_file.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def rewind_log(self, steps: int) -> None:
        """Drop what was logged after the checkpoint of `steps`: those steps will be taken again."""
        if not self.log_file.is_file():
            return
        kept = []
        for line in self.log_file.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError):  # the last line may be torn
                if json.loads(line)["steps"] <= steps:
                    kept.append(line)
        write_atomic(self.log_file, "".join(line + "\n" for line in kept).encode())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, which marks the run as finished."""
        write_json(self.result_file, result)


# --- evaluation at the end --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How trained policies are scored. Tune on a seed of your own; the protocol's seed is for the last word."""

    protocol: str = "full"
    seed: int | None = None

    def play(self, env: Environment, policies: Mapping[int, Any]) -> list[dict[str, Any]]:
        """Play the protocol with a policy a training seed. One record a scenario.

        An `Agent` is compiled with its episodes; anything else is a `VectorPolicy`.
        """
        protocol = PROTOCOLS[self.protocol]
        seed = protocol.seed if self.seed is None else self.seed
        records = []
        for scenario in dict.fromkeys((env.scenario, *protocol.scenarios(env))):
            there = dataclasses.replace(env, scenario=scenario)
            results = {
                s: (evaluate if isinstance(p, Agent) else evaluate_vector)(there, p, protocol.episodes, seed)
                for s, p in policies.items()
            }
            records.append(_record(there, results, protocol.episodes, seed))
        return records


def _record(env: Environment, results: Mapping[int, EpisodeResults], episodes: int, seed: int) -> dict[str, Any]:
    record: dict[str, Any] = {"scenario": env.scenario, "episodes": episodes, "evaluation_seed": seed}
    returns = [bootstrap(np.where(violations(r), 0.0, r.returns)) for r in results.values()]
    record["returns"] = _over_seeds(returns, list(results))
    record["violations"] = int(sum(violations(r).sum() for r in results.values()))
    with contextlib.suppress(MissingReference):
        reference = reference_for(env)
        lines = [score(r, reference) for r in results.values()]
        record["scores"] = _over_seeds([line.score for line in lines], list(results))
    first = next(iter(results.values()))
    record["physical"] = {unit: dataclasses.asdict(interval) for unit, interval in physical(first).items()}
    return record


def _over_seeds(intervals: list[Interval], seeds: list[int]) -> dict[str, Any]:
    """Each seed's mean with its interval over episodes, and all seeds' IQM with its interval over seeds."""
    each = {str(s): dataclasses.asdict(interval) for s, interval in zip(seeds, intervals, strict=True)}
    means = np.array([interval.value for interval in intervals])
    summary = {"seeds": each, "iqm": float(iqm(means))}
    if len(seeds) > 1:
        summary["interval"] = dataclasses.asdict(stratified_bootstrap(means[:, None]))
    return summary


def print_evaluation(records: list[dict[str, Any]]) -> None:
    """The records as a small table."""
    for record in records:
        kind = "scores" if "scores" in record else "returns"
        cells = [f"seed {s} {Interval(**i)}" for s, i in record[kind]["seeds"].items()]
        line = f"{record['scenario']}: {kind[:-1]} of {record['episodes']} episodes: {', '.join(cells)}"
        if "interval" in record[kind]:
            line += f"; IQM over seeds {Interval(**record[kind]['interval'])}"
        print(line)


class Stopwatch:
    """Seconds of work, summed over the sittings of a run."""

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start


class Interrupt:
    """Truthy once the process was asked to stop; a second request stops it at once."""

    def __enter__(self) -> Interrupt:
        self._asked = False
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked

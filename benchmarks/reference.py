"""Recompute the frozen reference scores: `python -m benchmarks.reference`.

On every scenario of every task, `zero` is what nobody at the knobs earns, `one` the best oracle or bound, `practice`
the best practice agent and `ceiling` the best agent known that uses no hidden state at run time. Candidates of a kind
are compared on the first stretch of episodes, the best of each kind plays all of them. Finished stretches are kept, so
a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import qkd_gym
from agents.registry import agents_for
from benchmarks.leaderboard.jobs import ROOT, Job, commit, keep_compiled_programs, merge
from qkd_gym import TASKS, make
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.protocol import REFERENCE_SEED
from qkd_gym.evaluation.scores import SCHEMA, Anchor, Reference, read_references
from qkd_gym.evaluation.soundness import violations
from qkd_gym.evaluation.statistics import bootstrap

FILE = ROOT / "qkd_gym" / "evaluation" / "reference.json"
STRETCH = 256
#: Anchor -> role of its candidates. A task without a hands-off action names its own zero (`ZERO` below).
ROLES = {"zero": "passive", "practice": "practice", "ceiling": "ceiling", "one": "oracle"}
#: Task name -> agent that is its zero, where that is not `passive`.
ZERO: dict[str, str] = {}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="task ids (default: all)")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="scenarios (default: all of each task)")
    parser.add_argument("--episodes", type=int, default=2048, help=f"a multiple of {STRETCH} (default: 2048)")
    parser.add_argument("--file", type=Path, default=FILE, help="default: the file that ships with the package")
    arguments = parser.parse_args(argv)
    if arguments.episodes < STRETCH or arguments.episodes % STRETCH:
        parser.error(f"--episodes must be a multiple of {STRETCH}")
    keep_compiled_programs()
    console = Console()
    try:
        envs = [make(task) for task in arguments.tasks or TASKS]
        for env in envs:
            for scenario in arguments.scenarios or env.scenarios:
                env.check_scenario(scenario)
    except ValueError as error:
        print(f"reference: {error}", file=sys.stderr)
        return 2
    for env in envs:
        for scenario in arguments.scenarios or env.scenarios:
            scale = anchors(dataclasses.replace(env, scenario=scenario), arguments.episodes, console)
            _store(arguments.file, env, scenario, scale)
    console.print(f"{arguments.file}", soft_wrap=True, highlight=False)
    return 0


def anchors(env: Environment, episodes: int, console: Console) -> dict[str, Anchor]:
    """The reference numbers of one scenario."""
    agents = agents_for(env)
    found: dict[str, Anchor] = {}
    for anchor, role in ROLES.items():
        names = [name for name, agent in agents.items() if agent.role == role]
        if anchor == "zero" and env.name in ZERO:
            names = [ZERO[env.name]]
        if not names:
            continue
        trial = {name: _play(env, name, agents[name], STRETCH) for name in names}
        best = max(trial, key=lambda name: trial[name].mean())
        interval = bootstrap(_play(env, best, agents[best], episodes))
        found[anchor] = Anchor(best, interval.value, interval.low, interval.high, episodes, REFERENCE_SEED)
        console.print(f"{env.id} {env.scenario:14s} {anchor:9s} {best:24s} {interval}", markup=False, highlight=False)
    if missing := {"zero", "one"} - set(found):
        raise SystemExit(f"reference: {env.id} ships no agent for {', '.join(sorted(missing))}")
    Reference(**found)  # refuses a scale without length
    return found


def _play(env: Environment, name: str, agent: Any, episodes: int) -> np.ndarray:
    pieces = [Job(env, name, agent, STRETCH, REFERENCE_SEED, first).run() for first in range(0, episodes, STRETCH)]
    results = merge(pieces)
    if bad := int(violations(results).sum()):
        raise SystemExit(f"reference: {name} on {env.id} {env.scenario}: {bad} episodes claim more key than there was")
    return results.returns


def _store(path: Path, env: Environment, scenario: str, scale: dict[str, Anchor]) -> None:
    """Enter one scenario; other scenarios of this version stay, other versions of the task go."""
    data = read_references(path) if path.is_file() else {"schema": SCHEMA, "tasks": {}}
    stem = env.id.rpartition("-v")[0]
    tasks = {
        known: task for known, task in data["tasks"].items() if known == env.id or known.rpartition("-v")[0] != stem
    }
    task = tasks.setdefault(env.id, {"scenarios": {}})
    rounded = {
        name: {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in dataclasses.asdict(a).items()}
        for name, a in scale.items()
    }
    scenarios = task["scenarios"] | {scenario: {**rounded, "version": qkd_gym.__version__, "commit": commit()}}
    task["scenarios"] = {name: scenarios[name] for name in env.scenarios if name in scenarios}
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps({"schema": SCHEMA, "tasks": dict(sorted(tasks.items()))}, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())

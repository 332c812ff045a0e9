"""Recompute the frozen reference scores: `python -m benchmarks.reference`.

On every scenario of every task, `zero` is what nobody at the knobs earns, `one` the task's proven bound or else its
best oracle, `practice` the best practice agent and `ceiling` the best agent known that uses no hidden state at run
time. They play the protocol's own episodes, and what each earned in each episode is kept: entries are compared with
them episode by episode. Candidates of a kind are compared on the first stretch of episodes, the best of each kind plays
all of them. Finished stretches are kept, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import qkd_gym
from agents.registry import agents_for
from benchmarks.leaderboard.jobs import ROOT, Job, commit, keep_compiled_programs, merge
from qkd_gym import TASKS, make
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.protocol import EVALUATION_SEED, PROTOCOLS
from qkd_gym.evaluation.scores import SCHEMA, Anchor, Reference, read_references, render
from qkd_gym.evaluation.soundness import violations
from qkd_gym.evaluation.statistics import Interval
from qkd_gym.files import write_atomic

#: Called with what is being played and the stretches that this finished.
Tick = Callable[[str, int], None]

FILE = ROOT / "qkd_gym" / "evaluation" / "reference.json"
#: Episodes of one evaluation that is kept; the protocol's, so that the leaderboard need not play them again.
STRETCH = PROTOCOLS["full"].episodes
#: Anchor -> role of its candidates. A task without a hands-off action names its own zero (`ZERO` below).
ROLES = {"zero": "passive", "practice": "practice", "ceiling": "ceiling", "one": "oracle"}
#: Task name -> agent that is its zero, where that is not `passive`.
ZERO: dict[str, str] = {"KeyRouting": "shortest_path"}


@dataclasses.dataclass(frozen=True)
class Bound:
    """A proven bound, in the place of the oracles.

    Attributes:
        name: what stands for the agent. module: holds `bounds(env, seed, episodes)`, `(episodes, n)`, the bound first.
        most: episodes, where one takes so long that no more are worked out; then all anchors are of as many.
    """

    name: str
    module: str
    most: int = sys.maxsize

    def of(self, env: Environment, episodes: int) -> np.ndarray:
        """Of each of the first episodes."""
        return importlib.import_module(self.module).bounds(env, EVALUATION_SEED, min(episodes, self.most))[:, 0]


#: Task name -> the bound on its returns, where no oracle is known.
BOUNDS = {
    "KeyRouting": Bound("clairvoyant linear program", "benchmarks.key_routing", most=64),
    "NodeSwitching": Bound("clairvoyant Lagrangian dual", "benchmarks.node_switching", most=32),
    "ResourceAllocation": Bound("clairvoyant linear program", "benchmarks.resource_allocation", most=64),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.reference", description=__doc__)
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="task ids (default: all)")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="scenarios (default: all of each task)")
    parser.add_argument("--episodes", type=int, default=STRETCH, help=f"a multiple of {STRETCH} (default: {STRETCH})")
    parser.add_argument("--file", type=Path, default=FILE, help="default: the file that ships with the package")
    arguments = parser.parse_args(argv)
    if arguments.episodes < STRETCH or arguments.episodes % STRETCH:
        parser.error(f"--episodes must be a multiple of {STRETCH}")
    keep_compiled_programs()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    try:
        envs = [make(task) for task in arguments.tasks or TASKS]
        for env in envs:
            for scenario in arguments.scenarios or env.scenarios:
                env.check_scenario(scenario)
    except ValueError as error:
        print(f"reference: {error}", file=sys.stderr)
        return 2
    plan = [dataclasses.replace(env, scenario=name) for env in envs for name in arguments.scenarios or env.scenarios]
    work = {env: {anchor: names for anchor in ROLES if (names := _candidates(env, anchor))} for env in plan}
    further = arguments.episodes // STRETCH - 1  # stretches that the best of each kind plays beyond the first
    total = sum(len(names) + further for kinds in work.values() for names in kinds.values())
    columns = (TextColumn("{task.completed:.0f}/{task.total} {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def tick(label: str, done: int) -> None:
            bar.update(task, description=label, advance=done)

        for env, kinds in work.items():
            _store(arguments.file, env, anchors(env, kinds, arguments.episodes, console, tick))
    console.print(f"{arguments.file}", soft_wrap=True, highlight=False)
    return 0


def _candidates(env: Environment, anchor: str) -> list[str]:
    if anchor == "zero" and env.name in ZERO:
        return [ZERO[env.name]]
    if anchor == "one" and env.name in BOUNDS:
        return []
    return [name for name, agent in agents_for(env).items() if agent.role == ROLES[anchor]]


def anchors(
    env: Environment, kinds: dict[str, list[str]], episodes: int, console: Console, tick: Tick
) -> dict[str, Anchor]:
    """The reference numbers of one scenario; `kinds` are the candidates for each anchor."""
    agents = agents_for(env)
    found: dict[str, Anchor] = {}
    if bound := BOUNDS.get(env.name):
        found["one"] = Anchor.of(bound.name, bound.of(env, episodes), EVALUATION_SEED)
        episodes = found["one"].episodes
    for anchor, names in kinds.items():
        trial = {name: _play(env, name, agents[name], STRETCH, tick).mean() for name in names}
        best = max(trial, key=lambda name: trial[name])
        returns = _play(env, best, agents[best], episodes, tick, counted=STRETCH)[:episodes]
        anchored = Anchor.of(best, returns, EVALUATION_SEED)
        found[anchor], interval = anchored, Interval(anchored.mean, anchored.low, anchored.high)
        console.print(f"{env.id} {env.scenario:14s} {anchor:9s} {best:24s} {interval}", markup=False, highlight=False)
    if missing := {"zero", "one"} - set(found):
        raise SystemExit(f"reference: {env.id} ships no agent for {', '.join(sorted(missing))}")
    Reference(**found)  # refuses a scale without length
    return found


def _play(env: Environment, name: str, agent: Any, episodes: int, tick: Tick, counted: int = 0) -> np.ndarray:
    """Returns of episodes 0 ... `episodes` - 1; the first `counted` of them were ticked off before."""
    pieces = []
    for first in range(0, episodes, STRETCH):
        tick(f"{env.id} {env.scenario} {name}", 0)
        pieces.append(Job(env, name, agent, STRETCH, EVALUATION_SEED, first).run())
        tick(f"{env.id} {env.scenario} {name}", int(first >= counted))
    results = merge(pieces)
    if bad := int(violations(results).sum()):
        raise SystemExit(f"reference: {name} on {env.id} {env.scenario}: {bad} episodes claim more key than there was")
    return results.returns


def _store(path: Path, env: Environment, scale: dict[str, Anchor]) -> None:
    """Enter one scenario; other scenarios of this version stay, other versions of the task go."""
    data = read_references(path) if path.is_file() else {"schema": SCHEMA, "tasks": {}}
    stem = env.id.rpartition("-v")[0]
    tasks = {
        known: task for known, task in data["tasks"].items() if known == env.id or known.rpartition("-v")[0] != stem
    }
    task = tasks.setdefault(env.id, {"scenarios": {}})
    entries = {name: _entry(anchor) for name, anchor in scale.items()}
    scenarios = task["scenarios"] | {env.scenario: {**entries, "version": qkd_gym.__version__, "commit": commit()}}
    task["scenarios"] = {name: scenarios[name] for name in env.scenarios if name in scenarios}
    write_atomic(path, (render({"schema": SCHEMA, "tasks": dict(sorted(tasks.items()))}) + "\n").encode())


def _entry(anchor: Anchor) -> dict[str, Any]:
    data = dataclasses.asdict(anchor)
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in data.items()}


if __name__ == "__main__":
    sys.exit(main())

"""What every shipped agent earns on every scenario: `python -m benchmarks.admission [--tasks ID ...]`.

A task is worth solving if practice leaves room below the oracle, and if the room is not all foresight: the ceiling
says how much of it an agent without hidden state can have. All agents play the protocol's own episodes. Prints a
Markdown table of returns per step (mean and 95 % half width over episodes) and the paired gaps between the roles.
Finished evaluations are kept and shared with `benchmarks.reference`: a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agents.registry import agents_for
from benchmarks.leaderboard.jobs import Job, keep_compiled_programs
from qkd_gym import TASKS, make
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.protocol import EVALUATION_SEED, PROTOCOLS

Returns = dict[str, dict[str, np.ndarray]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.admission", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="task ids (default: all)")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="scenarios (default: all of each task)")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="agents (default: all)")
    parser.add_argument("--episodes", type=int, default=PROTOCOLS["full"].episodes, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    keep_compiled_programs()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    try:
        envs = [make(task) for task in arguments.tasks or TASKS]
        for env in envs:
            _check(env, arguments.scenarios, arguments.agents)
    except ValueError as error:
        print(f"admission: {error}", file=sys.stderr)
        return 2
    for env in envs:
        roles = {n: a.role for n, a in agents_for(env).items() if not arguments.agents or n in arguments.agents}
        returns = measure(env, list(roles), arguments.scenarios or list(env.scenarios), arguments.episodes, console)
        console.print(f"\n{env.id}, {arguments.episodes} episodes\n", highlight=False)
        console.print(table(returns, roles), highlight=False, markup=False, soft_wrap=True)
        console.print("\n" + gaps(returns, roles), highlight=False, markup=False, soft_wrap=True)
    return 0


def _check(env: Environment, scenarios: list[str] | None, agents: list[str] | None) -> None:
    for scenario in scenarios or ():
        env.check_scenario(scenario)
    if unknown := sorted(set(agents or ()) - set(agents_for(env))):
        raise ValueError(f"{env.id} has no agent {', '.join(unknown)}; it has: {', '.join(agents_for(env))}")


def measure(env: Environment, names: list[str], scenarios: list[str], episodes: int, console: Console) -> Returns:
    """Returns per step of each episode: scenario -> agent -> `(episodes,)`."""
    agents, found = agents_for(env), {}
    columns = (TextColumn("{task.completed:.0f}/{task.total} {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(names) * len(scenarios))
        for scenario in scenarios:
            shifted = dataclasses.replace(env, scenario=scenario)
            found[scenario] = {}
            for name in names:
                bar.update(task, description=f"{env.id} {scenario} {name}")
                played = Job(shifted, name, agents[name], episodes, EVALUATION_SEED).run()
                found[scenario][name] = played.returns / env.default_params.max_steps_in_episode
                if not console.is_terminal:
                    print(f"{env.id} {scenario} {name} {interval(found[scenario][name])}", file=sys.stderr, flush=True)
                bar.advance(task)
    return found


def interval(values: np.ndarray) -> str:
    """Mean and 95 % half width."""
    return f"{values.mean():.3f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def table(returns: Returns, roles: dict[str, str]) -> str:
    """A Markdown table, agents by scenarios."""
    lines = ["| agent | role | " + " | ".join(returns) + " |", "|---|---|" + "---|" * len(returns)]
    for name, role in roles.items():
        lines.append(f"| {name} | {role} | " + " | ".join(interval(played[name]) for played in returns.values()) + " |")
    return "\n".join(lines)


def gaps(returns: Returns, roles: dict[str, str]) -> str:
    """The best of each role above the best of the role below, on the same episodes."""
    lines = []
    for scenario, played in returns.items():
        best = {
            role: max((n for n in roles if roles[n] == role), key=lambda n: played[n].mean())
            for role in ("passive", "practice", "learned", "ceiling", "oracle")
            if role in roles.values()
        }
        for low, high in (
            ("passive", "practice"),
            ("practice", "learned"),
            ("practice", "ceiling"),
            ("practice", "oracle"),
        ):
            if low in best and high in best:
                a, b = played[best[low]], played[best[high]]
                share = f"; {best[low]} earns {a.mean() / b.mean():.0%} of {best[high]}" if b.mean() > 0.01 else ""
                lines.append(f"- {scenario}: {best[high]} − {best[low]} = {interval(b - a)} (paired){share}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

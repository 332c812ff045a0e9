"""What every shipped agent earns on every scenario: `python -m benchmarks.admission [--tasks ID ...]`.

A task is worth solving if practice leaves room below the oracle, and if the room is not all foresight: the ceiling
says how much of it an agent without hidden state can have. All agents play the protocol's own episodes. Prints a
Markdown table of returns per step (mean and 95 % half width over episodes) and the paired gaps between the roles.
Finished evaluations are kept and shared with `benchmarks.reference`: a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agents.registry import AnyAgent, agents_for
from benchmarks import bounds
from benchmarks.leaderboard.jobs import Job, keep_compiled_programs
from qkd_gym import TASKS, make
from qkd_gym.arguments import count, refusing
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.protocol import EVALUATION_SEED, PROTOCOLS

Returns = dict[str, dict[str, np.ndarray]]
#: Mean and 95 % half width of returns per step.
interval = functools.partial(bounds.interval, scale=1, digits=3)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.admission", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="task ids (default: all)")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="scenarios (default: all of each task)")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="agents (default: all)")
    parser.add_argument("--episodes", type=count(), default=PROTOCOLS["full"].episodes, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    plan = []
    with refusing(parser):
        for env in map(make, arguments.tasks or TASKS):
            scenarios = [env.check_scenario(name) for name in arguments.scenarios or env.scenarios]
            plan.append((env, scenarios, agents_for(env, arguments.agents)))
    keep_compiled_programs()
    for env, scenarios, agents in plan:
        roles = {name: agent.role for name, agent in agents.items()}
        returns = measure(env, agents, scenarios, arguments.episodes, console)
        console.print(f"\n{env.id}, {arguments.episodes} episodes\n", highlight=False)
        console.print(table(returns, roles), highlight=False, markup=False, soft_wrap=True)
        console.print("\n" + gaps(returns, roles), highlight=False, markup=False, soft_wrap=True)
    return 0


def measure(
    env: Environment, agents: dict[str, AnyAgent], scenarios: list[str], episodes: int, console: Console
) -> Returns:
    """Returns per step of each episode: scenario -> agent -> `(episodes,)`."""
    found: Returns = {}
    columns = (TextColumn("{task.completed:.0f}/{task.total} {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(agents) * len(scenarios))
        for scenario in scenarios:
            shifted = dataclasses.replace(env, scenario=scenario)
            found[scenario] = {}
            for name, agent in agents.items():
                bar.update(task, description=f"{env.id} {scenario} {name}")
                played = Job(shifted, name, agent, episodes, EVALUATION_SEED).run()
                found[scenario][name] = played.returns / env.default_params.max_steps_in_episode
                if not console.is_terminal:
                    print(f"{env.id} {scenario} {name} {interval(found[scenario][name])}", file=sys.stderr, flush=True)
                bar.advance(task)
    return found


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

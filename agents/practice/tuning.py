"""How rules get their constants: one after the other over a grid, on episodes that no evaluation uses."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from qkd_gym.arguments import count
from qkd_gym.envs.core import Environment, strong
from qkd_gym.evaluation.agent import Agent
from qkd_gym.evaluation.protocol import check_training_seed
from qkd_gym.evaluation.runner import evaluate

AgentT = TypeVar("AgentT", bound=Agent)

#: Constant -> values that are tried.
Grid = Mapping[str, Sequence[Any]]


def tune(env: Environment, agent: AgentT, grid: Grid, episodes: int, seed: int, rounds: int = 2) -> AgentT:
    """The agent with the constants of largest mean return found by coordinate search over `grid`, `rounds` times round.

    Raises:
        ValueError: if `seed` is reserved for scoring.
    """
    check_training_seed(seed)

    def score(candidate: AgentT) -> float:
        # constants as arrays, so that one compiled program serves all candidates
        return float(evaluate(env, strong(candidate), episodes, seed).returns.mean())

    best = score(agent)
    for _, (constant, values) in itertools.product(range(rounds), grid.items()):
        present = getattr(agent, constant)
        tried = [(best, present)]
        for value in values:
            if not np.array_equal(value, present):
                tried.append((score(dataclasses.replace(agent, **{constant: value})), value))
        best, chosen = max(tried, key=lambda pair: pair[0])  # of equals the present one
        agent = dataclasses.replace(agent, **{constant: chosen})
        means = ", ".join(f"{value}: {mean:.2f}" for mean, value in tried)
        print(f"{constant} = {chosen}; mean returns {means}", flush=True)
    return agent


def tuning_parser(task: str, description: str | None, names: Iterable[str], seed: int = 101) -> argparse.ArgumentParser:
    """Options of `python -m agents.practice.<task>`, for `tune_named`. `names`: agents that have a grid."""
    parser = argparse.ArgumentParser(
        f"python -m agents.practice.{task}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    agents = list(names)
    parser.add_argument("--agents", nargs="+", choices=agents, default=agents, metavar="NAME", help="default: all")
    parser.add_argument("--episodes", type=count(), default=64, help="default: %(default)s")
    parser.add_argument("--rounds", type=count(), default=2, help="times round the constants (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=seed, help="none that is kept for scoring (default: %(default)s)")
    return parser


def _seed(text: str) -> int:
    try:
        return check_training_seed(count(0)(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def tune_named(
    env: Environment, agents: Mapping[str, Agent], grids: Mapping[str, Grid], options: argparse.Namespace
) -> int:
    """Tune the agents that were asked for and print them with their constants."""
    for name in options.agents:
        print(name, tune(env, agents[name], grids[name], options.episodes, options.seed, options.rounds), flush=True)
    return 0

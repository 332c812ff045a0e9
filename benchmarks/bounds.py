"""Bounds on returns: worked out once an episode, kept in a JSON file, and held against what agents earn."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array

from benchmarks.leaderboard.jobs import Job
from qkd_gym.arguments import count
from qkd_gym.envs.core import Environment, Episode
from qkd_gym.evaluation.protocol import EVALUATION_SEED
from qkd_gym.evaluation.runner import EpisodeResults, episode_keys, record_exogenous
from qkd_gym.files import write_atomic

#: Episodes recorded at a time. Always as many: rounding, and so the digest of a story, depends on the size of a batch.
BATCH = 16
#: Entry -> episode -> digest of the story, and values of its bounds.
Kept = dict[str, dict[str, dict[str, Any]]]


#: All that happens in an episode whatever the agents do: a dataclass of numbers and arrays.
StoryT = TypeVar("StoryT")

# ---- stories ---------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("env",))
def _start(keys: Array, *, env: Environment) -> Episode:
    return env.reset_batch(keys[:, 0])[1]


@functools.partial(jax.jit, static_argnames=("env", "steps"))
def _record(running: Episode, keys: Array, *, env: Environment, steps: int) -> Any:
    return record_exogenous(env, running, keys, steps)


def recorded(env: Environment, seed: int, episodes: int, steps: int | None = None) -> list[tuple[Episode, Any]]:
    """(start, `env.exogenous` at times 0 ... `steps`) of the first episodes of a seed, whole ones unless told."""
    steps = steps or int(env.default_params.max_steps_in_episode)
    public = dataclasses.replace(env, scenario="training")  # the scenario is in the links alone
    keys, told = episode_keys(seed, -(-episodes // BATCH) * BATCH), []
    for batch in keys.reshape(-1, BATCH, *keys.shape[1:]):
        running = _start(batch, env=env)
        both = jax.device_get((running, _record(running, batch, env=public, steps=steps)))
        told += [jax.tree.map(lambda x, i=i: x[i], both) for i in range(BATCH)]
    return told[:episodes]


# ---- the file --------------------------------------------------------------------------------------------------------


def kept_bounds(
    path: Path, name: str, stories: Sequence[StoryT], solve: Callable[[StoryT], Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Bounds of each story: from the file's entry `name`, or else from `solve`, and then entered.

    What is kept counts if it was made of the same story. Each episode is entered as soon as it is solved.
    """
    entry = read(path).get(name, {})
    for index, story in enumerate(stories):
        digest = digest_of(story)
        if entry.get(str(index), {}).get("digest") == digest:
            continue
        values = dict(solve(story))
        entry[str(index)] = {"digest": digest} | {k: round(v, 4) for k, v in values.items()}
        enter(path, name, index, entry[str(index)])
        print(f"{name} episode {index}: {values}", file=sys.stderr, flush=True)
    return [entry[str(i)] for i in range(len(stories))]


def digest_of(story: Any) -> str:
    """By which a story is known again: all of its fields."""
    facts = (np.asarray(getattr(story, field.name), float) for field in dataclasses.fields(story))
    return hashlib.sha256(b"".join(fact.tobytes() for fact in facts)).hexdigest()[:16]


def read(path: Path) -> Kept:
    """What the file holds; nothing if there is none. A damaged file ends the program with a message."""
    try:
        kept = json.loads(path.read_text())
        if not all("digest" in row for entry in kept.values() for row in entry.values()):
            raise ValueError("an episode has no digest")
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        remedy = "restore it from the repository, or remove it, and all bounds are worked out again"
        raise SystemExit(f"{path} is damaged ({error}): {remedy}") from error
    return kept


def enter(path: Path, name: str, index: int, row: Mapping[str, Any]) -> None:
    """Enter one episode into the file as it is now: others may have written meanwhile."""
    with _alone(path.parent):
        kept = read(path)
        kept.setdefault(name, {})[str(index)] = dict(row)
        write_atomic(path, (json.dumps(kept, indent=1) + "\n").encode())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time in this folder; closing gives the lock back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# ---- agents below them -----------------------------------------------------------------------------------------------


def bounds_parser(task: str, description: str | None, episodes: int) -> argparse.ArgumentParser:
    """The options that `python -m benchmarks.<task>` has in all tasks."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{task}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=count(), default=episodes, help="default: %(default)s")
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", default=["training"], help="default: training")
    parser.add_argument("--agents", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--num-envs", type=count(), default=1024, help="for --speed, at most (default: %(default)s)")
    return parser


def play_below(limit: np.ndarray, env: Environment, agents: Mapping[str, Any]) -> dict[str, EpisodeResults]:
    """What agents earn in the episodes that these bounds are of. Raises as `check_below` does."""
    played = {name: Job(env, name, agent, len(limit), EVALUATION_SEED).run() for name, agent in agents.items()}
    for name, result in played.items():
        check_below(limit, name, result.returns)
    return played


def check_below(limit: np.ndarray, name: str, returns: np.ndarray) -> None:
    """Raises `RuntimeError` if a return is above its bound by more than rounding: then the bound is wrong."""
    if (over := returns > limit * (1 + 1e-5)).any():
        raise RuntimeError(f"{name} exceeds its bound in episodes {np.flatnonzero(over).tolist()}")


def avoidable_loss(limit: np.ndarray, result: EpisodeResults, reference: EpisodeResults | None) -> str:
    """What is missing to the bound, % of what the reference misses in the same episodes; "-" if it did not play."""
    if reference is None:
        return "-"
    return f"{100 * (limit - result.returns).sum() / (limit - reference.returns).sum():.0f}"


def interval(values: np.ndarray, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and 95 % half width over episodes, in per cent unless told."""
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    return f"{scale * values.mean():.{digits}f} ± {scale * 1.96 * spread / np.sqrt(len(values)):.{digits}f}"

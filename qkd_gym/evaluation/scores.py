"""From returns to scores: 0 is what a link earns with nobody at the knobs, 1 what the oracle or a proven bound earns.

``score = (return - zero) / (one - zero)``, with `zero` and `one` frozen in ``reference.json`` for each task and
scenario. The best practice agent (the line to beat) and the ceiling (the best that is known to be reachable) are kept
beside them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.runner import EpisodeResults
from qkd_gym.evaluation.soundness import violations
from qkd_gym.evaluation.statistics import Interval, bootstrap

SCHEMA = 1
#: Anchors of a scale. `ceiling` and `practice` may be missing.
ANCHORS = ("zero", "one", "practice", "ceiling")
#: Metric -> (reduction over an episode's steps, factor, unit printed).
PHYSICAL = {
    "skr_bps": ("mean", 1e-3, "kbit/s"),
    "secret_bits": ("sum", 1e-6, "Mbit/episode"),
    "qber": ("mean", 100.0, "% QBER"),
}


class MissingReference(LookupError):
    """No frozen reference scores for this task version or scenario."""


@dataclasses.dataclass(frozen=True)
class Anchor:
    """One reference number: the mean return of an agent over many episodes, with its 95 % interval."""

    agent: str
    mean: float
    low: float
    high: float
    episodes: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Reference:
    """The scale of one task and scenario."""

    zero: Anchor
    one: Anchor
    practice: Anchor | None = None
    ceiling: Anchor | None = None

    def __post_init__(self) -> None:
        if not self.one.mean > self.zero.mean:
            raise ValueError(
                f"the scale needs one above zero, but {self.one.agent} earns {self.one.mean:g} and "
                f"{self.zero.agent} {self.zero.mean:g}"
            )

    def score(self, returns: Any) -> Any:
        """Score of a return, elementwise."""
        return (returns - self.zero.mean) / (self.one.mean - self.zero.mean)


@dataclasses.dataclass(frozen=True)
class Score:
    """One entry's line: everything with its 95 % interval over episodes.

    Attributes:
        per_episode: scores `(episodes,)`, 0 where the episode is a violation.
        physical: unit -> figure in that unit; intervals as above.
    """

    agent: str
    score: Interval
    mean_return: Interval
    physical: Mapping[str, Interval]
    violations: int
    per_episode: np.ndarray


def score(results: EpisodeResults, reference: Reference) -> Score:
    """Put episodes on the reference's scale. Violations score 0 and are left out of the physical figures."""
    bad = violations(results)
    per_episode = np.where(bad, 0.0, reference.score(results.returns))
    return Score(
        agent=results.agent,
        score=bootstrap(per_episode),
        mean_return=bootstrap(np.where(bad, reference.zero.mean, results.returns)),
        physical=physical(results, ~bad),
        violations=int(bad.sum()),
        per_episode=per_episode,
    )


def physical(results: EpisodeResults, keep: np.ndarray | None = None) -> dict[str, Interval]:
    """Figures in physical units, of the episodes in the mask `keep` (None: all), for the metrics that the task has."""
    keep = ~violations(results) if keep is None else keep
    figures = {}
    for name, (reduction, factor, unit) in PHYSICAL.items():
        if name not in results.sums or not keep.any():
            continue
        values = (results.sums[name] if reduction == "sum" else results.means[name])[keep] * factor
        if np.isfinite(values).all():
            figures[unit] = bootstrap(values)
    return figures


def read_references(path: Path | None = None) -> dict[str, Any]:
    """The reference file as plain data; `None`: the one that ships with the package."""
    return _shipped() if path is None else _parse(path.read_text(), str(path))


def reference_for(env: Environment, path: Path | None = None) -> Reference:
    """The scale of `env`'s version and scenario.

    Raises:
        MissingReference: the file holds another version of the task, or lacks the scenario.
    """
    tasks = read_references(path)["tasks"]
    remedy = f"recompute it from a clone: python -m benchmarks.reference --tasks {env.name}"
    if env.id not in tasks:
        versions = [known for known in tasks if known.rpartition("-v")[0] == env.id.rpartition("-v")[0]]
        held = f"holds {', '.join(versions)}" if versions else "does not hold this task"
        raise MissingReference(f"no reference scores for {env.id}: the file {held}; {remedy}")
    scenarios = tasks[env.id]["scenarios"]
    if env.scenario not in scenarios:
        raise MissingReference(f"no reference scores for {env.id}, scenario {env.scenario!r}; {remedy}")
    anchors = scenarios[env.scenario]
    return Reference(**{name: Anchor(**anchors[name]) for name in ANCHORS if anchors.get(name) is not None})


@functools.cache
def _shipped() -> dict[str, Any]:
    file = resources.files("qkd_gym.evaluation") / "reference.json"
    return _parse(file.read_text(), "qkd_gym/evaluation/reference.json")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}; this version reads {SCHEMA}")
        if not isinstance(data["tasks"], dict):
            raise ValueError("tasks is no object")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is no reference file ({error})") from None
    return data

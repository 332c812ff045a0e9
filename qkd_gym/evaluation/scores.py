"""From returns to scores: 0 is what a link earns with nobody at the knobs, 1 what the oracle or a proven bound earns.

``reference.json`` holds, for each task and scenario, the return of `zero` and of `one` in each of the protocol's
episodes. A result on these episodes, or on some of them, is scored against the same ones::

    score = (mean return - mean zero) / (mean one - mean zero)      means over the episodes played

so that the luck of which links were drawn cancels: the agent behind `one` scores 1 and that behind `zero` 0, however
few episodes are played. Its interval redraws episodes, the three returns of one together. Results on other episodes are
put on the scale of the frozen means. The best practice agent (the line to beat) and the ceiling (the best that is known
to be reachable) are kept beside the two.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.runner import EpisodeResults
from qkd_gym.evaluation.soundness import violations
from qkd_gym.evaluation.statistics import Interval, bootstrap, bootstrap_ratio

SCHEMA = 2
#: Significant digits of frozen returns, and of the returns that are compared with them.
DIGITS = 5
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
    """One reference: an agent's mean return over episodes of a seed, with its 95 % interval.

    Attributes:
        first, episodes: which episodes of the seed.
        returns: return of each of them, rounded to `DIGITS`; None where only the mean is known.
    """

    agent: str
    mean: float
    low: float
    high: float
    episodes: int
    seed: int
    first: int = 0
    returns: tuple[float, ...] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.returns is not None and len(self.returns) != self.episodes:
            raise ValueError(f"{self.agent}: {len(self.returns)} returns of {self.episodes} episodes")

    @classmethod
    def of(cls, agent: str, returns: Iterable[float], seed: int, first: int = 0) -> Anchor:
        """The anchor that an agent's returns in episodes `first`, `first + 1`, ... of a seed make."""
        kept = tuple(rounded(returns).tolist())
        interval = bootstrap(kept)
        return cls(agent, interval.value, interval.low, interval.high, len(kept), seed, first, kept)

    def over(self, seed: int, first: int, episodes: int) -> Anchor | None:
        """The same of fewer episodes; None if these returns are not known."""
        start = first - self.first
        if self.returns is None or seed != self.seed or start < 0 or start + episodes > self.episodes:
            return None
        return Anchor.of(self.agent, self.returns[start : start + episodes], seed, first)


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
        """Score of a mean return, elementwise."""
        return (returns - self.zero.mean) / (self.one.mean - self.zero.mean)

    def over(self, results: EpisodeResults) -> Reference:
        """The scale of the episodes played; this one if they are not known, or make no scale of their own."""
        kept = {name: anchor for name in ANCHORS if (anchor := getattr(self, name)) is not None}
        cut = {name: a.over(results.seed, results.first, results.episodes) for name, a in kept.items()}
        zero, one = cut["zero"], cut["one"]
        if None in cut.values() or zero is None or one is None or not one.mean > zero.mean:
            return self
        return Reference(**cut)

    def is_of(self, results: EpisodeResults) -> bool:
        """Whether this scale was measured on the very episodes of `results`."""
        played = (results.seed, results.first, results.episodes)
        return all(a.returns is not None and (a.seed, a.first, a.episodes) == played for a in (self.zero, self.one))


def rounded(returns: Iterable[float]) -> np.ndarray:
    """Returns with `DIGITS` significant digits."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in returns])


@dataclasses.dataclass(frozen=True)
class Score:
    """One entry's line: everything with its 95 % interval over episodes.

    Attributes:
        per_episode: gain over `zero` in each episode over the mean distance from `zero` to `one`, `(episodes,)`; its
            mean is the score. 0 where the episode is a violation.
        paired: whether `zero` and `one` are known on the episodes played; if not, the scale is that of other ones.
        physical: unit -> figure in that unit; intervals as above.
    """

    agent: str
    score: Interval
    mean_return: Interval
    physical: Mapping[str, Interval]
    violations: int
    per_episode: np.ndarray
    paired: bool


def score(results: EpisodeResults, reference: Reference) -> Score:
    """Put episodes on the reference's scale. Violations score 0 and are left out of the physical figures."""
    bad = violations(results)
    scale = reference.over(results)
    paired = scale.is_of(results)
    if paired:
        zero, one = np.array(scale.zero.returns), np.array(scale.one.returns)
        gain, span = np.where(bad, 0.0, rounded(results.returns) - zero), one - zero
        returns = np.where(bad, zero, results.returns)
        per_episode, interval = gain / span.mean(), bootstrap_ratio(gain, span)
    else:
        returns = np.where(bad, scale.zero.mean, results.returns)
        per_episode = scale.score(returns)
        interval = bootstrap(per_episode)
    return Score(
        agent=results.agent,
        score=interval,
        mean_return=bootstrap(returns),
        physical=physical(results, ~bad),
        violations=int(bad.sum()),
        per_episode=per_episode,
        paired=paired,
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
    return Reference(**{name: _anchor(anchors[name]) for name in ANCHORS if anchors.get(name) is not None})


def _anchor(data: dict[str, Any]) -> Anchor:
    returns = data.get("returns")
    return Anchor(**{**data, "returns": None if returns is None else tuple(returns)})


def render(data: Any, depth: int = 0) -> str:
    """Reference data as JSON that shows what changed: a line for each value, one for a whole array."""
    if not isinstance(data, dict) or not data:
        return json.dumps(data, separators=(",", ":"))
    inside, end = "\n" + " " * (depth + 1), "\n" + " " * depth
    lines = (f"{inside}{json.dumps(key)}: {render(value, depth + 1)}" for key, value in data.items())
    return "{" + ",".join(lines) + end + "}"


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

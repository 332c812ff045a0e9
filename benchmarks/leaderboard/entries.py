"""From evaluated episodes to the lines of a leaderboard."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.agent import ROLES, PrivilegedAgent
from qkd_gym.evaluation.footprint import Footprint
from qkd_gym.evaluation.runner import EpisodeResults
from qkd_gym.evaluation.scores import MissingReference, Reference, Score, reference_for, score
from qkd_gym.evaluation.statistics import Interval, bootstrap, ranks, stratified_bootstrap


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line: an agent, or a trained policy with all its training seeds.

    Attributes:
        seeds: training seeds; 0 for agents without.
        rank: among the entries that see no hidden state; None for those that do.
        score: interval over training seeds (IQM) if there are several, else over episodes (mean). None: no reference.
    """

    name: str
    role: str
    rank: int | None
    seeds: int
    episodes: int
    score: Interval | None
    mean_return: Interval
    physical: Mapping[str, Interval]
    violations: int
    footprint: Footprint | None = None

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Board:
    """The lines of one task and scenario, in the order of `ROLES` and, within a role, of their means.

    Attributes:
        reference: the scale of the episodes played; None: there is none, and `note` says why.
    """

    env_id: str
    scenario: str
    reference: Reference | None
    note: str
    entries: tuple[Entry, ...]


@dataclasses.dataclass(frozen=True)
class Played:
    """An agent, and what it did."""

    name: str
    agent: Any
    results: EpisodeResults
    footprint: Footprint | None = None

    @property
    def group(self) -> str:
        """Policies of one name but several training seeds (`...-seed3`) are one entry."""
        return re.sub(r"[-_]seed\d+$", "", self.agent.label) if self.agent.role == "learned" else self.name


def make_board(env: Environment, played: list[Played]) -> Board:
    """Score and rank what was played on one scenario."""
    note = ""
    try:
        reference = reference_for(env).over(played[0].results)
    except MissingReference as error:
        reference, note = None, str(error)
    scale = reference or _raw()
    groups: dict[str, list[Played]] = {}
    for one in played:
        groups.setdefault(one.group, []).append(one)
    scored = {name: [score(one.results, scale) for one in members] for name, members in groups.items()}
    per_episode = {name: np.mean([line.per_episode for line in lines], axis=0) for name, lines in scored.items()}
    open_to_all = {
        name: per_episode[name] for name, members in groups.items() if not isinstance(members[0].agent, PrivilegedAgent)
    }
    rank = ranks(open_to_all) if open_to_all else {}
    entries = [_entry(name, groups[name], scored[name], rank.get(name), reference is not None) for name in groups]
    entries.sort(key=lambda entry: (ROLES.index(entry.role), entry.mean_return.value))
    return Board(env.id, env.scenario, reference, note, tuple(entries))


def _entry(name: str, members: list[Played], lines: list[Score], rank: int | None, scaled: bool) -> Entry:
    several = len(members) > 1
    means = np.array([line.score.value for line in lines])
    interval = stratified_bootstrap(means[:, None]) if several else lines[0].score
    keep = {unit: [line.physical[unit] for line in lines if unit in line.physical] for unit in lines[0].physical}
    return Entry(
        name=name,
        role=members[0].agent.role,
        rank=rank,
        seeds=len(members) if members[0].agent.role == "learned" else 0,
        episodes=members[0].results.episodes,
        score=interval if scaled else None,
        mean_return=_over_seeds([line.mean_return for line in lines]),
        physical={unit: _over_seeds(figures) for unit, figures in keep.items()},
        violations=sum(line.violations for line in lines),
        footprint=members[0].footprint,
    )


def _over_seeds(intervals: list[Interval]) -> Interval:
    return intervals[0] if len(intervals) == 1 else bootstrap([interval.value for interval in intervals])


def _raw() -> Reference:
    """The identity: returns as they are, where a task has no reference yet."""
    from qkd_gym.evaluation.scores import Anchor

    zero, one = (Anchor(agent="-", mean=x, low=x, high=x, episodes=0, seed=0) for x in (0.0, 1.0))
    return Reference(zero=zero, one=one)

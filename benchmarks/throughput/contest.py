"""Fair comparison of speeds on a shared, noisy machine: contestants alternate in one run, and only ratios are kept."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Something to time: `run()` does `units` of work (environment steps, key rates, ...) and waits for its end."""

    run: Callable[[], object]
    units: float


def alternate(contestants: Mapping[str, Contestant], rounds: int = 7) -> dict[str, list[float]]:
    """Seconds per unit of every contestant in every round, after one warm-up each.

    The order turns by one each round, so that no contestant always runs on a machine its neighbour has heated.
    """
    names = list(contestants)
    for name in names:
        contestants[name].run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            start = time.perf_counter()
            contestants[name].run()
            seconds[name].append((time.perf_counter() - start) / contestants[name].units)
    return seconds


def ratio(seconds: Mapping[str, list[float]], fast: str, slow: str) -> tuple[float, float, float]:
    """How many times faster `fast` is than `slow`: median, lowest and highest of the rounds."""
    per_round = [s / f for f, s in zip(seconds[fast], seconds[slow], strict=True)]
    return statistics.median(per_round), min(per_round), max(per_round)

"""Interquartile means and bootstrap intervals, seeded.

The interquartile mean and the stratified bootstrap over seeds follow Agarwal et al., "Deep Reinforcement Learning at
the Edge of the Statistical Precipice", NeurIPS 2021. All intervals are percentile intervals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

Statistic = Callable[[np.ndarray], np.ndarray]

#: Resamples and seed of every published interval.
RESAMPLES = 2000
SEED = 0
#: Numbers held at once while resampling; bounds the memory.
_BLOCK = 2_000_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis."""
    return np.mean(values, axis=-1)


def iqm(values: ArrayLike) -> np.ndarray:
    """Interquartile mean over the last axis: the mean without the lowest and the highest `floor(n / 4)` values."""
    array = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = array.shape[-1] // 4
    return array[..., cut : array.shape[-1] - cut].mean(axis=-1)


def bootstrap(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Interval of a statistic of independent values: episodes of one policy, or scores of one task's seeds.

    Args:
        values: `(n,)`, finite.
        statistic: from `(..., n)` to `(...)`.
    """
    return stratified_bootstrap(
        _checked(values, 1)[:, None], statistic, confidence=confidence, resamples=resamples, seed=seed
    )


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Statistic = iqm,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Interval of a statistic over seeds and tasks. Seeds are redrawn within each task, tasks are kept.

    Args:
        scores: `(seeds, tasks)`, one score a training seed and task, finite.
        statistic: from `(..., seeds * tasks)` to `(...)`.
    """
    array = _checked(scores, 2)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} must lie between 0 and 1")
    seeds, tasks = array.shape
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // array.size)
    drawn = []
    for start in range(0, resamples, block):
        rows = rng.integers(0, seeds, (min(block, resamples - start), seeds, tasks))
        sample = array[rows, np.arange(tasks)]
        drawn.append(statistic(sample.reshape(len(rows), -1)))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail])
    return Interval(float(statistic(array.reshape(-1))), float(low), float(high))


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Interval of `sum(numerators) / sum(denominators)`; episodes are redrawn, so that pairs stay together.

    Redrawn samples whose denominators sum to nothing or less, possible where a few episodes make up the sum, have no
    ratio and are left out.

    Args:
        numerators, denominators: `(n,)`, finite, of the same episodes; the denominators' sum is positive.
    """
    top, bottom = _checked(numerators, 1), _checked(denominators, 1)
    if top.shape != bottom.shape:
        raise ValueError(f"{len(top)} and {len(bottom)} episodes cannot be paired; play the same ones")
    if not bottom.sum() > 0:
        raise ValueError(f"the denominators sum to {bottom.sum():g}; a ratio needs a positive sum")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} must lie between 0 and 1")
    n = len(top)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    drawn = []
    for start in range(0, resamples, block):
        rows = rng.integers(0, n, (min(block, resamples - start), n))
        above, below = top[rows].sum(axis=1), bottom[rows].sum(axis=1)
        drawn.append(above[below > 0] / below[below > 0])
    tail = 50 * (1 - confidence)
    value = float(top.sum() / bottom.sum())
    ratios = np.concatenate(drawn)
    low, high = np.percentile(ratios, [tail, 100 - tail]) if ratios.size else (value, value)
    return Interval(value, float(low), float(high))


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Interval of `mean(first - second)`, for two agents that played the same episodes: luck with them cancels."""
    a, b = _checked(first, 1), _checked(second, 1)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} episodes cannot be paired; play the same ones")
    return bootstrap(a - b, confidence=confidence, resamples=resamples, seed=seed)


def ranks(entries: Mapping[str, ArrayLike], *, confidence: float = 0.95) -> dict[str, int]:
    """Rank of each entry, best first; shared unless the paired difference to the next-better entry excludes zero.

    Args:
        entries: per-episode values by name, all from the same episodes; greater is better.
    """
    arrays = {name: _checked(values, 1) for name, values in entries.items()}
    order = sorted(arrays, key=lambda name: -arrays[name].mean())
    result: dict[str, int] = {}
    for place, name in enumerate(order, start=1):
        better = order[place - 2] if place > 1 else None
        own = better is None or paired_difference(arrays[better], arrays[name], confidence=confidence).excludes(0.0)
        result[name] = place if own or better is None else result[better]
    return result


def _checked(values: ArrayLike, ndim: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"values of shape {array.shape} must be a non-empty array of {ndim} axes")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite; an episode that went wrong counts as a violation, not as a number")
    return array

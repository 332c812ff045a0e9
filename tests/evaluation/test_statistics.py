"""Means and intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qkd_gym.evaluation import statistics
from qkd_gym.evaluation.statistics import (
    bootstrap,
    bootstrap_ratio,
    iqm,
    mean,
    paired_difference,
    ranks,
    stratified_bootstrap,
)


def test_iqm_of_known_arrays():
    assert iqm([5.0]) == 5
    assert iqm([1, 2, 3]) == 2
    assert iqm([-1e9, 1, 3, 1e9]) == 2
    assert iqm(np.arange(1, 13)) == np.mean(np.arange(4, 10))
    np.testing.assert_array_equal(iqm([[8, 0, 1, 3], [4, 4, 4, 9]]), [2, 4])
    # scipy's trimmed mean is the definition that Agarwal et al. use.
    values = np.random.default_rng(0).normal(size=(7, 31))
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=1))


def test_bootstrap_width_of_a_mean_is_normal_theorys():
    """Percentile interval of a mean of n values: mean +- 1.96 sd / sqrt(n), sd with divisor n."""
    values = np.random.default_rng(1).exponential(size=4000)
    interval = bootstrap(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == values.mean()
    # The 2.5 % quantile of 4000 draws has a standard error of about 4 % of the half width.
    np.testing.assert_allclose([interval.high - interval.value, interval.value - interval.low], half, rtol=0.12)
    wider = bootstrap(values, resamples=4000, confidence=0.99)
    np.testing.assert_allclose((wider.high - wider.low) / (interval.high - interval.low), 2.576 / 1.96, rtol=0.12)


def test_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    trials, hits = 400, 0
    for trial in range(trials):
        hits += not bootstrap(rng.normal(3.0, 2.0, 50), resamples=400, seed=trial).excludes(3.0)
    # 50 values: the percentile interval covers 94 % for a nominal 95; 4 sigma of 400 trials are 4.7 points.
    assert 0.89 < hits / trials < 0.985


def test_bootstrap_is_seeded(monkeypatch):
    values = np.random.default_rng(0).normal(size=20)
    whole = bootstrap(values)
    assert bootstrap(values) == whole
    assert bootstrap(values, seed=1) != whole
    monkeypatch.setattr(statistics, "_BLOCK", 700)
    assert bootstrap(values) == whole  # drawn in 58 blocks instead of one


def test_strata_are_kept():
    """Seeds that agree within each task leave nothing to resample, however far the tasks are apart."""
    scores = np.tile([0.1, 0.5, 0.9, 0.4], (5, 1))
    interval = stratified_bootstrap(scores)
    assert interval.low == interval.value == interval.high == pytest.approx(0.45)


def test_stratified_width_is_normal_theorys():
    """Mean over seeds x tasks: variance sum_t sd_t^2 / (seeds * tasks^2), whatever the tasks' means."""
    rng = np.random.default_rng(3)
    scores = rng.normal([0, 5, 50], [1, 2, 3], (400, 3))
    interval = stratified_bootstrap(scores, mean, resamples=4000)
    half = 1.96 * np.sqrt((scores.std(axis=0) ** 2).sum() / (400 * 9))
    np.testing.assert_allclose((interval.high - interval.low) / 2, half, rtol=0.08)
    assert interval.value == pytest.approx(scores.mean())


def test_pairing_cancels_common_luck():
    rng = np.random.default_rng(4)
    luck, noise = rng.normal(0, 1, 256), rng.normal(0, 0.05, 256)
    first, second = luck + 0.02, luck + noise
    paired = paired_difference(first, second)
    half = 1.96 * noise.std() / 16
    np.testing.assert_allclose((paired.high - paired.low) / 2, half, rtol=0.15)
    assert paired.excludes(0)
    assert not bootstrap(first).excludes(bootstrap(second).value)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(first, second[:-1])


def test_ratio_width_is_the_delta_methods():
    """Variance of a ratio of means r = a/b: that of the mean of (x - r y) over b squared."""
    rng = np.random.default_rng(3)
    y = rng.lognormal(0, 1, 2000)
    x = 0.7 * y + 0.2 * rng.normal(size=2000)
    interval = bootstrap_ratio(x, y, resamples=4000)
    assert interval.value == x.sum() / y.sum()
    half = 1.96 * np.std(x - interval.value * y) / np.sqrt(2000) / y.mean()
    np.testing.assert_allclose([interval.high - interval.value, interval.value - interval.low], half, rtol=0.12)
    assert half < 0.2 * (bootstrap(x / y.mean()).high - interval.value)  # what pairing takes out


def test_ratios_that_do_not_exist():
    one_alive = bootstrap_ratio([0, 0, 2], [0, 0, 4])
    assert (one_alive.value, one_alive.low, one_alive.high) == (0.5, 0.5, 0.5)
    for bad in ([0.0, 0.0], [1.0, -2.0]):
        with pytest.raises(ValueError, match="needs a positive sum"):
            bootstrap_ratio([1.0, 1.0], bad)
    with pytest.raises(ValueError, match="cannot be paired"):
        bootstrap_ratio([1.0, 1.0], [1.0])


def test_ranks():
    rng = np.random.default_rng(5)
    luck = rng.normal(size=256)
    noise = [0.1 * rng.normal(size=256) for _ in range(4)]
    noise = [n - n.mean() for n in noise]
    entries = {
        "worst": luck - 1 + noise[0],
        "best": luck + 1 + noise[1],
        "b": luck + noise[2],
        "a": luck + 0.001 + noise[3],
    }
    assert ranks(entries) == {"best": 1, "a": 2, "b": 2, "worst": 4}
    assert ranks({"only": [1.0, 2.0]}) == {"only": 1}
    assert ranks({"x": [1.0, 2.0], "twin": [1.0, 2.0]}) == {"x": 1, "twin": 1}


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap([])
    with pytest.raises(ValueError, match="1 axes"):
        bootstrap([[1.0]])
    with pytest.raises(ValueError, match="violation"):
        bootstrap([1.0, np.nan])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap([1.0], confidence=95)

"""The photon counter itself: what can be known without counting, and that it would notice a wrong form."""

import numpy as np
import pytest

from benchmarks.validation import agreement, monte_carlo
from benchmarks.validation.monte_carlo import Count
from tests.physics.conftest import precision


def rng():
    return np.random.default_rng(7)


def test_intervals_are_exact():
    """Clopper-Pearson by its definition, and at both ends."""
    from scipy.stats import binom

    low, high = Count(30, 1000).interval(0.99)
    assert binom.sf(29, 1000, low) == pytest.approx(0.005) and binom.cdf(30, 1000, high) == pytest.approx(0.005)
    assert Count(0, 10).interval()[0] == 0 and Count(10, 10).interval()[1] == 1
    assert Count(0, 10).interval()[1] == pytest.approx(1 - 0.005**0.1)


def test_beam_splitter():
    """One photon divides evenly, two alike bunch (Hong, Ou, Mandel 1987); numbers add up to 1."""
    np.testing.assert_allclose(monte_carlo.beam_splitter(1, 0), [0.5, 0.5])
    np.testing.assert_allclose(monte_carlo.beam_splitter(1, 1), [0.5, 0, 0.5], atol=1e-15)
    np.testing.assert_allclose(monte_carlo.beam_splitter(2, 0), [0.25, 0.5, 0.25])
    np.testing.assert_allclose(monte_carlo.beam_splitter(2, 1), [3 / 8, 1 / 8, 1 / 8, 3 / 8])
    for n in range(5):
        for m in range(5):
            assert monte_carlo.beam_splitter(n, m).sum() == pytest.approx(1)


def test_certain_cases():
    """Without loss every photon is seen, without light and darkness nothing is; darkness alone errs half the time."""
    seen = monte_carlo.decoy_bb84(rng(), 5000, 0.5, 1.0, 0.0, 0.0)
    assert seen.single_click.rate == 1 and seen.error.events == 0
    assert monte_carlo.decoy_bb84(rng(), 5000, 0.0, 1.0, 0.0, 0.1).click.events == 0
    dark = monte_carlo.decoy_bb84(rng(), 20_000, 0.0, 1.0, 0.3, 0.0)
    assert dark.click.interval()[0] < 1 - 0.7**2 < dark.click.interval()[1]
    errors = Count(dark.error.events, dark.click.events).interval()
    assert errors[0] < 0.5 < errors[1]
    _, wrong = monte_carlo.key_pulses(rng(), 5000, 0.5, 0.5, 0.0)
    assert wrong.events == 0
    assert monte_carlo.photon_numbers(rng(), 1000, 1, 1, 0.0, 0.0).events == 0
    assert monte_carlo.pairs(rng(), 1000, 1.0, 1).events == 500


@pytest.mark.parametrize("name", ["GYS 0 km, 0.48 photon", "random phase 0.4 photon, 10 dB", "photons |2, 1⟩, 6 dB"])
def test_counts_agree_and_would_notice(name):
    """A hundredth of a point's pulses agrees with the closed form, and not with one a third off."""
    point = next(p for p in agreement.points() if p.name == name)
    with precision("float64"):
        found = point.compare(np.random.SeedSequence(1), share=0.01)
    best = max(found, key=lambda c: c.counted.events)
    low, high = best.interval
    assert best.inside and not low <= 1.33 * best.ours <= high


def test_a_dozen_points_of_either_kind():
    groups = [p.group for p in agreement.points()]
    assert groups.count("decoy") >= 12 and groups.count("twin field") >= 12
    assert len({p.name for p in agreement.points()}) == len(groups)


def test_chance_is_allowed_for():
    assert not agreement.surprising(3, 70)
    assert agreement.surprising(7, 70)

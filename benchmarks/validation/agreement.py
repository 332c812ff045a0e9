"""Where the closed forms are held against photons drawn one by one: a dozen points each for BB84 and for twin field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.validation import monte_carlo
from benchmarks.validation.monte_carlo import Count

CONFIDENCE = 0.99


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity at one point: our probability beside what was counted; `again`: with fresh photons."""

    point: str
    quantity: str
    ours: float
    counted: Count
    again: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        return self.counted.interval(CONFIDENCE)

    @property
    def inside(self) -> bool:
        low, high = self.interval
        return low <= self.ours <= high


@dataclasses.dataclass(frozen=True)
class Point:
    """One point: its pulses, and how to draw and compare them."""

    group: str
    name: str
    pulses: int
    draw: Callable[[np.random.Generator, int], list[tuple[str, float, Count]]]

    def compare(self, seed: np.random.SeedSequence, share: float = 1.0) -> list[Comparison]:
        """Draw a `share` of the point's pulses; call under x64."""
        found = self.draw(np.random.default_rng(seed), max(int(self.pulses * share), 1000))
        return [Comparison(self.name, quantity, ours, counted) for quantity, ours, counted in found]


def compare_all(
    chosen: Sequence[Point], seed: int, share: float = 1.0, done: Callable[[Point], None] = lambda point: None
) -> list[tuple[str, Comparison]]:
    """`(group, comparison)` of all points. What lies outside its interval is drawn once more, with fresh photons.

    Chance puts one in a hundred outside, and hardly ever twice; a wrong form is outside again.
    """
    first = np.random.SeedSequence(seed).spawn(len(chosen))
    second = np.random.SeedSequence([seed, 1]).spawn(len(chosen))
    found = []
    for point, fresh, again in zip(chosen, first, second, strict=True):
        compared = point.compare(fresh, share)
        found += [(point.group, c) for c in compared]
        doubtful = {c.quantity for c in compared if not c.inside}
        if doubtful:
            repeated = point.compare(again, share)
            found += [(point.group, dataclasses.replace(c, again=True)) for c in repeated if c.quantity in doubtful]
        done(point)
    return found


def surprising(outside: int, comparisons: int, level: float = 1e-3) -> bool:
    """Whether as many comparisons outside their interval have a probability below `level`, if all forms are right."""
    from scipy.stats import binom

    return bool(binom.sf(outside - 1, comparisons, 1 - CONFIDENCE) < level)


def points() -> Iterator[Point]:
    """All points, in the order of the report."""
    yield from decoy_points()
    yield from twin_field_points()


def decoy_points() -> Iterator[Point]:
    """Receivers of Gobby, Yuan, Shields 2004 and with SNSPDs, near and far; then darkness and light in excess."""
    from qkd_gym.physics import decoy_bb84

    def point(name: str, mu: float, eta: float, dark: float, mis: float, pulses: float) -> Point:
        def draw(rng: np.random.Generator, n: int) -> list[tuple[str, float, Count]]:
            link = decoy_bb84.DecoyLink(eta, 2 * dark, mis)
            seen = decoy_bb84.observe(mu, link)
            single, error = decoy_bb84.photon_yield(1, link), decoy_bb84.photon_error(1, link)
            clicks = monte_carlo.decoy_bb84(rng, n, mu, eta, dark, mis)
            return [
                ("gain Q", float(seen.gain), clicks.click),
                ("error gain EQ", float(seen.error_gain), clicks.error),
                ("yield Y₁", float(single), clicks.single_click),
                ("error e₁", float(error), clicks.single_error),
            ]

        return Point("decoy", name, int(3 * pulses), draw)

    for length, mu, pulses in (
        (0, 0.48, 4e6), (0, 0.05, 1e7), (25, 0.48, 6e6), (50, 0.48, 1e7), (50, 0.05, 3e7), (75, 0.48, 3e7)
    ):  # fmt: skip
        eta = 0.045 * 10 ** (-0.021 * length)
        yield point(f"GYS {length} km, {mu} photon", mu, eta, 8.5e-7, 0.033, pulses)
    for length, mu, pulses in ((0, 0.05, 4e6), (50, 0.48, 4e6), (100, 0.48, 3e7), (100, 0.05, 3e7)):
        eta = 0.35 * 10 ** (-0.019 * length)
        yield point(f"SNSPD {length} km, {mu} photon", mu, eta, 1e-8, 0.01, pulses)
    yield point("dark counts 1e-4, 20 dB", 0.48, 0.01, 1e-4, 0.02, 1e7)
    yield point("receiver with η = 0.3, e_d = 0.1", 0.2, 0.3, 1e-6, 0.1, 4e6)


def twin_field_points() -> Iterator[Point]:
    """Coherent key pulses, pulses of random phase, number states, and pairs in time."""
    from qkd_gym.physics import mode_pairing
    from qkd_gym.physics import twin_field_cal19 as cal19
    from qkd_gym.physics import twin_field_sns as sns

    def key(loss_db: float, intensity: float, dark: float, phase: float, angle: float, pulses: float) -> Point:
        arm = 10 ** (-loss_db / 20)

        def draw(rng: np.random.Generator, n: int) -> list[tuple[str, float, Count]]:
            seen = cal19.observe(cal19.Cal19Settings(intensity), cal19.Cal19Link(arm, dark, phase, angle))
            success, wrong = monte_carlo.key_pulses(rng, n, intensity, arm, dark, phase, angle)
            return [("one click", 2 * float(seen.gain), success), ("wrong", 2 * float(seen.error_gain), wrong)]

        return Point("twin field", f"|±α⟩ {intensity} photon, {loss_db:g} dB", int(3 * pulses), draw)

    def window(loss_db: float, intensity: float, dark: float, pulses: float) -> Point:
        arm = 10 ** (-loss_db / 20)

        def draw(rng: np.random.Generator, n: int) -> list[tuple[str, float, Count]]:
            ours = sns.one_click(intensity, arm, dark)
            sent = (("none sends", 0.0, 0.0, ours.none), ("one sends", intensity, 0.0, ours.one))
            sent = (*sent, ("both send", intensity, intensity, ours.both))
            return [
                (name, float(p), monte_carlo.random_phase_pulses(rng, n, a, b, arm, dark)) for name, a, b, p in sent
            ]

        return Point("twin field", f"random phase {intensity} photon, {loss_db:g} dB", int(3 * pulses), draw)

    def number(n_a: int, n_b: int, loss_db: float, dark: float, pulses: float) -> Point:
        arm = 10 ** (-loss_db / 20)

        def draw(rng: np.random.Generator, n: int) -> list[tuple[str, float, Count]]:
            ours = cal19.fock_yields(arm, dark, 1.0, 4)[n_a, n_b]
            return [("one detector only", float(ours), monte_carlo.photon_numbers(rng, n, n_a, n_b, arm, dark))]

        return Point("twin field", f"photons |{n_a}, {n_b}⟩, {loss_db:g} dB", int(3 * pulses), draw)

    def paired(click_prob: float, rounds: int, pulses: float) -> Point:
        def draw(rng: np.random.Generator, n: int) -> list[tuple[str, float, Count]]:
            ours = mode_pairing.pairing_rate(click_prob, rounds)
            return [("pairs a round", float(ours), monte_carlo.pairs(rng, n, click_prob, rounds))]

        return Point("twin field", f"pairs within {rounds} rounds, clicks {click_prob:g}", int(3 * pulses), draw)

    angle = math.asin(math.sqrt(0.02))
    yield key(10, 0.05, 1e-6, 0.0, 0.0, 4e6)
    yield key(20, 0.02, 1e-5, 0.0628, angle, 1e7)
    yield key(30, 0.02, 1e-6, 0.3, 0.0, 1e7)
    yield key(50, 0.05, 1e-6, 0.0628, 0.3, 2e7)
    yield window(10, 0.4, 1e-3, 2e6)
    yield window(30, 0.5, 1e-5, 6e6)
    yield window(50, 0.4, 1e-6, 1e7)
    yield number(1, 0, 20, 1e-4, 2e6)
    yield number(1, 1, 3, 1e-4, 1e6)
    yield number(2, 1, 6, 1e-3, 1e6)
    yield number(2, 2, 10, 1e-4, 1e6)
    yield paired(0.01, 100, 2e7)
    yield paired(1e-3, 2000, 3e7)

"""Photons and clicks drawn one by one, in NumPy, to hold the closed forms against.

Nothing of `qkd_gym.physics` is in here and no formula of its: photon numbers are drawn, every photon meets the loss by
itself, takes its port, detectors click by light or in the dark, and clicks are counted. What comes back are counts and
trials; `interval` says what probability they speak for.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

#: Pulses held in memory at once.
CHUNK = 2_000_000


@dataclasses.dataclass(frozen=True)
class Count:
    """Events among trials."""

    events: int
    trials: int

    @property
    def rate(self) -> float:
        return self.events / self.trials if self.trials else math.nan

    def interval(self, confidence: float = 0.99) -> tuple[float, float]:
        """Clopper-Pearson interval of the probability behind the count."""
        from scipy.stats import beta

        tail, k, n = (1 - confidence) / 2, self.events, self.trials
        low = beta.ppf(tail, k, n - k + 1) if k else 0.0
        high = beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
        return float(low), float(high)

    def __add__(self, other: Count) -> Count:
        return Count(self.events + other.events, self.trials + other.trials)


def _chunks(total: int) -> list[int]:
    return [min(CHUNK, total - first) for first in range(0, total, CHUNK)]


def _two_detectors(
    rng: np.random.Generator, lit_0: np.ndarray, lit_1: np.ndarray, dark: float
) -> tuple[np.ndarray, np.ndarray]:
    """Clicks of two threshold detectors: light, or in the dark."""
    return lit_0 | (rng.random(lit_0.size) < dark), lit_1 | (rng.random(lit_1.size) < dark)


# ---- decoy BB84 ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class DecoyClicks:
    """Sifted pulses of one intensity: all, and those that held exactly one photon (which only a simulation knows)."""

    click: Count
    error: Count
    single_click: Count
    single_error: Count


def decoy_bb84(
    rng: np.random.Generator,
    pulses: int,
    intensity: float,
    transmittance: float,
    dark_count_prob_per_gate: float,
    misalignment_error: float,
) -> DecoyClicks:
    """Pulses of random photon number through loss to two detectors; a double click is a coin toss.

    The sent bit is 0 without loss of generality: detector 1 is the wrong one, and each arriving photon goes there with
    probability `misalignment_error`.
    """
    totals = np.zeros(6, np.int64)
    for size in _chunks(pulses):
        photons = rng.poisson(intensity, size)
        sender = np.repeat(np.arange(size), photons)  # one entry a photon: the pulse that it is in
        arrived = sender[rng.random(sender.size) < transmittance]
        wrong = rng.random(arrived.size) < misalignment_error
        lit = [np.zeros(size, bool), np.zeros(size, bool)]
        lit[0][arrived[~wrong]] = True
        lit[1][arrived[wrong]] = True
        right_click, wrong_click = _two_detectors(rng, lit[0], lit[1], dark_count_prob_per_gate)
        click = right_click | wrong_click
        error = wrong_click & (~right_click | (rng.random(size) < 0.5))
        single = photons == 1
        totals += [size, click.sum(), error.sum(), single.sum(), (click & single).sum(), (error & single).sum()]
    sent, clicks, errors, singles, single_clicks, single_errors = (int(x) for x in totals)
    return DecoyClicks(
        click=Count(clicks, sent),
        error=Count(errors, sent),
        single_click=Count(single_clicks, singles),
        single_error=Count(single_errors, single_clicks),
    )


# ---- twin field: two fields at a beam splitter --------------------------------------------------------------------


def _exactly_one(rng: np.random.Generator, energy_0: np.ndarray, energy_1: np.ndarray, dark: float) -> tuple[int, int]:
    """How often only detector 0, and only detector 1, clicks; each sees Poissonian light of its port's energy."""
    click_0, click_1 = _two_detectors(rng, rng.poisson(energy_0) > 0, rng.poisson(energy_1) > 0, dark)
    return int((click_0 & ~click_1).sum()), int((click_1 & ~click_0).sum())


def key_pulses(
    rng: np.random.Generator,
    pulses: int,
    intensity: float,
    arm_transmittance: float,
    dark_count_prob_per_gate: float,
    phase_mismatch_rad: float = 0.0,
    polarization_mismatch_rad: float = 0.0,
) -> tuple[Count, Count]:
    """Coherent |+-alpha> of both sides at the beam splitter: `(successes, wrong ones)`, exactly one click of two.

    Equal signs belong to detector 0. The second side's light is turned in phase, and in polarisation: what stands
    across the first side's polarisation does not interfere, and divides evenly.
    """
    success = wrong = 0
    alpha = math.sqrt(intensity * arm_transmittance)
    for size in _chunks(pulses):
        sign_a, sign_b = rng.choice([-1.0, 1.0], (2, size))
        field_b = sign_b * alpha * np.exp(1j * phase_mismatch_rad)
        along, across = field_b * math.cos(polarization_mismatch_rad), field_b * math.sin(polarization_mismatch_rad)
        field_a = sign_a * alpha
        ports = [(np.abs(field_a + s * along) ** 2 + np.abs(across) ** 2) / 2 for s in (1, -1)]
        click_0, click_1 = _two_detectors(
            rng, rng.poisson(ports[0]) > 0, rng.poisson(ports[1]) > 0, dark_count_prob_per_gate
        )
        one = click_0 ^ click_1
        equal = sign_a == sign_b
        success += int(one.sum())
        wrong += int((one & (click_0 != equal)).sum())
    return Count(success, pulses), Count(wrong, pulses)


def random_phase_pulses(
    rng: np.random.Generator,
    pulses: int,
    intensity_a: float,
    intensity_b: float,
    arm_transmittance: float,
    dark_count_prob_per_gate: float,
) -> Count:
    """Two pulses of random phase (either may be dark) at the beam splitter: exactly one click of the two detectors."""
    success = 0
    for size in _chunks(pulses):
        phase = np.exp(2j * math.pi * rng.random((2, size)))
        field_a = math.sqrt(intensity_a * arm_transmittance) * phase[0]
        field_b = math.sqrt(intensity_b * arm_transmittance) * phase[1]
        ports = [np.abs(field_a + s * field_b) ** 2 / 2 for s in (1, -1)]
        success += sum(_exactly_one(rng, *ports, dark_count_prob_per_gate))
    return Count(success, pulses)


def beam_splitter(photons_a: int, photons_b: int) -> np.ndarray:
    """Probabilities that k = 0, 1, ... of n + m photons leave a 50:50 beam splitter by port 0.

    The state (a+)^n (b+)^m |0> with a+ -> (c+ + d+)/sqrt 2, b+ -> (c+ - d+)/sqrt 2: the product of two polynomials.
    """
    state = np.polynomial.polynomial.polypow([1.0, 1.0], photons_a)
    state = np.polynomial.polynomial.polymul(state, np.polynomial.polynomial.polypow([1.0, -1.0], photons_b))
    total = photons_a + photons_b
    state = np.pad(state, (0, total + 1 - state.size))  # coefficient of d^k c^(total - k)
    norm = np.array([math.factorial(k) * math.factorial(total - k) for k in range(total + 1)], float)
    probability = state**2 * norm / (math.factorial(photons_a) * math.factorial(photons_b) * 2.0**total)
    return probability[::-1]


def photon_numbers(
    rng: np.random.Generator,
    pulses: int,
    photons_a: int,
    photons_b: int,
    arm_transmittance: float,
    dark_count_prob_per_gate: float,
) -> Count:
    """Number states of both sides, lost photon by photon, then at the beam splitter: only detector 0 clicks."""
    only = 0
    for size in _chunks(pulses):
        left_a = (rng.random((size, photons_a)) < arm_transmittance).sum(-1)
        left_b = (rng.random((size, photons_b)) < arm_transmittance).sum(-1)
        port_0 = np.zeros(size, np.int64)
        for n in range(photons_a + 1):
            for m in range(photons_b + 1):
                rows = np.flatnonzero((left_a == n) & (left_b == m))
                port_0[rows] = rng.choice(n + m + 1, p=beam_splitter(n, m), size=rows.size)
        port_1 = left_a + left_b - port_0
        click_0, click_1 = _two_detectors(rng, port_0 > 0, port_1 > 0, dark_count_prob_per_gate)
        only += int((click_0 & ~click_1).sum())
    return Count(only, pulses)


# ---- mode pairing -------------------------------------------------------------------------------------------------


def pairs(rng: np.random.Generator, rounds: int, click_prob: float, max_pairing_rounds: int) -> Count:
    """Clicks drawn round by round and paired with the next one that comes in time: pairs among rounds."""
    clicks = np.flatnonzero(rng.random(rounds) < click_prob)
    paired, waiting = 0, None
    for click in clicks:
        if waiting is not None and click - waiting <= max_pairing_rounds:
            paired, waiting = paired + 1, None
        else:
            waiting = click
    return Count(paired, rounds)

"""Degree distributions for the binary symmetric channel, optimised by discretised density evolution.

    python -m benchmarks.ldpc.density_evolution            # all rates, minutes; writes degrees.json beside this
    python -m benchmarks.ldpc.density_evolution --check    # thresholds of the file again, on a finer grid

Densities live on a uniform grid of log-likelihood ratios; a check combines two messages at a time by a quantised table
(Chung, Forney, Richardson, Urbanke, IEEE Commun. Lett. 5, 58 (2001)). A distribution is improved by linear programs
about the present trajectory, which keep the rate and lower the predicted number of iterations (Richardson, Shokrollahi,
Urbanke, IEEE Trans. Inf. Theory 47, 619 (2001)). The aim is the largest error rate that is corrected in as many
iterations as the decoder has, not in infinitely many.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

DEGREES = Path(__file__).with_name("degrees.json")
#: Average degrees of a variable that are tried for each rate; the best is kept.
MEAN_DEGREES = {
    0.5: (4.0, 4.4, 4.8),
    0.6: (4.2, 4.6, 5.0),
    0.7: (4.6, 5.0, 5.4),
    0.75: (4.8, 5.2, 5.6),
    0.8: (5.2, 5.4, 5.6),
    0.85: (5.4, 5.6, 5.8),
    0.9: (5.8, 6.0, 6.2),
}
RATES = tuple(MEAN_DEGREES)
#: Degrees a variable may have.
DEGREES_ALLOWED = (2, 3, 4, 6, 8, 10, 12, 15)
ITERATIONS = 100
#: Degree-2 variables per check, at most. Above 1 they close cycles among themselves, which are words of low weight.
DEGREE_TWO_PER_CHECK = 0.95
#: Bhattacharyya parameter of the messages that counts as corrected.
CONVERGED = 1e-4


@dataclasses.dataclass(frozen=True)
class Grid:
    """Log-likelihood ratios step * (-half, ..., half); what lies beyond is put on the ends."""

    half: int = 160
    step: float = 0.15

    @functools.cached_property
    def magnitudes(self) -> np.ndarray:
        return self.step * np.arange(self.half + 1)

    @functools.cached_property
    def check_table(self) -> np.ndarray:
        """Place of 2 atanh(tanh(a/2) tanh(b/2)) for each pair of magnitudes, flat."""
        t = np.tanh(self.magnitudes / 2)
        product = np.clip(np.outer(t, t), 0, 1 - 1e-16)
        return np.minimum(np.rint(2 * np.arctanh(product) / self.step), self.half).astype(np.int64).ravel()

    def channel(self, qber: float) -> np.ndarray:
        """Density of the channel's ratio +-ln((1-Q)/Q), each mass split over its two neighbours on the grid."""
        place = math.log((1 - qber) / qber) / self.step
        low = min(int(place), self.half - 1)
        share = min(place - low, 1.0)
        density = np.zeros(2 * self.half + 1)
        for sign, mass in ((1, 1 - qber), (-1, qber)):
            density[self.half + sign * low] += mass * (1 - share)
            density[self.half + sign * (low + 1)] += mass * share
        return density

    def fold(self, density: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum and difference of the masses of +a and -a."""
        positive, negative = density[self.half :].copy(), density[self.half :: -1].copy()
        positive[0] = negative[0] = density[self.half] / 2
        return positive + negative, positive - negative

    def unfold(self, total: np.ndarray, difference: np.ndarray) -> np.ndarray:
        positive, negative = (total + difference) / 2, (total - difference) / 2
        return np.concatenate([negative[:0:-1], [total[0]], positive[1:]])

    def combine(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Density of the check's output magnitude for independent inputs (or of the signed difference)."""
        return np.bincount(self.check_table, np.outer(a, b).ravel(), self.half + 1)

    def check_power(self, density: np.ndarray, inputs: int) -> np.ndarray:
        """Density out of a check fed by `inputs` independent messages."""
        result = []
        for folded in self.fold(density):
            square, value, k = folded, None, inputs
            while k:
                if k & 1:
                    value = square if value is None else self.combine(value, square)
                k >>= 1
                if k:
                    square = self.combine(square, square)
            result.append(value)
        return self.unfold(*result)

    def bhattacharyya(self, density: np.ndarray) -> float:
        """Mean of exp(-L/2): at least twice the probability of a wrong sign, linear, and falling at every iteration."""
        return float(density @ np.exp(-self.step * np.arange(-self.half, self.half + 1) / 2))

    def variable_powers(self, density: np.ndarray, channel: np.ndarray, degrees: Sequence[int]) -> np.ndarray:
        """Density out of a variable of each degree: the channel's and degree - 1 messages added, [degree, grid]."""
        most = max(degrees)
        size = 1 << math.ceil(math.log2(most * 2 * self.half + 1))
        spectrum, first = np.fft.rfft(density, size), np.fft.rfft(channel, size)
        out = np.empty((len(degrees), 2 * self.half + 1))
        for row, degree in enumerate(degrees):
            full = np.maximum(np.fft.irfft(first * spectrum ** (degree - 1), size), 0)[: 2 * self.half * degree + 1]
            cut = self.half * (degree - 1)
            out[row] = full[cut : cut + 2 * self.half + 1]
            out[row, 0] += full[:cut].sum()
            out[row, -1] += full[cut + 2 * self.half + 1 :].sum()
        return out


def check_edges(mean_check_degree: float) -> dict[int, float]:
    """Edge fractions of check degrees d and d + 1 whose mean over checks is as given."""
    low = int(mean_check_degree)
    share = mean_check_degree - low
    weights = {low: (1 - share) * low, low + 1: share * (low + 1)}
    total = sum(weights.values())
    return {d: w / total for d, w in weights.items() if w > 1e-12}


def trajectory(
    edges: Mapping[int, float], checks: Mapping[int, float], qber: float, grid: Grid, iterations: int = ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Bhattacharyya parameter of messages before each iteration, [t+1], and after it by variable degree, [t, degree].

    Ends when it falls below `CONVERGED` or stands still.
    """
    degrees = sorted(edges)
    weights = np.array([edges[d] for d in degrees])
    channel = grid.channel(qber)
    density, errors, by_degree = channel, [grid.bhattacharyya(channel)], []
    for _ in range(iterations):
        out = sum(share * grid.check_power(density, d - 1) for d, share in checks.items())
        powers = grid.variable_powers(out, channel, degrees)
        by_degree.append([grid.bhattacharyya(p) for p in powers])
        density = weights @ powers
        density /= density.sum()
        errors.append(grid.bhattacharyya(density))
        if errors[-1] < CONVERGED or errors[-2] - errors[-1] < 1e-7:
            break
    return np.array(errors), np.array(by_degree)


def converges(edges: Mapping[int, float], checks: Mapping[int, float], qber: float, grid: Grid, n: int) -> bool:
    return trajectory(edges, checks, qber, grid, n)[0][-1] < CONVERGED


def threshold(
    edges: Mapping[int, float],
    checks: Mapping[int, float],
    low: float,
    high: float,
    grid: Grid,
    iterations: int = ITERATIONS,
    steps: int = 8,
) -> float:
    """Largest error rate in [low, high] that is corrected within `iterations`, by bisection."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if converges(edges, checks, middle, grid, iterations) else (low, middle)
    return low


def node_fractions(edges: Mapping[int, float]) -> dict[int, float]:
    """Fractions of variables from fractions of edges."""
    total = sum(x / d for d, x in edges.items())
    return {d: x / d / total for d, x in edges.items()}


def _start(rate: float, mean_degree: float) -> dict[int, float]:
    two = 0.85 * DEGREE_TWO_PER_CHECK * (1 - rate)
    most = (mean_degree - 2 * two - 3 * (1 - two)) / (DEGREES_ALLOWED[-1] - 3)
    nodes = {2: two, 3: 1 - two - most, DEGREES_ALLOWED[-1]: most}
    return {d: d * nodes.get(d, 0.0) / mean_degree for d in DEGREES_ALLOWED}


def _improve(
    edges: Mapping[int, float], errors: np.ndarray, by_degree: np.ndarray, rate: float, mean_degree: float, reach: float
) -> dict[int, float]:
    """The linear program: least predicted iterations at the same rate, no fraction moved by more than `reach`."""
    degrees = np.array(sorted(edges))
    now = np.array([edges[d] for d in degrees])
    gain = errors[:-1] - errors[1:]
    # iterations are the integral of dx / gain(x); one iteration spans dx = gain, so a change of x' weighs 1 / gain
    objective = (by_degree / gain[:, None]).sum(0)
    equal = np.stack([np.ones(len(degrees)), 1 / degrees])
    two = np.zeros(len(degrees))
    two[0] = 1 / degrees[0]
    result = linprog(
        objective,
        A_ub=np.concatenate([by_degree, two[None]]),
        b_ub=np.append(errors[1:] + 0.6 * gain, DEGREE_TWO_PER_CHECK * (1 - rate) / mean_degree),
        A_eq=equal,
        b_eq=[1.0, 1 / mean_degree],
        bounds=[(max(0.0, x - reach), min(1.0, x + reach)) for x in now],
    )
    if not result.success:
        return dict(edges)
    return {int(d): float(x) for d, x in zip(degrees, result.x, strict=True)}


def _length(errors: np.ndarray) -> float:
    """Iterations until `CONVERGED`, with the last one's fraction; infinite if it is not reached."""
    if errors[-1] >= CONVERGED:
        return math.inf
    last = math.log(errors[-2] / errors[-1])
    return len(errors) - 2 + math.log(errors[-2] / CONVERGED) / last


def optimise(rate: float, mean_degree: float, grid: Grid, rounds: int = 60) -> tuple[dict[int, float], float]:
    """Edge fractions by degree, and the largest error rate found that they correct within `ITERATIONS`.

    Linear programs shorten the trajectory at one error rate; when it has become short the error rate is raised.
    """
    from qkd_gym.physics import reconciliation

    limit = float(reconciliation.decodable_qber(rate))
    checks = check_edges(mean_degree / (1 - rate))
    edges = _start(rate, mean_degree)
    qber = threshold(edges, checks, 0.4 * limit, limit, grid, steps=6)
    errors, by_degree = trajectory(edges, checks, qber, grid)
    reach = 0.03
    for _ in range(rounds):
        candidate = _improve(edges, errors, by_degree, rate, mean_degree, reach)
        tried = trajectory(candidate, checks, qber, grid)
        if _length(tried[0]) < _length(errors) - 0.05:
            edges, (errors, by_degree), reach = candidate, tried, min(1.4 * reach, 0.06)
        else:
            reach /= 2
        while _length(errors) < 0.85 * ITERATIONS:
            higher = trajectory(edges, checks, qber * 1.006, grid)
            if _length(higher[0]) > ITERATIONS:
                break
            qber, (errors, by_degree) = qber * 1.006, higher
        if reach < 0.001:
            break
    return {d: x for d, x in edges.items() if x > 1e-4}, qber


def load() -> dict[float, dict[int, float]]:
    """Edge fractions by variable degree of each rate, from degrees.json."""
    record = json.loads(DEGREES.read_text())
    return {
        float(rate): {int(d): x for d, x in entry["edge_fractions"].items()} for rate, entry in record["rates"].items()
    }


def main() -> None:
    from qkd_gym.physics import reconciliation

    parser = argparse.ArgumentParser(prog="python -m benchmarks.ldpc.density_evolution", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only recompute the thresholds of degrees.json, finer")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of filling in missing rates")
    fine = Grid(640, 0.0375)
    arguments = parser.parse_args()
    if arguments.check:
        for rate, edges in load().items():
            mean = 1 / sum(x / d for d, x in edges.items())
            checks = check_edges(mean / (1 - rate))
            limit = float(reconciliation.decodable_qber(rate))
            for iterations in (ITERATIONS, 5 * ITERATIONS):
                q = threshold(edges, checks, 0.8 * limit, limit, fine, iterations)
                f = float(reconciliation.efficiency_of_rate(rate, q))
                print(f"rate {rate:.2f}: QBER {q:.5f}, efficiency {f:.4f} within {iterations} iterations", flush=True)
        return
    grid, rates = Grid(), {}
    for rate in RATES:
        if DEGREES.exists() and not (arguments.fresh and not rates):
            rates = json.loads(DEGREES.read_text())["rates"]
        if str(rate) in rates:
            continue
        found = [(m, *optimise(rate, m, grid)) for m in MEAN_DEGREES[rate]]
        mean, edges, q = max(found, key=lambda x: x[2])
        f = float(reconciliation.efficiency_of_rate(rate, q))
        rates[str(rate)] = {
            "edge_fractions": {str(d): round(x, 5) for d, x in edges.items()},
            "mean_variable_degree": mean,
            "threshold_qber": round(q, 5),
            "threshold_efficiency": round(f, 4),
            "grid": dataclasses.asdict(grid),
        }
        print(f"rate {rate:.2f}: QBER {q:.5f}, efficiency {f:.4f}, {edges}", flush=True)
        DEGREES.write_text(
            json.dumps(
                {
                    "about": "optimised by benchmarks/ldpc/density_evolution.py for the binary symmetric channel",
                    "iterations": ITERATIONS,
                    "rates": rates,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()

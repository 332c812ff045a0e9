"""Admission figures of PolarizationAlignment: every agent on every scenario, on the same episodes.

    python -m benchmarks.admission.polarization [--episodes 256] [--agents NAME ...] [--scenarios NAME ...]

Returns are shares of the ideal key: 1 is perfect alignment of that unit all the time. What is finished is kept in
`polarization.json` beside this file and not repeated; `--fresh` starts anew (after a change of the task or an agent).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from agents.registry import agents_for
from qkd_gym.envs.calibration.polarization import PolarizationAlignment
from qkd_gym.evaluation.protocol import EVALUATION_SEED
from qkd_gym.evaluation.runner import evaluate

RESULTS = Path(__file__).with_suffix(".json")


def measure(scenarios: list[str], names: list[str] | None, episodes: int, results: dict) -> None:
    """Fill `results[scenario][agent]` with the returns of `episodes` episodes; write after each."""
    for scenario in scenarios:
        env = PolarizationAlignment(scenario=scenario)
        steps = env.default_params.max_steps_in_episode
        done = results.setdefault(scenario, {})
        for name, agent in agents_for(env).items():
            if (names and name not in names) or len(done.get(name, ())) >= episodes:
                continue
            played = evaluate(env, agent, episodes, EVALUATION_SEED, chunk=64)
            done[name] = [round(float(x), 5) for x in played.returns / steps]
            RESULTS.write_text(json.dumps(results, sort_keys=True) + "\n")
            print(f"{scenario:16s} {name:20s} {interval(done[name])}", flush=True)


def interval(values: list[float]) -> str:
    """Mean and 95 % half width."""
    x = np.asarray(values)
    return f"{x.mean():.3f} +- {1.96 * x.std(ddof=1) / np.sqrt(len(x)):.3f}"


def table(results: dict) -> str:
    """A Markdown table, agents by scenarios, with the number of episodes where it differs from the largest."""
    names = [n for n in agents_for(PolarizationAlignment()) if any(n in r for r in results.values())]
    most = max(len(v) for r in results.values() for v in r.values())
    lines = ["| agent | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for name in names:
        cells = []
        for done in results.values():
            values = done.get(name)
            few = f" ({len(values)})" if values and len(values) < most else ""
            cells.append(interval(values) + few if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(results: dict, pairs: tuple[tuple[str, str], ...]) -> str:
    """Paired differences on the training scenario."""
    done, lines = results.get("training", {}), []
    for a, b in pairs:
        if a in done and b in done:
            n = min(len(done[a]), len(done[b]))
            lines.append(f"{a} - {b}: {interval(list(np.subtract(done[a][:n], done[b][:n])))} ({n} episodes, paired)")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--agents", nargs="*")
    parser.add_argument("--scenarios", nargs="*", default=list(PolarizationAlignment.scenarios))
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() and not options.fresh else {}
    measure(options.scenarios, options.agents, options.episodes, kept)
    print(table(kept))
    print(
        differences(
            kept,
            (
                ("exact_inverse", "belief_filter"),
                ("told_filter", "belief_filter"),
                ("belief_filter", "coordinate_descent"),
                ("coordinate_descent", "random"),
            ),
        )
    )

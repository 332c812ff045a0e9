"""`python -m benchmarks.throughput`: how fast we are, as ratios taken in one run, against goals set beforehand."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    import jax

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "device": str(jax.devices()[0].device_kind),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "date": date.today().isoformat(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="Race tasks, faces and trainers against gymnax, JaxMARL, hand-written twins and Stable-Baselines3. "
        "Contestants alternate in one run; the ratio is the median over the rounds. Exits 1 if a 'must' is missed.",
        epilog="example: make throughput    (installs the contestants and runs this)",
    )
    names = ("tasks", "networks", "single", "vector", "keys", "ppo", "recompilations")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which races (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="times that each contestant runs (default: 7)")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="where the figures go")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one round is needed")

    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from benchmarks.throughput import races
    from benchmarks.throughput.contest import alternate, ratio

    makers = {
        "tasks": races.tasks_against_gymnax,
        "networks": races.networks_against_jaxmarl,
        "single": lambda: [races.single_step()],
        "vector": lambda: [races.vector_step()],
        "keys": lambda: [races.finite_keys()],
        "ppo": lambda: [races.ppo()],
    }
    console, rows, ratios = Console() if sys.stdout.isatty() else Console(width=160), [], []
    for name in track([n for n in makers if n in options.only], description="racing", console=console):
        for race in makers[name]():
            seconds = alternate(race.contestants, options.rounds)
            found, low, high = ratio(seconds, race.ours, race.theirs)
            if name == "tasks":
                ratios.append(found)
            rates = {k: 1 / statistics.median(v) for k, v in seconds.items()}
            rows.append(
                {
                    "race": race.title,
                    "ours": race.ours,
                    "theirs": race.theirs,
                    "ratio": found,
                    "lowest": low,
                    "highest": high,
                    "must": race.must,
                    "aim": race.aim,
                    "unit": race.unit,
                    "rates": rates,
                }
            )
    if ratios:
        rows.insert(
            len(ratios),
            {
                "race": "median single-agent task",
                "ours": "median task",
                "theirs": "gymnax Pendulum-v1",
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "must": 0.5,
                "aim": 1.0,
                "unit": "env-steps/s",
                "rates": {},
            },
        )
    recompiled = races.recompilations() if "recompilations" in options.only else {}

    table = Table(title="Throughput: ours / theirs, median (and range) of the rounds")
    for column in ("race", "against", "ratio", "range", "must", "aim", "verdict", "ours per s", "theirs per s"):
        table.add_column(column, justify="left" if column in ("race", "against", "verdict") else "right")
    missed = 0
    for row in rows:
        verdict = "aim met" if row["ratio"] >= row["aim"] else "met" if row["ratio"] >= row["must"] else "MISSED"
        missed += verdict == "MISSED"
        rates = row["rates"]
        speeds = [f"{rates[row[k]]:,.0f}" if rates else "" for k in ("ours", "theirs")]
        table.add_row(
            row["race"], row["theirs"], f"{row['ratio']:.2f}", f"{row['lowest']:.2f}-{row['highest']:.2f}",
            f"{row['must']:.2g}", f"{row['aim']:.2g}", verdict, *speeds,
        )  # fmt: skip
    for env_id, count in recompiled.items():
        missed += count > 0
        table.add_row(
            f"{env_id}: recompilations", "", str(count), "", "0", "0", "MISSED" if count else "aim met", "", ""
        )
    console.print(table)
    result = {"machine": machine(), "rounds": options.rounds, "races": rows, "recompilations": recompiled}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"figures: {options.out}")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())

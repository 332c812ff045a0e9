"""The table of the package, `qkd_gym/data/ldpc_fer.json`, from measured points, and its efficiencies in print."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ldpc import codes, construction, decoder, density_evolution, sweep
from qkd_gym.physics import ldpc, reconciliation

TABLE = Path(ldpc.__file__).parents[1] / "data" / "ldpc_fer.json"
COLUMNS = ("efficiency", "qber", "frames", "errors", "undetected", "iterations", "seed")


class _Missing(Exception):
    """A point of a walk that has not been measured."""


def finished(setting: codes.Setting, known: dict[str, sweep.Record]) -> list[sweep.Record] | None:
    """The points of a setting by rising efficiency, or None while some are missing."""

    def counts(efficiency: float, most: int) -> sweep.Record:
        name = sweep.point_name(setting, efficiency)
        if name not in known:
            raise _Missing(name)
        return known[name]

    try:
        return sorted(sweep.walk(setting, counts), key=lambda r: r["efficiency"])
    except _Missing:
        return None


def points(path: Path = TABLE) -> dict[str, sweep.Record]:
    """The points of a table by name, as far as they are of the codes that would be built today."""
    found = {}
    for part in json.loads(path.read_text())["blocks"] if path.exists() else ():
        block = part["block"]
        today = {m["rate"] for m in part["mothers"] if m.get("recipe") == codes.recipe(block, m["rate"])}
        for entry in part["settings"]:
            if entry["mother_rate"] in today:
                head = {"block": block} | {k: entry[k] for k in ("mother_rate", "punctured", "shortened")}
                records = [head | dict(zip(COLUMNS, row, strict=True)) for row in entry["points"]]
                found |= {sweep.point_name(sweep.setting_of(r), r["efficiency"]): r for r in records}
    return found


def _commit() -> str:
    run = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def build(known: dict[str, sweep.Record]) -> dict[str, Any]:
    """The table's content: provenance, codes, and the counts of every finished setting."""
    blocks = []
    for block in codes.BLOCKS:
        entries, mothers = [], {}
        for setting in codes.settings(block):
            records = finished(setting, known)
            if records is None:
                continue
            if setting.mother_rate not in mothers:
                code = codes.mother(block, setting.mother_rate)
                degrees = code.variable_degrees
                mothers[setting.mother_rate] = {
                    "rate": setting.mother_rate,
                    "recipe": codes.recipe(block, setting.mother_rate),
                    "checks": code.checks,
                    "lift": code.lift,
                    "girth": construction.girth(code),
                    "variables_by_degree": {int(d): int((degrees == d).sum()) for d in np.unique(degrees)},
                    "check_degrees": [int(code.check_degrees.min()), int(code.check_degrees.max())],
                }
            entries.append(
                {
                    "mother_rate": setting.mother_rate,
                    "punctured": setting.punctured,
                    "shortened": setting.shortened,
                    "rate": round(setting.rate, 6),
                    "points": [[r[c] for c in COLUMNS] for r in records],
                }
            )
        if entries:
            blocks.append({"block": block, "mothers": list(mothers.values()), "settings": entries})
    return {
        "about": "Measured frame error rates of LDPC codes over the binary symmetric channel, syndrome decoding",
        "command": "python -m benchmarks.ldpc, then python -m benchmarks.ldpc --table",
        "commit": _commit(),
        "construction": {
            str(codes.BLOCKS[0]): "progressive edge growth",
            str(codes.BLOCKS[1]): f"quasi-cyclic progressive edge growth, {codes.LIFT} x {codes.LIFT} circulants",
            "degrees": "density evolution for this channel: benchmarks/ldpc/density_evolution.py",
            "seed": codes.SEED,
        },
        "decoder": {
            "rule": "sum-product, flooding, float32, prior from the true error rate",
            "max_iterations": decoder.MAX_ITERATIONS,
        },
        "stop": f"{sweep.ENOUGH_ERRORS} errors after {sweep.FEWEST} frames, or {sweep.HOPELESS} of {sweep.HOPELESS} "
        f"failed, or {sweep.MOST} frames by block ({sweep.EASY_FRAMES} at efficiencies {sweep.EASY})",
        "errors": "frames whose word is wrong or not found after all iterations; undetected: the syndrome holds, the "
        "word is wrong; iterations: summed over all frames, failed ones with the maximum",
        "interval": "Wilson's of errors out of frames; failures of a point are independent",
        "columns": list(COLUMNS),
        "blocks": blocks,
    }


def write(measured: Path, path: Path = TABLE) -> None:
    """Write the table, one point a line: what it held and what was measured since.

    Raises:
        SystemExit: if no setting is finished.
    """
    content = build(points(path) | sweep.read(measured))
    if not content["blocks"]:
        raise SystemExit(f"{measured} holds no finished setting: run python -m benchmarks.ldpc first")
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)  # a row, a line
    path.write_text(text + "\n")
    ldpc.clear()


def report() -> str:
    """Efficiencies at frame error rates 0.1 and 0.01 of each rate, and the finite-length bound beside them."""
    evolved = {float(k): v for k, v in json.loads(density_evolution.DEGREES.read_text())["rates"].items()}
    lines = [
        "f = (1-R)/h(QBER) at a frame error rate; floor: least for any code of that length (Tomamichel et al. 2017);",
        "expected: 1.10 to 1.25 at 1e-2 for 1e4 to 1e5 bits; threshold: density evolution, 100 iterations",
        "  block   rate  from                     QBER(1e-2)   f(1e-1)   f(1e-2)  floor(1e-2)  threshold  undetected",
    ]
    for curve in ldpc.curves():
        f1, f2 = curve.efficiency_at(0.1), curve.efficiency_at(0.01)
        qber = float(reconciliation.decodable_qber(curve.rate, f2))
        bits = curve.block - curve.punctured - curve.shortened
        floor = float(reconciliation.finite_length_efficiency(float(bits), qber, 0.01))
        how = f"{curve.mother_rate:g}"
        how += f" punctured {curve.punctured}" if curve.punctured else ""
        how += f" shortened {curve.shortened}" if curve.shortened else ""
        mother = not (curve.punctured or curve.shortened)
        limit = f"{evolved[curve.mother_rate]['threshold_efficiency']:9.3f}" if mother else " " * 9
        lines.append(
            f"{curve.block:7d}  {curve.rate:.3f}  {how:24s} {qber:10.5f} {f1:9.3f} {f2:9.3f} {floor:12.3f}  {limit} "
            f"{int(curve.undetected.sum()):6d} of {int(curve.frames.sum())}"
        )
    return "\n".join(lines)

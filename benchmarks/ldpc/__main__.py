"""Measure frame error rates of LDPC reconciliation over the binary symmetric channel.

    python -m benchmarks.ldpc                      # every setting; goes on where it was stopped
    python -m benchmarks.ldpc --block 10000        # one block length
    python -m benchmarks.ldpc --mothers            # without punctured and shortened rates
    python -m benchmarks.ldpc --table              # write the table of the package from the points there are
    python -m benchmarks.ldpc --print              # efficiencies of the table against physics and bounds
    python -m benchmarks.ldpc --again 64000/0.75/p0/s0/f1.080 --frames 100

Points are appended to runs/ldpc/points.jsonl one by one: a killed run loses the point it was at. Points of the
package's table are not measured again.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.ldpc import codes, sweep, table
from benchmarks.ldpc.codes import Setting


def _again(name: str, frames: int | None) -> None:
    match = re.fullmatch(r"(\d+)/([\d.]+)/p(\d+)/s(\d+)/f([\d.]+)", name)
    if not match:
        raise SystemExit(
            f"--again takes block/mother rate/pBITS/sBITS/fEFFICIENCY, like 10000/0.5/p0/s0/f1.120: {name}"
        )
    block, rate, punctured, shortened, efficiency = match.groups()
    setting = Setting(int(block), float(rate), int(punctured), int(shortened))
    record = sweep.measure(setting, float(efficiency), frames or sweep.MOST[setting.block])
    low, high = sweep.interval(record["errors"], record["frames"])
    print(f"{name}: QBER {record['qber']:.5f}, {record['errors']} of {record['frames']} frames failed")
    print(
        f"frame error rate in [{low:.4f}, {high:.4f}] (99 %), {record['iterations'] / record['frames']:.1f} iterations"
    )


def _run(blocks: list[int], mothers: bool, points: Path) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    known = table.points() | sweep.read(points)
    todo = [s for b in blocks for s in codes.settings(b) if not (mothers and (s.punctured or s.shortened))]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        overall = progress.add_task("settings", total=len(todo))
        now = progress.add_task("", total=max(sweep.MOST.values()))
        for setting in todo:

            def counts(efficiency: float, most: int, setting: Setting = setting) -> sweep.Record:
                name = sweep.point_name(setting, efficiency)
                if name in known:
                    return known[name]
                progress.update(now, description=name, total=most, completed=0)
                record = sweep.measure(setting, efficiency, most, lambda n, e: progress.update(now, completed=n))
                sweep.append(points, record)
                known[name] = record
                progress.console.print(
                    f"{name}: QBER {record['qber']:.5f}, {record['errors']}/{record['frames']} failed, "
                    f"{record['iterations'] / record['frames']:.1f} iterations"
                )
                return record

            for _ in sweep.walk(setting, counts):
                pass
            progress.advance(overall)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ldpc", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--block", type=int, choices=codes.BLOCKS, action="append", help="one block length only")
    parser.add_argument("--mothers", action="store_true", help="no punctured or shortened settings")
    parser.add_argument(
        "--points", type=Path, default=sweep.POINTS, help="where points are kept (default: %(default)s)"
    )
    parser.add_argument("--table", action="store_true", help="write the table of the package instead of measuring")
    parser.add_argument("--print", action="store_true", help="print the table's efficiencies instead of measuring")
    parser.add_argument("--again", metavar="POINT", help="run one point again and print its counts")
    parser.add_argument("--frames", type=int, help="most frames of --again (default: the sweep's)")
    chosen = parser.parse_args(arguments)
    if chosen.again:
        _again(chosen.again, chosen.frames)
    elif chosen.table:
        table.write(chosen.points)
        print(table.report())
    elif chosen.print:
        print(table.report())
    else:
        _run(chosen.block or list(codes.BLOCKS), chosen.mothers, chosen.points)


if __name__ == "__main__":
    sys.exit(main())

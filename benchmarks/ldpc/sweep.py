"""Frame error rates along the waterfall of each setting: which points, how many frames, and their record.

A point is a setting at an error rate. Its seed follows from its name, its frames are counted in order, and the rule
that ends it looks at the frames counted: so any point gives the same counts whenever it is run again. Points are
appended to a file of JSON lines, one a point, and never measured twice.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.ldpc import codes, decoder
from benchmarks.ldpc.codes import Setting
from qkd_gym.physics import reconciliation

POINTS = Path("runs/ldpc/points.jsonl")
#: Steps of the efficiency (1-R)/h(Q) between neighbouring points; the waterfall of the long codes is steeper.
STEP = {codes.BLOCKS[0]: 0.02, codes.BLOCKS[1]: 0.01}
#: Efficiencies far from the waterfall, measured for the iterations and for an error floor.
EASY = (1.5, 2.0, 3.0)
FEWEST, ENOUGH_ERRORS, EASY_FRAMES = 200, 50, 200
#: Frames of a point at most; a long one takes six times as long.
MOST = {codes.BLOCKS[0]: 1000, codes.BLOCKS[1]: 500}
#: So many failures without a success are enough.
HOPELESS = 40
#: The walk along the waterfall ends at frame error rates above and below these, or after so many points a side.
HIGH, LOW, LONGEST = 0.97, 0.004, 12

Record = dict[str, Any]


def point_name(setting: Setting, efficiency: float) -> str:
    return f"{setting.name}/f{efficiency:.3f}"


def qber_at(rate: float, efficiency: float) -> float:
    """Error rate of a point, rounded so that it can be written down exactly."""
    return round(float(reconciliation.decodable_qber(rate, efficiency)), 7)


@functools.lru_cache(maxsize=2)
def _graph(block: int, rate: float) -> decoder.Graph:
    return decoder.graph(codes.mother(block, rate))


def enough(frames: int, errors: int, most: int) -> bool:
    """Whether a point with these counts is finished."""
    hopeless = frames >= HOPELESS and errors == frames
    return hopeless or frames >= most or (frames >= FEWEST and errors >= ENOUGH_ERRORS)


def measure(setting: Setting, efficiency: float, most: int, report: Callable[[int, int], None] | None = None) -> Record:
    """Run one point until it is `enough` and give its counts; `report(frames, errors)` is called after each frame."""
    code = codes.mother(setting.block, setting.mother_rate)
    qber = qber_at(setting.rate, efficiency)
    seed = zlib.crc32(point_name(setting, efficiency).encode())
    point = decoder.Point(qber, codes.kinds(code, setting), seed)
    frames = errors = undetected = iterations = 0
    for outcome in decoder.outcomes(_graph(setting.block, setting.mother_rate), point, batch_of(setting.block)):
        frames += 1
        errors += outcome.failed
        undetected += outcome.wrong
        iterations += outcome.iterations
        if report:
            report(frames, errors)
        if enough(frames, errors, most):
            break
    return {
        "block": setting.block,
        "mother_rate": setting.mother_rate,
        "punctured": setting.punctured,
        "shortened": setting.shortened,
        "efficiency": efficiency,
        "qber": qber,
        "frames": frames,
        "errors": errors,
        "undetected": undetected,
        "iterations": iterations,
        "seed": seed,
    }


def batch_of(block: int) -> int:
    """Frames at work at a time: as many as keep the messages in a cache of some megabytes."""
    return 32 if block <= 20_000 else 16


def read(path: Path) -> dict[str, Record]:
    """Points by name; a last line that a kill cut short is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[point_name(setting_of(record), record["efficiency"])] = record
    return found


def setting_of(record: Record) -> Setting:
    return Setting(record["block"], record["mother_rate"], record["punctured"], record["shortened"])


def walk(setting: Setting, counts: Callable[[float, int], Record]) -> Iterator[Record]:
    """The points of a setting: from the middle of its waterfall up and down until both ends are flat, then `EASY`.

    `counts(efficiency, most)` measures a point or looks it up.
    """
    step = STEP[setting.block]
    middle = round(1.10 / step) if setting.block == codes.BLOCKS[0] else round(1.08 / step)

    def at(place: int) -> Record:
        return counts(round(place * step, 4), MOST[setting.block])

    first = at(middle)
    yield first
    share = first["errors"] / first["frames"]
    furthest = middle
    for direction in (1, -1):
        here, place = share, middle
        while (here > LOW if direction > 0 else here < HIGH) and abs(place - middle) < LONGEST * (1 + (direction > 0)):
            # far above the waterfall a point costs most and says least: go faster
            place += direction * (2 if direction > 0 and here == 1 else 1)
            if place * step <= 1:
                break
            record = at(place)
            yield record
            furthest = max(furthest, place)
            here = record["errors"] / record["frames"]
    for efficiency in EASY:
        if efficiency > furthest * step + 1e-9:
            yield counts(efficiency, EASY_FRAMES)


def append(path: Path, record: Record) -> None:
    """Add one line; whatever a kill left without its end is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if file.tell():
            file.seek(file.tell() - 1)
            if file.read() != "\n":
                file.write("\n")
        file.write(json.dumps(record) + "\n")


def interval(errors: int, frames: int, z: float = 2.5758) -> tuple[float, float]:
    """Wilson's interval of a frame error rate, 99 % unless `z` says else."""
    p, zz = errors / frames, z * z
    centre = (p + zz / (2 * frames)) / (1 + zz / frames)
    half = z / (1 + zz / frames) * math.sqrt(p * (1 - p) / frames + zz / (4 * frames * frames))
    return max(0.0, centre - half), min(1.0, centre + half)

"""Points are counted by rule, kept one by one, found again after a kill, and give the shipped counts when run again."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ldpc import codes, sweep, table
from benchmarks.ldpc.codes import Setting
from qkd_gym.physics import ldpc

MOTHER = Setting(codes.BLOCKS[0], 0.5)


def fake(setting: Setting, efficiency: float, threshold: float = 1.15, width: float = 0.01) -> sweep.Record:
    frames = sweep.MOST[MOTHER.block]
    share = 0.5 * math.erfc((efficiency - threshold) / width / math.sqrt(2))
    return {
        "block": setting.block,
        "mother_rate": setting.mother_rate,
        "punctured": setting.punctured,
        "shortened": setting.shortened,
        "efficiency": efficiency,
        "frames": frames,
        "errors": round(frames * share),
    }


@pytest.mark.parametrize("threshold", [1.05, 1.1, 1.15, 1.3])
@pytest.mark.parametrize("block", codes.BLOCKS)
def test_walk_covers_the_waterfall_wherever_it_is(threshold: float, block: int) -> None:
    setting = Setting(block, 0.7)
    found = sorted(
        (r["efficiency"], r["errors"] / r["frames"])
        for r in sweep.walk(setting, lambda f, n: fake(setting, f, threshold))
    )
    efficiencies, shares = zip(*found, strict=True)
    assert len(set(efficiencies)) == len(efficiencies)
    assert shares[0] >= sweep.HIGH and shares[-1] <= sweep.LOW
    inside = [f for f, s in found if sweep.LOW < s < sweep.HIGH]
    assert inside, "points on the slope"
    assert efficiencies[-1] == 3.0


def test_rule_of_stopping() -> None:
    assert not sweep.enough(39, 39, 1000) and sweep.enough(40, 40, 1000)
    assert not sweep.enough(199, 60, 1000) and sweep.enough(200, 50, 1000)
    assert not sweep.enough(999, 49, 1000) and sweep.enough(1000, 0, 1000)


def test_points_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    first, second = fake(MOTHER, 1.1), fake(MOTHER, 1.12)
    sweep.append(path, first)
    with path.open("a") as file:
        file.write(json.dumps(second)[:30])
    assert list(sweep.read(path)) == [sweep.point_name(MOTHER, 1.1)]
    sweep.append(path, second)
    assert [r["efficiency"] for r in sweep.read(path).values()] == [1.1, 1.12]


def test_rates_between_are_reached_both_ways() -> None:
    for block in codes.BLOCKS:
        between = [s for s in codes.settings(block) if s.punctured or s.shortened]
        assert {round(s.rate, 3) for s in between} == set(codes.TARGET_RATES)
        assert all(bool(s.punctured) != bool(s.shortened) for s in between)


def test_kinds_take_as_many_bits_as_asked() -> None:
    code = codes.mother(*codes.BLOCKS[:1], 0.5)
    kind = codes.kinds(code, Setting(codes.BLOCKS[0], 0.5, punctured=300, shortened=700))
    assert np.bincount(kind).tolist() == [9000, 300, 700]


def test_interval_is_wilsons() -> None:
    low, high = sweep.interval(50, 200, 1.96)
    assert (low, high) == (pytest.approx(0.1950, abs=2e-4), pytest.approx(0.3143, abs=2e-4))
    assert sweep.interval(0, 100)[0] == 0


def test_unknown_code_is_refused() -> None:
    with pytest.raises(ValueError, match="no code of 512 bits"):
        codes.mother(512, 0.5)


def test_a_point_run_again_agrees_with_the_table() -> None:
    curve = next(
        c for c in ldpc.curves() if (c.block, c.mother_rate, c.punctured, c.shortened) == (MOTHER.block, 0.5, 0, 0)
    )
    place = int(np.argmin(np.abs(curve.errors / curve.frames - 0.3)))
    frames = 40
    again = sweep.measure(MOTHER, float(curve.efficiency[place]), frames)
    assert again["qber"] == pytest.approx(float(curve.qber[place]))
    assert again["frames"] == frames
    low, high = sweep.interval(again["errors"], frames)
    ours = sweep.interval(int(curve.errors[place]), int(curve.frames[place]))
    assert low <= ours[1] and ours[0] <= high
    assert again["iterations"] / frames == pytest.approx(float(curve.mean_iterations[place]), rel=0.35)


def test_a_table_gives_its_points_back_while_the_codes_are_the_same(tmp_path, monkeypatch) -> None:
    known = table.points()
    again = tmp_path / "table.json"
    table.write(tmp_path / "none.jsonl", shutil.copy(table.TABLE, again))
    assert json.loads(again.read_text())["blocks"] == json.loads(table.TABLE.read_text())["blocks"]
    curves = [c for c in ldpc.curves() if c.block == MOTHER.block]
    assert sum(record["block"] == MOTHER.block for record in known.values()) == sum(len(c.qber) for c in curves)
    monkeypatch.setattr(codes, "RECIPE", codes.RECIPE + 1)
    assert table.points() == {}

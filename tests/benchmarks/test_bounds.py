"""Kept bounds: solved once a story, entered one by one, safe from kills and from other writers; and who is below."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bounds
from benchmarks.bounds import avoidable_loss, check_below, enter, interval, kept_bounds, read, recorded
from tests.evaluation.test_runner import WindyWalk


@dataclasses.dataclass(frozen=True)
class Tale:
    demand: np.ndarray
    relock: int = 5


def tales(count):
    return [Tale(np.arange(3.0) + 10 * i) for i in range(count)]


def total(tale):
    return {"bound": float(tale.demand.sum()) + 1e-6, "offered": 2.0}


def never(tale):
    pytest.fail("it was solved again")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "bounds.json"


def test_a_story_is_solved_once(file):
    first = kept_bounds(file, "task", tales(2), total)
    assert [row["bound"] for row in first] == [3.0, 33.0]
    before = file.read_bytes()
    assert kept_bounds(file, "task", tales(2), never) == first
    assert file.read_bytes() == before
    more = kept_bounds(file, "task", tales(3), lambda tale: never(tale) if tale.demand[0] < 20 else total(tale))
    assert more[:2] == first and more[2]["bound"] == 63.0


def test_a_changed_story_is_solved_again_and_no_other(file):
    kept_bounds(file, "task", tales(3), total)
    told, solved = tales(3), []
    told[1] = Tale(np.array([1.0, 1.0, 2.0]))
    rows = kept_bounds(file, "task", told, lambda tale: solved.append(tale) or total(tale))
    assert solved == [told[1]] and [row["bound"] for row in rows] == [3.0, 4.0, 63.0]
    assert read(file)["task"]["1"]["bound"] == 4.0
    told[1] = Tale(told[1].demand, relock=4)  # any field makes another story
    assert kept_bounds(file, "task", told, lambda tale: {"bound": -1.0})[1]["bound"] == -1.0


def test_a_killed_run_keeps_what_it_had_solved(file):
    def stop(tale):
        if tale.demand[0] == 20:
            raise KeyboardInterrupt
        return total(tale)

    with pytest.raises(KeyboardInterrupt):
        kept_bounds(file, "task", tales(4), stop)
    assert list(read(file)["task"]) == ["0", "1"]


def test_a_kill_while_writing_leaves_the_old_file_whole(file, monkeypatch):
    kept_bounds(file, "task", tales(1), total)
    before = file.read_bytes()

    def killed(part, target):
        assert len(part.read_bytes()) > len(before)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        kept_bounds(file, "task", tales(2), total)
    assert file.read_bytes() == before
    assert len(kept_bounds(file, "task", tales(2), total)) == len(read(file)["task"]) == 2


def test_what_others_enter_meanwhile_stays(file):
    def while_solving(tale):
        enter(file, "other", 0, {"digest": "x", "bound": 5.0})
        enter(file, "task", 7, {"digest": "y", "bound": 6.0})
        return total(tale)

    kept_bounds(file, "task", tales(2), while_solving)
    assert set(read(file)) == {"task", "other"} and set(read(file)["task"]) == {"0", "1", "7"}


def test_two_writers_at_a_time_lose_nothing(file, monkeypatch):
    reads = bounds.read

    def slowly(path):
        kept = reads(path)
        time.sleep(0.002)  # long enough for the other to write in between, if it could
        return kept

    monkeypatch.setattr(bounds, "read", slowly)
    runs = [threading.Thread(target=kept_bounds, args=(file, name, tales(8), total)) for name in ("easy", "hard")]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert {name: len(entry) for name, entry in reads(file).items()} == {"easy": 8, "hard": 8}


@pytest.mark.parametrize("text", ['{"task": {"0": {"dig', "[]", '{"task": 3}', '{"task": {"0": {"bound": 1}}}', "\xff"])
def test_a_damaged_file_is_told_and_left_alone(file, text):
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit, match=r"bounds\.json is damaged .*restore it"):
        kept_bounds(file, "task", tales(1), never)
    assert file.read_bytes() == text.encode("latin-1")


def test_a_story_does_not_depend_on_how_many_are_told():
    few, many = (recorded(WindyWalk(scenario="ood-fast"), 7001, count) for count in (2, bounds.BATCH + 1))
    assert len(few) == 2 and len(many) == bounds.BATCH + 1
    for (start, winds), (same_start, same_winds) in zip(few, many, strict=False):
        np.testing.assert_array_equal(winds, same_winds)
        assert winds.shape == (8,) and winds[1:].all() and start.params.drift == same_start.params.drift
    assert len({float(start.params.drift) for start, _ in many}) == len(many)


def test_the_shipped_files_are_sound():
    for path in Path(bounds.__file__).parent.glob("*_bounds.json"):
        kept = read(path)
        assert kept and path.read_text() == json.dumps(kept, indent=1) + "\n"  # as `enter` writes them


def test_nobody_exceeds_a_bound():
    limit = np.array([10.0, 20.0, 30.0])
    check_below(limit, "agent", limit * (1 + 5e-6))
    with pytest.raises(RuntimeError, match=r"agent exceeds its bound in episodes \[1\]"):
        check_below(limit, "agent", np.array([10.0, 20.1, 3.0]))


def test_what_could_be_avoided():
    limit = np.array([10.0, 20.0])
    worst, better = (types.SimpleNamespace(returns=np.array(x)) for x in ([5.0, 5.0], [9.0, 17.0]))
    assert avoidable_loss(limit, better, worst) == "20" and avoidable_loss(limit, worst, worst) == "100"
    assert avoidable_loss(limit, better, None) == "-"


def test_intervals():
    values = np.array([0.1, 0.2, 0.3, 0.4])
    assert interval(values) == "25.0 ± 12.7"
    assert interval(values, scale=1, digits=3) == "0.250 ± 0.127"
    assert interval(values[:1]) == "10.0 ± nan"  # one episode says nothing of the spread

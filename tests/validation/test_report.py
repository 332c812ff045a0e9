"""The report: written whole from a short run, and honest about what fails."""

import dataclasses

import numpy as np
import pytest

from benchmarks.validation import __main__ as command
from benchmarks.validation import experiments, fuzz, pictures, precision, properties, report
from benchmarks.validation.agreement import Comparison, Point, compare_all
from benchmarks.validation.monte_carlo import Count
from benchmarks.validation.table import read
from tests.physics.conftest import precision as in_precision

GOOD = properties.Property("one is one", "1", "1", True)


def test_a_quick_run_writes_the_page_and_its_pictures(tmp_path, monkeypatch):
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("deadtime_dev.csv", "diqkd_dev.csv"):
        (tables / name).write_text((precision.TABLES / name).read_text())
    monkeypatch.setattr(precision, "TABLES", tables)
    monkeypatch.setattr(precision, "rate_losses", lambda n: [])
    monkeypatch.setattr(properties, "properties", lambda: [GOOD])
    monkeypatch.setattr(properties, "beyond_plob", lambda: {"tf-sns": 40.0})
    monkeypatch.setattr(experiments, "anchors", lambda: [experiments.Anchor("reach", "a paper", 2.0, 1.0, "km")])
    for name in ("bb84", "twin_field", "common_hardware"):
        monkeypatch.setattr(pictures, name, lambda path: None)
    first = list(command_points())
    monkeypatch.setattr("benchmarks.validation.agreement.points", lambda: iter(first))
    assert command.main(["--quick", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "validation.md").read_text()
    for words in ("deadtime_dev", "one is one", "GYS 0 km", "| 0.50 |", "Boaron", "Liu", "Known to be off", "float32"):
        assert words in text, words
    for name in ("photons_decoy", "photons_twin_field"):
        assert f"validation/{name}.png" in text
        assert (tmp_path / "validation" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") >= 5 for row in rows)


def command_points():
    from benchmarks.validation.agreement import points

    kept = {"GYS 0 km, 0.48 photon", "photons |1, 0⟩, 20 dB"}
    return (dataclasses.replace(p, pulses=200_000) for p in points() if p.name in kept)


def test_what_fails_is_said():
    with in_precision("float64"):
        table = report.recompute(read(precision.TABLES / "deadtime_dev.csv"))
    assert table.passed and table.values > 0
    bad_table = dataclasses.replace(table, passed=False)
    bad_property = dataclasses.replace(GOOD, holds=False)
    outside = Comparison("point", "gain", 0.5, Count(1, 1000))
    assert report.faults([table], [GOOD], [outside], []) == []
    again = dataclasses.replace(outside, again=True)
    target = next(fuzz.targets())
    finding = fuzz.Finding(target, "float32", 10, 0.1, 0.5, 0, {"rate not finite": 3}, [])
    found = report.faults([bad_table], [bad_property], [outside] * 5 + [again], [finding])
    assert len(found) == 5 and "deadtime" in found[0] and "one is one" in found[1] and "5 of 5" in found[2]
    assert "twice" in found[3] and "rate not finite in 3 cases" in found[4]
    assert "rate not finite: 3" in report._search([finding])


def test_what_lies_outside_is_drawn_again():
    """Of two made-up points one is right and one is wrong: the wrong one is outside twice."""

    def draw(ours):
        return lambda rng, n: [("heads", ours, Count(int(rng.binomial(n, 0.5)), n))]

    right, wrong = (Point("coins", name, 10_000, draw(p)) for name, p in (("right", 0.5), ("wrong", 0.6)))
    found = [c for _, c in compare_all([right, wrong], seed=0)]
    assert [(c.point, c.again) for c in found] == [("right", False), ("wrong", False), ("wrong", True)]
    assert [c.inside for c in found] == [True, False, False]
    assert found[1].counted != found[2].counted


def test_anchors_that_cost_little_come_out():
    with in_precision("float64"):
        found = {a.what: a for a in experiments.entanglement_anchors()}
    assert found["device-independent, critical QBER"].ours == pytest.approx(7.149, abs=1e-3)
    assert found["BBM92, source in the middle, reach in loss"].ours == pytest.approx(61.6, abs=0.1)
    with pytest.raises(ValueError, match="must hold at"):
        experiments.last(lambda x: False, 0.0, 1.0)


def test_single_precision_is_measured():
    single, double = precision.in_both(lambda x: 1 - x * x, np.array([1e-5, 0.1]))
    assert single.dtype == np.float32 and double.dtype == np.float64
    assert 0 < abs(single[1] - double[1]) < 1e-7
    links = precision.task_links(10)
    assert links.channel_loss_db.shape == (10,)

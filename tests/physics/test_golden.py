"""The reference tables hold at their own tolerances, and the command says so, or why not."""

from pathlib import Path

import pytest

from benchmarks.validation import golden
from benchmarks.validation.registry import load
from benchmarks.validation.table import TableError, read

TABLES = sorted((Path(__file__).parents[1] / "golden").glob("*.csv"))


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_table_holds(path):
    table = read(path)
    comparisons = golden.recompute(table)
    assert [c.column for c in comparisons] == list(table.outputs)
    assert all(c.compared > 0 for c in comparisons)
    assert not [c for c in comparisons if not c.passed]


def test_every_family_has_a_table():
    assert set(load()) <= {read(path).family for path in TABLES}


GOOD = """# family: deadtime
# params: {"tau": 20}
# inputs: ["R"]
# outputs: ["np", "para"]
# tol: {"rtol": 1e-9, "columns": {"para": {"rtol": 1e-7}}}
R,np,para
1e6,980392.1568627451,980198.6733067553
1e7,8333333.333333333,
"""


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return str(path)


def test_a_foreign_table_with_parameters_and_blanks_passes(tmp_path, capsys):
    assert golden.main([write(tmp_path, GOOD)]) == 0
    out = capsys.readouterr().out
    assert "para" in out and "1 tables pass" in out


def test_a_wrong_value_fails_and_names_its_line(tmp_path, capsys):
    assert golden.main([write(tmp_path, GOOD.replace("980392.1568", "980392.2568"))]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "line 7" in out


def test_a_column_may_be_left_out(tmp_path):
    text = GOOD.replace('"np", "para"', '"np"').replace(',"columns"', "").replace(",np,para", ",np")
    text = text.replace(",980198.6733067553\n1e7,8333333.333333333,", "\n1e7,8333333.333333333")
    assert golden.main([write(tmp_path, text)]) == 0


def test_a_scaled_tolerance_and_a_ratio(tmp_path):
    scaled = GOOD.replace('{"rtol": 1e-7}', '{"atol_times": ["np", 1e-3]}').replace("980198.67", "980200.67")
    assert golden.main([write(tmp_path, scaled)]) == 0
    inverse = GOOD.replace('{"rtol": 1e-7}', '{"atol_inverse": "tau"}').replace("980198.67", "980198.70")
    assert golden.main([write(tmp_path, inverse)]) == 0
    ratio = GOOD.replace('{"rtol": 1e-7}', '{"at_least": 0.99, "at_most": 1.000001}')
    assert golden.main([write(tmp_path, ratio.replace("980198.67", "985198.67"))]) == 0
    assert golden.main([write(tmp_path, ratio.replace("980198.67", "975198.67"))]) == 1


FAULTS = {
    "no family": (GOOD.replace("# family: deadtime\n", ""), "# family"),
    "unknown family": (GOOD.replace("deadtime", "phlogiston"), "basics, "),
    "no tolerance": (GOOD.replace("# tol", "# toll"), "# tol"),
    "broken JSON": (GOOD.replace('{"tau": 20}', '{"tau": 20'), "not JSON"),
    "unknown rule": (GOOD.replace('{"rtol": 1e-7}', '{"rtoll": 1e-7}'), "rtoll"),
    "ragged row": (GOOD.replace("1e7,8333333.333333333,", "1e7,8333333.333333333"), "line 8: 2 cells"),
    "not a number": (GOOD.replace("1e7,", "many,"), "'many' is not a number"),
    "missing input": (GOOD.replace('{"tau": 20}', "{}"), "needs 'tau'"),
    "missing output column": (GOOD.replace('"np", "para"', '"np", "para", "k"'), "no column holds"),
    "output unknown to the family": (
        GOOD.replace('"np", "para"', '"np", "x"').replace("R,np,para", "R,np,x"),
        "does not compute",
    ),
    "no rows": (GOOD[: GOOD.index("1e6,")], "no rows"),
    "empty file": ("", "# family"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_table_is_refused_with_its_reason(name, tmp_path, capsys):
    text, reason = FAULTS[name]
    assert golden.main([write(tmp_path, text)]) == 2
    assert reason in capsys.readouterr().err


def test_a_fault_does_not_hide_the_other_files(tmp_path, capsys):
    bad = tmp_path / "absent.csv"
    assert golden.main([str(bad), write(tmp_path, GOOD)]) == 2
    captured = capsys.readouterr()
    assert "1 tables pass" in captured.out and "cannot be read" in captured.err


def test_values_outside_the_physics_are_refused(tmp_path):
    text = '# family: basics\n# outputs: ["value"]\n# tol: {"rtol": 1e-9}\nkind,x,value\nh2,1.5,0\n'
    with pytest.raises(TableError, match="probabilities"):
        golden.recompute(read(write(tmp_path, text)))


def test_an_unknown_kind_of_row_is_refused(tmp_path):
    text = '# family: basics\n# outputs: ["value"]\n# tol: {"rtol": 1e-9}\nkind,x,value\nh3,0.5,0\n'
    with pytest.raises(TableError, match="h2, plob_tgw"):
        golden.recompute(read(write(tmp_path, text)))


def test_float32_prints_errors_without_a_verdict(tmp_path, capsys):
    assert golden.main([write(tmp_path, GOOD), "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    assert "float32" in out and "FAIL" not in out


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit_:
        golden.main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "atol_times" in out and "finite_lim" in out

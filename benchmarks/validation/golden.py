"""Recompute reference tables with the functions of `qkd_gym.physics` and say how far off they are.

    python -m benchmarks.validation.golden tests/golden/*.csv

A table is a CSV file whose header, `# key: value` lines, names its family, its roles and its tolerances:

    # family: deadtime                          which function recomputes it
    # params: {"tau": 20}                       values common to all rows (a column of the same name wins)
    # inputs: ["R"]                             columns that go in
    # outputs: ["np", "para"]                   columns that are compared; any subset of what the family computes
    # not_compared: []                          columns that are passed over (the place of a flat optimum)
    # tol: {"rtol": 1e-9, "columns": {"para": {"rtol": 1e-7, "atol": 1e-30}}}
    R,np,para
    1e6,980392.1568627,980198.6733068

A value holds where |ours - table| <= max(rtol |table|, atol, k |row[col]|, 1/|row[col]|), the last two stated as
"atol_times": [col, k] and "atol_inverse": col; for optima, where at_least <= ours / table <= at_most. A column's own
entry under "columns" replaces the table's. A blank cell is not applicable.

Per column the report shows the rows compared, the largest relative and absolute error, and the largest share of the
tolerance that was used up. Exit status: 0 all hold, 1 a value is off, 2 a file cannot be read or recomputed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence

from benchmarks.validation.registry import find, load
from benchmarks.validation.table import Comparison, Table, TableError, compare, read


def recompute(table: Table, dtype: str = "float64") -> list[Comparison]:
    """Recompute one table in the given precision and compare its outputs.

    Raises:
        TableError: if the family is unknown, or the table lacks an input, or names an output the family has not.
    """
    import jax
    import numpy as np

    table = dataclasses.replace(table, dtype=np.dtype(dtype))
    family = find(table.family)
    with jax.enable_x64(dtype == "float64"):
        try:
            computed = {name: np.asarray(value) for name, value in family.recompute(table).items()}
        except ValueError as error:
            raise TableError(f"is outside what the physics accepts: {error}") from None
    unknown = [name for name in table.outputs if name not in computed]
    if unknown:
        raise TableError(
            f"asks for {', '.join(unknown)}, which family {table.family} does not compute; it computes: "
            f"{', '.join(computed)}"
        )
    return [compare(table, name, computed[name], computed) for name in table.outputs]


def report(table: Table, comparisons: Sequence[Comparison], verdict: bool) -> str:
    """The comparison as a text table."""
    width = max(len("column"), *(len(c.column) for c in comparisons)) if comparisons else 6
    head = f"  {'column':<{width}}  {'rows':>5}  {'max rel error':>13}  {'max abs error':>13}"
    lines = [f"{table.path}: {table.family}, {len(table)} rows", head + ("  of tolerance" if verdict else "")]
    for c in comparisons:
        line = f"  {c.column:<{width}}  {c.compared:>5}  {_show(c.relative):>13}  {_show(c.absolute):>13}"
        if verdict:
            line += f"  {_show(c.strain):>12}  {'pass' if c.passed else 'FAIL'}"
            if not c.passed:
                number, ours, reference = c.failures[0]
                rule = table.tolerance[c.column]
                line += f"  {len(c.failures)} rows off; line {number}: ours {ours:.15g}, table {reference:.15g}, {rule}"
        lines.append(line)
    return "\n".join(lines)


def _show(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.2e}" if x else "0"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation.golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="families:\n" + "\n".join(f"  {f.name:<16} {f.about}" for _, f in sorted(load().items())),
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="reference tables, from any folder")
    parser.add_argument(
        "--dtype",
        choices=("float64", "float32"),
        default="float64",
        help="float32 prints the errors of single precision, without a verdict: the tolerances are for double",
    )
    parser.add_argument("--quiet", action="store_true", help="print only tables that fail, and the summary")
    args = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    verdict = args.dtype == "float64"
    failed = broken = columns = 0
    for path in args.files:
        try:
            table = read(path)
            comparisons = recompute(table, args.dtype)
        except TableError as error:
            print(f"{path}: {error}", file=sys.stderr)
            broken += 1
            continue
        off = [c for c in comparisons if not c.passed]
        columns += len(comparisons)
        failed += bool(off) and verdict
        if not args.quiet or (off and verdict):
            print(report(table, comparisons, verdict))
    good = len(args.files) - failed - broken
    if verdict:
        print(
            f"{len(args.files)} tables, {columns} columns: "
            f"{good} tables pass, {failed} fail, {broken} cannot be recomputed"
        )
    else:
        print(f"{len(args.files)} tables, {columns} columns in float32; {broken} cannot be recomputed")
    return 2 if broken else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Reference tables: CSV with a header of `# key: value` lines, and the tolerances that the header states."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

HEADER_JSON = ("params", "inputs", "outputs", "not_compared", "tol")
RULES = frozenset({"rtol", "atol", "atol_times", "atol_inverse", "at_least", "at_most"})


class TableError(Exception):
    """A table that cannot be read or recomputed, with the reason and, where known, the line."""


@dataclasses.dataclass(frozen=True)
class Table:
    """One reference table.

    Attributes:
        family: whose function recomputes it. params: values common to all rows.
        inputs, outputs: column names by role; `outputs` are compared.
        tolerance: rule of each output. columns: name -> cells as text, "" where not applicable.
        lines: line of each row in the file. dtype: precision that the inputs are handed out in.
    """

    path: str
    family: str
    params: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: dict[str, dict[str, Any]]
    columns: dict[str, list[str]]
    lines: list[int]
    dtype: Any = np.float64

    def __len__(self) -> int:
        return len(self.lines)

    def text(self, name: str) -> np.ndarray:
        """A column of words; a parameter of that name stands for the whole column."""
        if name in self.columns:
            return np.array([cell.strip() for cell in self.columns[name]])
        if name in self.params:
            return np.full(len(self), str(self.params[name]))
        raise TableError(f"family {self.family} needs {name!r}, as a column or in '# params'")

    def reference(self, name: str) -> np.ndarray:
        """A column as float64; NaN where a cell is blank."""
        return np.array([self._number(name, i) for i in range(len(self))])

    def number(self, name: str, default: float | None = None) -> np.ndarray:
        """An input in the precision of the run: the column, else the parameter, else `default`; shape (rows,)."""
        if name in self.columns:
            values = self.reference(name)
            fallback = self.params.get(name, default)
            if fallback is not None:
                values = np.where(np.isnan(values), float(fallback), values)
        elif name in self.params:
            try:
                values = np.full(len(self), float(self.params[name]))
            except (TypeError, ValueError):
                raise TableError(f"'# params' gives {name} = {self.params[name]!r}, which is not a number") from None
        elif default is not None:
            values = np.full(len(self), float(default))
        else:
            raise TableError(f"family {self.family} needs {name!r}, as a column or in '# params'")
        return values.astype(self.dtype)

    def _number(self, name: str, row: int) -> float:
        cell = self.columns[name][row].strip()
        if cell == "":
            return math.nan
        try:
            return float(cell)
        except ValueError:
            raise TableError(f"line {self.lines[row]}: {name} = {cell!r} is not a number") from None


def read(path: str | Path) -> Table:
    """Read one table.

    Raises:
        TableError: with the file's fault and its line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"cannot be read: {error}") from None
    header: dict[str, str] = {}
    body: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            key, colon, value = line[1:].partition(":")
            if colon:
                header.setdefault(key.strip(), value.strip())
        elif line.strip():
            body.append((number, line))
    if "family" not in header:
        raise TableError("has no '# family: NAME' line; a reference table starts with one")
    parsed = {key: _json(key, header[key]) for key in HEADER_JSON if key in header}
    if "tol" not in parsed:
        raise TableError("has no '# tol: {...}' line, so nothing says how close is close enough")
    if not body:
        raise TableError("has no line of column names")
    names = [name.strip() for name in next(csv.reader([body[0][1]]))]
    duplicates = sorted({n for n in names if names.count(n) > 1})
    if duplicates or "" in names:
        raise TableError(f"line {body[0][0]}: column names must be unique and not blank: {', '.join(names)}")
    columns: dict[str, list[str]] = {name: [] for name in names}
    for number, line in body[1:]:
        cells = next(csv.reader([line]))
        if len(cells) != len(names):
            raise TableError(f"line {number}: {len(cells)} cells under {len(names)} columns")
        for name, cell in zip(names, cells, strict=True):
            columns[name].append(cell)
    if len(body) == 1:
        raise TableError("has column names but no rows")
    skipped = set(_names(parsed, "not_compared"))
    inputs = tuple(_names(parsed, "inputs"))
    if "outputs" in parsed:
        outputs = tuple(n for n in _names(parsed, "outputs") if n not in skipped)
    else:
        outputs = tuple(n for n in names if n not in skipped and n not in inputs)
    missing = [n for n in outputs if n not in columns]
    if missing:
        raise TableError(f"'# outputs' names {', '.join(missing)}, which no column holds; columns: {', '.join(names)}")
    params = parsed.get("params", {})
    if not isinstance(params, dict):
        raise TableError("'# params' must be a JSON object")
    return Table(
        path=str(path),
        family=header["family"],
        params=params,
        inputs=inputs,
        outputs=outputs,
        tolerance=_tolerances(parsed["tol"], outputs),
        columns=columns,
        lines=[number for number, _ in body[1:]],
    )


def _json(key: str, value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise TableError(f"'# {key}' is not JSON ({error.msg} at column {error.colno}): {value[:60]}") from None


def _names(parsed: dict[str, Any], key: str) -> list[str]:
    names = parsed.get(key, [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise TableError(f"'# {key}' must be a JSON list of column names")
    return names


def _tolerances(tol: Any, outputs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The rule of each output: the table's, replaced as a whole by the column's own entry where it has one."""
    if not isinstance(tol, dict) or not isinstance(tol.get("columns", {}), dict):
        raise TableError("'# tol' must be a JSON object, its 'columns' too")
    common = {k: v for k, v in tol.items() if k != "columns"}
    rules = {}
    for name in outputs:
        rule = tol.get("columns", {}).get(name, common)
        if not isinstance(rule, dict) or not rule:
            raise TableError(f"'# tol' states no tolerance for {name}")
        unknown = sorted(set(rule) - RULES)
        if unknown:
            known = ", ".join(sorted(RULES))
            raise TableError(f"'# tol' of {name} has unknown rules {', '.join(unknown)}; known: {known}")
        for key, value in rule.items():
            if not _well_formed(key, value):
                raise TableError(f"'# tol' of {name}: {key} = {value!r} is malformed")
        rules[name] = rule
    return rules


def _well_formed(key: str, value: Any) -> bool:
    def number(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and x >= 0

    if key == "atol_inverse":
        return isinstance(value, str)
    if key == "atol_times":
        return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and number(value[1])
    return number(value)


# ---- comparison ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How one output column compares.

    Attributes:
        compared: rows with a reference value. relative, absolute: largest errors (relative over rows whose reference is
            not zero; NaN if there are none). strain: largest share of the tolerance used up (above 1: failed).
        failures: rows that fail, as (line, ours, reference).
    """

    column: str
    compared: int
    relative: float
    absolute: float
    strain: float
    failures: tuple[tuple[int, float, float], ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def compare(table: Table, column: str, ours: np.ndarray, computed: dict[str, np.ndarray]) -> Comparison:
    """Compare `ours` (rows,) with a column of the table under the column's rule. Blank cells are passed over.

    `computed` holds all recomputed columns: an absolute tolerance may scale with one that this table leaves out.
    """
    reference = table.reference(column)
    rule = table.tolerance[column]
    ours = np.asarray(ours, np.float64)
    if ours.shape != reference.shape:
        raise TableError(f"family {table.family} returned {column} of shape {ours.shape} for {len(table)} rows")
    with np.errstate(all="ignore"):
        error = np.where(ours == reference, 0.0, np.abs(ours - reference))  # also for equal infinities
        error = np.where(np.isnan(error), np.inf, error)
        relative = np.where(reference != 0, error / np.abs(reference), np.nan)
        if "at_least" in rule or "at_most" in rule:
            low, high = rule.get("at_least", -np.inf), rule.get("at_most", np.inf)
            ratio = ours / reference
            zero = (reference == 0) & (error <= rule.get("atol", 0.0))
            good = zero | ((reference != 0) & (ratio >= low) & (ratio <= high))
            share = np.where(good, 0.0, np.inf)
        else:
            allowed = np.full(len(table), float(rule.get("atol", 0.0)))
            allowed = np.maximum(allowed, rule.get("rtol", 0.0) * np.abs(reference))
            if "atol_times" in rule:
                name, factor = rule["atol_times"]
                allowed = np.maximum(allowed, factor * np.abs(_scale(table, name, computed)))
            if "atol_inverse" in rule:
                allowed = np.maximum(allowed, 1 / np.abs(_scale(table, rule["atol_inverse"], computed)))
            good = error <= allowed
            share = np.where(error == 0, 0.0, error / allowed)
    applicable = ~np.isnan(reference)
    bad = np.flatnonzero(applicable & ~good)
    return Comparison(
        column=column,
        compared=int(applicable.sum()),
        relative=_largest(relative[applicable]),
        absolute=_largest(error[applicable]),
        strain=_largest(share[applicable]),
        failures=tuple((table.lines[i], float(ours[i]), float(reference[i])) for i in bad),
    )


def _scale(table: Table, name: str, computed: dict[str, np.ndarray]) -> np.ndarray:
    if name in table.columns or name in table.params:
        return np.asarray(table.number(name), np.float64)
    if name in computed:
        return np.asarray(computed[name], np.float64)
    raise TableError(f"'# tol' scales with {name!r}, which is neither a column nor a parameter nor computed")


def _largest(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.max()) if values.size else math.nan

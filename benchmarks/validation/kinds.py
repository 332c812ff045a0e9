"""Tables whose rows are of several kinds, each with its own formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.validation.table import Table, TableError


def by_kind(
    table: Table,
    arguments: Mapping[str, np.ndarray],
    formulas: Mapping[str, Callable[..., Mapping[str, Any]]],
    column: str = "kind",
) -> dict[str, np.ndarray]:
    """Evaluate each row by the formula of its kind. Formulas take the arguments by name, restricted to their rows."""
    kinds = table.text(column)
    unknown = [i for i, kind in enumerate(kinds) if kind not in formulas]
    if unknown:
        raise TableError(
            f"line {table.lines[unknown[0]]}: {column} {kinds[unknown[0]]!r} is unknown to family {table.family}; "
            f"known: {', '.join(formulas)}"
        )
    columns: dict[str, np.ndarray] = {}
    for kind, formula in formulas.items():
        rows = kinds == kind
        if not rows.any():
            continue
        for name, values in formula(**{key: value[rows] for key, value in arguments.items()}).items():
            columns.setdefault(name, np.full(len(table), np.nan))[rows] = np.asarray(values, np.float64)
    return columns

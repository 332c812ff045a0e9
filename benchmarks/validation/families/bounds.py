"""Entropies and repeaterless bounds."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import numpy as np

from benchmarks.validation.kinds import by_kind
from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import information


@family("basics")
def basics(table: Table):
    """Binary entropy, PLOB and TGW bounds."""
    return by_kind(
        table,
        {"x": table.number("x"), "mirrored": _mirrored(table)},
        {
            "h2": lambda x, mirrored: {
                "value": information.binary_entropy(mirrored),
                "value2": information.shor_preskill_fraction(mirrored),
            },
            "plob_tgw": lambda x, mirrored: {
                "value": information.plob_bound_from_loss(x),
                "value2": information.tgw_bound_from_loss(x),
            },
        },
    )


def _mirrored(table: Table) -> np.ndarray:
    """x, or 1 - x where x > 1/2: h is the same, and a float near 1 cannot hold the probability as it is printed."""
    values = table.number("x")
    for row, cell in enumerate(table.columns.get("x", [])):
        try:
            exact = Decimal(cell.strip())
        except InvalidOperation:
            continue
        if Decimal("0.5") < exact <= 1:
            values[row] = float(1 - exact)
    return values

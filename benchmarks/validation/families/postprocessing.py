"""Reconciliation."""

from __future__ import annotations

from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import reconciliation


@family("recon_limit")
def recon_limit(table: Table):
    """Finite-length limit of one-way reconciliation."""
    arguments = (table.number("n"), table.number("q"), table.number("fer"))
    return {
        "leak": reconciliation.finite_length_leak_bits(*arguments),
        "f": reconciliation.finite_length_efficiency(*arguments),
    }


@family("rate_adaptive")
def rate_adaptive(table: Table):
    """Rate of a shortened and punctured code, and its efficiency."""
    rate = reconciliation.adapted_rate(table.number("R0"), table.number("s"), table.number("p"))
    result = {"R": rate}
    if "f" in table.outputs:
        result["f"] = reconciliation.efficiency_of_rate(rate, table.number("q"))
    return result


@family("fer_model")
def fer_model(table: Table):
    """Parametric frame error rate."""
    return {
        "fer": reconciliation.frame_error_rate(
            table.number("f"), table.number("q"), table.number("n"), table.number("f0", 1.05), table.number("c", 1.5)
        )
    }

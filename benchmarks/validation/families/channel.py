"""What fibre does to polarisation."""

from __future__ import annotations

from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import polarization


@family("poldrift")
def poldrift(table: Table):
    """Mean overlap and error rate of an uncompensated polarisation walk."""
    variance, steps = table.number("sigma2"), table.number("n")
    return {
        "overlap": polarization.mean_overlap(variance, steps),
        "qber": polarization.mean_uncompensated_qber(variance, steps),
    }

"""Detectors and interferometers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.validation.kinds import by_kind
from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import detectors, drift, interference


@family("deadtime")
def deadtime(table: Table):
    """Registered rates behind a dead time, in ns."""
    rate, dead_s = table.number("R"), table.number("tau") * 1e-9
    return {
        "np": detectors.non_paralysable_rate(rate, dead_s),
        "para": detectors.paralysable_rate(rate, dead_s),
    }


@family("gated_deadtime")
def gated_deadtime(table: Table):
    """Gated detector with hold-off, in ns."""
    p, clock = table.number("p"), table.number("f")
    skipped = detectors.hold_off_gates(clock, table.number("tau") * 1e-9)
    effective = detectors.gated_click_prob(p, skipped)
    return {"k": skipped, "p_eff": effective, "rate": effective * clock}


@family("interference")
def interference_errors(table: Table):
    """Jitter in the gate, visibility, phase drift, extinction and modulator."""
    arguments = {name: table.number(name, float("nan")) for name in ("a", "b", "c")}
    formulas = {
        "jitter_in_gate": lambda a, b, c: detectors.fraction_in_gate(a, b, c),
        "q_visibility": lambda a, b, c: interference.visibility_qber(a),
        "q_wiener": lambda a, b, c: drift.wiener_qber(a),
        "q_ramp": lambda a, b, c: drift.ramp_qber(a, b),
        "q_extinction": lambda a, b, c: interference.extinction_qber(a),
        "mzm_T": lambda a, b, c: interference.modulator_transmittance(a, b),
    }
    return by_kind(table, arguments, {kind: _as_value(formula) for kind, formula in formulas.items()})


def _as_value(formula: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    return lambda **arguments: {"value": formula(**arguments)}

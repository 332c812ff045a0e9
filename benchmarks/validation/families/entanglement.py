"""Entangled pairs, device-independent key, and differential phase shift."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.validation.kinds import by_kind
from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import bbm92 as pairs
from qkd_gym.physics import device_independent, dps, fibre
from qkd_gym.physics.decoy_bb84 import clipped


@family("bbm92")
def bbm92(table: Table):
    """BBM92 with pulsed down-conversion: gain, error rate, rate and its optimum."""
    link = pairs.PairLink(
        transmittance_alice=table.number("eA"),
        transmittance_bob=table.number("eB"),
        background_yield_alice=table.number("Y0A"),
        background_yield_bob=table.number("Y0B"),
        misalignment_error=table.number("ed"),
        background_error=table.number("e0", 0.5),
        error_correction_efficiency=table.number("f"),
        sifting=table.number("q", 0.5),
    )
    settings = pairs.PairSettings(mean_pairs_per_pulse=2 * table.number("lam"))
    seen, rate = jax.jit(pairs.observe)(settings, link), jax.jit(pairs.key_rate)(settings, link)
    result = {"Q": seen.gain, "E": seen.qber, "R_raw": rate, "R": clipped(rate)}
    if "R_opt" in table.outputs:
        result["R_opt"] = clipped(jax.jit(pairs.optimal_rate)(link)[1])
    return result


@family("diqkd")
def diqkd(table: Table):
    """Device-independent rate from a visibility, or from a CHSH value and an error rate."""
    kinds = set(table.text("kind"))
    names = [n for n, needed in (("V", "visibility"), ("S", "SQ"), ("Q", "SQ")) if needed in kinds]
    return by_kind(
        table,
        {name: table.number(name) for name in names},
        {"visibility": _from_visibility, "SQ": lambda S, Q, V=None: _from_data(S, Q)},
    )


def _from_visibility(V, S=None, Q=None):  # the given S and Q are printed values; V is exact
    return _from_data(pairs.werner_chsh(V), pairs.werner_qber(V))


def _from_data(chsh, qber):
    # A printed 2 sqrt(2) may lie above the bound by its rounding.
    chsh = np.minimum(chsh, pairs.TSIRELSON_BOUND)
    data = device_independent.BellData(chsh=chsh, qber=qber)
    return {"S": chsh, "Q": qber, "r_raw": device_independent.rate_from_data(data)}


@family("dps")
def dps_(table: Table):
    """Differential phase shift against individual attacks: clicks, error rate, compression, rate."""
    names = ("L", "alpha", "mu", "eta_b", "pd", "eb", "f")
    return by_kind(table, {name: table.number(name) for name in names}, {"dps": _dps}, column="proto")


def _dps(L, alpha, mu, eta_b, pd, eb, f):
    settings = dps.DpsSettings(intensity=mu)
    link = dps.DpsLink(
        transmittance=fibre.transmittance_from_db(alpha * L) * eta_b,
        dark_count_prob_per_gate=pd,
        baseline_error=eb,
        error_correction_efficiency=f,
    )
    seen, rate = dps.observe(settings, link), jax.jit(dps.key_rate)(settings, link)
    return {
        "pclick": seen.gain,
        "Q": seen.qber,
        "x": dps.compression(settings, link),
        "R_raw": rate,
        "R": clipped(rate),
    }

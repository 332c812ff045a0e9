"""What fibre does to light: polarisation, dispersion, Raman noise."""

from __future__ import annotations

import numpy as np

from benchmarks.validation.kinds import by_kind
from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import pmd as pmd_physics
from qkd_gym.physics import polarization
from qkd_gym.physics import raman as raman_physics


@family("poldrift")
def poldrift(table: Table):
    """Mean overlap and error rate of an uncompensated polarisation walk."""
    variance, steps = table.number("sigma2"), table.number("n")
    return {
        "overlap": polarization.mean_overlap(variance, steps),
        "qber": polarization.mean_uncompensated_qber(variance, steps),
    }


@family("pmd")
def pmd(table: Table):
    """Error rate by polarisation-mode dispersion, at the mean delay and averaged over Maxwell's law."""
    link = pmd_physics.PmdLink(table.number("Dpmd"), table.number("L"), table.number("fwhm"))
    return {
        "tau": pmd_physics.mean_dgd_ps(link),
        "q_mean": pmd_physics.qber_at_mean_dgd(link),
        "q_max": pmd_physics.mean_qber(link),
    }


@family("raman")
def raman(table: Table):
    """Spontaneous Raman noise of a classical channel, along and against the quantum light."""
    names = ("L", "P", "rho", "ac", "aq", "dlam", "gate", "eta", "lambda_q_nm")
    formulas = {"fwd": _raman(0.0), "bwd": _raman(1.0)}
    return by_kind(table, {name: table.number(name) for name in names}, formulas, column="dir")


def _raman(counter: float):
    def formula(L, P, rho, ac, aq, dlam, gate, eta, lambda_q_nm):
        channels = raman_physics.ClassicalChannels(P, rho, ac, np.full_like(P, counter))
        receiver = raman_physics.NoiseReceiver(lambda_q_nm, aq, dlam, gate, eta)
        noise = raman_physics.noise_power_mw(channels, receiver, L)
        return {"P_noise": noise, "n_gate": raman_physics.counts_per_gate(noise, receiver)}

    return formula

"""Attacks: what the users see, and what Eve gains."""

from __future__ import annotations

import numpy as np

from benchmarks.validation.kinds import by_kind
from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import attacks, decoy_bb84
from qkd_gym.physics.attacks import devices, photons, quadratures


@family("atk_intercept")
def atk_intercept(table: Table):
    """Intercept-resend on a share of the pulses: error rate and CHSH value."""
    e, p = table.number("e"), table.number("p")
    return {"qber": photons.intercepted_qber(e, p), "S": photons.intercepted_chsh(e, p)}


@family("atk_pns")
def atk_pns(table: Table):
    """Photon-number splitting on a share of the pulses: gains, yields, decoy estimates."""
    y0, mu, nu = table.number("Y0"), table.number("mu"), table.number("nu")
    x, block, eve = table.number("x"), table.number("b"), table.number("etaE")
    link = decoy_bb84.DecoyLink(table.number("eta"), y0, table.number("ed"), table.number("e0", 0.5))
    honest = attacks.decoy_telemetry(np.stack([mu, nu], axis=-1), link)
    attacked, _ = attacks.apply(attacks.PhotonNumberSplitting(x, block, eve), honest)
    signal, decoy = (
        decoy_bb84.Gains(attacked.gain[:, attacks.KEY, k], attacked.error_gain[:, attacks.KEY, k]) for k in (0, 1)
    )
    settings = decoy_bb84.DecoySettings(mu, nu, np.zeros_like(mu))
    y1, e1 = decoy_bb84.vacuum_weak_bounds(settings, signal, decoy, attacked.vacuum_yield, link.background_error)
    yields = {
        f"Y{n}t": (1 - x) * decoy_bb84.photon_yield(n, link) + x * photons.split_yield(n, y0, block, eve)
        for n in range(5)
    }
    return {
        "Qmu": signal.gain, "Emu": signal.qber, "Qnu": decoy.gain, "Enu": decoy.qber, "Y1L": y1, "e1U": e1,
    } | yields  # fmt: skip


@family("atk_trojan")
def atk_trojan(table: Table):
    """Trojan horse: coin imbalance of the leak, and the phase error that it forces."""
    leak, single_yield, error = table.number("mu_out"), table.number("Y"), table.number("e")
    imbalance = np.asarray(devices.trojan_imbalance(leak))
    return {
        "Delta": imbalance,
        "Delta_p": np.minimum(imbalance / single_yield, 0.5),
        "e_phase": devices.trojan_phase_error(leak, single_yield, error),
    }


@family("atk_blinding")
def atk_blinding(table: Table):
    """Blinded detectors and faked states: gain and error rate."""
    gain, error_gain = devices.faked_state_gains(
        table.number("mu"), table.number("etaE"), table.number("e_fs"), table.number("match"), table.number("mism")
    )
    return {"gain": gain, "qber": decoy_bb84.Gains(gain, error_gain).qber}


@family("atk_misc")
def atk_misc(table: Table):
    """Time shift; dimmed local oscillator; a clipped Gaussian."""

    def dimmed(a, b, c, d):
        t, xi = quadratures.estimates_with_dimmed_oscillator(b, c, a, d)
        return {"v1": t, "v2": xi, "v3": quadratures.hidden_noise(b, a, d)}

    def clipped(a, b, c, d):
        moments = quadratures.clipped_moments(a, b, c)
        return {"v1": moments.mean, "v2": moments.variance, "v3": moments.linear_gain}

    return by_kind(
        table,
        {name: table.number(name, float("nan")) for name in "abcd"},
        {
            "timeshift_I": lambda a, b, c, d: {"v1": devices.time_shift_bits(a)},
            "cv_lo": dimmed,
            "cv_clip": clipped,
        },
    )

"""Continuous variables: Gaussian-modulated coherent states."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.validation.kinds import by_kind
from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym import struct
from qkd_gym.physics import cv_gg02, decoy_bb84, fibre

DETECTIONS = {"hom": "homodyne", "het": "heterodyne"}

_holevo, _information, _rate = jax.jit(cv_gg02.holevo), jax.jit(cv_gg02.mutual_information), jax.jit(cv_gg02.key_rate)
_worst, _worst_holevo = jax.jit(cv_gg02.worst_case), jax.jit(cv_gg02.worst_holevo)
_finite = jax.jit(cv_gg02.finite_key_rate)
_optimal = jax.jit(cv_gg02.optimal_rate)


@family("cv_asym")
def cv_asym(table: Table):
    """GG02 with infinite data: eigenvalues, Holevo bound, rates of a trusted and an untrusted receiver, optimum."""
    return _by_detection(table, ("VA",), _asymptotic)


@family("cv_finite")
def cv_finite(table: Table):
    """GG02 with a finite block: worst-case channel, Holevo bound there, rate."""
    return _by_detection(table, ("VA", "N", "frac", "eps_pe", "eps_bar", "eps_pa"), _block)


def _by_detection(table: Table, names: tuple[str, ...], formula):
    columns = {name: table.number(name) for name in ("L", "alpha", "xi", "eta", "vel", "beta", *names)}
    wanted = set(table.outputs)
    return by_kind(
        table,
        columns,
        {
            word: lambda detection=detection, **values: formula(detection, wanted, **values)
            for word, detection in DETECTIONS.items()
        },
        column="det",
    )


def _link(detection, L, alpha, xi, eta, vel, beta) -> cv_gg02.CvLink:
    return cv_gg02.CvLink(
        transmittance=fibre.transmittance_from_db(alpha * L),
        excess_noise=xi,
        detector_efficiency=eta,
        electronic_noise=vel,
        reconciliation_efficiency=beta,
        frame_error_rate=np.zeros_like(xi),
        detection=detection,
    )


def _asymptotic(detection, wanted, *, VA, **channel):
    link = _link(detection, **channel)
    untrusted = struct.replace(link, receiver="untrusted")
    settings = cv_gg02.CvSettings(modulation_variance=VA, key_fraction=np.zeros_like(VA))
    trusted_chi = _holevo(settings, link)
    result = {
        "T": link.transmittance,
        "I": _information(settings, link),
        "chi_tr": trusted_chi.bits,
        "chi_un": _holevo(settings, untrusted).bits,
        **{f"l{i}": 1 + np.asarray(getattr(trusted_chi, f"excess_{i}")) for i in (1, 2, 3, 4)},
        "snr": cv_gg02.observe(settings, link).snr,
        "K_tr": decoy_bb84.clipped(_rate(settings, link)),
        "K_un": decoy_bb84.clipped(_rate(settings, untrusted)),
    }
    if "K_opt" in wanted:
        result["K_opt"] = decoy_bb84.clipped(_optimal(link)[1])
    return result


def _block(detection, wanted, *, VA, N, frac, eps_pe, eps_bar, eps_pa, **channel):
    link = _link(detection, **channel)
    settings = cv_gg02.CvSettings(modulation_variance=VA, key_fraction=frac)
    # The tables take erfinv of 1 - eps rounded to double, which is that of an eps 8e-8 off at 1e-10: ask for that one.
    rounded = (1 - (1 - eps_pe.astype(np.float64))).astype(eps_pe.dtype)
    distillation = cv_gg02.CvDistillation(eps_pe=rounded, eps_bar=eps_bar, eps_pa=eps_pa)
    worst = _worst(settings, link, N, distillation)
    rate = _finite(settings, link, N, distillation)
    return {
        "z": worst.confidence,
        "Tmin": worst.transmittance,
        "ximax": worst.excess_noise,
        "chi": _worst_holevo(settings, link, worst).bits,
        "delta": cv_gg02.penalty(frac * N, eps_bar, eps_pa),
        "K_raw": rate,
        "K": decoy_bb84.clipped(rate),
    }

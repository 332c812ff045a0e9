"""Decoy-state BB84, asymptotic and finite."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import decoy_bb84, fibre, finite_key

_optimal_rate = jax.jit(decoy_bb84.optimal_rate, static_argnames="method")


@family("decoy_asym")
def decoy_asym(table: Table):
    """Decoy BB84 with infinite data: gains, decoy bounds, rates and their optima."""
    eta = fibre.transmittance_from_db(table.number("alpha") * table.number("L")) * table.number("eta_bob")
    link = decoy_bb84.DecoyLink(
        transmittance=eta,
        background_yield=table.number("Y0"),
        misalignment_error=table.number("ed"),
        background_error=table.number("e0", 0.5),
        error_correction_efficiency=table.number("f"),
        sifting=table.number("q", 0.5),
    )
    mu = table.number("mu")
    signal = decoy_bb84.observe(mu, link)
    result = {
        "eta": eta,
        "Q_mu": signal.gain,
        "E_mu": signal.qber,
        "Y1": decoy_bb84.photon_yield(1, link),
        "e1": decoy_bb84.photon_error(1, link),
        "Y2": decoy_bb84.photon_yield(2, link),
        "e2": decoy_bb84.photon_error(2, link),
    }
    if set(table.outputs) <= set(result):
        return result
    nu = table.number("nu")
    decoy = decoy_bb84.observe(nu, link)
    settings = decoy_bb84.DecoySettings(mu, nu, np.zeros_like(mu))
    y1, e1 = decoy_bb84.vacuum_weak_bounds(settings, signal, decoy, link.background_yield, link.background_error)
    result |= {
        "Q_nu": decoy.gain,
        "E_nu": decoy.qber,
        "Y1L": y1,
        "e1U": e1,
        "R_inf": decoy_bb84.clipped(decoy_bb84.key_rate(settings, link, "infinite")),
        "R_vw": decoy_bb84.clipped(decoy_bb84.key_rate(settings, link, "vacuum+weak")),
    }
    if any(column.endswith("_tw") for column in table.outputs):
        weakest = table.number("nu2")
        two = decoy_bb84.DecoySettings(mu, nu, weakest)
        bounds = decoy_bb84.two_weak_bounds(two, signal, decoy, decoy_bb84.observe(weakest, link))
        result |= dict(zip(("Y0L_tw", "Y1L_tw", "e1U_tw"), bounds, strict=True))
    for column, method in (("R_inf_opt", "infinite"), ("R_vw_opt", "vacuum+weak"), ("R_nodecoy_opt", "none")):
        if column in table.outputs:
            result[column] = decoy_bb84.clipped(_optimal_rate(link, method, nu)[1])
    return result


@family("finite_lim")
def finite_lim(table: Table):
    """Finite key with two decoys (Lim 2014), expectation counts."""
    return _finite(table, 3, finite_key.two_decoy_key)


@family("finite_rusca")
def finite_rusca(table: Table):
    """Finite key with one decoy (Rusca 2018), expectation counts."""
    return _finite(table, 2, finite_key.one_decoy_key)


@family("finite_lim_opt")
def finite_lim_opt(table: Table):
    """Rate with two decoys at a fixed key-basis block, its secrecy parameter proportional to the key length."""
    mu, p, clicks = _clicks(table, 3)
    q, block = table.number("q"), table.number("nX")
    pulses = block / (q * q * np.asarray(p * clicks.click).sum(axis=-1))
    counts = finite_key.expected_counts(pulses, q, p, clicks, clicks)
    bits = jax.jit(finite_key.two_decoy_key_per_bit_secrecy)(
        counts, mu, p, table.number("kappa", 1e-15), table.number("fec"), table.number("eps_cor")
    )
    return {"R_opt": np.asarray(bits) / pulses}


def _clicks(table: Table, k: int):
    mu = np.stack([table.number(f"mu{i + 1}") for i in range(k)], axis=-1)
    if all(f"p{i + 1}" in (*table.columns, *table.params) for i in range(k)):
        p = np.stack([table.number(f"p{i + 1}") for i in range(k)], axis=-1)
    else:  # the last probability is what the others leave
        p = np.stack([table.number(f"p{i + 1}") for i in range(k - 1)], axis=-1)
        p = np.concatenate([p, 1 - p.sum(axis=-1, keepdims=True)], axis=-1)
    eta = fibre.transmittance_from_db(table.number("alpha") * table.number("L")) * table.number("eta_bob")
    clicks = jax.jit(finite_key.lim_channel)(mu, eta, table.number("pdc"), table.number("pap"), table.number("emis"))
    return mu, p, clicks


def _finite(table: Table, k: int, analyse) -> dict:
    """Clicks, then counts, then key: a table that asks for less needs no input of the later stages."""
    mu, p, clicks = _clicks(table, k)
    result = _numbered(k, D=clicks.detection, em=clicks.error)
    if set(table.outputs) <= set(result):
        return result
    pulses = table.number("N")
    counts = jax.jit(finite_key.expected_counts)(pulses, table.number("q"), p, clicks, clicks)
    result |= _numbered(k, nK=counts.n_key, mK=counts.m_key, nT=counts.n_test, mT=counts.m_test)
    if set(table.outputs) <= set(result):
        return result
    distillation = finite_key.Distillation(
        error_correction_efficiency=table.number("fec"),
        eps_sec=table.number("eps_sec"),
        eps_cor=table.number("eps_cor"),
    )
    key = jax.jit(analyse)(counts, mu, p, distillation)
    vacuum = (
        {"sK0": key.s_key_0, "sT0": key.s_test_0}
        if k == 3
        else {"sK0l": key.s_key_0, "sK0u": key.s_key_0_upper, "sT0l": key.s_test_0, "sT0u": key.s_test_0_upper}
    )
    return (
        result
        | vacuum
        | {
            "tau0": key.tau_0,
            "tau1": key.tau_1,
            "sK1": key.s_key_1,
            "sT1": key.s_test_1,
            "vT1": key.v_test_1,
            "gamma": key.gamma,
            "phi": key.phase_error,
            "eobs": key.qber_key,
            "leak": key.leak_bits,
            "l_raw": key.raw_bits,
            "l": key.secret_bits,
            "R": key.secret_bits / pulses,
        }
    )


def _numbered(k: int, **arrays) -> dict:
    """Columns D1, D2, ... of arrays whose last axis runs over intensities."""
    return {f"{name}{i + 1}": values[:, i] for name, values in arrays.items() for i in range(k)}

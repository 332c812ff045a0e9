"""Protocols with two senders and an untrusted middle."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.validation.registry import family
from benchmarks.validation.table import Table
from qkd_gym.physics import fibre, information, mdi, mode_pairing, twin_field_cal19, twin_field_sns, two_sender
from qkd_gym.physics.decoy_bb84 import clipped


@family("mdi_asym")
def mdi_asym(table: Table):
    """MDI with endless data: gains, single-photon pairs, rate."""
    detector, loss = table.number("eta_d"), table.number("alpha")
    link = _mdi_link(
        table,
        fibre.transmittance_from_db(loss * table.number("La")) * detector,
        fibre.transmittance_from_db(loss * table.number("Lb")) * detector,
    )
    settings = mdi.MdiSettings(table.number("mua"), table.number("mub"))
    gains = mdi.observe(settings, link)
    y11, e11 = mdi.single_photon_pairs(link)
    rate = mdi.key_rate(settings, link)
    return {
        "eta_a": link.transmittance_a,
        "eta_b": link.transmittance_b,
        "QZ": gains.gain_z,
        "EZ": gains.qber_z,
        "QX": gains.gain_x,
        "EX": gains.qber_x,
        "Y11": y11,
        "e11X": e11,
        "R_raw": rate,
        "R": clipped(rate),
    }


@family("mdi_finite")
def mdi_finite(table: Table):
    """MDI with four intensities and a finite block, expectation counts."""
    eta = fibre.transmittance_from_db(0.5 * table.number("alpha") * table.number("L")) * table.number("eta_d")
    link = _mdi_link(table, eta, eta)
    settings = mdi.FourIntensitySettings(
        signal_intensity=table.number("z"),
        decoy_intensity=table.number("y"),
        weak_intensity=table.number("x"),
        signal_prob=table.number("pz"),
        decoy_prob=table.number("py"),
        weak_prob=table.number("px"),
    )
    pulses = table.number("N")
    security = two_sender.BlockSecurity(table.number("eps"), table.number("eps_cor"))
    counts = jax.jit(mdi.expected_counts)(settings, link, pulses)
    key = jax.jit(mdi.finite_key)(counts, settings, pulses, link.error_correction_efficiency, security)
    gains, errors = jax.jit(mdi.decoy_gains)(settings, link)
    y11, e11 = jax.jit(mdi.decoy_bounds)(settings, (gains, gains), (errors, errors))
    signal = mdi.observe(mdi.MdiSettings(table.number("z"), table.number("z")), link)
    return {
        "Y11L": key.yield_11,
        "Y11L_inf": y11,
        "e11U": key.error_11,
        "e11U_inf": e11,
        "n11": key.n_key_11,
        "eph": key.phase_error,
        "QZ": signal.gain_z,
        "EZ": signal.qber_z,
        "leak": key.leak_bits,
        "l_raw": key.raw_bits,
        "l": key.secret_bits,
        "R": key.secret_bits / pulses,
    }


def _mdi_link(table: Table, eta_a, eta_b) -> mdi.MdiLink:
    return mdi.MdiLink(
        transmittance_a=eta_a,
        transmittance_b=eta_b,
        dark_count_prob_per_gate=table.number("pd"),
        misalignment_error=table.number("ed"),
        error_correction_efficiency=table.number("f"),
    )


@family("tf_cal19")
def tf_cal19(table: Table):
    """Twin-field after Curty, Azuma and Lo, endless decoys."""
    loss = table.number("loss_db")
    link = twin_field_cal19.Cal19Link(
        arm_transmittance=two_sender.arm_transmittance_from_db(loss),
        dark_count_prob_per_gate=table.number("pd"),
        phase_mismatch_rad=table.number("phi"),
        polarization_mismatch_rad=table.number("theta"),
        error_correction_efficiency=table.number("f"),
    )
    settings = twin_field_cal19.Cal19Settings(table.number("alpha2"))
    gains = twin_field_cal19.observe(settings, link)
    rate = jax.jit(twin_field_cal19.key_rate)(settings, link)
    return {
        "t": link.arm_transmittance,
        "pxx": gains.gain,
        "eX": gains.qber,
        "eZ": jax.jit(twin_field_cal19.phase_error)(settings, link),
        "R_raw": rate,
        "R": clipped(rate),
        "plob": information.plob_bound_from_loss(loss),
    }


@family("tf_yields")
def tf_yields(table: Table):
    """Single-detector clicks on photon-number states of two senders."""
    n, m = (table.reference(name).astype(int) for name in ("n", "m"))
    yields = twin_field_cal19.fock_yields(
        table.number("t"), table.number("pd"), table.number("ctheta"), max_photons=int(max(n.max(), m.max()))
    )
    return {"Y": np.asarray(yields)[np.arange(len(table)), n, m]}


@family("tf_sns")
def tf_sns(table: Table):
    """Sending or not sending with endless data, bits as they are sifted."""
    settings, link = _sns(table)
    gains = twin_field_sns.observe(settings, link)
    s1, e1 = twin_field_sns.single_photons(link)
    rate = twin_field_sns.key_rate(settings, link)
    return {
        "t": link.arm_transmittance,
        "P0": gains.clicks.none,
        "P1": gains.clicks.one,
        "P2": gains.clicks.both,
        "Sz": gains.gain,
        "Ez": gains.qber,
        "s1": s1,
        "e1": e1,
        "R_raw": rate,
        "R": clipped(rate),
    }


@family("tf_sns_aopp")
def tf_sns_aopp(table: Table):
    """Sending or not sending with endless data, active odd-parity pairing."""
    settings, link = _sns(table)
    pairs = twin_field_sns.odd_parity_pairs(settings, link)
    rate = twin_field_sns.key_rate(settings, link, "aopp")
    return {
        "t": link.arm_transmittance,
        "npair": pairs.pairs,
        "keep": pairs.survival,
        "E": pairs.qber,
        "n1": pairs.untagged,
        "e1p": pairs.phase_error,
        "R_raw": rate,
        "R": clipped(rate),
    }


def _sns(table: Table) -> tuple[twin_field_sns.SnsSettings, twin_field_sns.SnsLink]:
    link = twin_field_sns.SnsLink(
        arm_transmittance=two_sender.arm_transmittance_from_db(table.number("loss_db")),
        dark_count_prob_per_gate=table.number("pd"),
        misalignment_error=table.number("ed"),
        error_correction_efficiency=table.number("f"),
    )
    return twin_field_sns.SnsSettings(table.number("mu"), table.number("eps")), link


@family("tf_mp")
def tf_mp(table: Table):
    """Mode pairing, endless decoys."""
    link = mode_pairing.ModePairingLink(
        arm_transmittance=two_sender.arm_transmittance_from_db(table.number("loss_db")),
        dark_count_prob_per_gate=table.number("pd"),
        misalignment_error=table.number("ed"),
        phase_variance_rad2_per_round=np.zeros(len(table), table.dtype),
        error_correction_efficiency=table.number("f"),
    )
    settings = mode_pairing.ModePairingSettings(table.number("mu"), table.number("l"))
    gains = mode_pairing.observe(settings, link)
    q11, e11 = mode_pairing.single_photon_pairs(settings, link)
    rate = mode_pairing.key_rate(settings, link)
    return {
        "t": link.arm_transmittance,
        "p": gains.click_prob,
        "rp": gains.pairing_rate,
        "rs": gains.key_fraction,
        "EZ": gains.qber,
        "q11": q11,
        "e11X": e11,
        "R_raw": rate,
        "R": clipped(rate),
    }

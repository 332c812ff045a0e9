"""Every protocol on one hardware: the same as its module called by hand, in that module's own terms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.physics import bbm92, cv_gg02, decoy_bb84, device_independent, dps, finite_key, mdi, mode_pairing
from qkd_gym.physics import twin_field_cal19 as cal19
from qkd_gym.physics import twin_field_sns as sns
from qkd_gym.physics.protocols import (
    PROTOCOLS,
    TOPOLOGIES,
    Hardware,
    protocol,
    repeaterless_bound,
    reported,
)

#: 16 dB of channel, 2 dB of receiver, detectors of 40 % with 3e-7 dark counts; every number differs from the defaults.
HARDWARE = Hardware(16.0, 2.0, 0.4, 3e-7, 0.015, 1.2, 0.7, 0.02, 0.03, 0.97)
WHOLE = 10**-1.8 * 0.4  # what arrives and is detected of a pulse that goes all the way
ARM = 10**-1.0 * 0.4  # ... of a pulse that goes half of it: 8 dB, and all 2 dB of the receiver
DARK, MIS, F = 3e-7, 0.015, 1.2
HOMODYNE = 10**-0.2 * 0.7

BLOCK = finite_key.BlockSettings()
ONE_DECOY = finite_key.BlockSettings((0.5, 0.15), (0.7, 0.3))
DECOY_LINK = decoy_bb84.DecoyLink(WHOLE, 2 * DARK, MIS, 0.5, F, 1.0)
BLOCK_LINK = finite_key.BlockLink(WHOLE, DARK, 0.0, MIS)
MDI_LINK = mdi.MdiLink(ARM, ARM, DARK, MIS, F, 1.0)
SNS_LINK = sns.SnsLink(ARM, DARK, MIS, F)
CAL19_LINK = cal19.Cal19Link(ARM, DARK, float(np.arccos(1 - 2 * MIS)), 0.0, F)
CV_LINK = {d: cv_gg02.CvLink(10**-1.6, 0.02, HOMODYNE, 0.03, 0.97, 0.0, d) for d in cv_gg02.DETECTIONS}


def block_bits(analysis, settings, pulses):
    counts = finite_key.counts_of(settings, BLOCK_LINK, pulses)
    return analysis(counts, settings.intensities, settings.probabilities, finite_key.Distillation(F)).raw_bits / pulses


BY_HAND = {
    "bb84-decoy": lambda: decoy_bb84.key_rate(decoy_bb84.DecoySettings(), DECOY_LINK),
    "bb84-two-decoy": lambda: block_bits(finite_key.two_decoy_key, BLOCK, 1e18),
    "bb84-one-decoy": lambda: block_bits(finite_key.one_decoy_key, ONE_DECOY, 1e18),
    "mdi": lambda: mdi.key_rate(mdi.MdiSettings(), MDI_LINK),
    "mdi-four-intensity": lambda: mdi.decoy_key_rate(mdi.FourIntensitySettings(), MDI_LINK),
    "tf-cal19": lambda: cal19.key_rate(cal19.Cal19Settings(), CAL19_LINK),
    "tf-sns": lambda: sns.key_rate(sns.SnsSettings(), SNS_LINK),
    "tf-sns-aopp": lambda: sns.key_rate(sns.SnsSettings(0.4, 0.26), SNS_LINK, "aopp"),
    "tf-sns-decoy": lambda: sns.decoy_key_rate(sns.SnsBlockSettings(), SNS_LINK),
    "mode-pairing": lambda: mode_pairing.key_rate(
        mode_pairing.ModePairingSettings(), mode_pairing.ModePairingLink(ARM, DARK, MIS, 0.0, F)
    ),
    "gg02-homodyne": lambda: cv_gg02.key_rate(cv_gg02.CvSettings(), CV_LINK["homodyne"]),
    "gg02-heterodyne": lambda: cv_gg02.key_rate(cv_gg02.CvSettings(), CV_LINK["heterodyne"]),
    "bbm92": lambda: bbm92.key_rate(
        bbm92.PairSettings(), bbm92.PairLink(ARM, ARM, 2 * DARK, 2 * DARK, MIS, 0.5, F, 1.0)
    ),
    "diqkd": lambda: device_independent.key_rate(
        device_independent.DeviceIndependentSettings(), device_independent.DeviceIndependentLink(0.97, ARM)
    ),
    "dps": lambda: dps.key_rate(dps.DpsSettings(), dps.DpsLink(WHOLE, DARK, MIS, F)),
}
BLOCKS_BY_HAND = {
    "bb84-two-decoy": lambda n: block_bits(finite_key.two_decoy_key, BLOCK, n),
    "bb84-one-decoy": lambda n: block_bits(finite_key.one_decoy_key, ONE_DECOY, n),
    "mdi-four-intensity": lambda n: mdi.finite_key_rate(mdi.FourIntensitySettings(), MDI_LINK, n),
    "tf-sns-decoy": lambda n: sns.finite_key_rate(sns.SnsBlockSettings(), SNS_LINK, n),
    "gg02-homodyne": lambda n: cv_gg02.finite_key_rate(cv_gg02.CvSettings(), CV_LINK["homodyne"], n),
    "gg02-heterodyne": lambda n: cv_gg02.finite_key_rate(cv_gg02.CvSettings(), CV_LINK["heterodyne"], n),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rate_is_the_modules_own(name, x64):
    p = PROTOCOLS[name]
    np.testing.assert_allclose(p.key_rate(p.settings(), HARDWARE), BY_HAND[name](), rtol=1e-12)


@pytest.mark.parametrize("name", BLOCKS_BY_HAND)
def test_block_is_the_modules_own(name, x64):
    p = PROTOCOLS[name]
    rate = p.finite_key_rate(p.settings(), HARDWARE, 1e12)
    np.testing.assert_allclose(rate, BLOCKS_BY_HAND[name](1e12), rtol=1e-12)
    assert rate < p.key_rate(p.settings(), HARDWARE)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_reads_all_of_the_hardware_but_what_it_says(name, x64):
    """A field that it ignores changes nothing, any other moves the rate the right way."""
    p = PROTOCOLS[name]
    # short enough for a violation of Bell's inequality, noisy enough that dark counts show
    base = Hardware(0.1, 0.01, 0.97, 1e-3, 0.01, 1.2, 0.7, 0.02, 0.03, 0.97)
    before = p.key_rate(p.settings(), base)
    better = {"detector_efficiency", "homodyne_efficiency", "reconciliation_efficiency"}
    for field in dataclasses.fields(Hardware):
        worse = 0.99 if field.name in better else 1.01
        changed = dataclasses.replace(base, **{field.name: getattr(base, field.name) * worse})
        change = p.key_rate(p.settings(), changed) - before
        assert change == 0 if field.name in p.ignores else change < 0, field.name


def test_a_batch_of_links_is_each_link(x64):
    losses = np.array([0.0, 10.0, 40.0])
    links = Hardware(channel_loss_db=losses)
    for p in map(PROTOCOLS.get, ("bb84-decoy", "bb84-one-decoy", "mdi-four-intensity", "tf-cal19")):
        together = p.key_rate(p.settings(), links)
        np.testing.assert_allclose(together[1], p.key_rate(p.settings(), Hardware(channel_loss_db=10.0)), rtol=1e-12)
        assert together.shape == p.bound(links).shape == (3,)
        jax.tree.map(np.shape, p.observe(p.settings(), links))


def test_what_is_seen_is_the_modules_own(x64):
    gains = PROTOCOLS["bb84-decoy"].observe(decoy_bb84.DecoySettings(), HARDWARE)
    each = [decoy_bb84.observe(mu, DECOY_LINK).gain for mu in (0.48, 0.05, 0.0)]
    np.testing.assert_allclose(gains.gain, each, rtol=1e-12)
    moments = PROTOCOLS["gg02-heterodyne"].observe(cv_gg02.CvSettings(), HARDWARE)
    np.testing.assert_allclose(moments.snr, cv_gg02.observe(cv_gg02.CvSettings(), CV_LINK["heterodyne"]).snr)
    counts = PROTOCOLS["mdi-four-intensity"].observe(mdi.FourIntensitySettings(), HARDWARE)
    np.testing.assert_allclose(counts.n_key, mdi.expected_counts(mdi.FourIntensitySettings(), MDI_LINK, 1.0).n_key)


def test_bounds(x64):
    """Half the loss, in dB, to a node or a source in the middle; all of it from sender to receiver."""
    for p in PROTOCOLS.values():
        eta = 10**-1.6 if p.topology == TOPOLOGIES[0] else 10**-0.8
        np.testing.assert_allclose(p.bound(HARDWARE), -np.log2(1 - eta), rtol=1e-12)
    np.testing.assert_allclose(repeaterless_bound(HARDWARE), -np.log2(1 - 10**-1.6), rtol=1e-12)


def test_who_passes_the_repeaterless_bound(x64):
    """At 60 dB the protocols whose rate falls with the root of the transmittance, and no other."""
    far = Hardware(channel_loss_db=60.0, dark_count_prob_per_gate=1e-10)
    limit = repeaterless_bound(far)
    above = {p.name for p in PROTOCOLS.values() if p.key_rate(p.settings(), far) > limit}
    assert above == {"tf-cal19", "tf-sns", "tf-sns-aopp", "tf-sns-decoy", "mode-pairing"}


def test_settings_out_of_order_earn_nothing_inside_a_program():
    """The door refuses them; a search or a policy inside a program may stray there, and must not meet NaN."""
    p = PROTOCOLS["bb84-decoy"]
    template = jax.tree.structure(decoy_bb84.DecoySettings())
    rate = jax.jit(jax.value_and_grad(lambda nu: p.key_rate(jax.tree.unflatten(template, [0.3, nu, 0.0]), HARDWARE)))
    for nu in (0.0, 0.3, 0.4):
        assert rate(nu) == (0, 0)
    assert rate(0.1)[0] > 0


def test_perfect_alignment_has_a_derivative():
    p = PROTOCOLS["tf-cal19"]
    slope = jax.grad(lambda e: p.key_rate(p.settings(), Hardware(misalignment_error=e)))
    assert np.isfinite(slope(0.0)) and slope(1e-3) < 0


def test_best_settings_are_no_worse_than_the_defaults(x64):
    p = PROTOCOLS["dps"]
    settings, rate = p.optimal_rate(HARDWARE)
    assert rate >= p.key_rate(p.settings(), HARDWARE)
    np.testing.assert_allclose(p.key_rate(settings, HARDWARE), rate, rtol=1e-12)
    settings, rate = PROTOCOLS["gg02-homodyne"].optimal_rate(HARDWARE)
    np.testing.assert_allclose(PROTOCOLS["gg02-homodyne"].key_rate(settings, HARDWARE), rate, rtol=1e-12)


def test_refusals_name_what_there_is():
    with pytest.raises(ValueError, match="no protocol is called 'e91'") as refusal:
        protocol("e91")
    assert all(name in str(refusal.value) for name in PROTOCOLS)
    assert protocol("dps") is PROTOCOLS["dps"]
    with pytest.raises(ValueError, match=r"dps has no analysis of finite blocks.*bb84-two-decoy"):
        PROTOCOLS["dps"].finite_key_rate(dps.DpsSettings(), HARDWARE, 1e9)
    with pytest.raises(ValueError, match=r"diqkd has no search.*tf-sns"):
        PROTOCOLS["diqkd"].optimal_rate(HARDWARE)
    with pytest.raises(ValueError, match=r"channel_loss_db = 401.0 dB"):
        Hardware(channel_loss_db=401.0)


def test_reported_rates_are_not_negative():
    np.testing.assert_array_equal(reported(jnp.array([-1.0, 0.0, 2.0])), [0, 0, 2])

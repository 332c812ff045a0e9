"""Attacks on devices, which the key formula does not see unless it is told: light into the sender or the receiver.

Where a monitor's response has no source it is a design value: a field with a default, not a constant.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.attacks.telemetry import (
    KEY,
    TEST,
    Eve,
    Telemetry,
    light_error_of,
    light_of,
    mixed,
    over_gains,
    phase_qber,
    ratio,
    received_photons,
    wider,
)
from qkd_gym.physics.decoy_bb84 import DecoySettings, Gains, vacuum_weak_bounds
from qkd_gym.physics.information import NEPER_PER_DB, as_float, binary_entropy
from qkd_gym.physics.interference import coin_phase_error

# ---- into the sender ----------------------------------------------------------------------------------------------


@struct.dataclass
class TrojanHorse:
    """Eve shines light into the sender and reads the settings from what comes back.

    Lucamarini et al., Phys. Rev. X 5, 031030 (2015), arXiv:1506.01989. Without the watchdog no reading moves.
    """

    injected_photons: Any = struct.field(default=0.0, unit="photon/pulse", low=0.0, high=1e15, doc="into the sender")
    isolation_db: Any = struct.field(default=170.0, unit="dB", low=0.0, high=400.0, doc="in and out together")
    monitor_coupling: Any = struct.field(default=1e-3, low=0.0, high=1.0, doc="share that the watchdog sees")

    @property
    def leaked_photons(self) -> Float[Array, "..."]:
        """Mean photons that leave with a pulse, N_in 10^(-isolation/10)."""
        injected, isolation = as_float(self.injected_photons, self.isolation_db)
        return injected * jnp.exp(-NEPER_PER_DB * isolation)

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        attacked = struct.replace(
            honest,
            back_reflection_photons=honest.back_reflection_photons + self.monitor_coupling * self.injected_photons,
        )
        mu, y0 = honest.intensities[..., 0], honest.vacuum_yield
        single_yield = y0 + jnp.minimum(ratio(received_photons(honest), mu), 1)
        error = jnp.clip(
            ratio(y0 / 2 + light_error_of(honest)[..., TEST, 0] * (single_yield - y0), single_yield), 0, 0.5
        )
        phase = trojan_phase_error(self.leaked_photons, single_yield, error)
        singles = jnp.clip(ratio(mu * jnp.exp(-mu) * single_yield, honest.gain[..., KEY, 0]), 0, 1)
        known = singles * jnp.maximum(binary_entropy(phase) - binary_entropy(error), 0)
        return attacked, Eve(known_bits=known, unpriced_bits=known)


def trojan_imbalance(leaked_photons: ArrayLike) -> Float[Array, "..."]:
    """Coin imbalance (1 - e^(-mu) cos mu)/2 of leaked states |sqrt(mu) e^(i phi)>; mu/2 for little light.

    Lucamarini et al., Phys. Rev. X 5, 031030 (2015).
    """
    (mu,) = as_float(leaked_photons)
    s = jnp.sin(mu / 2)
    return jnp.exp(-mu) * s * s - jnp.expm1(-mu) / 2


def trojan_phase_error(
    leaked_photons: ArrayLike, single_photon_yield: ArrayLike, bit_error: ArrayLike
) -> Float[Array, "..."]:
    """Phase error with a leak of the given mean photons per pulse: the quantum-coin bound at imbalance / yield.

    1/2, no key, where the imbalance reaches half the yield.
    """
    imbalance, y, e = as_float(trojan_imbalance(leaked_photons), single_photon_yield, bit_error)
    return coin_phase_error(e, jnp.minimum(ratio(imbalance, y, 0.5), 0.5))


def leaked_holevo_bits(leaked_photons: ArrayLike) -> Float[Array, "..."]:
    """Holevo information h((1 - e^(-2 mu))/2) on the bit of |+-sqrt(mu)>, once the basis is known, without using loss.

    The least that a leak gives away; the security bound, which lets Eve choose what arrives, lies above.
    """
    (mu,) = as_float(leaked_photons)
    return binary_entropy(-jnp.expm1(-2 * mu) / 2)


@struct.dataclass
class LaserSeeding:
    """Eve seeds the sender's laser, so that every pulse is brighter than the sender believes.

    Huang et al., Phys. Rev. Applied 12, 064043 (2019); factors of 1.05 to 3 (design range). Her gain is the key that
    the decoy analysis (vacuum and weak) credits with the believed intensities beyond that with the true ones.
    """

    intensity_factor: Any = struct.field(default=1.0, low=1.0, high=10.0, doc="true over believed intensity, g")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        excess = self.intensity_factor - 1
        attacked, eve = _brighter(honest, excess)
        return struct.replace(attacked, source_monitor=honest.source_monitor * self.intensity_factor), eve


@struct.dataclass
class LaserDamage:
    """Eve burns the sender's attenuator or isolators, for good; the diode that watches the laser sits before them.

    Huang et al., Phys. Rev. Applied 13, 034017 (2020); Makarov et al., Phys. Rev. A 94, 030302 (2016).
    """

    attenuator_drop_db: Any = struct.field(default=0.0, unit="dB", low=0.0, high=10.0, doc="loss that is gone")
    isolator_drop_db: Any = struct.field(default=0.0, unit="dB", low=0.0, high=100.0, doc="isolation that is gone")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        """The attenuator's part; the isolators' part shows once light is sent in: `opened`."""
        return _brighter(honest, jnp.expm1(NEPER_PER_DB * self.attenuator_drop_db))

    def opened(self, trojan: TrojanHorse) -> TrojanHorse:
        """A Trojan horse that profits from the damage."""
        isolation, burnt = as_float(trojan.isolation_db, self.isolator_drop_db)
        return struct.replace(trojan, isolation_db=jnp.maximum(isolation - burnt, 0))


def _brighter(honest: Telemetry, excess: Array) -> tuple[Telemetry, Eve]:
    """All intensities times 1 + excess, unknown to the sender."""
    if honest.intensities.shape[-1] < 2:
        raise ValueError("brighter pulses are weighed by the decoy analysis: Telemetry needs two intensities or more")
    light = light_of(honest)
    extra = -(1 - light) * jnp.expm1(over_gains(excess) * jnp.log1p(-light))
    # Background adds to light in this first-order model of a gain; under blinding light the sum would pass 1.
    extra = jnp.minimum(extra, 1 - honest.gain)
    # A detector of two sees half the light; its clicks, squared, are the double clicks.
    double = honest.double_click_prob
    one = jnp.where(double > 0, jnp.sqrt(jnp.where(double > 0, double, 1)), 0)
    added = -(1 - one) * jnp.expm1(-excess * received_photons(honest) / 2)
    attacked = struct.replace(
        honest,
        gain=honest.gain + extra,
        error_gain=honest.error_gain + light_error_of(honest) * extra,
        double_click_prob=double + added * (2 * one + added),
    )
    believed = _credited(attacked, jnp.zeros_like(excess))
    insecure = jnp.maximum(believed - _credited(attacked, excess), 0)
    known = jnp.where(excess > 0, jnp.clip(ratio(insecure, attacked.gain[..., KEY, 0]), 0, 1), 0)
    return attacked, Eve(known_bits=known, unpriced_bits=known)


def _credited(report: Telemetry, excess: Array) -> Array:
    """Q_1 [1 - h(e_1)] by vacuum + weak decoy, believing intensities times 1 + excess."""
    mu, nu = (report.intensities[..., k] * (1 + excess) for k in (0, 1))
    settings = DecoySettings(mu, nu, jnp.zeros_like(nu))
    bounds = []
    for basis in (KEY, TEST):
        signal, weak = (Gains(report.gain[..., basis, k], report.error_gain[..., basis, k]) for k in (0, 1))
        bounds.append(vacuum_weak_bounds(settings, signal, weak, report.vacuum_yield))
    single = mu * jnp.exp(-mu) * jnp.maximum(bounds[KEY][0], 0)
    return single * (1 - binary_entropy(bounds[TEST][1]))


@struct.dataclass
class PhaseRemapping:
    """Eve shifts a two-way sender's modulation in time, so that it sends phases 0, d/2, d, 3d/2; then she intercepts.

    Fung, Qi, Tamaki, Lo, Phys. Rev. A 75, 032314 (2007); Xu, Qi, Lo, New J. Phys. 12, 113026 (2010). She projects on
    the second (third) state, keeps the pulse when the answer is no, and resends the fourth (first) BB84 state: error
    1/(2 + 4 cos^2(d/4)), 1/4 at d = pi (nothing remapped) and 1/6 for d to 0. Gains stay while the channel's loss hides
    what she blocks (`remapping_success`).
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses attacked")
    phase_step_rad: Any = struct.field(default=math.pi, unit="rad", low=0.0, high=math.pi, doc="d; pi: not remapped")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        induced = remapping_qber(self.phase_step_rad)
        e = over_gains(induced)
        flipped = honest.error_gain + e * (honest.gain - 2 * honest.error_gain)
        attacked = struct.replace(honest, error_gain=mixed(honest.error_gain, flipped, over_gains(self.fraction)))
        known = self.fraction * (1 - 2 * induced)
        return attacked, Eve(known_bits=known, unpriced_bits=_beyond_errors(known, honest, attacked))


def remapping_qber(phase_step_rad: ArrayLike) -> Float[Array, "..."]:
    """Error rate 1/(2 + 4 cos^2(d/4)) of sifted bits that went through a phase-remapping attack."""
    (d,) = as_float(phase_step_rad)
    c = jnp.cos(d / 4)
    return 1 / (2 + 4 * c * c)


def remapping_success(phase_step_rad: ArrayLike) -> Float[Array, "..."]:
    """Share of intercepted single photons that Eve can resend, [2 sin^2(d/4) + sin^2(d/2)] / 4."""
    (d,) = as_float(phase_step_rad)
    near, far = jnp.sin(d / 4), jnp.sin(d / 2)
    return (2 * near * near + far * far) / 4


# ---- into the receiver --------------------------------------------------------------------------------------------


@struct.dataclass
class Blinding:
    """Eve blinds the detectors with bright light, measures, and triggers them with faked states of her results.

    Lydersen et al., Nat. Photonics 4, 686 (2010). A faked state clicks with `matched_click_prob` in her basis and with
    `mismatched_click_prob` in the other (`faked_state_clicks`); a perfect attack has 1 and 0, and half the clicks.
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses under control")
    eve_efficiency: Any = struct.field(default=0.5, low=0.0, high=1.0, doc="from the sender to Eve's click")
    faked_state_error: Any = struct.field(default=0.0, low=0.0, high=0.5, doc="Eve's error where bases match")
    matched_click_prob: Any = struct.field(default=1.0, low=0.0, high=1.0, doc="receiver in Eve's basis")
    mismatched_click_prob: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="receiver in the other basis")
    blinding_current_ua: Any = struct.field(default=1000.0, unit="uA", low=0.0, high=1e5, doc="photocurrent it causes")
    trigger_width_ps: Any = struct.field(
        default=30.0, unit="ps", low=0.0, high=1e5, doc="standard deviation of triggered clicks"
    )

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        x = self.fraction
        click, wrong = faked_state_gains(
            honest.intensities,
            *(
                d[..., None]
                for d in (
                    self.eve_efficiency,
                    self.faked_state_error,
                    self.matched_click_prob,
                    self.mismatched_click_prob,
                )
            ),
        )
        gain = mixed(honest.gain, click[..., None, :], over_gains(x))
        share = jnp.clip(ratio(x * click[..., 0], gain[..., KEY, 0]), 0, 1)
        narrower = share * (self.trigger_width_ps * self.trigger_width_ps - honest.timing_width_ps**2)
        attacked = struct.replace(
            honest,
            gain=gain,
            error_gain=mixed(honest.error_gain, wrong[..., None, :], over_gains(x)),
            vacuum_yield=(1 - x) * honest.vacuum_yield,
            double_click_prob=(1 - x) * honest.double_click_prob,
            dark_count_prob_per_gate=(1 - x) * honest.dark_count_prob_per_gate,
            photocurrent_ua=honest.photocurrent_ua + x * self.blinding_current_ua,
            timing_width_ps=wider(honest.timing_width_ps, narrower),
        )
        in_basis = ratio(self.matched_click_prob, self.matched_click_prob + self.mismatched_click_prob)
        known = share * in_basis * (1 - binary_entropy(self.faked_state_error))
        return attacked, Eve(known_bits=known, unpriced_bits=known)


def faked_state_gains(
    intensity: ArrayLike,
    eve_efficiency: ArrayLike,
    faked_state_error: ArrayLike = 0.0,
    matched_click_prob: ArrayLike = 1.0,
    mismatched_click_prob: ArrayLike = 0.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(gain, error gain)` of faked states: P_E (match + mismatch)/2 and P_E (match e + mismatch/2)/2.

    P_E = 1 - e^(-mu eta_E) is Eve's own click; her basis matches the receiver's half the time.
    """
    mu, eta, e, match, other = as_float(
        intensity, eve_efficiency, faked_state_error, matched_click_prob, mismatched_click_prob
    )
    seen = -jnp.expm1(-mu * eta) / 2
    return seen * (match + other), seen * (match * e + other / 2)


def faked_state_clicks(
    pulse_power: ArrayLike, never_power: ArrayLike, always_power: ArrayLike, attenuation_db: ArrayLike = 0.0
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(matched, mismatched)` click probabilities of a bright pulse at a blinded detector with two thresholds.

    0 up to `never_power`, 1 from `always_power`, linear between; in the wrong basis half the power arrives. Control is
    perfect where the pulse lies in a window of 3 dB: always <= power <= 2 never. An attenuator in front of the receiver
    switches such clicks off; a photon's clicks would scale with it.
    """
    power, never, always, loss = as_float(pulse_power, never_power, always_power, attenuation_db)
    power = power * jnp.exp(-NEPER_PER_DB * loss)
    step = always - never
    sharp = step <= 0

    def click(p: Array) -> Array:
        rise = jnp.clip((p - never) / jnp.where(sharp, 1, step), 0, 1)
        return jnp.where(sharp, jnp.where(p >= always, 1.0, 0.0), rise)

    return click(power), click(power / 2)


@struct.dataclass
class TimeShift:
    """Eve shifts pulses to times at which one detector is less sensitive than the other, by turns.

    Qi, Fung, Lo, Ma, QIC 7, 73 (2007); Zhao et al., Phys. Rev. A 78, 042333 (2008). The error rate of the light stays;
    the counts drop to (1+r)/2. The countermeasure is `detectors.mismatch_key_factor`.
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses shifted")
    efficiency_ratio: Any = struct.field(default=1.0, low=0.0, high=1.0, doc="r = eta_min/eta_max at that time")
    detector_0_prob: Any = struct.field(default=0.5, low=0.0, high=1.0, doc="share of shifts that favour detector 0")
    shift_ps: Any = struct.field(default=500.0, unit="ps", low=0.0, high=1e5, doc="later for detector 0, else earlier")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        x, r, s, a = self.fraction, self.efficiency_ratio, self.detector_0_prob, honest.detector_share
        late, early = x * s * (a + r * (1 - a)), x * (1 - s) * (a * r + (1 - a))
        lost = x * (1 - r) * (s * (1 - a) + (1 - s) * a)
        kept = 1 - lost
        background = over_gains(honest.vacuum_yield)
        move = ratio(late - early, kept) * self.shift_ps
        spread = ratio(late + early, kept) * self.shift_ps * self.shift_ps - move * move
        attacked = struct.replace(
            honest,
            gain=mixed(honest.gain, background, over_gains(lost)),
            error_gain=mixed(honest.error_gain, background / 2, over_gains(lost)),
            detector_share=a + ratio(a * lost - x * (1 - s) * a * (1 - r), kept),
            timing_mean_ps=honest.timing_mean_ps + move,
            timing_width_ps=wider(honest.timing_width_ps, spread),
            double_click_prob=honest.double_click_prob * (1 - x * (1 - r)),
        )
        known = jnp.clip(ratio(late + early, kept), 0, 1) * time_shift_bits(r)
        return attacked, Eve(known_bits=known, unpriced_bits=known)


def time_shift_bits(efficiency_ratio: ArrayLike) -> Float[Array, "..."]:
    """What Eve knows of a bit that clicked at detectors of efficiency ratio r: 1 - h(r/(1+r))."""
    (r,) = as_float(efficiency_ratio)
    return 1 - binary_entropy(r / (1 + r))


@struct.dataclass
class WavelengthSplitter:
    """Eve intercepts and resends at a wavelength at which a passive receiver's beam splitter obeys her basis.

    Li et al., Phys. Rev. A 84, 062308 (2011). With control c the error of attacked bits is (1-c)/2: intercept-resend at
    c = 1/2, none at c = 1. Seen by a wavelength monitor, or in the basis ratio where she favours a basis.
    """

    fraction: Any = struct.field(default=0.0, low=0.0, high=1.0, doc="share of pulses attacked")
    basis_control: Any = struct.field(default=1.0, low=0.5, high=1.0, doc="c: receiver's basis is Eve's")
    eve_key_basis_prob: Any = struct.field(default=0.5, low=0.0, high=1.0, doc="Eve's choice of the key basis")

    def act(self, honest: Telemetry) -> tuple[Telemetry, Eve]:
        p, c = self.fraction, self.basis_control
        chosen = jnp.stack([self.eve_key_basis_prob, 1 - self.eve_key_basis_prob], axis=-1)
        nominal = jnp.stack([honest.basis_ratio, 1 - honest.basis_ratio], axis=-1)
        obeyed, defied = chosen * c[..., None], (1 - chosen) * (1 - c)[..., None]
        # Gains are per pulse with both users in that basis, so a basis that Eve steers to gains clicks.
        steered = ratio(obeyed + defied, nominal)[..., None]
        obeyed, defied = ratio(obeyed, nominal)[..., None], ratio(defied, nominal)[..., None]
        wide = over_gains(p)
        gain = mixed(honest.gain, jnp.minimum(honest.gain * steered, 1), wide)
        wrong = honest.error_gain * obeyed + honest.gain * defied / 2
        attacked = struct.replace(
            honest,
            gain=gain,
            error_gain=jnp.minimum(mixed(honest.error_gain, wrong, wide), gain),
            basis_ratio=mixed(honest.basis_ratio, chosen[..., 0] * c + chosen[..., 1] * (1 - c), p),
            wavelength_basis_correlation=mixed(honest.wavelength_basis_correlation, 2 * c - 1, p),
        )
        share = ratio(p * obeyed[..., KEY, 0] * honest.gain[..., KEY, 0], gain[..., KEY, 0])
        known = jnp.clip(share, 0, 1)
        return attacked, Eve(known_bits=known, unpriced_bits=_beyond_errors(known, honest, attacked))


def _beyond_errors(known: Array, honest: Telemetry, attacked: Telemetry) -> Array:
    """What Eve knows beyond what the errors that she causes cost her: the rise of h(E) in the test basis."""
    price = binary_entropy(phase_qber(attacked)) - binary_entropy(phase_qber(honest))
    return jnp.maximum(known - jnp.maximum(price, 0), 0)

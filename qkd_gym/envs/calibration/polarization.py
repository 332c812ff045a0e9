"""`qkd/PolarizationAlignment-v0`: hold the polarisation through a drifting fibre, with knobs nobody calibrated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qkd_gym import struct
from qkd_gym.envs.core import Environment, EnvParams, EnvState
from qkd_gym.physics import polarization as pol
from qkd_gym.physics.accumulate import add, pair, reset, values
from qkd_gym.physics.detectors import non_paralysable_rate
from qkd_gym.physics.drift import jump_occurs, tone
from qkd_gym.physics.fibre import transmittance_from_db
from qkd_gym.physics.finite_key import (
    BlockCounts,
    Distillation,
    certifiable_bits,
    expected_counts,
    lim_channel,
    one_decoy_key,
)
from qkd_gym.physics.sampling import binomial, clicks_and_errors, step_noise

#: Kinds of receiver that may look at the reference light, and the entries R_ij of the net rotation that each reads.
REFERENCES: dict[str, tuple[tuple[int, int], ...]] = {
    "two_basis": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "polarimeter": ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)),
}
#: Axes of the squeezers as designed: S1, S2, S1, S2. Units differ from it.
NOMINAL_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
#: Largest voltage, per squeezer, at which an episode starts (design choice: somebody has aligned the link before).
START_VOLTAGE_RAD = 2.0


@struct.dataclass
class PolarizationParams(EnvParams):
    """One link: fibre, source, receiver, drift, and the polarisation controller of this unit."""

    max_steps_in_episode: int = struct.field(default=300, low=1, high=100_000, unit="step", doc="time limit")
    block_steps: int = struct.field(
        default=100, low=1, high=100_000, unit="step", doc="steps pooled into one key block"
    )
    step_s: float = struct.field(default=1.0, low=1e-4, high=100.0, unit="s", doc="time between two decisions")
    clock_hz: float = struct.field(default=1e8, low=1e6, high=1e10, unit="Hz", doc="pulse rate")
    # link and receiver
    fibre_loss_db: float = struct.field(default=20.0, low=0.0, high=60.0, unit="dB", doc="fibre, 0.2 dB/km")
    receiver_loss_db: float = struct.field(
        default=3.0, low=0.0, high=20.0, unit="dB", doc="controller, splitters, connectors"
    )
    detector_efficiency: float = struct.field(default=0.6, low=1e-3, high=1.0, doc="of each of the four detectors")
    dark_count_prob_per_gate: float = struct.field(default=1e-7, low=0.0, high=0.01, unit="1/gate", doc="per detector")
    dead_time_ns: float = struct.field(
        default=50.0, low=0.0, high=1e5, unit="ns", doc="all four are blanked after a click"
    )
    optical_error: float = struct.field(default=0.01, low=0.0, high=0.25, doc="error rate of a perfectly aligned link")
    # source
    signal_intensity: float = struct.field(
        default=0.55, low=0.01, high=2.0, unit="photon/pulse", doc="mean of signal pulses"
    )
    decoy_intensity: float = struct.field(
        default=0.16, low=0.001, high=1.0, unit="photon/pulse", doc="mean of decoy pulses"
    )
    signal_prob: float = struct.field(default=0.7, low=0.01, high=0.99, doc="share of signal pulses")
    key_basis_prob: float = struct.field(
        default=0.87, low=0.5, high=0.999, doc="probability of the Z basis, both users"
    )
    # distillation: constants of the security proof, no action touches them
    error_correction_efficiency: float = struct.field(
        default=1.16, low=1.0, high=2.0, doc="disclosed bits per Shannon limit"
    )
    eps_sec: float = struct.field(default=1e-10, low=1e-20, high=1e-2, doc="secrecy parameter of a block")
    eps_cor: float = struct.field(default=1e-15, low=1e-30, high=1e-2, doc="correctness parameter of a block")
    authentication_bits: float = struct.field(
        default=1024.0, low=0.0, unit="bit", doc="per block: 4 messages, 2 tags of 128"
    )
    # drift of the fibre
    decorrelation_time_s: float = struct.field(
        default=550.0, low=1e-3, high=1e9, unit="s", doc="tau; walk sqrt(dt/tau) per axis"
    )
    turn_rad_per_s: Any = struct.field(
        default=(0.0, 0.0, 0.0), low=-1.0, high=1.0, unit="rad/s", doc="steady turn (day/night)"
    )
    wind_amplitude_rad: float = struct.field(default=0.0, low=0.0, high=3.2, unit="rad", doc="swing of an aerial span")
    wind_frequency_hz: float = struct.field(default=0.1, low=0.0, high=100.0, unit="Hz", doc="of that swing")
    wind_axis: Any = struct.field(default=(0.6, 0.48, 0.64), low=-1.0, high=1.0, doc="unit Stokes axis of that swing")
    jump_rate_per_s: float = struct.field(default=0.0, low=0.0, high=10.0, unit="1/s", doc="handling of the cable")
    jump_rad: float = struct.field(
        default=0.5, low=0.0, high=3.2, unit="rad", doc="deviation of a jump, per Stokes axis"
    )
    start_offset_rad: float = struct.field(
        default=0.15, low=0.0, high=3.2, unit="rad", doc="misalignment at the start, per axis"
    )
    # reference light
    reference_clicks_per_s: float = struct.field(
        default=5e4, low=1.0, high=1e9, unit="1/s", doc="while the reference is on"
    )
    guard_share: float = struct.field(
        default=0.05, low=0.0, high=0.5, doc="of a step, lost each time the reference is on"
    )
    # polarisation controller of this unit
    slew_rad: float = struct.field(default=0.5, low=0.0, high=10.0, unit="rad/step", doc="largest voltage increment")
    range_rad: float = struct.field(
        default=2 * math.pi, low=0.1, high=100.0, unit="rad", doc="voltages stop at +- this"
    )
    squeezer_axes: Any = struct.field(
        default=NOMINAL_AXES, low=-1.0, high=1.0, doc="unit Stokes axes (4, 3), light's order"
    )
    squeezer_gains: Any = struct.field(
        default=(1.0, 1.0, 1.0, 1.0), low=0.01, high=10.0, unit="rad/rad", doc="turn per voltage"
    )
    backlash_rad: float = struct.field(default=0.03, low=0.0, high=1.0, unit="rad", doc="half width of the dead play")
    frame: Any = struct.field(
        default=(1.0, 0.0, 0.0, 0.0),
        low=-1.0,
        high=1.0,
        doc="unit quaternion (4,): pigtail from controller to analyser",
    )


@struct.dataclass
class PolarizationState(EnvState):
    """Hidden truth and the operator's books."""

    # exogenous: no action reaches these
    fibre: Any  # f32 (4,), quaternion of the fibre in the second half of the step just run
    wind_phase_rad: Any  # f32 ()
    # the controller
    voltage: Any  # f32 (4,), rad of nominal turn
    position: Any  # f32 (4,), the squeezers behind their backlash
    # the open block
    pool: Any  # 8 Pairs of f32 (): key clicks, key errors, test clicks, test errors x (signal, decoy)
    block_step: Any  # i32 ()
    block_bits: Any  # f32 (), what closing would pay now
    ideal_bits: Any  # f32 (), key per step of this unit when perfectly aligned
    # the step just run, as counted
    counts: Any  # f32 (4,): key clicks, key errors, test clicks, test errors
    action: Any  # f32 (5,)
    reference: Any  # f32 (4,) or (6,): readings of R_ij, 0 where not bought


class Reading(NamedTuple):
    """An observation in physical units, for rule-based agents; the fields are documented in the class's card."""

    qber_z: Any
    qber_x: Any
    clicks_z: Any
    clicks_x: Any
    voltage_rad: Any
    action: Any
    block_fill: Any
    block_key: Any
    bought: Any
    reference: Any


def controller_rotation(params: PolarizationParams, position: Array) -> Float[Array, "4"]:
    """The squeezers at their positions, and the pigtail behind them."""
    squeezers = pol.Squeezers(axes=params.squeezer_axes, gains=params.squeezer_gains, backlash=params.backlash_rad)
    return pol.compose(params.frame, pol.squeezer_rotation(squeezers, position))


def net_rotation(params: PolarizationParams, position: Array, fibre: Array, wind_rad: Any) -> Float[Array, "4"]:
    """What light goes through: fibre, swaying span, squeezers, pigtail. The identity is perfect alignment."""
    light = pol.compose(pol.from_axis_angle(params.wind_axis, wind_rad), fibre)
    return pol.compose(controller_rotation(params, position), light)


def wind_angle_rad(params: PolarizationParams, state: PolarizationState, ahead_steps: float) -> Array:
    """Swing of the aerial span `ahead_steps` after `state`."""
    seconds = (state.time.astype(jnp.float32) + ahead_steps) * params.step_s
    return tone(seconds, params.wind_amplitude_rad, params.wind_frequency_hz, state.wind_phase_rad)


def mean_counts(params: PolarizationParams, qber_z: Any, qber_x: Any, live_share: Any) -> tuple[BlockCounts, Array]:
    """Mean counts of one step at these *optical* error rates, and the pulses sent while live and not dead."""
    eta = _transmittance(params)
    intensities, probs = _source(params)
    key = lim_channel(intensities, eta, params.dark_count_prob_per_gate, 0.0, qber_z)
    test = lim_channel(intensities, eta, params.dark_count_prob_per_gate, 0.0, qber_x)
    clicks_per_s = params.clock_hz * jnp.sum(probs * key.click)
    alive = non_paralysable_rate(clicks_per_s, params.dead_time_ns * 1e-9) / clicks_per_s
    pulses = params.clock_hz * params.step_s * live_share * alive
    return expected_counts(pulses, params.key_basis_prob, probs, key, test), pulses


def block_key_bits(counts: Float[Array, "8"], params: PolarizationParams) -> Float[Array, ""]:
    """Secret bits that a block with these pooled counts pays, authentication paid (Rusca 2018, one decoy)."""
    distillation = Distillation(
        error_correction_efficiency=params.error_correction_efficiency, eps_sec=params.eps_sec, eps_cor=params.eps_cor
    )
    block = BlockCounts(n_key=counts[0:2], m_key=counts[2:4], n_test=counts[4:6], m_test=counts[6:8])
    bits = one_decoy_key(block, *_source(params), distillation).secret_bits
    return jnp.maximum(bits - params.authentication_bits, 0)


def ideal_bits_per_step(params: PolarizationParams) -> Float[Array, ""]:
    """Expected key per step of a whole block of this unit in perfect alignment, without reference light.

    At least 1 bit, so that a link without key divides by something.
    """
    mean, _ = mean_counts(params, params.optical_error, params.optical_error, 1.0)
    pooled = jnp.concatenate([mean.n_key, mean.m_key, mean.n_test, mean.m_test])
    return jnp.maximum(block_key_bits(pooled * params.block_steps, params) / params.block_steps, 1)


@dataclasses.dataclass(frozen=True)
class PolarizationAlignment(Environment[PolarizationState, PolarizationParams]):
    """Hold the state of polarisation through a drifting fibre, with a controller whose map nobody has calibrated.

    ## Description

    A decoy-state BB84 link over buried fibre. The fibre turns the polarisation of what it carries, another way every
    minute, and errors rise with the square of the misalignment. Four fibre squeezers in front of the receiver turn it
    back. Which way each squeezer turns the light, and how far, differs from unit to unit and is hidden; so is where the
    fibre stands. Error rates tell how bad things are and not which way to go; reference light tells more and costs key.

    ## Observation Space

    `Box(-1, 1, (20,), float32)`; with `reference="polarimeter"` `(22,)`. Values beyond the range are clipped; `decode`
    turns an observation into physical units.

    | index | quantity | scale |
    |---|---|---|
    | 0, 1 | error rate counted in the step, key basis Z and test basis X | 2 sqrt(2 E) - 1; E = 1/2 without clicks |
    | 2, 3 | sifted clicks in Z and X | log10(1 + n) / 3 - 1 |
    | 4-7 | voltages | over the range (2 pi rad) |
    | 8-12 | last action, clipped as executed | 1 |
    | 13 | fill of the open block | 2 x share - 1 |
    | 14 | key of the open block | 2 x share of an ideal block - 1 |
    | 15 | reference light was on | 0 or 1 |
    | 16-19 | reference readings R_11, R_12, R_21, R_22; 0 where not bought | counted imbalance, 1 is 100 % |
    | 20, 21 | polarimeter only: R_31, R_32 | same |

    R_ij is the Stokes component i received of a state sent along j (S1: Z, S2: X, S3: circular), as counted on the
    reference light, with its counting noise. Not seen: the fibre, the squeezers' positions behind their backlash,
    the unit's constants, the time left, and bits of mismatched bases, which sifting drops in the receiver's
    firmware (design choice). Errors in Z are known each step, as if error correction were immediate (an optimistic
    assumption).

    ## Action Space

    `Box(-1, 1, (5,), float32)`, clipped to the bounds.

    | index | meaning | range |
    |---|---|---|
    | 0-3 | voltage increment of each squeezer | +-0.5 rad of nominal turn a step; stops at +-2 pi rad |
    | 4 | reference light: a <= 0 off, else a/2 of the step | 0 to 0.5, and 5 % guard time whenever it is on |

    No key is made during reference light and guard time. NaN or infinity counts as 0, and the step pools no counts.

    ## Transition Dynamics

    The squeezers move at once, through their backlash. The fibre takes two moves per step, each of them an
    isotropic rotation of sqrt(dt / 2 tau) rad per Stokes axis (plus a slow steady turn, and where the scenario has
    them jumps and a swaying span), and stands still in between. Clicks and errors of two intensities in two bases
    are Poisson, reference readings binomial. No action reaches the fibre: the same key gives the same path of the
    fibre under any policy.

    ## Reward

    The increase in a step of the key that the open block would pay, over the ideal key per step of that unit, from all
    eight counts pooled over the block (one-decoy finite key, eps_sec = 1e-10, eps_cor = 1e-15, authentication debited).
    It telescopes to what each block pays at its close; bad seconds late in a block take key back. The ideal is perfect
    alignment all the time without reference light; a return of 300 is a share of 1.

    ## Starting State

    Voltages uniform within +-2 rad, as somebody left them; the light 0.15 rad per axis off; an empty block.

    ## Episode End

    Truncated after 300 steps (5 min). Never terminated. An open block has been paid as it grew.

    ## Arguments

    `scenario`: see *Scenarios*. `reference`: `"two_basis"` (the receiver itself looks at the reference light) or
    `"polarimeter"` (whole Stokes vectors: an easier variant). Constants of the link are `PolarizationParams`.

    ## Physics provenance

    Walk: Czegledi, Karlsson, Agrell, Johannisson, Sci. Rep. 6, 21217 (2016). Key: Rusca, Boaron, Gruenenfelder,
    Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018). Click model: Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev.
    A 89, 022307 (2014), without afterpulses. Dead time: non-paralysable, all detectors blanked. Source settings are
    near the optimum for 100 s blocks in the middle of the training losses (this model's own optimisation). Design
    choices without a published source: decorrelation times (order of magnitude of buried urban fibre), 50 000
    reference clicks/s, 5 % guard, spread of axes (0.25 rad) and gains (25 %), backlash (0.03 rad), slew, range,
    start offset, wind, jumps, steady turn.

    ## Validity

    Polarisation-mode dispersion and polarisation-dependent loss are left out: fine below some GHz of bandwidth on
    modern fibre. The fibre stands still within half steps: fine while the walk of a step, 0.03-0.06 rad, is small.
    Only drift per step, clicks per step and slew over drift matter, so other time scales are rescalings (an aerial
    cable at ms steps needs reference light of some 1e6 clicks/s or more).

    ## Scenarios

    `training`: tau log-uniform in 300-1000 s, 16-24 dB of fibre (5e4-3e5 clicks/s), every unit its own. `easy`: tau
    3000-10 000 s, a unit as designed, its pigtail known, no backlash. `ood-aerial`, `ood-jumps`, `ood-low-counts`: one
    shift each, everything else as in training.

    ## Baselines

    Practice: coordinate descent, SPGD, realign on alarm, learned inversion, and a Bayesian belief filter, joint in
    light and unit. Ceiling: that filter told the unit. Oracle: exact inverse on the true fibre, which cannot know
    the coming move. Figures: docs/tasks/polarization_alignment.md.

    ## Version History

    v0: first version.
    """

    reference: str = "two_basis"

    name: ClassVar[str] = "PolarizationAlignment"
    scenarios: ClassVar = {
        "training": "buried urban fibre, decorrelation in 300-1000 s; every unit has its own squeezers and pigtail",
        "easy": "decorrelation in 3000-10000 s, squeezers as designed, pigtail known, no backlash",
        "ood-aerial": "training with a span that sways by 0.4 rad at 0.1 Hz",
        "ood-jumps": "training with jumps of 0.5 rad per axis, one in 50 s",
        "ood-low-counts": "training with 5 dB more loss: a quarter of the clicks",
    }
    metrics: ClassVar = {
        "secret_bits": "secret bit: change of what the pooled block would pay",
        "certifiable_bits": "secret bit: of mean vacuum and single-photon clicks at the true error of test basis X",
        "skr_bps": "bit/s: secret_bits over the step's duration",
        "qber": "error rate counted in the key basis Z in the step [-]",
        "qber_x": "error rate counted in the test basis X in the step [-]",
        "reference_share": "share of the step spent on reference light, guard time included [-]",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference not in REFERENCES:
            raise ValueError(f"reference = {self.reference!r} is unknown; it is one of: {', '.join(REFERENCES)}")

    @property
    def default_params(self) -> PolarizationParams:
        return PolarizationParams()

    def sample_params(self, key, scenario=None) -> PolarizationParams:
        scenario = self.check_scenario(scenario or self.scenario)
        u_key, n_key = jax.random.split(key)
        u = jax.random.uniform(u_key, (2,), jnp.float32)
        z = jax.random.normal(n_key, (26,), jnp.float32)
        drawn: dict[str, Any] = dict(
            fibre_loss_db=16 + 8 * u[0],
            decorrelation_time_s=_log_uniform(u[1], 300.0, 1000.0),
            turn_rad_per_s=1e-4 * z[0:3],
            squeezer_axes=_unit(jnp.asarray(NOMINAL_AXES, jnp.float32) + 0.25 * z[3:15].reshape(4, 3)),
            squeezer_gains=jnp.exp(0.25 * z[15:19]),
            frame=pol.random_rotation(z[19:23]),
            wind_axis=_unit(z[23:26]),
        )
        if scenario == "easy":
            drawn = dict(
                fibre_loss_db=16 + 8 * u[0], decorrelation_time_s=_log_uniform(u[1], 3000.0, 10_000.0), backlash_rad=0.0
            )
        elif scenario == "ood-aerial":
            drawn |= dict(wind_amplitude_rad=0.4, wind_frequency_hz=0.1)
        elif scenario == "ood-jumps":
            drawn |= dict(jump_rate_per_s=0.02, jump_rad=0.5)
        elif scenario == "ood-low-counts":
            drawn |= dict(fibre_loss_db=21 + 8 * u[0])
        return PolarizationParams(**drawn)

    def reset_env(self, key, params):
        f = jnp.float32
        z, u = step_noise(key, 3, 9)
        voltage = START_VOLTAGE_RAD * (2 * jnp.stack(u[0:4]) - 1)
        position = voltage + params.backlash_rad * (2 * jnp.stack(u[4:8]) - 1)
        phase = 2 * math.pi * u[8]
        # The fibre is what the controller, as it stands, undoes up to the start offset.
        through = net_rotation(
            params, position, pol.identity().astype(f), tone(0.0, params.wind_amplitude_rad, 0.0, phase)
        )
        offset = pol.from_rotation_vector(params.start_offset_rad * jnp.stack(z))
        state = PolarizationState(
            time=jnp.int32(0),
            fibre=pol.normalize(pol.compose(pol.inverse(through), offset)),
            wind_phase_rad=phase,
            voltage=voltage,
            position=position,
            pool=(pair(f(0)),) * 8,
            block_step=jnp.int32(0),
            block_bits=f(0),
            ideal_bits=ideal_bits_per_step(params).astype(f),
            counts=jnp.zeros(4, f),
            action=jnp.asarray(self.passive_action),
            reference=jnp.zeros(len(REFERENCES[self.reference]), f),
        )
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        entries = REFERENCES[self.reference]
        z, u = step_noise(key, 9, 9 + len(entries))

        # the controller moves at once; the fibre, whatever the agent does, moves and then stands still, in each half
        voltage = pol.slew(state.voltage, params.slew_rad * action[:4], params.slew_rad, params.range_rad)
        position = pol.play(state.position, voltage, params.backlash_rad)
        controller = controller_rotation(params, position)
        fibre, seen = state.fibre, []
        for move, ahead_steps in zip(drift_moves(params, z, u[0]), (0.25, 0.75), strict=True):
            fibre = pol.compose(pol.from_rotation_vector(move), fibre)
            swing = pol.from_axis_angle(params.wind_axis, wind_angle_rad(params, state, ahead_steps))
            net = pol.compose(controller, pol.compose(swing, fibre))
            now = [pol.basis_qber(net, axis, params.optical_error) for axis in (0, 1)]
            seen.append(now + [pol.entry(net, i, j) for i, j in entries])
        mean_of_halves = [0.5 * (a + b) for a, b in zip(*seen, strict=True)]
        optical, true = mean_of_halves[:2], mean_of_halves[2:]

        # quantum signal
        bought = action[4] > 0
        share = jnp.where(bought, 0.5 * action[4], 0.0)
        lost = jnp.where(bought, share + params.guard_share, 0.0)
        mean, pulses = mean_counts(params, optical[0], optical[1], 1 - lost)
        counts = sample_counts(mean, u[1:9])

        # reference light, split evenly over two states sent and the outcomes measured
        visibility = 1 - 2 * params.optical_error
        trials = jnp.floor(params.reference_clicks_per_s * params.step_s * share / len(entries) + 0.5)
        plus = jnp.stack([binomial(trials, 0.5 * (1 + visibility * r), v) for r, v in zip(true, u[9:], strict=True)])
        reference = jnp.where(trials > 0, 2 * plus / jnp.maximum(trials, 1) - 1, 0.0)

        # the block: pool, pay the increase of its key, close it when full
        pool = tuple(add(p, jnp.where(valid, c, 0.0)) for p, c in zip(state.pool, counts, strict=True))
        block_bits = block_key_bits(values(pool), params)
        secret_bits = block_bits - state.block_bits
        block_step = state.block_step + 1
        full = block_step >= params.block_steps
        totals = jnp.stack([counts[2 * i] + counts[2 * i + 1] for i in range(4)])
        state = PolarizationState(
            time=state.time + 1,
            fibre=pol.normalize(fibre),
            wind_phase_rad=state.wind_phase_rad,
            voltage=voltage,
            position=position,
            pool=tuple(reset(p, full) for p in pool),
            block_step=jnp.where(full, 0, block_step),
            block_bits=jnp.where(full, 0.0, block_bits),
            ideal_bits=state.ideal_bits,
            counts=totals,
            action=action,
            reference=reference,
        )
        info = {
            "secret_bits": secret_bits,
            "certifiable_bits": _certifiable_bits(pulses, optical[1], params),
            "skr_bps": secret_bits / params.step_s,
            "qber": totals[1] / jnp.maximum(totals[0], 1),
            "qber_x": totals[3] / jnp.maximum(totals[2], 1),
            "reference_share": lost,
        }
        reward = (secret_bits / state.ideal_bits).astype(jnp.float32)
        return self.observe(None, state, action, params), state, reward, jnp.bool_(False), info

    def observe(self, key, state, action, params):
        c = state.counts
        errors = jnp.stack([_error_rate(c[1], c[0]), _error_rate(c[3], c[2])])
        clicks = jnp.log1p(jnp.stack([c[0], c[2]])) * _PER_DECADE - 1
        block = jnp.stack(
            [
                2 * state.block_step / params.block_steps - 1,
                2 * state.block_bits / (state.ideal_bits * params.block_steps) - 1,
                jnp.where(state.action[4] > 0, 1.0, 0.0),
            ]
        )
        voltage = state.voltage / params.range_rad
        obs = [2 * jnp.sqrt(2 * errors) - 1, clicks, voltage, state.action, block, state.reference]
        return jnp.clip(jnp.concatenate(obs), -1, 1).astype(jnp.float32)

    def exogenous(self, state, params):
        """Rotation `(4,)` of fibre and swaying span together at `state`."""
        wind = pol.from_axis_angle(params.wind_axis, wind_angle_rad(params, state, 0.0))
        return {"channel": pol.compose(wind, state.fibre)}

    def observation_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (16 + len(REFERENCES[self.reference]),), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    @property
    def passive_action(self):
        """Voltages as they are, reference off."""
        return np.array([0.0, 0.0, 0.0, 0.0, -1.0], np.float32)


#: 1 ... 1e6 clicks to [-1, 1].
_PER_DECADE = 1 / (3 * math.log(10.0))


def decode(obs: Float[Array, " n"], params: PolarizationParams) -> Reading:
    """An observation in physical units (up to the clipping of extreme values); only public constants are used."""
    errors = 0.125 * (obs[0:2] + 1) ** 2
    clicks = jnp.expm1((obs[2:4] + 1) / _PER_DECADE)
    return Reading(
        qber_z=errors[0],
        qber_x=errors[1],
        clicks_z=clicks[0],
        clicks_x=clicks[1],
        voltage_rad=obs[4:8] * params.range_rad,
        action=obs[8:13],
        block_fill=0.5 * (obs[13] + 1),
        block_key=0.5 * (obs[14] + 1),
        bought=obs[15] > 0.5,
        reference=obs[16:],
    )


def sample_counts(mean: BlockCounts, uniforms: Sequence[Array]) -> list[Array]:
    """Counted clicks and errors of a step with these means, in the order of the pool."""
    counts: list[Any] = [None] * 8
    for basis, (clicks, errors) in enumerate(((mean.n_key, mean.m_key), (mean.n_test, mean.m_test))):
        for i in range(2):
            at, u = 4 * basis + i, 2 * basis + i
            counts[at], counts[at + 2] = clicks_and_errors(clicks[i], errors[i], uniforms[u], uniforms[u + 4])
    return counts


def drift_moves(params: PolarizationParams, normals: Sequence[Array], uniform: Array) -> Float[Array, "2 3"]:
    """The fibre in the two halves of a step: walk, steady turn, and at times a jump at its start."""
    half_s = params.step_s / 2
    walk = pol.walk_step_rad(half_s, params.decorrelation_time_s)
    jump = jnp.where(jump_occurs(uniform, params.step_s, params.jump_rate_per_s), params.jump_rad, 0.0)
    turn = [params.turn_rad_per_s[i] * half_s for i in range(3)]
    first = [walk * normals[i] + turn[i] + jump * normals[6 + i] for i in range(3)]
    return jnp.stack([jnp.stack(first), jnp.stack([walk * normals[3 + i] + turn[i] for i in range(3)])])


def _transmittance(params: PolarizationParams) -> Array:
    """From the source to a click."""
    return transmittance_from_db(params.fibre_loss_db + params.receiver_loss_db) * params.detector_efficiency


def _certifiable_bits(pulses: Array, qber_x: Array, params: PolarizationParams) -> Array:
    """What a step holds for the key: its true vacuum and single-photon clicks, at their true phase error."""
    dark = params.dark_count_prob_per_gate
    return certifiable_bits(pulses, params.key_basis_prob, *_source(params), _transmittance(params), dark, 0.0, qber_x)


def _source(params: PolarizationParams) -> tuple[Array, Array]:
    f = jnp.float32
    mu = jnp.stack([jnp.asarray(params.signal_intensity, f), jnp.asarray(params.decoy_intensity, f)])
    p = jnp.asarray(params.signal_prob, f)
    return mu, jnp.stack([p, 1 - p])


def _error_rate(errors: Array, clicks: Array) -> Array:
    """Share of errors; 1/2, knowing nothing, where there is no click."""
    return jnp.where(clicks > 0, errors / jnp.maximum(clicks, 1), 0.5)


def _log_uniform(u: Array, low: float, high: float) -> Array:
    return jnp.exp(math.log(low) + math.log(high / low) * u)


def _unit(vectors: Array) -> Array:
    return vectors / jnp.sqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True))

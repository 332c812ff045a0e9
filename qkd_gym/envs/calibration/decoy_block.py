"""`qkd/DecoyBlock-v0`: when to close a privacy-amplification block, and with which decoy settings to fill it."""

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
from qkd_gym.physics.accumulate import add, pair, reset, values
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.physics.disturbance import (
    Hazard,
    advance_hazard,
    advance_telemetry,
    hazard_rates,
    stationary_storm_prob,
)
from qkd_gym.physics.drift import jump_step, ornstein_uhlenbeck_step
from qkd_gym.physics.finite_key import (
    BlockCounts,
    Distillation,
    certifiable_bits,
    expected_counts,
    lim_channel,
    two_decoy_key,
)
from qkd_gym.physics.information import NEPER_PER_DB
from qkd_gym.physics.sampling import clicks_and_errors, step_noise

#: Telemetry channels, in the order of the observation.
CHANNELS = ("temperature_gradient", "vibration", "pilot_power", "bias_current")
#: Blocks of the reference rate, to which rewards are normalised, last this long (design choice).
REFERENCE_BLOCK_S = 300.0
#: Time constants of the event-rate averages in the observation, s (design choice).
EVENT_AVERAGES_S = (60.0, 300.0, 1500.0)
#: Error probability of light that arrives while an event lasts: polarisation is random.
_EVENT_ERROR = 0.5


@struct.dataclass
class DecoyBlockParams(EnvParams):
    """One link, its receiver (constants of Lim et al., PRA 89, 022307 (2014)) and one unit's disturbances."""

    max_steps_in_episode: int = struct.field(
        default=720, low=1, high=100_000, unit="step", doc="time limit, 1 h of 5 s slices"
    )
    slice_s: float = struct.field(default=5.0, low=0.1, high=60.0, unit="s", doc="length of a slice, one step")
    clock_hz: float = struct.field(default=1e9, low=1e6, high=1e10, unit="Hz", doc="pulse rate")
    # channel
    loss_db: float = struct.field(default=18.0, low=0.0, high=60.0, unit="dB", doc="nominal loss, 0.2 dB/km of fibre")
    loss_walk_db: float = struct.field(
        default=1.0, low=0.0, high=10.0, unit="dB", doc="deviation of the loss's slow part (OU)"
    )
    loss_walk_time_s: float = struct.field(default=900.0, low=1.0, unit="s", doc="correlation time of that part")
    loss_step_interval_s: float = struct.field(
        default=1800.0, low=1.0, unit="s", doc="mean time between sudden loss steps"
    )
    loss_step_db: float = struct.field(
        default=1.5, low=0.0, high=10.0, unit="dB", doc="deviation of a sudden loss step"
    )
    pass_swing_db: float = struct.field(
        default=0.0, low=0.0, high=40.0, unit="dB", doc="extra loss at both ends of a pass"
    )
    # receiver
    receiver_efficiency: float = struct.field(default=0.1, low=1e-4, high=1.0, doc="detector and optics")
    dark_count_prob_per_gate: float = struct.field(default=6e-7, low=0.0, high=0.01, unit="1/gate", doc="per detector")
    afterpulse_prob: float = struct.field(default=0.04, low=0.0, high=0.5, doc="per click")
    misalignment_error: float = struct.field(default=0.005, low=0.0, high=0.2, doc="optical error probability")
    vacuum_intensity: float = struct.field(
        default=2e-4, low=0.0, high=0.01, unit="photon/pulse", doc="weakest intensity mu3"
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
    # hazard of this unit
    calm_event_interval_s: float = struct.field(
        default=1500.0, low=1.0, unit="s", doc="mean time from quiet to event, calm"
    )
    storm_event_interval_s: float = struct.field(default=95.0, low=1.0, unit="s", doc="the same in a storm")
    calm_dwell_s: float = struct.field(default=950.0, low=1.0, unit="s", doc="mean duration of a calm")
    storm_dwell_s: float = struct.field(default=565.0, low=1.0, unit="s", doc="mean duration of a storm")
    announced_share: float = struct.field(default=0.9, low=0.0, high=1.0, doc="share of events that end a build-up")
    buildup_s: float = struct.field(default=28.0, low=1.0, unit="s", doc="mean duration of a build-up")
    fade_prob: float = struct.field(
        default=0.275, low=0.0, high=0.95, doc="chance that a build-up ends without an event"
    )
    # telemetry of this unit, in units of the channels' own noise
    telemetry_gain: Any = struct.field(
        default=(3.0, 0.0, 0.0, 0.0), low=-20.0, high=20.0, unit="sd", doc="reading during a build-up, per channel"
    )
    innocent_gain: Any = struct.field(
        default=(0.0, 3.0, 3.0, 3.0),
        low=-20.0,
        high=20.0,
        unit="sd",
        doc="reading during an innocent excursion, per channel",
    )
    innocent_interval_s: float = struct.field(
        default=220.0, low=1.0, unit="s", doc="mean time between innocent excursions"
    )
    innocent_s: float = struct.field(default=28.0, low=1.0, unit="s", doc="mean duration of an innocent excursion")
    telemetry_noise_time_s: float = struct.field(default=14.0, low=0.1, unit="s", doc="correlation time of the noise")


@struct.dataclass
class DecoyBlockState(EnvState):
    """Hidden truth and the operator's books."""

    # exogenous: no action reaches these
    loss_walk: Any  # f32 (), in units of loss_walk_db
    loss_steps_db: Any  # f32 ()
    loss_db: Any  # f32 (), loss of the slice just run
    storm: Any  # bool ()
    buildup: Any  # bool ()
    event: Any  # bool (), the slice just run was spoilt
    innocent: Any  # bool (4,)
    noise: Any  # f32 (4,)
    reference_bits: Any  # f32 (), key per slice of an optimal 300 s block at the nominal loss
    # the operator's counters of events
    slices_since_event: Any  # i32 ()
    event_rates: Any  # f32 (3,), exponential averages of the event flag
    # the open block
    settings: Any  # f32 (5,), latched, in action coordinates
    pool: Any  # 12 Pairs of f32 (): pooled key clicks, key errors, test clicks, test errors, x 3 intensities
    block_slices: Any  # i32 ()
    block_bits: Any  # f32 (), what closing pays now
    # the slice just run, as counted
    slice_counts: Any  # f32 (4,): key clicks, key errors, test clicks, test errors
    loss_estimate_db: Any  # f32 ()


class Settings(NamedTuple):
    """Settings of a block in physical units."""

    mu1: Any  # photon/pulse
    mu2: Any  # photon/pulse
    p1: Any
    p2: Any
    key_basis_prob: Any


class Reading(NamedTuple):
    """An observation in physical units, for rule-based agents; the fields are documented in the class's card."""

    time_left: Any
    clock_hz: Any
    nominal_loss_db: Any
    loss_estimate_db: Any
    qber_key: Any
    qber_test: Any
    slice_key_clicks: Any
    slice_test_clicks: Any
    block_key_clicks: Any
    block_test_clicks: Any
    block_qber_key: Any
    block_qber_test: Any
    block_bits: Any
    block_slices: Any
    event: Any
    slices_since_event: Any
    event_rates: Any
    telemetry: Any
    settings: Any


#: Action ranges: mu1, mu2, p1, p2 are affine; 1 - q is logarithmic.
_LOW = np.array([0.3, 0.03, 0.02, 0.05], np.float32)
_HIGH = np.array([0.9, 0.4, 0.95, 0.9], np.float32)
_Q_LOW, _Q_HIGH = math.log(0.5), math.log(0.005)


def decode_settings(action: Float[Array, "5"]) -> Settings:
    """Settings from five action components in [-1, 1]: clipped so that p1 + p2 <= 0.98 and mu2 <= 0.9 mu1."""
    unit = 0.5 * (action + 1)
    low, high = jnp.asarray(_LOW, unit.dtype), jnp.asarray(_HIGH, unit.dtype)
    mu1, mu2, p1, p2 = (low[i] + (high[i] - low[i]) * unit[i] for i in range(4))
    rest = jnp.exp(_Q_LOW + (_Q_HIGH - _Q_LOW) * unit[4])
    return Settings(mu1, jnp.minimum(mu2, 0.9 * mu1), p1, jnp.minimum(p2, 0.98 - p1), 1 - rest)


def encode_settings(settings: Float[Array, "5"]) -> Float[Array, "5"]:
    """Action components in [-1, 1] of settings (mu1, mu2, p1, p2, q), clipped to the range."""
    low, high = jnp.asarray(_LOW, settings.dtype), jnp.asarray(_HIGH, settings.dtype)
    affine = (settings[:4] - low) / (high - low)
    rest = (jnp.log(1 - settings[4]) - _Q_LOW) / (_Q_HIGH - _Q_LOW)
    return jnp.clip(2 * jnp.concatenate([affine, rest[None]]) - 1, -1, 1)


def block_key_bits(pool: Float[Array, "12"], settings: Settings, params: DecoyBlockParams) -> Float[Array, ""]:
    """Secret bits that a block with these pooled counts pays at its close, authentication paid."""
    counts = BlockCounts(n_key=pool[0:3], m_key=pool[3:6], n_test=pool[6:9], m_test=pool[9:12])
    distillation = Distillation(
        error_correction_efficiency=params.error_correction_efficiency, eps_sec=params.eps_sec, eps_cor=params.eps_cor
    )
    mu, p = _source(settings, params)
    return jnp.maximum(two_decoy_key(counts, mu, p, distillation).secret_bits - params.authentication_bits, 0)


def mean_slice_counts(
    loss_db: Any, settings: Settings, params: DecoyBlockParams, misalignment_error: Any = None
) -> Float[Array, "12"]:
    """Mean counts of one slice, in the order of the pool."""
    mu, p = _source(settings, params)
    eta = params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db)
    error = params.misalignment_error if misalignment_error is None else misalignment_error
    clicks = lim_channel(mu, eta, params.dark_count_prob_per_gate, params.afterpulse_prob, error)
    c = expected_counts(params.clock_hz * params.slice_s, settings.key_basis_prob, p, clicks, clicks)
    return jnp.concatenate([c.n_key, c.m_key, c.n_test, c.m_test])


def reference_bits_per_slice(params: DecoyBlockParams) -> Float[Array, ""]:
    """Expected key per slice of a 300 s block at the nominal loss, with near-optimal settings: the unit of reward.

    At least 1 bit, so that a link without key divides by something.
    """
    eta = params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * params.loss_db)
    settings = Settings(*near_optimal_settings(params.clock_hz * REFERENCE_BLOCK_S, eta))
    slices = REFERENCE_BLOCK_S / params.slice_s
    bits = block_key_bits(slices * mean_slice_counts(params.loss_db, settings, params), settings, params)
    return jnp.maximum(bits / slices, 1)


def _source(settings: Settings, params: DecoyBlockParams) -> tuple[Array, Array]:
    mu = jnp.stack([settings.mu1, settings.mu2, jnp.asarray(params.vacuum_intensity, settings.mu1.dtype)])
    return mu, jnp.stack([settings.p1, settings.p2, 1 - settings.p1 - settings.p2])


#: Name of each component of the observation.
OBSERVATION = (
    "time_left", "log10_clock", "nominal_loss", "loss_estimate", "qber_key", "qber_test", "slice_key_clicks",
    "slice_test_clicks", "block_key_clicks", "block_test_clicks", "block_qber_key", "block_qber_test", "block_bits",
    "block_slices", "event", "slices_since_event", "event_rate_60s", "event_rate_300s", "event_rate_1500s", *CHANNELS,
    "mu1", "mu2", "p1", "p2", "key_basis_prob",
)  # fmt: skip

_SLICES = 3.3  # ln(1 + 720) / 2: maps 0 ... 720 slices to about [-1, 1]
_DECADES = 5.0  # counts of 1 ... 1e10 to [-1, 1]
_LOG10 = math.log(10.0)


@dataclasses.dataclass(frozen=True)
class DecoyBlock(Environment[DecoyBlockState, DecoyBlockParams]):
    """Choose the decoy settings of a privacy-amplification block and when to close it.

    ## Description

    A decoy-state BB84 link collects clicks into a block, from which a finite-key bound distils secret key. Long
    blocks pay more a second. But now and then an event (a lost lock, a blinded gate, a bias jump) spoils the open
    block, and all its key is lost. Events come in storms, and most end a build-up of some slices that moves one of
    the unit's readings; which one, which way and how far differs from unit to unit, and the other readings stray by
    themselves.

    ## Observation Space

    `Box(-2, 2, (28,), float32)`, clipped; `decode` turns an observation into physical units, `OBSERVATION` names it.

    | index | quantity | scale |
    |---|---|---|
    | 0 | time left | 1 at the start, -1 at the end |
    | 1 | clock | log10(Hz) - 8 |
    | 2, 3 | nominal loss; loss estimated from the slice's clicks by the data sheet | (dB - 16) / 8 |
    | 4, 5 | error rate of the slice, key and test basis | 2 sqrt(2 E) - 1 |
    | 6, 7 | clicks of the slice, key and test basis | log10(1 + n) / 5 - 1 |
    | 8, 9 | clicks pooled in the block, key and test basis | log10(1 + n) / 5 - 1 |
    | 10, 11 | error rate of the block, key and test basis | 2 sqrt(2 E) - 1 |
    | 12 | what closing pays now | log10(1 + bit) / 5 - 1 |
    | 13 | slices in the block | ln(1 + n) / 3.3 - 1 |
    | 14 | an event spoilt the slice | 0 or 1 |
    | 15 | slices since the last event | ln(1 + n) / 3.3 - 1 |
    | 16-18 | event rate per slice, averaged over 60, 300, 1500 s | log10(r + 0.001) / 1.5 + 1 |
    | 19-22 | temperature gradient, vibration, pilot power, bias current | standard deviations of their noise / 6 |
    | 23-27 | settings in force | as in the action |

    Not seen: the loss itself, misalignment, dark counts, the level of the hazard, build-ups, the unit's constants.

    ## Action Space

    `Box(-1, 1, (6,), float32)`, clipped to the bounds.

    | index | meaning | range |
    |---|---|---|
    | 0 | close the block before this slice if above 0 | |
    | 1 | mu1, signal | 0.3 to 0.9 photon/pulse |
    | 2 | mu2, decoy | 0.03 to 0.4 photon/pulse, at most 0.9 mu1 |
    | 3, 4 | probability of mu1, of mu2 | 0.02 to 0.95; 0.05 to 0.9, together at most 0.98 |
    | 5 | probability q of the key basis | 0.5 to 0.995, logarithmic in 1 - q |

    The settings count where a slice starts a block (after a close or an event); until then they are frozen. NaN or
    infinity counts as the middle of the range: nothing is closed or latched, and the slice pools no counts.

    ## Transition Dynamics

    The loss follows an Ornstein-Uhlenbeck process and sudden steps; the hazard switches between calm and storm.
    Build-ups begin at a rate set by the level and end in an event or fade. Twelve counts (three intensities, two
    bases, clicks and errors) are Poisson. No action reaches loss, events or readings: the same key gives the same
    ones under any policy.

    ## Reward

    The change in a slice of the key that the pooled block would pay (two-decoy finite key, eps_sec = 1e-10, eps_cor =
    1e-15, authentication debited), over the key per slice of an optimal 300 s block at the unit's nominal loss. It
    telescopes to what each block pays at its close; an event takes the open block's key back.

    ## Starting State

    An empty block; loss and level of the hazard from their stationary laws; no build-up.

    ## Episode End

    Truncated after 720 slices (1 h). Never terminated. The open block has been paid as it grew.

    ## Arguments

    `scenario`: see *Scenarios*. Constants of the link and the unit are `DecoyBlockParams`.

    ## Physics provenance

    Key, click model and receiver: Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014), with the whole
    transmittance in the error model. Design choices without a published source: everything about loss drift, events,
    build-ups and readings (`qkd_gym.physics.disturbance`), the spread of units, 5 s slices, 300 s reference blocks,
    1024 bit of authentication a block.

    ## Validity

    No dead time: below 1 % at 1 GHz with detectors that recover in 2 ns. The loss is constant within a slice. Light
    that arrives while an event lasts has an error rate of 1/2, and its slice is never pooled.

    ## Scenarios

    `training`: 60-120 km, units differ in everything hidden. `easy`: 80 km, long calms. `reference`: all constants
    known and nothing announced, so that the optimum is known (`agents.oracle.decoy_reference`). `ood-100MHz`,
    `ood-hazard`, `ood-pass`: one shift each.

    ## Baselines

    Practice: fixed lengths, event-rate rule, Bayes filter of events, alarm weighted on line, Bayes filter over which
    reading announces; all look their settings up. Ceiling: a filter told the unit's constants. Oracle: clairvoyant
    closing times. With known constants (`reference`) the Bayes rule is within 1.3 % of the optimum. Figures:
    docs/tasks/decoy_block.md.

    ## Version History

    v0: first version.
    """

    name: ClassVar[str] = "DecoyBlock"
    scenarios: ClassVar = {
        "training": "60-120 km of fibre; event statistics, and what announces an event, differ from unit to unit",
        "easy": "80 km, long calms: any sensible block length does",
        "reference": "80 km, static known loss, known two-level hazard, nothing announced: the optimum is known",
        "ood-100MHz": "training at a tenth of the clock: blocks must be longer than the quiet times allow",
        "ood-hazard": "an event every 200 s in calms of 300 s, every 10 s in storms of 300 s",
        "ood-pass": "one pass of a relay: 12 dB more loss at both ends, fading of 2 dB within 120 s, a hard end",
    }
    metrics: ClassVar = {
        "secret_bits": "secret bit: change of what the pooled block would pay, settled and open blocks together",
        "certifiable_bits": "secret bit: mean vacuum and single-photon clicks, true phase error; 0 in a spoilt slice",
        "skr_bps": "bit/s: secret_bits over the slice's duration",
        "qber": "error rate of the key basis in the slice [-]",
        "event": "1 where an event spoilt the slice and its block",
        "closed": "1 where the agent closed a block that held key",
        "block_slices": "slices in the open block",
    }

    @property
    def default_params(self) -> DecoyBlockParams:
        return DecoyBlockParams()

    def sample_params(self, key, scenario=None) -> DecoyBlockParams:
        scenario = self.check_scenario(scenario or self.scenario)
        if scenario == "reference":
            return reference_params()
        u_key, c_key, s_key, a_key = jax.random.split(key, 4)
        u = jax.random.uniform(u_key, (13,), jnp.float32)

        def log_uniform(i: int, low: float, high: float) -> Array:
            return jnp.exp(math.log(low) + math.log(high / low) * u[i])

        informative = jax.nn.one_hot(jax.random.randint(c_key, (), 0, len(CHANNELS)), len(CHANNELS), dtype=jnp.float32)
        sign = jnp.where(jax.random.bernoulli(s_key, 0.5, (len(CHANNELS),)), 1.0, -1.0).astype(jnp.float32)
        size = sign * jax.random.uniform(a_key, (len(CHANNELS),), jnp.float32, 1.0, 5.0)
        drawn: dict[str, Any] = dict(
            loss_db=0.2 * (60 + 60 * u[0]),
            misalignment_error=0.003 + 0.009 * u[1],
            dark_count_prob_per_gate=log_uniform(2, 3e-7, 1.2e-6),
            calm_event_interval_s=log_uniform(3, 300.0, 7500.0),
            storm_event_interval_s=log_uniform(4, 30.0, 300.0),
            calm_dwell_s=log_uniform(5, 300.0, 3000.0),
            storm_dwell_s=log_uniform(6, 200.0, 1600.0),
            announced_share=0.8 + 0.2 * u[7],
            buildup_s=log_uniform(8, 10.0, 80.0),
            fade_prob=0.05 + 0.45 * u[9],
            innocent_interval_s=log_uniform(10, 80.0, 600.0),
            innocent_s=log_uniform(11, 10.0, 80.0),
            telemetry_noise_time_s=log_uniform(12, 5.0, 40.0),
            telemetry_gain=size * informative,
            innocent_gain=size * (1 - informative),
        )
        if scenario == "easy":
            drawn |= dict(loss_db=16.0, calm_dwell_s=4000.0, storm_dwell_s=100.0, calm_event_interval_s=2000.0)
        elif scenario == "ood-100MHz":
            drawn |= dict(clock_hz=1e8)
        elif scenario == "ood-hazard":
            drawn |= dict(
                calm_event_interval_s=200.0, storm_event_interval_s=10.0, calm_dwell_s=300.0, storm_dwell_s=300.0
            )
        elif scenario == "ood-pass":
            drawn |= dict(
                loss_db=10 + 6 * u[0], pass_swing_db=12.0, loss_walk_db=2.0, loss_walk_time_s=120.0, loss_step_db=0.0
            )
        return DecoyBlockParams(**drawn)

    def reset_env(self, key, params):
        k = len(CHANNELS)
        normals, uniforms = step_noise(key, 1 + k, 1 + k)
        f = jnp.float32
        loss_walk = normals[0]
        state = DecoyBlockState(
            time=jnp.int32(0),
            loss_walk=loss_walk,
            loss_steps_db=f(0),
            loss_db=_loss(loss_walk, f(0), jnp.int32(0), params),
            storm=uniforms[0] < stationary_storm_prob(hazard_of(params)),
            buildup=jnp.bool_(False),
            event=jnp.bool_(False),
            innocent=jnp.zeros(k, jnp.bool_),
            noise=jnp.stack(normals[1:]),
            reference_bits=reference_bits_per_slice(params).astype(f),
            slices_since_event=jnp.int32(0),
            event_rates=jnp.zeros(len(EVENT_AVERAGES_S), f),
            settings=jnp.asarray(self.passive_action[1:]),
            pool=(pair(f(0)),) * 12,
            block_slices=jnp.int32(0),
            block_bits=f(0),
            slice_counts=jnp.zeros(4, f),
            loss_estimate_db=jnp.asarray(params.loss_db, f),
        )
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        k = len(CHANNELS)
        normals, uniforms = step_noise(key, 2 + k, 18 + k)

        # what happens to the link, whatever the agent does
        time = state.time + 1
        loss_walk = ornstein_uhlenbeck_step(state.loss_walk, normals[0], params.slice_s, params.loss_walk_time_s, 1.0)
        step_rate = 1 / params.loss_step_interval_s
        loss_steps_db = jump_step(
            state.loss_steps_db, uniforms[0], normals[1], params.slice_s, step_rate, params.loss_step_db
        )
        loss_db = _loss(loss_walk, loss_steps_db, time, params)
        rates = hazard_rates(hazard_of(params), params.slice_s)
        storm, buildup, event = advance_hazard(rates, state.storm, state.buildup, uniforms[1:6])
        channels = [
            advance_telemetry(
                state.innocent[i], state.noise[i], params.slice_s, params.innocent_interval_s, params.innocent_s,
                params.telemetry_noise_time_s, uniforms[6 + i], normals[2 + i],
            )
            for i in range(k)
        ]  # fmt: skip
        innocent, noise = (jnp.stack(values) for values in zip(*channels, strict=True))

        # the block: close it, latch settings where it is empty, run the slice, pool what is clean
        holds = state.block_slices > 0
        closed = holds & (action[0] > 0)
        fresh = ~holds | closed
        settings = jnp.where(fresh & valid, action[1:], state.settings)
        physical = decode_settings(settings)
        paid = jnp.where(closed, 0, state.block_bits)
        mean = mean_slice_counts(loss_db, physical, params, jnp.where(event, _EVENT_ERROR, params.misalignment_error))
        counts = _sample(mean, uniforms[6 + k : 18 + k])
        pooled = valid & ~event
        emptied = closed | event
        pool = tuple(add(reset(p, emptied), jnp.where(pooled, c, 0)) for p, c in zip(state.pool, counts, strict=True))
        block_slices = jnp.where(emptied, 0, state.block_slices) + pooled
        block_bits = block_key_bits(values(pool), physical, params)

        secret_bits = block_bits - paid
        totals = _sum_intensities(counts)
        state = DecoyBlockState(
            time=time,
            loss_walk=loss_walk,
            loss_steps_db=loss_steps_db,
            loss_db=loss_db,
            storm=storm,
            buildup=buildup,
            event=event,
            innocent=innocent,
            noise=noise,
            reference_bits=state.reference_bits,
            slices_since_event=jnp.where(event, 0, state.slices_since_event + 1),
            event_rates=_average(state.event_rates, event, params),
            settings=settings,
            pool=pool,
            block_slices=block_slices,
            block_bits=block_bits,
            slice_counts=totals,
            loss_estimate_db=_estimate_loss(totals, physical, params),
        )
        info = {
            "secret_bits": secret_bits,
            "certifiable_bits": jnp.where(event, 0, _certifiable_bits(loss_db, physical, params)),
            "skr_bps": secret_bits / params.slice_s,
            "qber": totals[1] / jnp.maximum(totals[0], 1),
            "event": event.astype(jnp.float32),
            "closed": closed.astype(jnp.float32),
            "block_slices": block_slices.astype(jnp.float32),
        }
        reward = (secret_bits / state.reference_bits).astype(jnp.float32)
        return self.observe(None, state, action, params), state, reward, jnp.bool_(False), info

    def observe(self, key, state, action, params):
        c, pool = state.slice_counts, _sum_intensities(values(state.pool))
        signal = params.telemetry_gain * state.buildup + params.innocent_gain * state.innocent
        # One pass of logarithms: counts and bits in decades, slices in nepers.
        counts = jnp.stack([c[0], c[2], pool[0], pool[2], state.block_bits])
        decades = jnp.log1p(counts) * (1 / (_DECADES * _LOG10)) - 1
        slices = jnp.log1p(jnp.stack([state.block_slices, state.slices_since_event]).astype(jnp.float32)) / _SLICES - 1
        errors = jnp.stack([_error_rate(c[1], c[0]), _error_rate(c[3], c[2])])
        block_errors = jnp.stack([_error_rate(pool[1], pool[0]), _error_rate(pool[3], pool[2])])
        head = jnp.stack(
            [
                1 - 2 * state.time / params.max_steps_in_episode,
                jnp.log(params.clock_hz) / _LOG10 - 8,
                (params.loss_db - 16) / 8,
                (state.loss_estimate_db - 16) / 8,
            ]
        )
        obs = jnp.concatenate(
            [
                head,
                2 * jnp.sqrt(2 * errors) - 1,
                decades[:4],
                2 * jnp.sqrt(2 * block_errors) - 1,
                decades[4:],
                slices[:1],
                state.event[None].astype(jnp.float32),
                slices[1:],
                jnp.log(state.event_rates + 1e-3) * (1 / (1.5 * _LOG10)) + 1,
                (signal + state.noise) / 6,
                state.settings,
            ]
        )
        return jnp.clip(obs, -2, 2).astype(jnp.float32)

    def exogenous(self, state, params):
        """Event and loss of the slice that led to `state`: all that a clairvoyant needs."""
        return {"event": state.event, "loss_db": state.loss_db}

    def observation_space(self, params=None):
        return gym.spaces.Box(-2.0, 2.0, (len(OBSERVATION),), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Box(-1.0, 1.0, (6,), np.float32)

    @property
    def passive_action(self):
        """Never close; settings of a 300 s block over 90 km."""
        return np.array([-1.0, -0.517, -0.029, 0.301, -0.520, -0.293], np.float32)


def decode(obs: Float[Array, "28"]) -> Reading:
    """An observation in physical units (up to the clipping of extreme values)."""
    names = {name: obs[i] for i, name in enumerate(OBSERVATION)}

    def decades(name: str) -> Array:
        return jnp.expm1((names[name] + 1) * (_DECADES * _LOG10))

    def error(name: str) -> Array:
        return 0.5 * (0.5 * (names[name] + 1)) ** 2

    def slices(name: str) -> Array:
        return jnp.round(jnp.expm1((names[name] + 1) * _SLICES))

    return Reading(
        time_left=0.5 * (names["time_left"] + 1),
        clock_hz=jnp.exp((names["log10_clock"] + 8) * _LOG10),
        nominal_loss_db=16 + 8 * names["nominal_loss"],
        loss_estimate_db=16 + 8 * names["loss_estimate"],
        qber_key=error("qber_key"),
        qber_test=error("qber_test"),
        slice_key_clicks=decades("slice_key_clicks"),
        slice_test_clicks=decades("slice_test_clicks"),
        block_key_clicks=decades("block_key_clicks"),
        block_test_clicks=decades("block_test_clicks"),
        block_qber_key=error("block_qber_key"),
        block_qber_test=error("block_qber_test"),
        block_bits=decades("block_bits"),
        block_slices=slices("block_slices"),
        event=names["event"] > 0.5,
        slices_since_event=slices("slices_since_event"),
        event_rates=jnp.exp((obs[16:19] - 1) * (1.5 * _LOG10)) - 1e-3,
        telemetry=6 * obs[19 : 19 + len(CHANNELS)],
        settings=obs[-5:],
    )


def reference_params() -> DecoyBlockParams:
    """The link of the scenario `reference`: everything known but the level of the hazard."""
    return DecoyBlockParams(
        loss_db=16.0,
        loss_walk_db=0.0,
        loss_step_db=0.0,
        calm_event_interval_s=1500.0,
        storm_event_interval_s=40.0,
        calm_dwell_s=1200.0,
        storm_dwell_s=600.0,
        announced_share=0.0,
        telemetry_gain=np.zeros(len(CHANNELS), np.float32),
        innocent_gain=np.zeros(len(CHANNELS), np.float32),
    )


def hazard_of(params: DecoyBlockParams) -> Hazard:
    """The hazard constants among the parameters."""
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(Hazard)}
    return Hazard(**fields)


def _loss(walk: Any, steps_db: Any, time: Any, params: DecoyBlockParams) -> Array:
    """Loss of the slice that ends at `time`; never below 1 dB, so that drift makes no light."""
    position = 2 * time / params.max_steps_in_episode - 1
    swing = params.pass_swing_db * position * position
    return jnp.maximum(params.loss_db + params.loss_walk_db * walk + steps_db + swing, 1).astype(jnp.float32)


def _certifiable_bits(loss_db: Array, settings: Settings, params: DecoyBlockParams) -> Array:
    """What a quiet slice holds for the key: its true vacuum and single-photon clicks at their true phase error."""
    return certifiable_bits(
        params.clock_hz * params.slice_s,
        settings.key_basis_prob,
        *_source(settings, params),
        params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * loss_db),
        params.dark_count_prob_per_gate,
        params.afterpulse_prob,
        params.misalignment_error,
    )


def _sample(mean: Float[Array, "12"], uniforms: Sequence[Array]) -> list[Array]:
    """Counted clicks and errors of a slice with these means; layout as in the pool."""
    # Count by count: under vmap each is then one long vector, four times as fast as rows of three.
    counts: list[Any] = [None] * 12
    for clicks in (0, 1, 2, 6, 7, 8):
        errors = clicks + 3
        counts[clicks], counts[errors] = clicks_and_errors(
            mean[clicks], mean[errors], uniforms[clicks], uniforms[errors]
        )
    return counts


def _sum_intensities(c: Sequence[Array] | Array) -> Float[Array, "4"]:
    """Sums over the intensities."""
    return jnp.stack([c[i] + c[i + 1] + c[i + 2] for i in (0, 3, 6, 9)])


def _average(rates: Array, event: Array, params: DecoyBlockParams) -> Array:
    keep = jnp.exp(-params.slice_s / jnp.asarray(EVENT_AVERAGES_S, jnp.float32))
    return keep * rates + (1 - keep) * event.astype(jnp.float32)


def _error_rate(errors: Array, clicks: Array) -> Array:
    return jnp.minimum(errors / jnp.maximum(clicks, 1), 0.5)


def _estimate_loss(totals: Float[Array, "4"], settings: Settings, params: DecoyBlockParams) -> Array:
    """Loss that explains the slice's clicks, less what is due to dark counts and afterpulses of the data sheet."""
    q = settings.key_basis_prob
    sifted = params.clock_hz * params.slice_s * (q * q + (1 - q) * (1 - q))
    data = DecoyBlockParams
    rate = (totals[0] + totals[2]) / (sifted * (1 + data.afterpulse_prob)) - 2 * data.dark_count_prob_per_gate
    mean_photons = settings.p1 * settings.mu1 + settings.p2 * settings.mu2
    eta = jnp.maximum(rate, 1e-9) / (mean_photons * data.receiver_efficiency)
    return -jnp.log(eta) / NEPER_PER_DB

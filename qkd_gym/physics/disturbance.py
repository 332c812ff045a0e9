"""What spoils a block, and what announces it: a hidden two-level hazard with build-ups, and ambiguous telemetry.

A link lives through calms and storms (road works beside the duct, a failing air conditioner, wind on an aerial span).
Events (a lost lock, a blinded gate, a bias jump) come either out of the blue or at the end of a *build-up* that lasts
some slices and sometimes fades without harm. Auxiliary readings of the rack (temperature gradient, vibration, pilot
power) show the build-up with gains that depend on the installation, beside innocent excursions of their own and
coloured noise. No published statistics of such events are known to us: the structure and all constants are design
choices, in the range of what operators report of field links (interruptions every few minutes to hours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qkd_gym import struct
from qkd_gym.physics.drift import ornstein_uhlenbeck_step


@struct.dataclass
class Hazard:
    """Constants of one unit's events, all of one shape `(...)`."""

    calm_event_interval_s: Any = struct.field(1500.0, low=1.0, unit="s", doc="mean time from quiet to event, calm")
    storm_event_interval_s: Any = struct.field(60.0, low=1.0, unit="s", doc="the same in a storm")
    calm_dwell_s: Any = struct.field(1200.0, low=1.0, unit="s", doc="mean duration of a calm")
    storm_dwell_s: Any = struct.field(600.0, low=1.0, unit="s", doc="mean duration of a storm")
    announced_share: Any = struct.field(0.8, low=0.0, high=1.0, doc="share of events that end a build-up")
    buildup_s: Any = struct.field(20.0, low=1.0, unit="s", doc="mean duration of a build-up")
    fade_prob: Any = struct.field(0.3, low=0.0, high=0.95, doc="chance that a build-up ends without an event")


@struct.dataclass
class HazardRates:
    """Chances per slice that follow from a `Hazard`; `[calm, storm]` on the last axis of the pairs."""

    to_storm: Any
    to_calm: Any
    sudden: Any  # (..., 2) event out of the blue
    onset: Any  # (..., 2) a build-up begins
    end: Any  # a build-up ends, with or without event
    fade_prob: Any


def hazard_rates(hazard: Hazard, slice_s: Any) -> HazardRates:
    """Chances per slice of `slice_s` seconds. Dwell times shorter than a slice are treated as one slice."""
    h = hazard
    intervals = jnp.stack([jnp.asarray(h.calm_event_interval_s), jnp.asarray(h.storm_event_interval_s)], axis=-1)
    rate = jnp.asarray(slice_s)[..., None] / intervals
    share, fade = jnp.asarray(h.announced_share)[..., None], jnp.asarray(h.fade_prob)[..., None]
    return HazardRates(
        to_storm=jnp.minimum(slice_s / h.calm_dwell_s, 1),
        to_calm=jnp.minimum(slice_s / h.storm_dwell_s, 1),
        sudden=-jnp.expm1(-rate * (1 - share)),
        onset=-jnp.expm1(-rate * share / (1 - fade)),
        end=jnp.minimum(slice_s / h.buildup_s, 1),
        fade_prob=h.fade_prob,
    )


def advance_hazard(
    rates: HazardRates, storm: Bool[Array, ""], buildup: Bool[Array, ""], uniforms: Sequence[Array]
) -> tuple[Array, Array, Array]:
    """One slice of one unit: `(storm, buildup, event)` at its end. A build-up shows for a slice before it can harm."""
    u_storm, u_end, u_fade, u_sudden, u_onset = (uniforms[i] for i in range(5))
    storm = jnp.where(storm, u_storm >= rates.to_calm, u_storm < rates.to_storm)
    sudden = u_sudden < jnp.where(storm, rates.sudden[1], rates.sudden[0])
    ends = buildup & (u_end < rates.end)
    event = sudden | (ends & (u_fade >= rates.fade_prob))
    onset = u_onset < jnp.where(storm, rates.onset[1], rates.onset[0])
    return storm, jnp.where(buildup, ~ends, onset) & ~event, event


def hazard_law(rates: HazardRates) -> Float[Array, "4 4 2"]:
    """Law of `advance_hazard`: chance of (next state, no event | event) from each state; state = 2 storm + buildup.

    What a Bayes filter of one unit needs; vmap it over units.
    """
    switch = jnp.stack([jnp.stack([1 - rates.to_storm, rates.to_storm]), jnp.stack([rates.to_calm, 1 - rates.to_calm])])
    zero = jnp.zeros_like(rates.sudden[0])
    rows = []
    for storm in (0, 1):
        for buildup in (0, 1):
            row = []
            for nxt in (0, 1):
                p, sudden, onset = switch[storm, nxt], rates.sudden[nxt], rates.onset[nxt]
                if buildup:
                    harm = rates.end * (1 - rates.fade_prob)
                    calm = (1 - sudden) * rates.end * rates.fade_prob
                    on = (1 - sudden) * (1 - rates.end)
                    event = 1 - (1 - sudden) * (1 - harm)
                else:
                    calm, on, event = (1 - sudden) * (1 - onset), (1 - sudden) * onset, sudden
                row.append(jnp.stack([p * calm, p * event]))
                row.append(jnp.stack([p * on, zero]))
            rows.append(jnp.stack(row))
    return jnp.stack(rows)


def stationary_storm_prob(hazard: Hazard) -> Array:
    """Long-run share of time in a storm."""
    return hazard.storm_dwell_s / (hazard.storm_dwell_s + hazard.calm_dwell_s)


def advance_telemetry(
    innocent: Bool[Array, "..."],
    noise: Float[Array, "..."],
    slice_s: Any,
    innocent_interval_s: Any,
    innocent_s: Any,
    noise_time_s: Any,
    uniforms: Float[Array, "..."],
    normals: Float[Array, "..."],
) -> tuple[Array, Array]:
    """One slice of channels' innocent excursions (on or off) and of its noise (AR(1), unit variance)."""
    ends, begins = jnp.minimum(slice_s / innocent_s, 1), jnp.minimum(slice_s / innocent_interval_s, 1)
    innocent = jnp.where(innocent, uniforms >= ends, uniforms < begins)
    return innocent, ornstein_uhlenbeck_step(noise, normals, slice_s, noise_time_s, 1.0)

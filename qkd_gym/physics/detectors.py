"""Single-photon detectors: bias, saturation by dead time, afterpulses, timing jitter, efficiency mismatch.

"Dark count probability" is per detector and gate (dark rate x gate width); a background *yield* of a receiver with two
detectors is twice that. Typical devices stand in `detector_presets`.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import erf, erfc
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.information import as_float

#: Full width at half maximum of a Gaussian over its standard deviation.
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


@struct.dataclass
class Detector:
    """One single-photon detector, gated or with a time window of `gate_ps`."""

    efficiency: Any = struct.field(default=0.10, low=0.0, high=1.0, doc="detection efficiency")
    dark_count_prob_per_gate: Any = struct.field(default=6e-7, unit="1/gate", low=0.0, high=0.5, doc="per detector")
    afterpulse_prob: Any = struct.field(default=0.0, low=0.0, high=0.5, doc="afterpulses per click, all gates together")
    dead_time_ns: Any = struct.field(default=0.0, unit="ns", low=0.0, high=1e6, doc="after each click")
    jitter_fwhm_ps: Any = struct.field(default=0.0, unit="ps", low=0.0, high=1e5, doc="timing response, full width")
    gate_ps: Any = struct.field(default=1000.0, unit="ps", low=1.0, high=1e7, doc="gate or coincidence window")


@struct.dataclass
class Traps:
    """How afterpulses spread over time: a sum of exponentials, one a family of traps."""

    shares: Any = struct.field(default=(1.0,), low=0.0, high=1.0, doc="share of each family (..., n); they sum to 1")
    lifetimes_s: Any = struct.field(
        default=(2e-6,), unit="s", low=1e-9, high=1.0, doc="lifetime of each family (..., n); 1-5 us in InGaAs"
    )


def dark_prob_from_rate(dark_counts_per_s: ArrayLike, gate_ps: ArrayLike) -> Float[Array, "..."]:
    """Dark count probability per gate from a rate and a gate width, 1 - e^(-rate x gate)."""
    rate, gate = as_float(dark_counts_per_s, gate_ps)
    return -jnp.expm1(-rate * gate * 1e-12)


def at_excess_bias(
    detector: Detector,
    efficiency: ArrayLike,
    dark_doubling: ArrayLike = 0.05,
    afterpulse_doubling: ArrayLike = 0.1,
) -> Detector:
    """An avalanche diode at a bias that gives another efficiency: dark counts and afterpulses rise exponentially.

    Args:
        dark_doubling, afterpulse_doubling: absolute gain in efficiency over which each doubles (design values: fit
            yours). Both probabilities stop at 1/2.
    """
    eta, before, dark, after, per_dark, per_after = as_float(
        efficiency,
        detector.efficiency,
        detector.dark_count_prob_per_gate,
        detector.afterpulse_prob,
        dark_doubling,
        afterpulse_doubling,
    )
    raised = (eta - before) * math.log(2)
    return struct.replace(
        detector,
        efficiency=eta,
        dark_count_prob_per_gate=jnp.minimum(dark * jnp.exp(raised / per_dark), 0.5),
        afterpulse_prob=jnp.minimum(after * jnp.exp(raised / per_after), 0.5),
    )


# ---- saturation ---------------------------------------------------------------------------------------------------


def non_paralysable_rate(rate_per_s: ArrayLike, dead_time_s: ArrayLike) -> Float[Array, "..."]:
    """Registered rate R / (1 + R tau) of a detector that ignores light while dead (at most 1/tau)."""
    rate, tau = as_float(rate_per_s, dead_time_s)
    return rate / (1 + rate * tau)


def paralysable_rate(rate_per_s: ArrayLike, dead_time_s: ArrayLike) -> Float[Array, "..."]:
    """Registered rate R e^(-R tau) of a detector that light keeps dead."""
    rate, tau = as_float(rate_per_s, dead_time_s)
    return rate * jnp.exp(-rate * tau)


def hold_off_gates(clock_hz: ArrayLike, hold_off_s: ArrayLike) -> Float[Array, "..."]:
    """Whole gates skipped after a click, floor(f tau); one rounding below a whole number counts as that number."""
    f, tau = as_float(clock_hz, hold_off_s)
    gates = f * tau
    return jnp.floor(gates + jnp.maximum(gates, 1) * (4 * jnp.finfo(gates.dtype).eps))


def gated_click_prob(click_prob: ArrayLike, skipped_gates: ArrayLike) -> Float[Array, "..."]:
    """Click probability per gate, p / (1 + k p), when k gates are skipped after each click.

    Apply it to *all* clicks of a detector, both bases, before sifting.
    """
    p, k = as_float(click_prob, skipped_gates)
    return p / (1 + k * p)


def gated_pair_click_probs(
    click_prob_0: ArrayLike, click_prob_1: ArrayLike, skipped_gates: ArrayLike, blank_both: bool = True
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Click probabilities per gate of two detectors with hold-off, of detector 0 and of detector 1.

    Args:
        blank_both: a click silences both, p_i / (1 + k p_any) with p_any = p_0 + p_1 - p_0 p_1. Else each on its own:
            while one is dead the other alone clicks, so successive bits are correlated, which is insecure.
    """
    p0, p1, k = as_float(click_prob_0, click_prob_1, skipped_gates)
    if not blank_both:
        return gated_click_prob(p0, k), gated_click_prob(p1, k)
    live = 1 / (1 + k * (p0 + p1 - p0 * p1))
    return p0 * live, p1 * live


# ---- afterpulses --------------------------------------------------------------------------------------------------


def afterpulse_first_order(click_prob: ArrayLike, afterpulse_prob: ArrayLike) -> Float[Array, "..."]:
    """Click probability with one generation of afterpulses, p (1 + p_ap) (Lim 2014). Half of them are errors."""
    p, after = as_float(click_prob, afterpulse_prob)
    return p * (1 + after)


def afterpulse_geometric(click_prob: ArrayLike, afterpulse_prob: ArrayLike) -> Float[Array, "..."]:
    """Click probability when afterpulses breed afterpulses, p / (1 - p_ap)."""
    p, after = as_float(click_prob, afterpulse_prob)
    return p / (1 - after)


def afterpulse_after_dead_time(
    afterpulse_prob: ArrayLike, dead_time_s: ArrayLike, trap_lifetime_s: ArrayLike = 2e-6
) -> Float[Array, "..."]:
    """Afterpulse probability left when traps of one lifetime (1-5 us in InGaAs) empty during the dead time."""
    after, dead, lifetime = as_float(afterpulse_prob, dead_time_s, trap_lifetime_s)
    return after * jnp.exp(-dead / lifetime)


def afterpulse_density_per_s(afterpulse_prob: ArrayLike, traps: Traps, delay_s: ArrayLike) -> Float[Array, "..."]:
    """Rate of afterpulses a delay after a click, p_ap sum_i share_i e^(-t/T_i) / T_i."""
    after, shares, lifetimes, t = as_float(afterpulse_prob, traps.shares, traps.lifetimes_s, delay_s)
    total = sum(
        shares[..., i] * jnp.exp(-t / lifetimes[..., i]) / lifetimes[..., i] for i in range(lifetimes.shape[-1])
    )
    return after * total


def afterpulse_in_window(
    afterpulse_prob: ArrayLike, traps: Traps, start_s: ArrayLike, width_s: ArrayLike
) -> Float[Array, "..."]:
    """Afterpulse probability between `start_s` (the dead time, or a gate) and `start_s + width_s` after a click.

    An infinite width gives what is left after a dead time: `afterpulse_after_dead_time` for many lifetimes.
    """
    after, shares, lifetimes, start, width = as_float(
        afterpulse_prob, traps.shares, traps.lifetimes_s, start_s, width_s
    )
    total = sum(
        -shares[..., i] * jnp.exp(-start / lifetimes[..., i]) * jnp.expm1(-width / lifetimes[..., i])
        for i in range(lifetimes.shape[-1])
    )
    return after * total


def trap_step(
    filled: ArrayLike, clicks: ArrayLike, afterpulse_prob: ArrayLike, traps: Traps, step_s: ArrayLike
) -> tuple[Float[Array, "... n"], Float[Array, "..."]]:
    """One step of the mean number of filled traps, `(filled, released)`; clicks fall evenly over the step.

    Args:
        filled: `(..., n)`, expected afterpulses that each family still owes. clicks: `(...)`, in this step.

    Returns:
        The filled traps `(..., n)` after the step, and the carriers released in it `(...)`: afterpulses where a gate
        catches them. filled + released is conserved against p_ap x clicks.
    """
    owed, n, after, shares, lifetimes, dt = as_float(
        filled, clicks, afterpulse_prob, traps.shares, traps.lifetimes_s, step_s
    )
    kept, released = [], jnp.zeros_like(n * after * dt)
    for i in range(lifetimes.shape[-1]):
        x = dt / lifetimes[..., i]
        gone = -jnp.expm1(-x)
        # 1 - (1 - e^-x)/x: the share of this step's own that leaves within the step
        near = x < 0.1
        t = jnp.where(near, x, 0)
        series = t / 2 * (1 - t / 3 * (1 - t / 4 * (1 - t / 5 * (1 - t / 6 * (1 - t / 7 * (1 - t / 8))))))
        fresh = jnp.where(near, series, 1 - gone / jnp.where(near, 1, x))
        new = n * after * shares[..., i]
        kept.append(owed[..., i] * (1 - gone) + new * (1 - fresh))
        released = released + owed[..., i] * gone + new * fresh
    return jnp.stack(kept, axis=-1), released


# ---- timing -------------------------------------------------------------------------------------------------------


def fraction_in_gate(jitter_fwhm_ps: ArrayLike, gate_ps: ArrayLike, offset_ps: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Share of Gaussian arrival times inside a gate whose centre is off by `offset_ps`."""
    fwhm, gate, offset = as_float(jitter_fwhm_ps, gate_ps, offset_ps)
    scale = jnp.maximum(math.sqrt(2) / FWHM_PER_SIGMA * fwhm, jnp.finfo(fwhm.dtype).tiny)  # no jitter: a sharp edge
    share = (erf((gate / 2 - offset) / scale) + erf((gate / 2 + offset) / scale)) / 2
    return jnp.maximum(share, 0)  # far out the two cancel to the rounding of erf


def fraction_outside_gate(
    jitter_fwhm_ps: ArrayLike, gate_ps: ArrayLike, offset_ps: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """Share of arrivals that a gate misses, 1 - `fraction_in_gate`, with the digits of small losses."""
    fwhm, gate, offset = as_float(jitter_fwhm_ps, gate_ps, offset_ps)
    scale = jnp.maximum(math.sqrt(2) / FWHM_PER_SIGMA * fwhm, jnp.finfo(fwhm.dtype).tiny)
    return (erfc((gate / 2 - offset) / scale) + erfc((gate / 2 + offset) / scale)) / 2


def in_gate(detector: Detector, offset_ps: ArrayLike = 0.0) -> Detector:
    """The detector as a gate off by `offset_ps` makes it: the efficiency times the share of arrivals in the gate."""
    share = fraction_in_gate(detector.jitter_fwhm_ps, detector.gate_ps, offset_ps)
    (efficiency,) = as_float(detector.efficiency)
    return struct.replace(detector, efficiency=efficiency * share)


def timing_mismatch(
    jitter_fwhm_ps: ArrayLike, gate_ps: ArrayLike, offset_ps: ArrayLike, skew_ps: ArrayLike
) -> Float[Array, "..."]:
    """Efficiency ratio eta_1/eta_0 of two detectors whose gates are `skew_ps` apart, that of 1 the later.

    Light comes `offset_ps` after the middle of both. The ratio grows without bound in the wings, where a time-shift
    attack sends: eta_0 -> 0 gives inf, 0/0 gives 1.
    """
    offset, skew = as_float(offset_ps, skew_ps)
    early = fraction_in_gate(jitter_fwhm_ps, gate_ps, offset + skew / 2)
    late = fraction_in_gate(jitter_fwhm_ps, gate_ps, offset - skew / 2)
    some = early > 0
    return jnp.where(some, late / jnp.where(some, early, 1), jnp.where(late > 0, jnp.inf, 1))


def intersymbol_qber(fraction: ArrayLike) -> Float[Array, "..."]:
    """Error rate of time bins whose lost share lands in neighbouring bins, half of it wrong: (1 - fraction) / 2."""
    (inside,) = as_float(fraction)
    return (1 - inside) / 2


# ---- mismatch -----------------------------------------------------------------------------------------------------


def bit_bias(efficiency_ratio: ArrayLike) -> Float[Array, "..."]:
    """Probability of a 0 in the sifted key of two detectors with efficiency ratio r = eta_1 / eta_0: 1 / (1 + r)."""
    (r,) = as_float(efficiency_ratio)
    return 1 / (1 + r)


def mismatch_key_factor(efficiency_0: ArrayLike, efficiency_1: ArrayLike) -> Float[Array, "..."]:
    """Share of the key that survives when efficiencies are equalised, min / mean (Fung et al., QIC 9, 131 (2009))."""
    a, b = as_float(efficiency_0, efficiency_1)
    total = a + b
    return jnp.where(total > 0, 2 * jnp.minimum(a, b) / jnp.where(total > 0, total, 1), 0)

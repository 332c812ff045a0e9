"""Single-photon detectors: presets, saturation by dead time, afterpulses, timing jitter, efficiency mismatch.

"Dark count probability" is per detector and gate (dark rate x gate width); a background *yield* of a receiver with two
detectors is twice that.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import erf
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


@dataclasses.dataclass(frozen=True)
class Preset:
    """A detector of the literature with the range that its class spans."""

    detector: Detector
    efficiency_range: tuple[float, float]
    source: str


#: Typical detectors. Where the source is a class rather than a device, mid-range values stand for it.
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "ingaas-gated-lim2014": Preset(
            Detector(0.10, 6e-7, 0.04, 0.0, 0.0, 1000.0),
            (0.10, 0.10),
            "Lim et al., Phys. Rev. A 89, 022307 (2014), table I",
        ),
        "gys2004": Preset(
            Detector(0.045, 8.5e-7, 0.0, 0.0, 0.0, 1000.0),
            (0.045, 0.045),
            "Gobby, Yuan, Shields, Appl. Phys. Lett. 84, 3762 (2004); efficiency with the receiver's optics",
        ),
        "ingaas-gated": Preset(
            Detector(0.20, 5e-6, 0.03, 10_000.0, 200.0, 1000.0), (0.10, 0.25), "typical of the class; design value"
        ),
        "ingaas-self-differencing": Preset(
            Detector(0.25, 5e-6, 0.045, 1.5, 80.0, 100.0), (0.20, 0.30), "typical at 1 GHz gating; design value"
        ),
        "ingaas-free-running": Preset(
            Detector(0.20, 1e-8, 0.03, 20_000.0, 200.0, 1000.0),
            (0.10, 0.25),
            "negative-feedback diode at -100 C, 10 dark counts/s; design value",
        ),
        "snspd": Preset(Detector(0.80, 1e-8, 0.0, 40.0, 40.0, 1000.0), (0.50, 0.90), "10 dark counts/s; design value"),
        "snspd-multi-pixel": Preset(
            Detector(0.70, 1e-7, 0.0, 2.0, 60.0, 300.0), (0.60, 0.80), "8-14 pixels, 300 dark counts/s; design value"
        ),
        "si-spad": Preset(
            Detector(0.50, 1e-7, 0.01, 35.0, 200.0, 1000.0), (0.40, 0.60), "700-900 nm, 100 dark counts/s; design value"
        ),
    }
)


def preset(name: str) -> Detector:
    """A detector of `PRESETS` by name. Unknown names are refused with the list of known ones."""
    if name not in PRESETS:
        raise ValueError(f"no detector is called {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name].detector


def dark_prob_from_rate(dark_counts_per_s: ArrayLike, gate_ps: ArrayLike) -> Float[Array, "..."]:
    """Dark count probability per gate from a rate and a gate width, 1 - e^(-rate x gate)."""
    rate, gate = as_float(dark_counts_per_s, gate_ps)
    return -jnp.expm1(-rate * gate * 1e-12)


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


# ---- timing -------------------------------------------------------------------------------------------------------


def fraction_in_gate(jitter_fwhm_ps: ArrayLike, gate_ps: ArrayLike, offset_ps: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Share of Gaussian arrival times inside a gate whose centre is off by `offset_ps`."""
    fwhm, gate, offset = as_float(jitter_fwhm_ps, gate_ps, offset_ps)
    scale = jnp.maximum(math.sqrt(2) / FWHM_PER_SIGMA * fwhm, jnp.finfo(fwhm.dtype).tiny)  # no jitter: a sharp edge
    return (erf((gate / 2 - offset) / scale) + erf((gate / 2 + offset) / scale)) / 2


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

"""Temperature along a link, and what it does to the delay and the optical phase of fibre.

A day's swing and weather: T(t) = mean + A cos(2 pi (t - peak)/24 h) + Ornstein-Uhlenbeck. Amplitudes are design
values of the order that operators report; measure yours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from qkd_gym import struct
from qkd_gym.physics.drift import DAY_S, diurnal, ornstein_uhlenbeck_step
from qkd_gym.physics.fibre import DELAY_PS_PER_KM_K, thermal_delay_ps, thermal_phase_rad
from qkd_gym.physics.information import as_float


@struct.dataclass
class Climate:
    """Temperature round a fibre. Default: buried cable."""

    mean_k: Any = struct.field(default=285.0, unit="K", low=200.0, high=350.0, doc="mean temperature")
    diurnal_amplitude_k: Any = struct.field(
        default=0.3, unit="K", low=0.0, high=40.0, doc="half the daily swing: 0.1-0.5 buried, 5-15 aerial"
    )
    peak_s: Any = struct.field(default=54_000.0, unit="s", low=0.0, high=DAY_S, doc="time of day of the maximum")
    weather_std_k: Any = struct.field(default=0.1, unit="K", low=0.0, high=40.0, doc="spread beside the daily swing")
    weather_time_s: Any = struct.field(
        default=20_000.0, unit="s", low=1.0, high=1e8, doc="correlation time of that spread"
    )


@struct.dataclass
class ThermalFibre:
    """A fibre, or the difference of two, as temperature sees it."""

    length_km: Any = struct.field(default=50.0, unit="km", low=0.0, high=2000.0, doc="length exposed")
    delay_ps_per_km_k: Any = struct.field(
        default=DELAY_PS_PER_KM_K, unit="ps/(km K)", low=-100.0, high=300.0, doc="37-40 for standard coated fibre"
    )
    wavelength_nm: Any = struct.field(default=1550.0, unit="nm", low=300.0, high=3000.0, doc="wavelength")
    common_mode_rejection: Any = struct.field(
        default=0.0, low=0.0, high=1.0, doc="share of the change that the reference sees too (1: all of it)"
    )


#: Climates by the way a cable is laid. Design values.
CLIMATES: Mapping[str, Climate] = MappingProxyType(
    {
        "laboratory": Climate(294.0, 0.2, 54_000.0, 0.1, 3_600.0),
        "buried": Climate(285.0, 0.3, 54_000.0, 0.1, 20_000.0),
        "aerial": Climate(285.0, 8.0, 54_000.0, 2.0, 7_200.0),
    }
)


def climate(name: str) -> Climate:
    """A climate of `CLIMATES` by name; unknown names are refused with the list of known ones."""
    if name not in CLIMATES:
        raise ValueError(f"no climate is called {name!r}; there are: {', '.join(CLIMATES)}")
    return CLIMATES[name]


def temperature_k(climate: Climate, time_s: ArrayLike, weather_k: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Temperature at a time since midnight; `weather_k` is the state of `weather_step`.

    In float32 keep the time below 1e7 s, or wrap it by the day: a day later is the same.
    """
    mean, weather = as_float(climate.mean_k, weather_k)
    return mean + change_k(climate, time_s, weather)


def change_k(climate: Climate, time_s: ArrayLike, weather_k: ArrayLike = 0.0) -> Float[Array, "..."]:
    """Temperature less its mean, with the digits that the sum with 285 K would lose in float32 (3e-5 K)."""
    (weather,) = as_float(weather_k)
    return diurnal(time_s, climate.diurnal_amplitude_k, climate.peak_s) + weather


def weather_step(climate: Climate, weather_k: ArrayLike, normal: ArrayLike, step_s: ArrayLike) -> Float[Array, "..."]:
    """One exact step of the part that no clock predicts."""
    return ornstein_uhlenbeck_step(weather_k, normal, step_s, climate.weather_time_s, climate.weather_std_k)


def diurnal_rate_k_per_s(climate: Climate, time_s: ArrayLike) -> Float[Array, "..."]:
    """Rate of the daily swing, -A (2 pi / 24 h) sin(2 pi (t - peak) / 24 h)."""
    t, a, peak = as_float(time_s, climate.diurnal_amplitude_k, climate.peak_s)
    omega = 2 * math.pi / DAY_S
    return -a * omega * jnp.sin(omega * (t - peak))


def delay_change_ps(fibre: ThermalFibre, change: ArrayLike) -> Float[Array, "..."]:
    """Change of the delay, against the reference, by a temperature change in K."""
    return _seen(fibre) * thermal_delay_ps(fibre.length_km, change, fibre.delay_ps_per_km_k)


def phase_change_rad(fibre: ThermalFibre, change: ArrayLike) -> Float[Array, "..."]:
    """Change of the optical phase, against the reference, by a temperature change in K: 4.5e4 rad per km and K."""
    return _seen(fibre) * thermal_phase_rad(fibre.length_km, change, fibre.wavelength_nm, fibre.delay_ps_per_km_k)


def phase_rate_rad_per_ms(fibre: ThermalFibre, temperature_rate_k_per_s: ArrayLike) -> Float[Array, "..."]:
    """Drift rate of the phase while the temperature changes at a steady rate."""
    (rate,) = as_float(temperature_rate_k_per_s)
    return phase_change_rad(fibre, rate * 1e-3)


def doppler_hz(fibre: ThermalFibre, temperature_rate_k_per_s: ArrayLike) -> Float[Array, "..."]:
    """Shift of the optical frequency behind a fibre that warms, -dphi/dt / (2 pi)."""
    return -phase_rate_rad_per_ms(fibre, temperature_rate_k_per_s) * (1e3 / (2 * math.pi))


def _seen(fibre: ThermalFibre) -> Array:
    (rejection,) = as_float(fibre.common_mode_rejection)
    return 1 - rejection

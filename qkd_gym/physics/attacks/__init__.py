"""Attacks as maps from an honest link's report to an attacked one, with what Eve gains.

Each attack is a struct of parameters with an `act`; `apply(attack, honest)` aligns shapes and returns
`(attacked report, Eve)`. All maps are pure and differentiable in their parameters; with strength 0, the default, the
report comes back bit for bit. An attack of one's own is a struct with an `act`.

`photons`: inside the security model, priced by the key formula. `devices`, `quadratures`: outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qkd_gym.physics.attacks.devices import (
    Blinding,
    LaserDamage,
    LaserSeeding,
    PhaseRemapping,
    TimeShift,
    TrojanHorse,
    WavelengthSplitter,
)
from qkd_gym.physics.attacks.photons import InterceptResend, PhotonNumberSplitting
from qkd_gym.physics.attacks.quadratures import Calibration, EstimateBias, LocalOscillator, Saturation
from qkd_gym.physics.attacks.telemetry import (
    KEY,
    TEST,
    Attack,
    Eve,
    Telemetry,
    apply,
    decoy_telemetry,
    feature_names,
    features,
    homodyne_telemetry,
)

#: Every attack by name; constructed without arguments it has strength 0.
ATTACKS: Mapping[str, type[Attack]] = MappingProxyType(
    {
        "intercept-resend": InterceptResend,
        "photon-number-splitting": PhotonNumberSplitting,
        "trojan-horse": TrojanHorse,
        "laser-seeding": LaserSeeding,
        "laser-damage": LaserDamage,
        "phase-remapping": PhaseRemapping,
        "blinding": Blinding,
        "time-shift": TimeShift,
        "wavelength-splitter": WavelengthSplitter,
        "local-oscillator": LocalOscillator,
        "calibration": Calibration,
        "estimate-bias": EstimateBias,
        "saturation": Saturation,
    }
)

__all__ = [
    "ATTACKS",
    "KEY",
    "TEST",
    "Attack",
    "Blinding",
    "Calibration",
    "EstimateBias",
    "Eve",
    "InterceptResend",
    "LaserDamage",
    "LaserSeeding",
    "LocalOscillator",
    "PhaseRemapping",
    "PhotonNumberSplitting",
    "Saturation",
    "Telemetry",
    "TimeShift",
    "TrojanHorse",
    "WavelengthSplitter",
    "apply",
    "decoy_telemetry",
    "feature_names",
    "features",
    "homodyne_telemetry",
]

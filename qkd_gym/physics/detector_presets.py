"""Single-photon detectors of the literature, as typical devices of their class with the range that the class spans.

Where the source is a class rather than one device the numbers are design values: mid-range, of the right order, to be
replaced by the data sheet of yours. Dark counts are per detector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from qkd_gym.physics.detectors import Detector

Range = tuple[float, float]
_DESIGN = "typical of the class; design value"


@dataclasses.dataclass(frozen=True)
class Preset:
    """A detector and what is known of its class.

    Attributes:
        detector: the typical device. source: where its numbers are from.
        measured: True if they are those of one published device or parameter set, False for design values.
        wavelength_nm: the band that it is made for. efficiency_range, dark_prob_range (per gate of `detector`),
        dead_time_ns_range, afterpulse_range, jitter_ps_range: (low, high) over the class; None where unknown.
    """

    detector: Detector
    source: str
    measured: bool
    wavelength_nm: Range
    efficiency_range: Range
    dark_prob_range: Range
    dead_time_ns_range: Range | None = None
    afterpulse_range: Range | None = None
    jitter_ps_range: Range | None = None


def _typical(
    efficiency: Range, dark: Range, dead_ns: Range, afterpulse: Range, jitter_ps: Range, gate_ps: float, nm: Range,
    *, typical: tuple[float, float, float, float, float], note: str = "",
) -> Preset:  # fmt: skip
    return Preset(
        Detector(*typical, gate_ps), _DESIGN + note, False, nm, efficiency, dark, dead_ns, afterpulse, jitter_ps
    )


_TELECOM: Range = (1260.0, 1625.0)

#: Detectors by name. Fields of `typical`: efficiency, dark count probability, afterpulse probability, dead time (ns),
#: jitter (ps).
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "ingaas-gated-lim2014": Preset(
            Detector(0.10, 6e-7, 0.04, 0.0, 0.0, 1000.0),
            "Lim et al., Phys. Rev. A 89, 022307 (2014), table I",
            True,
            _TELECOM,
            (0.10, 0.10),
            (6e-7, 6e-7),
            afterpulse_range=(0.04, 0.04),
        ),
        "gys2004": Preset(
            Detector(0.045, 8.5e-7, 0.0, 0.0, 0.0, 1000.0),
            "Gobby, Yuan, Shields, Appl. Phys. Lett. 84, 3762 (2004); efficiency with the receiver's optics",
            True,
            _TELECOM,
            (0.045, 0.045),
            (8.5e-7, 8.5e-7),
        ),
        "ingaas-gated": _typical(
            (0.10, 0.25), (1e-6, 1e-5), (5e3, 2e4), (0.01, 0.10), (150.0, 300.0), 1000.0, _TELECOM,
            typical=(0.20, 5e-6, 0.03, 1e4, 200.0),
        ),
        "ingaas-self-differencing": _typical(
            (0.20, 0.30), (1e-6, 1e-5), (1.0, 2.0), (0.03, 0.06), (60.0, 100.0), 100.0, _TELECOM,
            typical=(0.25, 5e-6, 0.045, 1.5, 80.0), note=", 1 GHz gating",
        ),
        "ingaas-free-running": _typical(
            (0.10, 0.25), (1e-9, 5e-8), (1e4, 1e5), (0.01, 0.05), (100.0, 300.0), 1000.0, _TELECOM,
            typical=(0.20, 1e-8, 0.03, 2e4, 200.0), note=", negative feedback, -100 C, 1-50 dark counts/s in 1 ns",
        ),
        "snspd": _typical(
            (0.50, 0.90), (1e-10, 1e-7), (20.0, 60.0), (0.0, 0.0), (15.0, 60.0), 1000.0, _TELECOM,
            typical=(0.80, 1e-8, 0.0, 40.0, 40.0), note=", 0.1-100 dark counts/s in 1 ns",
        ),
        "snspd-multi-pixel": _typical(
            (0.60, 0.80), (3e-8, 3e-7), (0.0, 2.0), (0.0, 0.0), (40.0, 80.0), 300.0, _TELECOM,
            typical=(0.70, 1e-7, 0.0, 2.0, 60.0), note=", 8-14 pixels, 100-1000 dark counts/s in 0.3 ns",
        ),
        "si-spad": _typical(
            (0.40, 0.60), (2.5e-8, 5e-7), (22.0, 50.0), (0.005, 0.03), (50.0, 350.0), 1000.0, (700.0, 900.0),
            typical=(0.50, 1e-7, 0.01, 35.0, 200.0), note=", 25-500 dark counts/s in 1 ns",
        ),
    }
)  # fmt: skip


def preset(name: str) -> Detector:
    """A detector of `PRESETS` by name. Unknown names are refused with the list of known ones."""
    if name not in PRESETS:
        raise ValueError(f"no detector is called {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name].detector

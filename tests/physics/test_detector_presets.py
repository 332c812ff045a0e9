"""The table of detectors: every device lies in the range of its class, and in the units that it says."""

import dataclasses

import numpy as np
import pytest

from qkd_gym.physics import detector_presets, detectors
from qkd_gym.physics.detector_presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_device_lies_within_its_class(name):
    entry, detector = PRESETS[name], preset(name)
    ranges = {
        "efficiency": entry.efficiency_range,
        "dark_count_prob_per_gate": entry.dark_prob_range,
        "dead_time_ns": entry.dead_time_ns_range,
        "afterpulse_prob": entry.afterpulse_range,
        "jitter_fwhm_ps": entry.jitter_ps_range,
    }
    for field, limits in ranges.items():
        if limits is not None:
            assert limits[0] <= getattr(detector, field) <= limits[1], field
    assert entry.source and entry.wavelength_nm[0] < entry.wavelength_nm[1]
    assert entry.measured != ("design value" in entry.source)


def test_dark_counts_per_gate_are_rate_times_gate(x64):
    """What the note of a free-running class says in counts per second is what its range says per gate."""
    for name, low, high in (
        ("ingaas-free-running", 1, 50), ("snspd", 0.1, 100), ("snspd-multi-pixel", 100, 1000), ("si-spad", 25, 500),
    ):  # fmt: skip
        entry = PRESETS[name]
        per_gate = detectors.dark_prob_from_rate(np.array([low, high], float), entry.detector.gate_ps)
        np.testing.assert_allclose(per_gate, entry.dark_prob_range, rtol=1e-6)


def test_fields_that_a_source_leaves_out_are_neutral():
    for entry in PRESETS.values():
        if entry.dead_time_ns_range is None:
            assert entry.detector.dead_time_ns == 0
        if entry.jitter_ps_range is None:
            assert float(detectors.in_gate(entry.detector).efficiency) == pytest.approx(entry.detector.efficiency)


def test_presets_cannot_be_changed_and_unknown_ones_are_listed():
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["snspd"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["snspd"].detector.efficiency = 1.0
    with pytest.raises(ValueError, match="snspd"):
        preset("bolometer")
    with pytest.raises(ValueError, match="efficiency"):
        detectors.Detector(efficiency=1.1)
    assert detector_presets.preset("gys2004").efficiency == 0.045

"""The search finds what is there: each kind of fault in a made-up target, and none in a sound one."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.validation import fuzz
from qkd_gym.physics import decoy_bb84, finite_key, mdi
from qkd_gym.physics import twin_field_sns as sns
from qkd_gym.physics.protocols import PROTOCOLS

CASES = 64


def target(rate=None, outputs=None, **more):
    def draw(rng, cases):
        return {"x": fuzz.spread(rng, 0.0, 1.0, (cases,), 0.5)}

    return fuzz.Target("made-up", "link", "test", draw, rate, outputs, **more)


FAULTS = {
    "rate not finite": target(lambda v: jnp.where(v["x"] == 0, jnp.nan, v["x"])),
    "derivative by x not finite": target(lambda v: jnp.sqrt(v["x"])),
    "rate above its bound": target(lambda v: 1.1 * v["x"], bound=lambda v: v["x"].astype(float)),
    "secret_bits not finite": target(outputs=lambda v: {"secret_bits": (1 / v["x"], 0.0, jnp.inf)}),
    "secret_bits outside its range": target(outputs=lambda v: {"secret_bits": (2 * v["x"], 0.0, 1.0)}),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_is_found(kind):
    found = fuzz.search(FAULTS[kind], CASES, "float64")
    assert set(found.counts) == {kind}
    assert found.examples and found.examples[0][0] == kind


def test_a_derivative_is_excused_in_single_precision_alone_and_counted_there():
    fault = target(lambda v: jnp.sqrt(1 - v["x"]))  # none at the end of the range
    double, single = (fuzz.search(fault, CASES, precision) for precision in ("float64", "float32"))
    assert set(double.counts) == {"derivative by x not finite"} and double.lost == 0
    assert not single.counts and single.lost == double.counts["derivative by x not finite"]


@pytest.mark.parametrize("precision", fuzz.PRECISIONS)
def test_sound_protocols_are_sound(precision):
    chosen = [t for t in fuzz.targets() if t.protocol in ("dps", "diqkd") and t.route == "hardware"]
    assert len(chosen) == 2
    for t in chosen:
        found = fuzz.search(t, CASES, precision)
        assert not found.counts and found.cases == CASES
    assert found.positive > 0


def test_every_protocol_is_searched():
    routes = {}
    for t in fuzz.targets():
        routes.setdefault(t.protocol, set()).add((t.route, t.what))
    assert set(routes) == set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        assert ("hardware", "endless") in routes[name]
        assert (("hardware", "block") in routes[name]) == protocol.has_finite_key_rate


def test_cases_cover_both_ends_and_repeat():
    t = next(t for t in fuzz.targets() if t.protocol == "dps" and t.route == "hardware")
    drawn, again = (t.draw(np.random.default_rng(3), 500) for _ in range(2))
    for name, values in drawn.items():
        np.testing.assert_array_equal(values, again[name])
    dark = drawn["hardware.dark_count_prob_per_gate"]
    assert dark.min() == 0 and dark.max() == 0.5 and np.any((dark > 0) & (dark < 1e-10))
    assert drawn["hardware.channel_loss_db"].max() == 400 and 0 in drawn["hardware.channel_loss_db"]


@pytest.mark.parametrize(
    "kind", [decoy_bb84.DecoySettings, finite_key.BlockSettings, mdi.FourIntensitySettings, sns.SnsBlockSettings]
)
def test_ordered_settings_pass_the_constructor(kind):
    rng = np.random.default_rng(0)
    drawn = fuzz.ordered(rng, fuzz.fields(rng, kind(), 300, "settings."), share=1.0)
    settings = kind(**{name.removeprefix("settings."): values for name, values in drawn.items()})
    if kind is finite_key.BlockSettings:
        strongest, second, weakest = np.moveaxis(settings.intensities, -1, 0)
        assert np.all(strongest > second + weakest) and np.all(second > weakest)
        np.testing.assert_allclose(settings.probabilities.sum(-1), 1)


def test_command_prints_a_table_and_exits_by_what_it_finds(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "targets", lambda: iter([target(lambda v: v["x"])]))
    assert fuzz.main(["--cases", "20"]) == 0
    assert "nothing found" in capsys.readouterr().out
    monkeypatch.setattr(fuzz, "targets", lambda: iter([FAULTS["rate not finite"]]))
    assert fuzz.main(["--cases", "20"]) == 1
    out = capsys.readouterr().out
    assert "rate not finite: " in out and "x=0" in out
    with pytest.raises(SystemExit):
        fuzz.main(["--protocol", "e91"])

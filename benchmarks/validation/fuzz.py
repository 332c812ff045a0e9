"""Random and edge cases over the full range of every parameter, for every protocol.

    python -m benchmarks.validation.fuzz
    python -m benchmarks.validation.fuzz --protocol tf-cal19 --cases 100000 --seed 1

Three ways into a protocol, each with `--cases` cases in float64 and as many in float32:

    hardware    `Hardware` and settings, through `qkd_gym.physics.protocols`; where there is one, a block too
    link        the module's own link and settings, wider than any `Hardware` (a perfect or absent receiver, f = 0, ...)
    counts      a block's counts, produced by no source: none, a few, all wrong, none wrong

Searched for: a rate, a bound or a key length that is NaN or infinite; a negative reported rate; a rate above the bound
of its topology; a key longer than the clicks that it was made of; a bound outside its own range; in float64, a
derivative of the rate that is not finite. A quarter of all values lie on an end of their range or at zero. One case in
five has settings in an order that the constructors refuse, as a search inside a program may: it must still be finite.

Derivatives lost in float32, whose range they leave over these ranges (a thousandth of a click, a decoy of 1e-7
photons), are counted in a column of their own and are no find.

Exit status: 0 nothing found, 1 something was, and the first cases of it are printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

PRECISIONS = ("float64", "float32")
CHUNK = 2000
#: Cases of each target and precision, unless told.
CASES = 10_000
#: Room for rounding when a rate is held against its bound.
SLACK = {"float64": 1e-9, "float32": 1e-5}

Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Target:
    """One function under test.

    Attributes:
        protocol, route, what: what the table calls it.
        draw: `(generator, cases)` to named arrays, cases first.
        rate: one case's named values to its unclipped rate; differentiated. None: `outputs` only.
        outputs: one case's named values to named numbers that must be finite, and to pairs (value, highest).
        bound: named arrays to what no rate may pass, in float64. None: not applicable.
    """

    protocol: str
    route: str
    what: str
    draw: Callable[[np.random.Generator, int], Values]
    rate: Callable[[dict[str, Any]], Any] | None = None
    outputs: Callable[[dict[str, Any]], dict[str, tuple[Any, Any, Any]]] | None = None
    bound: Callable[[Values], np.ndarray] | None = None


@dataclasses.dataclass
class Finding:
    """What a run of one target in one precision found: how often, and the first cases."""

    target: Target
    precision: str
    cases: int
    seconds: float
    positive: float
    lost: int
    counts: dict[str, int]
    examples: list[tuple[str, Values]]


# ---- cases --------------------------------------------------------------------------------------------------------


def spread(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...], default: Any) -> np.ndarray:
    """Values over [low, high]: ends, default, even and over fourteen decades down to zero."""
    even = rng.uniform(low, high, shape)
    decades = high * 10 ** -rng.uniform(0, 14, shape)
    if low < 0:
        decades = decades * rng.choice([-1.0, 1.0], shape)
    decades = np.clip(decades, low, high)
    usual = np.broadcast_to(np.asarray(default, float), shape)
    zero = np.full(shape, min(max(0.0, low), high))
    return np.choose(
        rng.choice(6, p=(0.1, 0.1, 0.05, 0.1, 0.35, 0.3), size=shape),
        [np.full(shape, low), np.full(shape, high), zero, usual, even, decades],
    )


def fields(rng: np.random.Generator, template: Any, cases: int, prefix: str) -> Values:
    """Cases of every traced field of a struct over its stated range.

    Half of the cases leave most fields as they are in `template`: of wholly random links hardly any makes key, and the
    other limits would not be met.
    """
    drawn = {}
    mostly_usual = rng.random(cases) < 0.5
    for field in dataclasses.fields(template):
        if field.metadata["static"]:
            continue
        usual = np.asarray(getattr(template, field.name), float)
        shape = (cases, *usual.shape)
        values = spread(rng, field.metadata["low"], field.metadata["high"], shape, usual)
        keep = mostly_usual & (rng.random(cases) < 0.8)
        drawn[f"{prefix}{field.name}"] = np.where(keep.reshape((-1,) + (1,) * usual.ndim), usual, values)
    return drawn


def ordered(rng: np.random.Generator, drawn: Values, share: float = 0.8) -> Values:
    """The settings of a `share` of the cases put in the order that their constructor asks for, where they are not."""
    cases = len(next(iter(drawn.values())))
    chosen = rng.random(cases) < share
    s = dict(drawn)
    names = {name.removeprefix("settings.") for name in drawn if name.startswith("settings.")}

    def put(name: str, value: np.ndarray, wrong: np.ndarray) -> None:
        old = drawn[f"settings.{name}"]
        s[f"settings.{name}"] = np.where((chosen & wrong).reshape((-1,) + (1,) * (old.ndim - 1)), value, old)

    def descending(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Strongest first, the second at most 0.7 of it, the third, if any, 0.4 of that; and which rows needed it."""
        strongest = np.maximum(values.max(-1), 1e-6)
        second = strongest * rng.uniform(0.01, 0.7, cases)
        third = np.where(rng.random(cases) < 0.3, 0, second * rng.uniform(0, 0.4, cases))
        last = values[:, 2] if values.shape[1] == 3 else np.zeros(cases)
        wrong = (values[:, 1] + last >= values[:, 0]) | (last >= values[:, 1])
        return np.stack([strongest, second, third], -1)[:, : values.shape[1]], wrong

    if {"signal_intensity", "decoy_intensity", "weakest_intensity"} <= names:
        three = ("signal_intensity", "decoy_intensity", "weakest_intensity")
        values, wrong = descending(np.stack([drawn[f"settings.{n}"] for n in three], -1))
        for i, name in enumerate(three):
            put(name, values[:, i], wrong)
    if "intensities" in names:
        put("intensities", *descending(drawn["settings.intensities"]))
        parts = drawn["settings.probabilities"]
        put("probabilities", rng.dirichlet(np.ones(parts.shape[-1]), cases), np.abs(parts.sum(-1) - 1) > 1e-9)
    if "weak_intensity" in names:
        decoy, weak = (drawn[f"settings.{n}_intensity"] for n in ("decoy", "weak"))
        wrong = (weak <= 0) | (decoy <= weak)
        put("decoy_intensity", np.maximum(decoy, 1e-6), wrong)
        put("weak_intensity", np.maximum(decoy, 1e-6) * rng.uniform(1e-3, 0.9, cases), wrong)
        three = ("signal_prob" if "signal_prob" in names else "key_window_prob", "decoy_prob", "weak_prob")
        too_many = sum(drawn[f"settings.{n}"] for n in three) > 1
        parts = rng.dirichlet(np.ones(4), cases)
        for i, name in enumerate(three):
            put(name, parts[:, i], too_many)
    return s


def make(template: Any, values: dict[str, Any], prefix: str) -> Any:
    """A struct like `template` of the named values; no check, as inside a program."""
    import jax

    names = [f.name for f in dataclasses.fields(template) if not f.metadata["static"]]
    return jax.tree.unflatten(jax.tree.structure(template), [values[f"{prefix}{n}"] for n in names])


# ---- targets ------------------------------------------------------------------------------------------------------


def targets() -> Iterator[Target]:
    """Every protocol by every route that it has."""
    from qkd_gym.physics.protocols import PROTOCOLS

    for name in PROTOCOLS:
        yield from _by_hardware(name)
        yield from _by_link(name)
        yield from _by_counts(name)


def _draw_settings(rng: np.random.Generator, template: Any, cases: int) -> Values:
    return ordered(rng, fields(rng, template, cases, "settings."))


def _pulses(rng: np.random.Generator, cases: int) -> np.ndarray:
    return np.where(rng.random(cases) < 0.2, rng.choice([0.0, 1.0, 1e18], cases), 10 ** rng.uniform(0, 18, cases))


def _by_hardware(name: str) -> Iterator[Target]:
    from qkd_gym.physics.protocols import PROTOCOLS, TOPOLOGIES, Hardware

    protocol = PROTOCOLS[name]
    settings, hardware = protocol.settings(), Hardware()

    def draw(rng: np.random.Generator, cases: int) -> Values:
        drawn = fields(rng, hardware, cases, "hardware.") | _draw_settings(rng, settings, cases)
        # half of the links of a length that makes key, so that the bound is put to the test
        near = rng.random(cases) < 0.5
        drawn["hardware.channel_loss_db"] = np.where(
            near, rng.choice([0.0, 1e-3, 0.2, 1.0, 10.0, 30.0], cases), drawn["hardware.channel_loss_db"]
        )
        return drawn | {"pulses": _pulses(rng, cases)}

    def bound(values: Values) -> np.ndarray:
        loss = values["hardware.channel_loss_db"].astype(np.float64)
        loss = loss if protocol.topology == TOPOLOGIES[0] else loss / 2
        nepers = loss * math.log(10) / 10
        with np.errstate(divide="ignore"):  # in either form one digit after another goes, at its own end
            return -np.where(nepers < 0.5, np.log(-np.expm1(-nepers)), np.log1p(-np.exp(-nepers))) / math.log(2)

    def endless(values: dict[str, Any]) -> Any:
        return protocol.key_rate(make(settings, values, "settings."), make(hardware, values, "hardware."))

    def block(values: dict[str, Any]) -> Any:
        chosen, devices = make(settings, values, "settings."), make(hardware, values, "hardware.")
        return protocol.finite_key_rate(chosen, devices, values["pulses"])

    yield Target(name, "hardware", "endless", draw, endless, bound=bound)
    if protocol.has_finite_key_rate:
        yield Target(name, "hardware", "block", draw, block, bound=bound)


def _by_link(name: str) -> Iterator[Target]:
    """The module's own functions of settings and link, over the link's whole range."""
    from qkd_gym.physics import bbm92, cv_gg02, decoy_bb84, device_independent, dps, mdi, mode_pairing
    from qkd_gym.physics import twin_field_cal19 as cal19
    from qkd_gym.physics import twin_field_sns as sns

    functions: dict[str, list[tuple[str, Any, Any, Callable[..., Any]]]] = {
        "bb84-decoy": [
            (
                method,
                decoy_bb84.DecoySettings(),
                decoy_bb84.DecoyLink(),
                lambda s, k, m=method: decoy_bb84.key_rate(s, k, m),
            )
            for method in decoy_bb84.METHODS
        ],
        "mdi": [("endless", mdi.MdiSettings(), mdi.MdiLink(), mdi.key_rate)],
        "tf-cal19": [
            ("endless", cal19.Cal19Settings(), cal19.Cal19Link(), cal19.key_rate),
            ("4 photons known", cal19.Cal19Settings(), cal19.Cal19Link(), lambda s, k: cal19.key_rate(s, k, 4, 8)),
        ],
        "mode-pairing": [
            ("drifting", mode_pairing.ModePairingSettings(), mode_pairing.ModePairingLink(), mode_pairing.key_rate)
        ],
        "bbm92": [
            ("pulsed", bbm92.PairSettings(), bbm92.PairLink(), bbm92.key_rate),
            ("continuous", bbm92.ContinuousSettings(), bbm92.ContinuousLink(), bbm92.key_rate_continuous),
        ],
        "diqkd": [
            (
                "endless",
                device_independent.DeviceIndependentSettings(),
                device_independent.DeviceIndependentLink(),
                device_independent.key_rate,
            )
        ],
        "dps": [("endless", dps.DpsSettings(), dps.DpsLink(), dps.key_rate)],
        "tf-sns": [("endless", sns.SnsSettings(), sns.SnsLink(), sns.key_rate)],
        "tf-sns-aopp": [("endless", sns.SnsSettings(), sns.SnsLink(), lambda s, k: sns.key_rate(s, k, "aopp"))],
    }
    for detection in cv_gg02.DETECTIONS:
        functions[f"gg02-{detection}"] = [
            (receiver, cv_gg02.CvSettings(), cv_gg02.CvLink(detection=detection, receiver=receiver), cv_gg02.key_rate)
            for receiver in cv_gg02.RECEIVERS
        ]
    for what, settings, link, function in functions.get(name, []):

        def draw(rng: np.random.Generator, cases: int, settings: Any = settings, link: Any = link) -> Values:
            drawn = fields(rng, settings, cases, "settings.") | fields(rng, link, cases, "link.")
            # this door is the constructor's: out of order there is nothing to ask
            return ordered(rng, drawn, share=1.0)

        def rate(values: dict[str, Any], s: Any = settings, k: Any = link, f: Callable[..., Any] = function) -> Any:
            return f(make(s, values, "settings."), make(k, values, "link."))

        yield Target(name, "link", what, draw, rate)


def _within(struct: Any, names: Sequence[str]) -> dict[str, tuple[Any, Any, Any]]:
    """Fields of a result with the range that their own declaration states."""
    meta = {f.name: f.metadata for f in dataclasses.fields(struct)}
    return {n: (getattr(struct, n), meta[n]["low"], meta[n]["high"]) for n in names}


def _by_counts(name: str) -> Iterator[Target]:
    """Keys of counts that nothing produced."""
    import jax.numpy as jnp

    from qkd_gym.physics import finite_key, mdi
    from qkd_gym.physics import twin_field_sns as sns
    from qkd_gym.physics.protocols import PROTOCOLS

    def counts(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        some = np.floor(10 ** rng.uniform(0, 15, shape))
        n = np.where(rng.random(shape) < 0.25, rng.choice([0.0, 1.0, 2.0], shape), some)
        share = np.where(rng.random(shape) < 0.4, rng.choice([0.0, 0.5, 1.0], shape), rng.random(shape) ** 3)
        return n, np.floor(n * share)

    def security(rng: np.random.Generator, cases: int) -> Values:
        eps = 10 ** -rng.uniform(0, 30, cases)
        return {"eps": eps, "eps_cor": 10 ** -rng.uniform(0, 30, cases), "f": rng.uniform(1, 10, cases)}

    settings = PROTOCOLS[name].settings()
    if isinstance(settings, finite_key.BlockSettings):
        k = len(settings.intensities)
        analysis = finite_key.two_decoy_key if k == 3 else finite_key.one_decoy_key

        def draw(rng: np.random.Generator, cases: int) -> Values:
            drawn = _draw_settings(rng, settings, cases) | security(rng, cases)
            drawn["n_key"], drawn["m_key"] = counts(rng, (cases, k))
            drawn["n_test"], drawn["m_test"] = counts(rng, (cases, k))
            return drawn

        for statistics in ("hoeffding", "chernoff"):

            def outputs(v: dict[str, Any], statistics: str = statistics) -> dict[str, tuple[Any, Any, Any]]:
                block = finite_key.BlockCounts(v["n_key"], v["m_key"], v["n_test"], v["m_test"])
                spent = finite_key.Distillation(v["f"], v["eps"], v["eps_cor"])
                key = analysis(block, v["settings.intensities"], v["settings.probabilities"], spent, statistics)
                clicks, tests = jnp.sum(v["n_key"]), jnp.sum(v["n_test"])
                own = ("v_test_1", "gamma", "phase_error", "qber_key", "leak_bits", "raw_bits")
                return _within(key, own) | {
                    "tau_1": (key.tau_1, 0, math.inf),  # probabilities may not add up to 1 here
                    "s_key_0": (key.s_key_0, 0, clicks),
                    "s_key_1": (key.s_key_1, 0, clicks),
                    "s_test_0": (key.s_test_0, 0, tests),
                    "s_test_1": (key.s_test_1, 0, tests),
                    "secret_bits": (key.secret_bits, 0, clicks),
                }

            yield Target(name, "counts", statistics, draw, outputs=outputs)
    elif isinstance(settings, mdi.FourIntensitySettings):

        def draw_mdi(rng: np.random.Generator, cases: int) -> Values:
            drawn = _draw_settings(rng, settings, cases) | security(rng, cases) | {"pulses": _pulses(rng, cases)}
            drawn["n_key"], drawn["m_key"] = counts(rng, (cases,))
            drawn["n_test"], drawn["m_test"] = counts(rng, (cases, len(mdi.TEST_PAIRS)))
            return drawn

        def outputs_mdi(v: dict[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
            block = mdi.FourIntensityCounts(v["n_key"], v["m_key"], v["n_test"], v["m_test"])
            spent = mdi.BlockSecurity(v["eps"], v["eps_cor"])
            key = mdi.finite_key(block, make(settings, v, "settings."), v["pulses"], v["f"], spent)
            return _within(key, [f.name for f in dataclasses.fields(key)]) | {
                "n_key_11": (key.n_key_11, 0, v["n_key"]),
                "secret_bits": (key.secret_bits, 0, v["n_key"]),
            }

        yield Target(name, "counts", "chernoff", draw_mdi, outputs=outputs_mdi)
    elif isinstance(settings, sns.SnsBlockSettings):

        def draw_sns(rng: np.random.Generator, cases: int) -> Values:
            drawn = _draw_settings(rng, settings, cases) | security(rng, cases) | {"pulses": _pulses(rng, cases)}
            drawn["n_key"], drawn["m_key"] = counts(rng, (cases,))
            for kind in ("n_none", "n_weak", "n_decoy", "m_slice"):
                drawn[kind], _ = counts(rng, (cases,))
            return drawn

        def outputs_sns(v: dict[str, Any]) -> dict[str, tuple[Any, Any, Any]]:
            names = ("n_key", "m_key", "n_none", "n_weak", "n_decoy", "m_slice")
            block = sns.SnsCounts(*(v[n] for n in names))
            spent = sns.BlockSecurity(v["eps"], v["eps_cor"])
            key = sns.finite_key(block, make(settings, v, "settings."), v["pulses"], v["f"], spent)
            return _within(key, [f.name for f in dataclasses.fields(key)]) | {
                "n_untagged": (key.n_untagged, 0, v["n_key"]),
                "secret_bits": (key.secret_bits, 0, v["n_key"]),
            }

        yield Target(name, "counts", "chernoff", draw_sns, outputs=outputs_sns)


# ---- the search ---------------------------------------------------------------------------------------------------


def search(target: Target, cases: int, precision: str, seed: int = 0, examples: int = 2) -> Finding:
    """Run one target; equal seeds give equal cases, whatever the precision."""
    import jax

    start = time.perf_counter()
    drawn = target.draw(np.random.default_rng(seed), cases)
    with jax.enable_x64(precision == "float64"):
        values = {k: v.astype(precision) for k, v in drawn.items()}
        results = _evaluate(target, values, cases)
    found: dict[str, np.ndarray] = {}
    lost = np.zeros(cases, bool)
    if target.rate is not None:
        rate = results.pop("rate")
        found["rate not finite"] = ~np.isfinite(rate)
        for name, slope in results.items():
            bad = ~np.isfinite(slope.reshape(cases, -1)).all(-1)
            if precision == "float64":
                found[f"derivative by {name} not finite"] = bad
            else:
                lost |= bad
        reported = np.maximum(rate, 0)
        found["reported rate negative"] = reported < 0
        positive = float(np.mean(reported > 0))
        if target.bound is not None:
            found["rate above its bound"] = reported > target.bound(values) * (1 + SLACK[precision])
    else:
        for name, (value, low, high) in results.items():
            found[f"{name} not finite"] = ~np.isfinite(value)
            room = SLACK[precision] * np.abs(high, where=np.isfinite(high), out=np.zeros_like(value))
            found[f"{name} outside its range"] = (value < low) | (value > high + room)
        positive = float(np.mean(results["secret_bits"][0] > 0))
    shown = []
    for kind, where in found.items():
        for i in np.flatnonzero(where)[:examples]:
            shown.append((kind, {k: v[i] for k, v in values.items()}))
    counts = {kind: int(where.sum()) for kind, where in found.items() if where.any()}
    return Finding(target, precision, cases, time.perf_counter() - start, positive, int(lost.sum()), counts, shown)


def _evaluate(target: Target, values: Values, cases: int) -> dict[str, Any]:
    """All cases in chunks of one compiled program."""
    import jax
    import jax.numpy as jnp

    if target.rate is not None:

        def program(v: dict[str, Any]) -> dict[str, Any]:
            rate, slopes = jax.value_and_grad(target.rate)(v)
            return slopes | {"rate": rate}

    else:
        assert target.outputs is not None

        def program(v: dict[str, Any]) -> dict[str, Any]:
            return {k: tuple(jnp.asarray(x) for x in xs) for k, xs in target.outputs(v).items()}

    compiled = jax.jit(jax.vmap(program))
    size = min(CHUNK, cases)
    parts = []
    for first in range(0, cases, size):
        rows = np.arange(first, first + size) % cases  # the last chunk is filled up from the start
        part = compiled({k: jnp.asarray(v[rows]) for k, v in values.items()})
        parts.append(jax.tree.map(np.asarray, part))
    return jax.tree.map(lambda *x: np.concatenate(x)[:cases], *parts)


def main(argv: Sequence[str] | None = None) -> int:
    from qkd_gym.physics.protocols import PROTOCOLS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validation.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="protocols: " + ", ".join(PROTOCOLS),
    )
    parser.add_argument("--cases", type=int, default=CASES, help="of each target and precision (default: 10000)")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, metavar="NAME", help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.cases < 1:
        parser.error(f"--cases {args.cases}: at least one case is needed")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    chosen = [t for t in targets() if args.protocol is None or t.protocol in args.protocol]
    form = "{:<20} {:<9} {:<16} {:<9} {:>7} {:>8} {:>7} {:>7} {:>6}"
    print(form.format("protocol", "route", "what", "precision", "cases", "with key", "slopes", "finds", "s"))
    total, found = 0, []
    for target in chosen:
        for precision in PRECISIONS:
            result = search(target, args.cases, precision, args.seed)
            total += result.cases
            found += [result] if result.counts else []
            row = (target.protocol, target.route, target.what, precision, result.cases, f"{result.positive:.1%}")
            print(form.format(*row, result.lost, sum(result.counts.values()), f"{result.seconds:.1f}"), flush=True)
    for result in found:
        t = result.target
        print(f"\n{t.protocol}, {t.route}, {t.what}, {result.precision}:")
        for kind, count in result.counts.items():
            print(f"  {kind}: {count} of {result.cases}")
        for kind, case in result.examples:
            inputs = ", ".join(f"{k}={np.array2string(np.asarray(v), precision=9)}" for k, v in case.items())
            print(f"    {kind}: {inputs}")
    verdict = f"{len(found)} runs found something" if found else "nothing found"
    print(f"\n{total} cases, {len(chosen)} targets: {verdict}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

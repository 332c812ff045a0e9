"""What single precision costs, and what a compiled batch gains."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.validation import golden
from benchmarks.validation.table import read
from qkd_gym.physics import decoy_bb84, finite_key
from qkd_gym.physics.protocols import PROTOCOLS, Hardware

TABLES = Path(__file__).parents[2] / "tests" / "golden"


@dataclasses.dataclass(frozen=True)
class Loss:
    """Largest error of float32 over many links, as a share of a scale that the user can see."""

    what: str
    scale: str
    largest: float
    median: float


def task_links(n: int, seed: int = 0) -> Hardware:
    """Links as the tasks have them: 0 to 40 dB, gated APDs to SNSPDs, errors of 0.2 to 5 %."""
    rng = np.random.default_rng(seed)
    return Hardware(
        channel_loss_db=rng.uniform(0, 40, n),
        receiver_loss_db=rng.uniform(0, 4, n),
        detector_efficiency=rng.uniform(0.1, 0.9, n),
        dark_count_prob_per_gate=10 ** rng.uniform(-9, -5, n),
        misalignment_error=rng.uniform(0.002, 0.05, n),
        error_correction_efficiency=rng.uniform(1.05, 1.3, n),
        homodyne_efficiency=rng.uniform(0.5, 0.9, n),
        excess_noise=rng.uniform(0.0, 0.03, n),
        electronic_noise=rng.uniform(0.005, 0.05, n),
        reconciliation_efficiency=rng.uniform(0.9, 0.97, n),
    )


def gain(name: str, settings: Any, hardware: Hardware) -> Any:
    """What the rate of a protocol is a part of: clicks per use, or the mutual information."""
    from qkd_gym.physics import cv_gg02

    protocol = PROTOCOLS[name]
    seen = protocol.observe(settings, hardware)
    if name.startswith("gg02"):
        return cv_gg02.mutual_information(settings, protocol.link(hardware))
    if name.startswith("bb84-") and name != "bb84-decoy":
        return jnp.sum(seen.click * jnp.asarray(settings.probabilities, seen.click.dtype), axis=-1)
    if name == "bb84-decoy":
        return seen.gain[..., 0]
    if name in ("mdi-four-intensity", "tf-sns-decoy"):
        return seen.n_key
    if name == "mdi":
        return seen.gain_z
    if name == "mode-pairing":
        return seen.pairing_rate
    if name == "tf-cal19":
        return 2 * seen.gain
    if name == "diqkd":
        return jnp.ones_like(seen.qber)
    return seen.gain


def in_both(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """`function` of float32 inputs in float32, and of the same numbers in float64, as NumPy arrays."""
    rounded = jax.tree.map(lambda x: np.asarray(x, np.float32), arguments)
    with jax.enable_x64(False):
        single = jax.tree.map(np.asarray, jax.jit(function)(*rounded))
    with jax.enable_x64(True):
        double = jax.jit(function)(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), rounded))
        return single, jax.tree.map(np.asarray, double)


def rate_losses(n: int = 4096) -> list[Loss]:
    """Rates of every protocol over the tasks' links, as shares of the clicks or of the mutual information."""
    links = task_links(n)
    found = []
    for protocol in PROTOCOLS.values():
        settings = protocol.settings()
        scale_name = "mutual information" if protocol.name.startswith("gg02") else "clicks per use"
        pulses = np.full(n, 1e12)

        def evaluate(h: Hardware, pulses: Any, p: Any = protocol, s: Any = settings) -> tuple[Any, ...]:
            blocks = (p.finite_key_rate(s, h, pulses),) if p.has_finite_key_rate else ()
            return p.key_rate(s, h), gain(p.name, s, h), *blocks

        single, double = in_both(evaluate, links, pulses)
        what = ("key rate", None, "finite key rate, 1e12 uses")
        for i in (0, 2)[: len(double) - 1]:
            error = np.abs(single[i] - double[i]) / np.maximum(double[1], np.finfo(np.float32).tiny)
            found.append(Loss(f"{protocol.name}: {what[i]}", scale_name, float(error.max()), float(np.median(error))))
    return found


def block_losses(n: int = 4096) -> list[Loss]:
    """Parts of the decoy analyses, over the tasks' links and blocks of 1e9 to 1e12 pulses."""
    links, rng = task_links(n), np.random.default_rng(1)
    pulses = 10 ** rng.uniform(9, 12, n)

    def parts(h: Hardware, pulses: Any) -> dict[str, tuple[Any, Any]]:
        protocol = PROTOCOLS["bb84-two-decoy"]
        settings, link = protocol.settings(), protocol.link(h)
        counts = finite_key.counts_of(settings, link, pulses)
        key = finite_key.two_decoy_key(counts, settings.intensities, settings.probabilities)
        clicks, tests = jnp.sum(counts.n_key, -1), jnp.sum(counts.n_test, -1)
        decoys, chosen = PROTOCOLS["bb84-decoy"].link(h), decoy_bb84.DecoySettings()
        signal, decoy = (decoy_bb84.observe(mu, decoys) for mu in (0.48, 0.05))
        y1, e1 = decoy_bb84.vacuum_weak_bounds(chosen, signal, decoy, decoys.background_yield)
        return {
            "two decoys: single photons in the key|clicks": (key.s_key_1, clicks),
            "two decoys: single-photon errors in the test|clicks of the test": (key.v_test_1, tests),
            "two decoys: phase error|1": (key.phase_error, jnp.ones_like(clicks)),
            "two decoys: leak|clicks": (key.leak_bits, clicks),
            "endless: gain|itself": (signal.gain, signal.gain),
            "endless: bound on Y₁|itself": (y1, jnp.abs(y1)),
            "endless: bound on e₁|1": (e1, jnp.ones_like(e1)),
        }

    single, double = in_both(parts, links, pulses)
    found = []
    for name, (value, scale) in double.items():
        what, unit = name.split("|")
        error = np.abs(single[name][0] - value) / scale
        found.append(Loss(what, unit, float(np.nanmax(error)), float(np.nanmedian(error))))
    return found


def table_losses() -> list[tuple[str, str, float, float]]:
    """`(table, its worst column, relative error, absolute error)` of every reference table recomputed in float32."""
    found = []
    for path in sorted(glob.glob(str(TABLES / "*.csv"))):
        comparisons = golden.recompute(read(path), "float32")
        worst = max(comparisons, key=lambda c: np.nan_to_num(c.relative, nan=0.0))
        found.append((Path(path).stem, worst.column, worst.relative, worst.absolute))
    return found


# ---- speed --------------------------------------------------------------------------------------------------------


def speeds(
    rounds: int, batch: int = 65_536
) -> tuple[dict[str, float], Mapping[str, float], tuple[float, float, float]]:
    """`(rates per second and protocol, keys per second of the race, its ratio (median, lowest, highest))`.

    The race is `benchmarks.throughput`'s: batched two-decoy keys against the same in scalar NumPy.
    """
    import statistics
    import time

    from benchmarks.throughput import races
    from benchmarks.throughput.contest import alternate, ratio

    race = races.finite_keys(batch)
    seconds = alternate(race.contestants, rounds)
    rates = {name: 1 / statistics.median(s) for name, s in seconds.items()}
    per_protocol = {}
    size = batch // 8  # photon-number yields take some kilobytes a link
    links = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), task_links(size))
    for protocol in PROTOCOLS.values():
        settings = protocol.settings()
        kinds: Sequence[tuple[str, Callable[..., Any]]] = [
            ("endless", lambda h, p=protocol, s=settings: p.key_rate(s, h))
        ]
        if protocol.has_finite_key_rate:
            kinds = [*kinds, ("block", lambda h, p=protocol, s=settings: p.finite_key_rate(s, h, 1e12))]
        for kind, function in kinds:
            compiled = jax.jit(function)
            jax.block_until_ready(compiled(links))
            taken = []
            for _ in range(rounds):
                start = time.perf_counter()
                jax.block_until_ready(compiled(links))
                taken.append(time.perf_counter() - start)
            per_protocol[f"{protocol.name}|{kind}"] = size / statistics.median(taken)
    return per_protocol, rates, ratio(seconds, race.ours, race.theirs)

"""The report's pictures. Colours are those of Okabe and Ito; no picture needs its colours to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.validation import experiments
from benchmarks.validation.agreement import Comparison
from qkd_gym.physics import decoy_bb84
from qkd_gym.physics import twin_field_sns as sns
from qkd_gym.physics.information import plob_bound_from_loss
from qkd_gym.physics.protocols import PROTOCOLS, Hardware, repeaterless_bound

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#888888",
)  # fmt: skip


def _plot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _finish(figure: Any, path: Path) -> None:
    for axis in figure.axes:
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.grid(color="#e8e8e8", linewidth=0.7)
        axis.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    _plot().close(figure)


def _positive(rate: Any) -> np.ndarray:
    """Rates for a logarithmic axis: what is no key is not drawn."""
    values = np.asarray(rate, float)
    return np.where(values > 0, values, np.nan)


def agreement(comparisons: Sequence[Comparison], path: Path) -> None:
    """Counted over computed with the 99 % interval, a panel for each quantity's scale."""
    plt = _plot()
    tight = [c for c in comparisons if _width(c) < 0.12]
    loose = [c for c in comparisons if _width(c) >= 0.12]
    rows = max(len(tight), len(loose), 1)
    figure, axes = plt.subplots(1, 2, figsize=(15.5, 1.2 + 0.24 * rows), layout="constrained")
    for axis, group in zip(axes, (tight, loose), strict=True):
        for y, c in enumerate(group):
            low, high = (x / c.ours for x in c.interval)
            colour = BLUE if c.inside else RED
            axis.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot(
                c.counted.rate / c.ours, y, "o" if c.inside else "X", color=colour, markersize=4 + 3 * (not c.inside)
            )
        axis.axvline(1, color=BLACK, linewidth=0.9)
        axis.set_yticks(
            range(len(group)), [f"{c.point}: {c.quantity}{', again' if c.again else ''}" for c in group], fontsize=8
        )
        axis.set_ylim(len(group) - 0.4, -0.6)
        axis.set_xlabel("counted / closed form, 99 % interval")
    axes[0].set_title("narrow intervals", fontsize=10)
    axes[1].set_title("wide intervals: rare events", fontsize=10)
    _finish(figure, path)


def _width(c: Comparison) -> float:
    low, high = c.interval
    return (high - low) / c.ours


def bb84(path: Path) -> None:
    """Rates of the GYS receiver with the published reaches, and blocks of Lim 2014."""
    plt = _plot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    length = np.linspace(0, 150, 301)
    settings = decoy_bb84.DecoySettings(0.48, 0.05, 0.0)
    for method, label, colour, style in (
        ("infinite", "endless decoys, μ = 0.48", BLUE, "-"),
        ("vacuum+weak", "vacuum and weak decoy 0.05, μ = 0.48", ORANGE, "--"),
    ):
        rate = jax.jit(lambda link, m=method: decoy_bb84.key_rate(settings, link, m))(experiments.gys(length))
        left.semilogy(length, _positive(rate), style, color=colour, label=label)
    rate = jax.jit(lambda link: decoy_bb84.optimal_rate(link, "none"))(experiments.gys(length))[1]
    left.semilogy(length, _positive(rate), ":", color=GREEN, label="no decoys, best μ")
    for reach, colour in ((142.05, BLUE), (140.55, ORANGE), (30.0, GREEN)):
        left.axvline(reach, color=colour, linewidth=0.8)
        left.plot(reach, 1.6e-8, marker="v", color=colour, markersize=8, clip_on=False)
    left.plot([], [], "v", color=GREY, label="published reach (no decoys: about 30 km)")
    left.set(xlabel="fibre of 0.21 dB/km, km", ylabel="key, bit per pulse", ylim=(1e-8, 1e-2))
    left.set_title("Gobby, Yuan, Shields 2004, as in Ma et al. 2005", fontsize=10)
    left.legend(fontsize=8.5, frameon=False, loc="upper right", bbox_to_anchor=(0.92, 1.0))
    lengths = np.concatenate([np.arange(0.0, 110.0, 10.0), np.arange(110.0, 187.0, 2.0)])
    for s, colour in zip((4, 5, 6, 7, 9), (GREEN, SKY, PURPLE, ORANGE, BLUE), strict=True):
        rate = experiments.lim_optimum(jnp.asarray(lengths), 10.0**s)
        right.semilogy(lengths, _positive(rate), "-", color=colour, label=f"1e{s} clicks")
    right.axvline(135, color=GREEN, linewidth=0.8)
    right.plot(135, 1.6e-9, "v", color=GREEN, markersize=8, clip_on=False)
    right.plot([], [], "v", color=GREY, label="published reach of 1e4 clicks")
    right.set(xlabel="fibre of 0.2 dB/km, km", ylabel="key, bit per pulse", ylim=(1e-9, 1e-1))
    right.set_title("Two decoys, finite blocks, best settings: Lim et al. 2014", fontsize=10)
    right.legend(fontsize=8.5, frameon=False)
    _finish(figure, path)


def twin_field(path: Path) -> None:
    """Sending or not sending: reach by misalignment, PLOB, and the record of 1002 km."""
    plt = _plot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    best = jax.jit(sns.optimal_rate, static_argnames="method")
    length = np.linspace(0, 760, 153)
    cases = ((0.15, 700, BLUE), (0.25, 600, GREEN), (0.35, 500, ORANGE), (0.45, 300, RED))
    for error, reach, colour in cases:
        rate = best(experiments.sns_link(length, error))[2]
        left.semilogy(length, _positive(rate), color=colour, label=f"e_d = {error:.0%}")
        left.axvline(reach, color=colour, linewidth=0.8)
        left.plot(reach, 2.5e-13, "v", color=colour, markersize=8, clip_on=False)
    left.plot([], [], "v", color=GREY, label="published: exceeds")
    left.semilogy(length, plob_bound_from_loss(0.2 * length + 1e-9), ":", color=BLACK, label="PLOB, fibre only")
    left.set(xlabel="fibre of 0.2 dB/km, km", ylabel="key, bit per window", ylim=(1e-13, 1))
    left.set_title("Sending or not sending, best settings: Wang, Yu, Hu 2018", fontsize=10)
    left.legend(fontsize=8.5, frameon=False)
    length = np.linspace(200, 1150, 191)
    for method, label, style in (("plain", "without pairing", "-"), ("aopp", "with odd-parity pairing", "--")):
        rate = best(experiments.liu2023(length), method=method)[2]
        right.semilogy(length, _positive(rate), style, color=BLUE, label=f"model, {label}")
    loss = experiments.LIU_DB_PER_KM * length
    right.semilogy(length, plob_bound_from_loss(loss), ":", color=BLACK, label="PLOB, fibre only")
    right.semilogy(experiments.LIU_KM, experiments.LIU_RATE, "o", color=RED, markersize=8, label="measured, 1002 km")
    right.set(xlabel=f"fibre of {experiments.LIU_DB_PER_KM} dB/km, km", ylabel="key, bit per pulse", ylim=(1e-14, 1e-2))
    right.set_title("Liu et al. 2023; detectors and misalignment of the model are guesses", fontsize=10)
    right.legend(fontsize=8.5, frameon=False)
    _finish(figure, path)


#: Line of each protocol on the common hardware.
_STYLES: Mapping[str, tuple[str, str]] = {
    "bb84-decoy": (BLUE, "-"), "mdi": (GREEN, "-"), "bbm92": (PURPLE, "-"), "dps": (SKY, "-"),
    "gg02-homodyne": (ORANGE, "-"), "gg02-heterodyne": (ORANGE, "--"), "tf-cal19": (RED, "-"), "tf-sns": (RED, "--"),
    "tf-sns-aopp": (RED, "-."), "mode-pairing": (GREEN, "--"),
}  # fmt: skip


def common_hardware(path: Path) -> None:
    """Every protocol at its best settings on one hardware, with the bounds."""
    plt = _plot()
    figure, axis = plt.subplots(figsize=(9, 5.6), layout="constrained")
    loss = np.linspace(0.05, 110, 221)
    links = jax.tree.map(lambda x: np.broadcast_to(x, loss.shape), Hardware(channel_loss_db=loss))
    for name, (colour, style) in _STYLES.items():
        rate = jax.jit(PROTOCOLS[name].optimal_rate)(links)[1]
        axis.semilogy(loss, _positive(rate), style, color=colour, label=PROTOCOLS[name].title)
    axis.semilogy(loss, repeaterless_bound(links), ":", color=BLACK, label="PLOB of the channel")
    axis.semilogy(loss, plob_bound_from_loss(loss / 2), ":", color=GREY, label="bound with a node in the middle")
    axis.set(xlabel="loss of the channel, dB", ylabel="key, bit per use", ylim=(1e-10, 10), xlim=(0, 110))
    axis.legend(fontsize=8, frameon=False, loc="upper right", ncols=1)
    _finish(figure, path)

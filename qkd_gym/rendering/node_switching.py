"""Picture of `qkd/NodeSwitching-v0`: the switch and its pairs, every pair's store, who met whom all day, the value."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

_SERVED, _LOST, _RELOCK, _INK, _FAINT = "#2a8c4a", "#c8322b", "#4a4f57", "#2b3440", "#d9dee5"


def receiver_colours(number: int) -> np.ndarray:
    """One colour for each receiver, float `(number, 3)`."""
    names = colormaps["tab10" if number <= 10 else "tab20"]
    return np.array([to_rgb(names(j)) for j in range(number)])


class Renderer:
    """Draws one episode; see `qkd_gym.rendering`."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._colours = receiver_colours(env.num_receivers)
        self._episode: Any = None
        self._strip: list[np.ndarray] = []  # per step, `(n, 3)`
        self._value: list[tuple[float, float]] = []  # drawn, asked for; bits
        self._relock = 0.0
        self._figure = Figure(figsize=(10.2, 6.2), dpi=100, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        self._episode = episode
        if action is None:
            return
        state = episode.state
        held = np.asarray(state.held).astype(float)
        colour = held @ self._colours
        locking = np.asarray(state.relock_left)[:, None] > 0
        colour = np.where(locking, 0.35 * colour + 0.65, colour)
        self._strip.append(np.where(held.any(axis=1, keepdims=True), colour, 1.0))
        self._value.append((float(info["secret_bits"]), float(info["demand_bits"])))
        self._relock += float(info["relock_min"])

    def frame(self) -> np.ndarray:
        if self._episode is None:
            raise ValueError("there is nothing to draw yet: add() the first state of an episode")
        figure, params = self._figure, self._episode.params
        figure.clear()
        grid = figure.add_gridspec(
            3, 2, width_ratios=(1.0, 1.25), height_ratios=(1.15, 1.0, 1.0), left=0.015, right=0.975, top=0.85,
            bottom=0.085, hspace=0.52, wspace=0.13,
        )  # fmt: skip
        self._draw_switch(figure.add_subplot(grid[:, 0]))
        self._draw_stores(figure.add_subplot(grid[0, 1]))
        strip, value = figure.add_subplot(grid[1, 1]), figure.add_subplot(grid[2, 1])
        steps, span = len(self._value), int(params.max_steps_in_episode)
        self._draw_strip(strip, span)
        self._draw_value(value, span)
        hour = (float(params.start_hour) + steps / 60) % 24
        figure.text(0.02, 0.945, "Node switching", fontsize=15, weight="bold", color=_INK)
        head = f"scenario {self._env.scenario}   minute {steps} of {span}   {int(hour):02d}:{int(hour % 1 * 60):02d} h"
        figure.text(0.02, 0.905, head, fontsize=9.5, color="0.35")
        if steps:
            drawn, asked = np.sum(self._value, axis=0)
            text = f"demand served so far {drawn / max(asked, 1.0):.1%}"
            figure.text(0.975, 0.945, text, fontsize=13, color=_SERVED, ha="right")
            share = self._relock / (steps * self._env.num_transmitters)
            figure.text(0.975, 0.905, f"port time in relock: {share:.0%}", fontsize=9.5, color="0.35", ha="right")
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_switch(self, axes: Any) -> None:
        """Two columns of ports; pairs as lines, dashed while they relock, with the open block as a bar upon them."""
        state, params = self._episode.state, self._episode.params
        n, m = np.shape(state.level)
        left, right = 0.85 - 1.7 * (np.arange(n) + 0.5) / n, 0.85 - 1.7 * (np.arange(m) + 0.5) / m
        axes.set_xlim(-1.35, 1.35)
        axes.set_ylim(-1.2, 1.05)
        axes.axis("off")
        axes.add_patch(Rectangle((-0.5, -0.88), 1.0, 1.76, facecolor="#f5f7fa", edgecolor=_FAINT, lw=1.2, zorder=0))
        axes.text(0, 0.93, "optical switch", ha="center", fontsize=9, color="0.45")
        axes.text(-1.0, 0.93, "transmitters", ha="center", fontsize=9, color="0.45")
        axes.text(1.0, 0.93, "receivers", ha="center", fontsize=9, color="0.45")
        for y in left:
            axes.plot([-0.88, -0.5], [y, y], color="0.75", lw=1.5, zorder=1)
        for y in right:
            axes.plot([0.5, 0.88], [y, y], color="0.75", lw=1.5, zorder=1)
        held, waits = np.asarray(state.held), np.asarray(state.relock_left)
        fill = np.asarray(state.progress) / max(round(float(params.block_min)), 1)
        for i in range(n):
            if not held[i].any():
                axes.text(-0.47, left[i], "idle", fontsize=8, color="0.5", va="center")
                continue
            j = int(np.argmax(held[i]))
            ends = np.array([[-0.5, left[i]], [0.5, right[j]]])
            if waits[i] > 0:
                axes.plot(*ends.T, color=_RELOCK, lw=2.4, ls=(0, (2.2, 1.6)), zorder=3)
                at = ends[0] + 0.25 * (ends[1] - ends[0])
                axes.text(*at, f"{waits[i]} min", fontsize=7.5, color=_RELOCK, ha="center", va="center", zorder=5,
                          bbox=dict(facecolor="white", edgecolor="none", pad=1.0))  # fmt: skip
            else:
                axes.plot(*ends.T, color=self._colours[j], lw=2.0, alpha=0.45, zorder=2)
                upto = np.stack([ends[0], ends[0] + fill[i] * (ends[1] - ends[0])])
                axes.plot(*upto.T, color=self._colours[j], lw=5.5, zorder=3, solid_capstyle="butt")
        km = [np.broadcast_to(np.asarray(x), k) for x, k in ((params.transmitter_km, n), (params.receiver_km, m))]
        size = 400 if max(n, m) <= 6 else 180
        axes.scatter(np.full(n, -1.0), left, s=size, color="white", edgecolors=_INK, linewidths=1.3, zorder=4)
        axes.scatter(np.full(m, 1.0), right, s=size, color=self._colours, edgecolors=_INK, linewidths=1.3, zorder=4)
        for i, y in enumerate(left):
            axes.text(-1.0, y, f"tx{i}", ha="center", va="center", fontsize=8, color=_INK, zorder=6)
            axes.text(-0.69, y + 0.045, f"{km[0][i]:.0f} km", ha="center", fontsize=7, color="0.45")
        for j, y in enumerate(right):
            axes.text(1.0, y, f"rx{j}", ha="center", va="center", fontsize=8, color="white", zorder=6, weight="bold")
            axes.text(0.69, y + 0.045, f"{km[1][j]:.0f} km", ha="center", fontsize=7, color="0.45")
        marks = [
            Line2D([], [], color="0.4", lw=5, label="open block, so far"),
            Line2D([], [], color=_RELOCK, lw=2.4, ls=(0, (2.2, 1.6)), label="relocking"),
        ]
        axes.legend(handles=marks, loc="lower center", ncols=2, fontsize=8, frameon=False)

    def _draw_stores(self, axes: Any) -> None:
        """A bar for every pair, in groups by transmitter; above it the recent demand if that is large."""
        state = self._episode.state
        level, capacity = np.asarray(state.level), np.maximum(np.asarray(state.capacity), 1)
        n, m = level.shape
        fill = level / capacity
        busy = np.asarray(state.recent) / np.maximum(np.asarray(state.mean), 1e-3)
        for i in range(n):
            x = i + 0.12 + 0.76 * (np.arange(m) + 0.5) / m
            width = 0.66 / m
            axes.bar(x, 1.0, width, color=_FAINT, alpha=0.55, zorder=1)
            axes.bar(x, fill[i], width, color=self._colours, zorder=2)
            dry = level[i] <= np.asarray(state.mean)[i]
            axes.plot(x[dry], np.full(dry.sum(), 0.045), ls="", marker="x", ms=5, mew=1.6, color=_LOST, zorder=4)
            for k in np.flatnonzero(busy[i] > 1.8):
                axes.text(x[k], 1.03, f"×{busy[i, k]:.0f}", fontsize=6.5 if m > 4 else 7.5, ha="center", color=_LOST)
        axes.set_xlim(0, n)
        axes.set_ylim(0, 1.17)
        axes.set_xticks(np.arange(n) + 0.5, [f"tx{i}" for i in range(n)], fontsize=8)
        axes.set_yticks([0, 0.5, 1], ["empty", "half", "full"], fontsize=8)
        axes.tick_params(length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        title = "stores of key, by receiver; × dry; ×n: demand of the last 10 min over its mean"
        axes.set_title(title, fontsize=9.5, loc="left")

    def _draw_strip(self, axes: Any, span: int) -> None:
        n = self._env.num_transmitters
        picture = np.ones((n, span, 3))
        if self._strip:
            seen = np.stack(self._strip[:span], axis=1)
            picture[:, : seen.shape[1]] = seen
        axes.imshow(picture, aspect="auto", interpolation="nearest", extent=(0, span / 60, n - 0.5, -0.5))
        for i in range(n - 1):
            axes.axhline(i + 0.5, color="white", lw=2)
        axes.set_yticks(range(n), [f"tx{i}" for i in range(n)], fontsize=8)
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        axes.set_title(
            "who met whom: receivers by their colour on the left, pale while relocking", fontsize=9.5, loc="left"
        )

    def _draw_value(self, axes: Any, span: int) -> None:
        """Demand and what was served of it, means over a quarter of an hour."""
        rates = np.array(self._value).reshape(-1, 2) / 60e6
        window = 15
        if len(rates) >= window:
            total = np.concatenate([np.zeros((1, 2)), np.cumsum(rates, axis=0)])
            rates = (total[window:] - total[:-window]) / window
            time = (np.arange(len(rates)) + window) / 60
        else:
            time = (np.arange(len(rates)) + 1) / 60
        axes.plot(time, rates[:, 1], color="0.45", lw=1.2, label="asked for")
        axes.plot(time, rates[:, 0], color=_SERVED, lw=1.6, label="served")
        axes.fill_between(time, rates[:, 0], rates[:, 1], color=_LOST, alpha=0.18, lw=0, label="lost")
        axes.set_xlim(0, span / 60)
        axes.set_ylim(0, 1.08 * float(rates.max()) if len(rates) else 1.0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("hours since the start", fontsize=9)
        axes.set_title("demand of all pairs, Mbit/s", fontsize=9.5, loc="left")
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.01, 1.0), fontsize=7.5, frameon=False, ncols=3, borderaxespad=0.1
        )

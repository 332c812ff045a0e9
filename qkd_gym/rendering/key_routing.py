"""Picture of `qkd/KeyRouting-v0`: the network with its pools, what was relayed, failures and queues, and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qkd_gym.envs.network.relay import is_high
from qkd_gym.envs.network.routes import unpack
from qkd_gym.physics.networks import shortest_lengths
from qkd_gym.topologies import Topology

_SERVED, _LOST, _HOT, _INK, _FAINT = "#2a8c4a", "#c8322b", "#f2a51a", "#2b3440", "#b8bfc8"
_POOLS = colormaps["viridis"]
_RECENT = 4  # steps for which a relay stays in sight


def layout(net: Topology, sweeps: int = 300) -> np.ndarray:
    """Places of the nodes in the plane, float64 `(nodes, 2)` within [-1, 1], such that distances are like path lengths.

    Classical scaling of the square roots of the shortest lengths, then majorisation of the stress with weights
    1/length^2 (Gansner, Koren, North, Graph Drawing 2004).
    """
    apart = np.sqrt(shortest_lengths(net.length_matrix_km))
    n = len(apart)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ apart**2 @ centre)
    at = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-3 * values[-1]))
    off = ~np.eye(n, dtype=bool)
    weight = np.where(off, 1 / np.where(off, apart, 1) ** 2, 0)
    inverse = np.linalg.pinv(np.diag(weight.sum(axis=1)) - weight)
    for _ in range(sweeps):
        between = at[:, None] - at[None]
        distance = np.maximum(np.linalg.norm(between, axis=-1), 1e-9)
        pull = np.where(off, weight * apart / distance, 0)
        at = inverse @ ((pull.sum(axis=1)[:, None] * at) - pull @ at)
    at = at - (at.max(axis=0) + at.min(axis=0)) / 2
    return at / np.abs(at).max(axis=0)


class Renderer:
    """Draws one episode; see `qkd_gym.rendering`."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._episode: Any = None
        self._relays: list[tuple[np.ndarray, np.ndarray]] = []  # per step: times that a link was paid, was failed on
        self._value: list[tuple[float, float]] = []  # served, offered
        self._blocked: list[tuple[float, float]] = []
        self._fills: list[np.ndarray] = []
        self._places: dict[int, np.ndarray] = {}
        self._figure = Figure(figsize=(9.6, 6.0), dpi=100, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        state = episode.state
        if action is not None:
            before, chosen, paths = self._episode.state, np.asarray(action), self._env.num_paths
            tried = (chosen >= 0) & (chosen < paths)
            chosen = np.where(tried, chosen, 0)
            tried &= np.take_along_axis(np.asarray(before.legal), chosen[:, None], axis=1)[:, 0]
            words = np.take_along_axis(np.asarray(before.words), chosen[:, None, None], axis=1)[:, 0]
            on = unpack(words, self._env.num_links)
            failed = np.asarray(state.failed)
            self._relays.append((on[tried & ~failed].sum(axis=0), on[tried & failed].sum(axis=0)))
            self._value.append((float(info["served_value"]), float(info["offered_value"])))
            self._blocked.append((float(info["blocked_low"]), float(info["blocked_high"])))
        self._episode = episode
        self._fills.append(np.asarray(state.level) / np.maximum(np.asarray(state.capacity), 1))

    def frame(self) -> np.ndarray:
        if self._episode is None:
            raise ValueError("there is nothing to draw yet: add() the first state of an episode")
        figure, params = self._figure, self._episode.params
        figure.clear()
        grid = figure.add_gridspec(
            3, 2, width_ratios=(1.75, 1.0), left=0.02, right=0.975, top=0.845, bottom=0.085, hspace=0.5, wspace=0.12
        )
        routes = self._env.graphs[int(params.graph)]
        self._draw_map(figure.add_subplot(grid[:, 0]), routes)
        steps, span = len(self._value), int(params.max_steps_in_episode)
        value, pools, lost = (figure.add_subplot(grid[i, 1]) for i in range(3))
        self._draw_value(value)
        self._draw_pools(pools, routes)
        self._draw_lost(lost)
        for axes in (value, pools, lost):
            axes.set_xlim(0, span)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        lost.set_xlabel(f"step ({float(params.epoch_s):g} s each)", fontsize=9)
        figure.text(0.025, 0.945, "Key routing", fontsize=15, weight="bold")
        head = f"{routes.net.name}, scenario {self._env.scenario}   step {steps} of {span}"
        figure.text(0.025, 0.905, head, fontsize=9.5, color="0.35")
        if steps:
            served, offered = np.sum(self._value, axis=0)
            share = served / max(offered, 1.0)
            figure.text(0.975, 0.945, f"value served so far {share:.1%}", fontsize=13, color=_SERVED, ha="right")
            low, high = np.sum(self._blocked, axis=0)
            figure.text(
                0.975, 0.905, f"requests lost: {low:.0f} low, {high:.0f} high", fontsize=9.5, color="0.35", ha="right"
            )
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_map(self, axes: Any, routes: Any) -> None:
        state, graph = self._episode.state, int(self._episode.params.graph)
        if graph not in self._places:
            self._places[graph] = layout(routes.net)
        at = self._places[graph]
        ends, real = routes.ends[routes.real], np.flatnonzero(routes.real)
        lines = at[ends]
        fill, up = self._fills[-1][real], np.asarray(state.up)[real]
        rate = np.asarray(state.lump)[real] / np.asarray(state.interval)[real]
        width = 2.5 + 1.6 * np.log10(np.maximum(rate / rate.min(), 1.0))
        axes.set_xlim(-1.12, 1.12)
        axes.set_ylim(-1.3, 1.12)
        axes.axis("off")
        for which, colour, offset in ((0, _SERVED, 5.5), (1, _LOST, 5.5)):
            recent = [(relay[which][real], age) for age, relay in enumerate(self._relays[: -_RECENT - 1 : -1])]
            for count, age in reversed(recent):
                strength = 0.55 * (1 - age / _RECENT)
                hit = count > 0
                axes.add_collection(
                    LineCollection(
                        [*lines[hit]], colors=colour, linewidths=width[hit] + offset, alpha=strength, zorder=1
                    )
                )
        axes.add_collection(
            LineCollection([*lines[up]], colors=_POOLS(fill[up]), linewidths=width[up], zorder=2, capstyle="round")
        )
        axes.add_collection(
            LineCollection([*lines[~up]], colors=_POOLS(fill[~up]), linewidths=width[~up], linestyles=":", zorder=2)
        )
        for a, b in lines[~up]:
            axes.plot(*(a + b) / 2, marker="x", ms=10, mew=2.5, color=_LOST, zorder=5)
        queue = np.asarray(state.size) > 0
        high = np.asarray(is_high(state.tag)) & queue
        hot = np.asarray(state.hot)
        small = len(at) > 20
        axes.scatter(*at[hot].T, s=620 if not small else 260, color=_HOT, zorder=3)
        axes.scatter(*at.T, s=330 if not small else 130, color="white", edgecolors=_INK, linewidths=1.3, zorder=4)
        for node, (x, y) in enumerate(at):
            name = routes.net.nodes[node]
            axes.text(x, y, name[:6], ha="center", va="center", fontsize=6.5 if small else 8, color=_INK, zorder=6)
            for place in np.flatnonzero(queue[node]):
                colour = _LOST if high[node, place] else "#7d8794"
                axes.plot(x + 0.055 + 0.032 * place, y + 0.055, marker="s", ms=4.5, color=colour, zorder=6)
        marks = [
            Line2D([], [], color=_POOLS(f), lw=5, label=label)
            for f, label in ((0.02, "pool empty"), (0.5, "half"), (0.98, "full"))
        ]
        marks += [
            Line2D([], [], color=_SERVED, lw=7, alpha=0.5, label="relayed"),
            Line2D([], [], color=_LOST, lw=7, alpha=0.5, label="failed relay"),
            Line2D([], [], color=_LOST, marker="x", lw=0, mew=2, label="link down"),
            Line2D([], [], color=_HOT, marker="o", ms=9, lw=0, label="hot pair"),
            Line2D([], [], color="#7d8794", marker="s", ms=5, lw=0, label="waiting, low"),
            Line2D([], [], color=_LOST, marker="s", ms=5, lw=0, label="waiting, high"),
        ]
        axes.legend(handles=marks, loc="lower center", ncols=5, fontsize=7.5, frameon=False, columnspacing=1.2)

    def _draw_value(self, axes: Any) -> None:
        total = np.cumsum(np.array([(0.0, 0.0), *self._value]), axis=0) / 1e9
        axes.plot(total[:, 1], color="0.55", lw=1, ls="--", label="asked for")
        axes.plot(total[:, 0], color=_SERVED, lw=1.6, label="served")
        axes.fill_between(np.arange(len(total)), total[:, 0], color=_SERVED, alpha=0.2, lw=0)
        axes.set_ylim(0, max(1.05 * total[-1, 1], 1e-3))
        axes.set_title("value, Gbit x weight", fontsize=9.5, loc="left")
        axes.legend(loc="lower right", fontsize=7.5, frameon=False, borderaxespad=0.1)

    def _draw_pools(self, axes: Any, routes: Any) -> None:
        fills = 100 * np.sort(np.array(self._fills)[:, routes.real], axis=1)
        time, links = np.arange(len(fills)), fills.shape[1]
        axes.fill_between(time, fills[:, links // 10], fills[:, -1 - links // 10], color=_POOLS(0.45), alpha=0.2, lw=0)
        axes.plot(time, np.median(fills, axis=1), color=_POOLS(0.45), lw=1.4)
        axes.set_ylim(0, 102)
        axes.set_title("fill of the pools, %: median and middle 80 %", fontsize=9.5, loc="left")

    def _draw_lost(self, axes: Any) -> None:
        lost = np.cumsum(np.array([(0.0, 0.0), *self._blocked]), axis=0)
        axes.plot(lost[:, 0], color="#7d8794", lw=1.4, label="low class")
        axes.plot(lost[:, 1], color=_LOST, lw=1.4, label="high class")
        axes.set_ylim(0, max(1.05 * lost[-1].max(), 1))
        axes.set_title("requests lost", fontsize=9.5, loc="left")
        axes.legend(loc="lower right", fontsize=7.5, frameon=False, borderaxespad=0.1)

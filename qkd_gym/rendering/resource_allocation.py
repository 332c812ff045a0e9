"""Picture of `qkd/ResourceAllocation-v0`: each fibre's spectrum, slots and pool, the tenants' orders, and the value."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network.allocation import SLOTS, TENANTS, UNIT_BITS, WINDOWS

_INK, _FAINT = "#2b3440", "#d5dae0"
_COMMON, _HIGH, _CUT, _QUANTUM, _NOISE, _POOL = "#e8a33d", "#c8552b", "#9aa3ad", "#2a6fdb", "#b3261e", "#2a8c4a"
_LEAST, _MOST = 1e-6, 1e-3  # counts per gate of the noise axis
_POWERS = ("full power", "-3 dB", "-6 dB", "-9 dB")
_RELEASES = ("all", "premium, due soon", "premium only")


class Renderer:
    """Draws one episode; see `qkd_gym.rendering`."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._episode: Any = None
        self._value: list[tuple[float, float, float]] = []  # served, offered, price of what was cut off
        self._key: list[tuple[float, float]] = []  # delivered, made; Gbit
        self._figure = Figure(figsize=(12.0, 7.6), dpi=100, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        self._episode = episode
        if action is not None:
            self._value.append(tuple(float(info[k]) for k in ("served_value", "offered_value", "drop_cost")))  # type: ignore[arg-type]
            made = UNIT_BITS * float(np.sum(episode.state.made))
            self._key.append((float(info["secret_bits"]) / 1e9, made / 1e9))

    def frame(self) -> np.ndarray:
        if self._episode is None:
            raise ValueError("there is nothing to draw yet: add() the first state of an episode")
        figure, params = self._figure, self._episode.params
        figure.clear()
        links, steps, span = len(self._env.agents), len(self._value), int(params.max_steps_in_episode)
        shown = min(links, 8)
        left = figure.add_gridspec(
            shown, 3, left=0.095, right=0.665, top=0.845, bottom=0.10, hspace=0.22, wspace=0.05,
            width_ratios=(5.2, 1.0, 0.8),
        )  # fmt: skip
        for link in range(shown):
            self._draw_spectrum(figure.add_subplot(left[link, 0]), link, link == shown - 1)
            self._draw_slots(figure.add_subplot(left[link, 1]), link, link == shown - 1)
            self._draw_pool(figure.add_subplot(left[link, 2]), link, link == shown - 1)
        right = figure.add_gridspec(3, 1, left=0.745, right=0.95, top=0.845, bottom=0.10, hspace=0.42)
        self._draw_orders(figure.add_subplot(right[0]))
        self._draw_value(figure.add_subplot(right[1]), span)
        self._draw_key(figure.add_subplot(right[2]), span)
        figure.text(0.02, 0.955, "Resource allocation", fontsize=15, weight="bold")
        plan = self._env.plans[int(params.graph)]
        more = f", {shown} of {links} links shown" if shown < links else ""
        head = f"{plan.net.name}, scenario {self._env.scenario}   minute {steps} of {span}{more}"
        figure.text(0.02, 0.922, head, fontsize=9.5, color="0.35")
        if steps:
            served, offered, cost = np.sum(self._value, axis=0)
            figure.text(
                0.98, 0.955, f"served {served / max(offered, 1e-9):.0%} of the value asked for",
                fontsize=13, color=_POOL, ha="right",
            )  # fmt: skip
            figure.text(
                0.98, 0.922, f"less {cost / steps:.1%} for traffic cut off", fontsize=9.5, color="0.35", ha="right"
            )
        marks = [
            Patch(color=_COMMON, label="lightpath"),
            Patch(color=_HIGH, label="high format"),
            Patch(color=_CUT, label="cut off"),
            Line2D([], [], color=_NOISE, marker="_", lw=0, ms=11, mew=2, label="noise at each quantum place"),
            Line2D([], [], color=_QUANTUM, marker="v", lw=0, ms=8, label="quantum channel"),
            Line2D([], [], color="0.6", marker="v", lw=0, ms=8, label="relocking"),
        ]
        figure.legend(handles=marks, loc="lower left", bbox_to_anchor=(0.09, 0.0), ncols=6, fontsize=8, frameon=False)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_spectrum(self, axes: Any, link: int, last: bool) -> None:
        """Classical channels as bars, noise counts per gate at each quantum place, the quantum channel as a marker."""
        state, params = self._episode.state, self._episode.params
        lit, power = np.asarray(state.lit)[link], int(np.asarray(state.power)[link])
        common, high = (
            np.asarray(margin)[link] for margin in light.margin_db(np.asarray(state.power, np.float32), params)
        )
        quantum = np.asarray(params.quantum_nm, float)
        classical = np.asarray(params.classical_nm, float)
        c_band = quantum > 1400
        # the O band stands beside the C band, not to scale
        place = np.where(c_band, quantum, classical[0] - 3.0)
        for channel in np.flatnonzero(lit):
            is_high = lit[channel] == light.HIGH
            cut = (high if is_high else common) < 0
            colour = _CUT if cut else _HIGH if is_high else _COMMON
            height = 1.0 - 0.2 * power
            axes.add_patch(Rectangle((classical[channel] - 0.35, 0), 0.7, height, color=colour, lw=0))
        table = np.asarray(state.noise)[link] * 10 ** (-0.1 * float(params.power_step_db) * power)
        counts = np.maximum((table * (lit > 0)).sum(axis=1), _LEAST)
        height = np.clip(np.log(counts / _LEAST) / np.log(_MOST / _LEAST), 0, 1)
        axes.scatter(place, height, marker="_", s=110, color=_NOISE, linewidths=2, zorder=4)
        wave, relocking = int(np.asarray(state.wave)[link]), int(np.asarray(state.relock)[link]) > 0
        colour = "0.6" if relocking else _QUANTUM
        axes.axvline(place[wave], color=colour, lw=1.2, alpha=0.6, zorder=3)
        axes.scatter([place[wave]], [1.16], marker="v", s=55, color=colour, zorder=5, clip_on=False)
        axes.axvline(classical[0] - 1.7, color="0.75", lw=0.8, ls=":")
        axes.set_xlim(classical[0] - 4.2, classical[-1] + 1.0)
        axes.set_ylim(0, 1.28)
        axes.set_yticks([0, 1], ["1e-6", "1e-3"], fontsize=6.5)
        axes.spines[["top", "right"]].set_visible(False)
        ticks = [classical[0] - 3.0, *classical[1::2]]
        labels = ["O band", *(f"{nm:.0f}" for nm in classical[1::2])]
        axes.set_xticks(ticks, labels if last else [""] * len(ticks), fontsize=7.5)
        if last:
            axes.set_xlabel("wavelength, nm; bars: lightpaths; dashes: noise, counts per gate", fontsize=8)
        name, length = self._env.agents[link], float(np.asarray(params.length_km)[link])
        axes.text(
            -0.085, 0.5, f"{name}\n{length:.0f} km\n{_POWERS[power]}", transform=axes.transAxes, fontsize=7.5,
            ha="right", va="center", color=_INK, linespacing=1.25,
        )  # fmt: skip

    def _draw_slots(self, axes: Any, link: int, last: bool) -> None:
        """The detectors' time: own claims filled, contested ones red, those of others at the same node faint."""
        state = self._episode.state
        together = self._env.plans[int(self._episode.params.graph)].together[link] > 0
        ready = np.asarray(state.relock) == 0
        claims = WINDOWS[np.asarray(state.window)] * ready[:, None] > 0
        others = claims[together].sum(axis=0) - claims[link]
        for slot in range(SLOTS):
            mine = claims[link, slot]
            colour = (_NOISE if others[slot] else _QUANTUM) if mine else (_FAINT if others[slot] else "white")
            axes.add_patch(Rectangle((slot, 0.25), 0.92, 0.55, facecolor=colour, edgecolor="0.6", lw=0.7))
        axes.set_xlim(-0.1, SLOTS + 0.1)
        axes.set_ylim(0, 1.2)
        axes.axis("off")
        node = self._env.plans[int(self._episode.params.graph)]
        axes.text(
            SLOTS / 2, 0.86, f"at node {node.net.nodes[node.receiver[link]]}", fontsize=6.5, ha="center", color="0.4"
        )
        if last:
            axes.text(SLOTS / 2, -0.12, "time slots", fontsize=8, ha="center", va="top")
            axes.text(SLOTS / 2, -0.48, "blue own, grey other,\nred contested", fontsize=6.5, ha="center", va="top")

    def _draw_pool(self, axes: Any, link: int, last: bool) -> None:
        state = self._episode.state
        fill = float(np.asarray(state.level)[link]) / max(float(np.asarray(state.capacity)[link]), 1.0)
        axes.add_patch(Rectangle((0, 0.25), 1, 0.55, facecolor="white", edgecolor="0.6", lw=0.7))
        axes.add_patch(Rectangle((0, 0.25), fill, 0.55, color=_POOL, alpha=0.75, lw=0))
        axes.text(0.5, 0.525, f"{fill:.0%}", fontsize=7.5, ha="center", va="center", color=_INK)
        release = _RELEASES[int(np.asarray(state.release)[link])]
        axes.text(0.5, 0.86, f"to {release}", fontsize=6.5, ha="center", color="0.4")
        axes.set_xlim(-0.05, 1.05)
        axes.set_ylim(0, 1.2)
        axes.axis("off")
        if last:
            axes.text(0.5, -0.12, "pool", fontsize=8, ha="center", va="top")

    def _draw_orders(self, axes: Any) -> None:
        """What is left of each tenant's order, of its size; who is premium; time to the deadline."""
        state, params = self._episode.state, self._episode.params
        size, rest = np.maximum(np.asarray(state.size), 1), np.asarray(state.backlog)
        plan, route = self._env.plans[int(params.graph)], np.asarray(state.route) > 0
        for tenant in range(TENANTS):
            y = TENANTS - 1 - tenant
            done = 1 - rest[tenant] / size[tenant]
            premium = tenant < float(params.premium_tenants)
            axes.add_patch(Rectangle((0, y + 0.14), 1, 0.72, facecolor="white", edgecolor="0.6", lw=0.7))
            axes.add_patch(Rectangle((0, y + 0.14), done, 0.72, color=_HIGH if premium else _POOL, alpha=0.75, lw=0))
            pair = plan.pairs[int(np.asarray(params.tenant_pair)[tenant])]
            name = " - ".join(plan.net.nodes[node] for node in pair)
            hops = int(route[tenant].sum())
            axes.text(-0.03, y + 0.5, name, fontsize=7.5, ha="right", va="center")
            late = f"{UNIT_BITS / 1e6 * size[tenant]:.0f} Mbit, {hops} hop{'s' * (hops > 1)}"
            axes.text(0.02, y + 0.5, late, fontsize=6.5, va="center", color=_INK)
            axes.text(1.03, y + 0.5, f"{int(np.asarray(state.left)[tenant])} min", fontsize=7.5, va="center")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.05, TENANTS + 0.05)
        axes.axis("off")
        axes.set_title("orders: delivered, time left; red: premium", fontsize=9.5, loc="left")

    def _draw_value(self, axes: Any, span: int) -> None:
        total = np.cumsum(np.array([(0.0, 0.0, 0.0), *self._value]), axis=0)
        axes.plot(total[:, 1], color="0.55", lw=1, ls="--", label="asked for")
        axes.plot(total[:, 0], color=_POOL, lw=1.6, label="served")
        axes.plot(total[:, 0] - total[:, 2], color=_NOISE, lw=1, label="less traffic cut off")
        axes.set_ylim(0, max(1.05 * total[-1].max(), 1e-3))
        axes.set_title("value, minutes of mean demand", fontsize=9.5, loc="left")
        self._finish(axes, span)

    def _draw_key(self, axes: Any, span: int) -> None:
        key = np.cumsum(np.array([(0.0, 0.0), *self._key]), axis=0)
        axes.plot(key[:, 1], color=_QUANTUM, lw=1.4, label="made by all links")
        axes.plot(key[:, 0], color=_POOL, lw=1.4, label="delivered end to end")
        axes.set_ylim(0, max(1.05 * key.max(), 1e-3))
        axes.set_title("key so far, Gbit", fontsize=9.5, loc="left")
        axes.set_xlabel("minute", fontsize=9)
        self._finish(axes, span)

    def _finish(self, axes: Any, span: int) -> None:
        axes.set_xlim(0, span)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", fontsize=7.5, frameon=False, borderaxespad=0.1)

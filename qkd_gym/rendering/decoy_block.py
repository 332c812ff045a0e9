"""Picture of `qkd/DecoyBlock-v0`: the open block and what closing it pays, settings, events, readings, loss, key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qkd_gym.envs.calibration import decoy_block as task
from qkd_gym.physics.accumulate import values

_KEY, _OPEN, _EVENT, _HINT, _INK, _FAINT = "#2a8c4a", "#9fd3ae", "#c8322b", "#f7dfa4", "#2b3440", "#b8bfc8"
_CHANNELS = ("#1f6fb4", "#d9711c", "#7a4fa3", "#4c8c8a")
_AHEAD = 40  # slices for which the open block's future is drawn


@jax.jit
def _future(episode: Any) -> jax.Array:
    """What closing will pay after 0 ... `_AHEAD` more slices at the present loss, in slices of a reference block."""
    state, params = episode.state, episode.params
    settings = task.decode_settings(state.settings)
    mean = task.mean_slice_counts(state.loss_db, settings, params)
    pool = values(state.pool)
    bits = jax.vmap(lambda n: task.block_key_bits(pool + n * mean, settings, params))(jnp.arange(_AHEAD + 1.0))
    return bits / state.reference_bits


@jax.jit
def _settings(episode: Any) -> jax.Array:
    return jnp.stack(task.decode_settings(episode.state.settings))


class Renderer:
    """Draws one episode; see `qkd_gym.rendering`."""

    def __init__(self, env: Any) -> None:
        self._scenario = env.scenario
        self._episode: Any = None
        self._readings: list[np.ndarray] = []
        self._buildup: list[bool] = []
        self._loss: list[tuple[float, float]] = []  # true, estimated
        self._age: list[int] = []
        self._block: list[tuple[int, float]] = [(0, 0.0)]  # of the open block: slices, what closing paid
        self._bits: list[float] = []
        self._events: list[int] = []
        self._closes: list[int] = []
        self._figure = Figure(figsize=(9.6, 6.0), dpi=100, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        state, params = episode.state, episode.params
        self._episode = episode
        signal = np.asarray(params.telemetry_gain) * bool(state.buildup)
        signal = signal + np.asarray(params.innocent_gain) * np.asarray(state.innocent)
        self._readings.append(signal + np.asarray(state.noise))
        self._buildup.append(bool(state.buildup))
        if action is None:
            return
        step = len(self._bits)
        self._loss.append((float(state.loss_db), float(state.loss_estimate_db)))
        self._age.append(int(state.block_slices))
        bits = float(info["secret_bits"])
        self._bits.append(bits)
        if bool(info["event"]):
            self._events.append(step)
        if bool(info["closed"]):
            self._closes.append(step)
        if self._age[-1] <= 1:
            self._block = [(0, 0.0)]
        self._block.append((self._age[-1], float(state.block_bits) / float(state.reference_bits)))

    def frame(self) -> np.ndarray:
        if self._episode is None:
            raise ValueError("there is nothing to draw yet: add() the first state of an episode")
        figure, params = self._figure, self._episode.params
        figure.clear()
        left = figure.add_gridspec(2, 1, height_ratios=(1.25, 1), left=0.065, right=0.345, top=0.83, bottom=0.07,
                                   hspace=0.52)  # fmt: skip
        right = figure.add_gridspec(4, 1, height_ratios=(1.5, 0.9, 1.4, 0.8), left=0.465, right=0.975, top=0.83,
                                    bottom=0.085, hspace=0.5)  # fmt: skip
        self._draw_block(figure.add_subplot(left[0]))
        self._draw_settings(figure.add_subplot(left[1]))
        lines = [figure.add_subplot(right[i]) for i in range(4)]
        draws = (self._draw_key, self._draw_age, self._draw_readings, self._draw_loss)
        for draw, axes in zip(draws, lines, strict=True):
            draw(axes)
        steps, span = len(self._bits), int(params.max_steps_in_episode)
        minutes = float(params.slice_s) / 60
        for axes in lines:
            axes.set_xlim(0, span * minutes)
            axes.tick_params(labelsize=7.5)
            axes.spines[["top", "right"]].set_visible(False)
            if steps:
                axes.axvline(steps * minutes, color="0.4", lw=0.8)
            for event in self._events:
                axes.axvline((event + 1) * minutes, color=_EVENT, lw=0.7, alpha=0.55)
            if axes is not lines[-1]:
                axes.tick_params(labelbottom=False)
        lines[-1].set_xlabel("time (min)", fontsize=8.5)
        self._draw_header(steps, span)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_header(self, steps: int, span: int) -> None:
        figure, state = self._figure, self._episode.state
        figure.text(0.02, 0.945, "Decoy block", fontsize=15, weight="bold", color=_INK)
        where = f"scenario {self._scenario}   slice {steps} of {span}   blocks closed {len(self._closes)}"
        figure.text(0.02, 0.905, f"{where}   events {len(self._events)}", fontsize=9.5, color="0.35")
        if steps:
            total = sum(self._bits)
            rate = total / (steps * float(self._episode.params.slice_s)) / 1e3
            share = total / (steps * float(state.reference_bits))
            figure.text(0.975, 0.945, f"secret key so far {rate:.4g} kbit/s", fontsize=13, color=_KEY, ha="right")
            figure.text(0.975, 0.905, f"{share:.0%} of what 300 s blocks without events would make", fontsize=9.5,
                        color="0.35", ha="right")  # fmt: skip

    def _draw_block(self, axes: Any) -> None:
        state = self._episode.state
        future, age = np.asarray(_future(self._episode)), int(state.block_slices)
        done = np.array(self._block)
        shown = 12 * max(1, 2 ** int(np.ceil(np.log2((age + 2) / 12))))
        axes.plot([0, shown], [0, shown], color=_FAINT, lw=1, ls="--")
        axes.plot(age + np.arange(_AHEAD + 1), future, color=_FAINT, lw=1.4)
        if age:
            axes.fill_between(done[:, 0], done[:, 1], color=_OPEN, lw=0)
        axes.plot([age], [future[0]], "o", color=_KEY, ms=6, clip_on=False)
        axes.set_xlim(0, shown)
        axes.set_ylim(0, 1.05 * max(shown, float(future[0])))
        spoilt = bool(state.event)
        title = "the block was spoilt: it starts anew" if spoilt else f"open block: {age} slices"
        axes.set_title(title, fontsize=10, loc="left", color=_EVENT if spoilt else _INK)
        bits = float(state.block_bits)
        pays = f"closing now pays\n{_quantity(bits)}" if bits > 0 else "too short:\nclosing pays nothing yet"
        axes.text(0.04, 0.95, pays, transform=axes.transAxes, va="top", fontsize=9.5, color=_KEY if bits > 0 else "0.4",
                  bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5})  # fmt: skip
        axes.set_xlabel("slices in the block", fontsize=8.5)
        axes.set_ylabel("key (slices of a 300 s block)", fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        axes.spines[["top", "right"]].set_visible(False)

    def _draw_settings(self, axes: Any) -> None:
        names = ("signal $\\mu_1$", "decoy $\\mu_2$", "share of $\\mu_1$", "share of $\\mu_2$", "key basis $q$")
        values = np.asarray(_settings(self._episode))
        rows = np.arange(5)[::-1]
        axes.barh(rows, np.ones(5), color="#eef1f5", height=0.34)
        axes.barh(rows, values, color=("#1f6fb4",) * 2 + ("#7a9cc0",) * 2 + ("#4c8c8a",), height=0.34)
        for row, name, number in zip(rows, names, values, strict=True):
            axes.text(0.0, row + 0.2, name, fontsize=8, va="bottom", color="0.25")
            axes.text(1.0, row + 0.2, f"{number:.3f}", fontsize=8, va="bottom", ha="right", color="0.25")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.4, 5)
        axes.set_title("settings of this block (frozen)", fontsize=10, loc="left", color=_INK, pad=8)
        axes.axis("off")

    def _times(self, count: int) -> np.ndarray:
        return np.arange(1, count + 1) * float(self._episode.params.slice_s) / 60

    def _draw_key(self, axes: Any) -> None:
        state, params = self._episode.state, self._episode.params
        steps, span = len(self._bits), int(params.max_steps_in_episode)
        reference = float(state.reference_bits)
        end = span * float(params.slice_s) / 60
        axes.plot([0, end], [0, span], color=_FAINT, lw=1, ls="--")
        axes.text(end, span * 0.62, "dashed: 300 s blocks, no events ", fontsize=7.5, color="0.5", ha="right", va="top")
        if steps:
            times, total = self._times(steps), np.cumsum(self._bits) / reference
            # What the open block holds is at risk: settled key is the total less that.
            starts = np.concatenate([[0], np.array(sorted({*self._closes, *(e + 1 for e in self._events)}), int)])
            settled = np.zeros(steps)
            for first, last in zip(starts, [*starts[1:], steps], strict=True):
                settled[first:last] = total[first - 1] if first else 0.0
            axes.fill_between(times, settled, total, color=_OPEN, lw=0, label="open block")
            axes.plot(times, settled, color=_KEY, lw=1.5, label="settled")
            axes.legend(fontsize=7.5, frameon=False, loc="upper left")
        axes.set_ylim(0, span)
        axes.set_ylabel("key\n(ideal slices)", fontsize=8.5)

    def _draw_age(self, axes: Any) -> None:
        if self._age:
            axes.fill_between(self._times(len(self._age)), self._age, step="pre", color=_OPEN, lw=0)
            marks = [(c + 0.0) * float(self._episode.params.slice_s) / 60 for c in self._closes]
            axes.plot(marks, np.zeros(len(marks)), "|", color=_KEY, ms=9, mew=1.1, clip_on=False)
        axes.set_ylim(0, max(10, *self._age) if self._age else 10)
        axes.set_ylabel("block\n(slices)", fontsize=8.5)
        axes.text(1.0, 1.02, "| closed", transform=axes.transAxes, fontsize=7.5, color=_KEY, ha="right", va="bottom")
        axes.text(0.88, 1.02, "| spoilt by an event", transform=axes.transAxes, fontsize=7.5, color=_EVENT, ha="right",
                  va="bottom")  # fmt: skip

    def _draw_readings(self, axes: Any) -> None:
        readings = np.array(self._readings)
        times = np.arange(len(readings)) * float(self._episode.params.slice_s) / 60
        offsets = np.arange(len(task.CHANNELS))[::-1] * 7.0
        axes.fill_between(times, -5.5, offsets[0] + 5, where=np.array(self._buildup), step="mid", color=_HINT, lw=0)
        for i in range(len(task.CHANNELS)):
            axes.plot(times, readings[:, i] + offsets[i], color=_CHANNELS[i % 4], lw=0.8)
        axes.set_ylim(-5.5, offsets[0] + 5)
        informs = np.asarray(self._episode.params.telemetry_gain) != 0
        plain = [name.replace("_", " ") for name in task.CHANNELS]
        names = [f"* {name}" if shows else name for name, shows in zip(plain, informs, strict=True)]
        axes.set_yticks(offsets, names)
        axes.text(1.0, 1.02, "hidden: shaded a build-up to an event, * the reading that shows it",
                  transform=axes.transAxes, fontsize=7.5, color="0.4", ha="right", va="bottom")  # fmt: skip

    def _draw_loss(self, axes: Any) -> None:
        if self._loss:
            loss, times = np.array(self._loss), self._times(len(self._loss))
            axes.plot(times, loss[:, 0], color=_FAINT, lw=3.0)
            axes.plot(times, loss[:, 1], color=_INK, lw=0.8)
        nominal = float(self._episode.params.loss_db)
        axes.axhline(nominal, color=_FAINT, lw=0.8, ls=":")
        axes.set_ylabel("loss\n(dB)", fontsize=8.5)
        axes.text(1.0, 1.02, "black: estimated from counts, grey: true", transform=axes.transAxes, fontsize=7.5,
                  color="0.4", ha="right", va="bottom")  # fmt: skip


def _quantity(bits: float) -> str:
    for scale, unit in ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit")):
        if bits >= scale:
            return f"{bits / scale:.3g} {unit}"
    return f"{bits:.0f} bit"

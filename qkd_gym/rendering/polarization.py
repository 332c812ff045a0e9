"""Picture of `qkd/PolarizationAlignment-v0`: the Poincare sphere with what arrives, error rates, knobs and key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qkd_gym.envs.calibration import polarization as task
from qkd_gym.physics import polarization as optics

_Z, _X, _KEY, _REFERENCE, _FAINT = "#1f6fb4", "#d9711c", "#2a8c4a", "#f2c230", "#b8bfc8"
_TRAIL = 40  # steps of the states' trails
_ERROR_RATES = np.linspace(0.0, 0.25, 251, dtype=np.float32)

# The sphere as seen from azimuth 35 and elevation 22 degrees, in orthographic projection.
_AZ, _EL = np.radians(35.0), np.radians(22.0)
_RIGHT = np.array([-np.sin(_AZ), np.cos(_AZ), 0.0])
_UP = np.array([-np.sin(_EL) * np.cos(_AZ), -np.sin(_EL) * np.sin(_AZ), np.cos(_EL)])
_EYE = np.array([np.cos(_EL) * np.cos(_AZ), np.cos(_EL) * np.sin(_AZ), np.sin(_EL)])


@jax.jit
def _net_matrix(episode: Any) -> jax.Array:
    """Rotation of the Poincare sphere between sender and analyser, (3, 3)."""
    state, params = episode.state, episode.params
    wind = task.wind_angle_rad(params, state, 0.0)
    return optics.matrix(task.net_rotation(params, state.position, state.fibre, wind))


@jax.jit
def _key_by_error(params: Any) -> jax.Array:
    """Key of a whole block at each of `_ERROR_RATES` (the same in both bases), as a share of perfect alignment's."""

    def key(error: jax.Array) -> jax.Array:
        mean, _ = task.mean_counts(params, error, error, 1.0)
        pooled = jnp.concatenate([mean.n_key, mean.m_key, mean.n_test, mean.m_test]) * params.block_steps
        return task.block_key_bits(pooled, params)

    return jax.vmap(key)(jnp.asarray(_ERROR_RATES)) / (task.ideal_bits_per_step(params) * params.block_steps)


class Renderer:
    """Draws one episode; see `qkd_gym.rendering`."""

    def __init__(self, env: Any) -> None:
        self._scenario = env.scenario
        self._received: list[np.ndarray] = []  # per state: columns of the net rotation
        self._voltages: list[np.ndarray] = []
        self._errors: list[tuple[float, float]] = []
        self._shares: list[float] = []
        self._bits: list[float] = []
        self._episode: Any = None
        self._limits: tuple[float, float] = (0.0, 0.0)
        self._figure = Figure(figsize=(9.6, 6.0), dpi=100, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        self._episode = episode
        self._received.append(np.asarray(_net_matrix(episode)))
        self._voltages.append(np.asarray(episode.state.voltage))
        if action is None:
            key = np.asarray(_key_by_error(episode.params))
            dead = _ERROR_RATES[np.argmax(key <= 0)] if np.any(key <= 0) else 0.5
            half = _ERROR_RATES[np.argmax(key <= 0.5)] if np.any(key <= 0.5) else 0.5
            self._limits = float(half), float(dead)
            return
        self._errors.append((float(info["qber"]), float(info["qber_x"])))
        self._shares.append(float(info["reference_share"]))
        self._bits.append(float(info["secret_bits"]))

    def frame(self) -> np.ndarray:
        if self._episode is None:
            raise ValueError("there is nothing to draw yet: add() the first state of an episode")
        figure, params = self._figure, self._episode.params
        figure.clear()
        grid = figure.add_gridspec(3, 2, width_ratios=(1.0, 1.25), left=0.02, right=0.975, top=0.86, bottom=0.085,
                                   hspace=0.5, wspace=0.16)  # fmt: skip
        self._draw_sphere(figure.add_subplot(grid[:, 0]))
        steps = len(self._bits)
        span = int(params.max_steps_in_episode)
        errors, knobs, key = (figure.add_subplot(grid[i, 1]) for i in range(3))
        self._draw_errors(errors)
        self._draw_knobs(knobs)
        self._draw_key(key)
        for axes in (errors, knobs, key):
            axes.set_xlim(0, span)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            if steps:
                axes.axvline(steps, color="0.4", lw=0.8)
        key.set_xlabel(f"step ({float(params.step_s):g} s each)", fontsize=9)
        figure.text(0.025, 0.945, "Polarisation alignment", fontsize=15, weight="bold")
        figure.text(0.025, 0.905, f"scenario {self._scenario}   step {steps} of {span}", fontsize=9.5, color="0.35")
        if steps:
            rate = sum(self._bits) / (steps * float(params.step_s)) / 1e3
            z, x = self._errors[-1]
            figure.text(0.975, 0.945, f"secret key so far {rate:.1f} kbit/s", fontsize=13, color=_KEY, ha="right")
            figure.text(0.975, 0.905, f"error rate now: Z {z:.1%}, X {x:.1%}", fontsize=9.5, color="0.35", ha="right")
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _draw_sphere(self, axes: Any) -> None:
        axes.set_aspect("equal")
        axes.axis("off")
        axes.set_xlim(-1.32, 1.32)
        axes.set_ylim(-1.75, 1.38)
        t = np.linspace(0, 2 * np.pi, 181)
        axes.fill(np.cos(t), np.sin(t), color="#f4f6f9", zorder=0)
        axes.plot(np.cos(t), np.sin(t), color=_FAINT, lw=1)
        for i in range(3):
            circle = np.zeros((181, 3))
            circle[:, (i + 1) % 3], circle[:, (i + 2) % 3] = np.cos(t), np.sin(t)
            self._curve(axes, circle, _FAINT, 0.8)
        for i, (name, colour) in enumerate((("Z basis", _Z), ("X basis", _X))):
            target = np.eye(3)[i]
            x, y = target @ _RIGHT, target @ _UP
            axes.plot([0, x], [0, y], color=colour, lw=1, alpha=0.35)
            axes.plot(x, y, marker="o", ms=15, mfc="none", mec=colour, mew=1.8)
            box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
            # Outside of the ring, seen from the centre, where trails rarely go.
            axes.text(1.4 * x, 1.4 * y - 0.12, name, color=colour, fontsize=9, ha="center", va="center", bbox=box)
            trail = np.array([m[:, i] for m in self._received[-_TRAIL:]])
            self._curve(axes, trail, colour, 1.6)
            end = trail[-1]
            front = end @ _EYE >= 0
            axes.annotate(
                "", (end @ _RIGHT, end @ _UP), (0, 0),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "alpha": 1.0 if front else 0.4},
            )  # fmt: skip
        axes.text(
            0,
            -1.3,
            "arrows: the states as they arrive (last 40 steps as a trail)",
            fontsize=8.5,
            ha="center",
            color="0.3",
        )
        axes.text(
            0, -1.43, "rings: where they must arrive to be read without error", fontsize=8.5, ha="center", color="0.3"
        )
        axes.text(
            0, -1.56, "the fibre turns them; four squeezers turn them back", fontsize=8.5, ha="center", color="0.3"
        )

    def _curve(self, axes: Any, points: np.ndarray, colour: str, width: float) -> None:
        """A curve on the sphere, faint where it runs on the far side."""
        x, y, front = points @ _RIGHT, points @ _UP, points @ _EYE >= 0
        axes.plot(np.where(front, x, np.nan), np.where(front, y, np.nan), color=colour, lw=width)
        axes.plot(np.where(front, np.nan, x), np.where(front, np.nan, y), color=colour, lw=width, alpha=0.35)

    def _draw_errors(self, axes: Any) -> None:
        half, dead = (100 * limit for limit in self._limits)
        top = max(2.2 * dead, 15.0)
        axes.axhspan(dead, top, color="#d64545", alpha=0.10, lw=0)
        axes.axhline(half, color="#d64545", lw=0.8, ls="--")
        axes.text(0.99, min((dead + top) / 2 / top, 0.97), "a block like this gives no key", transform=axes.transAxes,
                  fontsize=7.5, color="#b03030", ha="right", va="center")  # fmt: skip
        axes.text(0.99, half / top, "half the key", transform=axes.transAxes, fontsize=7.5, color="#b03030",
                  ha="right", va="bottom")  # fmt: skip
        if self._errors:
            time = np.arange(1, len(self._errors) + 1)
            errors = 100 * np.array(self._errors)
            axes.plot(time, errors[:, 1], color=_X, lw=1.1, label="X, test")
            axes.plot(time, errors[:, 0], color=_Z, lw=1.3, label="Z, key")
            axes.legend(loc="upper left", fontsize=7.5, ncols=2, frameon=False, borderaxespad=0.1)
        axes.set_ylim(0, top)
        axes.set_title("error rate (QBER), %", fontsize=9.5, loc="left")

    def _draw_knobs(self, axes: Any) -> None:
        limit = float(self._episode.params.range_rad)
        time = np.arange(len(self._voltages))
        for i, line in enumerate(np.array(self._voltages).T):
            axes.plot(
                time, line, lw=1.1, color=("#3b4a5a", "#6d7f92", "#8c6bb1", "#41a6a6")[i], label=f"squeezer {i + 1}"
            )
        for step in np.flatnonzero(self._shares):
            axes.axvspan(step, step + 1, ymax=0.1, color=_REFERENCE, lw=0)
        axes.set_ylim(-1.25 * limit, 1.25 * limit)
        axes.set_title("squeezer voltages, rad of turn; yellow: reference light on, no key", fontsize=9.5, loc="left")
        axes.legend(loc="upper left", fontsize=7, ncols=4, frameon=False, borderaxespad=0.1)

    def _draw_key(self, axes: Any) -> None:
        params = self._episode.params
        block = int(params.block_steps)
        ideal = float(self._episode.state.ideal_bits) / 1e6
        span = int(params.max_steps_in_episode)
        axes.plot([0, span], [0, ideal * span], color="0.55", lw=1, ls="--", label="perfect alignment")
        for start in range(0, span + 1, block):
            axes.axvline(start, color=_FAINT, lw=0.8, zorder=0)
        total = np.concatenate([[0.0], np.cumsum(self._bits)]) / 1e6
        axes.fill_between(np.arange(len(total)), total, color=_KEY, alpha=0.25, lw=0)
        axes.plot(np.arange(len(total)), total, color=_KEY, lw=1.6, label="this link")
        axes.set_ylim(0, ideal * span * 1.05)
        axes.set_title("secret key, Mbit; lines part the blocks that are distilled together", fontsize=9.5, loc="left")
        axes.legend(loc="upper left", fontsize=7.5, frameon=False, borderaxespad=0.1)

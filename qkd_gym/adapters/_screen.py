"""What the faces of a single environment draw on: a renderer, and in mode ``"human"`` a window."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from qkd_gym import rendering
from qkd_gym.envs.core import Environment, Episode
from qkd_gym.rendering.window import Window, has_display

RENDER_MODES = ("human", "rgb_array")


def served_modes() -> list[str]:
    """The render modes that this machine can serve; tests try all that an environment offers."""
    return [mode for mode in RENDER_MODES if mode != "human" or has_display()]


class Screen:
    """Draws the episodes of one environment.

    Args:
        mode: None (nothing is drawn), ``"rgb_array"`` or ``"human"``.
    """

    def __init__(self, env: Environment, mode: str | None) -> None:
        if mode is not None and mode not in RENDER_MODES:
            raise ValueError(f"render_mode = {mode!r} is unknown; it is one of: {', '.join(RENDER_MODES)}, or None")
        self.mode = mode
        self._renderer = None if mode is None else rendering.renderer(env)
        self._window = Window(env.id) if mode == "human" else None

    @property
    def on(self) -> bool:
        return self.mode is not None

    def begin(self, env: Environment, episode: Episode) -> None:
        """A new episode, at its first state."""
        self._renderer = rendering.renderer(env)
        self.add(episode, None, {})

    def add(self, episode: Episode, action: np.ndarray | None, info: dict[str, Any]) -> None:
        """The state after one step."""
        assert self._renderer is not None
        self._renderer.add(episode, action, info)
        if self._window is not None:
            self.render()

    def render(self) -> np.ndarray | None:
        """The picture as uint8 `(height, width, 3)`; in mode ``"human"`` it goes to the window instead."""
        if self._renderer is None:
            gym.logger.warn("render() does nothing without a render_mode; make the environment with one")
            return None
        frame = self._renderer.frame()
        if self._window is None:
            return frame
        self._window.show(frame)
        return None

    def close(self) -> None:
        if self._window is not None:
            self._window.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the window, which cannot be copied."""
        return dict(self.__dict__, _window=None)

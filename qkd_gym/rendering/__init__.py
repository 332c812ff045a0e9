"""Pictures of a running episode, one module a task, off the hot path.

A renderer is made with its environment, gets one `add(episode, action, info)` a step (`action` is None for the first
state of an episode), and draws what it has seen: `frame()` is uint8 `(height, width, 3)`.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from qkd_gym.envs.centralised import Centralised

#: Task's name -> ``module:Class`` of its renderer. Nothing is imported until a picture is asked for.
RENDERERS: dict[str, str] = {
    "PolarizationAlignment": "qkd_gym.rendering.polarization:Renderer",
    "DecoyBlock": "qkd_gym.rendering.decoy_block:Renderer",
    "KeyRouting": "qkd_gym.rendering.key_routing:Renderer",
    "NodeSwitching": "qkd_gym.rendering.node_switching:Renderer",
    "ResourceAllocation": "qkd_gym.rendering.resource_allocation:Renderer",
}


class Renderer(Protocol):
    """What draws one episode."""

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        """Take in the state after one step, or, with no action, the first one."""

    def frame(self) -> np.ndarray:
        """The picture now, uint8 `(height, width, 3)`."""
        ...


class _Separating:
    """A multi-agent task's renderer, fed by its centralised form."""

    def __init__(self, env: Centralised) -> None:
        self._env, self._inner = env, renderer(env.env)

    def add(self, episode: Any, action: np.ndarray | None, info: dict[str, Any]) -> None:
        self._inner.add(episode, None if action is None else self._env.separate(action), info)

    def frame(self) -> np.ndarray:
        return self._inner.frame()


def renderer(env: Any) -> Renderer:
    """A fresh renderer of a functional environment; of a centralised one, that of the multi-agent task.

    Raises:
        ValueError: the task has no picture.
        ImportError: the drawing library is missing.
    """
    if isinstance(env, Centralised):
        return _Separating(env)
    if env.name not in RENDERERS:
        have = ", ".join(sorted(RENDERERS))
        raise ValueError(f"{env.name} has no picture; those that have: {have}. Leave render_mode out")
    module, _, name = RENDERERS[env.name].partition(":")
    try:
        return getattr(importlib.import_module(module), name)(env)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("qkd_gym"):
            raise
        raise ImportError(f"drawing needs {error.name}; install it with: pip install 'qkd-gym[render]'") from error

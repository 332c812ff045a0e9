"""A plain window that shows frames, by the toolkit of Python's standard library."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np


def has_display() -> bool:
    """Whether there is a screen to open a window on."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class Window:
    """Shows one picture at a time; closing it by hand ends nothing but the showing."""

    def __init__(self, title: str) -> None:
        self._root: Any = None
        if not has_display():
            raise RuntimeError(_NO_WINDOW.format("there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"))
        try:
            import tkinter
        except ImportError as error:
            raise RuntimeError(_NO_WINDOW.format("this Python comes without tkinter")) from error
        self._tkinter = tkinter
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise RuntimeError(_NO_WINDOW.format(f"the display refused: {error}")) from error
        self._root.title(title)
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()

    def show(self, frame: np.ndarray) -> None:
        """Draw `frame`, uint8 `(height, width, 3)`, and let the window react to its user."""
        if self._root is None:
            return
        height, width, _ = frame.shape
        data = b"P6 %d %d 255 " % (width, height) + np.ascontiguousarray(frame, np.uint8).tobytes()
        self._picture = self._tkinter.PhotoImage(master=self._root, data=data, format="PPM")
        self._label.configure(image=self._picture)
        self._root.update()

    def close(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            root.destroy()


_NO_WINDOW = "render_mode='human' needs a window, but {}. Use render_mode='rgb_array' and save or show the frames"

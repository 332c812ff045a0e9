"""Arguments of commands, checked before anything runs."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator


def count(least: int = 1) -> Callable[[str], int]:
    """Type of an option that takes a whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}")
        return value

    return parse


@contextlib.contextmanager
def refusing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """A `ValueError` in here is the fault of who asked: its message is printed, and the exit status is 2."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))

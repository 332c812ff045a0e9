"""Which function recomputes which family of tables. A new family is one function in a module of `families`."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.validation.table import Table, TableError

Recompute = Callable[[Table], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of tables: one line on what it holds, and the function from a table to its recomputed columns."""

    name: str
    about: str
    recompute: Recompute


FAMILIES: dict[str, Family] = {}


def family(name: str) -> Callable[[Recompute], Recompute]:
    """Register the decorated function for tables that say `# family: name`; its first doc line describes them."""

    def register(function: Recompute) -> Recompute:
        if name in FAMILIES:
            raise ValueError(f"two functions recompute the family {name!r}")
        FAMILIES[name] = Family(name, (function.__doc__ or "").strip().splitlines()[0], function)
        return function

    return register


def load() -> Mapping[str, Family]:
    """All families: imports every module of `benchmarks.validation.families`."""
    package = importlib.import_module("benchmarks.validation.families")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return FAMILIES


def find(name: str) -> Family:
    """A family by name; unknown ones are refused with the list of known ones."""
    families = load()
    if name not in families:
        raise TableError(f"family {name!r} is unknown; known: {', '.join(sorted(families))}")
    return families[name]

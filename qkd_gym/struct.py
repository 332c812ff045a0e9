"""Frozen dataclasses that are JAX pytrees and check their values when a person makes them.

The physics states a unit and a validity range for every parameter. `field` records both beside the default, and the
constructor refuses a value outside the range. Reconstruction by JAX (`jit`, `vmap`, `tree.map`) bypasses the
constructor, so nothing is checked, and nothing is synchronised, inside a program.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np
from jax.core import Tracer

T = TypeVar("T")


def field(
    default: Any = dataclasses.MISSING,
    *,
    unit: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    doc: str = "",
    static: bool = False,
) -> Any:
    """A dataclass field with its unit, closed validity range and one-line meaning.

    Args:
        default: default value; an array is copied for each instance.
        unit: physical unit as printed, e.g. ``"dB/km"``; empty for a pure number.
        low, high: closed range, checked elementwise. NaN is never allowed.
        doc: one line for the generated tables.
        static: hashed into the compiled program instead of traced (it selects a shape or a Python branch).
    """
    metadata = {"unit": unit, "low": low, "high": high, "doc": doc, "static": static}
    if isinstance(default, (np.ndarray, list, tuple, dict)):
        return dataclasses.field(default_factory=lambda: np.array(default), metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def replace(instance: T, **changes: Any) -> T:
    """`instance` with some fields changed, checked like a new one. An unknown name is refused with the known ones."""
    known = [f.name for f in dataclasses.fields(instance)]  # type: ignore[arg-type]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"{type(instance).__name__} has no parameter {', '.join(unknown)}; it has: {', '.join(known)}")
    return dataclasses.replace(instance, **changes)  # type: ignore[type-var]


def check(instance: Any) -> None:
    """Raise `ValueError` if a concrete value lies outside its field's range. Traced and abstract values pass."""
    for f in dataclasses.fields(instance):
        low, high = f.metadata.get("low", -math.inf), f.metadata.get("high", math.inf)
        if f.metadata.get("static") or (low == -math.inf and high == math.inf):
            continue
        value = getattr(instance, f.name)
        concrete = isinstance(value, (bool, int, float, np.ndarray, np.generic, jax.Array))
        if isinstance(value, Tracer) or not concrete:
            continue
        array = np.asarray(value)
        # The limits are compared in the value's own precision: float32(1e-3) is not below 1e-3.
        lo, hi = (np.asarray(b).astype(array.dtype if array.dtype.kind == "f" else float) for b in (low, high))
        if not np.all((array >= lo) & (array <= hi)):
            unit = f" {f.metadata['unit']}" if f.metadata["unit"] else ""
            raise ValueError(
                f"{type(instance).__name__}.{f.name} = {value}{unit} is outside its valid range "
                f"[{low:g}, {high:g}]{unit}" + (f" ({f.metadata['doc']})" if f.metadata["doc"] else "")
            )


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
def dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass, register it as a pytree, and check ranges in its constructor."""
    own_post_init = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        check(self)
        if own_post_init is not None:
            own_post_init(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    statics = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(node: Any) -> tuple[Any, Any]:
        children = tuple((jax.tree_util.GetAttrKey(n), getattr(node, n)) for n in leaves)
        return children, tuple(getattr(node, n) for n in statics)

    def flatten(node: Any) -> tuple[Any, Any]:
        return tuple(getattr(node, n) for n in leaves), tuple(getattr(node, n) for n in statics)

    def unflatten(aux: Any, children: Any) -> Any:
        node = object.__new__(cls)
        for name, value in zip(leaves, children, strict=True):
            object.__setattr__(node, name, value)
        for name, value in zip(statics, aux, strict=True):
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls

"""A pytree of small arrays as one flat vector of 32-bit words, and back.

The cost of a call from Python follows the number of arrays that cross the boundary, so the faces send one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_WORD = np.dtype(np.uint32)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where one leaf lies: words `start` to `stop` of the vector."""

    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: Any  # as the tree holds it
    stored: np.dtype  # as the words are read: the same bits for 32 and 64 bits, widened for smaller ones

    def load(self, words: np.ndarray) -> np.ndarray:
        """The leaf out of a host vector: a view where the bits are kept, a copy where they were widened."""
        raw = words[self.start : self.stop].view(self.stored).reshape(self.shape)
        return raw if raw.dtype == self.dtype else raw.astype(self.dtype)


class Layout:
    """The places of a pytree's leaves in one vector of words. Bits are kept, never converted through floats.

    Args:
        tree: the pytree, of arrays or of `jax.ShapeDtypeStruct`.
    """

    def __init__(self, tree: Any) -> None:
        leaves, self._structure = jax.tree.flatten(tree)
        slots, start = [], 0
        for leaf in leaves:
            shape, dtype = tuple(leaf.shape), leaf.dtype
            if jnp.issubdtype(dtype, jax.dtypes.prng_key):
                raise TypeError(f"a state holds a typed key of shape {shape}; hold jax.random.key_data(key) instead")
            dtype = np.dtype(dtype)
            stored = dtype
            if dtype.itemsize < 4:
                stored = np.dtype(np.float32) if jnp.issubdtype(dtype, jnp.floating) else np.dtype(np.int32)
            stop = start + math.prod(shape) * stored.itemsize // 4
            slots.append(Slot(start, stop, shape, dtype, stored))
            start = stop
        self.slots: tuple[Slot, ...] = tuple(slots)
        self.size = start

    @property
    def tree(self) -> Any:
        """The tree with each leaf's `Slot` in its place."""
        return jax.tree.unflatten(self._structure, self.slots)

    def pack(self, tree: Any) -> Array:
        """All leaves as one uint32 vector `(size,)`; traceable."""
        leaves, structure = jax.tree.flatten(tree)
        if structure != self._structure:
            raise TypeError(f"the tree changed its structure: {structure} is not {self._structure}")
        words = []
        for leaf, slot in zip(leaves, self.slots, strict=True):
            if leaf.shape != slot.shape or leaf.dtype != slot.dtype:
                raise TypeError(f"a leaf changed from {slot.dtype}{slot.shape} to {leaf.dtype}{leaf.shape}")
            words.append(jax.lax.bitcast_convert_type(leaf.astype(slot.stored), _WORD).reshape(-1))
        return jnp.concatenate(words) if words else jnp.zeros(0, _WORD)

    def unpack(self, words: Array) -> Any:
        """The tree out of such a vector; traceable."""
        leaves = []
        for slot in self.slots:
            per_item = slot.stored.itemsize // 4
            raw = words[slot.start : slot.stop].reshape(slot.shape if per_item == 1 else (*slot.shape, per_item))
            leaves.append(jax.lax.bitcast_convert_type(raw, slot.stored).astype(slot.dtype))
        return jax.tree.unflatten(self._structure, leaves)

    def load(self, words: np.ndarray) -> Any:
        """The tree, of NumPy arrays, out of a host vector. Leaves share its memory."""
        return jax.tree.unflatten(self._structure, [slot.load(words) for slot in self.slots])

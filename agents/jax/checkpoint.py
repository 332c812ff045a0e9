"""Checkpoints of a training run as safetensors: arrays by name and a JSON header. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import safetensors
from safetensors.numpy import save

from qkd_gym.files import write_atomic

FORMAT = "qkd_gym.checkpoint/1"

Tree = TypeVar("Tree")


class CheckpointError(ValueError):
    """A checkpoint that is damaged, foreign, or of another run; the message says why."""


def save_checkpoint(path: Path, tree: Any, header: Mapping[str, Any]) -> None:
    """Write a pytree of arrays (typed keys too). The file appears whole or not at all."""
    arrays = {name: _plain(leaf) for name, leaf in _named(tree)}
    metadata = {"format": FORMAT, "header": json.dumps(header, sort_keys=True), "sha256": _checksum(arrays)}
    write_atomic(path, save(arrays, metadata=metadata))


def load_checkpoint(path: Path, template: Tree) -> tuple[Tree, dict[str, Any]]:
    """`(tree, header)` of a checkpoint whose arrays have the template's names, shapes and types.

    Raises:
        CheckpointError: it is damaged, is no checkpoint of ours, or was written by another program.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {metadata.get('format')!r}; this version reads {FORMAT!r}")
    if metadata.get("sha256") != _checksum(arrays):
        raise CheckpointError(f"{path} is damaged: its contents do not match their checksum")
    wanted = dict(_named(template))
    if arrays.keys() != wanted.keys():
        different = ", ".join(sorted(arrays.keys() ^ wanted.keys())[:5])
        raise CheckpointError(f"{path} was written by another version of the program: it differs in {different}")
    leaves = [_restore(path, name, arrays[name], like) for name, like in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves), json.loads(metadata["header"])


def _named(tree: Any) -> list[tuple[str, Any]]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    return np.array(jax.device_get(jax.random.key_data(leaf) if _is_key(leaf) else leaf), order="C")


def _restore(path: Path, name: str, array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        data = jax.eval_shape(jax.random.key_data, like)
    else:
        data = like
    if (array.shape, array.dtype) != (data.shape, data.dtype):
        raise CheckpointError(
            f"{path}: {name} is {array.dtype}{array.shape}, but this program wants {data.dtype}{data.shape}"
        )
    return jax.random.wrap_key_data(array, impl="threefry2x32") if _is_key(like) else jax.numpy.asarray(array)


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name}:{arrays[name].dtype}{arrays[name].shape}".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()

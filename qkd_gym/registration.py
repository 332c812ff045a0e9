"""Which tasks there are: id -> where its class lives. Nothing is imported until a task is made."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from qkd_gym.envs.core import Environment

#: Gymnasium id -> ``module:Class`` of the functional environment.
TASKS: dict[str, str] = {
    "qkd/PolarizationAlignment-v0": "qkd_gym.envs.calibration.polarization:PolarizationAlignment",
    "qkd/DecoyBlock-v0": "qkd_gym.envs.calibration.decoy_block:DecoyBlock",
    "qkd/KeyRouting-v0": "qkd_gym.envs.network.key_routing:KeyRouting",
    "qkd/NodeSwitching-v0": "qkd_gym.envs.network.node_switching:NodeSwitching",
    "qkd/ResourceAllocation-v0": "qkd_gym.envs.network.resource_allocation:ResourceAllocation",
}


def task_class(env_id: str) -> type[Environment]:
    """The class behind an id. The namespace `qkd/` and the version may be left out. Unknown ids list what there is.

    A class that is not registered, a task of one's own, goes by its place: ``"my_package.tasks:MyTask"``.
    """
    if ":" in env_id:
        module, _, name = env_id.partition(":")
        return getattr(importlib.import_module(module), name)
    full = env_id if env_id.startswith("qkd/") else f"qkd/{env_id}"
    full = {known.rpartition("-v")[0]: known for known in TASKS}.get(full, full)
    if full not in TASKS:
        close = difflib.get_close_matches(full, TASKS, n=1, cutoff=0.6)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown task {env_id!r}.{hint} The tasks are: {', '.join(sorted(TASKS))}")
    module, _, name = TASKS[full].partition(":")
    return getattr(importlib.import_module(module), name)


def make(env_id: str, **fields: Any) -> Environment:
    """The functional environment of an id; `fields` are its constructor's, e.g. ``scenario="ood-aerial"``."""
    return task_class(env_id)(**fields)


def register_with_gymnasium() -> None:
    """Enter every task in Gymnasium's registry, for `gymnasium.make` and `gymnasium.make_vec`."""
    import gymnasium as gym

    for env_id in TASKS:
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point="qkd_gym.adapters.gymnasium:make_single",
                vector_entry_point="qkd_gym.adapters.gymnasium_vector:make_vector",
                kwargs={"env_id": env_id},
            )

"""Checks of what a person hands to a Python face. Nothing here runs inside a compiled program."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import jax
import numpy as np

from qkd_gym import registration, struct
from qkd_gym.envs.centralised import Centralised
from qkd_gym.envs.core import Environment, strong

CheckAction = Callable[[Any], np.ndarray]


def environment(env: str | Environment, **fields: Any) -> Environment:
    """An id, or an environment with some fields changed (None: as it is), as a single-agent environment.

    The id of a multi-agent task gives its centralised form; a multi-agent environment handed in is refused, for the
    caller may have meant another face.
    """
    made = _made(env, fields)
    if made.agents and isinstance(env, str):
        return Centralised(made)
    if made.agents:
        raise ValueError(
            f"{made.id} has {made.num_agents} agents ({shortened(made.agents)}) and this face serves one; "
            "wrap it in qkd_gym.envs.centralised.Centralised, or use the PettingZoo or JaxMARL face"
        )
    return made


def joint_environment(env: str | Environment, **fields: Any) -> Environment:
    """The same for the faces of multi-agent tasks; one with a single agent is refused."""
    made = _made(env, fields)
    if not made.agents:
        raise ValueError(f"{made.id} has one agent and this face is for several; use gymnasium.make")
    return made


def _made(env: str | Environment, fields: dict[str, Any]) -> Environment:
    fields = {name: value for name, value in fields.items() if value is not None}
    if isinstance(env, str):
        return registration.make(env, **fields)
    if isinstance(env, Centralised):
        return Centralised(dataclasses.replace(env.env, **fields))
    return dataclasses.replace(env, **fields)


def shortened(agents: tuple[str, ...]) -> str:
    """Names for a message: the first ones, and the last of many."""
    return ", ".join(agents if len(agents) <= 4 else (*agents[:3], "...", agents[-1]))


def time_limit(limit: int | None, name: str = "max_episode_steps") -> np.int32 | None:
    """A limit that may become `Params.max_steps_in_episode`; `name` is what the caller calls it."""
    if limit is None:
        return None
    if not isinstance(limit, numbers.Integral) or not 1 <= int(limit) < 2**31:
        raise ValueError(f"{name} = {limit!r} must be an integer of at least 1, or None")
    return np.int32(limit)


def one_seed(seed: Any) -> int:
    """A seed that the key chain can hold."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed = {seed!r} must be an integer from 0 to 2**64 - 1")
    return int(seed)


def options(given: Mapping[str, Any] | None, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The options of a reset."""
    given = dict(given or {})
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise ValueError(f"reset has no option {', '.join(map(repr, unknown))}; it takes: {', '.join(allowed)}")
    return given


def link(env: Environment, params: Any, num_envs: int | None = None) -> Any:
    """`params` as the arrays of one link, or of `num_envs` stacked ones.

    Args:
        params: an instance of the task's `Params` (for a vector face also with a leading axis), or a mapping from
            the names of some parameters to values; the others are those of `env.default_params`.
    """
    default = env.default_params
    if isinstance(params, Mapping):
        params = struct.replace(default, **params)
    if not isinstance(params, type(default)):
        raise ValueError(
            f"params = {params!r} is no {type(default).__name__}; hand in one, such as env.default_params or "
            "env.sample_params(key), or a mapping from its parameters to values"
        )
    struct.check(params)
    arrays = jax.tree.map(np.asarray, jax.device_get(strong(params)))

    def fit(path: Any, value: np.ndarray, model: Any) -> np.ndarray:
        shape = np.shape(model)
        if num_envs is None and value.shape == shape:
            return value
        if num_envs is not None and value.shape in (shape, (num_envs, *shape)):
            return np.broadcast_to(value, (num_envs, *shape)) if value.shape == shape else value
        wanted = f"{shape}" if num_envs is None else f"{shape} or {(num_envs, *shape)}"
        raise ValueError(f"params{jax.tree_util.keystr(path)} has the shape {value.shape}; wanted {wanted}")

    return jax.tree_util.tree_map_with_path(fit, arrays, default)


def check_actions(space: gym.Space, num_envs: int | None = None) -> CheckAction:
    """A function that refuses what no operator could set, and returns the array that the program takes.

    Continuous values beyond the bounds are clipped by the task, as is the convention for policies with Gaussian
    noise; everything else that does not fit raises `ValueError`.
    """
    lead = () if num_envs is None else (num_envs,)
    if isinstance(space, gym.spaces.Box):
        return _continuous(space, (*lead, *space.shape))
    if isinstance(space, gym.spaces.Discrete):
        low, high = np.int64(space.start), np.int64(space.start + space.n - 1)
        return _discrete(space, lead, low, high)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return _discrete(space, (*lead, *space.nvec.shape), np.zeros_like(space.nvec), space.nvec - 1)
    raise TypeError(f"actions must be Box, Discrete or MultiDiscrete, not {type(space).__name__}")


def _continuous(space: gym.spaces.Box, shape: tuple[int, ...]) -> CheckAction:
    def check(action: Any) -> np.ndarray:
        array = np.asarray(action)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"action {action!r} has the dtype {array.dtype}; {space} takes numbers: cast to float32")
        if array.shape != shape:
            raise ValueError(f"action {action!r} has the shape {array.shape}; wanted {shape}: reshape it")
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"action {action!r} is not finite; {space} takes finite numbers: look where it became NaN")
        return array

    return check


def _discrete(space: gym.Space, shape: tuple[int, ...], low: Any, high: Any) -> CheckAction:
    def check(action: Any) -> np.ndarray:
        array = np.asarray(action)
        if array.dtype.kind not in "iu":
            raise ValueError(f"action {action!r} has the dtype {array.dtype}; {space} takes integers: cast to int")
        if array.shape != shape:
            raise ValueError(f"action {action!r} has the shape {array.shape}; wanted {shape}: reshape it")
        if not ((array >= low) & (array <= high)).all():
            raise ValueError(f"action {action!r} is out of range; {space} takes {low} to {high}")
        return array.astype(np.int32)

    return check

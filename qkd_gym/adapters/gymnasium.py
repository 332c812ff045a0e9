"""The Gymnasium face of one environment: NumPy in, NumPy out, one array each way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import AutoresetMode

from qkd_gym.adapters import _device, _door
from qkd_gym.adapters._program import Programs, programs, seed_words
from qkd_gym.adapters._screen import RENDER_MODES, Screen, served_modes
from qkd_gym.envs.core import Environment, EnvParams, Episode

_OPTIONS = ("scenario", "params")


class GymnasiumEnv(gym.Env[np.ndarray, Any]):
    """A functional environment as a `gymnasium.Env`.

    Seeds: `reset(seed=s)` starts a chain of keys that depends on `s` alone (see `qkd_gym.adapters._program`), so that
    a reset without a seed after an episode goes on exactly as auto-reset would, and sub-environment `i` of a vector
    environment of seed `s` equals the single environment of seed `s + i`.

    Options of `reset`, which hold from that reset on until another changes them: ``"scenario"``, the distribution
    that links are drawn from; ``"params"``, one link for every episode, as the task's `Params` or as a mapping from
    names to values (None: draw again).

    `info` holds the task's metrics as Python numbers, and ``"action_mask"`` (int8) where the task has one.

    Args:
        env: the functional environment.
        render_mode: None, ``"rgb_array"``, or ``"human"``, which opens a window.
        params: as the option of `reset`.
        max_episode_steps: becomes `Params.max_steps_in_episode` of every link, so that the task settles what is open.
            (`gymnasium.make` keeps the argument of this name for its own wrapper, which would cut an episode from
            outside: there, pass ``max_steps_in_episode``.)
        device: None runs in the calling thread on the CPU; else a platform's name or a `jax.Device`.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10}

    def __init__(
        self,
        env: Environment,
        *,
        render_mode: str | None = None,
        params: EnvParams | Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        device: Any = None,
    ) -> None:
        self.functional = _door.environment(env)
        self.observation_space = env.observation_space()
        self.action_space = env.action_space()
        self._limit = _door.time_limit(max_episode_steps)
        self._params = None if params is None else _door.link(env, params)
        self._device_name = device
        # A mode that this machine cannot serve is not offered: `check_env` tries all that are.
        self.metadata = dict(self.metadata, render_modes=served_modes())
        self.render_mode = render_mode
        self._screen = Screen(self.functional, render_mode)
        self._session: Any = None
        self._ended = True
        self._bind()

    def _bind(self) -> None:
        """Fetch the compiled programs and where their outputs lie."""
        self._device = _device.resolve(self._device_name, small=True)
        self._check_action = _door.check_actions(self.action_space)
        self._programs: Programs = programs(
            self.functional, None, AutoresetMode.DISABLED, self._limit is not None, self._params is not None
        )
        slots = self._programs.seen
        self._slots = slots
        self._numbers = [
            (name, slot.start, slot.dtype.kind) for name, slot in slots.metrics.items() if _is_plain_number(slot)
        ]
        self._arrays = [(name, slot) for name, slot in slots.metrics.items() if not _is_plain_number(slot)]

    # ---- Gymnasium's interface ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. Without a seed the chain of keys goes on; the first time it starts from entropy."""
        if seed is not None:
            seed = _door.one_seed(seed)
        given = _door.options(options, _OPTIONS)
        if given:
            self._configure(given)
        super().reset(seed=seed)
        if seed is None and self._session is None:
            seed = int(self.np_random.integers(2**32))
        if self._session is None:
            self._session = self._programs.begin(self._device)
        words = np.array(seed_words(seed or 0), np.uint32)
        self._session = self._programs.reset(
            self._session, words, np.bool_(seed is not None), np.bool_(True), self._params, self._limit
        )
        shown, slots = self._programs.shown(self._session), self._slots
        self._ended = False
        info = {} if slots.mask is None else {"action_mask": slots.mask.load(shown).astype(np.int8)}
        if self._screen.on:
            self._screen.begin(self.functional, self.episode)
        return slots.obs.load(shown), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one step.

        Raises:
            ValueError: the action has a wrong shape or kind, is not finite, or is an index out of range.
            gymnasium.error.ResetNeeded: the episode has ended or none was started.
        """
        checked = self._check_action(action)
        if self._ended:
            raise gym.error.ResetNeeded("there is no running episode: call reset() before step()")
        self._session = self._programs.step(self._session, checked)
        words = self._programs.shown(self._session)
        floats, slots = words.view(np.float32), self._slots
        terminated, truncated = words.item(slots.terminated.start) != 0, words.item(slots.truncated.start) != 0
        info: dict[str, Any] = {}
        for name, start, kind in self._numbers:
            if kind == "f":
                info[name] = floats.item(start)
            else:
                info[name] = bool(words.item(start)) if kind == "b" else words[start : start + 1].view(np.int32).item()
        for name, slot in self._arrays:
            info[name] = slot.load(words)
        if slots.mask is not None:
            info["action_mask"] = slots.mask.load(words).astype(np.int8)
        self._ended = terminated or truncated
        if self._screen.on:
            self._screen.add(self.episode, checked, info)
        return slots.obs.load(words), floats.item(slots.reward.start), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The picture as uint8 `(height, width, 3)`; in mode ``"human"`` it goes to the window instead."""
        return self._screen.render()

    def close(self) -> None:
        self._screen.close()

    # ---- beyond Gymnasium --------------------------------------------------------------------------------------------

    @property
    def episode(self) -> Episode:
        """The functional state and link now, as NumPy leaves: for oracles and plots, never for agents."""
        if self._session is None:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() first")
        return self._programs.sessions(self._session).episode

    @property
    def scenario(self) -> str:
        return self.functional.scenario

    def action_masks(self) -> np.ndarray:
        """Legal actions, bool, flat, as sb3-contrib asks for them; all True where the task forbids none."""
        if self._session is None:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() first")
        slot = self._slots.mask
        return flat_mask(None if slot is None else slot.load(self._programs.shown(self._session)), self.action_space)

    def _configure(self, given: dict[str, Any]) -> None:
        if given.get("scenario") is not None:
            self.functional.check_scenario(given["scenario"])
            self.functional = dataclasses.replace(self.functional, scenario=given["scenario"])
        if "params" in given:
            self._params = None if given["params"] is None else _door.link(self.functional, given["params"])
        self._bind()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled programs, so that a running environment can be copied and stored."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("_device", "_check_action", "_programs")}
        return dict(state, _session=None if self._session is None else np.array(self._session))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()
        if self._session is not None:
            self._session = jax.device_put(self._session, self._device)


def make_single(
    env_id: str | Environment,
    *,
    render_mode: str | None = None,
    scenario: str | None = None,
    params: EnvParams | Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    max_steps_in_episode: int | None = None,
    device: Any = None,
    **fields: Any,
) -> GymnasiumEnv:
    """What `gymnasium.make("qkd/...-v0", ...)` calls; see `GymnasiumEnv`.

    `scenario` and `fields` are the task's constructor's; None is ``"training"``, or what the environment handed in has.
    `max_steps_in_episode` is `max_episode_steps` under a name that `gymnasium.make` lets through.
    """
    if max_episode_steps is not None and max_steps_in_episode is not None:
        raise ValueError("max_episode_steps and max_steps_in_episode are two names of one limit; give one of them")
    env = _door.environment(env_id, scenario=scenario, **fields)
    return GymnasiumEnv(
        env,
        render_mode=render_mode,
        params=params,
        max_episode_steps=max_episode_steps if max_steps_in_episode is None else max_steps_in_episode,
        device=device,
    )


# `gymnasium.make` reads the render modes off the entry point.
make_single.metadata = GymnasiumEnv.metadata  # type: ignore[attr-defined]


def flat_mask(mask: np.ndarray | None, space: gym.Space, num_envs: int | None = None) -> np.ndarray:
    """A mask as sb3-contrib wants it: bool, one axis (behind that of the environments)."""
    lead = () if num_envs is None else (num_envs,)
    if mask is not None:
        return mask.astype(bool).reshape(*lead, -1)
    if isinstance(space, gym.spaces.Discrete):
        return np.ones((*lead, int(space.n)), bool)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return np.ones((*lead, int(space.nvec.sum())), bool)
    raise ValueError(f"only discrete actions have masks, and this task's are {space}")


def _is_plain_number(slot: Any) -> bool:
    return slot.shape == () and slot.dtype in (np.float32, np.int32, np.bool_)

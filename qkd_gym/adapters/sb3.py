"""The Stable-Baselines3 face: a real `VecEnv` on top of one compiled batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from qkd_gym.adapters import _door
from qkd_gym.adapters.gymnasium_vector import GymnasiumVectorEnv
from qkd_gym.envs.core import Environment, EnvParams, Episode

try:
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor
except ImportError as error:
    raise ImportError(
        "qkd_gym.adapters.sb3 needs stable_baselines3; install it with: pip install 'qkd-gym[agents]'"
    ) from error

Indices = int | Iterable[int] | None


class SubEnvironment:
    """One row of the batch, as `get_attr`, `set_attr` and `env_method` address it."""

    def __init__(self, batch: GymnasiumVectorEnv, index: int) -> None:
        self._batch, self._index = batch, index

    @property
    def unwrapped(self) -> SubEnvironment:
        return self

    @property
    def spec(self) -> Any:
        return self._batch.spec

    @property
    def render_mode(self) -> str | None:
        return self._batch.render_mode

    @property
    def observation_space(self) -> gym.Space:
        return self._batch.single_observation_space

    @property
    def action_space(self) -> gym.Space:
        return self._batch.single_action_space

    @property
    def functional(self) -> Environment:
        return self._batch.functional

    @property
    def scenario(self) -> str:
        return self._batch.functional.scenario

    @property
    def episode(self) -> Episode:
        """The functional state and link now: for oracles and plots, never for agents."""
        return self._batch.episode(self._index)

    def render(self) -> np.ndarray | None:
        """The picture of this sub-environment."""
        frames = self._batch.render()
        return None if frames is None else frames[self._index]


class MaskedSubEnvironment(SubEnvironment):
    """A row of a task with discrete actions: these have masks."""

    def action_masks(self) -> np.ndarray:
        """Legal actions, bool, flat, as sb3-contrib asks for them."""
        return self._batch.action_masks()[self._index]


class SB3VecEnv(VecEnv):
    """A batch of sub-environments as a `stable_baselines3.common.vec_env.VecEnv`.

    Sub-environment `i` of `seed(s)` equals `GymnasiumEnv` of seed `s + i`. Where an episode ends, the info of that
    row holds its metrics, ``"terminal_observation"`` and ``"TimeLimit.truncated"`` (the limit alone ended it), and the
    observation is the next episode's first. Arrays are the caller's own and writable. `set_options` takes
    ``"scenario"`` and ``"params"``, alike for all rows, for the next reset.

    Args:
        batch: in the SAME_STEP mode.
    """

    def __init__(self, batch: GymnasiumVectorEnv) -> None:
        if batch.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"SB3 resets at once; make the batch with SAME_STEP, not {batch.autoreset_mode.name}")
        self.batch = batch
        discrete = not isinstance(batch.single_action_space, gym.spaces.Box)
        row = MaskedSubEnvironment if discrete else SubEnvironment
        self._rows = [row(batch, i) for i in range(batch.num_envs)]
        self._actions: Any = None
        super().__init__(batch.num_envs, batch.single_observation_space, batch.single_action_space)
        self.metadata = dict(batch.metadata)

    def reset(self) -> np.ndarray:
        """Start an episode in every row, from the seeds and options set since the last reset."""
        options = self._options[0]
        if any(other is not options and other != options for other in self._options[1:]):
            raise ValueError("the rows run in one batch: set_options takes one dict for all of them")
        obs, infos = self.batch.reset(seed=self._seeds, options=options or None)
        self._reset_seeds()
        self._reset_options()
        masks = infos.get("action_mask")
        self.reset_infos = [{} if masks is None else {"action_mask": masks[i]} for i in range(self.num_envs)]
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """`(observations, rewards, dones, infos)` of the actions handed to `step_async`."""
        obs, rewards, terminated, truncated, columns = self.batch.step(self._actions)
        dones = terminated | truncated
        final = columns.pop("final_info", None)
        last = columns.pop("final_obs", None)
        names = [name for name in columns if not name.startswith("_") and name != "action_mask"]
        if final is not None:
            for name in names:
                columns[name][dones] = final[name][dones]
        # `tolist` turns columns of numbers into Python's own, as SB3's loggers want them; arrays stay arrays.
        values = [columns[name].tolist() if columns[name].ndim == 1 else list(columns[name]) for name in names]
        rows = zip(*values, strict=True) if names else [()] * self.num_envs
        infos = [dict(zip(names, row, strict=True)) for row in rows]
        if "action_mask" in columns:
            for info, mask in zip(infos, columns["action_mask"], strict=True):
                info["action_mask"] = mask
        limit_only = (truncated & ~terminated).tolist()
        for info, cut in zip(infos, limit_only, strict=True):
            info["TimeLimit.truncated"] = cut
        if last is not None:
            for i in np.flatnonzero(dones).tolist():
                infos[i]["terminal_observation"] = last[i]
        return obs, rewards, dones, infos

    def close(self) -> None:
        self.batch.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames = self.batch.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        return [getattr(row, attr_name) for row in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Attach an attribute to rows. What the batch decides (spaces, scenario, render_mode, ...) cannot be set."""
        for row in self._chosen(indices):
            if isinstance(getattr(type(row), attr_name, None), property):
                raise AttributeError(
                    f"{attr_name} belongs to the whole batch and cannot be set on a row; "
                    "make a new environment, or use set_options for the scenario and params"
                )
            setattr(row, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        return [getattr(row, method_name)(*method_args, **method_kwargs) for row in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Indices = None) -> list[bool]:
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: Indices) -> list[SubEnvironment]:
        return [self._rows[i] for i in self._get_indices(indices)]


def make_vec_env(
    env_id: str | Environment,
    n_envs: int = 1,
    seed: int | None = None,
    *,
    scenario: str | None = None,
    params: EnvParams | Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    render_mode: str | None = None,
    monitor: bool = True,
    device: Any = None,
    **fields: Any,
) -> VecEnv:
    """What SB3's own `make_vec_env` is for a Gymnasium id: a `VecEnv` of `n_envs` sub-environments.

    Args:
        seed: sub-environment `i` gets `seed + i` at the first reset; None takes entropy.
        monitor: wrap in SB3's `VecMonitor`, which adds ``info["episode"]`` for the learning curve.
        scenario, params, max_episode_steps, render_mode, device: as of `GymnasiumVectorEnv`.
        fields: the constructor's of the task.
    """
    env = SB3VecEnv(
        GymnasiumVectorEnv(
            _door.environment(env_id, scenario=scenario, **fields),
            n_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            params=params,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            device=device,
        )
    )
    if seed is not None:
        env.seed(_door.one_seed(seed))
    return VecMonitor(env) if monitor else env

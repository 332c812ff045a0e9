"""The Gymnasium face of many environments: one compiled program steps all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from qkd_gym import rendering
from qkd_gym.adapters import _device, _door
from qkd_gym.adapters._program import Programs, programs, seed_words
from qkd_gym.adapters.gymnasium import GymnasiumEnv, flat_mask
from qkd_gym.envs.core import Environment, EnvParams, Episode

_OPTIONS = ("scenario", "params", "reset_mask")


class GymnasiumVectorEnv(gym.vector.VectorEnv[np.ndarray, Any, np.ndarray]):
    """N sub-environments as a `gymnasium.vector.VectorEnv`.

    Sub-environment `i` of seed `s` equals `GymnasiumEnv` of seed `s + i`, step by step, also across the ends of
    episodes (see `qkd_gym.adapters._program`). Infos are arrays with a leading axis N beside a mask ``"_" + key``.

    An episode that ended is reset
      - NEXT_STEP: by the next call, which ignores its action and pays 0;
      - SAME_STEP: at once; its last observation and metrics are in ``infos["final_obs"]`` and ``infos["final_info"]``;
      - DISABLED: by the caller, with ``reset(options={"reset_mask": ended})``; stepping on raises.

    Options of `reset`, beside ``"reset_mask"`` (bool, `(num_envs,)`): as of `GymnasiumEnv`; ``"params"`` may also be
    stacked links, one a sub-environment.

    Args:
        env: the functional environment.
        num_envs: sub-environments.
        autoreset_mode: a `gymnasium.vector.AutoresetMode`, its name or its value.
        params: as the option of `reset`.
        max_episode_steps: becomes `Params.max_steps_in_episode` of every link.
        render_mode: None or ``"rgb_array"``.
        device: None: an accelerator where JAX has one, else the calling thread; or a platform's name, a `jax.Device`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": GymnasiumEnv.metadata["render_fps"]}

    def __init__(
        self,
        env: Environment,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        params: EnvParams | Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        device: Any = None,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs = {num_envs!r} must be an integer of at least 1")
        self.functional = _door.environment(env)
        self.num_envs = int(num_envs)
        self.autoreset_mode = as_mode(autoreset_mode)
        self.metadata = dict(self.metadata, autoreset_mode=self.autoreset_mode)
        self.single_observation_space = env.observation_space()
        self.single_action_space = env.action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        limit = _door.time_limit(max_episode_steps)
        self._limits = None if limit is None else np.full(self.num_envs, limit)
        self._params = None if params is None else _door.link(env, params, self.num_envs)
        self._device_name = device
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode = {render_mode!r} is unknown; a vector environment takes rgb_array or None")
        self.render_mode = render_mode
        self._renderers = [] if render_mode is None else [self._new_renderer() for _ in range(self.num_envs)]
        self._session: Any = None
        self._ended = np.zeros(self.num_envs, bool)
        self._bind()

    def _bind(self) -> None:
        self._device = _device.resolve(self._device_name, small=False)
        self._check_actions = _door.check_actions(self.single_action_space, self.num_envs)
        self._programs: Programs = programs(
            self.functional, self.num_envs, self.autoreset_mode, self._limits is not None, self._params is not None
        )

    # ---- Gymnasium's interface ---------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every sub-environment, or in those of ``options["reset_mask"]``.

        Args:
            seed: an integer `s` gives sub-environment `i` the seed `s + i`; a sequence gives each its own (None: the
                sub-environment goes on with its chain of keys).
        """
        given = _door.options(options, _OPTIONS)
        chosen = self._chosen(given.pop("reset_mask", None), whole=not given)
        seeds = self._seeds(seed)
        if given:
            self._configure(given)
        if self._session is None:
            if not chosen.all():
                raise gym.error.ResetNeeded("the first reset starts every sub-environment: leave out 'reset_mask'")
            entropy = int(self.np_random.integers(2**32))
            seeds = [entropy + i if s is None else s for i, s in enumerate(seeds)]
            self._session = self._programs.begin(self._device)
        words = np.array([seed_words(s or 0) for s in seeds], np.uint32)
        seeded = np.array([s is not None for s in seeds])
        self._session = self._programs.reset(self._session, words, seeded & chosen, chosen, self._params, self._limits)
        shown, slots = self._programs.shown(self._session), self._programs.seen
        obs = slots.obs.load(shown)
        self._ended = self._ended & ~chosen
        infos: dict[str, Any] = {}
        if slots.mask is not None:
            infos |= {"action_mask": slots.mask.load(shown).astype(np.int8), "_action_mask": chosen.copy()}
        if self._renderers:
            self._draw(None, chosen, infos)
        return obs, infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every sub-environment by one call.

        Raises:
            ValueError: the actions have a wrong shape or kind, are not finite, or are indices out of range.
            gymnasium.error.ResetNeeded: nothing was reset yet, or (DISABLED) a sub-environment has ended.
        """
        checked = self._check_actions(actions)
        if self._session is None:
            raise gym.error.ResetNeeded("there are no running episodes: call reset() before step()")
        waiting = self._ended
        if self.autoreset_mode is AutoresetMode.DISABLED and waiting.any():
            raise gym.error.ResetNeeded(
                f"the sub-environments {np.flatnonzero(waiting).tolist()} have ended; with autoreset_mode=DISABLED "
                "call reset(options={'reset_mask': ended}) before the next step"
            )
        self._session = self._programs.step(self._session, checked)
        words, slots = self._programs.shown(self._session), self._programs.seen
        terminated, truncated = slots.terminated.load(words), slots.truncated.load(words)
        ended = terminated | truncated
        metrics = {name: slot.load(words) for name, slot in slots.metrics.items()}
        obs = slots.obs.load(words)
        infos: dict[str, Any] = {}
        present = ~waiting if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.ones(self.num_envs, bool)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            infos = self._final(slots.final_obs.load(words), metrics, ended)
            present = ~ended
            metrics = {name: _blank(value, ended) for name, value in metrics.items()}
        for name, value in metrics.items():
            infos[name], infos[f"_{name}"] = value, present.copy()
        if slots.mask is not None:
            infos |= {
                "action_mask": slots.mask.load(words).astype(np.int8),
                "_action_mask": np.ones(self.num_envs, bool),
            }
        self._ended = ended if self.autoreset_mode is not AutoresetMode.SAME_STEP else np.zeros(self.num_envs, bool)
        if self._renderers:
            started = {AutoresetMode.NEXT_STEP: waiting, AutoresetMode.SAME_STEP: ended}.get(self.autoreset_mode)
            self._draw(checked, np.zeros(self.num_envs, bool) if started is None else started, infos)
        return obs, slots.reward.load(words), terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture of each sub-environment, uint8 `(height, width, 3)`."""
        if not self._renderers:
            gym.logger.warn("render() does nothing without a render_mode; make the environment with one")
            return None
        return tuple(renderer.frame() for renderer in self._renderers)

    # ---- beyond Gymnasium --------------------------------------------------------------------------------------------

    @property
    def episodes(self) -> Episode:
        """The functional states and links now, NumPy leaves with a leading axis: for oracles and plots."""
        if self._session is None:
            raise gym.error.ResetNeeded("there are no episodes yet: call reset() first")
        return self._programs.sessions(self._session).episode

    def episode(self, index: int) -> Episode:
        """The functional state and link of one sub-environment."""
        return _row(self.episodes, index)

    def action_masks(self) -> np.ndarray:
        """Legal actions, bool, `(num_envs, n)`, flat as sb3-contrib asks for them."""
        if self._session is None:
            raise gym.error.ResetNeeded("there are no episodes yet: call reset() first")
        slot = self._programs.seen.mask
        mask = None if slot is None else slot.load(self._programs.shown(self._session))
        return flat_mask(mask, self.single_action_space, self.num_envs)

    # ---- private -----------------------------------------------------------------------------------------------------

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, Sequence | np.ndarray):
            if len(seed) != self.num_envs:
                raise ValueError(f"{len(seed)} seeds for num_envs = {self.num_envs}; give one each, or one integer")
            return [None if s is None else _door.one_seed(s) for s in seed]
        first = _door.one_seed(seed)
        super().reset(seed=first)
        return [first + i for i in range(self.num_envs)]

    def _chosen(self, mask: Any, *, whole: bool) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"options['reset_mask'] = {mask!r} must be a bool array of shape {(self.num_envs,)}")
        if not mask.any():
            raise ValueError("options['reset_mask'] chooses no sub-environment; one at least must be True")
        if not whole:
            raise ValueError("'scenario' and 'params' change every sub-environment: leave out 'reset_mask'")
        return mask.copy()

    def _configure(self, given: dict[str, Any]) -> None:
        if given.get("scenario") is not None:
            self.functional.check_scenario(given["scenario"])
            self.functional = dataclasses.replace(self.functional, scenario=given["scenario"])
        if "params" in given:
            params = given["params"]
            self._params = None if params is None else _door.link(self.functional, params, self.num_envs)
        self._bind()

    def _final(self, obs: np.ndarray, metrics: dict[str, np.ndarray], ended: np.ndarray) -> dict[str, Any]:
        """`final_obs` and `final_info` as Gymnasium's own vector environments give them."""
        last = np.full(self.num_envs, None, dtype=object)
        for i, row in zip(np.flatnonzero(ended).tolist(), obs[ended], strict=True):
            last[i] = row
        info: dict[str, Any] = {}
        for name, value in metrics.items():
            info[name], info[f"_{name}"] = _blank(value, ~ended), ended.copy()
        return {"final_obs": last, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}

    def _new_renderer(self) -> rendering.Renderer:
        return rendering.renderer(self.functional)

    def _draw(self, actions: np.ndarray | None, started: np.ndarray, infos: dict[str, Any]) -> None:
        episodes = self.episodes
        for i in range(self.num_envs):
            if started[i]:
                self._renderers[i] = self._new_renderer()
                self._renderers[i].add(_row(episodes, i), None, {})
            elif actions is not None:
                info = {k: v[i] for k, v in infos.items() if not k.startswith(("_", "final_"))}
                self._renderers[i].add(_row(episodes, i), actions[i], info)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled programs, so that running environments can be copied and stored."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("_device", "_check_actions", "_programs")}
        return dict(state, _session=None if self._session is None else np.array(self._session))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()
        if self._session is not None:
            self._session = jax.device_put(self._session, self._device)


def make_vector(
    env_id: str | Environment,
    num_envs: int = 1,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    max_steps_in_episode: int | None = None,
    scenario: str | None = None,
    params: EnvParams | Mapping[str, Any] | None = None,
    render_mode: str | None = None,
    device: Any = None,
    **fields: Any,
) -> GymnasiumVectorEnv:
    """What `gymnasium.make_vec("qkd/...-v0", num_envs=N, ...)` calls; see `GymnasiumVectorEnv`.

    `scenario`, `fields` and `max_steps_in_episode` are as in `make_single`.
    """
    if max_episode_steps is not None and max_steps_in_episode is not None:
        raise ValueError("max_episode_steps and max_steps_in_episode are two names of one limit; give one of them")
    return GymnasiumVectorEnv(
        _door.environment(env_id, scenario=scenario, **fields),
        num_envs,
        autoreset_mode=autoreset_mode,
        params=params,
        max_episode_steps=max_episode_steps if max_steps_in_episode is None else max_steps_in_episode,
        render_mode=render_mode,
        device=device,
    )


def as_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """An autoreset mode by itself, by name (``"SAME_STEP"``) or by value (``"SameStep"``)."""
    if isinstance(mode, AutoresetMode):
        return mode
    for known in AutoresetMode:
        if isinstance(mode, str) and mode in (known.name, known.value):
            return known
    raise ValueError(f"autoreset_mode = {mode!r} is unknown; it is one of: {', '.join(m.name for m in AutoresetMode)}")


def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _blank(value: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy with zeros in `rows`."""
    value = value.copy()
    value[rows] = 0
    return value

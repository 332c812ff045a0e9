"""The PettingZoo face of a multi-agent task: all agents at once (`ParallelEnv`), or in turn (`AECEnv`)."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import AutoresetMode
from pettingzoo.utils import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from qkd_gym.adapters import _device, _door
from qkd_gym.adapters._program import Programs, programs, seed_words
from qkd_gym.adapters._screen import RENDER_MODES, Screen, served_modes
from qkd_gym.envs.centralised import GlobalView, joint_space, joint_view
from qkd_gym.envs.core import Environment, EnvParams, Episode

#: What one agent sees: an array, or in a task with masks ``{"observation": array, "action_mask": int8 (n,)}``.
Observation = np.ndarray | dict[str, np.ndarray]

_OPTIONS = ("scenario", "params")


class PettingZooParallelEnv(ParallelEnv[str, Any, Any]):
    """A functional multi-agent environment as a `pettingzoo.ParallelEnv`.

    All agents live to the joint end of an episode; after it `agents` is empty until the next `reset`. Seeds and options
    of `reset` are those of `GymnasiumEnv`: the episodes of a seed are the same in both faces.

    Masks: where the task has them, an agent's observation is ``{"observation": ..., "action_mask": ...}``, PettingZoo's
    convention, with a 1 for each legal choice; for `MultiDiscrete` actions those of all components behind each other.
    An illegal choice inside the space is not refused here: what it does is the task's rule.

    `infos[agent]` holds the task's metrics as Python numbers: its own where a metric has one value an agent, else the
    common one. `state()` is one float32 array of the whole, the task's `GlobalView` or else all agents' observations in
    their order, as a centralised critic wants it; `state_space` is its space.

    Args:
        env: the functional environment, with `agents`.
        render_mode, params, device: as of `GymnasiumEnv`.
        max_cycles: becomes `Params.max_steps_in_episode` of every link.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 10, "is_parallelizable": True}

    def __init__(
        self,
        env: Environment,
        *,
        render_mode: str | None = None,
        params: EnvParams | Mapping[str, Any] | None = None,
        max_cycles: int | None = None,
        device: Any = None,
    ) -> None:
        self.functional = _door.joint_environment(env)
        self.possible_agents = list(env.agents)
        self.agents = []
        self.state_space = joint_space(env)
        self._limit = _door.time_limit(max_cycles, "max_cycles")
        self._params = None if params is None else _door.link(env, params)
        self._device_name = device
        self.metadata = dict(self.metadata, name=module_name(env), render_modes=served_modes())
        self.render_mode = render_mode
        self._screen = Screen(env, render_mode)
        self._session: Any = None
        self._bind()
        # Every agent has spaces of its own, so that they can be seeded apart.
        self._action_spaces = {agent: env.action_space() for agent in self.possible_agents}
        self._observation_spaces = {agent: self._observed() for agent in self.possible_agents}

    def _bind(self) -> None:
        """Fetch the compiled programs and where their outputs lie."""
        env = self.functional
        self._device = _device.resolve(self._device_name, small=True)
        self._check_one = _door.check_actions(env.action_space())
        self._check_all = _door.check_actions(env.action_space(), len(self.possible_agents))
        self._programs: Programs = programs(
            env, None, AutoresetMode.DISABLED, self._limit is not None, self._params is not None
        )
        self._slots = self._programs.seen
        metrics, each = self._slots.metrics, (len(self.possible_agents),)
        kinds = {"b": bool, "f": float}
        self._numbers = [
            (name, slice(slot.start, slot.stop), slot.stored, kinds.get(slot.dtype.kind, int))
            for name, slot in metrics.items()
            if slot.shape == ()
        ]
        self._columns = [(name, slot) for name, slot in metrics.items() if slot.shape == each]
        self._arrays = [(name, slot) for name, slot in metrics.items() if slot.shape not in ((), each)]

    def _observed(self) -> gym.Space:
        """Space of what one agent sees."""
        space, mask = self.functional.observation_space(), self._slots.mask
        if mask is None:
            return space
        legal = gym.spaces.Box(0, 1, mask.shape[1:], np.int8)
        return gym.spaces.Dict({"observation": space, "action_mask": legal})

    # ---- PettingZoo's interface --------------------------------------------------------------------------------------

    def observation_space(self, agent: str) -> gym.Space:
        return self._observation_spaces[self._known(agent)]

    def action_space(self, agent: str) -> gym.Space:
        return self._action_spaces[self._known(agent)]

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Start an episode. Without a seed the chain of keys goes on; the first time it starts from entropy.

        Raises:
            ValueError: the seed or an option is unknown. (``"options"`` is let through and ignored: PettingZoo's own
                tests pass it.)
        """
        if seed is not None:
            seed = _door.one_seed(seed)
        given = {name: value for name, value in (options or {}).items() if name != "options"}
        given = _door.options(given, _OPTIONS)
        if given:
            self._configure(given)
        if seed is None and self._session is None:
            seed = int(np.random.default_rng().integers(2**32))
        if self._session is None:
            self._session = self._programs.begin(self._device)
        words = np.array(seed_words(seed or 0), np.uint32)
        self._session = self._programs.reset(
            self._session, words, np.bool_(seed is not None), np.bool_(True), self._params, self._limit
        )
        self.agents = list(self.possible_agents)
        if self._screen.on:
            self._screen.begin(self.functional, self.episode)
        return self._observations(self._programs.shown(self._session)), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Advance one step, in which every agent acts.

        Raises:
            ValueError: an agent's action is missing, of a wrong shape or kind, not finite, or an index out of range;
                or an agent is unknown.
            gymnasium.error.ResetNeeded: the episode has ended or none was started.
        """
        if not self.agents:
            raise gym.error.ResetNeeded("there is no running episode: call reset() before step()")
        joint = self._joint(actions)
        self._session = self._programs.step(self._session, joint)
        words, slots, names = self._programs.shown(self._session), self._slots, self.possible_agents
        terminated, truncated = words.item(slots.terminated.start) != 0, words.item(slots.truncated.start) != 0
        observations, infos = self._observations(words), self._infos(words)
        rewards = dict(zip(names, slots.reward.load(words).tolist(), strict=True))
        if terminated or truncated:
            self.agents = []
        if self._screen.on:
            metrics = {name: slot.load(words)[()] for name, slot in slots.metrics.items()}
            self._screen.add(self.episode, joint, metrics)
        ends, cuts = {name: terminated for name in names}, {name: truncated for name in names}
        return observations, rewards, ends, cuts, infos

    def state(self) -> np.ndarray:
        """The whole, as `state_space` says."""
        if self._session is None:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() first")
        if isinstance(self.functional, GlobalView):
            return np.array(_view_of(self._programs)(self._session))
        return self._slots.obs.load(self._programs.shown(self._session)).reshape(-1)

    def render(self) -> np.ndarray | None:
        """The picture as uint8 `(height, width, 3)`; in mode ``"human"`` it goes to the window instead."""
        return self._screen.render()

    def close(self) -> None:
        self._screen.close()

    # ---- beyond PettingZoo -------------------------------------------------------------------------------------------

    @property
    def episode(self) -> Episode:
        """The functional state and link now, as NumPy leaves: for oracles and plots, never for agents."""
        if self._session is None:
            raise gym.error.ResetNeeded("there is no episode yet: call reset() first")
        return self._programs.sessions(self._session).episode

    @property
    def scenario(self) -> str:
        return self.functional.scenario

    def check_action(self, agent: str, action: Any) -> None:
        """Raise `ValueError` if `agent` could not take `action`."""
        self._known(agent)
        try:
            self._check_one(action)
        except ValueError as error:
            raise ValueError(f"agent {agent!r}: {error}") from None

    # ---- private -----------------------------------------------------------------------------------------------------

    def _known(self, agent: str) -> str:
        if agent not in self.possible_agents:
            names = _door.shortened(tuple(self.possible_agents))
            raise ValueError(f"there is no agent {agent!r}; the {len(self.possible_agents)} agents are: {names}")
        return agent

    def _joint(self, actions: Mapping[str, Any]) -> np.ndarray:
        """The actions in the order of the agents, checked."""
        names = self.possible_agents
        if not isinstance(actions, Mapping):
            raise ValueError(f"actions = {actions!r} must be a mapping from each agent to its action")
        missing = tuple(agent for agent in names if agent not in actions)
        if missing:
            raise ValueError(f"{len(missing)} agents have no action: {_door.shortened(missing)}; all act in each step")
        for agent in actions:
            self._known(agent)
        try:
            return self._check_all(np.array([actions[agent] for agent in names]))
        except ValueError:
            for agent in names:  # names the culprit
                self.check_action(agent, actions[agent])
            raise

    def _observations(self, words: np.ndarray) -> dict[str, Observation]:
        obs, names = self._slots.obs.load(words), self.possible_agents
        if self._slots.mask is None:
            return dict(zip(names, obs, strict=True))
        masks = self._slots.mask.load(words).astype(np.int8)
        return {
            agent: {"observation": row, "action_mask": mask} for agent, row, mask in zip(names, obs, masks, strict=True)
        }

    def _infos(self, words: np.ndarray) -> dict[str, dict[str, Any]]:
        common = {name: kind(words[cut].view(stored).item()) for name, cut, stored, kind in self._numbers}
        common |= {name: slot.load(words) for name, slot in self._arrays}
        if not self._columns:
            return {agent: common.copy() for agent in self.possible_agents}
        columns = [(name, slot.load(words).tolist()) for name, slot in self._columns]
        return {
            agent: common | {name: column[i] for name, column in columns}
            for i, agent in enumerate(self.possible_agents)
        }

    def _configure(self, given: dict[str, Any]) -> None:
        if given.get("scenario") is not None:
            self.functional.check_scenario(given["scenario"])
            self.functional = dataclasses.replace(self.functional, scenario=given["scenario"])
        if "params" in given:
            self._params = None if given["params"] is None else _door.link(self.functional, given["params"])
        self._bind()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled programs, so that a running environment can be copied and stored."""
        bound = ("_device", "_check_one", "_check_all", "_programs", "_numbers", "_columns", "_arrays")
        state = {name: value for name, value in self.__dict__.items() if name not in bound}
        return dict(state, _session=None if self._session is None else np.array(self._session))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()
        if self._session is not None:
            self._session = jax.device_put(self._session, self._device)


class PettingZooAECEnv(parallel_to_aec_wrapper[str, Any, Any]):
    """PettingZoo's own conversion: agents act in their order, and the step happens with the last one.

    A bad action is refused when it is handed in, rather than with the last agent's.
    """

    env: PettingZooParallelEnv

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if not (self.terminations[agent] or self.truncations[agent]):
            self.env.check_action(agent, action)
        super().step(action)


def make_parallel(
    env_id: str | Environment,
    *,
    scenario: str | None = None,
    params: EnvParams | Mapping[str, Any] | None = None,
    max_cycles: int | None = None,
    render_mode: str | None = None,
    device: Any = None,
    **fields: Any,
) -> PettingZooParallelEnv:
    """A task by its id, or an environment, as a `ParallelEnv`; `scenario` and `fields` are its constructor's."""
    env = _door.joint_environment(env_id, scenario=scenario, **fields)
    return PettingZooParallelEnv(env, params=params, max_cycles=max_cycles, render_mode=render_mode, device=device)


def make_aec(env_id: str | Environment, **options: Any) -> OrderEnforcingWrapper[str, Any, Any]:
    """The same as an `AECEnv`, in PettingZoo's wrapper that refuses calls in a wrong order."""
    return OrderEnforcingWrapper(PettingZooAECEnv(make_parallel(env_id, **options)))


def module_name(env: Environment) -> str:
    """PettingZoo's way to name a task, e.g. ``"key_routing_v0"``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", env.name)
    return f"{words.lower()}_v{env.version}"


@functools.lru_cache(maxsize=128)
def _view_of(made: Programs) -> Callable[..., Any]:
    """The compiled function from a session's words to the task's view of the whole."""

    def view(words: Any) -> Any:
        seen, session = made.layout.unpack(words)
        return joint_view(made.env, seen.obs, session.episode.state, session.episode.params)

    return jax.jit(view)

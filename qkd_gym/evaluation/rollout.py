"""One episode, step by step, for looking at: the same episode that `evaluate` plays under that seed and index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qkd_gym.envs.core import Environment, Episode, strong
from qkd_gym.evaluation.agent import Agent, PrivilegedAgent
from qkd_gym.evaluation.runner import VectorPolicy, episode_keys, record_exogenous, trace_steps


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step did. The first one of an episode has no action and no reward: it is the reset."""

    episode: Episode
    observation: np.ndarray
    action: np.ndarray | None
    reward: float | np.ndarray
    done: bool
    info: dict[str, Any]


def rollout(
    env: Environment, agent: Agent | PrivilegedAgent | VectorPolicy, seed: int = 0, index: int = 0
) -> Iterator[Step]:
    """Play episode `index` of `seed` and yield its reset and every step until it ends."""
    keys = episode_keys(seed, 1, first=index)
    obs, running = env.reset_batch(keys[:, 0])
    env = dataclasses.replace(env, scenario="training")  # as in `evaluate`: the scenario is in the link alone
    yield Step(_one(running), np.asarray(obs[0]), None, 0.0, False, {})
    act = _actor(env, agent, running, keys)
    advance = jax.jit(env.advance)
    episode, obs, done = _one(running), obs[0], False
    while not done:
        time = episode.time
        action = act(obs, episode, time)
        obs, episode, reward, terminated, truncated, info = advance(
            jax.random.fold_in(keys[0, 1], time), episode, jnp.asarray(action)
        )
        done = bool(terminated | truncated)
        yield Step(episode, np.asarray(obs), np.asarray(action), np.asarray(reward)[()], done, info)


def _actor(env: Environment, agent: Any, running: Episode, keys: Any) -> Any:
    """`(obs, episode, time) -> action`, with the agent's memory inside."""
    mask = jax.jit(env.mask)
    if not isinstance(agent, (Agent, PrivilegedAgent)):
        agent.start(1)
        dtype = env.action_space().dtype

        def ask(obs: Any, episode: Episode, time: Any) -> np.ndarray:
            legal = mask(episode)
            return np.asarray(agent.act(np.array(obs)[None], None if legal is None else np.array(legal)[None]))[
                0
            ].astype(dtype)

        return ask
    if isinstance(agent, PrivilegedAgent):
        steps = trace_steps(env, agent, int(running.params.max_steps_in_episode[0]))
        trace = jax.tree.map(lambda x: x[0], record_exogenous(env, running, keys, steps)) if steps else None
        memory = [
            jax.jit(lambda key, params, seen: agent.init(key, env, params, seen))(
                keys[0, 2], _one(running).params, trace
            )
        ]
        decide = jax.jit(agent.act)
    else:
        memory = [jax.jit(lambda key: agent.init(key, env, strong(env.default_params)))(keys[0, 2])]
        decide = jax.jit(lambda key, memory, obs, mask, episode: agent.act(key, memory, obs, mask))

    def act(obs: Any, episode: Episode, time: Any) -> Any:
        action, memory[0] = decide(jax.random.fold_in(keys[0, 3], time), memory[0], obs, mask(episode), episode)
        return action

    return act


def _one(running: Episode) -> Episode:
    return jax.tree.map(lambda leaf: leaf[0], running)

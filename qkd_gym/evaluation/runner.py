"""Play whole episodes and count: one compiled loop over all episodes of a task, or a Python loop for foreign policies.

Episode `i` of seed `s` has keys that depend on nothing but `(s, i)`: every agent meets the same links, the same drift
and the same noise (common random numbers), so that differences between agents are paired.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from qkd_gym.envs.core import Environment, Episode, strong
from qkd_gym.evaluation.agent import Agent, PrivilegedAgent

#: Called with (episodes finished, episodes in all) after each chunk.
Progress = Callable[[int, int], None]


class VectorPolicy(Protocol):
    """What cannot be compiled into the loop (SB3, ONNX, a person): acts on whole batches of NumPy arrays."""

    def start(self, num_envs: int) -> None:
        """Forget everything; `num_envs` episodes begin."""

    def act(self, observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """Actions, leading axis `num_envs`."""
        ...


@dataclasses.dataclass(frozen=True)
class EpisodeResults:
    """What `episodes` episodes of one agent on one scenario came to. All arrays have a leading axis of episodes.

    Attributes:
        returns: undiscounted return; of a multi-agent task the mean over its agents.
        agent_returns: `(episodes, agents)`.
        lengths: steps until the end.
        terminated: whether the episode ended by itself rather than at the time limit.
        sums, finals: each of the task's metrics, summed over the episode's steps, and at its last step.
    """

    env_id: str
    scenario: str
    seed: int
    first: int
    agent: str
    returns: np.ndarray
    agent_returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    sums: Mapping[str, np.ndarray]
    finals: Mapping[str, np.ndarray]

    @property
    def episodes(self) -> int:
        return len(self.returns)

    @property
    def means(self) -> dict[str, np.ndarray]:
        """Each metric's mean over the steps of an episode."""
        return {name: total / self.lengths for name, total in self.sums.items()}


def episode_keys(seed: int, episodes: int, first: int = 0) -> PRNGKeyArray:
    """Keys of episodes `first` ... `first + episodes - 1` of a seed, `(episodes, 4)`: reset, dynamics, init, action."""
    root = jax.random.key(seed, impl="threefry2x32")

    def one(index: Array) -> PRNGKeyArray:
        return jax.random.split(jax.random.fold_in(root, index), 4)

    return jax.vmap(one)(jnp.arange(first, first + episodes, dtype=jnp.uint32))


def evaluate(
    env: Environment,
    agent: Agent | PrivilegedAgent,
    episodes: int = 256,
    seed: int = 0,
    *,
    first: int = 0,
    chunk: int = 256,
    progress: Progress | None = None,
) -> EpisodeResults:
    """Play `episodes` episodes of `env.scenario` with `agent`.

    An `Agent` is told the task's public defaults, not the scenario: `init` gets the training one. A `PrivilegedAgent`
    is handed the hidden state, the true link, and the trace of `env.exogenous`, recorded in a hands-off run of the
    same keys. The scenario is in the links alone, so one compiled program serves all scenarios of a task.

    Args:
        agent: hashable, or a pytree of arrays (`struct.dataclass`); policies of one structure share a compiled program.
        seed, first: which episodes; see `episode_keys`.
        chunk: episodes that run in one batch; bounds the memory, changes no result beyond float rounding.
    """
    traced, static = _split_agent(agent)
    public = dataclasses.replace(env, scenario="training")

    def play(obs: Array, running: Episode, keys: PRNGKeyArray, horizon: int) -> Any:
        steps = trace_steps(env, agent, horizon)
        return _play(obs, running, keys, jnp.int32(horizon), traced, env=public, static=static, recorded=steps)

    return _evaluate(env, agent.label, play, episodes, seed, first, chunk, progress)


def evaluate_vector(
    env: Environment,
    policy: VectorPolicy,
    episodes: int = 256,
    seed: int = 0,
    *,
    first: int = 0,
    chunk: int = 256,
    label: str | None = None,
    progress: Progress | None = None,
) -> EpisodeResults:
    """`evaluate` for a policy that cannot be compiled: the same episodes, stepped from Python in batches of `chunk`."""
    dtype = env.action_space().dtype

    def play(obs: Array, running: Episode, keys: PRNGKeyArray, horizon: int) -> Any:
        batch = keys.shape[0]
        policy.start(batch)
        carry = (running, jnp.ones(batch, bool), _zeros(env, running, obs, batch))
        for time in range(horizon):
            masks = _masks(env, carry[0])
            actions = np.asarray(policy.act(np.array(obs), None if masks is None else np.array(masks)))
            want = np.shape(env.passive_action)
            if actions.shape != (batch, *want):
                raise ValueError(f"actions have the shape {actions.shape}; {env.id} wants {(batch, *want)}")
            obs, carry = _vector_step(keys, carry, jnp.asarray(actions.astype(dtype)), jnp.int32(time), env=env)
            if not np.any(carry[1]):
                break
        return carry[1:]

    return _evaluate(env, label or type(policy).__name__, play, episodes, seed, first, chunk, progress)


def _evaluate(
    env: Environment,
    label: str,
    play: Callable,
    episodes: int,
    seed: int,
    first: int,
    chunk: int,
    progress: Progress | None,
) -> EpisodeResults:
    """Split into batches of one shape, play them, and gather."""
    if episodes < 1 or chunk < 1 or first < 0:
        raise ValueError(f"episodes = {episodes} and chunk = {chunk} must be positive, first = {first} not negative")
    batches = -(-episodes // chunk)
    batch = -(-episodes // batches)
    keys = episode_keys(seed, batches * batch, first)  # the surplus of the last batch is played and dropped
    starts = [_reset(keys[i * batch : (i + 1) * batch], env=env) for i in range(batches)]
    horizon = max(int(np.max(start[1].params.max_steps_in_episode)) for start in starts)
    pieces = []
    for i, (obs, running) in enumerate(starts):
        alive, totals = jax.device_get(play(obs, running, keys[i * batch : (i + 1) * batch], horizon))
        if alive.any():
            raise RuntimeError(
                f"{env.id}: {int(alive.sum())} episodes did not end within max_steps_in_episode = {horizon} steps; "
                "is_truncated must be true from there on"
            )
        pieces.append(totals)
        if progress is not None:
            progress(min((i + 1) * batch, episodes), episodes)
    totals = jax.tree.map(lambda *parts: np.concatenate(parts)[:episodes], *pieces)
    high, low = totals["sum"]
    sums = {name: high[name].astype(np.float64) + low[name].astype(np.float64) for name in high}
    agent_returns = sums.pop("")
    return EpisodeResults(
        env_id=env.id,
        scenario=env.scenario,
        seed=seed,
        first=first,
        agent=label,
        returns=agent_returns.mean(axis=1),
        agent_returns=agent_returns,
        lengths=totals["length"],
        terminated=totals["terminated"],
        sums=sums,
        finals={name: value.astype(np.float64) for name, value in totals["final"].items()},
    )


@functools.partial(jax.jit, static_argnames=("env",))
def _reset(keys: PRNGKeyArray, *, env: Environment) -> tuple[Array, Episode]:
    return env.reset_batch(keys[:, 0])


@functools.partial(jax.jit, static_argnames=("env", "static", "recorded"))
def _play(
    obs: Array,
    running: Episode,
    keys: PRNGKeyArray,
    horizon: Array,
    traced: Any,
    *,
    env: Environment,
    static: Any,
    recorded: int,
) -> Any:
    """All steps of a batch of episodes, until the last one has ended."""
    agent = _join_agent(traced, static)
    batch = keys.shape[0]
    if isinstance(agent, PrivilegedAgent):
        trace = record_exogenous(env, running, keys, recorded) if recorded else None
        start = jax.vmap(lambda key, params, seen: agent.init(key, env, params, seen))
        memory = start(keys[:, 2], running.params, trace)
        act = jax.vmap(agent.act)
    else:
        defaults = strong(env.default_params)
        memory = jax.vmap(lambda key: agent.init(key, env, defaults))(keys[:, 2])
        act = jax.vmap(lambda key, memory, obs, mask, episode: agent.act(key, memory, obs, mask))

    def body(carry: Any) -> Any:
        time, obs, memory, rest = carry
        key = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 3], time)
        actions, memory = act(key, memory, obs, _masks(env, rest[0]), rest[0])
        obs, rest = _step(env, keys, rest, actions, time)
        return time + 1, obs, memory, rest

    def unfinished(carry: Any) -> Array:
        return (carry[0] < horizon) & jnp.any(carry[3][1])

    rest = (running, jnp.ones(batch, bool), _zeros(env, running, obs, batch))
    return jax.lax.while_loop(unfinished, body, (jnp.int32(0), obs, memory, rest))[3][1:]


def _step(env: Environment, keys: PRNGKeyArray, carry: Any, actions: Array, time: Array) -> tuple[Array, Any]:
    """One step of every episode of a batch. Those that have ended run on, but count no more."""
    running, alive, totals = carry
    key = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], time)
    obs, running, reward, terminated, truncated, info = jax.vmap(env.advance)(key, running, actions)
    now = _metrics(env, info)
    now[""] = reward.reshape(reward.shape[0], -1).astype(jnp.float32)
    high, low = totals["sum"]
    counted = {k: jnp.where(alive.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for k, v in now.items()}
    pairs = {k: _two_sum(high[k], low[k], v) for k, v in counted.items()}
    totals = {
        "sum": ({k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}),
        "final": {k: jnp.where(alive, now[k], v) for k, v in totals["final"].items()},
        "length": totals["length"] + alive,
        "terminated": totals["terminated"] | (alive & terminated),
    }
    return obs, (running, alive & ~(terminated | truncated), totals)


_vector_step = functools.partial(jax.jit, static_argnames=("env",))(
    lambda keys, carry, actions, time, *, env: _step(env, keys, carry, actions, time)
)


def _metrics(env: Environment, info: Mapping[str, Array]) -> dict[str, Array]:
    """The task's declared metrics, float32 `(batch,)`; a metric of each agent is averaged."""
    missing = sorted(set(env.metrics) - set(info))
    if missing:
        raise KeyError(f"{env.id} declares the metrics {', '.join(missing)} but its info does not hold them")
    values = {name: jnp.asarray(info[name]).astype(jnp.float32) for name in env.metrics}
    return {name: value.reshape(value.shape[0], -1).mean(axis=1) for name, value in values.items()}


def _two_sum(high: Array, low: Array, term: Array) -> tuple[Array, Array]:
    """Compensated addition (Knuth, TAOCP vol. 2, 4.2.2): the rounding error of `high + term` goes to `low`."""
    total = high + term
    back = total - high
    return total, low + ((high - (total - back)) + (term - back))


def _zeros(env: Environment, running: Episode, obs: Array, batch: int) -> dict[str, Any]:
    zero = {name: jnp.zeros(batch, jnp.float32) for name in env.metrics}
    sums = {**zero, "": jnp.zeros((batch, env.num_agents), jnp.float32)}
    return {
        "sum": (sums, jax.tree.map(jnp.zeros_like, sums)),
        "final": zero,
        "length": jnp.zeros(batch, jnp.int32),
        "terminated": jnp.zeros(batch, bool),
    }


@functools.partial(jax.jit, static_argnames=("env",))
def _jit_masks(running: Episode, *, env: Environment) -> Array | None:
    return jax.vmap(env.mask)(running)


def _masks(env: Environment, running: Episode) -> Array | None:
    return _jit_masks(running, env=env)


def trace_steps(env: Environment, agent: Any, horizon: int) -> int:
    """Length of the recording that a privileged agent gets; 0 if there is nothing to record."""
    if not isinstance(agent, PrivilegedAgent):
        return 0

    def look(key: PRNGKeyArray) -> Any:
        episode = env.reset(key)[1]
        return env.exogenous(episode.state, episode.params)

    seen = jax.eval_shape(look, jax.random.key(0))
    return horizon if jax.tree.leaves(seen) else 0


def record_exogenous(env: Environment, running: Episode, keys: PRNGKeyArray, steps: int) -> Any:
    """`env.exogenous` at times 0 ... `steps` of each episode, `(batch, steps + 1, ...)`, in a hands-off run."""
    action = jnp.broadcast_to(jnp.asarray(env.passive_action), (keys.shape[0], *np.shape(env.passive_action)))
    see = jax.vmap(lambda episode: env.exogenous(episode.state, episode.params))

    def body(running: Episode, time: Array) -> tuple[Episode, Any]:
        key = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], time)
        return jax.vmap(env.advance)(key, running, action)[1], see(running)

    last, seen = jax.lax.scan(body, running, jnp.arange(steps, dtype=jnp.int32))
    return jax.tree.map(lambda s, e: jnp.moveaxis(jnp.concatenate([s, e[None]]), 0, 1), seen, see(last))


def _split_agent(agent: Any) -> tuple[list[Any], Any]:
    """An agent as (arrays to trace, the hashable rest). An agent that is no pytree is all rest."""
    leaves, structure = jax.tree.flatten(agent)
    is_array = tuple(isinstance(leaf, (jax.Array, np.ndarray, np.generic)) for leaf in leaves)
    rest = tuple(None if a else leaf for leaf, a in zip(leaves, is_array, strict=True))
    static = (structure, is_array, rest)
    try:
        hash(static)
    except TypeError as error:
        raise TypeError(
            f"{type(agent).__name__} is not hashable ({error}); make it a "
            "qkd_gym.struct.dataclass, so that its arrays are traced"
        ) from error
    return [leaf for leaf, a in zip(leaves, is_array, strict=True) if a], static


def _join_agent(traced: list[Any], static: Any) -> Any:
    structure, is_array, rest = static
    arrays = iter(traced)
    return jax.tree.unflatten(structure, [next(arrays) if a else leaf for leaf, a in zip(rest, is_array, strict=True)])

"""The compiled programs behind the Gymnasium and PettingZoo faces, and how their random numbers follow from a seed.

The keys of a sub-environment of seed `s` are `fold_in(jax.random.key(s, impl="threefry2x32"), k)`. `k = 0` starts the
episode that a seeded reset asks for; the steps, counted over all episodes, take `k = 1, 2, ...`. A reset without a seed
that follows a step uses the `restart_key` of that step, which is what auto-reset would have used. Hence a vector
environment and a single one agree step by step, in every autoreset mode, also across the ends of episodes. A second
reset without a step between takes the next `k`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Array

from qkd_gym import struct
from qkd_gym.adapters._packing import Layout
from qkd_gym.envs.core import STANDARD_INFO, Environment, Episode, as_key, restart_key, select


class Session(NamedTuple):
    """What one sub-environment carries from call to call: arrays, or their shapes, or their `Slot`s."""

    seed: Any  # uint32 (2,)
    draws: Any  # int32, keys taken from the seed since it was set
    fresh: Any  # bool, no step since the last reset
    ended: Any  # bool, the episode is over
    episode: Episode


class Seen(NamedTuple):
    """What one call shows: arrays, or their shapes, or their `Slot`s."""

    obs: Any
    reward: Any
    terminated: Any
    truncated: Any
    metrics: dict[str, Any]
    mask: Any  # None where the task has no mask
    final_obs: Any  # SAME_STEP: the observation before the auto-reset; else None


class Programs:
    """The compiled functions of one environment in one form.

    Args:
        env: the functional environment.
        num_envs: sub-environments; None for a single one without a leading axis.
        mode: who resets an episode that ended.
        limited: every link takes the time limit of the one before, rather than its own.
        fixed: every episode runs on the link of the one before, rather than on one drawn from the scenario.
    """

    def __init__(self, env: Environment, num_envs: int | None, mode: AutoresetMode, limited: bool, fixed: bool) -> None:
        self.env, self._limited, self._fixed = env, limited, fixed
        self._batched: Callable = jax.vmap if num_envs is not None else lambda function: function
        step = {
            AutoresetMode.NEXT_STEP: self._step_then_reset,
            AutoresetMode.SAME_STEP: self._step_and_reset,
            AutoresetMode.DISABLED: self._step_only,
        }[mode]
        lead = () if num_envs is None else (num_envs,)

        def batch(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype)

        scalar = functools.partial(jax.ShapeDtypeStruct, ())
        one = Session(
            seed=jax.ShapeDtypeStruct((2,), jnp.uint32),
            draws=scalar(jnp.int32),
            fresh=scalar(jnp.bool_),
            ended=scalar(jnp.bool_),
            episode=jax.eval_shape(lambda: env.reset(jax.random.key(0))[1]),
        )
        session = jax.tree.map(batch, one)
        space = env.action_space()
        kind = jnp.float32 if isinstance(space, gym.spaces.Box) else jnp.int32
        action = batch(jax.ShapeDtypeStruct(np.shape(env.passive_action), kind))
        seen: Seen = jax.eval_shape(step, session, action)[1]
        self.layout = Layout((seen, session))
        self.seen: Seen = self.layout.tree[0]  # of slots
        self._shown_size = Layout(seen).size
        self.step = self._compile(step)
        self.reset = jax.jit(self._reset)

    def _compile(self, function: Callable) -> Callable[..., Array]:
        """`function` on one vector that holds what is shown and, behind it, the session: `(words, ...) -> words`."""

        def program(words: Array, *inputs: Any) -> Array:
            _, session = self.layout.unpack(words)
            session, seen = function(session, *inputs)
            return self.layout.pack((seen, session))

        return jax.jit(program)

    def begin(self, device: Any) -> Array:
        """The vector to hand to the first `reset`."""
        return jax.device_put(np.zeros(self.layout.size, np.uint32), device)

    def shown(self, words: Array) -> np.ndarray:
        """What a call shows, as host words that belong to the caller: the one copy of a call."""
        return np.array(np.asarray(words)[: self._shown_size])

    def sessions(self, words: Array) -> Session:
        """The session inside, as NumPy arrays."""
        return self.layout.load(np.array(words))[1]

    # ---- one sub-environment -----------------------------------------------------------------------------------------

    def _restart(
        self, session: Session, seed: Array, seeded: Array, params: Any, limit: Array | None
    ) -> tuple[Session, Array]:
        """Start an episode, from `seed` where `seeded`."""
        seed = jnp.where(seeded, seed, session.seed)
        draws = jnp.where(seeded, jnp.int32(0), session.draws + session.fresh)
        key = jax.random.fold_in(_key(seed), draws)
        spare = restart_key(key)
        own = jnp.where(seeded | session.fresh, jax.random.key_data(key), jax.random.key_data(spare))
        obs, episode = self.env.reset(_key(own), self._link(_key(own), params, limit))
        return Session(seed, draws, jnp.bool_(True), jnp.bool_(False), episode), obs

    def _link(self, key: Array, params: Any, limit: Array | None) -> Any:
        """The link of a new episode; None where `Environment.reset` is to draw it."""
        if limit is None:
            return params
        if params is None:
            return drawn_link(self.env, key, limit)
        return struct.replace(params, max_steps_in_episode=limit)

    def _again(self, session: Session) -> tuple[Session, Array]:
        """The next episode after one that has been stepped."""
        before = session.episode.params
        params = before if self._fixed else None
        limit = before.max_steps_in_episode if self._limited else None
        return self._restart(session, session.seed, jnp.bool_(False), params, limit)

    def _advance(self, session: Session, action: Array) -> tuple[Session, Seen]:
        draws = session.draws + 1
        key = jax.random.fold_in(_key(session.seed), draws)
        obs, episode, reward, terminated, truncated, info = self.env.advance(key, session.episode, action)
        metrics = {name: value for name, value in info.items() if name not in STANDARD_INFO}
        after = Session(session.seed, draws, jnp.bool_(False), terminated | truncated, episode)
        return after, Seen(obs, reward, terminated, truncated, metrics, self.env.mask(episode), None)

    # ---- all of them -------------------------------------------------------------------------------------------------

    def _reset(
        self, words: Array, seeds: Array, seeded: Array, chosen: Array, params: Any, limits: Array | None
    ) -> Array:
        """Start an episode in the `chosen` sub-environments; the others stay, and show their last observation."""
        before, sessions = self.layout.unpack(words)
        after, obs = self._batched(self._restart)(sessions, seeds, seeded, params, limits)
        after, obs = self._batched(select)(chosen, (after, obs), (sessions, before.obs))
        seen = jax.tree.map(jnp.zeros_like, before)
        return self.layout.pack((seen._replace(obs=obs, mask=self._masks(after)), after))

    def _step_only(self, sessions: Session, actions: Array) -> tuple[Session, Seen]:
        return self._batched(self._advance)(sessions, actions)

    def _step_then_reset(self, sessions: Session, actions: Array) -> tuple[Session, Seen]:
        """NEXT_STEP: where the episode ended on the call before, reset instead of stepping."""
        after, seen = self._step_only(sessions, actions)
        waiting = sessions.ended
        after, obs = self._where_any(waiting, lambda: self._batched(self._again)(sessions), (after, seen.obs))
        blank = jax.tree.map(jnp.zeros_like, seen)
        seen = self._batched(select)(waiting, blank, seen)
        return after, seen._replace(obs=obs, mask=self._masks(after))

    def _step_and_reset(self, sessions: Session, actions: Array) -> tuple[Session, Seen]:
        """SAME_STEP: where the episode ends on this call, return the next one's first observation."""
        after, seen = self._step_only(sessions, actions)
        ended = after.ended
        after, obs = self._where_any(ended, lambda: self._batched(self._again)(after), (after, seen.obs))
        return after, seen._replace(obs=obs, mask=self._masks(after), final_obs=seen.obs)

    def _where_any(self, chosen: Array, fresh: Callable, now: Any) -> Any:
        """`fresh()` in the chosen rows. The condition stands outside the map, so that no reset costs nothing."""
        return jax.lax.cond(
            jnp.any(chosen), lambda rows: self._batched(select)(chosen, fresh(), rows), lambda rows: rows, now
        )

    def _masks(self, sessions: Session) -> Array | None:
        return self._batched(self.env.mask)(sessions.episode)


@functools.lru_cache(maxsize=128)
def programs(
    env: Environment, num_envs: int | None, mode: AutoresetMode, limited: bool = False, fixed: bool = False
) -> Programs:
    """`Programs`, shared by all faces of the same form in a process, so that each is compiled once."""
    return Programs(env, num_envs, mode, limited, fixed)


def drawn_link(env: Environment, key: Array, limit: Array) -> Any:
    """The link that `env.reset(key)` draws, with another time limit."""
    link = env.sample_params(jax.random.split(as_key(key))[0])
    return struct.replace(link, max_steps_in_episode=limit)


def seed_words(seed: int) -> tuple[int, int]:
    """The two words of `jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))`, for seeds below 2**64."""
    return (seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF


def _key(words: Array) -> Array:
    return jax.random.wrap_key_data(words, impl="threefry2x32")

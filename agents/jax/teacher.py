"""A shipped agent of the task as a teacher: what it would do in every environment that the learner visits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from agents.registry import agents_for
from qkd_gym.envs.core import Environment, Episode, strong
from qkd_gym.evaluation.agent import Agent, PrivilegedAgent


class Teacher:
    """`agent` on N environments at once. Its memory is a list of leaves `(N, ...)`, those that its `act` changes.

    What `act` hands on as it got it (tables, public constants) is the same in all environments and is kept once.
    """

    def __init__(self, env: Environment, agent: Agent | PrivilegedAgent) -> None:
        self.env, self.agent, self.privileged = env, agent, isinstance(agent, PrivilegedAgent)
        if not self.privileged:  # its start is the same in every episode
            memory = jax.jit(lambda key: agent.init(key, env, strong(env.default_params)))(jax.random.key(0))
            leaves, self._tree = jax.tree.flatten(memory)
            self._leaves = [np.asarray(leaf) for leaf in leaves]
            self._changing = self._find_changing(leaves)

    def _find_changing(self, leaves: list[Array]) -> list[bool]:
        """Whether `act` touches each leaf of the memory."""
        shape = np.shape(self.env.passive_action)[:1] if self.env.agents else ()
        obs = jnp.zeros((*shape, *self.env.observation_space().shape), jnp.float32)
        legal = jax.eval_shape(lambda key: self.env.mask(self.env.reset(key)[1]), jax.random.key(0))
        mask = None if legal is None else jnp.ones(legal.shape, bool)

        def act(leaves: list[Array]) -> list[Array]:
            memory = jax.tree.unflatten(self._tree, leaves)
            return jax.tree.leaves(self.agent.act(jax.random.key(0), memory, obs, mask)[1])

        program = jax.make_jaxpr(act)(leaves).jaxpr
        return [before is not after for before, after in zip(program.invars, program.outvars, strict=True)]

    def start(self, key: PRNGKeyArray, episodes: Episode) -> Any:
        """Memory at the start of these episodes."""
        count = episodes.state.time.shape[0]
        if self.privileged:
            keys = jax.random.split(key, count)
            return jax.vmap(lambda k, params: self.agent.init(k, self.env, params, None))(keys, episodes.params)
        kept = [leaf for leaf, changing in zip(self._leaves, self._changing, strict=True) if changing]
        return [jnp.broadcast_to(leaf, (count, *leaf.shape)) for leaf in kept]

    def advise(
        self, key: PRNGKeyArray, memory: Any, first: Bool[Array, " n"], obs: Array, masks: Any, episodes: Episode
    ) -> tuple[Array, Any]:
        """Its action after `obs`, `(N, ...)`, and its memory, started anew where an episode begins."""
        key_start, key_act = jax.random.split(key)

        def renew(memory: Any) -> Any:
            def choose(new: Array, old: Array) -> Array:
                return jnp.where(first.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

            return jax.tree.map(choose, self.start(key_start, episodes), memory)

        memory = jax.lax.cond(jnp.any(first), renew, lambda memory: memory, memory)
        keys = jax.random.split(key_act, first.shape[0])
        if self.privileged:
            return jax.vmap(self.agent.act)(keys, memory, obs, masks, episodes)

        def act(key: PRNGKeyArray, kept: list[Array], obs: Array, mask: Array | None) -> tuple[Array, list[Array]]:
            changing = iter(kept)
            leaves = [
                next(changing) if c else jnp.asarray(leaf) for leaf, c in zip(self._leaves, self._changing, strict=True)
            ]
            action, memory = self.agent.act(key, jax.tree.unflatten(self._tree, leaves), obs, mask)
            return action, [x for x, c in zip(jax.tree.leaves(memory), self._changing, strict=True) if c]

        return jax.vmap(act)(keys, memory, obs, masks)


def teacher_of(env: Environment, name: str, imitate: tuple[int, ...]) -> Teacher | None:
    """The teacher of that name, or none for an empty one; the components to imitate are checked."""
    if not name:
        return None
    agents = agents_for(env)
    if name not in agents:
        raise ValueError(f"teacher = {name!r} is no agent of {env.id}; there are: {', '.join(agents)}")
    components = np.size(env.passive_action) // env.num_agents
    if any(not 0 <= i < components for i in imitate):
        raise ValueError(f"imitate = {imitate} must be components of the action, 0 to {components - 1}")
    return Teacher(env, agents[name])

"""What a step costs: random legal play of a task with masks, timed on one processor core."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from qkd_gym.envs.core import Environment, Episode


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one environment in a batch; `held_kb` is its state and parameters."""

    us_per_step: float
    observation_kb: float
    held_kb: float
    compile_s: float


def random_step(env: Environment, key: Array, episodes: Episode) -> tuple[Array, Episode]:
    """(observations, episodes) of a batch after a step of uniformly drawn legal actions."""
    mask = jax.vmap(env.mask)(episodes)
    drawn, key = jax.random.split(key)
    odds = jax.random.uniform(drawn, mask.shape, jnp.float32)
    action = jnp.argmax(jnp.where(mask, odds, -1), axis=-1).astype(jnp.int32)
    return env.step_batch(jax.random.split(key, len(mask)), episodes, action)[:2]


def cost_of(env: Environment, num_envs: int, steps: int = 50, rounds: int = 3) -> Cost:
    """The best of some rounds, by processor time, so that other programs on the machine matter little."""

    def play(key: Array, episodes: Episode) -> tuple[Episode, Array]:
        def body(episodes: Episode, key: Array) -> tuple[Episode, Array]:
            obs, episodes = random_step(env, key, episodes)
            return episodes, obs.mean()  # observations are made, too

        return jax.lax.scan(body, episodes, jax.random.split(key, steps))

    obs, episodes = jax.jit(env.reset_batch)(jax.random.split(jax.random.key(0), num_envs))
    begin = time.process_time()
    compiled = jax.jit(play).lower(jax.random.key(1), episodes).compile()
    compile_s, best = time.process_time() - begin, float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        jax.block_until_ready(compiled(jax.random.key(1), episodes))
        best = min(best, time.process_time() - begin)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(episodes))
    kb = 1e3 * num_envs
    return Cost(1e6 * best / (steps * num_envs), obs.nbytes / kb, held / kb, compile_s)


def print_costs(cases: Iterable[tuple[str, Environment, int]]) -> list[Cost]:
    """Measure (name, environment, number of environments) after each other; prints a table."""
    print("| | agents | environments | steps/s | us/step | observation, kB | state and parameters, kB | compile, s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    costs = []
    for name, env, num_envs in cases:
        cost = cost_of(env, num_envs)
        costs.append(cost)
        print(
            f"| {name} | {env.num_agents} | {num_envs} | {1e6 / cost.us_per_step:,.0f} | {cost.us_per_step:.2f} "
            f"| {cost.observation_kb:.1f} | {cost.held_kb:.1f} | {cost.compile_s:.0f} |",
            flush=True,
        )
    return costs

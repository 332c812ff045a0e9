"""Is every unit of key accounted for? Random play on every shipped topology: `python -m benchmarks.books`.

Each network task keeps exact books in its state. After every step, the key made (with the stock at the start) must
equal what is stored, delivered, spilled and burnt, and no pool may be below zero or above its capacity. Exit status: 1
if a unit is missing anywhere.
"""

from __future__ import annotations

import argparse
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.cost import random_step
from benchmarks.leaderboard.jobs import keep_compiled_programs
from qkd_gym import topologies
from qkd_gym.arguments import count
from qkd_gym.envs.core import Environment, Episode
from qkd_gym.envs.network.key_routing import KeyRouting
from qkd_gym.envs.network.node_switching import NodeSwitching
from qkd_gym.envs.network.resource_allocation import ResourceAllocation

BATCH = 16
#: Ports of the switches that are played.
PORTS = (2, 4, 6)


def environments() -> list[tuple[str, Environment | None]]:
    """Every network task on every topology, with its name; None where a link is beyond the task's reach."""
    found: list[tuple[str, Any]] = []
    for task in (KeyRouting, ResourceAllocation):
        for name in topologies.names():
            try:
                env = task(topology=name)
            except ValueError:
                env = None
            found.append((f"{task.name} {name}", env))
    found += [(f"NodeSwitching {n} x {n}", NodeSwitching(num_transmitters=n, num_receivers=n)) for n in PORTS]
    return found


def missing(state: Any) -> Array:
    """Units of key made that the books do not know of."""
    spent = sum(getattr(state, n, 0) for n in ("delivered_total", "served_total", "spilled_total", "burnt_total"))
    return state.made_total - jnp.sum(state.level, dtype=jnp.int32) - spent


@functools.partial(jax.jit, static_argnames=("env", "steps"))
def play(key: Array, *, env: Environment, steps: int) -> tuple[Array, Array, Array]:
    """(units missing, pools out of range, key made) after each step, `(steps, BATCH)`."""

    def body(episodes: Episode, key: Array) -> tuple[Episode, Any]:
        episodes = random_step(env, key, episodes)[1]
        state = episodes.state
        outside = (state.level < 0) | (state.level > state.capacity)
        return episodes, (jax.vmap(missing)(state), outside.reshape(BATCH, -1).any(axis=1), state.made_total)

    start = env.reset_batch(jax.random.split(jax.random.fold_in(key, 1), BATCH))[1]
    return jax.lax.scan(body, start, jax.random.split(key, steps))[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.books", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count(), default=10_000, help="random steps of each (default: %(default)s)")
    parser.add_argument("--seed", type=count(0), default=0, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    keep_compiled_programs()
    steps, bad = -(-arguments.steps // BATCH), 0
    for name, env in environments():
        if env is None:
            print(f"{name:36s} refused by the task: a link beyond reach", flush=True)
            continue
        lost, outside, made = (np.asarray(x) for x in play(jax.random.key(arguments.seed), env=env, steps=steps))
        found = int(np.count_nonzero(lost) + np.count_nonzero(outside))
        bad += found
        print(f"{name:36s} {lost.size:,} steps, {made.max():,} units made in an episode, {found} wrong", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

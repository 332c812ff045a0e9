"""Bounds of `node_switching`, and what agents leave below them: `python -m benchmarks.node_switching [--episodes 32]`.

The bound knows all demand and drift of an episode beforehand and prices port time (`benchmarks/switching_bound.py`
proves that no policy is above it). It is worked out once an episode and kept in
`benchmarks/node_switching_bounds.json`.

Printed beside the value is the avoidable loss, (bound - value) / (bound - value of round robin), of the same episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from agents.registry import agents_for
from benchmarks.leaderboard.jobs import Job, keep_compiled_programs
from benchmarks.switching_bound import Story, bound, find_prices
from qkd_gym.envs.core import Episode
from qkd_gym.envs.network.node_switching import NodeSwitching
from qkd_gym.envs.network.switching import KNOTS_DB, UNIT_BITS
from qkd_gym.evaluation.protocol import EVALUATION_SEED
from qkd_gym.evaluation.runner import episode_keys, record_exogenous

BOUNDS = Path(__file__).with_name("node_switching_bounds.json")
#: Steps of the subgradient method, and grid points a minute of the bound itself.
ITERATIONS, GRID = 100, 2
#: What avoidable loss is measured from.
REFERENCE = "round_robin"


@functools.partial(jax.jit, static_argnames=("env",))
def _start(keys: Array, *, env: NodeSwitching) -> Episode:
    return env.reset_batch(keys[:, 0])[1]


@functools.partial(jax.jit, static_argnames=("env", "steps"))
def _record(running: Episode, keys: Array, *, env: NodeSwitching, steps: int) -> Any:
    return record_exogenous(env, running, keys, steps)


def stories(env: NodeSwitching, seed: int, episodes: int, first: int = 0, steps: int | None = None) -> list[Story]:
    """The stories of evaluation episodes `first` ... of a seed, whole or their first `steps`."""
    steps = steps or int(env.default_params.max_steps_in_episode)
    keys = episode_keys(seed, episodes, first)
    public = dataclasses.replace(env, scenario="training")  # the scenario is in the links alone
    running = _start(keys, env=env)
    trace = jax.device_get(_record(running, keys, env=public, steps=steps))
    running = jax.device_get(running)
    return [story_of(*jax.tree.map(lambda x, i=i: x[i], (running, trace))) for i in range(episodes)]


def story_of(start: Episode, trace: Any) -> Story:
    """The story of one episode from its first state and its `NodeSwitching.exogenous`, leading axis steps + 1."""
    state, params = start.state, start.params
    n, m = state.level.shape
    relock, block = round(float(params.relock_min)), round(float(params.block_min))
    excess = trace["excess_db"].astype(float)  # row t belongs to the minute from t to t + 1
    total = np.concatenate([np.zeros((1, n, m)), np.cumsum(excess[:-1], axis=0)])
    steps = len(excess) - 1
    lump = np.zeros((steps + 1, n, m))
    lump[block:] = units(state.log_key, (total[block:] - total[:-block]) / block)
    short = min(n, m)
    progress = np.zeros(n, int)
    first = np.zeros(n)
    for i in range(short):
        progress[i] = state.progress[i]
        rest = block - progress[i]
        mean = (state.excess_sum[i] + total[rest, i, i]) / block
        first[i] = units(state.log_key[:, i, i], mean)
    return Story(
        demand=trace["demand"][1:].astype(float),
        lump=lump,
        stock=state.level.astype(float),
        capacity=state.capacity.astype(float),
        relock=relock,
        block=block,
        progress=progress,
        first_lump=first,
        unit=float(state.mean.sum()),
    )


def units(log_key: np.ndarray, excess_db: np.ndarray) -> np.ndarray:
    """Key of blocks at these mean excess losses, no less than float32 makes of it. `log_key`: `(knots, ...)`."""
    step = KNOTS_DB[1] - KNOTS_DB[0]
    x = np.clip(excess_db, KNOTS_DB[0], KNOTS_DB[-1])
    log = sum(log_key[k].astype(float) * np.maximum(1 - np.abs(x - knot) / step, 0) for k, knot in enumerate(KNOTS_DB))
    return np.floor(np.exp(log) / UNIT_BITS * (1 + 2e-5))


def bounds(env: NodeSwitching, seed: int, episodes: int) -> np.ndarray:
    """(bound, offered) of each episode, in units of return, `(episodes, 2)`; worked out once, kept in `BOUNDS`."""
    kept = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    name = f"{env.id} {env.num_transmitters}x{env.num_receivers} {env.scenario} seed={seed} grid={GRID}"
    entry = kept.setdefault(name, {})
    for index, story in enumerate(stories(env, seed, episodes)):
        facts = [np.asarray(getattr(story, field.name), float) for field in dataclasses.fields(story)]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in facts)).hexdigest()[:16]
        if entry.get(str(index), {}).get("digest") == digest:
            continue
        values = {"bound": bound(story, find_prices(story, ITERATIONS), GRID), "offered": story.offered}
        entry[str(index)] = {"digest": digest} | {k: round(v, 4) for k, v in values.items()}
        BOUNDS.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name} episode {index}: {values}", file=sys.stderr, flush=True)
    rows = [entry[str(i)] for i in range(episodes)]
    return np.array([[min(row["bound"], row["offered"]), row["offered"]] for row in rows])  # nobody serves more


def measure_speed(sizes: list[int], num_envs: int, steps: int = 50, rounds: int = 3) -> None:
    """Steps a second of one processor core, random legal actions, and memory of an environment; prints a table."""
    print("| ports | steps/s | us per step | observation, kB | state and parameters, kB | compile, s |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in sizes:
        env = NodeSwitching(num_transmitters=size, num_receivers=size)

        def many(key: Array, episodes: Episode, env: NodeSwitching = env) -> Episode:
            def body(episodes: Episode, key: Array) -> tuple[Episode, Array]:
                odds = jax.random.uniform(key, (num_envs, env.num_agents, env.num_receivers + 1))
                action = jnp.argmax(jnp.where(jax.vmap(env.mask)(episodes), odds, -1), axis=-1).astype(jnp.int32)
                out = env.step_batch(jax.random.split(key, num_envs), episodes, action)
                return out[1], out[0].mean()

            return jax.lax.scan(body, episodes, jax.random.split(key, steps))

        obs, episodes = jax.jit(env.reset_batch)(jax.random.split(jax.random.key(0), num_envs))
        begin = time.process_time()
        compiled = jax.jit(many).lower(jax.random.key(1), episodes).compile()
        compile_s, best = time.process_time() - begin, float("inf")
        for _ in range(rounds):
            begin = time.process_time()
            jax.block_until_ready(compiled(jax.random.key(1), episodes))
            best = min(best, (time.process_time() - begin) / (steps * num_envs))
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(episodes)) / num_envs / 1e3
        print(
            f"| {size} x {size} | {1 / best:,.0f} | {1e6 * best:.2f} | {obs.nbytes / num_envs / 1e3:.1f} "
            f"| {held:.1f} | {compile_s:.0f} |",
            flush=True,
        )


def interval(values: np.ndarray) -> str:
    """Mean and 95 % half width, in per cent."""
    return f"{100 * values.mean():.1f} ± {100 * 1.96 * values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.node_switching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--scenarios", nargs="+", default=["training"], help="default: training")
    parser.add_argument("--agents", nargs="+", help="default: all")
    parser.add_argument("--ports", type=int, default=4, help="transmitters, and receivers (default: %(default)s)")
    parser.add_argument("--speed", nargs="+", type=int, metavar="PORTS", help="measure the speed with these instead")
    parser.add_argument("--num-envs", type=int, default=1024, help="for --speed (default: %(default)s)")
    arguments = parser.parse_args(argv)
    keep_compiled_programs()
    if arguments.speed:
        measure_speed(arguments.speed, arguments.num_envs)
        return 0
    for scenario in arguments.scenarios:
        env = NodeSwitching(num_transmitters=arguments.ports, num_receivers=arguments.ports, scenario=scenario)
        names = {n: a for n, a in agents_for(env).items() if not arguments.agents or n in arguments.agents}
        played = {n: Job(env, n, a, arguments.episodes, EVALUATION_SEED).run() for n, a in names.items()}
        limit, offered = bounds(env, EVALUATION_SEED, arguments.episodes).T
        print(f"\n{env.id} {arguments.ports} x {arguments.ports}, {scenario}, {arguments.episodes} episodes\n")
        print("| agent | value, % | of the bound, % | spilled, % of key | relock, % of port time | avoidable loss, % |")
        print("|---|---|---|---|---|---|")
        for name, result in played.items():
            over = result.returns > limit * (1 + 1e-5)
            if over.any():
                raise RuntimeError(f"{name} exceeds its bound in episodes {np.flatnonzero(over).tolist()}")
            s, lost = result.sums, "-"
            if REFERENCE in played:
                whole = limit - played[REFERENCE].returns
                lost = f"{100 * (limit - result.returns).sum() / whole.sum():.0f}"
            minutes = result.lengths * arguments.ports
            print(
                f"| {name} | {interval(result.returns / offered)} | {interval(result.returns / limit)} "
                f"| {100 * s['spilled_bits'].sum() / s['certifiable_bits'].sum():.0f} "
                f"| {100 * s['relock_min'].sum() / minutes.sum():.0f} | {lost} |"
            )
        print(f"| clairvoyant bound | {interval(limit / offered)} | 100 | | | 0 |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

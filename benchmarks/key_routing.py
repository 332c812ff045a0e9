"""Bounds of `key_routing`, and what agents leave below them: `python -m benchmarks.key_routing [--episodes 16]`.

The bound is a linear program that knows all requests and blocks of an episode beforehand: requests may be served in
parts, over any path that the agents can choose, at any time between arrival and deadline; pools are followed in bins of
some seconds. Every episode of every policy is a feasible point of it, so no return exceeds it. The fluid bound forgets
the times: the stock at the start and all key made serve all requests. Both are solved by HiGHS, once an episode, and
kept in `benchmarks/key_routing_bounds.json`.

Printed beside the value is the avoidable loss, (bound - value) / (bound - value of the shortest path), of the same
episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import re
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
from qkd_gym import topologies
from qkd_gym.envs.core import Episode
from qkd_gym.envs.network import key_routing as task
from qkd_gym.envs.network.key_routing import KeyRouting
from qkd_gym.envs.network.routes import unpack
from qkd_gym.evaluation.protocol import EVALUATION_SEED
from qkd_gym.evaluation.runner import episode_keys, record_exogenous
from qkd_gym.topologies import Topology

BOUNDS = Path(__file__).with_name("key_routing_bounds.json")
#: Steps in a bin. Longer bins make a looser bound: key made late in a bin may serve early in it.
BIN = 5
#: Requests of these agents' episodes are what avoidable loss is measured from.
REFERENCE = "shortest_path"


@dataclasses.dataclass(frozen=True)
class Story:
    """All that happens in an episode whatever the agents do. Key in units of `task.UNIT_BITS`.

    Attributes:
        stock, capacity: `(links,)`. made: `(steps, links)`; row t is there for the decisions of step t.
        size, weight, first, last: of each request; `first` ... `last` are the steps in which it may be served.
        links: bool `(requests, paths, links)`, empty where there is no such path.
        unit: weighted demand of an epoch: what returns are measured in.
    """

    stock: np.ndarray
    capacity: np.ndarray
    made: np.ndarray
    size: np.ndarray
    weight: np.ndarray
    first: np.ndarray
    last: np.ndarray
    links: np.ndarray
    unit: float

    @property
    def steps(self) -> int:
        return len(self.made)

    @property
    def offered(self) -> float:
        """Value of all requests, in units of return."""
        return float(self.size @ self.weight) / self.unit


@functools.partial(jax.jit, static_argnames=("env",))
def _start(keys: Array, *, env: KeyRouting) -> Episode:
    return env.reset_batch(keys[:, 0])[1]


@functools.partial(jax.jit, static_argnames=("env", "steps"))
def _record(running: Episode, keys: Array, *, env: KeyRouting, steps: int) -> Any:
    unit = jax.vmap(task.mean_value_per_epoch)(running.params)
    return record_exogenous(env, running, keys, steps), unit


def stories(env: KeyRouting, seed: int, episodes: int, first: int = 0) -> list[Story]:
    """The stories of evaluation episodes `first` ... of a seed."""
    steps = int(env.default_params.max_steps_in_episode)
    keys = episode_keys(seed, episodes, first)
    public = dataclasses.replace(env, scenario="training")  # the scenario is in the links alone
    running = _start(keys, env=env)
    trace, unit = jax.device_get(_record(running, keys, env=public, steps=steps))
    running = jax.device_get(running)
    return [_story(env, jax.tree.map(lambda x, i=i: x[i], (running, trace, unit))) for i in range(episodes)]


def _story(env: KeyRouting, recorded: Any) -> Story:
    (start, trace, unit) = recorded
    state, params = start.state, start.params
    steps = len(trace["made"]) - 1
    when, source = np.nonzero(trace["size"][:steps])
    size, tag = trace["size"][when, source], trace["tag"][when, source]
    words = env.graphs[int(params.graph)].words
    return Story(
        stock=state.level.astype(float),
        capacity=state.capacity.astype(float),
        made=trace["made"][:steps].astype(float),
        size=size.astype(float),
        weight=np.where(np.asarray(task.is_high(tag)), float(params.high_weight), 1.0),
        first=when,
        last=np.minimum(task.deadline_of(tag), steps - 1),
        links=unpack(words[source, task.wants_two(tag).astype(int), task.target_of(tag)], env.num_links),
        unit=float(unit),
    )


def time_expanded_bound(story: Story, steps_per_bin: int = BIN) -> float:
    """Largest return of an episode, in the relaxation that the module describes."""
    from scipy import sparse
    from scipy.optimize import linprog

    links, bins = len(story.stock), -(-story.steps // steps_per_bin)
    made = np.add.reduceat(story.made, np.arange(0, story.steps, steps_per_bin), axis=0)
    made[0] += story.stock
    # a column for each request, path and bin in which it can be served
    request, path = np.nonzero(story.links.any(axis=-1))
    first, last = story.first[request] // steps_per_bin, story.last[request] // steps_per_bin
    span = last - first + 1
    column = np.repeat(np.arange(len(request)), span)
    bin_of = np.arange(len(column)) - np.repeat(np.cumsum(span) - span, span) + first[column]
    request_of = request[column]
    amount = story.size[request_of]
    used = story.links[request_of, path[column]]
    which, link = np.nonzero(used)
    x = len(column)
    # use(b, l) + level(b, l) - level(b - 1, l) <= made(b, l); level below the capacity
    rows = [bin_of[which] * links + link, np.arange(bins * links), np.arange(links, bins * links)]
    cols = [which, x + np.arange(bins * links), x + np.arange((bins - 1) * links)]
    data = [amount[which], np.ones(bins * links), -np.ones((bins - 1) * links)]
    pools = sparse.coo_matrix(
        (np.concatenate(data), (np.concatenate(rows), np.concatenate(cols))), (bins * links, x + bins * links)
    )
    once = sparse.coo_matrix((np.ones(x), (request_of, np.arange(x))), (len(story.size), x + bins * links))
    value = np.concatenate([-(amount * story.weight[request_of]) / story.unit, np.zeros(bins * links)])
    upper = np.concatenate([np.ones(x), np.tile(story.capacity, bins)])
    found = linprog(
        value,
        A_ub=sparse.vstack([pools, once]).tocsr(),
        b_ub=np.concatenate([made.ravel(), np.ones(len(story.size))]),
        bounds=np.stack([np.zeros_like(upper), upper], axis=1),
        method="highs",
    )
    if found.status != 0:
        raise RuntimeError(f"HiGHS did not solve the bound: {found.message}")
    return float(-found.fun)


def fluid_bound(story: Story) -> float:
    """The same without times: one bin, pools without a limit."""
    whole = dataclasses.replace(story, capacity=np.full_like(story.capacity, np.inf))
    return time_expanded_bound(whole, steps_per_bin=story.steps)


def bounds(env: KeyRouting, seed: int, episodes: int) -> np.ndarray:
    """(time-expanded, fluid, offered) of each episode, `(episodes, 3)`; solved once, kept in `BOUNDS`."""
    kept = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    name = f"{env.id} {env.topology if isinstance(env.topology, str) else env.topology.name} K={env.num_paths} "
    name += f"{env.scenario} seed={seed} bin={BIN}"
    entry = kept.setdefault(name, {})
    told = stories(env, seed, episodes)
    for index, story in enumerate(told):
        facts = [
            story.stock,
            story.made,
            story.capacity,
            story.size,
            story.weight,
            story.first,
            story.last,
            story.links,
        ]
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in facts)).hexdigest()[:16]
        if entry.get(str(index), {}).get("digest") == digest:
            continue
        values = {"time_expanded": time_expanded_bound(story), "fluid": fluid_bound(story), "offered": story.offered}
        entry[str(index)] = {"digest": digest} | {k: round(v, 4) for k, v in values.items()}
        BOUNDS.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name} episode {index}: {values}", file=sys.stderr, flush=True)
    rows = [entry[str(i)] for i in range(episodes)]
    return np.array([[row["time_expanded"], row["fluid"], row["offered"]] for row in rows])


def network(name: str) -> str | Topology:
    """A shipped network, or `metroN`: a generated one of N nodes and 3 N / 2 links."""
    size = re.fullmatch(r"metro(\d+)", name)
    if size is None or name in topologies.names():
        return name
    nodes = int(size[1])
    return topologies.generate_metro(nodes, 3 * nodes // 2, seed=nodes, radius_km=15 * (nodes / 46) ** 0.5)


def measure_speed(names: list[str], most: int, picture: Path | None, steps: int = 50, rounds: int = 3) -> None:
    """Steps a second of one processor core, random legal actions, and memory of an environment; prints a table.

    Processor time counts, not the clock's, so that other programs on the machine matter little.
    """
    print(
        "| topology | nodes | links | environments | steps/s | us per step | observation, kB | state, kB | compile, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    costs = []
    for name in names:
        env = KeyRouting(topology=network(name))
        # as many as fit the processor's caches about as well
        num_envs = int(np.clip(most * 300 / (env.num_agents * env.num_links), 16, most))

        def many(key: Array, episodes: Episode, env: KeyRouting = env, num_envs: int = num_envs) -> Episode:
            def body(episodes: Episode, key: Array) -> tuple[Episode, Array]:
                odds = jax.random.uniform(key, (num_envs, env.num_agents, env.num_paths + 2))
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
            f"| {name} | {env.num_agents} | {env.num_links} | {num_envs} | {1 / best:,.0f} | {1e6 * best:.1f} "
            f"| {obs.nbytes / num_envs / 1e3:.1f} | {held:.1f} | {compile_s:.0f} |",
            flush=True,
        )
        costs.append((env.num_agents, 1e6 * best, held + obs.nbytes / num_envs / 1e3))
    if picture is not None:
        draw_speed(np.array(costs), picture)


def draw_speed(costs: np.ndarray, path: Path) -> None:
    """Microseconds a step, and kilobytes of an environment, against the number of nodes, `(networks, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    nodes, cost, held = costs[np.argsort(costs[:, 0])].T
    figure = Figure(figsize=(7.2, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (values, unit, color) in enumerate(
        ((cost, "us per step, one core", "#2a6f97"), (held, "kB per environment", "#2a8c4a"))
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.loglog(nodes, values, "o-", color=color)
        for x, y in zip(nodes, values, strict=True):
            label = f"{y:,.3g}" if y < 1000 else f"{y:,.0f}"
            axes.annotate(label, (x, y), (6, -12), textcoords="offset points")
        axes.loglog(nodes, values[0] * (nodes / nodes[0]) ** 2, ":", color="#8a8f98", label="nodes squared")
        axes.set_xticks(nodes, [f"{n:.0f}" for n in nodes])
        axes.minorticks_off()
        axes.margins(0.2, 0.2)
        axes.set(xlabel="nodes", ylabel=unit)
        axes.legend(frameon=False, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def interval(values: np.ndarray, percent: bool = True) -> str:
    """Mean and 95 % half width."""
    scale = 100 if percent else 1
    return f"{scale * values.mean():.1f} ± {scale * 1.96 * values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.key_routing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--scenarios", nargs="+", default=["training"], help="default: training")
    parser.add_argument("--agents", nargs="+", help="default: all")
    parser.add_argument("--paths", type=int, default=5, help="paths that agents choose from (default: %(default)s)")
    parser.add_argument("--topology", default="nsfnet14", help="default: %(default)s")
    parser.add_argument("--speed", nargs="+", metavar="TOPOLOGY", help="measure the speed on these instead")
    parser.add_argument("--num-envs", type=int, default=1024, help="for --speed, at most (default: %(default)s)")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="for --speed: where to draw it")
    arguments = parser.parse_args(argv)
    keep_compiled_programs()
    if arguments.speed:
        measure_speed(arguments.speed, arguments.num_envs, arguments.picture)
        return 0
    for scenario in arguments.scenarios:
        env = KeyRouting(topology=arguments.topology, num_paths=arguments.paths, scenario=scenario)
        names = {n: a for n, a in agents_for(env).items() if not arguments.agents or n in arguments.agents}
        played = {n: Job(env, n, a, arguments.episodes, EVALUATION_SEED).run() for n, a in names.items()}
        limit = bounds(env, EVALUATION_SEED, arguments.episodes)
        print(f"\n{env.id} {arguments.topology} K = {env.num_paths}, {scenario}, {arguments.episodes} episodes\n")
        print("| agent | value, % | blocked low, % | blocked high, % | burnt, % of key | avoidable loss, % |")
        print("|---|---|---|---|---|---|")
        offered = limit[:, 2]
        for name, result in played.items():
            over = result.returns > limit[:, 0] * (1 + 1e-5)
            if over.any():
                raise RuntimeError(f"{name} exceeds its bound in episodes {np.flatnonzero(over).tolist()}")
            s = result.sums
            lost = "-"
            if REFERENCE in played:
                gap = limit[:, 0] - result.returns
                whole = limit[:, 0] - played[REFERENCE].returns
                lost = f"{100 * gap.sum() / whole.sum():.0f}"
            print(
                f"| {name} | {interval(result.returns / offered)} | {interval(s['blocked_low'] / s['arrived_low'])} "
                f"| {interval(s['blocked_high'] / s['arrived_high'])} "
                f"| {interval(s['burnt_bits'] / s['certifiable_bits'])} | {lost} |"
            )
        print(f"| clairvoyant bound | {interval(limit[:, 0] / offered)} | | | | 0 |")
        print(f"| fluid bound | {interval(limit[:, 1] / offered)} | | | | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

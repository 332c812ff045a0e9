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

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agents.registry import agents_for
from benchmarks.bounds import avoidable_loss, bounds_parser, interval, kept_bounds, play_below, recorded
from benchmarks.cost import print_costs
from benchmarks.leaderboard.jobs import keep_compiled_programs
from qkd_gym import topologies
from qkd_gym.arguments import count, refusing
from qkd_gym.envs.core import Episode
from qkd_gym.envs.network import relay, routing
from qkd_gym.envs.network.key_routing import KeyRouting
from qkd_gym.envs.network.routes import unpack
from qkd_gym.evaluation.protocol import EVALUATION_SEED
from qkd_gym.topologies import Topology

BOUNDS = Path(__file__).with_name("key_routing_bounds.json")
#: Steps in a bin. Longer bins make a looser bound: key made late in a bin may serve early in it.
BIN = 5
#: Requests of these agents' episodes are what avoidable loss is measured from.
REFERENCE = "shortest_path"


@dataclasses.dataclass(frozen=True)
class Story:
    """All that happens in an episode whatever the agents do. Key in units of `routing.UNIT_BITS`.

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


def story_of(env: KeyRouting, start: Episode, trace: Any) -> Story:
    """The story of one episode from its first state and its `KeyRouting.exogenous`, leading axis steps + 1."""
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
        weight=np.where(np.asarray(relay.is_high(tag)), float(params.high_weight), 1.0),
        first=when,
        last=np.minimum(relay.deadline_of(tag), steps - 1),
        links=unpack(words[source, relay.wants_two(tag).astype(int), relay.target_of(tag)], env.num_links),
        unit=float(routing.mean_value_per_epoch(params)),
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


def solve(story: Story) -> dict[str, float]:
    return {"time_expanded": time_expanded_bound(story), "fluid": fluid_bound(story), "offered": story.offered}


def bounds(env: KeyRouting, seed: int, episodes: int) -> np.ndarray:
    """(time-expanded, fluid, offered) of each episode, `(episodes, 3)`; solved once, kept in `BOUNDS`."""
    name = f"{env.id} {env.graphs[0].net.name} K={env.num_paths} {env.scenario} seed={seed} bin={BIN}"
    rows = kept_bounds(BOUNDS, name, [story_of(env, *told) for told in recorded(env, seed, episodes)], solve)
    return np.array([[row["time_expanded"], row["fluid"], row["offered"]] for row in rows])


def network(name: str) -> str | Topology:
    """A shipped network, or `metroN`: a generated one of N nodes and 3 N / 2 links."""
    size = re.fullmatch(r"metro(\d+)", name)
    if size is None or name in topologies.names():
        return name
    nodes = int(size[1])
    return topologies.generate_metro(nodes, 3 * nodes // 2, seed=nodes, radius_km=15 * (nodes / 46) ** 0.5)


def measure_speed(envs: dict[str, KeyRouting], most: int, picture: Path | None) -> None:
    """Prints what a step costs on each network, and draws it."""
    # as many as fit the processor's caches about as well
    fit = {name: int(np.clip(most * 300 / (env.num_agents * env.num_links), 16, most)) for name, env in envs.items()}
    costs = print_costs((f"{name}, {env.num_links} links", env, fit[name]) for name, env in envs.items())
    if picture is not None:
        kb = [cost.held_kb + cost.observation_kb for cost in costs]
        nodes = [env.num_agents for env in envs.values()]
        draw_speed(np.stack([nodes, [cost.us_per_step for cost in costs], kb], axis=1), picture)


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


def main(argv: list[str] | None = None) -> int:
    parser = bounds_parser("key_routing", __doc__, episodes=16)
    parser.add_argument("--paths", type=count(), default=5, help="that agents choose from (default: %(default)s)")
    parser.add_argument("--topology", default="nsfnet14", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--speed", nargs="+", metavar="TOPOLOGY", help="measure the speed on these instead")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="for --speed: where to draw it")
    arguments = parser.parse_args(argv)
    with refusing(parser):
        names = arguments.speed or [arguments.topology]
        networks = {name: KeyRouting(topology=network(name), num_paths=arguments.paths) for name in names}
        envs = [dataclasses.replace(networks[names[0]], scenario=name) for name in arguments.scenarios]
        agents = {} if arguments.speed else agents_for(envs[0], arguments.agents)
    if arguments.speed:
        measure_speed(networks, arguments.num_envs, arguments.picture)
        return 0
    keep_compiled_programs()
    for env in envs:
        limit, fluid, offered = bounds(env, EVALUATION_SEED, arguments.episodes).T
        played = play_below(limit, env, agents)
        print(f"\n{env.id} {arguments.topology} K = {env.num_paths}, {env.scenario}, {arguments.episodes} episodes\n")
        print("| agent | value, % | blocked low, % | blocked high, % | burnt, % of key | avoidable loss, % |")
        print("|---|---|---|---|---|---|")
        for name, result in played.items():
            s = result.sums
            print(
                f"| {name} | {interval(result.returns / offered)} | {interval(s['blocked_low'] / s['arrived_low'])} "
                f"| {interval(s['blocked_high'] / s['arrived_high'])} "
                f"| {interval(s['burnt_bits'] / s['certifiable_bits'])} "
                f"| {avoidable_loss(limit, result, played.get(REFERENCE))} |"
            )
        print(f"| clairvoyant bound | {interval(limit / offered)} | | | | 0 |")
        print(f"| fluid bound | {interval(fluid / offered)} | | | | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

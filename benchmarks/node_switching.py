"""Bounds of `node_switching`, and what agents leave below them: `python -m benchmarks.node_switching [--episodes 32]`.

The bound knows all demand and drift of an episode beforehand and prices port time (`benchmarks/switching_bound.py`
proves that no policy is above it). It is worked out once an episode and kept in
`benchmarks/node_switching_bounds.json`.

Printed beside the value is the avoidable loss, (bound - value) / (bound - value of round robin), of the same episodes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from agents.registry import agents_for
from benchmarks.bounds import avoidable_loss, bounds_parser, interval, kept_bounds, play_below, recorded
from benchmarks.cost import print_costs
from benchmarks.leaderboard.jobs import keep_compiled_programs
from benchmarks.switching_bound import Story, bound, find_prices
from qkd_gym.arguments import count, refusing
from qkd_gym.envs.core import Episode
from qkd_gym.envs.network.node_switching import NodeSwitching
from qkd_gym.envs.network.switching import KNOTS_DB, UNIT_BITS
from qkd_gym.evaluation.protocol import EVALUATION_SEED

BOUNDS = Path(__file__).with_name("node_switching_bounds.json")
#: Steps of the subgradient method, and grid points a minute of the bound itself.
ITERATIONS, GRID = 100, 2
#: What avoidable loss is measured from.
REFERENCE = "round_robin"


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


def solve(story: Story) -> dict[str, float]:
    return {"bound": bound(story, find_prices(story, ITERATIONS), GRID), "offered": story.offered}


def bounds(env: NodeSwitching, seed: int, episodes: int) -> np.ndarray:
    """(bound, offered) of each episode, in units of return, `(episodes, 2)`; worked out once, kept in `BOUNDS`."""
    name = f"{env.id} {env.num_transmitters}x{env.num_receivers} {env.scenario} seed={seed} grid={GRID}"
    rows = kept_bounds(BOUNDS, name, [story_of(*told) for told in recorded(env, seed, episodes)], solve)
    return np.array([[min(row["bound"], row["offered"]), row["offered"]] for row in rows])  # nobody serves more


def square(ports: int, scenario: str = "training") -> NodeSwitching:
    return NodeSwitching(num_transmitters=ports, num_receivers=ports, scenario=scenario)


def main(argv: list[str] | None = None) -> int:
    parser = bounds_parser("node_switching", __doc__, episodes=32)
    parser.add_argument("--ports", type=count(), default=4, help="transmitters, and receivers (default: %(default)s)")
    parser.add_argument("--speed", nargs="+", type=count(), metavar="PORTS", help="measure the speed of these instead")
    arguments = parser.parse_args(argv)
    with refusing(parser):
        cases = [(f"{ports} x {ports}", square(ports), arguments.num_envs) for ports in arguments.speed or ()]
        envs = [square(arguments.ports, scenario) for scenario in arguments.scenarios]
        agents = agents_for(envs[0], arguments.agents)
    if cases:
        print_costs(cases)
        return 0
    keep_compiled_programs()
    for env in envs:
        limit, offered = bounds(env, EVALUATION_SEED, arguments.episodes).T
        played = play_below(limit, env, agents)
        print(f"\n{env.id} {arguments.ports} x {arguments.ports}, {env.scenario}, {arguments.episodes} episodes\n")
        print("| agent | value, % | of the bound, % | spilled, % of key | relock, % of port time | avoidable loss, % |")
        print("|---|---|---|---|---|---|")
        for name, result in played.items():
            s, minutes = result.sums, result.lengths * arguments.ports
            print(
                f"| {name} | {interval(result.returns / offered)} | {interval(result.returns / limit)} "
                f"| {100 * s['spilled_bits'].sum() / s['certifiable_bits'].sum():.0f} "
                f"| {100 * s['relock_min'].sum() / minutes.sum():.0f} "
                f"| {avoidable_loss(limit, result, played.get(REFERENCE))} |"
            )
        print(f"| clairvoyant bound | {interval(limit / offered)} | 100 | | | 0 |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

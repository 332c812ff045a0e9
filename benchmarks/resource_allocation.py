"""Bounds of `resource_allocation`, and what agents leave below them: `python -m benchmarks.resource_allocation`.

The linear bound knows all lightpaths and orders of an episode beforehand. Its unknowns are, step by step, the share of
each link's time at the detectors, the level of its pool, and the key given to each tenant. Every episode of every
policy is a feasible point of it that is worth at least as much:

- key: a block of a share s of the step yields at most s times what the whole step yields (finite statistics favour long
  blocks; a test checks it), at most that of the best wavelength for the traffic of that step;
- detectors: shares at one node sum to 1 at most, with or without contested slots;
- launch power: a level that cuts nothing off is free, so the lowest of those is taken; a lower one is paid in
  proportion to the share that uses it, never more than the task's price;
- pools: key in the pool before serving is at most the capacity, and what is not used can be spilled at any time;
- contracts: key of an order is delivered between its placing and its deadline, at most its size, and burns as much on
  every link of its route. Release rules and the order of serving are free, key is divisible.

It forgets relocking and that a minute allows one change. The integer bound (small networks, short episodes) tunes each
link to one wavelength at a time and charges relocking; HiGHS' proven bound is used, solved to the end or not. Solved
once an episode, kept in `benchmarks/resource_allocation_bounds.json`.

Printed beside the value is the avoidable loss, (bound - value) / (bound - value of the fixed band).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from agents.registry import agents_for
from benchmarks.bounds import avoidable_loss, bounds_parser, check_below, interval, kept_bounds, play_below, recorded
from benchmarks.cost import print_costs
from benchmarks.leaderboard.jobs import keep_compiled_programs
from qkd_gym.arguments import refusing
from qkd_gym.envs.core import Episode, strong
from qkd_gym.envs.network import allocation as task
from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network.resource_allocation import ResourceAllocation
from qkd_gym.evaluation.protocol import EVALUATION_SEED
from qkd_gym.evaluation.runner import evaluate

BOUNDS = Path(__file__).with_name("resource_allocation_bounds.json")
#: Avoidable loss is measured from this agent's episodes.
REFERENCE = "fixed_band"
#: The small case of the integer bound: three links that share their detectors, one hour, heavy load.
SMALL, SMALL_STEPS, SMALL_LOAD, SMALL_LIMIT_S = "tokyo2010", 60, 5.0, 60.0


@dataclasses.dataclass(frozen=True)
class Story:
    """All that happens in an episode whatever the agents do. Key in units of `task.UNIT_BITS`.

    Attributes:
        key: `(steps, links, waves, powers)`, of a step with the detectors to oneself. price: `(steps, links, powers)`.
        group: `(links,)`, the detectors that a link uses. stock, capacity: `(links,)`. route: `(tenants, links)`.
        tenant, size, first, last: of each order; it may be served in the steps `first` ... `last`.
        unit: `(tenants,)`, return of a unit of key. relock: steps. wave: `(links,)`, at the start.
    """

    key: np.ndarray
    price: np.ndarray
    group: np.ndarray
    stock: np.ndarray
    capacity: np.ndarray
    route: np.ndarray
    tenant: np.ndarray
    size: np.ndarray
    first: np.ndarray
    last: np.ndarray
    unit: np.ndarray
    relock: int
    wave: np.ndarray

    @property
    def offered(self) -> float:
        """Return of all orders."""
        return float(self.size @ self.unit[self.tenant])


# ---- stories ---------------------------------------------------------------------------------------------------------


@jax.jit
def _tables(lit: Array, state: Any, params: Any) -> tuple[Array, Array]:
    """(key `(steps, links, waves, powers)` in units, price `(steps, links, powers)`) under the traffic of each step."""
    powers = jnp.arange(task.POWERS, dtype=jnp.float32)

    def step(lit: Array) -> tuple[Array, Array]:
        full = jnp.sum(jnp.where(lit[:, None, :] > 0, state.noise, 0), axis=2)
        noise = full[:, :, None] * light.power_factor(powers, params)[None, None]
        pulses = params.clock_hz * 60 * params.step_min
        bits = light.block_bits(state.eta[:, :, None], noise, pulses, params.misalignment_error[:, None, None], params)
        common, high = jax.vmap(lambda power: light.cut_off(lit, power, params))(powers)
        price = (high + params.common_price * common) * params.drop_price * params.step_min / lit.shape[0]
        return bits / task.UNIT_BITS, price.T

    return jax.lax.map(step, lit)


def story_of(env: ResourceAllocation, start: Episode, trace: Any) -> Story:
    """The story of one episode from its first state and its `ResourceAllocation.exogenous`, leading axis steps + 1."""
    state, params = start.state, start.params
    steps = len(trace["lit"]) - 1
    key, price = jax.device_get(_tables(trace["lit"][1 : steps + 1], state, params))
    when, tenant = np.nonzero(trace["ordered"][:steps])
    return Story(
        key=key.astype(float),
        price=price.astype(float),
        group=env.plans[int(params.graph)].together.argmax(axis=1),
        stock=state.level.astype(float),
        capacity=state.capacity.astype(float),
        route=state.route > 0,
        tenant=tenant,
        size=trace["ordered"][when, tenant].astype(float),
        first=when,
        last=np.minimum(when + trace["left"][when, tenant], steps) - 1,
        unit=np.asarray(task.units_of_value(state.demand, params), float),
        relock=int(params.relock_steps),
        wave=state.wave,
    )


# ---- programs --------------------------------------------------------------------------------------------------------


class _Rows:
    """Inequalities A x <= b, gathered in blocks."""

    def __init__(self) -> None:
        self.rows, self.columns, self.data, self.right = [], [], [], []
        self.count = 0

    def add(self, right: np.ndarray, *parts: tuple[Any, Any, Any]) -> None:
        """One row for each entry of `right`; parts are (row in the block, column, coefficient)."""
        for row, column, value in parts:
            row = np.ravel(row)
            self.rows.append(row + self.count)
            self.columns.append(np.ravel(column))
            self.data.append(np.broadcast_to(np.ravel(value), row.shape).astype(float))
        self.right.append(np.asarray(right, float))
        self.count += len(right)


def _solve(story: Story, integer: bool, limit_s: float) -> float:
    """Largest return of an episode, in the relaxations that the module describes."""
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    steps, links, waves, powers = story.key.shape
    cells, rows = steps * links, _Rows()
    # Ways to use the detectors: (cell, wavelength or, in the linear bound, the best of them, power). Of free powers the
    # lowest; of paid ones those that make more key than the free one.
    key = story.key if integer else story.key.max(axis=2, keepdims=True)
    key = key.reshape(cells, -1, powers)
    price = story.price.reshape(cells, powers)
    free = price <= 1e-9
    best_free = np.where(free[:, None, :], key, 0).max(axis=2)
    cell, wave = np.nonzero(best_free > 0)
    paid_cell, paid_wave, paid_power = np.nonzero(~free[:, None, :] & (key > best_free[:, :, None]))
    ways = np.concatenate([cell, paid_cell])
    way_wave = np.concatenate([wave, paid_wave])
    made = np.concatenate([best_free[cell, wave], key[paid_cell, paid_wave, paid_power]])
    paid = np.concatenate([np.zeros(len(cell)), price[paid_cell, paid_power]])
    x = np.arange(len(ways))
    level = len(x) + np.arange(cells)
    # deliveries: one column for each order and step in which it may be served
    span = story.last - story.first + 1
    order = np.repeat(np.arange(len(span)), span)
    when = np.arange(len(order)) - np.repeat(np.cumsum(span) - span, span) + story.first[order]
    given = level[-1] + 1 + np.arange(len(order))
    total = int(given[-1]) + 1
    delivery, link = np.nonzero(story.route[story.tenant[order]])
    on_cell = when[delivery] * links + link

    at = np.arange(cells)
    rows.add(np.ones(cells), (ways // links * links + story.group[ways % links], x, 1.0))
    before = at[links:]
    rows.add(
        np.concatenate([story.stock, np.zeros(cells - links)]),
        (at, level, 1.0),
        (on_cell, given[delivery], 1.0),
        (before, level[before - links], -1.0),
        (ways, x, -made),
    )
    rows.add(np.tile(story.capacity, steps), (at, level, 1.0), (on_cell, given[delivery], 1.0))
    rows.add(story.size, (order, given, 1.0))
    value = np.zeros(total)
    value[x], value[given] = paid, -story.unit[story.tenant[order]]
    whole = np.zeros(total)
    if integer:
        # tuned[cell, wave], and whether it was tuned there just now; relocking steps make nothing
        places = np.arange(cells * waves)
        tuned, turned = total + places, total + cells * waves + places
        total += 2 * cells * waves
        value = np.concatenate([value, np.zeros(2 * cells * waves)])
        whole = np.concatenate([whole, np.ones(cells * waves), np.zeros(cells * waves)])
        locked = [
            (places[j * links * waves :], turned[: len(places) - j * links * waves], 1.0) for j in range(story.relock)
        ]
        rows.add(np.zeros(len(places)), (ways * waves + way_wave, x, 1.0), (places, tuned, -1.0), *locked)
        begin = np.zeros((steps, links, waves))
        begin[0, np.arange(links), story.wave] = 1
        later = places[links * waves :]
        rows.add(
            begin.ravel(), (places, tuned, 1.0), (places, turned, -1.0), (later, tuned[later - links * waves], -1.0)
        )
        rows.add(np.ones(cells), (places // waves, tuned, 1.0))
    upper = np.ones(total)
    upper[level], upper[given] = np.inf, np.inf
    matrix = sparse.coo_matrix(
        (np.concatenate(rows.data), (np.concatenate(rows.rows), np.concatenate(rows.columns))), (rows.count, total)
    ).tocsc()
    found = milp(
        value,
        constraints=LinearConstraint(matrix, -np.inf, np.concatenate(rows.right)),
        bounds=Bounds(0, upper),
        integrality=whole,
        options={"time_limit": limit_s} if integer else {},
    )
    if integer and found.mip_dual_bound is not None:
        return float(-found.mip_dual_bound)
    if found.status != 0:
        raise RuntimeError(f"HiGHS did not solve the bound: {found.message}")
    return float(-found.fun)


def linear_bound(story: Story) -> float:
    """Largest return of an episode with free tuning."""
    return _solve(story, integer=False, limit_s=np.inf)


def integer_bound(story: Story, limit_s: float = SMALL_LIMIT_S) -> float:
    """The same with one wavelength at a time and relocking; what HiGHS has proven after `limit_s`."""
    return _solve(story, integer=True, limit_s=limit_s)


def solve(story: Story) -> dict[str, float]:
    return {"linear": linear_bound(story), "offered": story.offered}


def solve_small(story: Story) -> dict[str, float]:
    values = solve(story)
    return values | {"integer": min(integer_bound(story), values["linear"])}


def bounds(env: ResourceAllocation, seed: int, episodes: int, steps: int | None = None) -> np.ndarray:
    """(linear, integer or nan, offered) of each episode; solved once, kept in `BOUNDS`. `steps`: the small case."""
    name = f"{env.id} {env.plans[0].net.name} {env.scenario} seed={seed}" + (f" steps={steps}" if steps else "")
    stories = [story_of(env, *told) for told in recorded(env, seed, episodes, steps)]
    rows = kept_bounds(BOUNDS, name, stories, solve_small if steps else solve)
    return np.array([[row["linear"], row.get("integer", np.nan), row["offered"]] for row in rows])


# ---- tables ----------------------------------------------------------------------------------------------------------


def measure_scenario(env: ResourceAllocation, agents: dict[str, Any], episodes: int) -> None:
    """Plays all agents and prints their table."""
    limit, _, offered = bounds(env, EVALUATION_SEED, episodes).T
    played = play_below(limit, env, agents)
    steps = int(env.default_params.max_steps_in_episode)
    print(f"\n{env.id}, {env.scenario}, {episodes} episodes\n")
    print("| agent | return a step, % | of the bound, % | cut off, % | spilled, % of key | avoidable loss, % |")
    print("|---|---|---|---|---|---|")
    for name, result in played.items():
        s = result.sums
        print(
            f"| {name} | {interval(result.returns / steps)} | {100 * result.returns.sum() / limit.sum():.1f} "
            f"| {interval(s['drop_cost'] / steps)} | {interval(s['spilled_bits'] / s['certifiable_bits'])} "
            f"| {avoidable_loss(limit, result, played.get(REFERENCE))} |"
        )
    print(f"| clairvoyant linear bound | {interval(limit / steps)} | 100 | | | 0 |")
    print(f"| asked for | {interval(offered / steps)} | | | | |", flush=True)


class Short(ResourceAllocation):
    """Episodes of an hour under a heavy load, for the integer bound."""

    def sample_params(self, key, scenario=None):
        drawn = super().sample_params(key, scenario)
        return dataclasses.replace(drawn, max_steps_in_episode=SMALL_STEPS, load=SMALL_LOAD)


def measure_small(agents: dict[str, Any], episodes: int) -> None:
    """How loose the linear bound is: both bounds and practice where the integer one can be had."""
    env = Short(topology=SMALL)
    linear, integer, _ = bounds(env, EVALUATION_SEED, episodes, SMALL_STEPS).T
    print(f"\n{SMALL}, {SMALL_STEPS} steps, {episodes} episodes\n\n| agent | return a step, % |\n|---|---|")
    for name, agent in agents.items():
        result = evaluate(env, agent, episodes, EVALUATION_SEED)
        check_below(integer, name, result.returns)
        print(f"| {name} | {interval(result.returns / SMALL_STEPS)} |")
    print(f"| integer bound | {interval(integer / SMALL_STEPS)} |")
    print(f"| linear bound | {interval(linear / SMALL_STEPS)} |", flush=True)


class Instant(ResourceAllocation):
    """Relocking takes no time."""

    def sample_params(self, key, scenario=None):
        return dataclasses.replace(super().sample_params(key, scenario), relock_steps=0.0)


#: Constants that switch off one part of the best practice.
PARTS = {
    "all of it": {},
    "launch power kept for every format": {"lowest": 1.0},
    "fixed turns at the detectors": {"share_need": 0.0, "share_empty": 0.0, "share_yield": 0.0},
    "no key kept for premium tenants": {"reserve": 0.0, "soon": 0.0},
    "noise by the nominal model only": {"trust": 0.0},
    "retuned for any gain": {"gain": 1.0},
}


def measure_parts(episodes: int) -> None:
    """What each part of the best practice is worth, on the same episodes, and what relocking costs it."""
    whole = jax.tree.map(np.float32, agents_for(ResourceAllocation())["best_fit"])
    steps = int(ResourceAllocation().default_params.max_steps_in_episode)
    print("\n| best_fit | return a step, % | less, % |\n|---|---|---|")
    first = np.zeros(episodes)
    for name, changes in PARTS.items():
        agent = dataclasses.replace(whole, **{k: np.float32(v) for k, v in changes.items()})
        now = evaluate(ResourceAllocation(), agent, episodes, EVALUATION_SEED).returns / steps
        first = first if changes else now
        print(f"| {name} | {interval(now)} | {interval(first - now)} |", flush=True)
    now = evaluate(Instant(), whole, episodes, EVALUATION_SEED).returns / steps
    print(f"| relocking takes no time | {interval(now)} | {interval(first - now)} |", flush=True)


def measure_rates(lengths_km: tuple[float, ...] = (15.0, 35.0, 45.0, 55.0, 65.0), place: int = 3) -> None:
    """Key beside light: kbit/s of links of some lengths, nominal fibre, detectors to oneself, at a place and in O."""
    links = len(lengths_km)
    params = strong(
        dataclasses.replace(
            ResourceAllocation().default_params,
            length_km=np.array(lengths_km, np.float32),
            extra_loss_db=np.ones(links, np.float32),
            raman_factor=np.ones(links, np.float32),
            misalignment_error=np.full(links, 0.005, np.float32),
            neighbour_isolation_db=np.full((links, task.WAVES), 72.0, np.float32),
        )
    )
    table, eta = np.asarray(light.noise_per_channel(params)), np.asarray(light.transmittance(params))
    near = np.abs(np.asarray(params.classical_nm) - float(params.quantum_nm[place])) < float(params.guard_nm)
    far = np.where(near, 0.0, 4 / (~near).sum())
    one = far + (np.cumsum(near) == 1) * near
    print("| | " + " | ".join(f"{km:g} km" for km in lengths_km) + " |\n|---" + "|---" * links + "|")
    for name, lit, wave, power, share in (
        ("C band, dark", 0 * far, place, 1, 1.0),
        ("the same, a quarter of the time", 0 * far, place, 1, 0.25),
        ("4 lightpaths' worth of light, no neighbour, power 3 dB below full", far, place, 1, 1.0),
        ("one neighbour more", one, place, 1, 1.0),
        ("the same, power 9 dB below full", one, place, 3, 1.0),
        ("O band, all lit", np.ones_like(far), 0, 1, 1.0),
    ):
        noise = (table[:, wave] @ lit) * float(light.power_factor(jnp.float32(power), params))
        pulses = float(params.clock_hz) * 60 * share
        bits = light.block_bits(eta[:, wave], noise.astype(np.float32), pulses, params.misalignment_error, params)
        print(f"| {name} | " + " | ".join(f"{x / 60e3:.0f}" for x in np.asarray(bits)) + " |")


def main(argv: list[str] | None = None) -> int:
    parser = bounds_parser("resource_allocation", __doc__, episodes=16)
    parser.add_argument("--small", action="store_true", help="the integer bound of the small case instead")
    parser.add_argument("--rates", action="store_true", help="print key rates beside classical light instead")
    parser.add_argument("--parts", action="store_true", help="the best practice without each of its parts instead")
    parser.add_argument("--speed", action="store_true", help="measure the speed instead")
    arguments = parser.parse_args(argv)
    with refusing(parser):
        envs = [ResourceAllocation(scenario=name) for name in arguments.scenarios]
        agents = agents_for(ResourceAllocation(topology=SMALL) if arguments.small else envs[0], arguments.agents)
    if arguments.speed:
        env = ResourceAllocation()
        print_costs([(env.plans[0].net.name, env, arguments.num_envs)])
        return 0
    keep_compiled_programs()
    if arguments.rates:
        measure_rates()
    elif arguments.parts:
        measure_parts(arguments.episodes)
    elif arguments.small:
        measure_small(agents, arguments.episodes)
    else:
        for env in envs:
            measure_scenario(env, agents, arguments.episodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

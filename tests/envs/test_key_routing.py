"""Books, masks, queues, contention, gossip and bounds of `qkd/KeyRouting`."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from agents.oracle.key_routing import AGENTS
from benchmarks.key_routing import Story, fluid_bound, time_expanded_bound
from qkd_gym import topologies
from qkd_gym.envs.core import Episode, strong
from qkd_gym.envs.network import relay, routing
from qkd_gym.envs.network import routes as tables
from qkd_gym.envs.network.key_routing import KeyRouting
from qkd_gym.topologies import Link, Topology, TopologyError

ENV = KeyRouting(topology="madqci", num_paths=4)
NODES, LINKS, PATHS = len(ENV.agents), ENV.num_links, ENV.num_paths
ROUTES = ENV.graphs[0]
STEPS, BATCH = 500, 20  # 10,000 steps


@functools.cache
def program():
    """(key, links, whether to act) -> first episodes, states, actions, observations, rewards, metrics; time first."""

    @jax.jit
    def run(key, params, active):
        key_start, key_acts, key_steps = jax.random.split(key, 3)
        _, start = jax.vmap(ENV.reset)(jax.random.split(key_start, BATCH), params)
        step = jax.vmap(ENV.advance)

        def body(episodes, time):
            odds = jax.random.uniform(jax.random.fold_in(key_acts, time), (BATCH, NODES, PATHS + 2))
            # some choices are illegal: they must count as waiting
            action = jnp.argmax(odds + 0.9 * jax.vmap(ENV.mask)(episodes), axis=-1).astype(jnp.int32)
            action = jnp.where(active, action, PATHS)
            keys = jax.random.split(jax.random.fold_in(key_steps, time), BATCH)
            obs, episodes, reward, _, _, info = step(keys, episodes, action)
            kept = {name: info[name] for name in ENV.metrics}
            return episodes, (episodes.state, action, obs, reward, kept)

        return start, jax.lax.scan(body, start, jnp.arange(STEPS, dtype=jnp.int32))[1]

    return run


@functools.cache
def played(active=True, **changes):
    params = strong(dataclasses.replace(ENV.default_params, **changes))
    params = jax.tree.map(lambda x: jnp.broadcast_to(x, (BATCH, *x.shape)), params)
    start, rest = jax.device_get(program()(jax.random.key(3), params, active))
    before = jax.tree.map(lambda a, b: np.concatenate([a[None], b[:-1]]), start.state, rest[0])
    return start, before, *rest


@functools.cache
def busy(active=True):
    """Three times the demand that the network can carry, links that fail, half-empty pools: everything happens."""
    heavy = 3 * float(ENV.default_params.demand_kbit_per_s)
    return played(active, demand_kbit_per_s=heavy, fail_interval_s=100.0, repair_s=20.0, pool_s=10.0)


def test_every_unit_of_key_is_accounted_for_over_ten_thousand_random_steps():
    start, _, after, _, _, _, info = busy()
    stored = after.level.sum(axis=-1)
    np.testing.assert_array_equal(
        after.made_total, stored + after.delivered_total + after.spilled_total + after.burnt_total
    )
    stock = start.state.level.sum(axis=-1)
    np.testing.assert_array_equal(after.made_total, stock + np.cumsum(after.made.sum(axis=-1), axis=0))
    assert np.all(after.level >= 0) and np.all(after.level <= after.capacity)
    assert after.delivered_total[-1].min() > 0 and after.burnt_total[-1].min() > 0 and after.spilled_total[-1].min() > 0
    np.testing.assert_array_equal(info["stored_bits"], (1000 * stored).astype(np.float32))
    claimed, certified = (info[name].sum(axis=0, dtype=np.float64) for name in ("secret_bits", "certifiable_bits"))
    assert np.all(claimed > 0) and np.all(claimed <= certified)


def test_what_is_delivered_is_paid_on_every_hop():
    _, before, after, action, *_ = busy()
    chosen = np.minimum(action, PATHS - 1)
    words = np.take_along_axis(before.words, chosen[..., None, None], axis=3)[:, :, :, 0]
    tried = (action < PATHS) & np.take_along_axis(before.legal, action[..., None], axis=-1)[..., 0]
    hops = tables.unpack(words, LINKS).sum(axis=-1)
    served = tried & ~after.failed
    paid = np.where(served, before.size[..., 0] * hops, 0).sum(axis=-1)
    np.testing.assert_array_equal(paid, after.delivered_total - before.delivered_total)
    assert served.sum() > 1000 and (tried & after.failed).sum() > 50


def test_the_mask_is_what_a_node_knows():
    _, _, after, _, _, _, _ = busy()
    know = np.where(ROUTES.own, after.level[:, :, None], after.known[:, :, None])
    size, tag = after.size[..., 0], after.tag[..., 0]
    on = tables.unpack(ROUTES.words, LINKS)[
        np.arange(NODES), relay.wants_two(tag).astype(int), relay.target_of(tag)
    ]  # (time, batch, nodes, paths, links)
    enough = np.all(~on | (know[:, :, :, None] >= size[..., None, None]), axis=-1) & on.any(axis=-1)
    waiting = size > 0
    np.testing.assert_array_equal(after.legal[..., :PATHS], enough & waiting[..., None])
    assert after.legal[..., PATHS].all()
    np.testing.assert_array_equal(after.legal[..., PATHS + 1], waiting)
    assert (~waiting).any() and (waiting & ~enough.any(axis=-1)).any()


def test_requests_are_lost_after_their_deadline_and_where_the_queue_is_full():
    _, before, after, _, _, reward, info = busy(active=False)
    assert np.all(reward == 0)
    late = relay.deadline_of(after.tag) < after.time[..., None, None]
    assert not np.any(late & (after.size > 0))
    due = (before.size > 0) & (relay.deadline_of(before.tag) < after.time[..., None, None])
    kept = (before.size > 0).sum(axis=-1) - due.sum(axis=-1)
    overflow = (after.arrived_size > 0) & (kept == routing.QUEUE)
    lost = due.sum(axis=(-1, -2)) + overflow.sum(axis=-1)
    np.testing.assert_array_equal(info["blocked_low"] + info["blocked_high"], lost)
    assert overflow.any() and due.any()
    # in order, without holes
    assert np.all(np.diff((after.size > 0).astype(int), axis=-1) <= 0)
    deadlines = relay.deadline_of(after.arrived_tag)[after.arrived_size > 0]
    waits = deadlines - np.broadcast_to(after.time[..., None], after.arrived_size.shape)[after.arrived_size > 0]
    assert waits.min() == 5 and waits.max() == 29


def test_gossip_is_as_old_as_it_says():
    _, _, after, _, obs, _, _ = busy()
    reading = routing.decode(obs[200, 0], PATHS)
    ages = np.where(ROUTES.own, 0, after.known_age[200, 0])
    np.testing.assert_allclose(reading.age_s, ages, rtol=1e-5)
    assert after.known_age.min() == 15 and after.known_age.max() == 59
    now = np.arange(STEPS)[:, None, None]
    then = np.maximum(now - after.known_age, 0)
    past = np.take_along_axis(after.level, then, axis=0)
    told = now >= after.known_age  # before that, the start is what is known
    np.testing.assert_array_equal(after.known[told], past[told])
    fresh = played(gossip_interval_s=0.0, gossip_delay_s=0.0)[2]
    np.testing.assert_array_equal(fresh.known, fresh.level)
    assert not fresh.known_age.any()


def test_arrivals_blocks_and_failures_know_nothing_of_the_actions():
    one, other = busy()[2], busy(active=False)[2]
    for name in ("arrived_size", "arrived_tag", "made", "up", "progress", "hot"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(one.level, other.level)


def test_a_link_that_is_down_makes_nothing_and_loses_its_block_but_not_its_pool():
    _, before, after, *_ = busy(active=False)
    down = ~before.up & ~after.up
    assert down.any() and not after.made[down].any() and not after.progress[~after.up].any()
    went = before.up & ~after.up
    assert went.any() and np.all(after.level[went] >= before.level[went])


def test_demand_is_what_it_says():
    after = busy()[2]
    arrived = after.arrived_size > 0
    size = after.arrived_size[arrived]
    p = ENV.default_params
    assert p.smallest_kbit - 1 <= size.min() and size.max() <= p.largest_kbit
    mean = (p.largest_kbit - p.smallest_kbit) / np.log(p.largest_kbit / p.smallest_kbit) - 0.5
    assert size.mean() == pytest.approx(mean, rel=0.05)
    tag = after.arrived_tag[arrived]
    assert relay.is_high(tag).mean() == pytest.approx(0.25, abs=0.02)
    source = np.broadcast_to(np.arange(NODES), after.arrived_size.shape)[arrived]
    target = relay.target_of(tag)
    assert np.all(target != source) and target.min() == 0 and target.max() == NODES - 1
    assert np.all(ROUTES.two[source, target][relay.wants_two(tag)])
    pair = np.broadcast_to(after.hot[:, :, None], (*arrived.shape, 2))[arrived]
    hot = ((source == pair[:, 0]) & (target == pair[:, 1])) | ((source == pair[:, 1]) & (target == pair[:, 0]))
    chance = 0.7 / (NODES * (NODES - 1) / 2)
    assert hot.mean() == pytest.approx(0.3 + chance, abs=0.03)


@functools.partial(jax.jit, static_argnums=())
def contend(level, route, size, priority):
    return relay.relay_in_order(level, route, size, priority, jnp.float32(0.5))


def test_contention_is_served_one_after_the_other():
    rng = np.random.default_rng(5)
    for _ in range(50):
        level, on = rng.integers(0, 60, LINKS), rng.random((NODES, LINKS)) < 0.3
        size, priority = rng.integers(0, 40, NODES) * (rng.random(NODES) < 0.7), rng.random(NODES).astype(np.float32)
        on[:, 0] |= ~on.any(axis=1)
        after, served, delivered, burnt = contend(
            jnp.asarray(level, jnp.int32), tables.pack(on), jnp.asarray(size, jnp.int32), priority
        )
        left, done, paid, wasted = level.copy(), np.zeros(NODES, bool), 0, 0
        for node in np.argsort(priority):
            if size[node] == 0:
                continue
            enough = on[node] & (left >= size[node])
            done[node] = np.array_equal(enough, on[node])
            price = size[node] if done[node] else size[node] // 2
            left[enough] -= price
            paid, wasted = paid + done[node] * price * enough.sum(), wasted + ~done[node] * price * enough.sum()
        np.testing.assert_array_equal(after, left)
        np.testing.assert_array_equal(served, done)
        assert (int(delivered), int(burnt)) == (paid, wasted)


def test_paths_are_paths_and_two_of_them_are_disjoint():
    net, on = ROUTES.net, tables.unpack(ROUTES.words, LINKS)
    for a, b in itertools.combinations(range(NODES), 2):
        lengths = []
        for k in range(PATHS):
            links = np.flatnonzero(on[a, 0, b, k])
            if not links.size:
                continue
            degree = np.bincount(net.ends[links].ravel(), minlength=NODES)
            inner = np.delete(degree, [a, b])
            assert degree[a] == degree[b] == 1 and set(inner) <= {0, 2}
            np.testing.assert_array_equal(on[a, 0, b, k], on[b, 0, a, k])
            lengths.append(len(links))
            both = np.flatnonzero(on[a, 1, b, k])
            if both.size:
                degree = np.bincount(net.ends[both].ravel(), minlength=NODES)
                assert degree[a] == degree[b] == 2 and set(np.delete(degree, [a, b])) <= {0, 2}
                assert set(links) < set(both)
        assert lengths and lengths == sorted(lengths)
    np.testing.assert_array_equal(tables.unpack(tables.pack(on), LINKS), on)
    np.testing.assert_array_equal(relay.unpack_words(jnp.asarray(ROUTES.words[0]), LINKS), on[0])
    np.testing.assert_array_equal(relay.pack_words(jnp.asarray(on[0])), ROUTES.words[0])


def test_the_fluid_limit_is_the_linear_programs():
    routes = tables.routes_of("nsfnet14", 1)
    rates = np.exp(np.random.default_rng(0).normal(size=len(routes.real)))
    pairs, count, links = routes.candidates.shape
    crossing = np.append(routes.candidates.reshape(-1, links).T, np.zeros((links, 1)), axis=1)
    split = np.append(np.kron(np.eye(pairs), np.ones(count)), np.full((pairs, 1), -1 / pairs), axis=1)
    there = np.append(routes.candidates.any(axis=-1).ravel(), True)
    found = linprog(
        np.append(np.zeros(pairs * count), -1), A_ub=crossing, b_ub=rates, A_eq=split, b_eq=np.zeros(pairs),
        bounds=[(0, None if ok else 0) for ok in there],
    )  # fmt: skip
    limit = tables.fluid_limit(routes, rates)
    assert 0.985 * -found.fun < limit <= -found.fun * (1 + 1e-5)


def test_who_is_told_all_pools_tries_only_paths_that_hold_enough():
    start, _, after, _, obs, _, _ = busy()
    rule = AGENTS["reservation_fresh"]
    act = jax.jit(jax.vmap(lambda key, obs, one: rule.act(key, one.params, obs, one.state.legal, one)[0]))
    for time in (100, 300):
        state = jax.tree.map(lambda x, t=time: x[t], after)
        action = np.asarray(act(jax.random.split(jax.random.key(0), BATCH), obs[time], Episode(state, start.params)))
        assert np.take_along_axis(state.legal, action[..., None], axis=-1).all()
        chosen = np.minimum(action, PATHS - 1)
        on = tables.unpack(np.take_along_axis(state.words, chosen[..., None, None], axis=2)[:, :, 0], LINKS)
        enough = np.all(~on | (state.level[:, None] >= state.size[:, :, :1]), axis=-1)
        tried = action < PATHS
        assert tried.sum() > 5 and enough[tried].all()


# ---- bounds ----------------------------------------------------------------------------------------------------------


def tale(rng, links, steps, requests, paths=1, one_size=False):
    """A small made-up episode."""
    on = rng.random((requests, paths, links)) < 0.5
    on[:, :, 0] |= ~on.any(axis=-1)
    first = rng.integers(0, steps, requests)
    return Story(
        stock=rng.integers(0, 3, links).astype(float),
        capacity=np.full(links, 3.0),
        made=rng.integers(0, 2, (steps, links)).astype(float),
        size=np.ones(requests) if one_size else rng.integers(1, 3, requests).astype(float),
        weight=rng.choice([1.0, 8.0], requests),
        first=first,
        last=np.minimum(first + rng.integers(0, 3, requests), steps - 1),
        links=on,
        unit=1.0,
    )


def best_by_trying(story):
    """Greatest value over all choices of step and path for every request, served whole; pools as in the relay."""
    choices = [
        [None, *((t, k) for t in range(first, last + 1) for k in range(story.links.shape[1]))]
        for first, last in zip(story.first, story.last, strict=True)
    ]
    best = 0.0
    for plan in itertools.product(*choices):
        level, value = story.stock.copy(), 0.0
        for t in range(story.steps):
            level = np.minimum(level + story.made[t], story.capacity)
            for r, choice in enumerate(plan):
                if choice is not None and choice[0] == t:
                    level = level - story.size[r] * story.links[r, choice[1]]
                    value += story.size[r] * story.weight[r]
            if np.any(level < 0):
                break
        else:
            best = max(best, value)
    return best


def test_no_plan_is_above_the_bound_and_on_one_link_the_best_one_is_on_it():
    rng = np.random.default_rng(1)
    for _ in range(12):
        story = tale(rng, links=3, steps=4, requests=4, paths=2)
        best, bound = best_by_trying(story), time_expanded_bound(story, 1)
        assert best <= bound + 1e-9
        assert bound <= time_expanded_bound(story, 2) + 1e-9 <= fluid_bound(story) + 2e-9
        # equal requests on one link: the program's corners are whole, so it finds the very optimum
        simple = tale(rng, links=1, steps=4, requests=5, one_size=True)
        assert time_expanded_bound(simple, 1) == pytest.approx(best_by_trying(simple), abs=1e-9)


# ---- the door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [0, 51, 2.0])
def test_a_wrong_number_of_paths_is_refused(paths):
    with pytest.raises(ValueError, match="from 1 to 50"):
        KeyRouting(num_paths=paths)


def test_networks_that_cannot_work_are_refused():
    with pytest.raises(TopologyError, match="there are: chain6"):
        KeyRouting(topology="atlantis")
    far = Topology("far", ("a", "b", "c"), (Link("a", "b", 20.0), Link("b", "c", 400.0)))
    with pytest.raises(TopologyError, match=r"no key over b - c: too long; use scaled"):
        KeyRouting(topology=far)
    with pytest.raises(TopologyError, match="three nodes or more"):
        KeyRouting(topology=Topology("pair", ("a", "b"), (Link("a", "b", 20.0),)))
    with pytest.raises(TopologyError, match="at most 256 nodes"):
        KeyRouting(topology=topologies.ring(257))

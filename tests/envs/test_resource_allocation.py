"""Books, masks, detectors, noise, contracts and bounds of `qkd/ResourceAllocation`."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.oracle.resource_allocation import divide, windows_of
from benchmarks.resource_allocation import Story, integer_bound, linear_bound
from qkd_gym.envs.core import strong
from qkd_gym.envs.network import allocation as task
from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network import contracts
from qkd_gym.envs.network.allocation import ACTIONS, TENANTS, WAVES, WINDOWS
from qkd_gym.envs.network.resource_allocation import ResourceAllocation
from qkd_gym.physics.raman import co_propagating_length_km, raman_coefficient_per_km_nm
from qkd_gym.topologies import Link, Topology, TopologyError

ENV = ResourceAllocation()
PLAN = ENV.plans[0]
LINKS = len(ENV.agents)
STEPS, BATCH = 480, 21  # 10,080 steps


@functools.cache
def program():
    """(key, how to act) -> first episodes, states, actions, observations, rewards, metrics; time first."""

    @jax.jit
    def run(key, active):
        key_start, key_acts, key_steps = jax.random.split(key, 3)
        _, start = jax.vmap(ENV.reset)(jax.random.split(key_start, BATCH))
        step = jax.vmap(ENV.advance)

        def body(episodes, time):
            odds = jax.random.uniform(jax.random.fold_in(key_acts, time), (BATCH, LINKS, ACTIONS))
            # some choices are illegal: they must change nothing
            action = jnp.argmax(odds + 0.5 * jax.vmap(ENV.mask)(episodes), axis=-1).astype(jnp.int32)
            action = jnp.where(active == 1, action, jnp.where(active == 2, -1, 0))
            keys = jax.random.split(jax.random.fold_in(key_steps, time), BATCH)
            obs, episodes, reward, _, _, info = step(keys, episodes, action)
            kept = {name: info[name] for name in ENV.metrics}
            return episodes, (episodes.state, action, obs, reward, kept)

        return start, jax.lax.scan(body, start, jnp.arange(STEPS, dtype=jnp.int32))[1]

    return run


@functools.cache
def played(active=1):
    start, rest = jax.device_get(program()(jax.random.key(3), active))
    before = jax.tree.map(lambda a, b: np.concatenate([a[None], b[:-1]]), start.state, rest[0])
    return start.params, start, before, *rest


def test_every_unit_of_key_is_accounted_for_over_ten_thousand_random_steps():
    _, start, before, after, _, _, _, info = played()
    stored = after.level.sum(axis=-1)
    np.testing.assert_array_equal(after.made_total, stored + after.delivered_total + after.spilled_total)
    stock = start.state.level.sum(axis=-1)
    np.testing.assert_array_equal(after.made_total, stock + np.cumsum(after.made.sum(axis=-1), axis=0))
    assert np.all(after.level >= 0) and np.all(after.level <= after.capacity)
    # what is delivered is burnt on every link of the route, link by link
    burnt = np.einsum("tbc,tbcl->tbl", after.delivered, after.route)
    filled = np.minimum(before.level + after.made, after.capacity)
    np.testing.assert_array_equal(filled - burnt, after.level)
    assert after.delivered_total[-1].min() > 0 and after.spilled_total[-1].max() > 0
    np.testing.assert_array_equal(info["stored_bits"], (task.UNIT_BITS * stored).astype(np.float32))
    claimed, certified = (info[name].sum(axis=0, dtype=np.float64) for name in ("secret_bits", "certifiable_bits"))
    assert np.all(claimed > 0) and np.all(claimed <= certified)


def test_orders_get_no_more_than_they_ask_for_and_are_lost_at_their_deadline():
    _, _, before, after, _, _, reward, info = played()
    assert np.all(after.delivered <= before.backlog) and np.all(after.delivered >= 0)
    rolls = before.left == 1
    np.testing.assert_array_equal(after.left[~rolls], before.left[~rolls] - 1)
    np.testing.assert_array_equal(after.backlog[~rolls], (before.backlog - after.delivered)[~rolls])
    np.testing.assert_array_equal(after.backlog[rolls], after.ordered[rolls])
    assert not after.ordered[~rolls].any() and rolls.sum() > 1000
    assert after.left[rolls].min() == 8 and after.left[rolls].max() == 30
    weight = np.where(np.arange(TENANTS) < 3, 4.0, 1.0)
    served = (after.delivered * weight / after.demand).sum(axis=-1) / weight.sum()
    np.testing.assert_allclose(info["served_value"], served, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(reward[..., 0], served - info["drop_cost"], rtol=1e-4, atol=1e-5)
    # the mean demand is what it says
    assert info["offered_value"].mean() == pytest.approx(1.0, abs=0.05)


def test_lightpaths_and_orders_know_nothing_of_the_actions():
    one, other = played()[3], played(active=0)[3]
    for name in ("lit", "busy", "ordered", "left"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(one.level, other.level)


def test_an_index_out_of_range_changes_no_setting_and_earns_nothing():
    _, start, _, after, _, _, reward, info = played(active=2)
    for name in ("wave", "window", "power", "release"):
        now = getattr(after, name)
        np.testing.assert_array_equal(now, np.broadcast_to(getattr(start.state, name), now.shape))
    assert not after.delivered.any() and np.all(reward <= 0) and not info["secret_bits"].any()


def test_settings_change_as_chosen_and_only_so():
    _, _, before, after, action, *_ = played()

    def chosen(now, start, count, allowed=True):
        choice = action - start
        return np.where((choice >= 0) & (choice < count) & allowed, choice, now)

    free = before.relock == 0
    np.testing.assert_array_equal(after.wave, chosen(before.wave, task.TO_WAVE, WAVES, free))
    np.testing.assert_array_equal(after.window, chosen(before.window, task.TO_WINDOW, len(WINDOWS)))
    np.testing.assert_array_equal(after.power, chosen(before.power, task.TO_POWER, task.POWERS))
    np.testing.assert_array_equal(after.release, chosen(before.release, task.TO_RELEASE, task.RELEASES))
    # a new wavelength costs five steps of key
    tuned = after.wave != before.wave
    np.testing.assert_array_equal(after.relock, np.where(tuned, 4, np.maximum(before.relock - 1, 0)))
    dark = tuned | (before.relock > 0)
    assert tuned.any() and not after.share[dark].any() and not after.made[dark].any()


def test_detectors_are_never_in_use_twice():
    _, _, before, after, *_ = played()
    at_node = after.share @ PLAN.together
    assert at_node.max() <= 1 + 1e-6
    locked = (after.wave == before.wave) & (before.relock == 0)
    claims = WINDOWS[after.window] * locked[..., None]
    for slot in range(task.SLOTS):
        rivals = claims[..., slot] @ PLAN.together
        assert rivals.max() >= 3
    rivals = np.einsum("tbls,lm->tbms", claims, PLAN.together)
    share = np.where(rivals > 1, 0.5 / np.maximum(rivals, 1), 1.0) * claims
    np.testing.assert_allclose(after.share, share.mean(axis=-1), atol=1e-6)
    np.testing.assert_array_equal(after.contested, (claims * (rivals > 1)).sum(axis=-1))


def test_noise_is_raman_scattering_and_what_neighbours_leak():
    params = jax.tree.map(lambda x: x[0], played()[0])
    table = np.asarray(jax.jit(light.noise_per_channel)(params), np.float64)
    link, wave, far, near = 4, 3, 0, 5
    length = float(params.length_km[link])
    quantum, classical = params.quantum_nm.astype(float), params.classical_nm.astype(float)
    assert abs(quantum[wave] - classical[near]) < params.guard_nm < abs(quantum[wave] - classical[far])
    launch_mw = 10 ** ((-20 + 6 + 0.2 * length) / 10)
    photon_j = 6.62607015e-34 * 2.99792458e8 / (quantum[wave] * 1e-9)
    counts_per_mw = 1e-3 * 0.2e-9 / photon_j * 0.1 * 10 ** (-float(params.extra_loss_db[link]) / 10)
    for channel, isolation_db in ((far, 110.0), (near, float(params.neighbour_isolation_db[link, wave]))):
        rho = float(raman_coefficient_per_km_nm(quantum[wave], classical[channel])) * params.raman_factor[link]
        scattered = rho * 0.1 * float(co_propagating_length_km(length, 0.2, 0.2))
        leaked = 10 ** (-0.02 * length - isolation_db / 10)
        expected = launch_mw * counts_per_mw * (scattered + leaked)
        assert table[link, wave, channel] == pytest.approx(expected, rel=1e-3)
    assert table[link, 0].max() < 0.01 * table[link, wave].min()  # the O band is quiet
    # and readings are that noise, up to the noise of their counts
    _, _, _, after, *_ = played()
    tuned = after.wave[:, 0, :, None] == np.arange(WAVES)
    had = after.share[:, 0] > 0
    here = np.where(tuned[..., None], table, 0).sum(axis=2)
    true = (here * (after.lit[:, 0] > 0)).sum(axis=-1) * 10 ** (-0.3 * after.power[:, 0])
    read = np.where(tuned, after.seen_noise[:, 0], 0).sum(axis=-1)
    loud = had & (true > 1e-5)
    assert loud.sum() > 500
    off = read[loud] / true[loud] - 1
    assert np.abs(off).max() < 0.05 and off.std() > 1e-5


def test_lightpaths_below_their_sensitivity_are_cut_off_and_paid_for():
    params, _, _, after, *_, info = played()
    high_margin = 6.0 - 3.0 * after.power - params.extra_loss_db
    high = ((after.lit == light.HIGH).sum(axis=-1) * (high_margin < 0)).sum(axis=-1)
    common = ((after.lit == light.COMMON).sum(axis=-1) * (high_margin + 6.0 < 0)).sum(axis=-1)
    np.testing.assert_array_equal(info["dropped_high"], high)
    np.testing.assert_array_equal(info["dropped_common"], common)
    np.testing.assert_allclose(info["drop_cost"], 0.4 * (high + 0.25 * common) / LINKS, rtol=1e-5)
    assert high.max() > 0 and 0.45 < (after.lit > 0).mean() < 0.65


def test_the_mask_forbids_what_is_set_and_tuning_while_relocking():
    _, _, _, after, *_ = played()
    states = jax.tree.map(lambda x: x[300], after)
    mask = np.asarray(jax.vmap(lambda state: ENV.action_mask(state, None))(states))
    for start, now in (
        (task.TO_WINDOW, states.window),
        (task.TO_POWER, states.power),
        (task.TO_RELEASE, states.release),
        (task.TO_WAVE, states.wave),
    ):
        assert not np.take_along_axis(mask, (start + now)[..., None], axis=-1).any()
    tuning = mask[..., task.TO_WAVE : task.TO_WINDOW].sum(axis=-1)
    np.testing.assert_array_equal(tuning, np.where(states.relock > 0, 0, WAVES - 1))
    assert mask[..., 0].all() and (states.relock > 0).any()


def test_observations_decode_to_what_is_there():
    params, _, _, after, _, obs, *_ = played()
    reading = jax.device_get(task.decode(jnp.asarray(obs[200, 0])))
    state = jax.tree.map(lambda x: x[200, 0], after)
    np.testing.assert_array_equal(reading.wave.argmax(axis=1), state.wave)
    np.testing.assert_array_equal(reading.claims, WINDOWS[state.window] > 0)
    for name in ("power", "release", "lit"):
        np.testing.assert_array_equal(getattr(reading, name), getattr(state, name))
    np.testing.assert_allclose(reading.relock, state.relock, atol=1e-5)
    np.testing.assert_allclose(reading.length_km, params.length_km[0], rtol=1e-5)
    np.testing.assert_array_equal(reading.on_route, state.route.T > 0)
    np.testing.assert_array_equal(reading.rival, PLAN.together > 0)
    np.testing.assert_allclose(reading.rivals, PLAN.together.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(reading.left[0], state.left, rtol=1e-5)
    np.testing.assert_allclose(reading.other_fill[3], state.level / state.capacity, rtol=1e-5)
    recent = (state.seen_age < 100) & (state.seen_noise > 2e-7) & (state.seen_noise < 1e-2)
    assert recent.any()
    np.testing.assert_allclose(reading.seen_noise[recent], state.seen_noise[recent], rtol=1e-3)
    np.testing.assert_allclose(reading.seen_age[recent], state.seen_age[recent], atol=0.01)


def test_routes_join_their_pairs_and_links_share_the_detectors_of_one_node():
    ends = PLAN.net.ends
    for (a, b), route in zip(PLAN.pairs, PLAN.routes, strict=True):
        degree = np.bincount(ends[route > 0].ravel(), minlength=len(PLAN.net.nodes))
        assert degree[a] == degree[b] == 1 and set(np.delete(degree, [a, b])) <= {0, 2}
    assert np.all((ends == PLAN.receiver[:, None]).any(axis=1))
    np.testing.assert_array_equal(PLAN.together > 0, PLAN.receiver[:, None] == PLAN.receiver[None])
    held = ENV.plans[1]
    assert len(held.lengths_km) == LINKS and held.routes.shape == PLAN.routes.shape
    assert held.lengths_km.sum() == pytest.approx(300, abs=1)


# ---- bounds ----------------------------------------------------------------------------------------------------------


def test_a_part_of_a_step_makes_no_more_than_its_share_of_key():
    params = strong(ENV.default_params)
    eta = np.geomspace(2e-4, 0.08, 20, dtype=np.float32)[:, None, None]
    noise = np.geomspace(1e-7, 3e-3, 20, dtype=np.float32)[None, :, None]
    shares = np.array([0.125, 0.25, 1 / 3, 0.5, 0.75, 1.0], np.float32)[None, None]
    pulses = float(params.clock_hz) * 60 * shares
    bits = np.asarray(jax.jit(lambda: light.block_bits(eta, noise, pulses, jnp.float32(0.005), params))())
    assert np.all(bits <= shares * bits[..., -1:] + 1) and (bits > 0).mean() > 0.3


def tale(rng, steps=3, apart=False):
    """A small made-up episode of one tenant over two links, two wavelengths and two powers."""
    count = steps // 2 + 1
    first = np.sort(rng.choice(steps, count, replace=False))
    return Story(
        key=rng.integers(0, 5, (steps, 2, 2, 1)) + rng.integers(0, 3, (steps, 2, 2, 2)) * np.array([0.0, 1.0]),
        price=rng.choice([0.0, 0.5], (steps, 2, 1)) * np.array([0.0, 1.0]),
        group=np.array([0, 1 if apart else 0]),
        stock=rng.integers(0, 2, 2).astype(float),
        capacity=np.full(2, 4.0),
        route=np.array([[True, rng.random() < 0.7]]),
        tenant=np.zeros(count, int),
        size=rng.integers(1, 5, count).astype(float),
        first=first,
        last=np.append(first[1:] - 1, steps - 1),
        unit=np.ones(1),
        relock=int(rng.integers(0, 3)),
        wave=np.zeros(2, int),
    )


def best_by_trying(story):
    """Greatest return over wavelengths, powers and half shares of the detectors; one tenant is best served at once."""
    steps = len(story.key)
    shares = [(a, b) for a in (0, 0.5, 1) for b in (0, 0.5, 1) if story.group[0] != story.group[1] or a + b <= 1]
    settings = list(itertools.product(range(2), range(2), range(2), range(2), shares))
    # (wavelengths, steps of relocking, pools, what is left of the order) -> greatest return so far
    reached = {((0, 0), (0, 0), tuple(story.stock), 0.0): 0.0}
    for t in range(steps):
        after: dict = {}
        for (waves, locks, pools, left), worth in reached.items():
            if t in story.first:
                left = story.size[list(story.first).index(t)]
            for *choice, share in settings:
                wave, power = choice[:2], choice[2:]
                lock = [story.relock if wave[link] != waves[link] else locks[link] for link in range(2)]
                pool, cost = [], 0.0
                for link in range(2):
                    made = story.key[t, link, wave[link], power[link]] * share[link] * (lock[link] == 0)
                    pool.append(min(pools[link] + made, story.capacity[link]))
                    cost += story.price[t, link, power[link]]
                given = min([left, *(pool[link] for link in range(2) if story.route[0, link])])
                pool = tuple(pool[link] - given * story.route[0, link] for link in range(2))
                state = (tuple(wave), tuple(max(x - 1, 0) for x in lock), pool, left - given)
                after[state] = max(after.get(state, -np.inf), worth + given - cost)
        reached = after
    return max(reached.values())


def test_no_plan_is_above_the_bounds_and_with_detectors_of_their_own_the_best_one_is_on_the_integer_one():
    rng = np.random.default_rng(2)
    strict = 0
    for trial in range(10):
        story = tale(rng, apart=trial % 2 == 0)
        best, whole, free = best_by_trying(story), integer_bound(story), linear_bound(story)
        assert best <= whole + 1e-6 and whole <= free + 1e-6
        strict += whole < free - 1e-3
        if trial % 2 == 0:
            assert whole == pytest.approx(best, abs=1e-6)
    assert strict > 0


# ---- the yardstick ---------------------------------------------------------------------------------------------------


def test_detectors_are_divided_for_the_most_gain_and_side_by_side():
    together = np.eye(5, dtype=bool) | np.equal.outer([0, 1, 0, 0, 1], [0, 1, 0, 0, 1])
    widths = [w for w in itertools.product(range(5), repeat=5) if w[0] + w[2] + w[3] <= 4 and w[1] + w[4] <= 4]
    gains = np.random.default_rng(4).uniform(0, 1, (20, 5, 5)).astype(np.float32)
    gains[:10] *= np.arange(5)  # even and convex ones, where one takes all, as well as concave ones
    gains[10:] = np.sort(gains[10:], axis=-1)
    gains[..., 0] = 0
    found, windows = jax.device_get(
        jax.jit(jax.vmap(lambda gain: (width := divide(gain, together), windows_of(width, together))))(gains)
    )
    for gain, width, window in zip(gains, found, windows, strict=True):
        best = max(gain[range(5), w].sum() for w in np.array(widths))
        assert tuple(width) in widths and gain[range(5), width].sum() == pytest.approx(best, rel=1e-5)
        np.testing.assert_array_equal(WINDOWS[window].sum(axis=1), width)
        assert (together @ WINDOWS[window]).max() <= 1
    assert (found == 4).any() and (found == 1).any()


# ---- the door --------------------------------------------------------------------------------------------------------


def test_networks_that_cannot_work_are_refused():
    with pytest.raises(TopologyError, match="there are: chain6"):
        ResourceAllocation(topology="atlantis")
    far = Topology("far", ("a", "b", "c"), (Link("a", "b", 20.0), Link("b", "c", 140.0)))
    with pytest.raises(TopologyError, match=r"no key beside classical traffic over b - c"):
        ResourceAllocation(topology=far)
    with pytest.raises(TopologyError, match="three nodes"):
        ResourceAllocation(topology=Topology("pair", ("a", "b"), (Link("a", "b", 20.0),)))
    star = Topology("star", ("a", "b", "c"), (Link("a", "b", 20.0), Link("b", "c", 30.0)))
    assert contracts.held_out(star).lengths_km.tolist() != star.lengths_km.tolist()
    assert dataclasses.replace(ENV, topology=star).agents == ("a-b", "b-c")

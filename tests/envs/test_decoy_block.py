"""Books, latches, events and yardsticks of `qkd/DecoyBlock`."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.oracle.decoy_block import clairvoyant_schedule
from agents.oracle.decoy_reference import KnownHazardBayesRule, ReferenceOptimum, solve
from agents.practice.decoy_block import FixedLength, check_table_share
from qkd_gym.envs.calibration import decoy_block as task
from qkd_gym.envs.calibration.decoy_block import DecoyBlock
from qkd_gym.envs.core import strong
from qkd_gym.evaluation.runner import evaluate
from qkd_gym.physics.accumulate import values
from qkd_gym.physics.information import plob_bound_from_loss

ENV = DecoyBlock()
GO_ON = np.asarray(ENV.passive_action)
CLOSE = np.concatenate([[1.0], GO_ON[1:]]).astype(np.float32)
#: No event, no drift: what is left is counting noise.
QUIET = dict(
    loss_walk_db=0.0, loss_step_db=0.0, calm_event_interval_s=1e12, storm_event_interval_s=1e12, loss_db=14.0,
    max_steps_in_episode=720,
)  # fmt: skip
#: An event in about every third slice.
STORMY = dict(calm_event_interval_s=12.0, storm_event_interval_s=12.0, announced_share=0.0, loss_db=12.0)


@functools.cache
def play():
    """(key, params, actions (T, 6)) -> rewards, secret bits, and the states after each step."""

    @jax.jit
    def run(key, params, actions):
        _, episode = ENV.reset(key, params)

        def body(episode, now):
            key, action = now
            _, episode, reward, _, truncated, info = ENV.advance(key, episode, action)
            return episode, (reward, info["secret_bits"], truncated, episode.state)

        return jax.lax.scan(body, episode, (jax.random.split(key, actions.shape[0]), actions))[1]

    return run


def run(actions, key=0, **changes):
    params = strong(dataclasses.replace(ENV.default_params, **changes))
    # Always 720 steps, so that every test shares one compiled program.
    padded = np.concatenate([np.stack(actions), np.tile(GO_ON, (720 - len(actions), 1))]).astype(np.float32)
    out = play()(jax.random.key(key), params, padded)
    return jax.tree.map(lambda x: x[: len(actions)], jax.device_get(out))


def mixed(steps=60, seed=1):
    """Random settings, a close in every seventh slice."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, 6))
    actions[:, 0] = np.where(rng.random(steps) < 1 / 7, 1.0, -1.0)
    return list(actions.astype(np.float32))


def test_rewards_add_up_to_what_blocks_pay_at_their_close_and_at_truncation():
    actions = [CLOSE if t % 13 == 12 else GO_ON for t in range(60)]
    _, bits, truncated, state = run(actions, **QUIET | {"max_steps_in_episode": 60})
    settled = [state.block_bits[t - 1] for t in range(60) if t % 13 == 12]
    owed = np.sum(settled, dtype=np.float64) + state.block_bits[-1]
    np.testing.assert_allclose(bits.sum(dtype=np.float64), owed, rtol=1e-6)
    assert truncated[-1] and not truncated[:-1].any()
    assert state.block_bits[-1] > 0  # the open block at truncation is paid, too


def test_an_event_takes_the_open_blocks_key_back_and_no_more():
    _, bits, _, state = run([GO_ON] * 120, **STORMY)
    hit = np.flatnonzero(state.event)
    assert 20 < len(hit) < 90
    assert np.all(state.block_bits[hit] == 0) and np.all(state.block_slices[hit] == 0)
    before = np.where(hit > 0, state.block_bits[hit - 1], 0)
    np.testing.assert_array_equal(bits[hit], -before)
    assert before.max() > 0
    assert bits.sum() == pytest.approx(state.block_bits[-1], abs=1)  # passive: nothing was ever settled


def test_settings_are_frozen_in_a_block_and_free_after_an_event():
    actions = mixed(120)
    for a in actions:
        a[0] = -1
    state = run(actions, **STORMY)[3]
    asked = np.stack(actions)[:, 1:]
    fresh = np.concatenate([[True], state.event[:-1]])
    held = np.concatenate([[GO_ON[1:]], state.settings[:-1]])
    np.testing.assert_array_equal(state.settings, np.where(fresh[:, None], asked, held))
    assert fresh.sum() > 20 and (~fresh).sum() > 20


def test_settings_change_at_a_close_only_without_events():
    actions = mixed(60)
    state = run(actions, **QUIET)[3]
    changed = np.any(np.diff(state.settings, axis=0) != 0, axis=1)
    np.testing.assert_array_equal(changed, np.stack(actions)[1:, 0] > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_invalid_action_pools_nothing_closes_nothing_latches_nothing(bad):
    broken = np.full(6, bad, np.float32)
    reward, bits, _, state = run([GO_ON] * 8 + [broken] * 3 + [GO_ON], **QUIET)
    assert np.all(np.isfinite(reward)) and np.all(bits[8:11] == 0)
    assert np.all(state.block_slices[7:11] == 8) and state.block_slices[11] == 9
    np.testing.assert_array_equal(state.settings[8:11], np.tile(state.settings[7], (3, 1)))
    _, bits, _, state = run([broken] * 3 + [GO_ON], **QUIET)
    assert np.all(bits[:3] == 0) and np.all(state.block_slices[:3] == 0) and state.block_slices[3] == 1


def test_weather_events_and_readings_know_nothing_of_the_actions():
    one = run([GO_ON] * 60, key=5)[3]
    other = run(mixed(60), key=5)[3]
    for name in ("loss_db", "event", "storm", "buildup", "innocent", "noise"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    seen = ENV.exogenous(jax.tree.map(lambda x: x[-1], one), None)
    assert set(seen) == {"event", "loss_db"}


def test_no_block_pays_more_than_the_channel_can_carry():
    _, _, _, state = run([GO_ON] * 720, **QUIET | {"loss_db": 0.0})
    pulses = 5e9 * state.block_slices
    limit = pulses * np.asarray(plob_bound_from_loss(state.loss_db))
    assert np.all(state.block_bits <= limit) and state.block_bits[-1] > 0


def test_pooled_counts_of_a_terapulse_give_the_key_of_float64():
    """720 slices of 5e9 pulses at 6 dB: the pool exceeds int32 and 2^24 ulps; the pair must not drift."""
    state = run([GO_ON] * 720, **QUIET | {"loss_db": 6.0})[3]
    pool = jax.tree.map(lambda x: x[-1], state.pool)
    with jax.enable_x64(True):
        exact = np.array([np.float64(p.high) + np.float64(p.low) for p in pool])
        params = dataclasses.replace(ENV.default_params, **QUIET | {"loss_db": 6.0})
        settings = task.decode_settings(jnp.asarray(state.settings[-1], jnp.float64))
        bits = float(task.block_key_bits(jnp.asarray(exact), settings, params))
        mean = np.asarray(task.mean_slice_counts(jnp.float64(6.0), settings, params)) * 720
    assert exact[:3].sum() > 2**34  # far beyond what one float32 counts
    sigma = np.sqrt(mean)
    assert np.all(np.abs(exact - mean) < 6 * sigma + 6)
    # Key within 2e-6 of the clicks, the error that the finite-key bound states for float32.
    assert abs(float(state.block_bits[-1]) - bits) <= 2e-6 * exact[:3].sum()


def test_the_settings_table_is_near_the_best_settings():
    for loss_db, pulses, least in ((10.0, 1e11, 0.999), (18.0, 1e11, 0.999), (22.0, 1e11, 0.99)):
        assert check_table_share(loss_db, pulses) > least


def test_settings_survive_the_action_space():
    settings = jnp.asarray([0.45, 0.2, 0.6, 0.3, 0.9])
    again = jnp.stack(task.decode_settings(task.encode_settings(settings)))
    np.testing.assert_allclose(again, settings, rtol=1e-5)


def test_the_reading_is_what_the_state_holds():
    state = run([GO_ON] * 9, **QUIET)[3]
    last = jax.tree.map(lambda x: jnp.asarray(x[-1]), state)
    params = strong(dataclasses.replace(ENV.default_params, **QUIET))
    reading = task.decode(ENV.observe(None, last, None, params))
    assert reading.block_slices == 9 and not bool(reading.event)
    np.testing.assert_allclose(reading.block_bits, last.block_bits, rtol=1e-4)
    np.testing.assert_allclose(reading.loss_estimate_db, 14.0, atol=0.1)
    np.testing.assert_allclose(reading.block_key_clicks, values(last.pool)[:3].sum(), rtol=1e-4)


def test_the_clairvoyant_closes_before_each_event_and_takes_one_block_a_quiet_time():
    events = np.zeros(120, bool)
    events[[30, 31, 80]] = True
    params = strong(ENV.default_params)
    schedule = jax.jit(clairvoyant_schedule)(jnp.asarray(events), jnp.full(120, 14.0), params)
    # closing at 30 saves the block; 31 and 81 start the next ones
    assert np.flatnonzero(schedule.close).tolist() == [0, 30, 31, 32, 80, 81]


@pytest.fixture(scope="module")
def on_reference():
    env = DecoyBlock(scenario="reference")
    agents = {"optimum": ReferenceOptimum.load(), "bayes": KnownHazardBayesRule(), "fixed": FixedLength(20)}
    return {name: evaluate(env, agent, 64, seed=7).returns for name, agent in agents.items()}


def test_the_known_optimum_is_beaten_by_nobody_and_matched_by_the_bayes_rule(on_reference):
    best = on_reference["optimum"]
    for name, least, most in (("bayes", -0.025, 0.0), ("fixed", -0.2, -0.05)):
        gain = (on_reference[name] - best) / best.mean()
        error = 2 * gain.std() / np.sqrt(len(gain))
        assert least - error < gain.mean() < most + error
    # The episode starts in the stationary law and ends with a paid block, so its mean is near the long-run optimum.
    assert best.mean() / 720 == pytest.approx(0.70, abs=0.03)


def test_the_shipped_optimum_is_what_the_program_finds():
    policy, shipped = solve(), ReferenceOptimum.load()
    assert np.mean(policy.plan == shipped.plan) > 0.95  # ties may turn on another machine
    assert np.mean(policy.ripe == shipped.ripe) > 0.95
    assert policy.key_per_slice == pytest.approx(0.7007, abs=1e-3)


def test_a_trajectory_of_version_0_stays_as_it_is():
    """Fails if behaviour changes without a new version."""
    actions = [CLOSE if t % 20 == 19 else GO_ON for t in range(60)]
    reward, _, _, state = run(actions, key=11, loss_db=14.0)
    seen = [reward.sum(), state.loss_db[-1], state.event.sum(), state.block_slices[-1], np.abs(state.noise[-1]).sum()]
    np.testing.assert_allclose(seen, GOLDEN, rtol=2e-4)


#: Return, final loss in dB, events, slices in the last block, sum of the last noise of the readings.
GOLDEN = (30.049026, 15.480959, 1, 1, 3.030204)

"""PolarizationAlignment: what its own physics and accounts promise, beside the contract that every task keeps."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.oracle.polarization import true_unit
from agents.practice.polarization_filter import Unit, effect_of, rotation, rotation_vector
from qkd_gym import struct
from qkd_gym.envs.calibration.polarization import (
    PolarizationAlignment,
    block_key_bits,
    decode,
    ideal_bits_per_step,
    net_rotation,
    wind_angle_rad,
)
from qkd_gym.envs.core import Episode, strong
from qkd_gym.physics import polarization as pol
from qkd_gym.physics.accumulate import values
from qkd_gym.physics.finite_key import BlockCounts, one_decoy_key
from qkd_gym.physics.information import plob_bound

STEPS = 24
ENV = PolarizationAlignment()
GOLDEN = Path(__file__).parent.parent / "golden" / f"polarization_alignment_v{ENV.version}.json"
PASSIVE = np.tile(ENV.passive_action, (STEPS, 1))


@pytest.fixture(scope="module")
def roll():
    """`roll(seed, episode, actions)`: the visited episodes, observations, rewards and infos, `STEPS` of each."""

    def play(keys, episode, actions):
        def step(episode, inputs):
            obs, episode, reward, _, _, info = ENV.advance(inputs[0], episode, inputs[1])
            return episode, (episode, obs, reward, info)

        return jax.lax.scan(step, episode, (keys, actions))[1]

    compiled = jax.jit(play)
    return lambda seed, episode, actions: compiled(
        jax.random.split(jax.random.key(seed), STEPS), episode, jnp.asarray(actions, jnp.float32)
    )


@pytest.fixture(scope="module")
def start():
    """`start(seed, **changes)`: a fresh episode on a link of the training scenario with some constants changed."""
    reset = jax.jit(ENV.reset)
    sample = jax.jit(ENV.sample_params)

    def make(seed, **changes):
        params = strong(struct.replace(sample(jax.random.key(seed)), **changes))
        return reset(jax.random.key(seed + 1), params)[1]

    return make


@pytest.fixture(scope="module")
def aligned(start):
    """A link that nothing disturbs, short enough to make key within seconds."""
    return start(0, fibre_loss_db=14.0, decorrelation_time_s=1e9, start_offset_rad=0.0, turn_rad_per_s=np.zeros(3))


def test_reward_telescopes_to_the_key_of_the_pooled_block(roll, aligned):
    episodes, _, reward, info = roll(1, aligned, PASSIVE)
    paid = np.cumsum(np.asarray(info["secret_bits"], np.float64))
    keys = jax.vmap(lambda s: block_key_bits(values(s.pool), aligned.params))(episodes.state)
    assert paid[-1] > 0
    np.testing.assert_allclose(paid, keys, rtol=1e-6)
    np.testing.assert_allclose(reward, info["secret_bits"] / aligned.state.ideal_bits, rtol=1e-6)


def test_a_full_block_is_paid_and_the_next_starts_empty(roll, start):
    episode = start(0, decorrelation_time_s=1e9, start_offset_rad=0.0, block_steps=8)
    episodes, _, _, info = roll(2, episode, PASSIVE)
    state = episodes.state
    assert np.asarray(state.block_step).tolist() == [*range(1, 8), 0] * 3
    full = np.arange(7, STEPS, 8)
    assert not np.asarray(values(state.pool))[full].any() and not np.asarray(state.block_bits)[full].any()
    # a fresh block can owe nothing to the one before
    assert (np.asarray(info["secret_bits"])[full[:-1] + 1] >= 0).all()


def test_bad_seconds_take_key_back(roll, aligned):
    spoil = PASSIVE.copy()
    spoil[STEPS // 2 :, :4] = 1.0
    good, bad = (roll(3, aligned, actions)[3]["secret_bits"] for actions in (PASSIVE, spoil))
    assert np.min(bad) < 0
    assert np.sum(bad) < np.sum(good)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_invalid_actions_pool_nothing_and_credit_nothing(roll, aligned, poison):
    actions = PASSIVE.copy()
    actions[STEPS // 2 :, 2] = poison
    episodes, obs, reward, info = roll(4, aligned, actions)
    pooled = np.asarray(values(episodes.state.pool))
    assert not np.asarray(info["secret_bits"])[STEPS // 2 :].any() and not np.asarray(reward)[STEPS // 2 :].any()
    np.testing.assert_array_equal(pooled[STEPS // 2 :], np.broadcast_to(pooled[STEPS // 2 - 1], (STEPS // 2, 8)))
    assert np.isfinite(obs).all()


def test_no_policy_claims_more_than_the_link_can_certify_or_the_repeaterless_bound(roll, aligned):
    rng = np.random.default_rng(0)
    p = aligned.params
    bound = float(plob_bound(10 ** (-float(p.fibre_loss_db) / 10))) * float(p.clock_hz) * STEPS
    for seed in range(4):
        actions = PASSIVE + rng.normal(size=PASSIVE.shape) * (0.0, 0.02, 0.3, 1.0)[seed]
        info = roll(5 + seed, aligned, np.clip(actions, -1, 1))[3]
        claimed, certifiable = (np.asarray(info[k], np.float64).sum() for k in ("secret_bits", "certifiable_bits"))
        assert claimed <= certifiable * (1 + 4e-6)
        assert claimed < bound


def test_perfect_alignment_approaches_the_ideal(roll, start):
    episode = start(
        0, fibre_loss_db=14.0, decorrelation_time_s=1e9, start_offset_rad=0.0, turn_rad_per_s=np.zeros(3),
        block_steps=STEPS,
    )  # fmt: skip
    total = np.asarray(roll(6, episode, PASSIVE)[2], np.float64).sum() / STEPS
    # the backlash leaves the start exact, so only counting noise is between the two
    assert 0.9 < total < 1.1


def test_the_fibre_does_not_feel_the_actions(roll, start):
    episode = start(7, jump_rate_per_s=0.3, wind_amplitude_rad=0.4)
    rng = np.random.default_rng(1)
    paths = [
        roll(8, episode, actions)[0].state.fibre
        for actions in (PASSIVE, rng.uniform(-1, 1, PASSIVE.shape), np.full_like(PASSIVE, np.nan))
    ]
    np.testing.assert_array_equal(paths[0], paths[1])
    np.testing.assert_array_equal(paths[0], paths[2])
    assert np.ptp(np.asarray(paths[0]), axis=0).max() > 0.1


def test_error_rates_are_those_of_the_net_rotation(roll, start):
    episode = start(9, decorrelation_time_s=1e9, turn_rad_per_s=np.zeros(3), start_offset_rad=0.3)
    episodes, obs, _, info = roll(10, episode, PASSIVE)
    state, p = episodes.state, episode.params
    net = pol.matrix(net_rotation(p, state.position[0], state.fibre[0], wind_angle_rad(p, episode.state, 0.5)))
    clicks = np.asarray(jax.vmap(lambda s: s.counts[jnp.array([0, 2])])(state)).sum(0)
    for axis, name in enumerate(("qber", "qber_x")):
        e0 = float(p.optical_error)
        expected = e0 + (1 - 2 * e0) * (1 - float(net[axis, axis])) / 2
        weight = np.asarray(state.counts)[:, 2 * axis]
        seen = np.average(np.asarray(info[name]), weights=weight)
        # dark counts add less than 2 dark / (eta mu) / 2 = 2e-4
        assert abs(seen - expected) < 5 * np.sqrt(expected / clicks[axis]) + 2e-4
    reading = jax.vmap(lambda o: decode(o, p))(obs)
    np.testing.assert_allclose(reading.qber_z, info["qber"], atol=2e-6)
    np.testing.assert_allclose(reading.clicks_z, state.counts[:, 0], rtol=1e-4)


def test_reference_light_reads_the_rotation_and_costs_time(roll, start):
    episode = start(11, decorrelation_time_s=1e9, turn_rad_per_s=np.zeros(3), start_offset_rad=0.3)
    actions = PASSIVE.copy()
    actions[::2, 4] = 0.4
    episodes, obs, _, info = roll(12, episode, actions)
    state, p = episodes.state, episode.params
    np.testing.assert_allclose(np.asarray(info["reference_share"]), np.tile([0.25, 0.0], STEPS // 2), atol=1e-7)
    assert not np.asarray(state.reference)[1::2].any()
    np.testing.assert_array_equal(np.asarray(obs)[:, 15], np.tile([1.0, 0.0], STEPS // 2))
    net = np.asarray(pol.matrix(net_rotation(p, state.position[0], state.fibre[0], 0.0)))
    trials = float(p.reference_clicks_per_s) * 0.2 / 4 * (STEPS // 2)
    mean = np.asarray(state.reference)[::2].mean(0)
    expected = (1 - 2 * float(p.optical_error)) * net[:2, :2].reshape(-1)
    np.testing.assert_allclose(mean, expected, atol=5 / np.sqrt(trials))
    lit, dark = np.asarray(state.counts)[::2, 0].mean(), np.asarray(state.counts)[1::2, 0].mean()
    assert abs(lit / dark - 0.75) < 0.01


def test_pooled_key_in_float32_is_that_of_float64(roll, aligned):
    episodes = roll(13, aligned, PASSIVE)[0]
    pool = jax.tree.map(lambda x: x[-1], episodes.state.pool)
    exact = np.array([np.float64(p.high) + np.float64(p.low) for p in pool])
    p = aligned.params
    with jax.enable_x64(True):
        counts = BlockCounts(n_key=exact[0:2], m_key=exact[2:4], n_test=exact[4:6], m_test=exact[6:8])
        mu = np.array([p.signal_intensity, p.decoy_intensity], np.float64)
        share = np.array([p.signal_prob, 1 - np.float64(p.signal_prob)])
        bits = float(one_decoy_key(counts, mu, share).secret_bits) - float(p.authentication_bits)
    # a key length is a difference of terms a few times as long, each good to some 2^-24
    assert float(episodes.state.block_bits[-1]) == pytest.approx(bits, rel=1e-5)


def test_the_ideal_depends_on_loss_and_not_on_the_controller(start):
    near, far = start(14, fibre_loss_db=16.0), start(14, fibre_loss_db=24.0)
    assert float(near.state.ideal_bits) > 4 * float(far.state.ideal_bits)
    other = start(15, fibre_loss_db=16.0)
    assert float(other.state.ideal_bits) == float(near.state.ideal_bits) == float(ideal_bits_per_step(near.params))


def test_an_unknown_receiver_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="two_basis, polarimeter"):
        PolarizationAlignment(reference="eyes")


def test_slopes_of_the_controller_are_its_derivatives(start):
    params = start(16).params
    with jax.enable_x64(True):
        unit = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), true_unit(params, 1))
        before, after = np.array([[0.3, -1.1, 0.7, 1.9]]), np.array([[0.5, -1.3, 0.9, 1.6]])
        effect = effect_of(unit, before, after)
        turn, slopes = np.asarray(effect.turn[0]), np.asarray(effect.slopes[0])
        h = 1e-5
        for i in range(15):
            d = h * np.eye(15)[i]
            moved = Unit(
                frame=jnp.einsum("ij,njk->nik", rotation(d[:3]), unit.frame),
                tilts=unit.tilts + d[3:11].reshape(1, 4, 2),
                log_gains=unit.log_gains + d[None, 11:],
            )
            change = rotation_vector(effect_of(moved, before, after).turn @ turn.T)[0] / h
            # tilts are measured across the nominal axes and the slopes across the tilted ones: second order in the tilt
            if not 3 <= i < 11:
                np.testing.assert_allclose(change, slopes[:, i], atol=1e-3)


def test_golden_trajectory(roll, start):
    """Fails when the task's behaviour changes: then bump `version` and write a new file with this test's `seen`."""
    rng = np.random.default_rng(17)
    actions = rng.uniform(-0.3, 0.3, PASSIVE.shape).astype(np.float32)
    episodes, obs, _, info = roll(18, start(19, jump_rate_per_s=0.2, wind_amplitude_rad=0.2), actions)
    seen = {
        "fibre": np.asarray(episodes.state.fibre)[-1],
        "position": np.asarray(episodes.state.position)[-1],
        "observation": np.asarray(obs)[-1],
        "qber": np.asarray(info["qber"]),
        "certifiable_bits": np.asarray(info["certifiable_bits"]),
    }
    golden = json.loads(GOLDEN.read_text())
    assert sorted(golden) == sorted(seen)
    for name, expected in golden.items():
        # a rounding may move a count by one: 1 in some 1e4 clicks
        np.testing.assert_allclose(seen[name], expected, rtol=2e-3, atol=1e-3, err_msg=name)


def test_episodes_differ_between_links_and_repeat_for_a_key():
    first, again, other = (ENV.reset(jax.random.key(k))[1] for k in (20, 20, 21))
    assert isinstance(first, Episode)
    np.testing.assert_array_equal(first.params.frame, again.params.frame)
    assert not np.allclose(first.params.frame, other.params.frame)

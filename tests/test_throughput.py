"""The contestants of the throughput benchmark do the same work, and its ratios are what they claim to be."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.throughput import contest
from benchmarks.throughput.contest import Contestant, alternate, ratio
from benchmarks.throughput.races import TWIN_TASK
from benchmarks.throughput.twin import Twin, numpy_ops, python_ops
from qkd_gym import make
from qkd_gym.envs.calibration.polarization import block_key_bits

LINKS, STEPS, BLOCK_STEPS = 16, 40, 30
TRIALS = 5e4 * 0.2 / 4  # reference clicks per reading at the share bought below


def still_link(env, key) -> Any:
    """A link whose fibre all but stands still, so that nothing but counting tells one run from another."""
    return dataclasses.replace(
        env.sample_params(key),
        decorrelation_time_s=jnp.float32(1e9),
        turn_rad_per_s=jnp.zeros(3, jnp.float32),
        start_offset_rad=jnp.float32(0.05),
        clock_hz=jnp.float32(3e8),
        block_steps=jnp.int32(BLOCK_STEPS),
    )


@pytest.fixture(scope="module")
def played():
    """Who -> what came of the same actions: observations (steps, links, n), reward and metrics (steps, links)."""
    env = make(TWIN_TASK)
    rng = np.random.default_rng(1)
    actions = rng.uniform(-0.1, 0.1, (STEPS, LINKS, 5)).astype(np.float32)
    actions[:, :, 4] = np.where(rng.random((STEPS, LINKS)) < 0.3, 0.4, -1.0)
    episodes = jax.jit(jax.vmap(lambda key: env.reset(key, still_link(env, key))[1]))(
        jax.random.split(jax.random.key(0), LINKS)
    )

    @jax.jit
    def run(episodes):
        def step(episodes, inputs):
            key, action = inputs
            out = jax.vmap(env.advance)(jax.random.split(key, LINKS), episodes, action)
            return out[1], (out[0], out[2], out[5])

        return jax.lax.scan(step, episodes, (jax.random.split(jax.random.key(1), STEPS), actions))[1]

    def gather(steps: list[Any]) -> Any:
        obs, reward, _, _, info = zip(*steps, strict=True)
        return np.array(obs), np.array(reward), {k: np.array([i[k] for i in info]) for k in info[0]}

    fleet = Twin(numpy_ops(2, LINKS), episodes)
    alone = [Twin(python_ops(3 + i), jax.tree.map(lambda x, i=i: x[i], episodes)) for i in range(LINKS)]
    single = [gather([twin.step(a) for a in actions[:, i]]) for i, twin in enumerate(alone)]
    python = jax.tree.map(lambda *x: np.stack(x, axis=1), *single)
    return {
        "task": jax.device_get(run(episodes)),
        "numpy": gather([fleet.step(a) for a in actions]),
        "python": python,
        "twins": (fleet, alone, episodes.params),
    }


def clicks_and_errors(obs) -> np.ndarray:
    """(4, steps, links): clicks and errors in Z, then in X, from what was observed."""
    columns = []
    for basis in (0, 1):
        n = np.expm1((obs[..., 2 + basis].astype(float) + 1) * 3 * math.log(10))
        columns += [n, n * 0.125 * (obs[..., basis].astype(float) + 1) ** 2]
    return np.array(columns)


@pytest.mark.parametrize("who", ["numpy", "python"])
def test_counts_differ_by_counting_alone(played, who):
    """Poisson counts of one mean: (a - b)^2 / (a + b) has the mean 1 exactly, whatever the mean of the counts."""
    task, twin = (clicks_and_errors(played[name][0]) for name in ("task", who))
    assert (task + twin).min() > 0
    chi2 = (task - twin) ** 2 / (task + twin)
    np.testing.assert_allclose(chi2.mean(axis=(1, 2)), 1, atol=5 * math.sqrt(2 / (STEPS * LINKS)))
    sums = task.sum(axis=1), twin.sum(axis=1)  # a bias that one step hides
    assert np.max(np.abs(sums[0] - sums[1]) / np.sqrt(sums[0] + sums[1])) < 5


@pytest.mark.parametrize("who", ["numpy", "python"])
def test_everything_else_is_the_same(played, who):
    (obs, _, metrics), (twin_obs, _, twin_metrics) = played["task"], played[who]
    # voltages, actions, fill of the block, whether the reference was on
    same = [*range(4, 14), 15]
    np.testing.assert_allclose(twin_obs[..., same], obs[..., same], atol=2e-6)
    np.testing.assert_allclose(twin_metrics["reference_share"], metrics["reference_share"], atol=1e-6)
    np.testing.assert_allclose(twin_metrics["certifiable_bits"], metrics["certifiable_bits"], rtol=1e-3)
    bought = obs[..., 15] > 0.5
    assert 50 < bought.sum() < bought.size / 2
    a, b = obs[bought][:, 16:20].astype(float), twin_obs[bought][:, 16:20].astype(float)
    np.testing.assert_array_equal(np.delete(twin_obs, np.s_[:16], -1)[~bought], 0)
    chi2 = (a - b) ** 2 * TRIALS / (2 - a * a - b * b)  # variance of either reading: (1 - r^2) / trials
    np.testing.assert_allclose(chi2.mean(axis=0), 1, atol=5 * math.sqrt(2 / bought.sum()))


@pytest.mark.parametrize("who", ["numpy", "python"])
def test_block_keys_agree(played, who):
    """What a block of all links together paid, in reward and in bits: within 2 %, as its counts differ by chance."""
    for pick in (lambda one: one[1], lambda one: one[2]["secret_bits"]):
        ours, theirs = (pick(played[name])[:BLOCK_STEPS].sum(axis=0) for name in ("task", who))
        assert (ours > 0).sum() > LINKS / 2
        np.testing.assert_allclose(theirs.sum(), ours.sum(), rtol=0.02)


def test_keys_of_the_same_counts_are_the_same(played):
    """Within what float32 costs the task: 2e-6 of the clicks (see `qkd_gym.physics.finite_key`), and a rounded bit."""
    fleet, alone, params = played["twins"]
    pools = np.array(fleet.pool).T
    ours = jax.jit(jax.vmap(block_key_bits))(jnp.asarray(pools, jnp.float32), params)
    assert (np.array(fleet.block_bits) > 0).any()
    atol = 1 + 2e-6 * pools[:, :2].sum(axis=1).max()
    np.testing.assert_allclose(fleet.block_bits, ours, rtol=0, atol=atol)
    np.testing.assert_allclose(
        [twin._key(list(pool)) for twin, pool in zip(alone, pools, strict=True)], ours, atol=atol
    )


def test_ratio_is_taken_round_by_round():
    seconds = {"fast": [1.0, 2.0, 4.0], "slow": [2.0, 8.0, 4.0]}
    assert ratio(seconds, "fast", "slow") == (2.0, 1.0, 4.0)
    assert ratio(seconds, "slow", "fast") == (0.5, 0.25, 1.0)
    with pytest.raises(ValueError):
        ratio(seconds | {"slow": [2.0]}, "fast", "slow")


def test_contestants_alternate(monkeypatch):
    """One warm-up each, then rounds in a turning order; seconds are per unit of work."""
    clock, ran = [0.0], []

    def contestant(name: str, seconds: float, units: float) -> Contestant:
        def run() -> None:
            ran.append(name)
            clock[0] += seconds

        return Contestant(run, units)

    monkeypatch.setattr(contest.time, "perf_counter", lambda: clock[0])
    seconds = alternate({"a": contestant("a", 8.0, 4), "b": contestant("b", 3.0, 1), "c": contestant("c", 1.0, 2)}, 2)
    assert "".join(ran) == "abc" + "abc" + "bca"
    assert seconds == {"a": [2.0, 2.0], "b": [3.0, 3.0], "c": [0.5, 0.5]}

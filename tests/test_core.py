"""The contract itself, on the toys: ends, auto-reset, links, actions and errors."""

import dataclasses
import pickle

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym import registration, struct
from qkd_gym.envs.core import STANDARD_INFO, EnvParams, Episode, as_key, restart_key, select, strong
from tests.adapters.toys import Dials, Token, TokenParams
from tests.toys import Meet, Walk, WalkParams

WALK, MEET = Walk(), Meet()
STEP = {env.name: jax.jit(env.step) for env in (WALK, MEET)}
ADVANCE = jax.jit(WALK.advance)
RESET = jax.jit(WALK.reset)
STAY = jnp.zeros(1, jnp.float32)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def links(**leaves):
    return strong(dataclasses.replace(WALK.default_params, **leaves))


# ---- ends -----------------------------------------------------------------------------------------------------------


def test_an_end_of_its_own_comes_before_the_limit():
    """Leaving the interval terminates; the limit, not reached, does not truncate; the discount tells them apart."""
    _, episode = RESET(jax.random.key(0), links(drift=0.0, max_steps_in_episode=50))
    for k in range(10):
        _, episode, _, terminated, truncated, info = ADVANCE(jax.random.key(k), episode, STAY + 1)
        assert float(info["discount"]) == (0.0 if terminated else 1.0)
        if terminated:
            break
    assert bool(terminated) and not bool(truncated) and float(info["distance"]) > 1
    assert 1 <= int(episode.time) < 10


def test_both_ends_may_coincide():
    _, episode = RESET(jax.random.key(0), links(drift=0.0, max_steps_in_episode=1))
    episode = dataclasses.replace(episode, state=dataclasses.replace(episode.state, position=jnp.float32(0.95)))
    _, _, _, terminated, truncated, info = ADVANCE(jax.random.key(0), episode, STAY + 1)
    assert bool(terminated) and bool(truncated) and float(info["discount"]) == 0


def test_the_limit_truncates_and_does_not_discount():
    _, episode = RESET(jax.random.key(0), links(drift=0.0, max_steps_in_episode=3))
    seen = []
    for k in range(3):
        _, episode, _, terminated, truncated, info = ADVANCE(jax.random.key(k), episode, STAY)
        seen.append((bool(terminated), bool(truncated), float(info["discount"])))
    assert seen == [(False, False, 1.0), (False, False, 1.0), (False, True, 1.0)]


def test_advance_goes_on_past_an_end():
    """It never resets: what happens there is the caller's business."""
    _, episode = RESET(jax.random.key(0), links(max_steps_in_episode=1))
    for k in range(3):
        _, episode, *_ = ADVANCE(jax.random.key(k), episode, STAY)
    assert int(episode.time) == 3


# ---- auto-reset -----------------------------------------------------------------------------------------------------


def test_auto_reset_never_loses_the_last_observation():
    obs, episode = RESET(jax.random.key(1))
    ends = 0
    for k in range(30):
        key = jax.random.key(100 + k)
        last, *_ = ADVANCE(key, episode, STAY + 0.5)
        obs, episode, _, terminated, truncated, info = STEP["Walk"](key, episode, STAY + 0.5)
        np.testing.assert_allclose(info["final_observation"], last, rtol=1e-6)
        if terminated or truncated:
            ends += 1
            equal((obs, episode), RESET(restart_key(key)))
            assert int(episode.time) == 0 and not np.array_equal(obs, info["final_observation"])
        else:
            equal(obs, info["final_observation"])
    assert ends >= 3


def test_auto_reset_draws_a_fresh_link_from_the_scenario():
    step = jax.jit(Walk(scenario="ood-fast").step)
    _, episode = RESET(jax.random.key(0), links(drift=0.0, max_steps_in_episode=1))
    drifts = []
    for k in range(12):
        _, episode, *_ = step(jax.random.key(k), episode, STAY)
        episode = dataclasses.replace(
            episode, params=dataclasses.replace(episode.params, max_steps_in_episode=jnp.int32(1))
        )
        drifts.append(float(episode.params.drift))
    assert len(set(drifts)) == 12 and max(drifts) > 0.35


def test_a_running_episode_keeps_its_link():
    """`params` handed to `step` are the next episode's."""
    mine, next_one = links(drift=0.1, max_steps_in_episode=3), links(drift=0.9, max_steps_in_episode=2)
    _, episode = RESET(jax.random.key(0), mine)
    seen = []
    for k in range(4):
        _, episode, *_ = STEP["Walk"](jax.random.key(k), episode, STAY, next_one)
        seen.append(round(float(episode.params.drift), 3))
    assert seen == [0.1, 0.1, 0.9, 0.9]
    alone = RESET(jax.random.key(0), mine)[1]
    with_others = STEP["Walk"](jax.random.key(5), alone, STAY, next_one)[2]
    assert float(with_others) == float(STEP["Walk"](jax.random.key(5), alone, STAY, mine)[2])


@pytest.mark.parametrize("env", [WALK, MEET], ids=lambda e: e.name)
def test_a_batch_equals_its_rows(env):
    keys = jax.random.split(jax.random.key(3), 4)
    _, episodes = jax.jit(env.reset_batch)(keys)
    actions = jnp.broadcast_to(jnp.asarray(env.passive_action), (4, *env.passive_action.shape))
    batch, mapped = jax.jit(env.step_batch), jax.jit(jax.vmap(env.step))
    ends = 0
    for k in range(12):
        keys = jax.random.split(jax.random.key(k), 4)
        out = batch(keys, episodes, actions)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), out, mapped(keys, episodes, actions)
        )
        episodes = out[1]
        ends += int(np.sum(out[3] | out[4]))
    assert ends >= 4


def test_no_reset_is_paid_where_no_episode_ends():
    """In a batch the reset stands under a conditional: its cost is not in the straight-line program."""
    keys = jax.random.split(jax.random.key(0), 4)
    _, episodes = WALK.reset_batch(keys)
    text = str(jax.make_jaxpr(WALK.step_batch)(keys, episodes, jnp.zeros((4, 1), jnp.float32)))
    assert text.count("cond[") == 1
    assert "cond[" not in str(jax.make_jaxpr(jax.vmap(WALK.advance))(keys, episodes, jnp.zeros((4, 1), jnp.float32)))


def test_a_scan_counts_every_step():
    def body(episode, key):
        _, episode, _, terminated, truncated, info = WALK.step(key, episode, STAY)
        return episode, (terminated | truncated, info["distance"])

    _, episode = RESET(jax.random.key(0))
    last, (ended, distance) = jax.jit(lambda e, k: jax.lax.scan(body, e, k))(
        episode, jax.random.split(jax.random.key(1), 40)
    )
    since = 40 - 1 - int(np.flatnonzero(ended)[-1])
    assert int(last.time) == since and np.isfinite(distance).all()


# ---- info -----------------------------------------------------------------------------------------------------------


def test_info_is_the_same_from_the_first_step():
    _, episode = RESET(jax.random.key(0))
    first = STEP["Walk"](jax.random.key(0), episode, STAY)
    second = STEP["Walk"](jax.random.key(1), first[1], STAY)
    assert set(first[5]) == {*STANDARD_INFO, "distance"}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first[5]) == jax.tree.map(lambda x: (x.shape, x.dtype), second[5])


def test_many_agents_share_the_ends():
    _, episode = MEET.reset(jax.random.key(0))
    obs, _, reward, terminated, truncated, info = STEP["Meet"](jax.random.key(1), episode, jnp.ones(3, jnp.int32))
    assert (obs.shape, reward.shape, terminated.shape, truncated.shape) == ((3, 5), (3,), (), ())
    assert MEET.num_agents == 3 and WALK.num_agents == 1 and MEET.mask(episode).shape == (3, 3)
    assert info["final_observation"].shape == (3, 5)


# ---- actions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "action", "cleaned", "valid"),
    [
        (WALK, [0.5], [0.5], True),
        (WALK, [3.0], [1.0], True),
        (WALK, [-1e30], [-1.0], True),
        (WALK, [np.nan], [0.0], False),
        (WALK, [np.inf], [0.0], False),
        (Token(), 1, 1, True),
        (Token(), -1, 0, False),
        (Token(), 3, 2, False),
        (Dials(), [2, 1], [2, 1], True),
        (Dials(), [2, 2], [2, 1], False),
        (MEET, [0, 1, 5], [0, 1, 2], [True, True, False]),
    ],
)
def test_clean_action(env, action, cleaned, valid):
    got, ok = env.clean_action(jnp.asarray(np.array(action)))
    np.testing.assert_array_equal(got, cleaned)
    np.testing.assert_array_equal(ok, valid)


def test_invalid_actions_of_a_batch_are_told_apart():
    got, ok = WALK.clean_action(jnp.array([[0.1], [np.nan], [7.0]], jnp.float32))
    np.testing.assert_array_equal(ok, [True, False, True])
    np.testing.assert_allclose(got[:, 0], [0.1, 0.0, 1.0])


def test_spaces_without_meaning_here_are_refused():
    class Odd(Walk):
        def action_space(self, params=None):
            return gym.spaces.MultiBinary(2)

    with pytest.raises(TypeError, match="Box, Discrete or MultiDiscrete, not MultiBinary"):
        Odd().clean_action(jnp.zeros(2))


# ---- params, scenarios, ids -----------------------------------------------------------------------------------------


def test_scenarios_are_a_field():
    assert Walk(scenario="ood-fast") != Walk() and hash(Walk()) == hash(Walk())
    with pytest.raises(ValueError, match="Walk has no scenario 'fast'; it has: training, ood-fast"):
        Walk(scenario="fast")
    draw = jax.vmap(lambda key: Walk().sample_params(key, "ood-fast").drift)
    assert float(draw(jax.random.split(jax.random.key(0), 64)).max()) > 0.6


def test_params_are_checked_when_a_person_makes_them():
    with pytest.raises(ValueError, match=r"WalkParams.drift = -0.1 1/step is outside its valid range \[0, 1\] 1/step"):
        WalkParams(drift=-0.1)
    with pytest.raises(ValueError, match="max_steps_in_episode = 0"):
        WalkParams(max_steps_in_episode=0)
    with pytest.raises(ValueError, match="nan"):
        WalkParams(drift=float("nan"))
    with pytest.raises(ValueError, match="WalkParams has no parameter drfit; it has: max_steps_in_episode, drift"):
        struct.replace(WalkParams(), drfit=1.0)
    assert struct.replace(WalkParams(), drift=1.0).drift == 1.0
    with pytest.raises(ValueError, match="luck"):
        TokenParams(luck=np.array([0.5, 1.5]))


def test_params_pass_through_programs_unchecked_and_unchanged():
    out = jax.jit(lambda p: dataclasses.replace(p, drift=p.drift * -1))(links(drift=0.5))
    assert float(out.drift) == -0.5, "nothing is checked inside a program"
    assert jax.tree.leaves(jax.vmap(lambda p: p)(jax.tree.map(lambda x: jnp.stack([x, x]), links())))[0].shape == (2,)
    equal(pickle.loads(pickle.dumps(WalkParams(drift=0.5))), WalkParams(drift=0.5))


def test_strong_gives_32_bits_in_every_mode():
    tree = {"a": 1, "b": 1.5, "c": True, "d": np.float64(2), "e": np.int64(3), "f": np.arange(2)}
    assert {k: str(v.dtype) for k, v in strong(tree).items()} == {
        "a": "int32", "b": "float32", "c": "bool", "d": "float32", "e": "int32", "f": "int32",
    }  # fmt: skip
    assert not any(v.aval.weak_type for v in strong(tree).values())


def test_select_keeps_what_is_one_and_the_same():
    shared = jnp.ones(2)
    a, b = {"x": jnp.zeros(()), "y": shared}, {"x": jnp.ones(()), "y": shared}
    out = select(jnp.bool_(True), a, b)
    assert out["y"] is shared and float(out["x"]) == 0


def test_raw_keys_are_taken():
    raw = jax.random.PRNGKey(7)
    equal(RESET(raw), RESET(jax.random.key(7)))
    assert jnp.issubdtype(as_key(raw).dtype, jax.dtypes.prng_key)
    equal(
        WALK.reset_batch(jnp.stack([raw, raw])),
        WALK.reset_batch(jnp.stack([jax.random.key(7), jax.random.key(7)])),
    )


def test_ids():
    assert WALK.id == "qkd/Walk-v0"
    with pytest.raises(ValueError, match=r"unknown task 'qkd/DecoyBlok-v0'\. Did you mean 'qkd/DecoyBlock-v0'\?"):
        registration.task_class("qkd/DecoyBlok-v0")
    with pytest.raises(ValueError, match=r"The tasks are: .*PolarizationAlignment"):
        registration.make("nothing-like-it")
    for env_id in registration.TASKS:
        assert env_id in gym.registry and gym.spec(env_id).max_episode_steps is None


def test_an_episode_is_a_pytree_with_a_time():
    episode = Episode(state=RESET(jax.random.key(0))[1].state, params=EnvParams())
    assert int(episode.time) == 0 and len(jax.tree.leaves(episode)) == 3

"""The gymnax faces, as far as they go without gymnax; its spaces, wrappers and trainers are in tests/consumers."""

import copy
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.adapters.gymnax import GymnaxEnv, GymnaxFiveValueEnv, ScenarioParams, make_gymnax
from tests.adapters.toys import Dials, Token
from tests.toys import Meet, Walk, WalkParams

ACTION = jnp.full(1, 0.2, jnp.float32)


@pytest.fixture(scope="module")
def faces():
    six, five = GymnaxEnv(Walk()), GymnaxFiveValueEnv(Walk())
    return six, five, jax.jit(six.reset), jax.jit(six.step), jax.jit(five.step)


def test_equals_the_functional_environment_over_ends(faces):
    six, _, reset, step, step_five = faces
    params, functional = six.default_params, Walk()
    plain = jax.jit(functional.step)
    obs, state = reset(jax.random.key(0), params)
    np.testing.assert_array_equal(obs, functional.reset(jax.random.key(0))[0])
    ends = 0
    for key in jax.random.split(jax.random.key(1), 25):
        wanted = plain(key, state, ACTION)
        five = step_five(key, state, ACTION, params)
        six_values = step(key, state, ACTION, params)
        jax.tree.map(np.testing.assert_array_equal, six_values, wanted)
        assert len(six_values) == 6 and len(five) == 5
        assert bool(five[3]) == bool(wanted[3] | wanted[4]) and five[4].keys() == wanted[5].keys()
        state = six_values[1]
        ends += bool(five[3])
    assert ends >= 2 and int(state.time) == int(state.state.time)


def test_links_are_drawn_unless_params_fix_them(faces):
    _, _, reset, step, _ = faces
    drifts = {float(reset(jax.random.key(i), ScenarioParams(max_steps_in_episode=3))[1].params.drift) for i in range(5)}
    assert len(drifts) == 5
    fixed = WalkParams(drift=0.25, max_steps_in_episode=1)
    _, state = reset(jax.random.key(0), fixed)
    _, state, _, _, truncated, _ = step(jax.random.key(1), state, ACTION, fixed)
    assert bool(truncated) and float(state.params.drift) == 0.25
    with pytest.raises(TypeError, match="Walk takes WalkParams or ScenarioParams"):
        GymnaxEnv(Walk()).reset(jax.random.key(0), Meet().default_params)


def test_the_limit_of_the_params_counts(faces):
    _, _, reset, step, _ = faces
    params = ScenarioParams(max_steps_in_episode=2)
    _, state = reset(jax.random.key(0), params)
    flags = []
    for key in jax.random.split(jax.random.key(3), 6):
        _, state, _, _, truncated, _ = step(key, state, 0 * ACTION, params)
        flags.append(bool(truncated))
    assert flags == [False, True] * 3
    assert make_gymnax(Walk())[1].max_steps_in_episode == 7


def test_links_can_be_mapped_over():
    env = GymnaxEnv(Walk())
    params = WalkParams(
        drift=jnp.linspace(0.0, 0.5, 4, dtype=jnp.float32), max_steps_in_episode=jnp.full(4, 9, jnp.int32)
    )
    _, state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 4), params)
    np.testing.assert_array_equal(state.params.drift, params.drift)


def test_raw_keys_are_taken(faces):
    _, _, reset, step, _ = faces
    params = ScenarioParams(max_steps_in_episode=7)
    typed, raw = reset(jax.random.key(4), params), reset(jax.random.PRNGKey(4), params)
    jax.tree.map(np.testing.assert_array_equal, typed, raw)
    jax.tree.map(
        np.testing.assert_array_equal,
        step(jax.random.key(5), typed[1], ACTION, params),
        step(jax.random.PRNGKey(5), typed[1], ACTION, params),
    )


@pytest.mark.parametrize("face", [GymnaxEnv, GymnaxFiveValueEnv])
def test_copies_pickles_and_hashes(face):
    env = face(Walk(scenario="ood-fast"))
    for twin in (copy.copy(env), copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert twin == env and hash(twin) == hash(env) and type(twin) is face
        assert twin.default_params.max_steps_in_episode == 7 and twin.name == "Walk-v0"
    assert face(Walk()) != env
    with pytest.raises(AttributeError):
        _ = env.nothing


def test_step_env_neither_resets_nor_truncates():
    env = GymnaxEnv(Walk())
    _, state = env.reset(jax.random.key(0), WalkParams(max_steps_in_episode=1))
    _, state, _, terminated, _ = env.step_env(jax.random.key(1), state, ACTION)
    assert int(state.time) == 1 and not bool(terminated) and bool(env.is_truncated(state))


def test_actions_of_a_tuple_space_are_stacked():
    env, params = make_gymnax(Dials(), five_values=True)
    _, state = env.reset(jax.random.key(0), params)
    by_tuple = env.step(jax.random.key(1), state, (jnp.int32(1), jnp.int32(0)), params)
    by_array = env.step(jax.random.key(1), state, jnp.array([1, 0], jnp.int32), params)
    jax.tree.map(np.testing.assert_array_equal, by_tuple, by_array)


def test_a_squeezed_action_is_taken(faces):
    _, _, _, step, _ = faces
    _, state = GymnaxEnv(Walk()).reset(jax.random.key(0), WalkParams())
    squeezed = step(jax.random.key(1), state, ACTION[0])
    jax.tree.map(np.testing.assert_array_equal, squeezed, step(jax.random.key(1), state, ACTION))


def test_masks_and_numbers_of_actions():
    env, params = make_gymnax(Token())
    _, state = env.reset(jax.random.key(0), params)
    assert env.num_actions == 3 and env.action_mask(state).shape == (3,)
    assert GymnaxEnv(Walk()).num_actions == 1 and GymnaxEnv(Walk()).action_mask(state) is None
    with pytest.raises(ValueError, match="3 agents"):
        GymnaxEnv(Meet())


def test_spaces_name_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax.environments", None)
    with pytest.raises(ImportError, match="pip install gymnax six"):
        GymnaxEnv(Walk()).action_space()

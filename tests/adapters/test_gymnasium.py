"""The single Gymnasium face."""

import copy
import functools
import pickle
import warnings

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from qkd_gym import rendering
from qkd_gym.adapters._program import seed_words
from qkd_gym.adapters.gymnasium import GymnasiumEnv, make_single
from tests.adapters.toys import Dials, Token
from tests.toys import Meet, Walk, WalkParams

TOYS = [Walk(), Token(), Dials()]


@pytest.fixture(autouse=True)
def picture(monkeypatch):
    monkeypatch.setitem(rendering.RENDERERS, "Walk", "tests.adapters.toys:Strip")


@pytest.fixture
def registered():
    @functools.wraps(make_single)
    def entry(**kwargs):
        return make_single(Walk(), **kwargs)

    gym.register("toy/Walk-v0", entry_point=entry)
    yield "toy/Walk-v0"
    del gym.registry["toy/Walk-v0"]


def play(env, steps, seed=None):
    """Observations, rewards and flags of a fixed stream of actions, resetting as episodes end."""
    rng, out = np.random.default_rng(7), []
    obs, _ = env.reset(seed=seed)
    for _ in range(steps):
        space = env.action_space
        if isinstance(space, gym.spaces.Box):
            action = rng.uniform(-1, 1, space.shape).astype(np.float32)
        else:
            action = rng.integers(getattr(space, "nvec", getattr(space, "n", None)))
        obs, reward, terminated, truncated, _ = env.step(action)
        out.append((obs, reward, terminated, truncated))
        if terminated or truncated:
            out.append((env.reset()[0], 0.0, False, False))
    return out


def same(a, b):
    pairs = [pair for m, n in zip(a, b, strict=True) for pair in zip(m, n, strict=True)]
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("env", TOYS, ids=lambda e: e.name)
def test_check_env_is_silent(env):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        check_env(GymnasiumEnv(env), skip_render_check=True)
    assert [str(w.message) for w in heard] == []


def test_check_env_with_pictures_is_silent(registered, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        check_env(gym.make(registered, render_mode="rgb_array").unwrapped)
    assert [str(w.message) for w in heard] == []


def test_equals_the_functional_environment():
    """The documented chain: `k`-th key is `fold_in(key(s), k)`; a reset after a step takes that step's second half."""
    functional, face = Walk(), GymnasiumEnv(Walk())
    root = jax.random.key(5, impl="threefry2x32")
    obs, episode = functional.reset(jax.random.fold_in(root, 0))
    seen, _ = face.reset(seed=5)
    np.testing.assert_array_equal(seen, obs)
    ends, step = 0, jax.jit(functional.step)
    for k in range(1, 20):
        action = np.full(1, 0.3, np.float32)
        obs, episode, reward, terminated, truncated, info = step(jax.random.fold_in(root, k), episode, action)
        seen, got, ended, cut, metrics = face.step(action)
        np.testing.assert_array_equal(seen, info["final_observation"])
        assert (got, ended, cut) == (float(reward), bool(terminated), bool(truncated))
        assert metrics == {"distance": float(info["distance"])}
        if ended or cut:
            ends += 1
            np.testing.assert_array_equal(face.reset()[0], obs)
        jax.tree.map(np.testing.assert_array_equal, face.episode, episode)
    assert ends >= 2


def test_seed_words_are_those_of_jax():
    for seed in (0, 1, 12345, 2**32 - 1):
        data = jax.random.key_data(jax.random.key(np.uint32(seed), impl="threefry2x32"))
        assert tuple(np.asarray(data).tolist()) == seed_words(seed)
    assert seed_words(2**32) != seed_words(0)


def test_seeds_repeat_and_resets_differ():
    env = GymnasiumEnv(Walk())
    first, second = play(env, 30, seed=3), play(env, 30, seed=3)
    assert same(first, second)
    assert not same(first, play(env, 30, seed=4))
    starts = [env.reset()[0][0] for _ in range(5)]
    assert len(set(map(float, starts))) == 5


def test_unseeded_environments_differ():
    assert GymnasiumEnv(Walk()).reset()[0][0] != GymnasiumEnv(Walk()).reset()[0][0]


def test_types_are_numpy_and_python():
    env = GymnasiumEnv(Token())
    obs, info = env.reset(seed=0)
    assert obs.dtype == np.float32 and obs.flags.writeable and info["action_mask"].dtype == np.int8
    obs, reward, terminated, truncated, info = env.step(np.int64(0))
    assert [type(x) for x in (obs, reward, terminated, truncated)] == [np.ndarray, float, bool, bool]
    assert [type(info[k]) for k in ("paid", "rich", "share")] == [int, bool, float]
    assert env.action_space.sample(info["action_mask"]) in (0, 1, 2)
    np.testing.assert_array_equal(env.action_masks(), info["action_mask"].astype(bool))
    env = GymnasiumEnv(Dials())
    env.reset(seed=0)
    info = env.step(np.array([0, 0]))[4]
    assert info["at_zero"].dtype == np.int32 and info["at_zero"].shape == (2,)


def test_what_is_returned_is_the_callers_own():
    env = GymnasiumEnv(Walk())
    obs, _ = env.reset(seed=0)
    kept = env.episode
    obs[:] = 99
    again = env.step(np.zeros(1, np.float32))[0]
    other = GymnasiumEnv(Walk())
    other.reset(seed=0)
    np.testing.assert_array_equal(other.step(np.zeros(1, np.float32))[0], again)
    assert kept.state.position != 99


@pytest.mark.parametrize(
    ("env", "action", "words"),
    [
        (Walk(), np.array([np.nan], np.float32), "not finite"),
        (Walk(), np.array([np.inf]), "not finite"),
        (Walk(), np.array([1e300]), "not finite"),
        (Walk(), np.zeros(2, np.float32), r"shape \(2,\); wanted \(1,\)"),
        (Walk(), 0.5, r"shape \(\)"),
        (Walk(), np.array([True]), "dtype bool"),
        (Walk(), None, "dtype object"),
        (Token(), 3, "out of range; .* takes 0 to 2"),
        (Token(), -1, "out of range"),
        (Token(), 1.0, "cast to int"),
        (Token(), np.array([1]), "shape"),
        (Dials(), np.array([0, 2]), "out of range"),
        (Dials(), np.array([0.0, 1.0]), "cast to int"),
        (Dials(), 1, "shape"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(env, action, words):
    face = GymnasiumEnv(env)
    face.reset(seed=0)
    before = face.episode
    with pytest.raises(ValueError, match=words):
        face.step(action)
    jax.tree.map(np.testing.assert_array_equal, before, face.episode)


def test_continuous_actions_beyond_the_bounds_are_clipped():
    """The convention for policies with Gaussian noise."""
    outcomes = []
    for action in (1.0, 7.0):
        env = GymnasiumEnv(Walk())
        env.reset(seed=0)
        outcomes.append(env.step(np.array([action]))[0])
    np.testing.assert_array_equal(*outcomes)


def test_order_is_kept():
    env = GymnasiumEnv(Walk(), max_episode_steps=1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(gym.error.ResetNeeded):
        _ = env.episode
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[3]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(1, np.float32))


def test_scenario_option_holds_until_changed():
    env = GymnasiumEnv(Walk())
    env.reset(seed=0, options={"scenario": "ood-fast"})
    drifts = [float((env.reset(), env.episode.params.drift)[1]) for _ in range(12)]
    assert max(drifts) > 0.35 and env.scenario == "ood-fast"
    env.reset(options={"scenario": "training"})
    drifts = [float((env.reset(), env.episode.params.drift)[1]) for _ in range(12)]
    assert max(drifts) <= 0.3


def test_params_option_fixes_the_link():
    env = GymnasiumEnv(Walk())
    env.reset(seed=0, options={"params": WalkParams(drift=0.25, max_steps_in_episode=2)})
    for _ in range(3):
        assert env.episode.params.drift == np.float32(0.25)
        env.step(np.zeros(1, np.float32))
        assert env.step(np.zeros(1, np.float32))[3]
        env.reset()
    env.reset(options={"params": {"drift": 0.5}})
    assert (env.episode.params.drift, env.episode.params.max_steps_in_episode) == (0.5, 7)
    env.reset(options={"params": None})
    assert env.episode.params.drift != 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenarios": "training"}, "no option 'scenarios'; it takes: scenario, params"),
        ({"scenario": "fast"}, "no scenario 'fast'; it has: training, ood-fast"),
        ({"params": 3}, "is no WalkParams"),
        ({"params": {"drfit": 0.1}}, "no parameter drfit"),
        ({"params": {"drift": -1.0}}, r"outside its valid range \[0, 1\]"),
        ({"params": {"drift": np.zeros(2)}}, r"shape \(2,\); wanted \(\)"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        GymnasiumEnv(Walk()).reset(options=options)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True, 2**64])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        GymnasiumEnv(Walk()).reset(seed=seed)


def test_time_limit_becomes_the_params():
    env = GymnasiumEnv(Walk(), max_episode_steps=3)
    env.reset(seed=1)
    assert env.episode.params.max_steps_in_episode == 3
    plain = GymnasiumEnv(Walk())
    plain.reset(seed=1)
    assert plain.episode.params.drift == env.episode.params.drift, "the limit must not change the link"
    assert [env.step(np.zeros(1))[3] for _ in range(3)] == [False, False, True]
    for bad in (0, -3, 2.5, "9"):
        with pytest.raises(ValueError, match="max_episode_steps"):
            GymnasiumEnv(Walk(), max_episode_steps=bad)
    with pytest.raises(ValueError, match="two names"):
        make_single(Walk(), max_episode_steps=3, max_steps_in_episode=3)


def test_a_running_environment_is_copied_and_stored():
    env = GymnasiumEnv(Walk(), max_episode_steps=40)
    env.reset(seed=0)
    env.step(np.zeros(1))
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        mine, theirs = copy.deepcopy(env), twin
        for _ in range(5):
            np.testing.assert_array_equal(mine.step(np.ones(1))[0], theirs.step(np.ones(1))[0])


def test_no_recompilation_after_warm_up(compilations):
    env = GymnasiumEnv(Token())
    play(env, 15, seed=0)
    with compilations() as count:
        play(env, 40, seed=1)
        play(env, 10)
        GymnasiumEnv(Token()).reset(seed=9)
    assert count() == 0


def test_picture_follows_the_episode(registered):
    env = gym.make(registered, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().dtype == np.uint8 and env.render().any(axis=(1, 2)).sum() == 1
    env.step(np.zeros(1, np.float32))
    assert env.render().any(axis=(1, 2)).sum() == 2
    env.reset()
    assert env.render().any(axis=(1, 2)).sum() == 1
    with pytest.raises(ValueError, match="Token has no picture"):
        GymnasiumEnv(Token(), render_mode="rgb_array")
    with pytest.raises(ValueError, match="'ascii' is unknown"):
        GymnasiumEnv(Walk(), render_mode="ascii")
    frames = gym.make(registered, render_mode="rgb_array_list")
    frames.reset(seed=0)
    frames.step(np.zeros(1, np.float32))
    assert len(frames.render()) == 2


def test_human_mode_needs_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(RuntimeError, match=r"no display.*Use render_mode='rgb_array'"):
        GymnasiumEnv(Walk(), render_mode="human")


def test_human_mode_shows_every_step(monkeypatch):
    shown = []

    class Screen:
        def __init__(self, title):
            shown.append(title)

        def show(self, frame):
            shown.append(frame.shape)

        def close(self):
            shown.append("closed")

    monkeypatch.setattr("qkd_gym.adapters._screen.Window", Screen)
    env = GymnasiumEnv(Walk(), render_mode="human")
    env.reset(seed=0)
    env.step(np.zeros(1))
    env.close()
    assert shown == ["qkd/Walk-v0", (40, 40, 3), (40, 40, 3), "closed"]


def test_multi_agent_tasks_are_refused():
    with pytest.raises(ValueError, match=r"Meet-v0 has 3 agents \(a, b, c\)"):
        GymnasiumEnv(Meet())
    with pytest.raises(ValueError, match="unknown task 'qkd/PolarisationAlignment-v0'"):
        make_single("qkd/PolarisationAlignment-v0")


def test_an_own_device_gives_the_same():
    mine, theirs = GymnasiumEnv(Walk()), GymnasiumEnv(Walk(), device=jax.devices("cpu")[1])
    assert same(play(mine, 10, seed=2), play(theirs, 10, seed=2))
    with pytest.raises(ValueError, match="device = 3"):
        GymnasiumEnv(Walk(), device=3)

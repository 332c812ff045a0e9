"""The vector face: equal to single environments in every mode, and to Gymnasium's own vectoriser."""

import copy
import pickle

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from qkd_gym import rendering
from qkd_gym.adapters.gymnasium import GymnasiumEnv
from qkd_gym.adapters.gymnasium_vector import GymnasiumVectorEnv, make_vector
from tests.adapters.toys import Dials, Token
from tests.toys import Meet, Walk, WalkParams

N = 3
MODES = list(AutoresetMode)


def actions_of(env, steps, num_envs=N):
    """A fixed stream of actions; discrete ones are drawn among all, so that some end the episode."""
    rng, space = np.random.default_rng(3), env.action_space()
    for _ in range(steps):
        if isinstance(space, gym.spaces.Box):
            yield rng.uniform(-1, 1, (num_envs, *space.shape)).astype(np.float32)
        else:
            high = space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else space.n
            yield rng.integers(high, size=(num_envs, *space.shape))


def equal_infos(mine, theirs):
    """Every entry that Gymnasium's vectoriser masks as present is present and equal."""
    for key, mask in theirs.items():
        if not key.startswith("_"):
            continue
        name = key[1:]
        rows = np.flatnonzero(mask)
        if name == "final_info":
            theirs_final = {k: v for k, v in theirs[name].items() if "action_mask" not in k}
            equal_infos(mine[name], theirs_final)
        else:
            np.testing.assert_array_equal(mine[key], mask, err_msg=key)
            for row in rows:
                np.testing.assert_array_equal(mine[name][row], theirs[name][row], err_msg=name)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("env", [Walk(), Token(), Dials()], ids=lambda e: e.name)
def test_equals_gymnasiums_vectoriser_of_single_environments(env, mode):
    """Seed `s` gives sub-environment `i` the seed `s + i`; the two agree bit by bit over the ends of episodes."""
    mine = GymnasiumVectorEnv(env, N, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: GymnasiumEnv(env)] * N, autoreset_mode=mode)
    assert mine.metadata["autoreset_mode"] is mode
    assert (mine.observation_space, mine.action_space) == (theirs.observation_space, theirs.action_space)
    (a, infos_a), (b, infos_b) = mine.reset(seed=11), theirs.reset(seed=11)
    np.testing.assert_array_equal(a, b)
    equal_infos(infos_a, infos_b)
    ends = np.zeros(N, int)
    for actions in actions_of(env, 40):
        step_a, step_b = mine.step(actions), theirs.step(actions)
        for x, y in zip(step_a[:4], step_b[:4], strict=True):
            np.testing.assert_array_equal(x, y)
            assert x.flags.writeable
        equal_infos(step_a[4], step_b[4])
        ended = step_a[2] | step_a[3]
        ends += ended
        assert ("final_obs" in step_a[4]) == (mode is AutoresetMode.SAME_STEP and bool(ended.any()))
        if mode is AutoresetMode.DISABLED and ended.any():
            a, infos_a = mine.reset(options={"reset_mask": ended})
            b, infos_b = theirs.reset(options={"reset_mask": ended.copy()})
            np.testing.assert_array_equal(a, b)
            equal_infos(infos_a, infos_b)
    assert ends.min() >= 2


def test_same_step_equals_the_functional_step_batch():
    env, root = Walk(), jax.vmap(lambda s: jax.random.key(s, impl="threefry2x32"))(np.arange(N, dtype=np.uint32))
    face = GymnasiumVectorEnv(env, N, autoreset_mode="SAME_STEP")
    keys = jax.vmap(jax.random.fold_in, (0, None))
    obs, episodes = env.reset_batch(keys(root, 0))
    np.testing.assert_array_equal(face.reset(seed=0)[0], obs)
    step = jax.jit(env.step_batch)
    for k, actions in enumerate(actions_of(env, 25), start=1):
        obs, episodes, reward, terminated, truncated, info = step(keys(root, k), episodes, actions)
        seen = face.step(actions)
        for x, y in zip(seen, (obs, reward, terminated, truncated), strict=False):
            np.testing.assert_array_equal(x, y)
        for i in np.flatnonzero(terminated | truncated):
            np.testing.assert_array_equal(seen[4]["final_obs"][i], info["final_observation"][i])
        jax.tree.map(np.testing.assert_array_equal, face.episodes, episodes)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[1]), face.episode(1), episodes)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_no_recompilation_after_warm_up(mode, compilations):
    env = GymnasiumVectorEnv(Token(), N, autoreset_mode=mode)

    def play(steps):
        for actions in actions_of(Token(), steps):
            _, _, terminated, truncated, _ = env.step(actions)
            if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
                env.reset(options={"reset_mask": terminated | truncated})

    env.reset(seed=0)
    play(3)
    with compilations() as count:
        env.reset(seed=1)
        play(30)
        env.reset()
        env.reset(seed=[1, 2, 3])
        env.action_masks()
        GymnasiumVectorEnv(Token(), N, autoreset_mode=mode).reset(seed=4)
    assert count() == 0


def test_seeds():
    env = GymnasiumVectorEnv(Walk(), N)
    by_int = env.reset(seed=5)[0]
    np.testing.assert_array_equal(env.reset(seed=[5, 6, 7])[0], by_int)
    assert not np.array_equal(env.reset()[0], by_int)
    env.reset(seed=5)
    partly = env.reset(seed=[9, None, 9])[0]
    single = GymnasiumEnv(Walk())
    single.reset(seed=6)
    np.testing.assert_array_equal(partly[1], single.reset()[0], "None goes on with the chain")
    np.testing.assert_array_equal(partly[0], partly[2])
    fresh = GymnasiumVectorEnv(Walk(), N).reset()[0]
    assert len(set(fresh[:, 0].tolist())) == N
    for bad, words in (([1, 2], "2 seeds for num_envs = 3"), (-1, "seed = -1"), ([1, 2, -3], "seed = -3")):
        with pytest.raises(ValueError, match=words):
            env.reset(seed=bad)


def test_next_step_pays_nothing_for_the_reset_and_ignores_its_action():
    env = GymnasiumVectorEnv(Walk(), N, max_episode_steps=2)
    env.reset(seed=0)
    env.step(np.zeros((N, 1)))
    _, _, _, truncated, infos = env.step(np.zeros((N, 1)))
    assert truncated.all() and infos["_distance"].all()
    obs, reward, terminated, truncated, infos = env.step(np.ones((N, 1)))
    assert not reward.any() and not terminated.any() and not truncated.any() and not infos["_distance"].any()
    assert np.all(obs[:, 1] == 0) and np.all(env.episodes.time == 0)


def test_same_step_hands_over_the_end():
    env = GymnasiumVectorEnv(Walk(), N, autoreset_mode="SameStep", max_episode_steps=2)
    env.reset(seed=0)
    env.step(np.zeros((N, 1)))
    obs, _, _, truncated, infos = env.step(np.zeros((N, 1)))
    assert truncated.all() and np.all(obs[:, 1] == 0)
    final = np.stack(infos["final_obs"])
    np.testing.assert_allclose(final[:, 1], 2 / 7, rtol=1e-6)
    np.testing.assert_allclose(infos["final_info"]["distance"], np.abs(final[:, 0]), rtol=1e-6)
    assert infos["final_info"]["_distance"].all() and not infos["_distance"].any()


def test_disabled_refuses_to_step_on():
    env = GymnasiumVectorEnv(Walk(), N, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=1)
    env.reset(seed=0)
    env.step(np.zeros((N, 1)))
    with pytest.raises(gym.error.ResetNeeded, match=r"\[0, 1, 2\] have ended"):
        env.step(np.zeros((N, 1)))
    mask = np.array([True, False, True])
    env.reset(options={"reset_mask": mask})
    with pytest.raises(gym.error.ResetNeeded, match=r"\[1\] have ended"):
        env.step(np.zeros((N, 1)))
    for bad in ([True, False, True], np.ones(2, bool), np.ones(3, int), np.zeros(3, bool)):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": bad})
    with pytest.raises(ValueError, match="leave out 'reset_mask'"):
        env.reset(options={"reset_mask": mask, "scenario": "training"})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda m: m.name)
def test_a_partial_reset_leaves_the_others_alone(mode):
    env, whole = (GymnasiumVectorEnv(Walk(), N, autoreset_mode=mode, max_episode_steps=9) for _ in range(2))
    env.reset(seed=0)
    whole.reset(seed=0)
    for face in (env, whole):
        last = face.step(np.zeros((N, 1)))[0]
    mask = np.array([False, True, False])
    obs = env.reset(options={"reset_mask": mask})[0]
    np.testing.assert_array_equal(obs[~mask], last[~mask])
    assert obs[1, 1] == 0 and not np.array_equal(obs[1], last[1])
    np.testing.assert_array_equal(env.step(np.zeros((N, 1)))[0][~mask], whole.step(np.zeros((N, 1)))[0][~mask])
    np.testing.assert_array_equal(
        env.reset(seed=[None, 7, None], options={"reset_mask": mask})[0][1], whole.reset(seed=7)[0][0]
    )


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=lambda m: m.name)
def test_scenario_and_params_hold_over_auto_resets(mode):
    env = GymnasiumVectorEnv(Walk(), 8, autoreset_mode=mode, max_episode_steps=1)
    env.reset(seed=0, options={"scenario": "ood-fast"})
    drifts = []
    for _ in range(6):
        env.step(np.zeros((8, 1)))
        drifts.append(env.episodes.params.drift)
    assert np.max(drifts) > 0.35 and len(np.unique(drifts)) > 16
    stacked = WalkParams(drift=np.linspace(0, 0.7, 8, dtype=np.float32), max_steps_in_episode=np.full(8, 9, np.int32))
    env.reset(options={"params": stacked})
    for _ in range(4):
        env.step(np.zeros((8, 1)))
        np.testing.assert_array_equal(env.episodes.params.drift, np.linspace(0, 0.7, 8, dtype=np.float32))
        assert np.all(env.episodes.params.max_steps_in_episode == 1), "max_episode_steps stands over the link's"
    env.reset(options={"params": {"drift": 0.5}})
    env.step(np.zeros((8, 1)))
    assert np.all(env.episodes.params.drift == 0.5)
    with pytest.raises(ValueError, match=r"\.drift has the shape \(2,\); wanted \(\) or \(8,\)"):
        env.reset(options={"params": WalkParams(drift=np.zeros(2))})


def test_bad_input_is_refused():
    env = GymnasiumVectorEnv(Token(), N)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(N, int))
    env.reset(seed=0)
    for actions, words in (
        (np.zeros(N + 1, int), "shape"),
        (np.zeros(N), "cast to int"),
        (np.array([0, 3, 0]), "out of range"),
    ):
        with pytest.raises(ValueError, match=words):
            env.step(actions)
    with pytest.raises(ValueError, match="not finite"):
        walk = GymnasiumVectorEnv(Walk(), N)
        walk.reset(seed=0)
        walk.step(np.array([[0.0], [np.nan], [0.0]]))
    with pytest.raises(ValueError, match="it takes: scenario, params, reset_mask"):
        env.reset(options={"mask": 1})
    with pytest.raises(ValueError, match="it is one of: NEXT_STEP, SAME_STEP, DISABLED"):
        GymnasiumVectorEnv(Token(), N, autoreset_mode="sometimes")
    with pytest.raises(ValueError, match="num_envs"):
        GymnasiumVectorEnv(Token(), 0)
    with pytest.raises(ValueError, match="3 agents"):
        make_vector(Meet(), 2)


def test_copies_run_on_alike():
    env = GymnasiumVectorEnv(Walk(), N)
    env.reset(seed=0)
    env.step(np.zeros((N, 1)))
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        mine = copy.deepcopy(env)
        for actions in actions_of(Walk(), 10):
            np.testing.assert_array_equal(mine.step(actions)[0], twin.step(actions)[0])


def test_masks_are_those_of_the_state():
    env = GymnasiumVectorEnv(Token(), N, autoreset_mode="SAME_STEP")
    _, infos = env.reset(seed=0)
    for actions in actions_of(Token(), 12):
        np.testing.assert_array_equal(env.action_masks(), infos["action_mask"])
        np.testing.assert_array_equal(env.action_masks(), jax.vmap(Token().mask)(env.episodes))
        infos = env.step(actions)[4]
    assert GymnasiumVectorEnv(Dials(), 2).reset(seed=0) and env.action_masks().dtype == bool
    dials = GymnasiumVectorEnv(Dials(), 2)
    dials.reset(seed=0)
    np.testing.assert_array_equal(dials.action_masks(), np.ones((2, 5), bool))
    walk = GymnasiumVectorEnv(Walk(), 2)
    walk.reset(seed=0)
    with pytest.raises(ValueError, match="only discrete actions have masks"):
        walk.action_masks()


def test_gymnasiums_wrappers_count_episodes_right():
    env = gym.wrappers.vector.RecordEpisodeStatistics(GymnasiumVectorEnv(Walk(), N, max_episode_steps=4))
    env.reset(seed=0)
    lengths, total, seen = [], np.zeros(N), []
    for _ in range(20):
        _, reward, _, _, infos = env.step(np.zeros((N, 1)))
        total += reward
        if "episode" in infos:
            ended = infos["_episode"]
            lengths += infos["episode"]["l"][ended].tolist()
            np.testing.assert_allclose(infos["episode"]["r"][ended], total[ended], rtol=1e-5)
            seen += infos["episode"]["r"][ended].tolist()
            total[ended] = 0
    assert len(seen) >= 9 and max(lengths) == 4


def test_pictures(monkeypatch):
    monkeypatch.setitem(rendering.RENDERERS, "Walk", "tests.adapters.toys:Strip")
    env = GymnasiumVectorEnv(Walk(), 2, render_mode="rgb_array", max_episode_steps=2)
    env.reset(seed=0)
    rows = []
    for _ in range(4):
        env.step(np.zeros((2, 1)))
        rows.append([int(frame.any(axis=(1, 2)).sum()) for frame in env.render()])
    assert rows == [[2, 2], [3, 3], [1, 1], [2, 2]]
    with pytest.raises(ValueError, match="rgb_array or None"):
        GymnasiumVectorEnv(Walk(), 2, render_mode="human")


def test_make_vec_reaches_the_vector_entry_point():
    def entry(num_envs, **kwargs):
        return make_vector(Walk(), num_envs, **kwargs)

    gym.register("toy/Walk-v1", entry_point=lambda **kwargs: GymnasiumEnv(Walk()), vector_entry_point=entry)
    try:
        env = gym.make_vec(
            "toy/Walk-v1", num_envs=2, vectorization_mode="vector_entry_point", max_episode_steps=5, scenario="ood-fast"
        )
        assert env.unwrapped.functional.scenario == "ood-fast" and env.spec.kwargs["num_envs"] == 2
        env.reset(seed=0)
        assert np.all(env.unwrapped.episodes.params.max_steps_in_episode == 5)
        same = gym.make_vec("toy/Walk-v1", num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP)
        assert same.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    finally:
        del gym.registry["toy/Walk-v1"]

"""The PettingZoo face: PettingZoo's own tests, equality with the functional environment, and refusals."""

import copy
import functools
import importlib
import pickle
import pkgutil
import types
import warnings

import gymnasium as gym
import jax
import numpy as np
import pytest
from pettingzoo.test import api_test, max_cycles_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.test.state_test import state_test
from pettingzoo.utils.conversions import aec_to_parallel

import qkd_gym.pettingzoo
from qkd_gym import registration, rendering
from qkd_gym.adapters.gymnasium import GymnasiumEnv
from qkd_gym.adapters.pettingzoo import module_name
from qkd_gym.envs.centralised import Centralised
from qkd_gym.pettingzoo import aec_env_of, faces_of, parallel_env_of
from tests.adapters.toys import Pushers
from tests.toys import Meet, Walk

#: What PettingZoo's tests say of every task that is not on their list of names: of masks, and of the toy's names.
KNOWN = (
    "Observation is not a NumPy array",
    "Observation space for each agent probably should be gymnasium.spaces.box or gymnasium.spaces.discrete",
    "We recommend agents to be named",
)
REGISTERED = sorted(registration.TASKS)


def meet(**options):
    return parallel_env_of(Meet(), **options)


def pushers(**options):
    return parallel_env_of(Pushers(), **options)


def pass_their_tests(parallel_env, env, cycles):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        parallel_api_test(parallel_env(), cycles)
        api_test(env(), cycles)
        parallel_seed_test(parallel_env, cycles)
        seed_test(env, cycles)
        max_cycles_test(types.SimpleNamespace(parallel_env=parallel_env, env=env))
        state_test(env(), parallel_env(), 10)
    return sorted({str(w.message) for w in heard if not str(w.message).startswith(KNOWN)})


class Apart(Pushers):
    """Their meeting ends nothing: `max_cycles_test` wants four cycles."""

    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, metrics = super().step_env(key, state, action, params)
        return obs, state, reward, terminated & False, metrics


@pytest.mark.parametrize("task", [Meet(), Apart()], ids=["masks", "knobs"])
def test_their_tests_pass(task):
    parallel, turns = functools.partial(parallel_env_of, task), functools.partial(aec_env_of, task)
    assert pass_their_tests(parallel, turns, 60) == []


@pytest.mark.parametrize("env_id", REGISTERED)
def test_every_registered_task_of_several_agents_has_its_module(env_id):
    env = registration.make(env_id)
    if not env.agents:
        with pytest.raises(ValueError, match="has one agent and this face is for several"):
            parallel_env_of(env_id)
        return
    module = importlib.import_module(f"qkd_gym.pettingzoo.{module_name(env)}")
    assert pass_their_tests(module.parallel_env, module.env, 12) == []


def test_every_module_is_named_after_its_task(monkeypatch):
    """And imports nothing heavy before it is used."""
    seen = []
    monkeypatch.setattr(qkd_gym.pettingzoo, "parallel_env_of", lambda env_id, **options: seen.append(env_id))
    for found in pkgutil.iter_modules(qkd_gym.pettingzoo.__path__):
        module = importlib.import_module(f"qkd_gym.pettingzoo.{found.name}")
        module.parallel_env()
        assert found.name == module_name(registration.task_class(seen[-1]))
        assert module.raw_env is module.env


def test_a_task_of_the_registry_by_its_id(monkeypatch):
    monkeypatch.setitem(registration.TASKS, "qkd/Pushers-v0", "tests.adapters.toys:Pushers")
    parallel_env, env, _ = faces_of("qkd/Pushers-v0")
    assert parallel_env(scenario="ood-light").functional == Pushers(scenario="ood-light")
    assert env(max_cycles=3).unwrapped.functional == Pushers()
    with pytest.raises(ValueError, match="unknown task 'qkd/Pusher-v0'"):
        faces_of("qkd/Pusher-v0")[0]()


def follow(env, seed, steps):
    """Episodes of the functional environment under the keys that the faces document."""
    root = jax.random.key(seed, impl="threefry2x32")
    reset, advance, restart = jax.jit(env.reset), jax.jit(env.advance), None
    obs, episode = reset(jax.random.fold_in(root, 0))
    yield None, obs, episode, None
    for k in range(1, steps + 1):
        action = yield
        out = advance(jax.random.fold_in(root, k), episode, action)
        episode = out[1]
        yield out[0], restart, episode, out


@pytest.mark.parametrize("make", [meet, pushers], ids=["Meet", "Pushers"])
def test_it_plays_the_functional_environment(make):
    env = make()
    task, names = env.functional, env.possible_agents
    episodes = follow(task, 11, 6)
    _, first, episode, _ = next(episodes)
    obs, infos = env.reset(seed=11)
    assert env.agents == names == list(task.agents) and infos == {name: {} for name in names}
    rng, mask = np.random.default_rng(0), jax.jit(task.mask)
    expected, legal = np.asarray(first), mask(episode)
    for _ in range(6):
        for i, name in enumerate(names):
            seen = obs[name]
            assert env.observation_space(name).contains(seen)
            if legal is not None:
                np.testing.assert_array_equal(seen["action_mask"], np.asarray(legal)[i])
                assert seen["action_mask"].dtype == np.int8
                seen = seen["observation"]
            np.testing.assert_array_equal(seen, expected[i])
        view = task.global_view(episode.state, episode.params) if task.name == "Pushers" else expected.reshape(-1)
        np.testing.assert_array_equal(env.state(), view)
        assert env.state_space.contains(env.state())
        if not env.agents:
            break
        shape = task.passive_action.shape
        if isinstance(task.action_space(), gym.spaces.Box):
            actions = rng.uniform(-0.4, 0.4, shape).astype(np.float32)
        else:
            actions = rng.integers(0, 3, shape)
        next(episodes)
        expected, _, episode, out = episodes.send(actions)
        expected, legal = np.asarray(expected), mask(episode)
        obs, rewards, terminations, truncations, infos = env.step(dict(zip(names, actions, strict=True)))
        assert list(obs) == list(rewards) == list(terminations) == list(truncations) == list(infos) == names
        np.testing.assert_array_equal(list(rewards.values()), np.asarray(out[2]))
        assert set(terminations.values()) == {bool(out[3])} and set(truncations.values()) == {bool(out[4])}
        for name, value in out[5].items():
            if name in task.metrics:
                got = [infos[agent][name] for agent in names]
                np.testing.assert_array_equal(got, np.broadcast_to(np.asarray(value), len(names)))
                assert all(isinstance(x, int | float) for x in got)
                if name == "near":
                    assert all(type(x) is bool for x in got)
        assert all(isinstance(r, float) for r in rewards.values())
        assert all(type(t) is bool for t in (*terminations.values(), *truncations.values()))


def test_the_episodes_of_a_seed_are_those_of_the_gymnasium_face():
    """Also after the end of an episode, without a seed."""
    env, central = meet(max_cycles=4), GymnasiumEnv(Centralised(Meet()), max_episode_steps=4)
    rng = np.random.default_rng(1)
    for seed in (21, None, None):
        env.reset(seed=seed)
        flat, info = central.reset(seed=seed)
        for _ in range(4):
            np.testing.assert_array_equal(env.state(), flat)
            actions = rng.integers(0, 3, 3)
            obs, rewards, _, truncations, infos = env.step(dict(zip("abc", actions, strict=True)))
            flat, reward, _, cut, info = central.step(actions)
            assert np.mean(list(rewards.values())) == pytest.approx(reward) and truncations["a"] == cut
            np.testing.assert_array_equal(np.concatenate([o["action_mask"] for o in obs.values()]), info["action_mask"])
            assert infos["b"]["together"] == info["together"]
        assert cut and env.agents == []


def test_turns_are_the_same_steps():
    """The AEC form keeps observations, masks, rewards, ends, infos and seeds."""
    together, turns = meet(max_cycles=5), aec_env_of(Meet(), max_cycles=5)
    obs, infos = together.reset(seed=4)
    turns.reset(seed=4)
    rewards, ends, cuts = dict.fromkeys("abc", 0), dict.fromkeys("abc", False), dict.fromkeys("abc", False)
    rng, steps = np.random.default_rng(2), 0
    while together.agents:
        actions = {}
        for agent in "abc":
            assert turns.agent_selection == agent
            seen, reward, ended, cut, info = turns.last()
            np.testing.assert_array_equal(seen["observation"], obs[agent]["observation"])
            np.testing.assert_array_equal(seen["action_mask"], obs[agent]["action_mask"])
            assert (reward, ended, cut, info) == (rewards[agent], ends[agent], cuts[agent], infos[agent])
            actions[agent] = int(rng.choice(np.flatnonzero(seen["action_mask"])))
            turns.step(actions[agent])
        obs, rewards, ends, cuts, infos = together.step(actions)
        np.testing.assert_array_equal(turns.state(), together.state())
        steps += 1
    assert steps == 5 and cuts == dict.fromkeys("abc", True) == turns.truncations
    for agent in turns.agent_iter():
        assert turns.last()[1] == rewards[agent]
        turns.step(None)
    assert turns.agents == []
    assert aec_to_parallel(turns) is turns.unwrapped


def test_spaces_are_one_object_an_agent_and_seeded_apart():
    env = meet()
    for space in (env.action_space, env.observation_space):
        assert space("a") is space("a") and space("a") is not space("b")
    assert (
        env.metadata["name"] == str(env) == "meet_v0"
        and module_name(types.SimpleNamespace(name="KeyRouting", version=1)) == "key_routing_v1"
    )
    assert (env.max_num_agents, env.num_agents) == (3, 0)


def test_bad_actions_are_refused_by_the_name_of_their_agent():
    env = meet()
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step({})
    env.reset(seed=0)
    before = env.state()
    for actions, what in [
        ({"a": 1}, "2 agents have no action: b, c"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "no agent 'd'; the 3 agents are: a, b, c"),
        ({"a": 1, "b": 3, "c": 1}, r"agent 'b': action 3 is out of range; Discrete\(3\) takes 0 to 2"),
        ({"a": 1, "b": 1, "c": 1.0}, "agent 'c': action 1.0 has the dtype float64"),
        ({"a": 1, "b": 1, "c": None}, "agent 'c': action None has the dtype object"),
        ({"a": 1, "b": 1, "c": [1, 1]}, r"agent 'c': action \[1, 1\] has the shape \(2,\)"),
        ([1, 1, 1], "must be a mapping"),
    ]:
        with pytest.raises(ValueError, match=what):
            env.step(actions)
    np.testing.assert_array_equal(env.state(), before)
    with pytest.raises(ValueError, match="no agent 'z'"):
        env.action_space("z")
    knobs = pushers()
    knobs.reset(seed=0)
    with pytest.raises(ValueError, match=r"agent 'pusher_1': .* is not finite"):
        knobs.step({"pusher_0": np.zeros(2), "pusher_1": np.array([0.0, np.nan])})
    turns = aec_env_of(Meet())
    turns.reset(seed=0)
    with pytest.raises(ValueError, match="agent 'a': action 9 is out of range"):
        turns.step(9)
    assert turns.agent_selection == "a"


def test_options_of_reset_and_of_the_face():
    env = pushers(params={"luck": 0.25}, max_cycles=3)
    env.reset(seed=0)
    assert float(env.episode.params.luck) == 0.25 and int(env.episode.params.max_steps_in_episode) == 3
    env.reset(options={"scenario": "ood-light", "params": None})
    assert env.scenario == "ood-light" and float(env.episode.params.luck) >= 0.9
    with pytest.raises(ValueError, match="reset has no option 'speed'; it takes: scenario, params"):
        env.reset(options={"speed": 1})
    with pytest.raises(ValueError, match="max_cycles = 0 must be an integer of at least 1"):
        pushers(max_cycles=0)
    with pytest.raises(ValueError, match="qkd/Walk-v0 has one agent"):
        parallel_env_of(Walk())
    with pytest.raises(ValueError, match="render_mode = 'ansi' is unknown"):
        meet(render_mode="ansi")


def test_a_running_environment_can_be_copied():
    env = parallel_env_of(Apart())
    env.reset(seed=9)
    actions = {agent: np.full(2, 0.1, np.float32) for agent in env.possible_agents}
    env.step(actions)
    twins = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    before, after = env.state(), env.step(actions)
    for twin in twins:
        np.testing.assert_array_equal(twin.state(), before)
        assert twin.step(actions)[1:4] == after[1:4]
        np.testing.assert_array_equal(twin.state(), env.state())


def test_pictures(monkeypatch):
    monkeypatch.setitem(rendering.RENDERERS, "Meet", "tests.adapters.toys:Strip")
    env = meet(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(dict.fromkeys("abc", 1))
    picture = env.render()
    assert picture.shape == (40, 40, 3) and (picture[:, 0, 0] > 0).sum() == 2
    episode, action, info = env._screen._renderer.last
    assert action.tolist() == [1, 1, 1] and int(episode.time) == 1 and info["together"] >= 1
    turns = aec_env_of(Meet(), render_mode="rgb_array")
    turns.reset(seed=0)
    assert turns.render().shape == (40, 40, 3)
    turns.close()
    with pytest.warns(UserWarning, match="does nothing without a render_mode"):
        assert meet().render() is None

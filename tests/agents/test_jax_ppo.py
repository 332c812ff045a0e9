"""PPO in JAX: what it estimates, what it learns, and that seeds are independent of each other."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.jax import teacher
from agents.jax.policy import export
from agents.jax.ppo import Categorical, Config, Gaussian, Learner, Moments, Trainer, actions_of, gae, orthogonal
from qkd_gym.envs.core import restart_key, select
from qkd_gym.evaluation.agent import Agent, PassiveAgent, PrivilegedAgent
from qkd_gym.evaluation.policy_file import LearnedPolicy, PolicyFileError, PolicySpec
from qkd_gym.evaluation.runner import evaluate
from tests.agents.tasks import Dials, Recall
from tests.toys import Meet, Walk

SMALL = Config(
    steps=32 * 16 * 40, num_envs=32, rollout_steps=16, hidden=(16,), gru_size=16, learning_rate=3e-3, minibatches=2
)


def trained(env, config):
    trainer = Trainer(env, config)
    state, metrics = trainer.run(trainer.init(), config.updates)
    return trainer, state, metrics


def policy(env, config, state, seed=0):
    spec, weights = export(env, config, jax.tree.map(lambda x: x[seed], state))
    return LearnedPolicy(weights={name: jnp.asarray(w) for name, w in weights.items()}, spec=spec)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling is what takes the time here, and these programs run for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def walk():
    return trained(Walk(), dataclasses.replace(SMALL, seeds=2))


@pytest.fixture(scope="module")
def stacked():
    config = dataclasses.replace(SMALL, memory="stack:3", critic="privileged", bootstrap=False, steps=32 * 16 * 2)
    return trained(Walk(), config)


@pytest.fixture(scope="module")
def recall():
    return trained(Recall(), dataclasses.replace(SMALL, memory="gru"))


# --- estimates --------------------------------------------------------------------------------------------------------


def test_gae_equals_a_loop():
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, 11, 4)).astype(np.float32)
    terminated = rng.random((11, 4)) < 0.2
    done = terminated | (rng.random((11, 4)) < 0.2)
    gamma, lam = 0.9, 0.8
    expected = np.zeros((11, 4))
    for b in range(4):
        ahead = 0.0
        for t in reversed(range(11)):
            next_value = 0.0 if terminated[t, b] else next_values[t, b]
            delta = rewards[t, b] + gamma * next_value - values[t, b]
            ahead = delta + (0.0 if done[t, b] else gamma * lam * ahead)
            expected[t, b] = ahead
    advantages, targets = gae(*map(jnp.asarray, (rewards, values, next_values, terminated, done)), gamma, lam)
    # Sums of eleven float32 terms of order one.
    np.testing.assert_allclose(advantages, expected, atol=2e-6)
    np.testing.assert_allclose(targets, expected + values, atol=2e-6)


@pytest.mark.parametrize("memory", ["gru", "stack:3"])
def test_time_limits_are_bootstrapped_from_the_last_observation_and_memory(memory):
    """Replays a rollout step by step with `env.advance`, which does not reset, and values what it arrives at."""
    env = Walk(scenario="ood-fast")
    config = Config(num_envs=4, rollout_steps=12, hidden=(8,), gru_size=8, memory=memory, minibatches=2, gamma=0.9)
    learner = Learner(env, config)
    before = jax.jit(learner.init)(jax.random.key(3))
    stats = before.observations
    before = before._replace(observations=Moments(jnp.float32(9), stats.mean + 0.1, stats.var * 2))
    state, rollout = jax.jit(learner.collect)(before)
    assert (rollout.done & ~rollout.terminated).any() and rollout.terminated.any()

    def stand(x):
        return learner.standardise(before.observations, x)

    seen = rollout._replace(obs=stand(rollout.obs), next_obs=stand(rollout.next_obs))
    advantages, _ = jax.jit(learner.estimate)(state, seen, rollout.reward)

    params, critic = before.params, before.params["critic"]
    _, key_env, _ = jax.random.split(before.key, 3)
    keys = jax.random.split(key_env, (12, 4))
    step = jax.jit(jax.vmap(env.advance))
    restart = jax.jit(jax.vmap(lambda key: env.reset(restart_key(key))))
    episodes, obs, hidden, first = before.episodes, before.obs, before.hidden, before.first
    values, next_values = [], []

    def look(hidden, first, obs):
        seen, hidden = learner.perceive(hidden, first, obs)
        x = learner.remember(params["actor"], stand(seen), hidden, first)
        return x, x if memory == "gru" else hidden

    for t in range(12):
        x, hidden = look(hidden, first, obs)
        values.append(learner.value(critic, x, None))
        last, running, _, terminated, truncated, _ = step(keys[t], episodes, rollout.action[t])
        next_values.append(learner.value(critic, look(hidden, jnp.zeros(4, bool), last)[0], None))
        first = terminated | truncated
        fresh_obs, fresh = restart(keys[t])
        obs, episodes = jax.vmap(select)(first, (fresh_obs, fresh), (last, running))
    expected, _ = gae(
        rollout.reward, jnp.stack(values), jnp.stack(next_values), rollout.terminated, rollout.done, 0.9, 0.95
    )
    np.testing.assert_allclose(advantages, expected, atol=1e-5)


def test_without_bootstrapping_the_time_limit_is_the_end():
    config = Config(num_envs=4, rollout_steps=12, hidden=(8,), bootstrap=False, gae_lambda=0.0, gamma=0.9)
    learner = Learner(Walk(), config)
    state, rollout = jax.jit(learner.collect)(jax.jit(learner.init)(jax.random.key(3)))
    _, targets = jax.jit(learner.estimate)(state, rollout, rollout.reward)
    truncated = np.asarray(rollout.done & ~rollout.terminated)
    assert truncated.any()
    np.testing.assert_allclose(np.asarray(targets)[truncated], np.asarray(rollout.reward)[truncated], atol=1e-6)


def test_moments_equal_those_of_all_samples():
    rng = np.random.default_rng(1)
    parts = [rng.normal(3, 2, (n, 5)).astype(np.float32) for n in (7, 100, 31)]
    moments = Moments.zeros((5,))
    for part in parts:
        moments = moments.update(jnp.asarray(part))
    everything = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.var, everything.var(0), rtol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (20, 64), (64, 5), (64, 1)])
def test_orthogonal_matrices_are(shape):
    x = np.asarray(orthogonal(jax.random.key(0), *shape))
    product = x.T @ x if shape[0] >= shape[1] else x @ x.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=2e-6)


# --- actions ----------------------------------------------------------------------------------------------------------


def test_gaussian_density_and_entropy():
    family, params = Gaussian(2), {"log_std": jnp.array([0.0, -1.0])}
    mean, action = jnp.array([[0.5, 0.0]]), jnp.array([[0.0, 0.2]])
    std = np.array([1.0, np.exp(-1.0)])
    z = (np.asarray(action) - np.asarray(mean)) / std
    expected = np.sum(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi), -1)
    np.testing.assert_allclose(family.log_prob(params, mean, None, action), expected, rtol=1e-6)
    np.testing.assert_allclose(
        family.entropy(params, mean, None), np.sum(np.log(std) + 0.5 * np.log(2 * np.pi * np.e)), rtol=1e-6
    )


def test_categorical_draws_follow_the_masked_softmax():
    family = Categorical((3, 2), single=False)
    logits = jnp.array([0.3, -0.2, 1.0, 0.5, 0.0])
    mask = jnp.array([True, False, True, True, True])
    n = 20_000
    outputs, masks = jnp.tile(logits, (n, 1)), jnp.tile(mask, (n, 1))
    drawn = np.asarray(family.sample({}, outputs, masks, family.noise(jax.random.key(0), (n,))))
    assert not (drawn[:, 0] == 1).any()
    first = np.exp([0.3, 1.0]) / np.exp([0.3, 1.0]).sum()
    second = np.exp([0.5, 0.0]) / np.exp([0.5, 0.0]).sum()
    # Five standard deviations of a share of 20,000 draws.
    np.testing.assert_allclose([(drawn[:, 0] == 0).mean(), (drawn[:, 0] == 2).mean()], first, atol=0.018)
    np.testing.assert_allclose([(drawn[:, 1] == 0).mean(), (drawn[:, 1] == 1).mean()], second, atol=0.018)
    log_prob = family.log_prob({}, outputs[:1], masks[:1], jnp.array([[2, 0]]))
    np.testing.assert_allclose(log_prob, np.log(first[1] * second[0]), rtol=1e-5)
    entropy = -(first * np.log(first)).sum() - (second * np.log(second)).sum()
    np.testing.assert_allclose(family.entropy({}, outputs[:1], masks[:1]), entropy, rtol=1e-5)


def test_illegal_choices_have_no_gradient():
    family, mask = Categorical((3,)), jnp.array([True, False, True])
    gradient = jax.grad(lambda x: family.log_prob({}, x, mask, jnp.int32(0)) + family.entropy({}, x, mask))
    values = gradient(jnp.array([0.1, 5.0, -0.3]))
    assert np.isfinite(values).all() and values[1] == 0


# --- learning ---------------------------------------------------------------------------------------------------------


def test_learns_to_hold_a_walk(walk):
    trainer, state, _ = walk
    env = Walk()
    passive = evaluate(env, PassiveAgent.of(env), 128, seed=5).returns.mean()
    for seed in range(2):
        learned = evaluate(env, policy(env, trainer.config, state, seed), 128, seed=5).returns.mean()
        assert learned > passive + 0.5  # about 5.8 against 4.6


def test_memory_solves_what_memoryless_cannot(recall):
    env = Recall()
    with_memory = evaluate(env, policy(env, recall[0].config, recall[1]), 128, seed=5).returns.mean()
    assert with_memory > 0.95
    trainer, state, _ = trained(env, SMALL)
    without = evaluate(env, policy(env, trainer.config, state), 128, seed=5).returns.mean()
    assert 0.25 < without < 0.75  # a guess: five standard deviations of 128 fair coins either way


def test_learns_several_discrete_choices():
    env, config = Dials(), dataclasses.replace(SMALL, hidden=(8,), steps=32 * 16 * 50)
    _, state, metrics = trained(env, config)
    assert evaluate(env, policy(env, config, state), 4, seed=0).returns.mean() == 5.0
    assert 0 < metrics["episode_return"][0] < 5


def test_agents_share_a_policy_and_a_central_critic_and_keep_to_their_masks():
    env = Meet()
    config = dataclasses.replace(
        SMALL,
        steps=32 * 16 * 20,
        num_envs=8,
        minibatches=3,
        memory="gru",
        stagger=False,
        critic="central",
        bootstrap=False,
    )
    trainer, state, metrics = trained(env, config)
    one = jax.tree.map(lambda x: x[0], state)
    _, rollout = jax.jit(trainer.learner.collect)(one)
    assert rollout.action.shape == (16, 8 * 3)
    legal = np.take_along_axis(np.asarray(rollout.mask), np.asarray(rollout.action)[..., None], -1)
    assert legal.all() and not np.asarray(rollout.mask).all()
    # the critic sees what all three agents see, the policy what one of them does
    everything = np.repeat(np.asarray(rollout.obs).reshape(16, 8, 15), 3, axis=1)
    np.testing.assert_array_equal(rollout.privileged, everything)
    assert one.params["critic"]["torso"][0]["kernel"].shape[0] == config.gru_size + 15
    assert one.params["actor"]["torso"][0]["kernel"].shape[0] == 5
    assert metrics["episode_length"][0] == 9.0
    assert evaluate(env, policy(env, config, state), 64, seed=0).returns.mean() > 5.0  # uniform: about 3.6


def test_the_privileged_critic_sees_state_and_link_and_the_policy_does_not(stacked):
    _, state, metrics = stacked
    hidden = jax.tree.leaves(state.episodes)
    assert state.params["critic"]["torso"][0]["kernel"].shape[1] == 3 * 2 + len(hidden)
    assert state.params["actor"]["torso"][0]["kernel"].shape[1] == 3 * 2
    assert all(np.isfinite(value).all() for value in metrics.values())


@pytest.mark.parametrize("fixture", ["walk", "recall", "stacked"])
def test_an_exported_policy_acts_as_the_learner(fixture, request):
    trainer, state, _ = request.getfixturevalue(fixture)
    env, learner, discrete = trainer.env, trainer.learner, fixture == "recall"
    one = jax.tree.map(lambda x: x[0], state)
    agent = policy(env, trainer.config, state)
    memory = agent.init(jax.random.key(0), env, env.default_params)
    hidden, first = one.hidden[:1] * 0 + 7.0, jnp.ones(1, bool)  # what an episode before has left is forgotten
    for obs in np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32):
        action, memory = agent.act(jax.random.key(0), memory, jnp.asarray(obs), None)
        seen, hidden = learner.perceive(hidden, first, jnp.asarray(obs)[None])
        x = learner.remember(one.params["actor"], learner.standardise(one.observations, seen), hidden, first)
        hidden = x if trainer.config.recurrent else hidden
        first = jnp.zeros(1, bool)
        outputs = learner.decide(one.params["actor"], x)[0]
        expected = jnp.argmax(outputs) if discrete else jnp.clip(outputs, -1, 1)
        np.testing.assert_allclose(action, expected, atol=1e-5)


# --- teacher ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pull(PrivilegedAgent):
    """Knows the position and pulls it back; counts its steps."""

    def init(self, key, env, params, trace):
        return jnp.int32(0)

    def act(self, key, carry, obs, mask, episode):
        return jnp.clip(-5 * episode.state.position, -1, 1)[None], carry + 1


@dataclasses.dataclass(frozen=True)
class Count(Agent):
    """Counts its steps, and holds a table that it never changes."""

    def init(self, key, env, params):
        return {"table": jnp.arange(5.0), "steps": jnp.int32(0)}

    def act(self, key, carry, obs, mask):
        action = carry["table"][jnp.minimum(carry["steps"], 4)] / 10
        return action[None], carry | {"steps": carry["steps"] + 1}


@pytest.fixture
def pull(monkeypatch):
    monkeypatch.setattr(teacher, "agents_for", lambda env: {"pull": Pull(), "count": Count()})


TAUGHT = dataclasses.replace(SMALL, teacher="pull", imitation_coef=10.0, imitation_share=1.0)


def test_a_teacher_is_imitated(pull):
    config = dataclasses.replace(TAUGHT, steps=32 * 16 * 12, learning_rate=1e-2, gamma=0.0)
    trainer, state, metrics = trained(Walk(), config)
    _, late = trainer.run(state, 1)
    assert late["imitation_loss"][0] < 0.02 < metrics["imitation_loss"][0]


def test_a_teacher_forgets_when_an_episode_ends(pull):
    learner = Learner(Walk(), TAUGHT)
    state, rollout = jax.jit(learner.collect)(jax.jit(learner.init)(jax.random.key(0)))
    assert np.asarray(rollout.done).any(0).all() and int(state.teacher.max()) <= 7  # so long do episodes last
    running = ~np.asarray(state.first)
    np.testing.assert_array_equal(state.teacher[running], state.episode_length.astype(jnp.int32)[running])
    np.testing.assert_allclose(rollout.advice[..., 0], np.clip(-5 * np.asarray(rollout.obs[..., 0]), -1, 1), atol=1e-6)


def test_what_a_teacher_never_changes_is_kept_once(pull):
    learner = Learner(Walk(), dataclasses.replace(TAUGHT, teacher="count"))
    state, rollout = jax.jit(learner.collect)(jax.jit(learner.init)(jax.random.key(0)))
    assert [leaf.shape for leaf in jax.tree.leaves(state.teacher)] == [(32,)]
    age = np.zeros(32)
    for first, advice in zip(np.asarray(rollout.first), np.asarray(rollout.advice)[..., 0], strict=True):
        age = np.where(first, 0, age)
        np.testing.assert_allclose(advice, np.minimum(age, 4) / 10, atol=1e-6)
        age += 1


def test_taught_components_are_neither_explored_nor_left_to_ppo():
    both, one = Gaussian(2, taught=(1,)), Gaussian(1)
    params, outputs = both.init(-0.5), jnp.array([[0.3, -0.2]])
    noise = both.noise(jax.random.key(0), (100,))
    assert (noise[:, 1] == 0).all() and noise[:, 0].std() > 0.5
    action = both.sample(params, outputs, None, noise[:1])
    assert action[0, 1] == outputs[0, 1]
    np.testing.assert_allclose(
        both.log_prob(params, outputs, None, action),
        one.log_prob(one.init(-0.5), outputs[:, :1], None, action[:, :1]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(both.entropy(params, outputs, None), one.entropy(one.init(-0.5), outputs[:, :1], None))


def test_what_is_taught_is_imitated_to_the_end(pull):
    config = dataclasses.replace(TAUGHT, taught=(0,), imitation_coef=1.0, imitation_share=0.01, learning_rate=1e-2)
    trainer, state, _ = trained(Walk(), config)
    rollout = jax.jit(trainer.learner.collect)(jax.tree.map(lambda x: x[0], state))[1]
    assert np.abs(rollout.action - rollout.advice).mean() < 0.1  # the teacher's action is of size 1


def test_noise_by_state_is_fitted_to_the_teachers_spread():
    actions = Gaussian(1, by_state=True, noise_scale=0.5)
    params, advice = actions.init(-1.0), 0.3 * jax.random.normal(jax.random.key(0), (5000, 1))

    def loss(outputs):
        return actions.distance(params, jnp.broadcast_to(outputs, (5000, 2)), None, advice, (0,)).mean()

    outputs = jnp.array([0.1, 0.0])
    for _ in range(300):
        outputs -= 0.02 * jax.grad(loss)(outputs)
    mean, log_std = actions.moments(params, outputs)
    np.testing.assert_allclose(mean, advice.mean(), atol=0.01)
    np.testing.assert_allclose(jnp.exp(log_std), 0.5 * advice.std(), rtol=0.03)


def test_choices_are_drawn_at_a_temperature_below_what_is_fitted():
    actions = Categorical((2,), noise_scale=0.5)
    advice = (jnp.arange(5000) % 5 == 0).astype(jnp.int32)  # a fifth asks for 1

    def loss(outputs):
        return actions.distance({}, jnp.broadcast_to(outputs, (5000, 2)), None, advice, (0,)).mean()

    outputs = jnp.zeros(2)
    for _ in range(300):
        outputs -= jax.grad(loss)(outputs)
    odds = actions.log_prob({}, outputs, None, jnp.int32(0)) - actions.log_prob({}, outputs, None, jnp.int32(1))
    np.testing.assert_allclose(odds, 2 * np.log(4), rtol=0.01)


def test_prediction_of_the_hidden_state_learns():
    config = dataclasses.replace(SMALL, memory="gru", critic="privileged", bootstrap=False, predict_coef=1.0)
    trainer, state, _ = trained(Walk(), config)
    start, late = (trainer.run(s, 1)[1]["prediction_loss"][0] for s in (trainer.init(), state))
    assert late < 0.8 * start


def test_unknown_teachers_are_refused():
    with pytest.raises(ValueError, match="'sage' is no agent of qkd/Walk-v0; there are: random, passive"):
        Learner(Walk(), dataclasses.replace(SMALL, teacher="sage"))
    with pytest.raises(ValueError, match="components of the action, 0 to 0"):
        Learner(Walk(), dataclasses.replace(SMALL, teacher="passive", imitate=(1,)))


def test_a_policy_with_noise_by_state_is_saved_with_it():
    trainer, state, _ = trained(Walk(), dataclasses.replace(SMALL, noise_by_state=True, stochastic=True, steps=32 * 16))
    agent = policy(Walk(), trainer.config, state)
    assert agent.weights["head.kernel"].shape == (16, 2) and agent.spec.noise_by_state
    actions, learner = trainer.learner.actions, trainer.learner
    obs = jnp.array([0.4, -0.3])
    one = jax.tree.map(lambda x: x[0], state)
    outputs = learner.decide(one.params["actor"], learner.standardise(one.observations, obs))
    mean, log_std = actions.moments(one.params["actor"], outputs)
    memory = agent.init(jax.random.key(0), Walk(), Walk().default_params)
    drawn = jax.vmap(lambda key: agent.act(key, memory, obs, None)[0])(jax.random.split(jax.random.key(0), 2000))
    drawn = drawn[np.abs(drawn) < 1]  # the task's bounds
    within = np.abs(np.random.default_rng(0).normal(mean, np.exp(log_std), 100_000))
    np.testing.assert_allclose(len(drawn) / 2000, (within < 1).mean(), atol=0.05)
    mode = policy(Walk(), dataclasses.replace(trainer.config, stochastic=False), state)
    assert mode.weights["head.kernel"].shape == (16, 1)
    np.testing.assert_allclose(mode.act(jax.random.key(0), memory, obs, None)[0], np.clip(mean, -1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"noise_by_state": 1}, "true or false"),
        ({"stochastic": False}, "needs a stochastic policy"),
        ({"action_kind": "discrete"}, "needs a stochastic policy"),
    ],
)
def test_noise_by_state_is_for_continuous_policies_that_draw(changes, word):
    fields = dict(action_kind="continuous", action_sizes=(2,), stochastic=True, noise_by_state=True)
    with pytest.raises(PolicyFileError, match=word):
        PolicySpec("qkd/X-v0", 3, **(fields | changes))


def test_a_stochastic_policy_is_saved_with_its_deviation(walk):
    trainer, state, _ = walk
    drawing = policy(Walk(), dataclasses.replace(trainer.config, stochastic=True), state)
    np.testing.assert_array_equal(drawing.weights["head.log_std"], state.params["actor"]["log_std"][0])
    returns = [
        evaluate(Walk(), agent, 64, seed=5).returns for agent in (policy(Walk(), trainer.config, state), drawing)
    ]
    assert 0 < np.mean(returns[0] - returns[1]) < 0.5  # its noise costs a little


# --- seeds ------------------------------------------------------------------------------------------------------------


def swapped(state):
    return jax.tree.map(lambda x: x[::-1], state)


def test_a_seed_does_not_depend_on_its_neighbours(walk):
    trainer = walk[0]
    state, _ = trainer.run(trainer.init(), 3)
    other, _ = trainer.run(swapped(trainer.init()), 3)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(swapped(other).params), strict=True):
        np.testing.assert_array_equal(a, b)
    first = state.params["actor"]["head"]["kernel"]
    assert not np.array_equal(first[0], first[1])


def test_seeds_by_vmap_train_alike(walk):
    states = []
    for vectorize in (False, True):
        trainer = Trainer(Walk(), walk[0].config, vectorize=vectorize)
        states.append(trainer.run(trainer.init(), 1)[0])
    for a, b in zip(jax.tree.leaves(states[0].params), jax.tree.leaves(states[1].params), strict=True):
        # One update: float32 products summed in another order, through eight steps of Adam.
        np.testing.assert_allclose(a, b, atol=2e-4)
    np.testing.assert_array_equal(states[0].episodes.state.time, states[1].episodes.state.time)


def test_updates_do_not_depend_on_how_they_are_chunked(walk):
    trainer = walk[0]
    once, _ = trainer.run(trainer.init(), 4)
    state = trainer.init()
    for count in (1, 3):
        state, _ = trainer.run(state, count)
    for a, b in zip(jax.tree.leaves(once.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(a, b)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"gamma": 1.2}, r"gamma = 1.2 must lie in \[0, 1\]"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"memory": "lstm"}, "none, gru or stack:K"),
        ({"memory": "stack:0"}, "stack:K"),
        ({"memory": "gru", "hidden": ()}, "dense layer"),
        ({"activation": "gelu"}, "tanh, relu"),
        ({"critic": "privileged"}, "bootstrap = false"),
        ({"critic": "central"}, "bootstrap = false"),
        ({"critic": "global"}, "observation, central or privileged"),
        ({"hidden": (8, 0)}, "hidden"),
        ({"gamma": float("nan")}, "gamma"),
        ({"imitation_share": 0.0}, "imitation_share"),
        ({"noise_scale": 0.0}, "noise_scale"),
        ({"taught": (0,)}, "needs a teacher"),
        ({"taught": (0,), "teacher": "pull", "stochastic": True}, "stochastic = false"),
        ({"predict_coef": 1.0}, "critic = 'privileged'"),
    ],
)
def test_bad_options_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        Config(**changes)


def test_minibatches_must_divide():
    with pytest.raises(ValueError, match="must divide the 32 environments x agents"):
        Learner(Walk(), dataclasses.replace(SMALL, memory="gru", minibatches=5))


def test_other_action_spaces_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Wide(Walk):
        def action_space(self, params=None):
            import gymnasium as gym

            return gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    with pytest.raises(ValueError, match=r"vector in \[-1, 1\]; Walk has Box"):
        actions_of(Wide(), SMALL)

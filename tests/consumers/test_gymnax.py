"""gymnax's spaces and wrappers, and a purejaxrl-style trainer on top of them, on the six-value face."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qkd_gym.adapters.gymnax import GymnaxEnv, GymnaxFiveValueEnv, make_gymnax
from tests.adapters.toys import Dials, Token
from tests.toys import Walk

pytestmark = pytest.mark.filterwarnings("default")


def test_spaces_are_gymnaxs_own():
    from gymnax.environments import spaces

    walk, params = make_gymnax(Walk())
    box = walk.action_space(params)
    assert isinstance(box, spaces.Box) and (box.low, box.high, box.shape, box.dtype) == (-1.0, 1.0, (1,), jnp.float32)
    assert isinstance(walk.observation_space(params), spaces.Box)
    discrete = GymnaxEnv(Token()).action_space()
    assert isinstance(discrete, spaces.Discrete) and discrete.n == 3
    dials = GymnaxEnv(Dials()).action_space()
    assert isinstance(dials, spaces.Tuple) and [s.n for s in dials.spaces] == [3, 2]
    env, params = make_gymnax(Dials())
    _, state = env.reset(jax.random.key(0), params)
    obs, *_ = env.step(jax.random.key(1), state, dials.sample(jax.random.key(2)), params)
    assert bool(env.observation_space(params).contains(obs))


@pytest.mark.parametrize("env_id", ["qkd/PolarizationAlignment-v0", "qkd/DecoyBlock-v0"])
def test_tasks_have_gymnax_spaces(env_id):
    from gymnax.environments import spaces

    env, params = make_gymnax(env_id)
    space = env.action_space(params)
    assert isinstance(space, spaces.Box) and space.sample(jax.random.key(0)).shape == space.shape
    assert params.max_steps_in_episode == env.functional.default_params.max_steps_in_episode


def test_the_log_wrapper_counts_episodes_right():
    """Its statistics against a count of our own, over many ends."""
    from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

    inner, params = make_gymnax(Walk())
    env = LogWrapper(FlattenObservationWrapper(inner))
    obs, state = env.reset(jax.random.key(0), params)

    def body(carry, key):
        obs, state = carry
        before = state.env_state.time
        obs, state, reward, terminated, truncated, info = env.step(key, state, jnp.full(1, 0.3), params)
        return (obs, state), (reward, terminated | truncated, info, before)

    keys = jax.random.split(jax.random.key(1), 300)
    _, (reward, done, info, before) = jax.jit(lambda c, k: jax.lax.scan(body, c, k))((obs, state), keys)
    ends = np.flatnonzero(done)
    starts = np.concatenate([[0], ends[:-1] + 1])
    returns = [float(np.sum(reward[a : b + 1])) for a, b in zip(starts, ends, strict=True)]
    assert len(ends) >= 30
    np.testing.assert_array_equal(info["returned_episode"], done)
    np.testing.assert_array_equal(info["returned_episode_lengths"][ends], ends - starts + 1)
    np.testing.assert_array_equal(before[ends], ends - starts, "the state's own clock agrees")
    np.testing.assert_allclose(info["returned_episode_returns"][ends], returns, rtol=1e-5)


def test_gymnaxs_own_five_value_wrapper_agrees_with_ours():
    from gymnax.wrappers.compat import LegacyStepAPIWrapper

    six, params = make_gymnax(Walk())
    five = GymnaxFiveValueEnv(Walk())
    _, state = six.reset(jax.random.key(0), params)
    theirs = LegacyStepAPIWrapper(six).step(jax.random.key(1), state, jnp.zeros(1), params)
    ours = jax.jit(five.step)(jax.random.key(1), state, jnp.zeros(1), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), theirs, ours)
    for twin in (copy.deepcopy(five), pickle.loads(pickle.dumps(five))):
        assert twin == five and twin.action_space().shape == (1,)


def test_a_purejaxrl_style_ppo_learns():
    """Its shape: vmapped wrappers, a scan that collects, a scan that updates, all in one jitted function."""
    import flax.linen as nn
    import optax
    from flax.training.train_state import TrainState
    from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

    inner, params = make_gymnax(Token())
    env = LogWrapper(FlattenObservationWrapper(inner))
    num_envs, num_steps, updates = 32, 32, 40

    class ActorCritic(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Dense(32)(x))
            return nn.Dense(env.num_actions)(x), nn.Dense(1)(x)[..., 0]

    net = ActorCritic()

    def train(key):
        key, k_net, k_env = jax.random.split(key, 3)
        obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(k_env, num_envs), params)
        ts = TrainState.create(apply_fn=net.apply, params=net.init(k_net, obs[0]), tx=optax.adam(5e-3))

        def update(carry, _):
            ts, obs, state, key = carry

            def collect(carry, _):
                obs, state, key = carry
                key, k_act, k_step = jax.random.split(key, 3)
                logits, value = net.apply(ts.params, obs)
                action = jax.random.categorical(k_act, logits)
                keys = jax.random.split(k_step, num_envs)
                step = jax.vmap(env.step, (0, 0, 0, None))
                next_obs, state, reward, terminated, truncated, info = step(keys, state, action, params)
                done = terminated | truncated
                return (next_obs, state, key), (obs, action, value, reward, done, info)

            (obs, state, key), (seen, action, value, reward, done, info) = jax.lax.scan(
                collect, (obs, state, key), None, num_steps
            )
            last = net.apply(ts.params, obs)[1]

            def backwards(target, now):
                reward, done = now
                target = reward + 0.95 * target * (1 - done)
                return target, target

            _, target = jax.lax.scan(backwards, last, (reward, done), reverse=True)
            advantage = target - value
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

            def loss(weights):
                logits, v = net.apply(weights, seen)
                logp = jax.nn.log_softmax(logits)
                chosen = jnp.take_along_axis(logp, action[..., None], -1)[..., 0]
                entropy = -(jnp.exp(logp) * logp).sum(-1).mean()
                return -(chosen * advantage).mean() + 0.5 * ((v - target) ** 2).mean() - 0.01 * entropy

            value_of_loss, grads = jax.value_and_grad(loss)(ts.params)
            ends = info["returned_episode"]
            mean = (info["returned_episode_returns"] * ends).sum() / jnp.maximum(ends.sum(), 1)
            return (ts.apply_gradients(grads=grads), obs, state, key), (value_of_loss, mean)

        _, curves = jax.lax.scan(update, (ts, obs, state, key), None, updates)
        return curves

    losses, returns = jax.jit(train)(jax.random.key(0))
    assert np.isfinite(losses).all()
    first, last = float(returns[:5].mean()), float(returns[-5:].mean())
    assert last > first + 1.0, (first, last)

"""The contestants: our tasks, faces and trainers beside gymnax, JaxMARL, hand-written twins and Stable-Baselines3.

Every race builds its contestants and returns them with the pair whose ratio is the goal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

import qkd_gym
from benchmarks.throughput.contest import Contestant
from benchmarks.throughput.scalar_finite_key import key_bits
from benchmarks.throughput.twin import Twin, numpy_ops, python_ops
from qkd_gym.envs.core import Environment
from qkd_gym.envs.network.key_routing import KeyRouting
from qkd_gym.evaluation.agent import sample_action

TWIN_TASK = "qkd/PolarizationAlignment-v0"  # the task whose physics the twins repeat


@dataclasses.dataclass(frozen=True)
class Race:
    """Contestants, and the ratio that is wanted: `ours` must be at least `must` times as fast as `theirs`."""

    title: str
    contestants: dict[str, Contestant]
    ours: str
    theirs: str
    must: float
    aim: float
    unit: str = "env-steps/s"


def _scan(step: Callable, reset: Callable, action: Callable, num_envs: int, steps: int) -> Callable[[], object]:
    """`steps` random steps of a batch, compiled as one scan, the way trainers run it."""

    def body(carry, key):
        state, total = carry
        key_step, key_action = jax.random.split(key)
        state, reward = step(jax.random.split(key_step, num_envs), state, action(key_action))
        return (state, total + reward.sum()), None

    @jax.jit
    def run(key, state):
        return jax.lax.scan(body, (state, jnp.float32(0)), jax.random.split(key, steps))[0]

    start = jax.jit(reset)(jax.random.split(jax.random.key(0), num_envs))
    return lambda: jax.block_until_ready(run(jax.random.key(1), start))


def our_scan(env: Environment, num_envs: int, steps: int) -> Callable[[], object]:
    space = env.action_space()

    def step(keys, episodes, actions):
        _, episodes, reward, *_ = env.step_batch(keys, episodes, actions)
        return episodes, reward

    def action(key):
        if env.agents:
            return jax.random.randint(key, (num_envs, len(env.agents)), 0, int(space.n), jnp.int32)
        return jax.vmap(lambda k: sample_action(k, space))(jax.random.split(key, num_envs))

    return _scan(step, lambda keys: env.reset_batch(keys)[1], action, num_envs, steps)


def gymnax_scan(name: str, num_envs: int, steps: int) -> Callable[[], object]:
    import gymnax

    env, params = gymnax.make(name)
    space = env.action_space(params)

    def step(keys, states, actions):
        out = jax.vmap(env.step, in_axes=(0, 0, 0, None))(keys, states, actions, params)
        return out[1], out[2]

    def action(key):
        return jax.vmap(space.sample)(jax.random.split(key, num_envs))

    def reset(keys):
        return jax.vmap(env.reset, in_axes=(0, None))(keys, params)[1]

    return _scan(step, reset, action, num_envs, steps)


def tasks_against_gymnax(num_envs: int = 4096, steps: int = 100) -> list[Race]:
    """Each single-agent task against gymnax Pendulum-v1: random actions, auto-reset, one scan."""
    pendulum = Contestant(gymnax_scan("Pendulum-v1", num_envs, steps), num_envs * steps)
    races = []
    for env_id in qkd_gym.TASKS:
        env = qkd_gym.make(env_id)
        if env.agents:
            continue
        ours = Contestant(our_scan(env, num_envs, steps), num_envs * steps)
        contestants = {env.id: ours, "gymnax Pendulum-v1": pendulum}
        races.append(Race(f"{env.id}, N={num_envs}", contestants, env.id, "gymnax Pendulum-v1", must=0.1, aim=0.3))
    return races


def jaxmarl_scan(name: str, num_envs: int, steps: int) -> Callable[[], object]:
    import jaxmarl

    env = jaxmarl.make(name)

    def step(keys, states, actions):
        _, states, rewards, *_ = jax.vmap(env.step)(keys, states, actions)
        return states, rewards[env.agents[0]]

    def action(key):
        drawn = jax.random.randint(key, (len(env.agents), num_envs), 0, env.action_space(env.agents[0]).n, jnp.int32)
        return dict(zip(env.agents, drawn, strict=True))

    return _scan(step, lambda keys: jax.vmap(env.reset)(keys)[1], action, num_envs, steps)


def networks_against_jaxmarl(num_envs: int = 1024, steps: int = 50) -> list[Race]:
    """Each multi-agent task against JaxMARL's simple_spread of three agents: random actions, auto-reset, one scan."""
    spread = "JaxMARL simple_spread"
    theirs = Contestant(jaxmarl_scan("MPE_simple_spread_v3", num_envs, steps), num_envs * steps)
    tasks = [env for env in map(qkd_gym.make, qkd_gym.TASKS) if env.agents]
    named = {f"{env.id}, {len(env.agents)} agents": env for env in (*tasks, KeyRouting(topology="ring6"))}
    races = []
    for name, env in named.items():
        ours = Contestant(our_scan(env, num_envs, steps), num_envs * steps)
        races.append(Race(f"{name}, N={num_envs}", {name: ours, spread: theirs}, name, spread, must=1, aim=5))
    return races


def single_step(steps: int = 1000) -> Race:
    """`gymnasium.make(...).step` against the same physics in plain Python, and against Gymnasium's own CartPole."""
    env = gym.make(TWIN_TASK)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 5)).astype(np.float32)

    def ours():
        for action in actions:
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    env.reset(seed=0)
    twin_start = env.unwrapped.episode

    def theirs():
        twin = Twin(python_ops(0), twin_start)
        for action in actions:
            *_, truncated, _ = twin.step(action)
            if truncated:
                twin = Twin(python_ops(0), twin_start)

    cartpole = gym.make("CartPole-v1")
    cartpole.reset(seed=0)

    def classic():
        for i in range(steps):
            *_, terminated, truncated, _ = cartpole.step(i % 2)
            if terminated or truncated:
                cartpole.reset()

    contestants = {
        "Gymnasium face": Contestant(ours, steps),
        "pure-Python twin": Contestant(theirs, steps),
        "Gymnasium CartPole-v1": Contestant(classic, steps),
    }
    return Race(
        "Gymnasium step(), single",
        contestants,
        "Gymnasium face",
        "pure-Python twin",
        must=1 / 3,
        aim=1 / 2,
        unit="steps/s",
    )


def vector_step(num_envs: int = 1024, steps: int = 20) -> Race:
    """`gymnasium.make_vec(...).step` against the same physics in vectorised NumPy."""
    envs = gym.make_vec(TWIN_TASK, num_envs=num_envs, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    start = qkd_gym.make(TWIN_TASK).reset_batch(jax.random.split(jax.random.key(0), num_envs))[1]
    twin = Twin(numpy_ops(0, num_envs), start)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, num_envs, 5)).astype(np.float32)

    def ours():
        for action in actions:
            envs.step(action)

    def theirs():
        for action in actions:
            twin.step(action)

    contestants = {
        "vector face": Contestant(ours, num_envs * steps),
        "NumPy twin": Contestant(theirs, num_envs * steps),
    }
    return Race(f"VectorEnv step(), N={num_envs}", contestants, "vector face", "NumPy twin", must=0.7, aim=1.5)


def finite_keys(batch: int = 65_536, alone: int = 200) -> Race:
    """Two-decoy finite keys from link and settings: one compiled batch against a scalar loop."""
    from qkd_gym.physics.finite_key import BlockLink, BlockSettings, counts_of, two_decoy_key

    rng = np.random.default_rng(0)
    eta = 10 ** rng.uniform(-4, -1, batch).astype(np.float32)
    pulses = 10 ** rng.uniform(9, 12, batch).astype(np.float32)
    mu, p, q = (0.5, 0.15, 2e-4), (0.4, 0.4, 0.2), 0.9

    @jax.jit
    def keys(eta, pulses):
        settings = BlockSettings(
            intensities=jnp.broadcast_to(jnp.float32(mu), (batch, 3)),
            probabilities=jnp.broadcast_to(jnp.float32(p), (batch, 3)),
            key_basis_prob=jnp.full(batch, q, jnp.float32),
        )
        counts = counts_of(settings, BlockLink(transmittance=eta), pulses)
        return two_decoy_key(counts, settings.intensities, settings.probabilities).raw_bits

    found = np.maximum(np.asarray(keys(eta, pulses)), 0)
    wanted = np.array(
        [key_bits(float(e), float(n), mu, p, q) for e, n in zip(eta[:alone], pulses[:alone], strict=True)]
    )
    error = np.abs(found[:alone] - wanted).max() / wanted.max()
    if error > 1e-4:
        raise RuntimeError(f"the contestants disagree: largest difference {error:.1e} of the largest key")
    contestants = {
        "batched, compiled": Contestant(lambda: jax.block_until_ready(keys(eta, pulses)), batch),
        "SciPy/NumPy loop": Contestant(
            lambda: [key_bits(float(e), float(n), mu, p, q) for e, n in zip(eta[:alone], pulses[:alone], strict=True)],
            alone,
        ),
    }
    return Race(
        f"finite keys, batch of {batch}",
        contestants,
        "batched, compiled",
        "SciPy/NumPy loop",
        must=100,
        aim=1000,
        unit="keys/s",
    )


def ppo(num_envs: int = 64, rollout_steps: int = 128, updates: int = 4) -> Race:
    """Proximal policy optimisation on one task, same network, rollout and passes: wholly in JAX, and SB3."""
    from stable_baselines3 import PPO

    from agents.jax.ppo import Config, Trainer
    from qkd_gym.adapters.sb3 import make_vec_env

    env = qkd_gym.make(TWIN_TASK)
    steps = num_envs * rollout_steps * updates
    shared = dict(epochs=4, minibatches=4)
    trainer = Trainer(env, Config(steps=10**9, num_envs=num_envs, rollout_steps=rollout_steps, **shared))
    state = [trainer.init()]

    def ours():
        state[0], _ = trainer.run(state[0], updates)

    model = PPO(
        "MlpPolicy", make_vec_env(TWIN_TASK, num_envs, seed=0), n_steps=rollout_steps,
        batch_size=num_envs * rollout_steps // shared["minibatches"], n_epochs=shared["epochs"], device="cpu",
    )  # fmt: skip

    contestants = {
        "PPO in JAX": Contestant(ours, steps),
        "SB3 PPO": Contestant(lambda: model.learn(steps, reset_num_timesteps=False), steps),
    }
    return Race(f"PPO, {num_envs} environments", contestants, "PPO in JAX", "SB3 PPO", must=3, aim=5)


def recompilations(calls: int = 400) -> dict[str, int]:
    """How many programs each face compiles after its first episode: must be none."""
    import jax.monitoring

    compiled = [0]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.__setitem__(0, compiled[0] + (event.endswith("backend_compile_duration")))
    )
    counts = {}
    for env_id in qkd_gym.TASKS:
        limit = qkd_gym.make(env_id).default_params.max_steps_in_episode
        env = gym.make(env_id)
        envs = gym.make_vec(env_id, num_envs=4, vectorization_mode="vector_entry_point")

        def play(total: int, env=env, envs=envs) -> None:
            env.reset(seed=0)
            envs.reset(seed=0)
            env.action_space.seed(0)
            envs.action_space.seed(0)
            for _ in range(total):
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                if terminated or truncated:
                    env.reset()
                envs.step(envs.action_space.sample())

        play(limit + 3)
        compiled[0] = 0
        play(max(calls, limit + 3))
        counts[env_id] = compiled[0]
    return counts

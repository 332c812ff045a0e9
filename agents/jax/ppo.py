"""PPO (Schulman et al. 2017, arXiv:1707.06347), environment and update in one compiled program.

Read top to bottom: `Config`; what an action is (`Gaussian`, `Categorical`); the network; `Learner`, which collects
rollouts, estimates advantages and improves the policy; `Trainer`, which maps a learner over seeds and devices.

Shapes: T time steps of a rollout, N environments, A agents of a task (1 if single-agent), B = N * A actors. The agents
of a multi-agent task share one policy (independent PPO): each is one more actor. All arrays are float32.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from agents.jax.teacher import teacher_of
from qkd_gym.envs.centralised import joint_view
from qkd_gym.envs.core import Environment, Episode
from qkd_gym.evaluation.policy_file import LOG_STD

Params = dict[str, Any]

#: Standardised observations are clipped to this many deviations.
OBSERVATION_CLIP = 10.0
#: Running statistics remember about this many samples: a policy soon sees other states than its beginner did.
MEMORY = 1e6
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def _option(default: Any, doc: str) -> Any:
    return dataclasses.field(default=default, metadata={"doc": doc})


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters. Frozen and hashable; every field is an option of `python -m agents.jax.train`."""

    steps: int = _option(1_000_000, "environment steps a seed, rounded up to whole rollouts")
    seeds: int = _option(1, "training seeds, trained at once")
    seed: int = _option(0, "the first training seed; the others follow")
    num_envs: int = _option(64, "environments a seed")
    rollout_steps: int = _option(128, "steps of every environment between updates; the span of backpropagation in time")
    epochs: int = _option(4, "passes over a rollout")
    minibatches: int = _option(4, "minibatches a pass; with --memory gru each holds whole sequences")
    learning_rate: float = _option(3e-4, "Adam's step size at the start")
    final_learning_rate: float = _option(0.0, "step size at the end, reached linearly")
    gamma: float = _option(0.99, "discount per step")
    gae_lambda: float = _option(0.95, "exponential weight of advantage estimation")
    clip: float = _option(0.2, "clip range of the probability ratio")
    entropy_coef: float = _option(0.0, "weight of the entropy bonus")
    value_coef: float = _option(0.5, "weight of the value loss")
    max_grad_norm: float = _option(0.5, "global norm that gradients are clipped to")
    hidden: tuple[int, ...] = _option((64, 64), "units of the dense layers, for actor and critic each")
    activation: str = _option("tanh", "tanh or relu")
    memory: str = _option("none", "none, gru, or stack:K (the last K observations)")
    gru_size: int = _option(64, "units of the recurrent cell, which follows the actor's first dense layer")
    critic: str = _option(
        "observation",
        "what the critic sees: observation, central (also what all agents see), or privileged (also the hidden state)",
    )
    predict_coef: float = _option(
        0.0, "weight of predicting what the privileged critic sees, from what the policy remembers"
    )
    bootstrap: bool = _option(True, "value what follows a time limit; false: the time limit is the end")
    normalize_observations: bool = _option(True, "standardise observations by running statistics")
    scale_rewards: bool = _option(True, "divide rewards by the running deviation of the discounted return")
    teacher: str = _option("", "a shipped agent of the task to imitate at first, or none; it may see the hidden state")
    imitation_coef: float = _option(1.0, "weight of the imitation loss at the start")
    imitation_share: float = _option(0.5, "share of the training after which that weight has fallen to zero")
    imitate: tuple[int, ...] = _option((), "components of the action that the teacher knows; none given: all")
    taught: tuple[int, ...] = _option((), "components of the action that only imitation trains, to the end")
    initial_log_std: float = _option(-0.5, "log standard deviation of continuous actions at the start")
    noise_by_state: bool = _option(False, "that deviation is an output of the network; imitation fits it, too")
    noise_scale: float = _option(
        1.0, "deviation of the actions taken, or temperature of the choices, over the one that imitation fits"
    )
    stochastic: bool = _option(False, "the saved policy keeps drawing its actions; false: it acts by its mode")
    stagger: bool = _option(True, "start the first episodes at random clocks, so that they do not end in step")

    def __post_init__(self) -> None:
        positive = ("steps", "seeds", "num_envs", "rollout_steps", "epochs", "minibatches", "gru_size")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must lie in [0, 1]")
        for name in ("learning_rate", "clip", "max_grad_norm", "noise_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be positive")
        if not 0 < self.imitation_share <= 1:
            raise ValueError(f"imitation_share = {self.imitation_share} must lie in (0, 1]")
        for name in ("final_learning_rate", "entropy_coef", "value_coef", "seed", "imitation_coef", "predict_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation = {self.activation!r} is unknown; choose from {', '.join(ACTIVATIONS)}")
        if self.critic not in ("observation", "central", "privileged"):
            raise ValueError(f"critic = {self.critic!r} is unknown; choose observation, central or privileged")
        if self.critic != "observation" and self.bootstrap:
            raise ValueError(f"critic = {self.critic!r} sees no more past an episode's end; set bootstrap = false")
        if self.predict_coef and self.critic != "privileged":
            raise ValueError("predict_coef needs something hidden to predict; set critic = 'privileged'")
        if self.predict_coef and not self.hidden:
            raise ValueError("predict_coef needs at least one dense layer; set hidden")
        if self.taught and not self.teacher:
            raise ValueError(f"taught = {self.taught} needs a teacher")
        if self.taught and self.stochastic:
            raise ValueError(f"taught = {self.taught} are not drawn; set stochastic = false")
        if any(units < 1 for units in self.hidden):
            raise ValueError(f"hidden = {self.hidden} must be positive sizes")
        self.stack  # noqa: B018 - checks the text of `memory`
        if self.recurrent and not self.hidden:
            raise ValueError("memory = 'gru' needs at least one dense layer before the cell; set hidden")

    @property
    def recurrent(self) -> bool:
        return self.memory == "gru"

    @property
    def stack(self) -> int:
        """How many observations the policy sees at once."""
        if self.memory in ("none", "gru"):
            return 1
        kind, _, count = self.memory.partition(":")
        if kind != "stack" or not count.isdigit() or int(count) < 1:
            raise ValueError(f"memory = {self.memory!r} is unknown; choose none, gru or stack:K with a whole K >= 1")
        return int(count)

    @property
    def updates(self) -> int:
        """Rollouts in all."""
        return -(-self.steps // (self.num_envs * self.rollout_steps))


# --- actions ----------------------------------------------------------------------------------------------------------


class Actions(Protocol):
    """A family of distributions over one actor's action. `outputs` are the policy head's; noise is drawn ahead."""

    num_outputs: int

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array: ...
    def sample(self, params: Params, outputs: Array, mask: Array | None, noise: Array) -> Array: ...
    def log_prob(self, params: Params, outputs: Array, mask: Array | None, action: Array) -> Array: ...
    def entropy(self, params: Params, outputs: Array, mask: Array | None) -> Array: ...
    def distance(
        self, params: Params, outputs: Array, mask: Array | None, action: Array, components: tuple[int, ...]
    ) -> Array: ...
    def init(self, log_std: float) -> Params: ...


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Independent normals, which the task clips to [-1, 1].

    Attributes:
        by_state: log deviations are parameters plus outputs of the network; else parameters alone.
        noise_scale: deviation of the actions taken over that of the teacher's around the mean, where it is `by_state`.
        taught: components that are not explored: taken as the network has them, and no matter of PPO.
    """

    size: int
    by_state: bool = False
    noise_scale: float = 1.0
    taught: tuple[int, ...] = ()

    @property
    def num_outputs(self) -> int:
        return (1 + self.by_state) * self.size

    @property
    def explored(self) -> list[int]:
        return [i for i in range(self.size) if i not in self.taught]

    def init(self, log_std: float) -> Params:
        return {"log_std": jnp.full(self.size, log_std, jnp.float32)}

    def noise(self, key, shape):
        noise = jax.random.normal(key, (*shape, self.size), jnp.float32)
        return noise.at[..., list(self.taught)].set(0.0) if self.taught else noise

    def moments(self, params, outputs):
        """Mean and log deviation."""
        mean, extra = outputs[..., : self.size], outputs[..., self.size :]
        log_std = _along(params["log_std"], mean)
        return mean, jnp.clip(log_std + extra, *LOG_STD) if self.by_state else log_std

    def sample(self, params, outputs, mask, noise):
        mean, log_std = self.moments(params, outputs)
        return mean + jnp.exp(log_std) * noise

    def log_prob(self, params, outputs, mask, action):
        mean, log_std = self.moments(params, outputs)
        scaled = (action - mean) * jnp.exp(-log_std)
        density = -0.5 * scaled * scaled - log_std - 0.5 * np.log(2 * np.pi)
        return jnp.sum(density[..., self.explored], axis=-1)

    def entropy(self, params, outputs, mask):
        log_std = self.moments(params, outputs)[1]
        return jnp.sum(log_std[..., self.explored] + 0.5 * (1 + np.log(2 * np.pi)), axis=-1)

    def distance(self, params, outputs, mask, action, components):
        mean, log_std = (x[..., list(components)] for x in self.moments(params, outputs))
        squared = jnp.square(mean - action[..., list(components)])
        if self.by_state or set(components) <= set(self.taught):  # up to a constant, minus the log density
            log_std = log_std - np.log(self.noise_scale)
            return (0.5 * squared * jnp.exp(-2 * log_std) + log_std).mean(-1)
        return 0.5 * squared.mean(-1)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """One choice (`Discrete`) or several independent ones (`MultiDiscrete`). A mask has an entry per output.

    Attributes:
        noise_scale: temperature of the draws over that of the distribution that imitation fits.
    """

    choices: tuple[int, ...]
    start: int = 0
    single: bool = True
    noise_scale: float = 1.0

    @property
    def num_outputs(self) -> int:
        return sum(self.choices)

    def init(self, log_std: float) -> Params:
        return {}

    def noise(self, key, shape):
        return jax.random.gumbel(key, (*shape, self.num_outputs), jnp.float32)

    def sample(self, params, outputs, mask, noise):
        # The largest of logits plus Gumbel noise is a draw from the softmax.
        chosen = [jnp.argmax(part, -1).astype(jnp.int32) for part in self._split(_masked(outputs, mask) + noise)]
        return chosen[0] + self.start if self.single else jnp.stack(chosen, -1)

    def log_prob(self, params, outputs, mask, action):
        index = (action - self.start)[..., None] if self.single else action
        total = jnp.zeros(outputs.shape[:-1], jnp.float32)
        for i, logits in enumerate(self._log_softmax(outputs, mask)):
            chosen = jax.nn.one_hot(index[..., i], logits.shape[-1], dtype=jnp.float32)
            total = total + jnp.sum(chosen * logits, axis=-1)
        return total

    def entropy(self, params, outputs, mask):
        return sum(-jnp.sum(jnp.exp(logits) * logits, axis=-1) for logits in self._log_softmax(outputs, mask))

    def distance(self, params, outputs, mask, action, components):
        return -self.log_prob({}, self.noise_scale * outputs, mask, action)

    def _log_softmax(self, outputs: Array, mask: Array | None) -> list[Array]:
        return [jax.nn.log_softmax(part) for part in self._split(_masked(outputs, mask))]

    def _split(self, outputs: Array) -> list[Array]:
        return jnp.split(outputs, np.cumsum(self.choices)[:-1], axis=-1)


def _masked(logits: Array, mask: Array | None) -> Array:
    """Illegal choices get a logit so low that their probability is exactly zero, yet finite, so that gradients are."""
    return logits if mask is None else jnp.where(mask, logits, jnp.float32(-1e9))


def actions_of(env: Environment, config: Config) -> Actions:
    """The distribution that fits a task's action space."""
    space = env.action_space()
    if isinstance(space, gym.spaces.Box):
        if len(space.shape) != 1 or not (np.all(space.low == -1) and np.all(space.high == 1)):
            raise ValueError(f"continuous actions must be a vector in [-1, 1]; {env.name} has {space}")
        return Gaussian(space.shape[0], config.noise_by_state, config.noise_scale, config.taught)
    if isinstance(space, gym.spaces.Discrete):
        return Categorical((int(space.n),), start=int(space.start), noise_scale=config.noise_scale)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return Categorical(tuple(int(n) for n in space.nvec), single=False, noise_scale=config.noise_scale)
    raise ValueError(f"PPO needs a Box, Discrete or MultiDiscrete action space; {env.name} has {space}")


# --- network ----------------------------------------------------------------------------------------------------------


def _along(vector: Float[Array, " n"], like: Float[Array, "... n"]) -> Array:
    """A vector repeated along all leading axes."""
    return jnp.broadcast_to(vector, like.shape)


def orthogonal(key: PRNGKeyArray, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """A random matrix with orthonormal rows or columns, whichever are fewer.

    By Newton's iteration for the polar factor, not by QR: LAPACK's batched QR can deadlock XLA's thread pool on a
    machine of two cores (JAX 0.10).
    """
    x = jax.random.normal(key, (max(rows, columns), min(rows, columns)), jnp.float32)
    x = x / jnp.sqrt(jnp.sum(x * x))  # all singular values below 1, where the iteration converges
    x = jax.lax.fori_loop(0, 60, lambda _, x: 1.5 * x - 0.5 * x @ (x.T @ x), x)
    return x if rows >= columns else x.T


def _init_dense(key: PRNGKeyArray, inputs: int, outputs: int, gain: float) -> Params:
    return {"kernel": gain * orthogonal(key, inputs, outputs), "bias": jnp.zeros(outputs, jnp.float32)}


def _init_layers(key: PRNGKeyArray, sizes: tuple[int, ...]) -> list[Params]:
    keys = jax.random.split(key, max(1, len(sizes) - 1))
    return [_init_dense(k, a, b, 2**0.5) for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)]


def _init_gru(key: PRNGKeyArray, inputs: int, units: int) -> Params:
    """Gates side by side: reset, update, candidate."""
    key_input, key_hidden = jax.random.split(key)
    square = [orthogonal(k, units, units) for k in jax.random.split(key_hidden, 3)]
    return {
        "input": _init_dense(key_input, inputs, 3 * units, 1.0),
        "hidden": {"kernel": jnp.concatenate(square, axis=1), "bias": jnp.zeros(3 * units, jnp.float32)},
    }


def dense(layer: Params, x: Array) -> Array:
    y = x @ layer["kernel"]
    return y + _along(layer["bias"], y)


def layers(stack: list[Params], x: Array, activation: Callable[[Array], Array]) -> Array:
    for layer in stack:
        x = activation(dense(layer, x))
    return x


def gru_cell(gru: Params, hidden: Float[Array, "b h"], projected: Float[Array, "b 3h"]) -> Float[Array, "b h"]:
    """Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product, as in cuDNN and PyTorch.

    `projected` is the input's share of the gates: `dense(gru["input"], x)`, taken for all time steps at once.
    """
    units = hidden.shape[-1]
    recurrent = dense(gru["hidden"], hidden)
    gates = jax.nn.sigmoid(projected[..., : 2 * units] + recurrent[..., : 2 * units])
    reset, update = gates[..., :units], gates[..., units:]
    candidate = jnp.tanh(projected[..., 2 * units :] + reset * recurrent[..., 2 * units :])
    return candidate + update * (hidden - candidate)


# --- statistics -------------------------------------------------------------------------------------------------------


class Moments(NamedTuple):
    """Running mean and variance (Chan, Golub, LeVeque 1983), with a limited memory."""

    count: Array
    mean: Array
    var: Array

    @staticmethod
    def zeros(shape: tuple[int, ...]) -> Moments:
        return Moments(jnp.float32(0), jnp.zeros(shape, jnp.float32), jnp.ones(shape, jnp.float32))

    def update(self, samples: Array) -> Moments:
        """Add samples, `(..., *shape)`. All weigh the same until `MEMORY`; from then on old ones fade."""
        samples = samples.reshape(-1, *self.mean.shape)
        count = jnp.float32(samples.shape[0])
        total = jnp.minimum(self.count, MEMORY) + count
        delta = samples.mean(0) - self.mean
        share = count / total
        var = self.var * (1 - share) + samples.var(0) * share + delta * delta * share * (1 - share)
        return Moments(total, self.mean + delta * share, var)

    @property
    def deviation(self) -> Array:
        """Standard deviation; 1 for a constant component, which is then only shifted."""
        return jnp.sqrt(jnp.where(self.var > 1e-8, self.var, 1.0))

    def standardise(self, x: Array) -> Array:
        """To zero mean and unit variance, clipped."""
        scaled = (x - _along(self.mean, x)) / _along(self.deviation, x)
        return jnp.clip(scaled, -OBSERVATION_CLIP, OBSERVATION_CLIP)


# --- learner ----------------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """All that training carries on; saved whole, it resumes to the same bits."""

    params: Params
    optimizer: Any
    observations: Moments
    privileged: Moments
    returns: Moments
    episodes: Episode  # (N, ...)
    obs: Array  # (B, D), raw
    first: Array  # (B,), whether `obs` opens an episode
    hidden: Array  # (B, H): of the GRU, or the stacked observations
    teacher: Any  # the teacher's memory, (N, ...)
    discounted: Array  # (B,), discounted sum of rewards so far, for their scale
    episode_return: Array  # (B,)
    episode_length: Array  # (B,)
    key: Array
    updates: Array


class Rollout(NamedTuple):
    """What T steps of B actors left behind: leading axes (T, B)."""

    obs: Array
    next_obs: Array | None  # what the action led to: the next observation, or the episode's last one
    first: Array
    hidden: Array  # after `obs`
    mask: Array | None
    action: Array
    log_prob: Array
    reward: Array
    discounted: Array
    terminated: Array
    done: Array
    privileged: Array | None
    advice: Array | None  # the teacher's action
    finished_return: Array  # of the episode that ends here, else 0
    finished_length: Array


class Batch(NamedTuple):
    """What the loss reads: (T, B, ...), but `hidden` (B, H) before the first step, or None without a GRU."""

    obs: Array
    first: Array
    hidden: Array | None
    mask: Array | None
    action: Array
    log_prob: Array
    privileged: Array | None
    advice: Array | None
    advantage: Array
    target: Array

    def take(self, chosen: Array) -> Batch:
        """A minibatch of whole sequences."""
        rest = jax.tree.map(lambda x: jnp.take(x, chosen, axis=1), self._replace(hidden=None))
        return rest._replace(hidden=None if self.hidden is None else jnp.take(self.hidden, chosen, axis=0))


def gae(
    rewards: Float[Array, "t b"],
    values: Float[Array, "t b"],
    next_values: Float[Array, "t b"],
    terminated: Bool[Array, "t b"],
    done: Bool[Array, "t b"],
    gamma: float,
    lam: float,
) -> tuple[Float[Array, "t b"], Float[Array, "t b"]]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16): `(advantages, targets)`.

    `next_values` are of the states that the actions led to, before any reset. They count unless `terminated`; the
    sum over later steps is cut wherever an episode is `done`, be it terminated or at its time limit.
    """
    deltas = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values
    decays = jnp.where(done, 0.0, jnp.float32(gamma * lam))

    def step(ahead: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        advantage = now[0] + now[1] * ahead
        return advantage, advantage

    advantages = jax.lax.scan(step, jnp.zeros_like(values[0]), (deltas, decays), reverse=True, unroll=8)[1]
    return advantages, advantages + values


class Learner:
    """One seed's PPO on one task: pure functions `init` and `update`. Hashed by value, for `jax.jit`."""

    def __init__(self, env: Environment, config: Config) -> None:
        self.env, self.config, self.actions = env, config, actions_of(env, config)
        self.num_actors = config.num_envs * env.num_agents
        sequences = self.num_actors if config.recurrent else self.num_actors * config.rollout_steps
        if sequences % config.minibatches:
            kind = "environments x agents" if config.recurrent else "samples of a rollout"
            raise ValueError(f"minibatches = {config.minibatches} must divide the {sequences} {kind}")
        self.teacher = teacher_of(env, config.teacher, config.imitate + config.taught)
        self.each_env = (env.num_agents,) if env.agents else ()
        self.obs_size = int(np.prod(env.observation_space().shape))
        self.activation = ACTIVATIONS[config.activation]
        schedule = optax.linear_schedule(
            config.learning_rate, config.final_learning_rate, config.updates * config.epochs * config.minibatches
        )
        self.optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(schedule, eps=1e-5))
        self.env_step = _flattening_step(env)

    def __hash__(self) -> int:
        return hash((self.env, self.config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Learner) and (self.env, self.config) == (other.env, other.config)

    # start

    def init(self, key: PRNGKeyArray) -> State:
        config, actors = self.config, self.num_actors
        key, key_reset, key_clock, key_params, key_teacher = jax.random.split(key, 5)
        obs, episodes = self.env.reset_batch(jax.random.split(key_reset, config.num_envs))
        if config.stagger:
            limits = episodes.params.max_steps_in_episode
            clock = jax.random.randint(key_clock, limits.shape, 0, limits, jnp.int32)
            episodes = dataclasses.replace(episodes, state=dataclasses.replace(episodes.state, time=clock))
            obs = jax.vmap(lambda e: self.env.observe(None, e.state, None, e.params))(episodes)
        size = {True: config.gru_size, False: config.stack * self.obs_size * (config.stack > 1)}[config.recurrent]
        privileged = self.see_more(episodes, obs)
        params = self.init_params(key_params, 0 if privileged is None else privileged.shape[-1])
        zeros = jnp.zeros(actors, jnp.float32)
        return State(
            params=params,
            optimizer=self.optimizer.init(params),
            observations=Moments.zeros((config.stack * self.obs_size,)),
            privileged=Moments.zeros(() if privileged is None else privileged.shape[-1:]),
            returns=Moments.zeros(()),
            episodes=episodes,
            obs=self.per_actor(obs, (self.obs_size,)),
            first=jnp.ones(actors, bool),
            hidden=jnp.zeros((actors, size), jnp.float32),
            teacher=None if self.teacher is None else self.teacher.start(key_teacher, episodes),
            discounted=zeros,
            episode_return=zeros,
            episode_length=zeros,
            key=key,
            updates=jnp.int32(0),
        )

    def init_params(self, key: PRNGKeyArray, privileged: int) -> Params:
        config = self.config
        keys = jax.random.split(key, 8)
        sizes = (config.stack * self.obs_size, *config.hidden)
        actor: Params = {"torso": _init_layers(keys[0], sizes)}
        if config.recurrent:  # the cell stands after the first dense layer
            actor["gru"] = _init_gru(keys[1], sizes[1], config.gru_size)
            actor["torso"][1:] = _init_layers(keys[5], (config.gru_size, *sizes[2:]))
        last = config.gru_size if config.recurrent and len(sizes) == 2 else sizes[-1]
        actor["head"] = _init_dense(keys[2], last, self.actions.num_outputs, 0.01)
        actor |= self.actions.init(config.initial_log_std)
        seen = (config.gru_size if config.recurrent else sizes[0]) + privileged
        critic_sizes = (seen, *config.hidden)
        critic = {"torso": _init_layers(keys[3], critic_sizes), "head": _init_dense(keys[4], critic_sizes[-1], 1, 1.0)}
        params = {"actor": actor, "critic": critic}
        if config.predict_coef:
            sizes = (config.gru_size if config.recurrent else sizes[0], config.hidden[-1])
            ends = _init_dense(keys[7], sizes[-1], privileged, 0.01)
            params["predictor"] = {"torso": _init_layers(keys[6], sizes), "head": ends}
        return params

    # between environments and actors

    def per_actor(self, x: Array, trailing: tuple[int, ...] = ()) -> Array:
        """`(N, A, ...)` or `(N, ...)` to `(B, ...)`."""
        return x.reshape(self.num_actors, *trailing)

    def each_agent(self, x: Array) -> Array:
        """A joint flag `(N,)` for every actor, `(B,)`."""
        return jnp.repeat(x, self.env.num_agents) if self.env.num_agents > 1 else x

    def masks(self, episodes: Episode) -> Array | None:
        masks = jax.vmap(self.env.mask)(episodes)
        return None if masks is None else self.per_actor(masks, (self.actions.num_outputs,))

    def see_more(self, episodes: Episode, obs: Array) -> Float[Array, "b p"] | None:
        """What the critic alone sees in training, for every actor: the view of all agents together, or the hidden state
        and the link of its environment."""
        if self.config.critic == "observation":
            return None
        if self.config.critic == "central":
            obs = obs.reshape(self.config.num_envs, *self.each_env, *self.env.observation_space().shape)
            view = jax.vmap(lambda o, e: joint_view(self.env, o, e.state, e.params))(obs, episodes)
            return jnp.repeat(view.reshape(len(view), -1), self.env.num_agents, axis=0)
        leaves = [leaf.reshape(leaf.shape[0], -1).astype(jnp.float32) for leaf in jax.tree.leaves(episodes)]
        return jnp.repeat(jnp.concatenate(leaves, axis=1), self.env.num_agents, axis=0)

    def ask(self, key: PRNGKeyArray, now: State) -> tuple[Array | None, Any]:
        """What the teacher would do, for every actor, and its memory."""
        if self.teacher is None:
            return None, None
        obs = now.obs.reshape(self.config.num_envs, *self.each_env, *self.env.observation_space().shape)
        first = now.first.reshape(self.config.num_envs, -1)[:, 0]
        masks = jax.vmap(self.env.mask)(now.episodes)
        action, memory = self.teacher.advise(key, now.teacher, first, obs, masks, now.episodes)
        return self.per_actor(action, np.shape(self.env.passive_action)[len(self.each_env) :]), memory

    # network

    def perceive(self, hidden: Array, first: Array, obs: Array) -> tuple[Array, Array]:
        """What the policy sees, raw, and the memory kept outside the network: the last K observations, if stacked."""
        if self.config.stack == 1:
            return obs, hidden
        stacked = jnp.concatenate([jnp.where(first[:, None], 0.0, hidden)[:, self.obs_size :], obs], axis=-1)
        return stacked, stacked

    def standardise(self, stats: Moments, obs: Array) -> Array:
        return stats.standardise(obs) if self.config.normalize_observations else obs

    def remember(self, actor: Params, obs: Array, hidden: Array, first: Array) -> Array:
        """What the policy acts on after `obs` (B, D): the GRU's next state (B, H), or without one `obs` itself."""
        if not self.config.recurrent:
            return obs
        return gru_cell(actor["gru"], jnp.where(first[:, None], 0.0, hidden), self.project(actor, obs))

    def remember_all(self, actor: Params, obs: Array, hidden: Array | None, first: Array) -> Array:
        """The same for sequences `obs` (T, B, D), from `hidden` (B, H) before them."""
        if not self.config.recurrent:
            return obs

        def step(hidden: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            hidden = gru_cell(actor["gru"], jnp.where(now[1][:, None], 0.0, hidden), now[0])
            return hidden, hidden

        return jax.lax.scan(step, hidden, (self.project(actor, obs), first))[1]

    def project(self, actor: Params, obs: Array) -> Array:
        """The first dense layer and the input's share of the gates; they need no memory, so all times go at once."""
        return dense(actor["gru"]["input"], self.activation(dense(actor["torso"][0], obs)))

    def decide(self, actor: Params, x: Array) -> Array:
        """Outputs of the policy's head from what `remember` returned."""
        rest = actor["torso"][1:] if self.config.recurrent else actor["torso"]
        return dense(actor["head"], layers(rest, x, self.activation))

    def value(self, critic: Params, x: Array, privileged: Array | None) -> Array:
        """The critic reads what the policy reads, and the hidden state where it may."""
        if privileged is not None:
            x = jnp.concatenate([x, privileged], axis=-1)
        return dense(critic["head"], layers(critic["torso"], x, self.activation))[..., 0]

    def predict(self, predictor: Params, x: Array) -> Array:
        """What the privileged critic sees, as far as what `remember` returned tells it."""
        return dense(predictor["head"], layers(predictor["torso"], x, self.activation))

    # collect

    def collect(self, state: State) -> tuple[State, Rollout]:
        """T steps of every environment."""
        config, actor = self.config, state.params["actor"]
        key, key_env, key_noise, key_advice = jax.random.split(state.key, 4)
        keys = jax.random.split(key_env, (config.rollout_steps, config.num_envs))
        key_teacher = jax.random.split(key_advice, config.rollout_steps)
        noises = self.actions.noise(key_noise, (config.rollout_steps, self.num_actors))

        def step(now: State, draws: tuple[Array, Array, Array]) -> tuple[State, Rollout]:
            keys, noise, key_teacher = draws
            advice, teacher = self.ask(key_teacher, now)
            mask, privileged = self.masks(now.episodes), self.see_more(now.episodes, now.obs)
            obs, hidden = self.perceive(now.hidden, now.first, now.obs)
            x = self.remember(actor, self.standardise(now.observations, obs), hidden, now.first)
            hidden = x if config.recurrent else hidden
            outputs = self.decide(actor, x)
            action = self.actions.sample(actor, outputs, mask, noise)
            log_prob = self.actions.log_prob(actor, outputs, mask, action)
            shape = (config.num_envs, *np.shape(self.env.passive_action))
            raw, episodes, reward, terminated, truncated, info = self.env_step(
                keys, now.episodes, action.reshape(shape)
            )

            reward, terminated = self.per_actor(reward), self.each_agent(terminated)
            done = terminated | self.each_agent(truncated)
            last = self.per_actor(info["final_observation"], (self.obs_size,))
            next_obs, _ = self.perceive(hidden, jnp.zeros_like(done), last)
            discounted = now.discounted * config.gamma + reward
            episode_return, episode_length = now.episode_return + reward, now.episode_length + 1
            rollout = Rollout(
                obs=obs,
                next_obs=next_obs if config.bootstrap else None,
                first=now.first,
                hidden=hidden,
                mask=mask,
                action=action,
                log_prob=log_prob,
                reward=reward,
                discounted=discounted,
                terminated=terminated,
                done=done,
                privileged=privileged,
                advice=advice,
                finished_return=jnp.where(done, episode_return, 0.0),
                finished_length=jnp.where(done, episode_length, 0.0),
            )
            now = now._replace(
                episodes=episodes,
                teacher=teacher,
                obs=self.per_actor(raw, (self.obs_size,)),
                first=done,
                hidden=hidden,
                discounted=jnp.where(done, 0.0, discounted),
                episode_return=jnp.where(done, 0.0, episode_return),
                episode_length=jnp.where(done, 0.0, episode_length),
            )
            return now, rollout

        return jax.lax.scan(step, state._replace(key=key), (keys, noises, key_teacher))

    # estimate

    def estimate(self, state: State, rollout: Rollout, rewards: Array) -> tuple[Array, Array]:
        """Advantages and value targets, (T, B). The rollout's observations are standardised by now."""
        params, config = state.params, self.config
        actor, critic = params["actor"], params["critic"]
        values = self.value(critic, rollout.hidden if config.recurrent else rollout.obs, rollout.privileged)
        if config.bootstrap:
            # The value of what the action led to, whether or not the episode was cut there; zero where it terminated.
            obs, hidden = (x.reshape(values.size, x.shape[-1]) for x in (rollout.next_obs, rollout.hidden))
            x = self.remember(actor, obs, hidden, jnp.zeros(values.size, bool))
            next_values = self.value(critic, x, None).reshape(values.shape)
            return gae(rewards, values, next_values, rollout.terminated, rollout.done, config.gamma, config.gae_lambda)
        obs, hidden = self.perceive(state.hidden, state.first, state.obs)
        x = self.remember(actor, self.standardise(state.observations, obs), hidden, state.first)
        privileged = self.see_more(state.episodes, state.obs)
        if privileged is not None:
            privileged = state.privileged.standardise(privileged)
        final = self.value(critic, x, privileged)
        next_values = jnp.concatenate([values[1:], final[None]])
        return gae(rewards, values, next_values, rollout.done, rollout.done, config.gamma, config.gae_lambda)

    # improve

    def loss(self, params: Params, batch: Batch, imitation: Array) -> tuple[Array, dict[str, Array]]:
        """Clipped surrogate, squared value error, entropy, and distance to a teacher, of a minibatch."""
        config, actor = self.config, params["actor"]
        x = self.remember_all(actor, batch.obs, batch.hidden, batch.first)
        outputs = self.decide(actor, x)
        values = self.value(params["critic"], x, batch.privileged)
        log_ratio = self.actions.log_prob(actor, outputs, batch.mask, batch.action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
        policy_loss = -jnp.minimum(ratio * batch.advantage, clipped * batch.advantage).mean()
        value_loss = 0.5 * jnp.square(values - batch.target).mean()
        entropy = jnp.mean(self.actions.entropy(actor, outputs, batch.mask))
        total = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
        metrics: dict[str, Array] = {}
        if batch.advice is not None:
            known = config.imitate or tuple(range(math.prod(batch.advice.shape[2:])))
            fading = tuple(i for i in known if i not in config.taught)
            metrics["imitation_loss"] = jnp.float32(0)
            for components, weight in ((fading, imitation), (config.taught, config.imitation_coef)):
                if components:
                    distance = self.actions.distance(actor, outputs, batch.mask, batch.advice, components).mean()
                    total += weight * distance
                    metrics["imitation_loss"] += distance
        if config.predict_coef:
            predicted = self.predict(params["predictor"], x)
            metrics["prediction_loss"] = jnp.square(predicted - batch.privileged).mean()
            total += config.predict_coef * metrics["prediction_loss"]
        return total, metrics | {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": (jnp.abs(ratio - 1) > config.clip).mean(dtype=jnp.float32),
        }

    def update(self, state: State) -> tuple[State, dict[str, Array]]:
        """One rollout and the passes over it. Returns metrics as sums over this one update."""
        config = self.config
        hidden, stats = state.hidden, state.observations
        state, rollout = self.collect(state)
        seen, returns = rollout.obs, state.returns.update(rollout.discounted)
        rollout = rollout._replace(obs=self.standardise(stats, seen))
        if rollout.next_obs is not None:
            rollout = rollout._replace(next_obs=self.standardise(stats, rollout.next_obs))
        rewards = rollout.reward
        if config.scale_rewards:
            rewards = rewards * jax.lax.rsqrt(returns.var + 1e-8)
        privileged = state.privileged
        if rollout.privileged is not None:
            privileged = privileged.update(rollout.privileged)
            rollout = rollout._replace(privileged=privileged.standardise(rollout.privileged))
        state = state._replace(returns=returns, privileged=privileged)
        advantages, targets = self.estimate(state, rollout, rewards)
        deviation = advantages.std()
        batch = Batch(
            obs=rollout.obs,
            first=rollout.first,
            hidden=hidden,
            mask=rollout.mask,
            action=rollout.action,
            log_prob=rollout.log_prob,
            privileged=rollout.privileged,
            advice=rollout.advice,
            advantage=(advantages - advantages.mean()) / (deviation + 1e-8),
            target=targets,
        )
        if not config.recurrent:  # every sample is a sequence of its own
            batch = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), batch._replace(hidden=None))
        count = batch.advantage.shape[1]
        key, key_shuffle = jax.random.split(state.key)
        order = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key_shuffle, config.epochs))

        trained = state.updates.astype(jnp.float32) / (config.updates * config.imitation_share)
        imitation = config.imitation_coef * jnp.maximum(0.0, 1.0 - trained)

        def descend(carry: tuple[Params, Any], chosen: Array) -> tuple[tuple[Params, Any], dict[str, Array]]:
            params, optimizer = carry
            gradients, metrics = jax.grad(self.loss, has_aux=True)(params, batch.take(chosen), imitation)
            changes, optimizer = self.optimizer.update(gradients, optimizer, params)
            return (optax.apply_updates(params, changes), optimizer), metrics

        (params, optimizer), metrics = jax.lax.scan(
            descend, (state.params, state.optimizer), order.reshape(config.epochs * config.minibatches, -1)
        )
        metrics = {name: value.mean() for name, value in metrics.items()}
        metrics |= {
            "explained_variance": 1 - jnp.square(deviation) / (targets.var() + 1e-8),
            "updates": jnp.float32(1),
            "episodes": rollout.done.sum(dtype=jnp.float32) / self.env.num_agents,
            "return_sum": rollout.finished_return.sum() / self.env.num_agents,
            "length_sum": rollout.finished_length.sum() / self.env.num_agents,
        }
        state = state._replace(
            params=params, optimizer=optimizer, observations=stats.update(seen), key=key, updates=state.updates + 1
        )
        return state, metrics


def _flattening_step(env: Environment) -> Callable[[Array, Episode, Array], Any]:
    """`env.step_batch`, which mapped over seeds becomes one larger batch.

    Its reset stands behind a condition on the whole batch; under a plain `vmap` it would run on every step.
    """

    @jax.custom_batching.custom_vmap
    def step(keys: Array, episodes: Episode, actions: Array) -> Any:
        return env.step_batch(keys, episodes, actions)

    @step.def_vmap
    def over_seeds(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        args = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)), args, tuple(batched))
        merged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), args)
        out = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), step(*merged))
        return out, jax.tree.map(lambda _: True, out)

    return step


# --- seeds ------------------------------------------------------------------------------------------------------------


class Trainer:
    """A learner for each seed. States have a leading axis of seeds; seed `s` depends on `s` alone, not on the others.

    Args:
        vectorize: map seeds by `vmap`, or one after another in the same program. None: as suits the backend; on a CPU
            products of small matrices run 1.3 to 1.5 times slower when batched.
    """

    def __init__(self, env: Environment, config: Config, vectorize: bool | None = None) -> None:
        self.env, self.config, self.learner = env, config, Learner(env, config)
        self.seeds = tuple(range(config.seed, config.seed + config.seeds))
        self.vectorize = jax.default_backend() != "cpu" if vectorize is None else vectorize

    def init(self) -> State:
        """The state before the first update, one a seed."""
        return _init(self.learner, jnp.stack([jax.random.key(seed, impl="threefry2x32") for seed in self.seeds]))

    def run(self, state: State, updates: int) -> tuple[State, dict[str, np.ndarray]]:
        """Advance by `updates`; the state handed in is used up. Metrics are means, one a seed.

        `episode_return` and `episode_length` are of the episodes that ended meanwhile; NaN if none did.
        """
        state, sums = _run(self.learner, self.vectorize, state, jnp.int32(updates))
        sums = {name: np.asarray(value, np.float64) for name, value in jax.device_get(sums).items()}
        count, episodes = sums.pop("updates"), sums.pop("episodes")
        ended = np.where(episodes > 0, episodes, np.nan)
        ends = {"episode_return": sums.pop("return_sum") / ended, "episode_length": sums.pop("length_sum") / ended}
        return state, {**ends, "episodes": episodes, **{name: value / count for name, value in sums.items()}}

    @property
    def template(self) -> State:
        """Shapes and types of a state, for reading one from a file."""
        return jax.eval_shape(self.init)


@functools.partial(jax.jit, static_argnums=0)
def _init(learner: Learner, keys: PRNGKeyArray) -> State:
    return jax.vmap(learner.init)(keys)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _run(learner: Learner, vectorize: bool, states: State, count: Array) -> tuple[State, dict[str, Array]]:
    """`count` updates of every seed (a traced number: one program serves all), and their metrics summed."""

    def updates(state: State) -> tuple[State, dict[str, Array]]:
        metrics = jax.eval_shape(learner.update, state)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        def body(_: Array, carry: tuple[State, dict[str, Array]]) -> tuple[State, dict[str, Array]]:
            state, metrics = learner.update(carry[0])
            return state, jax.tree.map(jnp.add, carry[1], metrics)

        return jax.lax.fori_loop(0, count, body, (state, zeros))

    return jax.vmap(updates)(states) if vectorize else jax.lax.map(updates, states)

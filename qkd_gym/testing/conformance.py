"""What `qkd_gym.envs.core` promises, checked on any environment. Each failure says what broke and how to mend it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import pickle
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qkd_gym import struct
from qkd_gym.envs.core import STANDARD_INFO, Environment, EnvParams, Episode, restart_key, strong


class ConformanceError(AssertionError):
    """An environment breaks promises of the contract; the message lists all of them."""


@dataclasses.dataclass(frozen=True)
class Promise:
    """One promise: what it says, how to mend a task that breaks it, and the check."""

    name: str
    says: str
    mend: str
    check: Callable[[Subject], None]


#: Every promise by name, in the order in which they are checked.
PROMISES: dict[str, Promise] = {}


def check_environment(
    env: Environment, *, seed: int = 0, num_envs: int = 4, steps: int = 24, only: Iterable[str] | None = None
) -> None:
    """Check every promise of the contract on `env`, single- or multi-agent.

    Args:
        seed: of all random numbers used here.
        num_envs: environments in a batch, at least 2.
        steps: random steps of each of them.
        only: names out of `PROMISES`; None checks all.

    Raises:
        ConformanceError: with each broken promise, what was seen, and what mends it.
    """
    if num_envs < 2 or steps < 1:
        raise ValueError(f"num_envs = {num_envs} must be at least 2 and steps = {steps} at least 1")
    names = list(PROMISES) if only is None else list(only)
    unknown = sorted(set(names) - set(PROMISES))
    if unknown:
        raise ValueError(f"there is no promise {', '.join(unknown)}; there are: {', '.join(PROMISES)}")
    subject = Subject(env, seed, num_envs, steps)
    broken = []
    for promise in (PROMISES[name] for name in names):
        try:
            promise.check(subject)
        except Exception as error:  # whatever a foreign task raises is a finding, and the other promises still count
            what = str(error) if isinstance(error, _BrokenError) else f"{type(error).__name__}: {error}"
            what = what if len(what) < 800 else f"{what[:800]} ..."
            broken.append(f"- {promise.name}: {promise.says}\n  seen: {what}\n  mend: {promise.mend}")
    if broken:
        raise ConformanceError(
            f"{type(env).__name__} breaks {len(broken)} of {len(names)} promises:\n" + "\n".join(broken)
        )


class Subject:
    """The environment under test and its compiled programs, each made once and only if a check asks for it.

    Keys are raw words on this side of the programs, and everything kept between calls is NumPy: each operation outside
    a program would be compiled by itself.
    """

    def __init__(self, env: Environment, seed: int, num_envs: int, steps: int) -> None:
        self.env, self.num_envs, self.steps = env, num_envs, steps
        self._rng = np.random.default_rng(seed)
        self.traces: dict[str, int] = {}

    def keys(self, *shape: int) -> np.ndarray:
        """Fresh raw keys."""
        return self._rng.integers(0, 2**32, (*shape, 2), dtype=np.uint32)

    def compiled(self, name: str, function: Callable) -> Callable:
        """`function` of a typed key and more, compiled for a raw key, NumPy out. Counts how often it is traced."""

        @jax.jit
        def counted(words: Array, *arguments: Any) -> Any:
            self.traces[name] = self.traces.get(name, 0) + 1
            return function(_typed(words), *arguments)

        return lambda words, *arguments: jax.device_get(counted(words, *arguments))

    @functools.cached_property
    def reset(self) -> Callable:
        """`(keys, links) -> (observations, episodes)` of a batch."""
        return self.compiled("reset", self.env.reset_batch)

    @functools.cached_property
    def step(self) -> Callable:
        """`vmap(step)`: `(keys, episodes, actions, links) -> ...`."""
        return self.compiled("step", jax.vmap(self.env.step))

    @functools.cached_property
    def step_batch(self) -> Callable:
        return self.compiled("step_batch", self.env.step_batch)

    @functools.cached_property
    def advance(self) -> Callable:
        """`(key, episode, action) -> ...` of one environment."""
        return self.compiled("advance", self.env.advance)

    @functools.cached_property
    def mask(self) -> Callable:
        return self.compiled("mask", lambda _, episodes: jax.vmap(self.env.mask)(episodes))

    @functools.cached_property
    def restart_keys(self) -> Callable:
        return self.compiled("restart_keys", lambda keys: jax.random.key_data(jax.vmap(restart_key)(keys)))

    @functools.cached_property
    def link(self) -> Any:
        """The default link as arrays."""
        return jax.device_get(strong(self.env.default_params))

    def links(self, *limits: int) -> Any:
        """The default link for each environment of a batch, with these time limits in turn."""
        limit = np.resize(np.array(limits, np.int32), self.num_envs)
        return dataclasses.replace(self.stacked(self.link), max_steps_in_episode=limit)

    def start(self, limit: int) -> Episode:
        """One running episode."""
        return _row(self.reset(self.keys(self.num_envs), self.links(limit))[1], 0)

    @functools.cached_property
    def passive(self) -> Any:
        return np.asarray(self.env.passive_action)

    def stacked(self, tree: Any) -> Any:
        """One of it for each environment of a batch."""
        return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (self.num_envs, *np.shape(leaf))), tree)

    @functools.cached_property
    def action_shape(self) -> tuple[int, ...]:
        lead = (self.env.num_agents,) if self.env.agents else ()
        return (*lead, *(self.env.action_space().shape or ()))

    @functools.cached_property
    def observation_shape(self) -> tuple[int, ...]:
        lead = (self.env.num_agents,) if self.env.agents else ()
        return (*lead, *(self.env.observation_space().shape or ()))

    def random_actions(self, masks: np.ndarray | None) -> np.ndarray:
        """An action of every agent in a batch; of a Discrete or MultiDiscrete space a legal one."""
        space, shape = self.env.action_space(), (self.num_envs, *self.action_shape)
        if isinstance(space, gym.spaces.Box):
            return self._rng.uniform(space.low, space.high, shape).astype(np.float32)
        if isinstance(space, gym.spaces.Discrete):
            odds = self._rng.uniform(size=(*shape, int(space.n)))
            odds = odds if masks is None or masks.shape != odds.shape else odds + masks
            return (odds.argmax(axis=-1) + space.start).astype(np.int32)
        assert isinstance(space, gym.spaces.MultiDiscrete)
        lead = shape[: len(shape) - space.nvec.ndim]
        odds = self._rng.uniform(size=(*lead, int(space.nvec.sum())))
        odds = odds if masks is None or masks.shape != odds.shape else odds + masks
        parts = np.split(odds, np.cumsum(space.nvec.reshape(-1))[:-1], axis=-1)
        return np.stack([part.argmax(axis=-1) for part in parts], axis=-1).reshape(shape).astype(np.int32)

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        """What the author's functions return, as shapes, without running them."""
        env, key = self.env, jax.random.key(0)
        obs, state = jax.eval_shape(env.reset_env, key, self.link)
        stepped = jax.eval_shape(env.step_env, key, state, self.passive, self.link)
        episode = Episode(state=state, params=self.link)
        whole = jax.eval_shape(env.advance, key, episode, self.passive)
        return {"obs": obs, "state": state, "episode": episode, "step": stepped, "info": whole[5]}

    @functools.cached_property
    def rollout(self) -> dict[str, Any]:
        """Random legal actions in a batch over the ends of episodes; leading axes (time, batch)."""
        drawn = self.compiled("drawn", jax.vmap(lambda key: strong(self.env.sample_params(key))))(
            self.keys(self.num_envs)
        )
        limits = np.full(self.num_envs, max(2, self.steps // 3), np.int32)
        links = dataclasses.replace(drawn, max_steps_in_episode=limits)
        first, episodes = self.reset(self.keys(self.num_envs), links)
        begin, seen = episodes.state, []
        for _ in range(self.steps):
            masks = self.mask(self.keys(), episodes)
            actions = self.random_actions(masks)
            keys = self.keys(self.num_envs)
            obs, episodes, reward, terminated, truncated, info = self.step_batch(keys, episodes, actions, links)
            flags = {"terminated": terminated, "truncated": truncated, "mask": masks}
            seen.append(flags | {"obs": obs, "reward": reward, "info": info, "state": episodes.state})
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *seen)
        return stacked | {"first": first, "start": begin, "drawn": drawn, "links": links, "last_links": episodes.params}


class _BrokenError(Exception):
    pass


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise _BrokenError(message)


def _promise(says: str, mend: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    def add(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = check.__name__.removeprefix("_check_")
        PROMISES[name] = Promise(name, says, mend, check)
        return check

    return add


def _x64(on: bool) -> AbstractContextManager[Any]:
    """64-bit mode on or off for a while; JAX has moved the name."""
    holder = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return holder.enable_x64(on)


def _typed(words: Array) -> Array:
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def _outline(tree: Any) -> list[tuple[str, Any]]:
    """Names, dtypes and shapes of the leaves."""
    return [(name, (leaf.dtype, leaf.shape)) for name, leaf in _named_leaves(tree)]


def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path) or "itself", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _same(a: Any, b: Any, what: str, *, exact: bool) -> None:
    """Leafwise equality; inexact comparisons allow for the rounding of differently fused programs."""
    for (name, x), (_, y) in zip(_named_leaves(a), _named_leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        alike = x.shape == y.shape and x.dtype == y.dtype
        _require(alike, f"{what}{name}: {x.dtype}{x.shape} is not {y.dtype}{y.shape}")
        floats = x.dtype.kind == "f" and not exact
        equal = np.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True) if floats else np.array_equal(x, y)
        _require(equal, f"{what}{name}: {x} is not {y}")


# ---- the promises ----------------------------------------------------------------------------------------------------


@_promise(
    "an environment is a frozen value: equal fields make equal, hashable, picklable instances, with name and version",
    "decorate the class with @dataclasses.dataclass(frozen=True), keep arrays out of its fields, and set name, "
    "version, scenarios and metrics as class variables",
)
def _check_value(subject: Subject) -> None:
    env = subject.env
    twin = dataclasses.replace(env)
    _require(twin == env and hash(twin) == hash(env), "a copy with the same fields is not equal, or hashes differently")
    _require(
        pickle.loads(pickle.dumps(env)) == env and copy.deepcopy(env) == env, "a pickled or deep copy is not equal"
    )
    _require(isinstance(env.name, str) and env.name.isidentifier(), f"name = {env.name!r} is no identifier")
    _require(isinstance(env.version, int) and env.version >= 0, f"version = {env.version!r} is no count")
    try:
        object.__setattr__(twin, "_probe", 1)
        setattr(twin, "scenario", "training")  # noqa: B010 - what is tested is that assignment fails
    except dataclasses.FrozenInstanceError:
        return
    raise _BrokenError("its fields can be assigned to")


@_promise(
    "spaces are Gymnasium's and equal at each call; observations and the passive action lie in them",
    "bound the observation space by constants (finite, float32), scale observations into it, and return float32; "
    "multi-agent tasks put the agent axis first",
)
def _check_spaces(subject: Subject) -> None:
    env = subject.env
    space, actions = env.observation_space(), env.action_space()
    _require(isinstance(space, gym.spaces.Box), f"the observation space is {type(space).__name__}, not Box")
    assert isinstance(space, gym.spaces.Box)
    _require(space.dtype == np.float32, f"the observation space holds {space.dtype}, not float32")
    _require(
        np.isfinite(space.low).all() and np.isfinite(space.high).all(), "the observation space has infinite bounds"
    )
    kinds = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete)
    _require(
        isinstance(actions, kinds), f"the action space is {type(actions).__name__}, not Box, Discrete or MultiDiscrete"
    )
    if isinstance(actions, gym.spaces.Box):
        _require(actions.dtype == np.float32, f"the action space holds {actions.dtype}, not float32")
        unit = np.all(actions.low == -1) and np.all(actions.high == 1)
        _require(unit, f"the action space is {actions}; trainers want Box(-1, 1)")
    _require(env.observation_space() == space and env.action_space() == actions, "two calls give different spaces")
    for name, seen in (("reset", subject.rollout["first"]), ("step", subject.rollout["obs"])):
        seen = np.asarray(seen)
        lead = seen.ndim - len(subject.observation_shape)
        _require(
            seen.dtype == np.float32 and seen.shape[lead:] == subject.observation_shape,
            f"{name} returns {seen.dtype}{seen.shape[lead:]}, not float32{subject.observation_shape}",
        )
        rows = seen.reshape(-1, *(space.shape or ()))
        outside = [row for row in rows if not space.contains(row)]
        _require(
            not outside, f"{name} returned {len(outside)} of {len(rows)} observations outside {space}: {outside[:1]}"
        )
    passive = np.asarray(env.passive_action)
    _require(
        passive.shape == subject.action_shape,
        f"passive_action has the shape {passive.shape}, not {subject.action_shape}",
    )
    one = passive.reshape(-1, *(actions.shape or ()))
    one = [row.astype(actions.dtype) if row.ndim else actions.dtype.type(row) for row in one]  # type: ignore[union-attr]
    _require(all(actions.contains(row) for row in one), f"passive_action = {passive} is outside {actions}")


@_promise(
    "dtypes are strong and stay: float32 rewards, bool flags, int32 time, and a state whose leaves never change type",
    "make every leaf with an explicit dtype (jnp.float32(0), not 0.0), and keep the state's structure in step_env",
)
def _check_dtypes(subject: Subject) -> None:
    shapes, env = subject.shapes, subject.env
    obs, after, reward, terminated, _ = shapes["step"]
    joint = (env.num_agents,) if env.agents else ()
    for name, leaf, dtype, shape in (
        ("reward", reward, jnp.float32, joint),
        ("terminated", terminated, jnp.bool_, ()),
        ("state.time", after.time, jnp.int32, ()),
        ("the observation", obs, jnp.float32, subject.observation_shape),
        ("the first observation", shapes["obs"], jnp.float32, subject.observation_shape),
    ):
        seen = f"{name} is {leaf.dtype}{leaf.shape}{' (weak)' if leaf.weak_type else ''}"
        _require(
            leaf.dtype == dtype and leaf.shape == shape and not leaf.weak_type, f"{seen}, not {jnp.dtype(dtype)}{shape}"
        )
    truncated = jax.eval_shape(env.is_truncated, shapes["state"], subject.link)
    _require(
        truncated.dtype == jnp.bool_ and truncated.shape == (), f"is_truncated gives {truncated.dtype}{truncated.shape}"
    )
    before, now = _named_leaves(shapes["state"]), _named_leaves(after)
    _require(
        [n for n, _ in before] == [n for n, _ in now], "step_env returns a state of another structure than reset_env"
    )
    keys = jax.random.split(jax.random.key(0), 3)
    jax.eval_shape(
        lambda e: jax.lax.scan(lambda e, k: env.step(k, e, subject.passive)[1:3], e, keys), shapes["episode"]
    )
    for (name, x), (_, y) in zip(before, now, strict=True):
        _require(not x.weak_type, f"reset_env makes state{name} weakly typed")
        _require(not y.weak_type, f"step_env makes state{name} weakly typed")
        _require(
            x.dtype in (jnp.float32, jnp.int32, jnp.uint32, jnp.bool_),
            f"state{name} is {x.dtype}; hold 32 bits or bool",
        )
        _require(
            (x.shape, x.dtype) == (y.shape, y.dtype),
            f"state{name} is {x.dtype}{x.shape} after reset_env and {y.dtype}{y.shape} after step_env",
        )


@_promise(
    "with 64-bit mode on, every dtype is the same",
    "give jax.random draws, jnp.arange, sums and literals an explicit 32-bit dtype",
)
def _check_x64(subject: Subject) -> None:
    env, link = subject.env, subject.link

    def outline(params: Any) -> Any:
        key = jax.random.key(0)
        obs, episode = env.reset(key, params)
        drawn = strong(env.sample_params(key))
        return obs, episode, drawn, env.step(key, episode, subject.passive), env.mask(episode)

    def dtypes() -> list[tuple[str, Any]]:
        return _outline(jax.eval_shape(outline, link))

    with _x64(False):
        narrow = dtypes()
    with _x64(True):
        wide = dtypes()
    changed = [f"{name}: {x[0]} becomes {y[0]}" for (name, x), (_, y) in zip(narrow, wide, strict=True) if x != y]
    _require(not changed, "; ".join(changed))


@_promise(
    "info has the same keys and shapes at every step: the standard ones and the declared scalar metrics",
    "return all metrics on every path of step_env, as scalars (or one value an agent) with strong types, and give each "
    "a unit and a meaning in the class variable `metrics`",
)
def _check_info(subject: Subject) -> None:
    env, info = subject.env, subject.shapes["info"]
    missing = sorted(set(STANDARD_INFO) - set(info))
    _require(not missing, f"info misses {', '.join(missing)}")
    clash = sorted(set(STANDARD_INFO) & set(env.metrics))
    _require(not clash, f"metrics name {', '.join(clash)}, which the contract fills")
    missing = sorted(set(env.metrics) - set(info))
    _require(not missing, f"declared in metrics and missing in info: {', '.join(missing)}")
    joint = (env.num_agents,) if env.agents else ()
    for name in env.metrics:
        leaf = info[name]
        _require(leaf.shape in ((), joint), f"the metric {name} has the shape {leaf.shape}")
        _require(not leaf.weak_type, f"the metric {name} is weakly typed")
        _require(bool(env.metrics[name].strip()), f"the metric {name} has no unit and meaning")
    secret = sorted(k for k, v in info.items() if k not in (*STANDARD_INFO, *env.metrics) and v.shape == ())
    _require(not secret, f"scalars in info that metrics does not declare: {', '.join(secret)}")
    for name, values in _named_leaves({k: v for k, v in subject.rollout["info"].items() if k in env.metrics}):
        _require(
            np.isfinite(np.asarray(values, np.float64)).all(),
            f"the metric {name} is not finite in {subject.steps} steps",
        )


@_promise(
    "rewards, observations and states stay finite under random legal actions",
    "guard divisions, logarithms and square roots at their edges (jnp.where on the argument, not on the result)",
)
def _check_finite(subject: Subject) -> None:
    for part in ("reward", "obs", "state"):
        for name, values in _named_leaves(subject.rollout[part]):
            array = np.asarray(values)
            if array.dtype.kind == "f":
                bad = np.flatnonzero(~np.isfinite(array).reshape(array.shape[0], -1).all(axis=1))
                _require(not bad.size, f"{part}{name} is not finite after {bad[:1] + 1} steps")


@_promise(
    "the last observation is never lost: where an episode ends, info['final_observation'] is what `advance` shows, and "
    "the observation returned is the next episode's first",
    "do not reset inside step_env, and do not override reset, step or step_batch",
)
def _check_final_observation(subject: Subject) -> None:
    links, actions = subject.links(2), subject.stacked(subject.passive)
    _, episodes = subject.reset(subject.keys(subject.num_envs), links)
    for k in range(4):
        keys = subject.keys(subject.num_envs)
        stepped = subject.step(keys, episodes, actions, links)
        obs, after, _, terminated, truncated, info = _row(stepped, 0)
        last, _, _, ended, cut, _ = subject.advance(keys[0], _row(episodes, 0), subject.passive)
        first, fresh = _row(subject.reset(subject.restart_keys(keys), links), 0)
        _same(info["final_observation"], last, f"step {k}: final_observation ", exact=False)
        _require(
            (bool(terminated), bool(truncated)) == (bool(ended), bool(cut)), "step and advance disagree on the end"
        )
        if terminated or truncated:
            _same((obs, after), (first, fresh), f"step {k}: the next episode ", exact=False)
            _require(int(after.time) == 0, f"time is {int(after.time)} after the auto-reset")
        else:
            _same(obs, info["final_observation"], f"step {k}: the observation ", exact=True)
        discount = float(info["discount"])
        _require(
            discount == (0.0 if terminated else 1.0), f"discount is {discount} where terminated is {bool(terminated)}"
        )
        episodes = stepped[1]
    ends = subject.rollout["terminated"] | subject.rollout["truncated"]
    times = np.asarray(subject.rollout["state"].time)
    _require(ends.any() and np.all(times[ends] == 0), "an episode that ended in a batch did not start again at time 0")
    _require(np.all(times[~ends] > 0), "time is 0 where no episode ended")
    seen = np.asarray(subject.rollout["obs"])[~ends]
    _same(seen, np.asarray(subject.rollout["info"]["final_observation"])[~ends], "inside an episode ", exact=True)


@_promise(
    "`step`, `vmap(step)` and `step_batch` agree",
    "use no global randomness or Python state, and no operation across the batch",
)
def _check_batches(subject: Subject) -> None:
    keys, actions = subject.keys(subject.num_envs), subject.stacked(subject.passive)
    links = subject.links(1, 50)  # every second one ends at once, the others do not
    _, episodes = subject.reset(keys, links)
    batch = subject.step_batch(keys, episodes, actions, links)
    _same(subject.step(keys, episodes, actions, links), batch, "vmap(step) against step_batch ", exact=False)
    alone = subject.advance(keys[1], _row(episodes, 1), subject.passive)
    _same(alone, _row(batch, 1), "one environment against its row of step_batch ", exact=False)


@_promise(
    "the key decides: the same key gives the same episode, other keys give others, and raw keys are taken",
    "draw all randomness from the key that was handed in, and use each key once",
)
def _check_keys(subject: Subject) -> None:
    env, links, actions = subject.env, subject.links(50), subject.stacked(subject.passive)
    keys = subject.keys(subject.num_envs)
    first = subject.reset(keys, links)
    _same(subject.reset(keys, links), first, "a second reset with the same keys ", exact=True)
    stepped = subject.step_batch(keys, first[1], actions, links)
    again = subject.step_batch(keys, first[1], actions, links)
    _same(again, stepped, "a second step with the same keys ", exact=True)
    episode = _row(first[1], 0)
    for function, given in ((env.reset, ()), (env.step, (episode, subject.passive))):
        raw, typed = (jax.eval_shape(function, key, *given) for key in (keys[0], jax.random.key(0)))
        _require(_outline(raw) == _outline(typed), f"{function.__name__} gives another structure for a raw key")
    drawn = _named_leaves((subject.rollout["start"], subject.rollout["drawn"]))
    differ = any(not np.array_equal(leaf[0], other) for _, leaf in drawn for other in leaf[1:])
    _require(
        differ, f"{subject.num_envs} keys give one episode: neither the link nor the first state depends on the key"
    )


@_promise(
    "nothing is compiled again after the first call, whatever the state, the action and the link",
    "keep Python branches and shapes off traced values; what selects them is a field of the environment",
)
def _check_one_compilation(subject: Subject) -> None:
    def play(limit: int, steps: int) -> None:
        links, actions = subject.links(limit), subject.stacked(subject.passive)
        _, episodes = subject.reset(subject.keys(subject.num_envs), links)
        for _ in range(steps):
            _, episodes, *_ = subject.step_batch(subject.keys(subject.num_envs), episodes, actions, links)

    play(limit=3, steps=1)
    before = dict(subject.traces)
    play(limit=5, steps=4)
    play(limit=2, steps=4)
    again = {name: subject.traces[name] - before[name] for name in ("reset", "step_batch")}
    _require(not any(again.values()), f"traced again: {again}")


@_promise(
    "an action that is not finite or out of range leaves the state finite and earns nothing",
    "start step_env with `action, valid = self.clean_action(action)` and credit nothing where not valid",
)
def _check_bad_actions(subject: Subject) -> None:
    space = subject.env.action_space()
    if isinstance(space, gym.spaces.Box):
        bad = [(value, value == value and abs(value) != np.inf) for value in (np.nan, np.inf, -np.inf, 1e30, -1e30)]
        dtype: Any = np.float32
    else:
        bad, dtype = [(value, False) for value in (-1, 10**6, -(2**31))], np.int32
    start = subject.start(50)
    _, warm, *_ = subject.advance(subject.keys(), start, subject.passive)
    for value, is_clipped in bad:
        for episode in (start, warm):
            action = np.full(subject.action_shape, value, dtype)
            obs, after, reward, *_ = subject.advance(subject.keys(), episode, action)
            for name, leaf in _named_leaves((obs, after.state)):
                leaf = np.asarray(leaf)
                _require(
                    leaf.dtype.kind != "f" or np.isfinite(leaf).all(), f"the action {value} makes {name} not finite"
                )
            _require(np.isfinite(reward).all(), f"the action {value} makes the reward not finite")
            if not is_clipped:
                _require(np.all(np.asarray(reward) <= 0), f"the action {value} earns {reward}")


@_promise(
    "an episode is truncated exactly at params.max_steps_in_episode, and time counts steps by one",
    "let step_env return time + 1, leave the limit to is_truncated, and read it from params",
)
def _check_limit(subject: Subject) -> None:
    _require(isinstance(subject.env.default_params, EnvParams), "default_params do not extend EnvParams")
    for limit in (1, 4):
        episode = subject.start(limit)
        _require(int(episode.time) == 0, f"time is {int(episode.time)} after a reset")
        for k in range(1, limit + 1):
            _, episode, _, _, truncated, _ = subject.advance(subject.keys(), episode, subject.passive)
            _require(int(episode.time) == k, f"time is {int(episode.time)} after {k} steps")
            _require(bool(truncated) == (k >= limit), f"truncated is {bool(truncated)} at step {k} of {limit}")


@_promise(
    "every parameter is a leaf, so that links can be stacked and mapped over, and a running episode keeps its link",
    "derive Params from EnvParams with @struct.dataclass and struct.field, and read every constant from `params`",
)
def _check_params(subject: Subject) -> None:
    default = subject.env.default_params
    fields = [f.name for f in dataclasses.fields(default)]
    static = [f.name for f in dataclasses.fields(default) if f.metadata.get("static")]
    _require(not static, f"not leaves: {', '.join(static)}; what selects a shape is a field of the environment")
    held = {str(path[0]).lstrip(".") for path, _ in jax.tree_util.tree_leaves_with_path(default)}
    _require(held == set(fields), f"fields that are no leaves: {', '.join(sorted(set(fields) - held))}")
    _same(subject.rollout["last_links"], subject.rollout["links"], "the link after a rollout ", exact=True)


@_promise(
    "default_params and the links drawn from every scenario are valid, and 'training' exists",
    "bound each parameter with struct.field(low=, high=), draw inside the bounds, and refuse unknown scenarios",
)
def _check_scenarios(subject: Subject) -> None:
    env = subject.env
    _require("training" in env.scenarios, f"the scenarios are {', '.join(env.scenarios)}; 'training' is missing")
    struct.check(env.default_params)
    model = jax.tree.structure(env.default_params)
    draws = {name: functools.partial(env.sample_params, scenario=name) for name in env.scenarios}
    draw = subject.compiled("links", jax.vmap(lambda key: {name: strong(one(key)) for name, one in draws.items()}))
    drawn = draw(subject.keys(64))
    for scenario, line in env.scenarios.items():
        _require(bool(line.strip()), f"the scenario {scenario!r} has no line that says what it is")
        links = drawn[scenario]
        _require(jax.tree.structure(links) == model, f"{scenario!r} draws {type(links).__name__} of another structure")
        try:
            struct.check(links)
        except ValueError as error:
            raise _BrokenError(f"{scenario!r} draws an invalid link: {error}") from error
        for name, leaf in _named_leaves(links):
            _require(np.isfinite(np.asarray(leaf, np.float64)).all(), f"{scenario!r} draws {name} that is not finite")
    try:
        dataclasses.replace(env, scenario="no such scenario")
    except ValueError as error:
        _require("training" in str(error), "the refusal of an unknown scenario does not list what there is")
    else:
        raise _BrokenError("an unknown scenario is not refused")


@_promise(
    "masks are bool, have the shape of the choices, and always leave one of them",
    "return one flag a choice (for MultiDiscrete those of all components behind each other), with a no-op always legal",
)
def _check_masks(subject: Subject) -> None:
    space, mask = subject.env.action_space(), subject.rollout["mask"]
    if mask is None:
        return
    _require(not isinstance(space, gym.spaces.Box), "continuous actions have no masks")
    choices = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else np.ravel(space.nvec).tolist()  # type: ignore[union-attr]
    joint = (subject.env.num_agents,) if subject.env.agents else ()
    mask = np.asarray(mask)
    _require(mask.dtype == np.bool_, f"masks are {mask.dtype}, not bool")
    _require(
        mask.shape[2:] == (*joint, sum(choices)), f"masks have the shape {mask.shape[2:]}, not {(*joint, sum(choices))}"
    )
    for part in np.split(mask, np.cumsum(choices)[:-1], axis=-1):
        _require(part.any(axis=-1).all(), "a mask forbids every choice")

"""Trained policies as files that cannot run code: arrays in safetensors, and a JSON header that says how to use them.

The network, in order::

    the last `history` observations, concatenated, oldest first, zeros before the reset
    -> (x - obs.mean) / obs.std, clipped to +-obs_clip if that is given
    -> torso.0 -> activation -> [gru] -> torso.1 -> activation -> ... -> head -> action

Tensors, all float32: ``obs.mean``, ``obs.std`` ``(history * obs_size,)``; ``torso.{i}.kernel`` ``(in, out)`` and
``torso.{i}.bias``; ``gru.kernel_i`` ``(in, 3 H)``, ``gru.kernel_h`` ``(H, 3 H)``, ``gru.bias_i`` and ``gru.bias_h``
``(3 H,)`` with the gates in PyTorch's order (reset, update, new) and PyTorch's formula; ``head.kernel``, ``head.bias``.
Without torso layers the GRU, or else the head, reads the normalised observation.

The head's outputs become an action deterministically: ``continuous``: the mean, clipped to the bounds or squashed by
tanh onto them; ``discrete``: the largest logit among the legal actions; ``multidiscrete``: the largest of each
component's logits, which are concatenated. A ``stochastic`` policy, whose own noise probes what it controls, draws
instead: normal around the mean with the deviation ``exp(head.log_std)`` (before clip or tanh), or from the softmax of
the logits. In a multi-agent task every agent runs the same network.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from qkd_gym import struct
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.agent import Agent
from qkd_gym.files import write_atomic

#: Value of ``__metadata__["format"]``; the version grows when a reader of the old one would misread the new one.
FORMAT = "qkd_gym.policy/1"
#: Bounds of the log deviation of an action's noise, where it depends on the state.
LOG_STD = (-5.0, 0.5)
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "silu": jax.nn.silu}
KINDS = ("continuous", "discrete", "multidiscrete")
SQUASHES = ("clip", "tanh")
#: Larger files are refused before they are read.
MAX_BYTES = 256 * 2**20


class PolicyFileError(ValueError):
    """A policy file that is corrupt, foreign, or made for another task; the message says why."""


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """How to build a policy from its tensors.

    Args:
        env_id: the task, with its version, that the policy was trained for.
        obs_size: components of one observation.
        action_kind: "continuous", "discrete" or "multidiscrete".
        action_sizes: number of action components; or number of actions; or of choices of each component.
        hidden: widths of the dense layers of the torso.
        gru: width of the GRU cell after the first dense layer; 0: no memory.
        activation: "tanh", "relu" or "silu".
        squash: how a continuous mean meets its bounds: "clip" (PPO) or "tanh" (SAC).
        history: observations that the network sees at once.
        obs_clip: bound of the normalised observation; 0: none.
        stochastic: draw the action rather than take the mode; continuous policies then have ``head.log_std``.
        noise_by_state: the head's last outputs, one a component, add to ``head.log_std``, within `LOG_STD`.
        name: name in tables; "" takes the file's name.
        provenance: who trained it: algorithm, steps, seed, commit, ... (any JSON). Says nothing about how to run it.
    """

    env_id: str
    obs_size: int
    action_kind: str
    action_sizes: tuple[int, ...]
    hidden: tuple[int, ...] = ()
    gru: int = 0
    activation: str = "tanh"
    squash: str = "clip"
    history: int = 1
    obs_clip: float = 0.0
    stochastic: bool = False
    noise_by_state: bool = False
    name: str = dataclasses.field(default="", compare=False)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        object.__setattr__(self, "action_sizes", tuple(self.action_sizes))
        _check_spec(self)

    @classmethod
    def for_env(cls, env: Environment, **fields: Any) -> PolicySpec:
        """The spec of a policy for `env`: its id, observation size and action kind filled in."""
        kind, sizes = _action_head(env.action_space())
        shape = env.observation_space().shape or ()
        return cls(env_id=env.id, obs_size=math.prod(shape), action_kind=kind, action_sizes=sizes, **fields)

    @property
    def input_size(self) -> int:
        return self.history * self.obs_size

    @property
    def head_size(self) -> int:
        return sum(self.action_sizes) * (1 + self.noise_by_state)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the file."""
        shapes: dict[str, tuple[int, ...]] = {"obs.mean": (self.input_size,), "obs.std": (self.input_size,)}
        width = self.input_size
        for i, out in enumerate(self.hidden or (0,)):
            if out:
                shapes |= {f"torso.{i}.kernel": (width, out), f"torso.{i}.bias": (out,)}
                width = out
            if i == 0 and self.gru:
                gates = 3 * self.gru
                shapes |= {"gru.kernel_i": (width, gates), "gru.kernel_h": (self.gru, gates)}
                shapes |= {"gru.bias_i": (gates,), "gru.bias_h": (gates,)}
                width = self.gru
        shapes |= {"head.kernel": (width, self.head_size), "head.bias": (self.head_size,)}
        return shapes | ({"head.log_std": self.action_sizes} if self._draws_normal else {})

    @property
    def _draws_normal(self) -> bool:
        return self.stochastic and self.action_kind == "continuous"

    @property
    def parameters(self) -> int:
        """Trained numbers; the normalisation of the observation counts too, for it is learned from data."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one decision: those of the matrix products, and one a component for the normalisation."""
        return self.input_size + sum(math.prod(shape) for shape in self.shapes.values() if len(shape) == 2)


@struct.dataclass
class LearnedPolicy(Agent[Any]):
    """A policy from a file, in pure JAX. Policies of one spec share a compiled program."""

    weights: Any = struct.field(None, doc="tensors by name, float32")
    spec: Any = struct.field(None, static=True, doc="the PolicySpec")
    role: ClassVar[str] = "learned"

    @property
    def label(self) -> str:
        return self.spec.name or "learned"

    def init(self, key: PRNGKeyArray, env: Environment, params: Any) -> Any:
        check_fits(self.spec, env)
        agents = (len(env.agents),) if env.agents else ()
        history = jnp.zeros((*agents, self.spec.history - 1, self.spec.obs_size), jnp.float32)
        return history, jnp.zeros((*agents, self.spec.gru), jnp.float32), _bounds(env.action_space())

    def act(self, key: PRNGKeyArray, carry: Any, obs: Array, mask: Array | None) -> tuple[Array, Any]:
        history, hidden, bounds = carry
        one = self._decide
        if history.ndim == 3:
            one, key = jax.vmap(one, (0, 0, 0, 0, 0, None)), jax.random.split(key, history.shape[0])
        action, history, hidden = one(key, obs, history, hidden, mask, bounds)
        return action, (history, hidden, bounds)

    def _decide(
        self, key: PRNGKeyArray, obs: Array, history: Array, hidden: Array, mask: Array | None, bounds: Any
    ) -> tuple[Array, Array, Array]:
        spec, w = self.spec, self.weights
        seen = jnp.concatenate([history, obs.reshape(1, -1)])
        x = (seen.reshape(-1) - w["obs.mean"]) / w["obs.std"]
        x = jnp.clip(x, -spec.obs_clip, spec.obs_clip) if spec.obs_clip else x
        for i, width in enumerate(spec.hidden or (0,)):
            if width:
                x = ACTIVATIONS[spec.activation](x @ w[f"torso.{i}.kernel"] + w[f"torso.{i}.bias"])
            if i == 0 and spec.gru:
                x = hidden = gru_cell(w, x, hidden)
        out = x @ w["head.kernel"] + w["head.bias"]
        if spec.stochastic:  # the largest of logits plus Gumbel noise is a draw from their softmax
            draw = jax.random.normal if spec.action_kind == "continuous" else jax.random.gumbel
            scale = 1.0
            if spec.action_kind == "continuous":
                out, extra = out[: sum(spec.action_sizes)], out[sum(spec.action_sizes) :]
                log_std = jnp.clip(w["head.log_std"] + extra, *LOG_STD) if spec.noise_by_state else w["head.log_std"]
                scale = jnp.exp(log_std)
            out = out + scale * draw(key, out.shape, jnp.float32)
        return self._action(out, mask, bounds), seen[1:], hidden

    def _action(self, out: Array, mask: Array | None, bounds: Any) -> Array:
        low, high = bounds
        if self.spec.action_kind == "continuous":
            if self.spec.squash == "tanh":
                out = low + 0.5 * (jnp.tanh(out) + 1) * (high - low)
            return jnp.clip(out, low, high)
        legal = out if mask is None else jnp.where(mask, out, -jnp.inf)
        if self.spec.action_kind == "discrete":
            return low + jnp.argmax(legal).astype(jnp.int32)
        ends = np.cumsum(self.spec.action_sizes)
        parts = jnp.split(legal, ends[:-1].tolist())
        return jnp.stack([jnp.argmax(part) for part in parts]).astype(jnp.int32)


def gru_cell(weights: Mapping[str, Array], x: Array, hidden: Array) -> Array:
    """One step of a gated recurrent unit (Cho et al. 2014), in the variant and gate order of PyTorch's `GRUCell`."""
    from_x = x @ weights["gru.kernel_i"] + weights["gru.bias_i"]
    from_h = hidden @ weights["gru.kernel_h"] + weights["gru.bias_h"]
    (xr, xz, xn), (hr, hz, hn) = jnp.split(from_x, 3, axis=-1), jnp.split(from_h, 3, axis=-1)
    update = jax.nn.sigmoid(xz + hz)
    return update * hidden + (1 - update) * jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * hn)


def save_policy(path: str | Path, spec: PolicySpec, weights: Mapping[str, Any]) -> Path:
    """Write a policy; what could not be loaded again is refused. The file appears whole or not at all."""
    save = _safetensors("numpy").save
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    _check_tensors(spec, arrays, "these weights")
    header = {"format": FORMAT, "spec": json.dumps(dataclasses.asdict(spec), sort_keys=True)}
    path = Path(path)
    write_atomic(path, save(arrays, metadata=header))
    return path


def read_spec(path: str | Path) -> PolicySpec:
    """The header of a policy file, without its tensors."""
    return _read(Path(path), tensors=False)[0]


def load_policy(path: str | Path, env: Environment | None = None) -> LearnedPolicy:
    """The agent in a policy file. Nothing in the file is executed or unpickled.

    Raises:
        PolicyFileError: the file is missing, damaged, no policy of ours, or does not fit `env`.
    """
    spec, arrays = _read(Path(path), tensors=True)
    if env is not None:
        check_fits(spec, env)
    return LearnedPolicy(weights={name: jnp.asarray(value) for name, value in arrays.items()}, spec=spec)


def check_fits(spec: PolicySpec, env: Environment) -> None:
    """Raise `PolicyFileError` unless a policy of this spec can act in `env`."""
    if spec.env_id != env.id:
        raise PolicyFileError(f"the policy was trained for {spec.env_id}, not for {env.id}")
    size = math.prod(env.observation_space().shape or ())
    if spec.obs_size != size:
        raise PolicyFileError(f"the policy reads {spec.obs_size} observation components; {env.id} has {size}")
    kind, sizes = _action_head(env.action_space())
    if (spec.action_kind, spec.action_sizes) != (kind, sizes):
        raise PolicyFileError(
            f"the policy acts as {spec.action_kind}{list(spec.action_sizes)}; {env.id} wants {kind}{list(sizes)}"
        )


def _action_head(space: gym.Space) -> tuple[str, tuple[int, ...]]:
    if isinstance(space, gym.spaces.Box):
        return "continuous", (math.prod(space.shape),)
    if isinstance(space, gym.spaces.Discrete):
        return "discrete", (int(space.n),)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return "multidiscrete", tuple(int(n) for n in space.nvec)
    raise TypeError(f"no policy head for {type(space).__name__} actions")


def _bounds(space: gym.Space) -> tuple[Array, Array]:
    """Low and high of a Box; the first action of a Discrete space (zero for a MultiDiscrete one), twice."""
    if isinstance(space, gym.spaces.Box):
        return jnp.asarray(space.low, jnp.float32), jnp.asarray(space.high, jnp.float32)
    start = jnp.int32(int(space.start) if isinstance(space, gym.spaces.Discrete) else 0)
    return start, start


def _check_spec(spec: PolicySpec) -> None:
    def natural(name: str, value: Any, least: int) -> None:
        if type(value) is not int or not least <= value <= 2**20:
            raise PolicyFileError(f"{name} = {value!r} must be a whole number of at least {least}")

    if not isinstance(spec.env_id, str) or not re.fullmatch(r"[\w./-]{1,100}", spec.env_id):
        raise PolicyFileError(f"env_id = {spec.env_id!r} is no task id")
    natural("obs_size", spec.obs_size, 1)
    natural("history", spec.history, 1)
    natural("gru", spec.gru, 0)
    for width in spec.hidden:
        natural("hidden width", width, 1)
    for size in spec.action_sizes:
        natural("action size", size, 1)
    for name, value, allowed in (
        ("action_kind", spec.action_kind, KINDS),
        ("activation", spec.activation, tuple(ACTIVATIONS)),
        ("squash", spec.squash, SQUASHES),
    ):
        if value not in allowed:
            raise PolicyFileError(f"{name} = {value!r} must be one of {', '.join(allowed)}")
    if not spec.action_sizes or (spec.action_kind != "multidiscrete" and len(spec.action_sizes) != 1):
        raise PolicyFileError(f"action_sizes = {list(spec.action_sizes)} does not fit {spec.action_kind} actions")
    if not isinstance(spec.obs_clip, (int, float)) or not 0 <= spec.obs_clip < math.inf:
        raise PolicyFileError(f"obs_clip = {spec.obs_clip!r} must be a finite number, 0 for none")
    if not isinstance(spec.stochastic, bool):
        raise PolicyFileError(f"stochastic = {spec.stochastic!r} must be true or false")
    if spec.noise_by_state is not True and spec.noise_by_state is not False:
        raise PolicyFileError(f"noise_by_state = {spec.noise_by_state!r} must be true or false")
    if spec.noise_by_state and not (spec.stochastic and spec.action_kind == "continuous"):
        raise PolicyFileError("noise_by_state needs a stochastic policy with continuous actions")
    if not isinstance(spec.name, str) or not isinstance(spec.provenance, Mapping):
        raise PolicyFileError("name must be a string and provenance a JSON object")


def _check_tensors(spec: PolicySpec, arrays: Mapping[str, np.ndarray], where: str) -> None:
    shapes = spec.shapes
    if set(arrays) != set(shapes):
        missing, surplus = sorted(set(shapes) - set(arrays)), sorted(set(arrays) - set(shapes))
        raise PolicyFileError(f"{where} do not match the header: missing {missing}, unexpected {surplus}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise PolicyFileError(f"{name} is {array.dtype}{array.shape}; the header wants float32{shape}")
        if not np.isfinite(array).all():
            raise PolicyFileError(f"{name} holds NaN or infinity")
    if not (arrays["obs.std"] > 0).all():
        raise PolicyFileError("obs.std must be positive")


def _read(path: Path, *, tensors: bool) -> tuple[PolicySpec, dict[str, np.ndarray]]:
    try:
        return _read_checked(path, tensors)
    except PolicyFileError as error:
        raise PolicyFileError(f"{path}: {error}") from None


def _read_checked(path: Path, tensors: bool) -> tuple[PolicySpec, dict[str, np.ndarray]]:
    if not path.is_file():
        raise PolicyFileError("no such file")
    if path.stat().st_size > MAX_BYTES:
        raise PolicyFileError(f"larger than {MAX_BYTES // 2**20} MiB, which no policy of ours is")
    safetensors = _safetensors("")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}
    except (safetensors.SafetensorError, TypeError, ValueError, OSError) as error:
        with path.open("rb") as raw:
            start = raw.read(9)
        # Ours start with the length of a JSON header, whose low byte may be a pickle's first.
        if start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:] != b"{"):
            raise PolicyFileError(
                "a pickle or zip checkpoint (SB3, PyTorch); those can run code and are never loaded. "
                "Save the policy with qkd_gym.evaluation.policy_file.save_policy, or export it to ONNX"
            ) from None
        raise PolicyFileError(f"not a valid safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise PolicyFileError(f"header says format {metadata.get('format')!r}; this version reads {FORMAT!r}")
    spec = _parse_spec(metadata.get("spec", ""))
    if tensors:
        _check_tensors(spec, arrays, "the tensors")
    return dataclasses.replace(spec, name=spec.name or path.stem), arrays


def _parse_spec(text: str) -> PolicySpec:
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PolicyFileError(f"header is no JSON ({error})") from None
    known = [f.name for f in dataclasses.fields(PolicySpec)]
    if not isinstance(values, dict) or not set(known) - {"noise_by_state"} <= set(values) <= set(known):
        raise PolicyFileError(f"header must hold exactly: {', '.join(known)}")
    for name in ("hidden", "action_sizes"):
        if not isinstance(values[name], list):
            raise PolicyFileError(f"{name} = {values[name]!r} must be a list")
    return PolicySpec(**values)


def _safetensors(module: str) -> Any:
    """safetensors, or a word on how to get it: it is optional."""
    import importlib

    try:
        return importlib.import_module(f"safetensors.{module}" if module else "safetensors")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("policy files need safetensors: pip install 'qkd-gym[evaluation]'") from error

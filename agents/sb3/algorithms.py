"""The algorithms of Stable-Baselines3 and sb3-contrib by name, and their options from YAML."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agents import runs
from agents.runs import UsageError

HYPERPARAMETERS = Path(__file__).with_name("hyperparameters.yaml")

#: Name -> where its class lives.
ALGORITHMS: dict[str, str] = {
    "a2c": "stable_baselines3:A2C",
    "ddpg": "stable_baselines3:DDPG",
    "dqn": "stable_baselines3:DQN",
    "ppo": "stable_baselines3:PPO",
    "sac": "stable_baselines3:SAC",
    "td3": "stable_baselines3:TD3",
    "crossq": "sb3_contrib:CrossQ",
    "maskable_ppo": "sb3_contrib:MaskablePPO",
    "qrdqn": "sb3_contrib:QRDQN",
    "recurrent_ppo": "sb3_contrib:RecurrentPPO",
    "tqc": "sb3_contrib:TQC",
    "trpo": "sb3_contrib:TRPO",
}
#: Options of ours beside the constructor's: environments, policy, standardisation by running statistics.
OWN: dict[str, Any] = {"n_envs": 16, "policy": "MlpPolicy", "normalize_observations": True, "normalize_rewards": False}
_ACTIVATIONS = {"tanh": "Tanh", "relu": "ReLU", "silu": "SiLU"}


def algorithm_class(name: str) -> Any:
    """The class of an algorithm. Imports torch."""
    module, _, attribute = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def options(algo: str, env_id: str, file: Path | None = None, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All options of a run: given over a file over the task's over the algorithm's over `OWN`."""
    book = runs.read_yaml(HYPERPARAMETERS)
    values = dict(OWN)
    for section in ("defaults", env_id):
        values |= dict((book.get(section) or {}).get(algo) or {})
    if file is not None:
        values |= runs.read_yaml(file)
    values |= {name: value for name, value in (given or {}).items() if value is not None}
    known = _constructor_options(algo)
    if unknown := sorted(set(values) - set(OWN) - known):
        raise UsageError(f"{algo} has no option {', '.join(unknown)}; it has: {', '.join(sorted(known | set(OWN)))}")
    values = {name: _number(value) for name, value in values.items()}
    n_envs = values["n_envs"]
    if isinstance(n_envs, bool) or not isinstance(n_envs, int) or n_envs < 1:
        raise UsageError(f"n_envs = {n_envs!r} must be a whole number of at least 1")
    return values


def build(algo: str, env: Any, values: Mapping[str, Any], seed: int, device: str) -> Any:
    """The model of a run."""
    import torch

    values = {name: value for name, value in values.items() if name not in OWN or name == "policy"}
    policy = dict(values.pop("policy_kwargs", None) or {})
    if "activation" in policy:
        activation = policy.pop("activation")
        if activation not in _ACTIVATIONS:
            raise UsageError(f"activation = {activation!r} is unknown; choose from {', '.join(_ACTIVATIONS)}")
        policy["activation_fn"] = getattr(torch.nn, _ACTIVATIONS[activation])
    rate = values.get("learning_rate")
    if isinstance(rate, str):
        values["learning_rate"] = _linear(rate)
    try:
        return algorithm_class(algo)(
            values.pop("policy"), env, seed=seed, device=device, policy_kwargs=policy, verbose=0, **values
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"{algo} refuses this: {' '.join(str(error).split())}") from error


def _constructor_options(algo: str) -> set[str]:
    reserved = {"self", "env", "seed", "device", "verbose", "_init_setup_model", "tensorboard_log"}
    return set(inspect.signature(algorithm_class(algo).__init__).parameters) - reserved


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``3e-4`` as text."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _linear(text: str) -> Callable[[float], float]:
    """``linear_3e-4``: from that rate down to zero."""
    kind, _, start = text.partition("_")
    try:
        rate = float(start)
    except ValueError:
        rate = 0.0
    if kind != "linear" or not rate > 0:
        raise UsageError(
            f"learning_rate = {text!r} is unknown; give a number, or linear_3e-4 for a rate that falls to 0"
        )
    return lambda remaining: rate * remaining

"""From a trained state to a policy file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from agents.jax.ppo import OBSERVATION_CLIP, Config, State
from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.policy_file import PolicySpec


def export(
    env: Environment, config: Config, state: State, provenance: Mapping[str, Any] | None = None
) -> tuple[PolicySpec, dict[str, np.ndarray]]:
    """Spec and tensors of the actor of one seed's state, for `save_policy`."""
    actor = jax.device_get(state.params["actor"])
    size = config.stack * int(np.prod(env.observation_space().shape))
    weights = {"obs.mean": np.zeros(size, np.float32), "obs.std": np.ones(size, np.float32)}
    if config.normalize_observations:
        stats = jax.device_get(state.observations)
        weights = {"obs.mean": stats.mean, "obs.std": np.asarray(stats.deviation)}
    for i, layer in enumerate(actor["torso"]):
        weights |= {f"torso.{i}.kernel": layer["kernel"], f"torso.{i}.bias": layer["bias"]}
    if config.recurrent:
        gru = actor["gru"]
        weights |= {"gru.kernel_i": gru["input"]["kernel"], "gru.bias_i": gru["input"]["bias"]}
        weights |= {"gru.kernel_h": gru["hidden"]["kernel"], "gru.bias_h": gru["hidden"]["bias"]}
    draws = config.stochastic and "log_std" in actor
    by_state = draws and config.noise_by_state
    outputs = slice(None) if by_state or "log_std" not in actor else slice(actor["log_std"].size)  # the rest is noise
    weights |= {"head.kernel": actor["head"]["kernel"][:, outputs], "head.bias": actor["head"]["bias"][outputs]}
    if draws:
        weights["head.log_std"] = actor["log_std"]
    spec = PolicySpec.for_env(
        env,
        hidden=config.hidden,
        gru=config.gru_size if config.recurrent else 0,
        activation=config.activation,
        history=config.stack,
        obs_clip=OBSERVATION_CLIP if config.normalize_observations else 0.0,
        stochastic=config.stochastic,
        noise_by_state=by_state,
        provenance=dict(provenance or {}),
    )
    return spec, weights

"""Trained SB3 models as policy files of ours, and as policies that the evaluation can step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.policy_file import PolicySpec

_ACTIVATIONS = {torch.nn.Tanh: "tanh", torch.nn.ReLU: "relu", torch.nn.SiLU: "silu"}


class NotExportable(ValueError):
    """The network has parts that a policy file cannot describe (an LSTM, a batch norm, quantiles)."""


def export(
    env: Environment, model: Any, normalizer: VecNormalize | None = None, provenance: Mapping[str, Any] | None = None
) -> tuple[PolicySpec, dict[str, np.ndarray]]:
    """Spec and tensors of a model's deterministic actor, for `save_policy`.

    Args:
        normalizer: whose statistics of the observation belong to the policy.

    Raises:
        NotExportable: it is no plain multi-layer perceptron on a flat observation.
    """
    torso, head, squash = _actor(model)
    layers = [module for module in torso if isinstance(module, torch.nn.Linear)]
    others = {type(module) for module in torso if not isinstance(module, torch.nn.Linear)}
    if len(others) > 1 or not others <= set(_ACTIVATIONS):
        raise NotExportable(f"no policy file for layers of {', '.join(sorted(kind.__name__ for kind in others))}")
    size = int(np.prod(env.observation_space().shape))
    weights = {"obs.mean": np.zeros(size, np.float32), "obs.std": np.ones(size, np.float32)}
    clip = 0.0
    if normalizer is not None and normalizer.norm_obs:
        stats = normalizer.obs_rms
        weights = {"obs.mean": stats.mean.ravel(), "obs.std": np.sqrt(stats.var.ravel() + normalizer.epsilon)}
        clip = float(normalizer.clip_obs)
    for i, layer in enumerate(layers):
        weights |= {f"torso.{i}.kernel": _array(layer.weight).T, f"torso.{i}.bias": _array(layer.bias)}
    weights |= {"head.kernel": _array(head.weight).T, "head.bias": _array(head.bias)}
    spec = PolicySpec.for_env(
        env,
        hidden=tuple(layer.out_features for layer in layers),
        activation=_ACTIVATIONS[others.pop()] if others else "tanh",
        squash=squash,
        obs_clip=clip,
        provenance=dict(provenance or {}),
    )
    return spec, {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


def _actor(model: Any) -> tuple[list[torch.nn.Module], torch.nn.Linear, str]:
    """Layers before the head, the head, and how its outputs meet the bounds."""
    policy = model.policy
    name = type(model).__name__
    if name in ("PPO", "A2C", "TRPO", "MaskablePPO"):
        extractor, torso, head, squash = (
            policy.pi_features_extractor,
            policy.mlp_extractor.policy_net,
            policy.action_net,
            "clip",
        )
        if getattr(policy, "squash_output", False):
            raise NotExportable("no policy file for squashed exploration")
    elif name in ("SAC", "TQC"):
        extractor, torso, head, squash = (
            policy.actor.features_extractor,
            policy.actor.latent_pi,
            policy.actor.mu,
            "tanh",
        )
    elif name in ("TD3", "DDPG"):
        *torso, head, last = policy.actor.mu
        if not isinstance(last, torch.nn.Tanh):
            raise NotExportable("the actor does not end in a tanh")
        extractor, squash = policy.actor.features_extractor, "tanh"
    elif name == "DQN":
        *torso, head = policy.q_net.q_net
        extractor, squash = policy.q_net.features_extractor, "clip"
    else:
        raise NotExportable(f"no policy file for the network of {name}")
    if not isinstance(extractor, FlattenExtractor) or not isinstance(head, torch.nn.Linear):
        raise NotExportable(f"no policy file for the {type(extractor).__name__} and {type(head).__name__} of {name}")
    return list(torso), head, squash


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


class SB3Policy:
    """A model, its normalisation and its memory, for `evaluate_vector` of `qkd_gym.evaluation`; it acts by its mode."""

    def __init__(self, model: Any, normalizer: VecNormalize | None = None) -> None:
        self._model, self._normalizer = model, normalizer
        self._masked = type(model).__name__ == "MaskablePPO"

    def start(self, num_envs: int) -> None:
        self._memory: Any = None
        self._starts = np.ones(num_envs, bool)

    def act(self, observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        if self._normalizer is not None:
            observations = self._normalizer.normalize_obs(observations)
        more = {"action_masks": masks} if self._masked and masks is not None else {}
        actions, self._memory = self._model.predict(
            observations, state=self._memory, episode_start=self._starts, deterministic=True, **more
        )
        self._starts = np.zeros_like(self._starts)
        return actions

"""Score a policy: play the protocol's episodes, put the returns on the frozen scale, with intervals.

::

    import qkd_gym
    from qkd_gym.evaluation import EVALUATION_SEED, evaluate, load_policy, reference_for, score

    env = qkd_gym.make("PolarizationAlignment", scenario="training")
    results = evaluate(env, load_policy("mine.safetensors", env), episodes=256, seed=EVALUATION_SEED)
    print(score(results, reference_for(env)).score)
"""

from qkd_gym.evaluation.agent import Agent, PassiveAgent, PrivilegedAgent, RandomAgent
from qkd_gym.evaluation.policy_file import PolicyFileError, PolicySpec, load_policy, save_policy
from qkd_gym.evaluation.protocol import EVALUATION_SEED, PROTOCOLS, Protocol
from qkd_gym.evaluation.runner import EpisodeResults, VectorPolicy, episode_keys, evaluate, evaluate_vector
from qkd_gym.evaluation.scores import MissingReference, Reference, Score, reference_for, score
from qkd_gym.evaluation.soundness import violations
from qkd_gym.evaluation.statistics import Interval, bootstrap, iqm, paired_difference, ranks, stratified_bootstrap

__all__ = [
    "EVALUATION_SEED",
    "PROTOCOLS",
    "Agent",
    "EpisodeResults",
    "Interval",
    "MissingReference",
    "PassiveAgent",
    "PolicyFileError",
    "PolicySpec",
    "PrivilegedAgent",
    "Protocol",
    "RandomAgent",
    "Reference",
    "Score",
    "VectorPolicy",
    "bootstrap",
    "episode_keys",
    "evaluate",
    "evaluate_vector",
    "iqm",
    "load_policy",
    "paired_difference",
    "ranks",
    "reference_for",
    "save_policy",
    "score",
    "stratified_bootstrap",
    "violations",
]

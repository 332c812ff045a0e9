"""What an episode claimed against what could truly be certified in it.

A task that credits key declares two metrics: what it credited in a step, and an upper bound, from the simulator's
hidden state, on what any protocol could have certified in that step (for a point-to-point link the repeaterless bound
of Pirandola et al. 2017 times the signals sent, or a tighter one). Credit may be taken back later, and signals of one
step are paid in another, so episodes are compared as a whole. An episode that claims more is a violation, whatever the
reason, and scores 0.
"""

from __future__ import annotations

import numpy as np

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.runner import EpisodeResults

#: Metric of the credited key, and of its bound, both in bits and summed over an episode.
CLAIMED, CERTIFIABLE = "secret_bits", "certifiable_bits"
#: Relative excess that float32 arithmetic inside a step may cause: some tens of roundings of 2**-24.
TOLERANCE = 4e-6


def is_checked(env: Environment) -> bool:
    """Whether the task tells enough for its claims to be checked."""
    return CLAIMED in env.metrics and CERTIFIABLE in env.metrics


def violations(results: EpisodeResults) -> np.ndarray:
    """Episodes that count for nothing, bool `(episodes,)`: over-claimed key, or a return that is no number."""
    bad = np.atleast_1d(~np.isfinite(results.agent_returns).all(axis=1))
    if CLAIMED in results.sums:
        bad |= ~np.isfinite(results.sums[CLAIMED])
        if CERTIFIABLE in results.sums:
            # Written so that a bound of NaN is a violation too.
            bad |= ~(results.sums[CLAIMED] <= results.sums[CERTIFIABLE] * (1 + TOLERANCE))
    return bad

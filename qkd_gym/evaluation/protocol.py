"""The evaluation protocols as data: how many episodes, which scenarios, and which seeds nobody may train or tune on."""

from __future__ import annotations

import dataclasses

from qkd_gym.envs.core import Environment

#: Seed of every published evaluation, and of the frozen reference scores: episode `i` of it is the same for all agents,
#: so an entry is put on the scale of the very links that it met.
EVALUATION_SEED = 7001
#: Train and tune below this; what is at or above it is kept for scoring.
FIRST_RESERVED_SEED = 7000


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What an entry is put through.

    Args:
        episodes: per task and scenario.
        all_scenarios: every scenario of the task, or the training scenario alone.
    """

    name: str
    episodes: int
    all_scenarios: bool
    seed: int = EVALUATION_SEED

    def scenarios(self, env: Environment) -> tuple[str, ...]:
        """The scenarios of `env` that this protocol plays, the training scenario first."""
        shifted = (name for name in env.scenarios if name != "training")
        return ("training", *shifted) if self.all_scenarios else ("training",)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("quick", episodes=32, all_scenarios=False),
        Protocol("full", episodes=256, all_scenarios=True),
    )
}


def check_training_seed(seed: int) -> int:
    """`seed`, or a `ValueError` if it is reserved for scoring."""
    if not 0 <= seed < FIRST_RESERVED_SEED:
        raise ValueError(
            f"seed {seed} is reserved for scoring; train and tune with seeds 0 to {FIRST_RESERVED_SEED - 1}"
        )
    return seed

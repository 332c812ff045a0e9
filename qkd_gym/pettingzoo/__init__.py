"""The multi-agent tasks the PettingZoo way: one module a task, e.g. `from qkd_gym.pettingzoo import key_routing_v0`.

Each module holds `parallel_env(**options)`, `env(**options)` and `raw_env(**options)`. A task of your own has the same
faces by `parallel_env_of(env)` and `aec_env_of(env)`.

Options: those of `qkd_gym.adapters.pettingzoo.make_parallel` (`scenario`, `params`, `max_cycles`, `render_mode`,
`device`) and the fields of the task, e.g. ``topology="nsfnet"``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pettingzoo.utils import AECEnv

    from qkd_gym.adapters.pettingzoo import PettingZooParallelEnv
    from qkd_gym.envs.core import Environment

__all__ = ["aec_env_of", "faces_of", "parallel_env_of"]


def parallel_env_of(env: str | Environment, **options: Any) -> PettingZooParallelEnv:
    """A multi-agent environment, or the id of a registered task, as a `pettingzoo.ParallelEnv`."""
    from qkd_gym.adapters.pettingzoo import make_parallel

    return make_parallel(env, **options)


def aec_env_of(env: str | Environment, **options: Any) -> AECEnv:
    """The same as a `pettingzoo.AECEnv`: agents act in turn, and the step happens with the last one."""
    from qkd_gym.adapters.pettingzoo import make_aec

    return make_aec(env, **options)


def faces_of(
    env_id: str,
) -> tuple[Callable[..., PettingZooParallelEnv], Callable[..., AECEnv], Callable[..., AECEnv]]:
    """`(parallel_env, env, raw_env)` for a task's module. Nothing is imported before one of them is called."""

    def parallel_env(**options: Any) -> PettingZooParallelEnv:
        return parallel_env_of(env_id, **options)

    def env(**options: Any) -> AECEnv:
        return aec_env_of(env_id, **options)

    for function, face in ((parallel_env, "pettingzoo.ParallelEnv"), (env, "pettingzoo.AECEnv")):
        function.__doc__ = f"`{env_id}` as a `{face}`; options: see `qkd_gym.pettingzoo`."
    return parallel_env, env, env

"""Names -> agents of a task.

``agents/practice/<task>.py`` and ``agents/oracle/<task>.py``, with `<task>` the name of the task's own module, each
hold ``AGENTS: dict[str, Agent | PrivilegedAgent]``. Trained policies are the files ``agents/pretrained/*.safetensors``
whose header names the task. Nothing is imported or read until a task is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from pathlib import Path

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.agent import ROLES, Agent, PassiveAgent, PrivilegedAgent, RandomAgent
from qkd_gym.evaluation.policy_file import PolicyFileError, load_policy, read_spec

AnyAgent = Agent | PrivilegedAgent

PRETRAINED = Path(__file__).parent / "pretrained"
_FAMILIES = ("practice", "oracle")


def agents_for(env: Environment, names: Collection[str] | None = None) -> dict[str, AnyAgent]:
    """All shipped agents of a task, by name, in the order of `ROLES`: those of each role as their module lists them.

    Args:
        names: those alone.

    Raises:
        ValueError: if the task has no agent of a name.
    """
    agents: dict[str, AnyAgent] = {"random": RandomAgent.of(env), "passive": PassiveAgent.of(env)}
    task = type(env).__module__.rpartition(".")[2]
    for family in _FAMILIES:
        listed = _listed(f"agents.{family}.{task}")
        if twice := sorted(set(listed) & set(agents)):
            raise ValueError(f"agents/{family}/{task}.py reuses the names {', '.join(twice)}")
        agents |= listed
    agents |= _learned(env)
    if unknown := sorted(set(names or ()) - set(agents)):
        raise ValueError(f"{env.id} has no agent {', '.join(unknown)}; it has: {', '.join(agents)}")
    if names:
        agents = {name: agent for name, agent in agents.items() if name in names}
    return dict(sorted(agents.items(), key=lambda item: ROLES.index(item[1].role)))


def _listed(module: str) -> dict[str, AnyAgent]:
    """The module's AGENTS; none if there is no such module. Errors inside a module are not hidden."""
    family = module.rpartition(".")[0]
    try:
        return dict(importlib.import_module(module).AGENTS)
    except ModuleNotFoundError as error:
        if error.name not in (module, family):
            raise
        return {}


def _learned(env: Environment) -> dict[str, AnyAgent]:
    """Shipped policies of this task. A damaged file is reported and left out: the others still count."""
    found: dict[str, AnyAgent] = {}
    for path in sorted(PRETRAINED.glob("*.safetensors")):
        try:
            if read_spec(path).env_id == env.id:
                found[path.stem] = load_policy(path, env)
        except PolicyFileError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found

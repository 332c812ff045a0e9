"""The command `qkd-gym`: look at the tasks, watch an episode, score a policy."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from qkd_gym.arguments import count
from qkd_gym.registration import TASKS, make

_DESCRIPTION = "Reinforcement-learning environments for quantum key distribution."
_EXAMPLES = """\
examples:
  qkd-gym list                                          the tasks, with their scenarios
  qkd-gym info DecoyBlock                               spaces, scenarios, parameters, metrics of a task
  qkd-gym rollout DecoyBlock --agent passive --render block.gif
                                                        watch one episode
  qkd-gym evaluate PolarizationAlignment --agent my_policy.safetensors
                                                        score a policy of your own on 256 episodes
  qkd-gym evaluate DecoyBlock --agent random --episodes 32 --json | jq .score

"qkd/" and the version may be left out of an id. `qkd-gym COMMAND --help` says more.
"""
_AGENT_HELP = (
    "an agent's name ('random', 'passive' and, in a clone of the repository, the shipped ones), or a policy file: "
    ".safetensors (see qkd_gym.evaluation.policy_file) or .onnx"
)


class UsageError(Exception):
    """What the user asked for cannot be done; the message says why and what can."""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors on one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 with one line on stderr."""
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("qkd-gym: interrupted", file=sys.stderr)
        return 130
    except (UsageError, ImportError, OSError) as error:
        print(f"qkd-gym: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _door() -> Iterator[None]:
    """What is refused in here was asked for wrongly; errors elsewhere are ours, and keep their traceback."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("qkd-gym", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"qkd-gym {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Callable, summary: str, examples: str = "") -> argparse.ArgumentParser:
        epilog = f"examples:\n{examples}" if examples else None
        sub = commands.add_parser(
            name, help=summary.replace("%", "%%"), description=summary, epilog=epilog, formatter_class=raw
        )
        sub.set_defaults(run=run)
        return sub

    command("list", _list, "List the tasks and their scenarios.")

    sub = command("info", _info, "Describe a task.", "  qkd-gym info qkd/DecoyBlock-v0\n  qkd-gym info DecoyBlock\n")
    _add_task(sub)

    sub = command(
        "rollout",
        _rollout,
        "Play one episode, print what came of it, and draw it.",
        "  qkd-gym rollout DecoyBlock --agent passive --render block.gif\n"
        "  qkd-gym rollout PolarizationAlignment --agent mine.onnx --scenario ood-jumps --seed 3 --steps 100\n",
    )
    _add_task(sub)
    _add_play(sub)
    sub.add_argument("--episode", type=count(0), default=0, metavar="I", help="episode of that seed (default: 0)")
    sub.add_argument("--steps", type=count(1), metavar="N", help="stop after N steps (default: the whole episode)")
    sub.add_argument(
        "--render", type=Path, metavar="FILE", help="draw it: an animation (.gif) or the last picture (.png)"
    )
    sub.add_argument("--fps", type=count(1), default=12, metavar="N", help="pictures a second (default: 12)")
    sub.add_argument("--frames", type=count(1), default=120, metavar="N", help="pictures at most (default: 120)")

    sub = command(
        "evaluate",
        _evaluate,
        "Score an agent or a policy file by the protocol: the same episodes for everyone, 95 % intervals.",
        "  qkd-gym evaluate DecoyBlock --agent random\n"
        "  qkd-gym evaluate PolarizationAlignment --agent mine.safetensors --scenario ood-jumps --json\n",
    )
    _add_task(sub)
    _add_play(sub)
    sub.add_argument("--episodes", type=count(1), default=256, metavar="N", help="episodes (default: 256)")
    sub.add_argument("--json", action="store_true", help="print JSON on stdout, and nothing else there")
    return parser


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="ID", help="a task, e.g. qkd/DecoyBlock-v0 or DecoyBlock; see qkd-gym list")


def _add_play(parser: argparse.ArgumentParser) -> None:
    from qkd_gym.evaluation.protocol import EVALUATION_SEED

    parser.add_argument("--agent", required=True, metavar="NAME|FILE", help=_AGENT_HELP)
    parser.add_argument(
        "--scenario", default="training", metavar="NAME", help="a scenario of the task (default: training)"
    )
    parser.add_argument(
        "--seed",
        type=count(0),
        default=EVALUATION_SEED,
        metavar="S",
        help=f"seed of the episodes (default: {EVALUATION_SEED}, that of the protocol)",
    )


# ---- commands --------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> None:
    rows = []
    for env_id in TASKS:
        env = make(env_id)
        summary = (inspect.getdoc(type(env)) or "").partition("\n")[0]
        rows.append([env_id, _agents_of(env), summary])
        rows.append(["", "scenarios", ", ".join(env.scenarios)])
    print(_table(["id", "", "what it is about"], rows))


def _agents_of(env: Any) -> str:
    if not env.agents:
        return "one agent"
    return "agents: " + ", ".join(env.agents) if len(env.agents) < 4 else f"{len(env.agents)} agents"


def _info(arguments: argparse.Namespace) -> None:
    env = _make(arguments.task)
    params = env.default_params
    print(f"{env.id}\n\n{inspect.getdoc(type(env)) or ''}\n")
    print(f"Observation space   {env.observation_space()}")
    print(f"Action space        {env.action_space()}")
    print(f"Passive action      {np.asarray(env.passive_action).tolist()}")
    if env.agents:
        print(f"Agents              {', '.join(env.agents)}")
        from qkd_gym.envs.centralised import Centralised

        central = Centralised(env)
        print(f"\nAs gymnasium.make({env.id!r}), one controller for all agents")
        print(f"Observation space   {central.observation_space()}")
        print(f"Action space        {central.action_space()}")
    print("\nScenarios")
    print(_table(None, [[name, text] for name, text in env.scenarios.items()]))
    print("\nParameters (the default link)")
    rows = []
    for field in dataclasses.fields(params):
        low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
        value = np.asarray(getattr(params, field.name))
        if value.ndim == 0:
            shown = f"{value:g}"
        elif value.size <= 12:
            shown = "[" + ", ".join(f"{x:g}" for x in value.ravel()) + "]"
        else:
            low_high = sorted({f"{value.min():g}", f"{value.max():g}"}, key=float)
            shown = f"{value.size} values, {' ... '.join(low_high)}"
        meta = field.metadata
        rows.append([field.name, shown, meta.get("unit", ""), f"{low:g} ... {high:g}", meta.get("doc", "")])
    print(_table(["name", "default", "unit", "range", "meaning"], rows))
    print("\nMetrics (in info, every step)")
    print(_table(None, [[name, text] for name, text in env.metrics.items()]))
    print("\nAgents here")
    print(_table(None, [[name, agent.role] for name, agent in _agents(env).items()]))
    _print_reference(env)


def _print_reference(env: Any) -> None:
    from qkd_gym.evaluation.scores import ANCHORS, MissingReference, reference_for

    rows = []
    for scenario in env.scenarios:
        try:
            reference = reference_for(dataclasses.replace(env, scenario=scenario))
        except MissingReference:
            continue
        anchors = [getattr(reference, name) for name in ANCHORS]
        rows.append([scenario, *("-" if a is None else f"{a.mean:.4f} ({a.agent})" for a in anchors)])
    if rows:
        print("\nReference returns (score 0, score 1, the line to beat, known to be reachable)")
        print(_table(["scenario", *ANCHORS], rows))


def _rollout(arguments: argparse.Namespace) -> None:
    from qkd_gym.evaluation.rollout import rollout

    env = _make(arguments.task, arguments.scenario)
    agent = _agent(arguments.agent, env)
    draw = None
    if arguments.render is not None:
        _check_picture(arguments.render)
        from qkd_gym.rendering import renderer

        with _door():
            draw = renderer(env)
    steps: list[Any] = []
    pictures: list[np.ndarray] = []
    moving = arguments.render is not None and arguments.render.suffix == ".gif"
    with _progress("playing") as progress:
        every = limit = 1
        for step in rollout(env, agent, arguments.seed, arguments.episode):
            steps.append(step)
            if len(steps) == 1:
                limit = int(step.episode.params.max_steps_in_episode)
                limit = min(limit, arguments.steps or limit)
                every = -(-limit // arguments.frames)
            last = step.done or len(steps) > limit
            if draw is not None:
                draw.add(step.episode, step.action, step.info)
                if last or (moving and (len(steps) - 1) % every == 0):
                    pictures.append(draw.frame())
            progress(len(steps) - 1, limit)
            if last:
                break
    _print_episode(env, arguments, steps)
    if arguments.render is not None:
        _save_pictures(arguments.render, pictures, arguments.fps)
        print(f"{arguments.render}: {len(pictures)} picture{'s' * (len(pictures) > 1)}, one per {every} steps")


def _print_episode(env: Any, arguments: argparse.Namespace, steps: list[Any]) -> None:
    count = len(steps) - 1
    total = np.sum([np.float64(step.reward) for step in steps[1:]], axis=0)
    print(f"{env.id}, scenario {env.scenario}, agent {arguments.agent}")
    print(f"seed {arguments.seed}, episode {arguments.episode}")
    print(f"{count} steps, {'ended' if steps[-1].done else 'stopped'}; return {total.mean():.4f}")
    if env.agents:
        print(f"of the agents: {', '.join(f'{n} {x:.4f}' for n, x in zip(env.agents, total, strict=True))}")
    rows = []
    for name, text in env.metrics.items():
        values = np.array([np.float64(step.info[name]).mean() for step in steps[1:]])
        rows.append([name, f"{values.sum():.6g}", f"{values.mean():.6g}", f"{values[-1]:.6g}", text])
    print(_table(["metric", "sum", "mean", "last", "meaning"], rows))


def _evaluate(arguments: argparse.Namespace) -> None:
    from qkd_gym.evaluation.agent import Agent, PrivilegedAgent
    from qkd_gym.evaluation.runner import evaluate, evaluate_vector
    from qkd_gym.evaluation.scores import MissingReference, physical, reference_for, score
    from qkd_gym.evaluation.soundness import is_checked, violations
    from qkd_gym.evaluation.statistics import bootstrap

    env = _make(arguments.task, arguments.scenario)
    agent = _agent(arguments.agent, env)
    play: Callable = evaluate if isinstance(agent, (Agent, PrivilegedAgent)) else evaluate_vector
    chunk = max(1, min(64, -(-arguments.episodes // 4)))
    with _progress("evaluating") as progress:
        results = play(env, agent, arguments.episodes, arguments.seed, chunk=chunk, progress=progress)
    report: dict[str, Any] = {
        "env_id": env.id,
        "scenario": env.scenario,
        "agent": arguments.agent,
        "role": agent.role,
        "episodes": results.episodes,
        "seed": arguments.seed,
        "violations": int(violations(results).sum()) if is_checked(env) else None,
        "version": _version(),
    }
    try:
        reference = reference_for(env)
        line = score(results, reference)
        report |= {"score": dataclasses.asdict(line.score), "return": dataclasses.asdict(line.mean_return)}
        report["paired"] = line.paired
        frozen = f"the first {reference.zero.episodes} of seed {reference.zero.seed}"
        note = "" if line.paired else f"scored against the means of other episodes, {frozen}: these are not frozen"
    except MissingReference as error:
        report |= {"score": None, "return": dataclasses.asdict(bootstrap(results.returns[~violations(results)]))}
        note = str(error)
    report["physical"] = {unit: dataclasses.asdict(interval) for unit, interval in physical(results).items()}
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{env.id}, scenario {env.scenario}, agent {arguments.agent} ({agent.role}): {results.episodes} episodes")
    rows = [["score", *_cells(report["score"])]] if report["score"] else []
    rows += [["return", *_cells(report["return"])]]
    rows += [[unit, *_cells(interval)] for unit, interval in report["physical"].items()]
    print(_table(["", "mean", "95 % interval"], rows))
    if report["violations"]:
        print(f"{report['violations']} episodes claimed more key than their hidden state allows, and score 0")
    if note:
        print(note)


def _cells(interval: dict[str, float]) -> list[str]:
    return [f"{interval['value']:.4g}", f"[{interval['low']:.4g}, {interval['high']:.4g}]"]


# ---- tasks and agents ------------------------------------------------------------------------------------------------


def _make(env_id: str, scenario: str = "training") -> Any:
    with _door():
        return make(env_id, scenario=scenario)


def _agents(env: Any) -> dict[str, Any]:
    """The shipped agents if this is a clone of the repository, else those of the library."""
    from qkd_gym.evaluation.agent import PassiveAgent, RandomAgent

    root = Path(__file__).resolve().parents[1]
    if not ((root / "pyproject.toml").is_file() and (root / "agents" / "registry.py").is_file()):
        return {"random": RandomAgent.of(env), "passive": PassiveAgent.of(env)}
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module("agents.registry").agents_for(env)


def _agent(name: str, env: Any) -> Any:
    """The agent of that name, or in that file."""
    suffix = Path(name).suffix
    if suffix == ".onnx":
        from qkd_gym.evaluation.onnx_policy import OnnxPolicy

        with _door():
            return OnnxPolicy(name, env)
    agents = _agents(env)
    if name in agents:
        return agents[name]
    if suffix or os.sep in name or Path(name).exists():
        from qkd_gym.evaluation.policy_file import load_policy

        with _door():
            return load_policy(name, env)
    raise UsageError(
        f"{env.id} has no agent {name!r}; there are: {', '.join(agents)}; or give a .safetensors or .onnx file"
    )


# ---- output ----------------------------------------------------------------------------------------------------------


def _table(header: list[str] | None, rows: list[list[str]]) -> str:
    """Columns in plain text, as wide as they need to be; the last one wraps at the terminal's width."""
    import shutil
    import textwrap

    lines = ([header] if header else []) + rows
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(lines[0]) if lines else 0)]
    lead = sum(width + 2 for width in widths[:-1]) + 2
    room = max(24, shutil.get_terminal_size((120, 24)).columns - lead)
    text = []
    for line in lines:
        start = "  " + "".join(cell.ljust(width + 2) for cell, width in zip(line[:-1], widths, strict=False))
        body = textwrap.wrap(line[-1], room) or [""]
        text += [(start + body[0]).rstrip(), *(" " * lead + more for more in body[1:])]
    return "\n".join(text)


@contextlib.contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal; silent otherwise, or without `rich`."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError:
        yield lambda done, total: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _check_picture(path: Path) -> None:
    if path.suffix not in (".gif", ".png"):
        raise UsageError(f"--render {path}: the name must end in .gif (animation) or .png (last picture)")
    if not path.parent.is_dir():
        raise UsageError(f"--render {path}: there is no folder {path.parent}")
    try:
        importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise UsageError("--render needs pillow: pip install 'qkd-gym[render]'") from error


def _save_pictures(path: Path, pictures: list[np.ndarray], fps: int) -> None:
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    if path.suffix == ".png":
        images[-1].save(path)
        return
    # One palette for all, from a sample of the pictures, keeps the colours from flickering and the file small.
    some = pictures[:: -(-len(pictures) // 8)]
    palette = Image.fromarray(np.concatenate(some)).quantize(colors=192, dither=Image.Dither.NONE)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, optimize=True)


def _version() -> str:
    from qkd_gym import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())

"""Score every shipped agent on every task, print the tables, and write them as JSON and as a picture.

Whatever was evaluated once is kept in `.cache/evaluations` and not repeated, also after a kill.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import qkd_gym
from agents.registry import PRETRAINED, agents_for
from benchmarks.leaderboard import picture, table
from benchmarks.leaderboard.entries import Board, Played, make_board
from benchmarks.leaderboard.jobs import ROOT, Job, commit, footprint_of, keep_compiled_programs, processor
from qkd_gym import TASKS, make
from qkd_gym.evaluation.protocol import PROTOCOLS, Protocol
from qkd_gym.evaluation.runner import EpisodeResults
from qkd_gym.evaluation.scores import Reference

#: Tasks at a time: one is traced while another is compiled or played, for which XLA lets go of the interpreter.
AT_ONCE = 2


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    protocol = PROTOCOLS[arguments.protocol]
    out = arguments.out or ROOT / "runs" / "leaderboard" / protocol.name
    console = Console() if sys.stdout.isatty() else Console(width=140)
    started = time.monotonic()
    keep_compiled_programs()
    try:
        envs = [make(task) for task in arguments.tasks or TASKS]
        boards = run(envs, protocol, console)
    except ValueError as error:
        print(f"leaderboard: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    for board in boards:
        console.print(table.render(board))
    seconds = time.monotonic() - started
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.json"
    results.write_text(json.dumps(_report(protocol, boards, seconds), indent=1) + "\n")
    picture.draw(boards, out / "leaderboard.png")
    console.print(f"{results}\n{out / 'leaderboard.png'}\n{seconds:.0f} s", soft_wrap=True, highlight=False)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.leaderboard", description=__doc__)
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="quick", help="default: quick")
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="task ids (default: all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/leaderboard/PROTOCOL")
    return parser.parse_args(argv)


def run(envs: list[Any], protocol: Protocol, console: Console) -> list[Board]:
    """All boards of these tasks; prints a line for each evaluation that is finished."""
    agents = {env: agents_for(env) for env in envs}
    total = sum(len(agents[env]) * len(protocol.scenarios(env)) for env in envs)
    columns = (TextColumn("{task.completed:.0f}/{task.total} {task.description}"), BarColumn(), TimeElapsedColumn())
    pool, printing, stopping = ThreadPoolExecutor(AT_ONCE), threading.Lock(), threading.Event()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("", total=total)

        def play(env: Any, name: str, agent: Any) -> EpisodeResults:
            label = f"{env.name} {env.scenario} {name}"
            bar.update(shown, description=label)
            started = time.monotonic()
            job = Job(env, name, agent, protocol.episodes, protocol.seed)
            known = job.stored()
            results = known or job.run()
            took = "kept" if known else f"{time.monotonic() - started:.1f} s"
            with printing:
                bar.advance(shown)
                line = f"[{bar.tasks[0].completed:2.0f}/{total}] {label:50s} {results.returns.mean():8.4g}  {took}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            return results

        def play_all(env: Any) -> dict[Any, list[EpisodeResults]]:
            shifted = [dataclasses.replace(env, scenario=scenario) for scenario in protocol.scenarios(env)]
            todo = agents[env].items()
            return {board: [play(board, *one) for one in todo if not stopping.is_set()] for board in shifted}

        try:
            playing = [pool.submit(play_all, env) for env in envs]
            wait(playing, return_when=FIRST_EXCEPTION)
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)
        played = [one.result() for one in playing]
        bar.update(shown, description="timing")
        console.print("timing the decisions of trained policies, one after the other", highlight=False)
        return [
            make_board(board, [_timed(env, *one) for one in zip(agents[env].items(), results, strict=True)])
            for env, of_task in zip(envs, played, strict=True)
            for board, results in of_task.items()
        ]


def _timed(env: Any, named: tuple[str, Any], results: EpisodeResults) -> Played:
    name, agent = named
    footprint = footprint_of(PRETRAINED / f"{name}.safetensors", env) if agent.role == "learned" else None
    return Played(name, agent, results, footprint)


def _report(protocol: Protocol, boards: list[Board], seconds: float) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for board in boards:
        scale = None if board.reference is None else _anchors(board.reference)
        lines = [entry.as_json() for entry in board.entries]
        tasks.setdefault(board.env_id, {})[board.scenario] = {"reference": scale, "entries": lines}
    return {
        "protocol": dataclasses.asdict(protocol),
        "version": qkd_gym.__version__,
        "commit": commit(),
        "machine": {"processor": processor(), "system": platform.system(), "python": platform.python_version()},
        "seconds": round(seconds, 1),
        "tasks": tasks,
    }


def _anchors(reference: Reference) -> dict[str, Any]:
    """The scale without the single returns, which are in the reference file."""
    anchors = {name: data for name, data in dataclasses.asdict(reference).items() if data is not None}
    return {name: {k: v for k, v in data.items() if k != "returns"} for name, data in anchors.items()}


if __name__ == "__main__":
    sys.exit(main())

"""A board as text."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.leaderboard.entries import Board, Entry
from qkd_gym.evaluation.statistics import Interval

STYLES = {"learned": "bold", "ceiling": "dim", "oracle": "dim"}


def render(board: Board) -> RenderableType:
    """The table of one task and scenario, with its scale underneath."""
    units = list(dict.fromkeys(unit for entry in board.entries for unit in entry.physical))
    measured = any(entry.footprint for entry in board.entries)
    violated = any(entry.violations for entry in board.entries)
    episodes = max(entry.episodes for entry in board.entries)
    table = Table(title=f"{board.env_id}   {board.scenario}   {episodes} episodes", title_justify="left")
    table.title_style = "bold"
    table.add_column("rank", justify="right")
    table.add_column("agent")
    table.add_column("role")
    for column in ("score", "95 %", "return", *units):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("parameters", "mult-adds", "p99 us") if measured else ():
        table.add_column(column, justify="right")
    if violated:
        table.add_column("violations", justify="right", style="red")
    line_to_beat = board.reference.practice.agent if board.reference and board.reference.practice else None
    for entry in board.entries:
        cells = _cells(entry, units, entry.name == line_to_beat)
        if measured:
            cells += _costs(entry)
        if violated:
            cells.append(str(entry.violations or ""))
        table.add_row(*cells, style=STYLES.get(entry.role, ""))
    return Group(table, Text(_scale(board), style="dim"), Text(""))


def _cells(entry: Entry, units: list[str], to_beat: bool) -> list[str]:
    name = entry.name + (f" ({entry.seeds} seeds)" if entry.seeds > 1 else "") + (" *" if to_beat else "")
    rank = "" if entry.rank is None else str(entry.rank)
    score = ["-", ""] if entry.score is None else [f"{entry.score.value:.3f}", _range(entry.score, 3)]
    return [
        rank,
        name,
        entry.role,
        *score,
        f"{entry.mean_return.value:.4g}",
        *(f"{entry.physical[unit].value:.4g}" if unit in entry.physical else "" for unit in units),
    ]


def _costs(entry: Entry) -> list[str]:
    cost = entry.footprint
    if cost is None:
        return ["", "", ""]
    sizes = [f"{n:,}" if n is not None else "?" for n in (cost.parameters, cost.multiply_adds)]
    return [*sizes, f"{cost.p99_us:.0f}"]


def _range(interval: Interval, digits: int) -> str:
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _scale(board: Board) -> str:
    reference = board.reference
    if reference is None:
        return board.note
    parts = [f"0 = {reference.zero.agent}", f"1 = {reference.one.agent}"]
    if reference.practice is not None:
        parts.append(f"* line to beat: {reference.practice.agent} {reference.score(reference.practice.mean):.3f}")
    if reference.ceiling is not None:
        parts.append(f"known to be reachable: {reference.ceiling.agent} {reference.score(reference.ceiling.mean):.3f}")
    return "score: " + "; ".join(parts) + ". Equal ranks: no difference seen on paired episodes."

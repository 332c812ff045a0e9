"""A board as text."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.leaderboard.entries import Board, Entry
from qkd_gym.evaluation.statistics import Interval

STYLES = {"learned": "bold", "ceiling": "dim", "oracle": "dim"}
#: Secret key in physical units: the first that the task has is shown, others are in the JSON.
UNITS = ("kbit/s", "Mbit/episode")


def render(board: Board) -> RenderableType:
    """The table of one task and scenario, with its scale underneath."""
    units = [unit for unit in UNITS if any(unit in entry.physical for entry in board.entries)][:1]
    violated = any(entry.violations for entry in board.entries)
    episodes = max(entry.episodes for entry in board.entries)
    title = f"{board.env_id}   {board.scenario}   {episodes} episodes"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("rank", justify="right")
    table.add_column("agent", no_wrap=True, overflow="fold")
    table.add_column("role", no_wrap=True)
    for column in ("score", "95 % interval", "return", *units):
        table.add_column(column, justify="right", no_wrap=True)
    if violated:
        table.add_column("violations", justify="right", style="red")
    line_to_beat = board.reference.practice.agent if board.reference and board.reference.practice else None
    for entry, after in zip(board.entries, (*board.entries[1:], None), strict=True):
        cells = _cells(entry, units, entry.name == line_to_beat)
        if violated:
            cells.append(str(entry.violations or ""))
        table.add_row(*cells, style=STYLES.get(entry.role, ""), end_section=after is None or after.role != entry.role)
    return Group(table, Text(_costs(board) + _scale(board), style="dim"), Text(""))


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
        *(figure(entry.physical[unit].value) if unit in entry.physical else "" for unit in units),
    ]


def figure(value: float, digits: int = 4) -> str:
    """So many digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _costs(board: Board) -> str:
    """A line for each trained policy: its size, and what a decision costs on one core of this machine."""
    lines = []
    for entry in board.entries:
        cost = entry.footprint
        if cost is None:
            continue
        sizes = (
            "" if cost.parameters is None else f"{cost.parameters:,} parameters, {cost.multiply_adds:,} multiply-adds, "
        )
        lines.append(f"{entry.name}: {sizes}p99 {cost.p99_us:.0f} us a decision on one core\n")
    return "".join(lines)


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
    paired = (
        "All play the same episodes as 0 and 1 did; intervals are over links, equal ranks mean no paired difference."
    )
    return "score: " + "; ".join(parts) + ".\n" + paired

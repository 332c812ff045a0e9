"""Boards as a picture: scores with their intervals, a row of panels for each task, a panel for each scenario."""

from __future__ import annotations

from pathlib import Path

from benchmarks.leaderboard.entries import Board
from benchmarks.leaderboard.table import figure
from qkd_gym.evaluation.agent import ROLES

#: Colours that stay apart for colour-blind readers (Okabe and Ito).
COLOURS = dict(zip(ROLES, ("#999999", "#666666", "#0072B2", "#D55E00", "#009E73", "#000000"), strict=True))


def draw(boards: list[Board], path: Path) -> None:
    """Write the picture of boards that have a scale; returns of those that have none are drawn as they are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(board.env_id for board in boards))
    rows = [[board for board in boards if board.env_id == task] for task in tasks]
    columns = max(len(row) for row in rows)
    heights = [0.9 + 0.27 * max(len(board.entries) for board in row) for row in rows]
    whole, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(3.2 + 4.3 * columns, sum(heights) + 0.5),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for row, panels in zip(rows, axes, strict=True):
        for axis in panels[len(row) :]:
            axis.set_axis_off()
        for i, (board, axis) in enumerate(zip(row, panels, strict=False)):
            _panel(axis, board, labels=i == 0 or [e.name for e in board.entries] != [e.name for e in row[0].entries])
    used = [role for role in ROLES if any(entry.role == role for board in boards for entry in board.entries)]
    marks = [plt.Line2D([], [], color=COLOURS[role], marker="o", linestyle="", label=role) for role in used]
    lines = {"line to beat": "practice", "known to be reachable": "ceiling"}
    lines = {
        label: anchor for label, anchor in lines.items() if any(getattr(b.reference, anchor, None) for b in boards)
    }
    marks += [plt.Line2D([], [], color=COLOURS[anchor], linestyle=":", label=label) for label, anchor in lines.items()]
    whole.legend(
        handles=marks, loc="outside lower center", ncols=min(len(marks), 4 * columns), frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.savefig(path, dpi=130)
    plt.close(whole)


def _panel(axis, board: Board, labels: bool) -> None:
    entries = board.entries
    for y, entry in enumerate(entries):
        interval = entry.score or entry.mean_return
        colour = COLOURS[entry.role]
        axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
        axis.plot(interval.value, y, "o", color=colour, markersize=5)
        unit = next(iter(entry.physical), None)
        text = f"{interval.value:.2f}" + (f"   {figure(entry.physical[unit].value, 3)} {unit}" if unit else "")
        axis.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5, color=colour)
    reference = board.reference
    if reference is not None:
        for x in (0, 1):
            axis.axvline(x, color="#bbbbbb", linewidth=0.8, zorder=0)
        if reference.practice is not None:
            axis.axvline(
                reference.score(reference.practice.mean), color=COLOURS["practice"], linestyle=":", linewidth=1
            )
        if reference.ceiling is not None:
            axis.axvline(reference.score(reference.ceiling.mean), color=COLOURS["ceiling"], linestyle=":", linewidth=1)
    axis.set_yticks(range(len(entries)), [entry.name for entry in entries] if labels else [""] * len(entries))
    axis.tick_params(axis="y", length=0, labelsize=8.5)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylim(-0.7, len(entries) - 0.3)
    axis.set_xlabel("score (95 % interval)" if reference is not None else "return (95 % interval)", fontsize=8)
    axis.set_title(f"{board.env_id.removeprefix('qkd/')}   {board.scenario}", fontsize=9.5, loc="left")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axis.set_axisbelow(True)

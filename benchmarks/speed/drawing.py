"""The figure: how many times as fast as the loop each side is, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from speed.figures import Group, Spread, groups_of
from speed.plan import PEER_CASE
from speed.rows import Row
from speed.task import COMPARED

OURS, LOOP = "ours", "loop"
COLOURS = {"fine-tune all": "#0072B2", "fixed features": "#D55E00"} | {
    "fixed, augmented": "#009E73",
    "last stage": "#CC79A7",
}
INK, GRID = "#2b2b2b", "#e6e6e6"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw ours against the loop on the left, the peers on the right; nothing without rows."""
    groups = [g for g in groups_of(rows, *COMPARED) if {OURS, LOOP} <= {*g.sides}]
    if not groups:
        return
    mpl.use("agg")
    figure = Figure(figsize=(9, 0.32 * len(groups) + 1.6), layout="constrained")
    peers = [g for g in groups if (g.first.backbone, g.first.pixels) == PEER_CASE and peers_of(g)]
    axes = figure.subplots(1, 2 if peers else 1, squeeze=False)[0]
    bars(axes[0], [(label(g), g.ratio(LOOP, OURS), g.first.work) for g in groups])
    axes[0].set_title("transferkit", loc="left", fontsize=10, color=INK)
    if peers:
        bars(axes[1], [line for group in peers for line in peers_of(group)])
        axes[1].set_title("peers, {}, {} px".format(*PEER_CASE), loc="left", fontsize=10, color=INK)
    figure.supxlabel("times as fast as the loop written by hand", fontsize=9, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "speed", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def label(group: Group) -> str:
    row = group.first
    return f"{row.work}, {row.backbone}, {row.pixels} px"


def peers_of(group: Group) -> list[tuple[str, Spread, str]]:
    """One bar for each peer of a case."""
    sides = [side for side in group.sides if side not in (OURS, LOOP, "peak")]
    work = group.first.work
    return [(f"{side}, {work}", group.ratio(LOOP, side), work) for side in sorted(sides)]


def bars(ax: Axes, lines: Sequence[tuple[str, Spread, str]]) -> None:
    """One bar a line from 1 to its median, with a whisker from lowest to highest."""
    for place, (_, spread, work) in enumerate(lines):
        ax.barh(place, spread.median - 1, left=1, color=COLOURS[work], height=0.6, zorder=2)
        ax.plot((spread.low, spread.high), (place, place), color=INK, linewidth=1, zorder=3)
        text = f" {spread.median:.3g}"
        ax.text(max(spread.high, 1), place, text, va="center", fontsize=8, color=INK)
    ax.set_yticks(range(len(lines)), [name for name, _, _ in lines], fontsize=8)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_xscale("log")
    low = min([0.8, *(spread.low for _, spread, _ in lines)])
    high = max([1.6, *(spread.high for _, spread, _ in lines)])
    ax.set_xlim(low / 1.1, high * 1.7)
    ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high * 1.3]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    ax.minorticks_off()
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.grid(axis="x", color=GRID, zorder=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)

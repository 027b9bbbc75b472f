"""Shared by all figures: axes without pyplot, one palette, one look, saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transferkit._format import describe
from transferkit._validation import to_path
from transferkit.errors import DataError, MissingDependencyError, OutputError

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, MUTED, GREY, LIGHT = "#2b2b2b", "#666666", "#8a8a8a", "#e6e6e6"
"""Text, secondary text, secondary lines, and grids or background bars."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A", "#000000")
"""Colours that the colour-blind can tell apart (after Okabe and Ito, 2008), readable on white."""

STYLES = ("-", "--", "-.", ":")
"""Line styles, one for each round through the palette."""

REFERENCE: Mapping[str, Any] = {"color": GREY, "linewidth": 1, "linestyle": ":"}
LEGEND: Mapping[str, Any] = {"fontsize": 9, "frameon": False, "labelcolor": TEXT}
ANNOTATION: Mapping[str, Any] = {"fontsize": 8, "textcoords": "offset points"}
"""Looks of a reference line, a legend and the text beside a point."""


def matplotlib_module(name: str) -> ModuleType:
    """Import ``matplotlib.<name>``; a MissingDependencyError names the extra that brings it."""
    try:
        return import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise MissingDependencyError(
            "Figures need matplotlib, which is not installed. "
            "Install it with: pip install 'transferkit[plots]'."
        ) from error


def check_type(value: object, expected: type, described_as: str) -> None:
    """Raise a DataError unless ``value`` is an instance of ``expected``."""
    if not isinstance(value, expected):
        raise DataError(f"This figure draws {described_as}, got {describe(value)}.")


def check_each_type(values: object, expected: type, described_as: str) -> None:
    """Raise a DataError unless ``values`` maps names to instances of ``expected``."""
    check_type(values, Mapping, f"{described_as}, or several by name")
    for value in cast("Mapping[str, object]", values).values():
        check_type(value, expected, described_as)


def axes_or_new(ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure of ``size`` inches."""
    if ax is not None:
        return ax
    engine = matplotlib_module("layout_engine").ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)
    figure = cast("Figure", matplotlib_module("figure").Figure(figsize=size, layout=engine))
    return figure.add_subplot()


def label_axes(
    ax: Axes, title: str, *, x: str, y: str, subtitle: str = "", grid: bool = True
) -> None:
    """Set title, subtitle and axis labels, and the look that all figures share."""
    pad = 24 if subtitle else 10
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=TEXT, pad=pad)
    note = ax.annotate(
        subtitle, (0, 1), xytext=(0, 9), xycoords="axes fraction", textcoords="offset points"
    )
    note.set(fontsize=9, color=MUTED)
    ax.set_xlabel(x, color=TEXT)
    ax.set_ylabel(y, color=TEXT)
    ax.tick_params(colors=TEXT, labelsize=9, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
    if grid:
        ax.grid(color=LIGHT, linewidth=0.8)
        ax.set_axisbelow(True)


def percent_axis(ax: Axes, axes: str) -> None:
    """Write the ticks of the named axes (``"x"``, ``"y"`` or ``"xy"``) as percentages."""
    ticker = matplotlib_module("ticker")
    for name in axes:
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_formatter(ticker.PercentFormatter(1.0, symbol=" %"))


def line_style(index: int) -> tuple[str, str]:
    """Return colour and line style of the ``index``-th series."""
    rounds, place = divmod(index, len(PALETTE))
    return PALETTE[place], STYLES[rounds % len(STYLES)]


def shorten(names: Sequence[str], *, width: int = 22) -> list[str]:
    """Leave out a backbone that all share and the middle of long names, but keep them different."""
    shown = list(names)
    start = shown[0].partition(", ")[0] + ", " if len(shown) > 1 else ""
    if all(name.startswith(start) for name in shown):
        shown = [name.removeprefix(start) for name in shown]
    half = (width - 1) // 2
    cut = [n if len(n) <= width else f"{n[:half].rstrip()}…{n[-half:].lstrip()}" for n in shown]
    if len(set(cut)) == len(set(shown)):
        shown = cut
    return [name.replace("$", r"\$") for name in shown]  # matplotlib reads $...$ as a formula


def save(drawn: Axes | Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write the figure that ``drawn`` is or belongs to; the suffix sets the format.

    Args:
        drawn: Axes that a plot function returned, or a figure.
        path: The file; missing folders are made.
        dpi: Pixels per inch of a bitmap.

    Returns:
        The path written.

    Raises:
        OutputError: The file cannot be written, or its suffix is no known format.
        DataError: ``drawn`` is neither axes nor a figure.
    """
    target = to_path("path", path)
    if not hasattr(drawn, "figure"):
        raise DataError(f"This writes axes or a figure, got {describe(drawn)}.")
    owner = drawn.figure
    if owner is None:
        raise OutputError("These axes have left their figure, so there is nothing to write.")
    figure = owner.figure  # a subfigure's figure is the whole one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=dpi, facecolor="white")
    except (OSError, ValueError) as error:
        raise OutputError(f"Cannot write the figure {target}: {error}") from error
    return target

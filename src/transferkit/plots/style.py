"""What all figures share: axes without pyplot, one palette, one look, one way to save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transferkit._format import describe
from transferkit._validation import to_path
from transferkit.errors import DataError, MissingDependencyError, OutputError

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

INK, QUIET, FAINT, PALE = "#2b2b2b", "#666666", "#8a8a8a", "#e6e6e6"
"""Text, secondary text, secondary lines, and grids or background bars."""

EVALUATION = "an Evaluation, such as result.test or what tk.evaluate returns"
"""What most figures draw, in words."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B4C9A", "#000000")
"""Colours told apart by the colour-blind (after Okabe and Ito, 2008), readable on white."""

STYLES = ("-", "--", "-.", ":")
"""Line styles, one for each round through the palette."""


def module(name: str) -> ModuleType:
    """Import a module of matplotlib.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        return import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise MissingDependencyError(
            "Figures need matplotlib, which is not installed. "
            "Install it with: pip install 'transferkit[plots]'"
        ) from error


def require(value: object, kind: type, wanted: str) -> None:
    """See that a figure was given what it draws.

    Raises:
        DataError: It was not; the message says where such a thing comes from.
    """
    if not isinstance(value, kind):
        raise DataError(f"This figure draws {wanted}, got {describe(value)}.")


def require_each(values: object, kind: type, wanted: str) -> None:
    """See that a figure of several was given a mapping from names to what it draws.

    Raises:
        DataError: It was not.
    """
    if not isinstance(values, Mapping):
        raise DataError(f"This figure draws {wanted}, or several by name, got {describe(values)}.")
    for value in values.values():
        require(value, kind, wanted)


def axes_or_new(ax: Axes | None, *, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new figure of ``size`` inches."""
    if ax is not None:
        return ax
    engine = module("layout_engine").ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.14)
    figure = cast("Figure", module("figure").Figure(figsize=size, layout=engine))
    return figure.add_subplot()


def dress(ax: Axes, *, title: str, x: str, y: str, below: str = "", grid: bool = True) -> None:
    """Give ``ax`` title, a quiet line ``below`` it, and axis labels in the house's look."""
    pad = 24 if below else 10
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=pad)
    ax.annotate(
        below,
        xy=(0, 1),
        xytext=(0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=QUIET,
    )
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.tick_params(colors=INK, labelsize=9, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    if grid:
        ax.grid(color=PALE, linewidth=0.8)
        ax.set_axisbelow(True)


def note(ax: Axes, text: str) -> None:
    """Write ``text`` in the middle of axes that have nothing else to show."""
    ax.text(
        0.5,
        0.5,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        color=QUIET,
        backgroundcolor="white",
    )


def legend(ax: Axes) -> None:
    """Show the legend inside the axes, where it hides least."""
    _frameless(ax.legend(loc="best", fontsize=9))


def legend_above(ax: Axes, *, columns: int = 1) -> None:
    """Show the legend above the axes, on the right."""
    _frameless(ax.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, ncols=columns))


def legend_below(ax: Axes, *, columns: int) -> None:
    """Show the legend under the axis label, where it hides nothing."""
    place = (0.5, -0.14)
    _frameless(ax.legend(loc="upper center", bbox_to_anchor=place, fontsize=9, ncols=columns))


def _frameless(box: Legend) -> None:
    box.set_frame_on(False)
    for text in box.get_texts():
        text.set_color(INK)


def percent_axis(ax: Axes, axes: str) -> None:
    """Write the ticks of the named axes (``"x"``, ``"y"`` or ``"xy"``) as percentages."""
    ticker = module("ticker")
    for name in axes:
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_formatter(ticker.PercentFormatter(1.0, symbol=" %"))


def line_look(index: int) -> tuple[str, str]:
    """Return colour and line style of the ``index``-th series."""
    rounds, place = divmod(index, len(PALETTE))
    return PALETTE[place], STYLES[rounds % len(STYLES)]


def shorten(names: Sequence[str], *, width: int = 22) -> list[str]:
    """Cut names in the middle, where beginnings and endings still tell them apart.

    Dollar signs are escaped: matplotlib would take what stands between two of them for a formula.
    """
    half = (width - 1) // 2
    cut = [n if len(n) <= width else f"{n[:half].rstrip()}…{n[-half:].lstrip()}" for n in names]
    return [name.replace("$", r"\$") for name in cut]


def save(drawn: Axes | Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write the figure that ``drawn`` is or belongs to; the suffix says the format.

    Args:
        drawn: What a plot function returned, or a figure.
        path: The file; missing folders are made.
        dpi: Pixels per inch of a bitmap.

    Returns:
        The path written.

    Raises:
        OutputError: The file cannot be written, or no format goes by the suffix.
    """
    target = to_path("path", path)
    if not hasattr(drawn, "figure"):
        raise DataError(f"save writes axes or a figure, got {describe(drawn)}.")
    owner = drawn.figure
    if owner is None:
        raise OutputError("These axes have left their figure, so there is nothing to write.")
    figure = owner.figure  # of a part of a figure, the whole
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=dpi, facecolor="white")
    except (OSError, ValueError) as error:
        raise OutputError(f"Cannot write the figure {target}: {error}") from error
    return target

"""How all figures look: readable on white and on dark pages, and told apart without colour vision."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from starquant_fx.errors import InputError, StarQuantError, cause
from starquant_fx.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#767676"
"""Text, axes and ticks: a grey with a contrast of 4 on white and on black pages; the background is transparent."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#808080")
"""Those of Okabe and Ito's colour-blind safe palette whose contrast is 3 or more on both kinds of pages, and grey."""
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
FORMATS = ("png", "svg")
DPI = 150


class Look(NamedTuple):
    """How one series is drawn: never by colour alone."""

    color: str
    marker: str
    linestyle: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name; colours, markers and dashes repeat after different numbers of names."""
    return {
        name: Look(
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
        )
        for i, name in enumerate(names)
    }


def require_matplotlib() -> None:
    """Raises a StarQuantError if figures cannot be drawn."""
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise StarQuantError(
            "figures need matplotlib",
            expected="the extra figures",
            got=cause(error),
            hint="pip install 'starquant-fx[figures]'",
        ) from error


def panels(rows: int, columns: int, width: float = 4.2, height: float = 3.0) -> tuple[Figure, Any]:
    """A transparent figure of panels.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Of a panel, in inches.
        height: Of a panel, in inches.

    Returns:
        The figure and its axes, an array [rows, columns].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.patch.set_alpha(0)
        one.tick_params(which="both", colors=INK)
        one.grid(visible=True, color=INK, alpha=0.25, linewidth=0.6)
        one.set_axisbelow(True)
        for spine in one.spines.values():
            spine.set_color(INK)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Labels a panel; every axis says what it shows and in which unit."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    if title:
        axes.set_title(title, color=INK, fontsize="medium")


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Puts the legend of a panel below the figure."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, labelcolor=INK
    )


def rendered(figures: Mapping[str, Figure]) -> Iterator[tuple[str, bytes]]:
    """Renders figures to files: yields name with suffix and content; the same figure gives the same bytes."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "starquant"}):
        for name, figure in figures.items():
            for suffix in FORMATS:
                content = io.BytesIO()
                stamp = {"Date": None} if suffix == "svg" else {"Software": None}
                figure.savefig(content, format=suffix, dpi=DPI, metadata=stamp)
                yield f"{name}.{suffix}", content.getvalue()


def check_folder(folder: Path) -> None:
    """Checks, before any work, that figures can be written to a folder, which need not be there yet.

    Raises:
        InputError: It is a file, or cannot be made.
    """
    try:
        if not folder.is_dir():
            folder.mkdir()
            folder.rmdir()
    except OSError as error:
        raise InputError(
            "the folder for the figures cannot be made",
            where=str(folder),
            expected="a folder, or a new name in an existing folder",
            got=cause(error),
        ) from error


def save(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Writes every figure as PNG and SVG; nothing is written unless all of them could be drawn.

    Args:
        figures: Name -> figure.
        folder: As ``check_folder`` accepts it; made if it is missing.

    Returns:
        The files.
    """
    drawn = [(folder / name, content) for name, content in rendered(figures)]
    folder.mkdir(exist_ok=True)
    for path, content in drawn:
        write_atomically(path, content)
    return [path for path, _ in drawn]

"""A table that fits a terminal: it leaves its least important columns out rather than cutting a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from starquant_fx.errors import plain
from starquant_fx.inspection.wording import QUIET

Cell = str | Text
GAP = 2
"""Between columns: padding, and one that the box takes."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: Its title.
        rank: How soon it is left out: the highest first, 0 never.
        least: Width to which its text may be folded; 0 = it is never folded, and aligned to the right.
    """

    title: str
    rank: int = 0
    least: int = 0


class FittedTable:
    """The table.

    Args:
        columns: The columns.
        rows: A cell a column; a string may hold any text.
        title: Above it.
        notes: Below it, a line each.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Iterable[Sequence[Cell]],
        title: Cell = "",
        notes: Iterable[Cell] = (),
    ) -> None:
        self._columns = list(columns)
        self._rows = [[_text(cell) for cell in row] for row in rows]
        self._title = _text(title)
        self._notes = [_text(note) for note in notes]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders with rich."""
        if self._title:
            yield self._title
        said = self._said()
        shown = self._shown(said, options.max_width)
        widths = self._widths(shown, options.max_width)
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, GAP - 1, 0, 0),
            pad_edge=False,
            show_edge=False,
            collapse_padding=True,
        )
        for index in shown:
            column = self._columns[index]
            table.add_column(
                column.title,
                justify="left" if column.least else "right",
                no_wrap=not column.least,
                width=widths[index],
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*(row[index] for index in shown))
        yield table
        hidden = [
            c.title for i, c in enumerate(self._columns) if c.title and i in said and i not in shown
        ]
        if hidden:
            yield Text(f"too narrow for: {', '.join(hidden)}", style=QUIET)
        yield from self._notes

    def _said(self) -> list[int]:
        """Indices of the columns that may not be left out, or say something in any row."""
        return [
            index
            for index, column in enumerate(self._columns)
            if not column.rank or any(row[index].plain not in ("", "-") for row in self._rows)
        ]

    def _shown(self, said: list[int], width: int) -> list[int]:
        """Indices of the columns that fit."""
        shown = list(said)
        while _total(map(self._least, shown)) > width:
            index = max(shown, key=lambda i: self._columns[i].rank)
            if not self._columns[index].rank:
                break
            shown.remove(index)
        return shown

    def _widths(self, shown: list[int], width: int) -> dict[int, int]:
        """Widths of the columns shown: rich would fold the one that needs it least."""
        widths = {index: self._least(index) for index in shown}
        left = max(width - _total(widths.values()), 0)
        missing = {index: self._needed(index) - widths[index] for index in shown}
        for index in sorted(shown, key=lambda i: missing[i]):
            given = min(missing[index], left)
            widths[index] += given
            left -= given
        return widths

    def _least(self, index: int) -> int:
        column, needed = self._columns[index], self._needed(index)
        return min(needed, max(column.least, cell_len(column.title))) if column.least else needed

    def _needed(self, index: int) -> int:
        lines = [line for row in self._rows for line in row[index].plain.split("\n")]
        return max(map(cell_len, (self._columns[index].title, *lines)))


def _total(widths: Iterable[int]) -> int:
    """Of columns and what stands between them."""
    found = list(widths)
    return sum(found) + GAP * (len(found) - 1)


def _text(cell: Cell) -> Text:
    """Text, because a name may hold what rich takes for markup."""
    return cell if isinstance(cell, Text) else Text(plain(cell))

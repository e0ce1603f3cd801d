"""A table that can be drawn on a terminal and written as Markdown."""

from __future__ import annotations

import dataclasses

from rich import box
from rich.table import Table
from rich.text import Text

Cell = tuple[str, ...]
"""The lines of a cell."""
NOTHING: Cell = ("-",)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Cells of a table.

    Attributes:
        titles: Of the columns; the first column holds names, the others figures.
        rows: One cell a column.
        caption: What the figures are, without line ends.
    """

    titles: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str

    def table(self) -> Table:
        """Renders the sheet for the terminal, cells of several lines and all."""
        table = Table(
            box=box.SIMPLE_HEAD,
            caption=self.caption,
            caption_justify="left",
            collapse_padding=True,
            pad_edge=False,
            show_edge=False,
        )
        for title in self.titles:
            table.add_column(_lines(title), justify="left" if title == self.titles[0] else "right")
        for row in self.rows:
            table.add_row(*map(_lines, row))
        return table

    def markdown(self) -> str:
        """Renders the sheet as a Markdown table with its caption below; ends with a line end."""
        header = [" ".join(title) for title in self.titles]
        lines = [header, ["---", *["---:"] * (len(self.titles) - 1)]]
        lines += [[" / ".join(cell).replace("|", "\\|") for cell in row] for row in self.rows]
        drawn = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([*drawn, "", self.caption, ""])


def _lines(cell: Cell) -> Text:
    return Text("\n".join(cell))  # Text, because a name may hold what rich takes for markup

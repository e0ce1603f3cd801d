"""Lists of names with a text each, and docstrings, wrapped to the terminal or to 80 columns in a pipe."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable

WIDEST = 110
ATTRIBUTE = re.compile(r"(\w+): (.*)")


def width() -> int:
    """Columns to wrap at."""
    return min(shutil.get_terminal_size().columns, WIDEST)


def entries(rows: Iterable[tuple[str, str]], indent: str = "") -> str:
    """A line or more for each name, its text behind it with a hanging indent."""
    rows = list(rows)
    column = max((len(name) for name, _ in rows), default=0) + 2
    return "\n".join(
        textwrap.fill(
            text.replace("``", ""),
            width(),
            initial_indent=indent + name.ljust(column),
            subsequent_indent=indent + " " * column,
            break_on_hyphens=False,
        )
        for name, text in rows
    )


def paragraphs(documented: object) -> list[str]:
    """The paragraphs of a docstring before its sections, each on one line."""
    text = (inspect.getdoc(documented) or "").split("\n\nAttributes:")[0]
    return [" ".join(part.split()) for part in text.split("\n\n")]


def attributes(documented: object) -> dict[str, str]:
    """The texts of a docstring's section Attributes, by name, each on one line."""
    _, _, section = (inspect.getdoc(documented) or "").partition("\n\nAttributes:\n")
    found: dict[str, str] = {}
    for line in textwrap.dedent(section).splitlines():
        match = ATTRIBUTE.match(line)
        if match:
            found[match[1]] = match[2]
        elif found:
            found[next(reversed(found))] += " " + line.strip()
    return found


def wrapped(texts: Iterable[str]) -> str:
    """Paragraphs with an empty line between them."""
    return "\n\n".join(textwrap.fill(t.replace("``", ""), width()) for t in texts)

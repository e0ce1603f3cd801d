"""Progress bars with the time left, on standard error, only where a person is watching."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def watched() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def working(description: str) -> Iterator[None]:
    """Says on a terminal what is being done until it is; silent elsewhere."""
    if not watched():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{description} ..."):
        yield


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterates over items with a progress bar on a terminal, silently elsewhere.

    Args:
        items: What to iterate over.
        description: What is being done.
        total: Number of items, where ``len`` does not tell.

    Yields:
        The items.
    """
    if not watched():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)

"""Numbers, names and bits as text for a terminal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from rich.text import Text

from starquant_fx.errors import plain
from starquant_fx.inspection.recording import Node
from starquant_fx.sizes import prefixed, shown_size, three_figures

NOTHING = "-"
TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
ADDED, REMOVED, CHANGED, QUIET, NAME = "green", "red", "yellow", "dim", "bold"
"""Styles by meaning."""
FULL = "cyan"
"""Style of what computes in floats."""


def amount(value: float | None, unit: str = "") -> str:
    """A number in three figures, such as ``2.15 G``; with a unit ``2.15 GB``."""
    return NOTHING if value is None else prefixed(value, unit)


def size(value: float | None) -> str:
    """Bytes, such as ``10.6 MB``."""
    return NOTHING if value is None else shown_size(value)


def share(value: float | None) -> str:
    """A share, such as ``29.0%``; what is small but not nothing is ``<0.1%``."""
    if value is None:
        return NOTHING
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


def time(seconds: float) -> str:
    """A time, such as ``34.6 µs``."""
    for unit, name in TIMES:
        if seconds >= 0.9995 * unit:
            return f"{three_figures(seconds / unit)} {name}"
    return f"{three_figures(seconds * 1e9)} ns"


def error(value: float | None) -> str:
    """A relative error, such as ``0.0152``."""
    return NOTHING if value is None else f"{value:.3g}"


def decibels(value: float | None) -> str:
    """A ratio in dB, such as ``18.2``."""
    if value is None:
        return NOTHING
    return f"{value:.1f}"


def bits(text: str) -> Text:
    """Bits in the colour of the fewest of them; full precision where there are none."""
    return Text(plain(text) or "float", bits_style(text))


def fewest_bits(text: str) -> int | None:
    """The smallest number in bits such as ``w4a8``; None = full precision."""
    found = [int(number) for number in re.findall(r"[wa](\d{1,3})", text)]
    return min(found, default=None)


def bits_style(text: str) -> str:
    """Colour of bits: green to 8, yellow to 4, red below."""
    fewest = fewest_bits(text)
    if fewest is None:
        return FULL
    return "green" if fewest > 4 else "yellow" if fewest == 4 else "red"


def operator(node: Node) -> str:
    """An operator without its library."""
    return node.operator.rpartition(".")[2]


def listed(counts: Iterable[tuple[str, int]]) -> str:
    """Names with how often, such as ``mul x26, cat``."""
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counts)


def plural(count: int, noun: str) -> str:
    """For example ``1 node`` and ``2 nodes``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shared_prefix(names: Sequence[str]) -> str:
    """The module path that all names start with; empty for fewer than two."""
    if len(names) < 2:
        return ""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(p[0] for p in itertools.takewhile(lambda p: len(set(p)) == 1, parts))


def without(name: str, prefix: str) -> str:
    """A name without a path that it starts with."""
    return name.removeprefix(f"{prefix}.") if prefix else name


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, numbers in them by their value; a run of more digits than any number has is several."""
    parts = re.split(r"(\d{1,18})", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

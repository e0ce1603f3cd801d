"""A training curve as a small SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 56, 40, 28, 16
SERIES = {"train_loss": "#9aa5b1", "validation_nelbo": "#0b6bcb"}
LABELS = {"train_loss": "training loss", "validation_nelbo": "validation NELBO"}


def curve_svg(rows: Sequence[dict[str, float]], title: str) -> str:
    """Draws training loss and validation NELBO (nats per token) over tokens.

    Args:
        rows: Lines of the curve.
        title: Heading.
    """
    values = [row[key] for row in rows for key in SERIES] or [0.0, 1.0]
    low, high = math.floor(min(values) * 2) / 2, math.ceil(max(values) * 2) / 2
    most = max((row["tokens"] for row in rows), default=1)

    def x(tokens: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * tokens / most

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / max(high - low, 0.5)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{title}: nats per token</text>',
    ]
    value = low
    while value <= high + 1e-9:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#e4e7eb"/><text x="{LEFT - 8}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{value:.1f}</text>'
        )
        value += 0.5
    for fifth in range(6):
        tokens = most * fifth / 5
        parts.append(
            f'<text x="{x(tokens):.1f}" y="{HEIGHT - 20}" text-anchor="middle">'
            f"{tokens / 1e6:.1f} M</text>"
        )
    for index, (key, colour) in enumerate(SERIES.items()):
        points = " ".join(f"{x(row['tokens']):.1f},{y(row[key]):.1f}" for row in rows)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{WIDTH - 300 + 150 * index}" y="18" fill="{colour}">{LABELS[key]}</text>'
        )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">tokens seen</text></svg>'
    )
    return "\n".join(parts) + "\n"

"""A corpus of made-up stories."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

WORDS = ("the", "a", "rabbit", "Mole", "said", "went", "river", "to", "and", "of", "her", "old")


def story(seed: int, words: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + "."


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

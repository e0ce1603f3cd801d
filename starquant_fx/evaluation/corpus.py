"""Held-out text from files: plain text or JSON lines, also compressed, such as WikiText-2 as it is published."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starquant_fx.errors import InputError, cause

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
FIELD = "text"
BETWEEN = "\n\n"
"""Between two rows; the usual perplexity of WikiText-2 is measured on its rows joined like this."""


def read_corpus(path: Path) -> str:
    """Reads a text file, or the field "text" of every row of a ``.jsonl`` file; both may be ``.gz`` or ``.xz``.

    Args:
        path: The file.

    Returns:
        The text; rows are joined by an empty line.

    Raises:
        InputError: The file is missing, damaged or no UTF-8, a row has no text, or there is nothing but white space.
    """
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as stream:
            text: str = stream.read()
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise InputError(
            "the text file cannot be read",
            where=str(path),
            expected="UTF-8 text or JSON lines, plain, .gz or .xz",
            got=cause(error),
        ) from error
    if ".jsonl" in path.suffixes[-2:]:
        text = BETWEEN.join(_rows(text, path))
    if not text.strip():
        raise InputError("the text is empty", where=str(path), expected="some text", got="none")
    return text


def _rows(lines: str, path: Path) -> Iterator[str]:
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found = row.get(FIELD) if isinstance(row, dict) else None
            str(found).encode()  # JSON can hold half a character, which no tokenizer takes
        except (ValueError, RecursionError) as error:
            row, found = error, None
        if not isinstance(found, str):
            got = cause(row) if isinstance(row, Exception) else line.strip()[:80]
            raise InputError(
                "a row holds no text",
                where=f"{path}, line {number}",
                expected=f'a JSON object with a text under "{FIELD}"',
                got=got,
            )
        yield found

"""Texts from files: plain text or JSON lines, also compressed, as WikiText-2 and WinoGrande are published."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starquant_fx.errors import InputError, cause
from starquant_fx.evaluation.text import excerpt
from starquant_fx.models.locate import SHIPPED

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
FIELD = "text"
BETWEEN = "\n\n"
"""Between two rows; the usual perplexity of WikiText-2 is measured on its rows joined like this."""


def read_corpus(path: Path) -> str:
    """Reads a file as one text: the rows of ``read_texts``, joined by an empty line.

    Args:
        path: The file.

    Returns:
        The text.

    Raises:
        InputError: As ``read_texts``.
    """
    return BETWEEN.join(read_texts(path))


def read_texts(path: Path) -> list[str]:
    """Reads a text file as one text, or a ``.jsonl`` file as one text a row; both may be ``.gz`` or ``.xz``.

    A row holds its text under "text", or is one of WinoGrande's: a sentence whose blank the right option fills.

    Args:
        path: The file.

    Returns:
        The texts.

    Raises:
        InputError: The file is missing, damaged or no UTF-8, a row has no text, or there is nothing but white space.
    """
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as stream:
            text: str = stream.read()
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise InputError(
            "the text file cannot be read",
            where=str(path),
            expected="UTF-8 text or JSON lines, plain, .gz or .xz",
            got=cause(error),
        ) from error
    texts = list(_rows(text, path)) if ".jsonl" in path.suffixes[-2:] else [text]
    if not any(one.strip() for one in texts):
        raise InputError("the text is empty", where=str(path), expected="some text", got="none")
    return texts


def calibration_texts(model: str | None, path: str | os.PathLike[str] | None) -> list[str] | None:
    """What a model is calibrated on when a command says no more than a file, or nothing.

    Args:
        model: Its name; shipped models have an excerpt of their training text.
        path: A file for ``read_texts``, or None.

    Returns:
        Texts, or None: the model's own generations.

    Raises:
        InputError: As ``read_texts``.
    """
    if path is not None:
        return read_texts(Path(path))
    return [excerpt("calibration")] if model in SHIPPED else None


def _rows(lines: str, path: Path) -> Iterator[str]:
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found = _text(row) if isinstance(row, dict) else None
            str(found).encode()  # JSON can hold half a character, which no tokenizer takes
        except (ValueError, RecursionError) as error:
            row, found = error, None
        if not isinstance(found, str):
            got = cause(row) if isinstance(row, Exception) else line.strip()[:80]
            raise InputError(
                "a row holds no text",
                where=f"{path}, line {number}",
                expected=f'a JSON object with a text under "{FIELD}", or one of WinoGrande\'s',
                got=got,
            )
        yield found


def _text(row: dict[str, Any]) -> Any:
    """A row's text; of WinoGrande's rows the sentence with the right option in the place of its "_"."""
    sentence, answer = row.get("sentence"), row.get(f"option{row.get('answer')}")
    if FIELD not in row and isinstance(sentence, str) and isinstance(answer, str):
        return sentence.replace("_", answer)
    return row.get(FIELD)

"""Reading a benchmark's rows from local files: JSON lines, a JSON list or CSV, also compressed."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from starquant_fx.errors import InputError

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, "": Path.open}
SUFFIXES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json", ".csv") for packed in OPENERS)

Row = dict[str, Any]


def find(folder: Path, stems: Sequence[str]) -> Path | None:
    """Returns the first file ``stem + suffix`` in a folder, None if there is none."""
    names = (folder / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
    return next((path for path in names if path.is_file()), None)


def need(folder: Path, stems: Sequence[str], task: str, hint: str) -> Path:
    """Returns the file that ``find`` finds.

    Raises:
        InputError: There is none; the error says which and where it was looked for.
    """
    found = find(folder, stems)
    if found is None:
        raise InputError(
            f"the data of {task} is missing",
            where=str(folder),
            expected=" or ".join(stems) + f" with one of {', '.join(SUFFIXES)}",
            got="no such folder" if not folder.is_dir() else "no such file",
            hint=hint,
        )
    return found


def read_rows(path: Path, fields: Sequence[str]) -> list[Row]:
    """Reads a file's rows and keeps the fields that a task needs.

    Args:
        path: The file.
        fields: Fields that every row must have.

    Returns:
        The rows, at least one.

    Raises:
        InputError: The file is damaged or empty, or a row lacks a field.
    """
    stat = path.stat()
    rows = _parsed(path, stat.st_mtime_ns, stat.st_size)
    for number, row in enumerate(rows, 1):
        missing = [name for name in fields if name not in row]
        if missing:
            raise InputError(
                f"a row lacks {', '.join(missing)}",
                where=f"{path}, row {number}",
                expected=", ".join(fields),
                got=", ".join(map(str, row)) or "nothing",
                hint="docs/harness.md lists the fields of each task",
            )
    if not rows:
        raise InputError("the file holds no rows", where=str(path), expected="one or more")
    return [{name: row[name] for name in fields} for row in rows]


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, changed: int, size: int) -> list[Row]:
    """All rows of a file as it was at a time; 57 tasks share the file of MMLU."""
    kind = next(s for s in (".jsonl", ".json", ".csv") if s in path.suffixes)
    packed = path.suffix if path.suffix in OPENERS else ""
    try:
        with OPENERS[packed](path, "rb") as stream:
            text = io.TextIOWrapper(
                cast("BinaryIO", stream), encoding="utf-8-sig", newline=""
            ).read()
        return _rows(text, kind, path)
    except (
        *(OSError, EOFError, UnicodeDecodeError),
        *(lzma.LZMAError, zlib.error, csv.Error),
    ) as error:
        raise _damaged(path, error) from error


def _rows(text: str, kind: str, path: Path) -> list[Row]:
    if kind == ".csv":
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]
    rows: list[Any] = []
    place = str(path)
    try:
        if kind == ".json":
            rows = json.loads(text)
        else:
            for number, line in enumerate(text.split("\n"), 1):
                place = f"{path}, line {number}"
                if line.strip():
                    rows.append(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise _damaged(place, error) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            "the file does not hold objects", where=str(path), expected="one JSON object a row"
        )
    return rows


def _damaged(where: Path | str, error: Exception) -> InputError:
    return InputError(
        "the data file cannot be read",
        where=str(where),
        expected="JSON lines, a JSON list or CSV in UTF-8",
        got=f"{type(error).__name__}: {error}"[:200],
        hint="take the file again from where it was published",
    )

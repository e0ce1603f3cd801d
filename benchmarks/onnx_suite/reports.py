"""What preparations leave for the tables: files beside the exports. Nothing here loads torch."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpu_suite.specs import Place
from starquant_fx.errors import StarQuantError, cause
from starquant_fx.files import write_atomically

BLOCK = re.compile(r"\.(blocks|layers)\.\d")
"""Stands in the names of linears of blocks."""


def report_file(place: Place, name: str) -> Path:
    """Where the report of an export lies."""
    return place.folder / f"{name}-report.json"


def export_folder(place: Place, name: str) -> Path:
    """Where an export lies."""
    return place.folder / f"{name}-onnx"


@contextlib.contextmanager
def failed(path: Path) -> Iterator[dict[str, Any]]:
    """Gives a report to be filled and writes it; if the block inside fails, it holds the reason alone."""
    found: dict[str, Any] = {}
    try:
        yield found
    except Exception as error:  # any failure is a row, not the end of the run
        text = str(error) if isinstance(error, StarQuantError) else cause(error)
        found = {"reason": " ".join(text.split())[:400]}
    write_atomically(path, json.dumps(found) + "\n")


def read(place: Place, name: str) -> dict[str, Any]:
    """A report; empty if there is none."""
    path = report_file(place, name)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def disk_bytes(folder: Path) -> int | None:
    """Bytes of the files of a folder; None if there is none."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) if files else None

"""Folders of intermediate values that are complete or not there, with the hashes of what was written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from starquant_fx.errors import cause
from starquant_fx.files import sha256_of
from starquant_fx.folders.exchange import sync_folder
from starquant_fx.streaming.place import damaged

HASHES = "sha256.json"
NEW = ".new"
"""Ending of a folder that is still written."""


def begin(place: Path) -> Path:
    """Makes the empty folder that ``finish`` gives its place."""
    new = place.with_name(place.name + NEW)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    return new


def finish(place: Path) -> None:
    """Writes the hashes of what was put in the folder of ``begin``, and gives it its place."""
    new = place.with_name(place.name + NEW)
    hashes = {file.name: sha256_of(file) for file in sorted(new.iterdir())}
    (new / HASHES).write_text(json.dumps(hashes), encoding="utf-8")
    for file in new.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_folder(new)
    shutil.rmtree(place, ignore_errors=True)
    new.rename(place)
    sync_folder(place.parent)


@contextlib.contextmanager
def sealing(place: Path) -> Iterator[Path]:
    """Gives a folder to write to; at the end it takes its place."""
    yield begin(place)
    finish(place)


def check(place: Path) -> None:
    """Compares the files of a folder with their hashes.

    Raises:
        CheckpointError: One of them is missing or another one than was written.
    """
    try:
        hashes = json.loads((place / HASHES).read_text(encoding="utf-8"))
        held = {file.name for file in place.iterdir()} - {HASHES}
        if held != hashes.keys():
            raise ValueError("other files than were written")
        wrong = [name for name, right in hashes.items() if sha256_of(place / name) != right]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise damaged(place / HASHES, cause(error)) from error
    if wrong:
        raise damaged(place / wrong[0], "other content")

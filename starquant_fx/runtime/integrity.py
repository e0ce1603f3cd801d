"""Whether the files of an exported folder are those that were exported."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.runtime.metadata import Metadata


def check_files(folder: Path, metadata: Metadata) -> None:
    """Compares the SHA-256 of every file of an export with the one in its metadata; files are read in pieces.

    Args:
        folder: The exported folder.
        metadata: Its metadata.

    Raises:
        CheckpointError: A file is missing, cannot be read, or is another one.
    """
    for name, expected in metadata.files.items():
        path = folder / name
        try:
            with path.open("rb") as stream:
                got = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(
                "a file of the export cannot be read",
                where=str(path),
                expected="the file that was exported",
                got=cause(error),
                hint="copy the exported folder as a whole",
            ) from error
        if got != expected:
            raise CheckpointError(
                "a file of the export has changed",
                where=str(path),
                expected=f"SHA-256 {expected}",
                got=got,
                hint="copy the exported folder again; for a file changed on purpose, load(..., check=False)",
            )

"""Writing files whole or not at all, and finding out beforehand whether they can be written."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.folders.workplace import hidden


def check_destination(path: str | os.PathLike[str], suffix: str) -> Path:
    """Checks, before any work, that a file can be written.

    Args:
        path: The file.
        suffix: What its name must end in.

    Returns:
        The path.

    Raises:
        CheckpointError: Another suffix, the path is a folder, or nothing can be written beside it.
    """
    path = Path(path)
    expected = f"a {suffix} file in an existing folder that can be written"
    if path.suffix != suffix:
        raise _refusal(path, expected, f"suffix {path.suffix!r}", f"end the name in {suffix}")
    probe = hidden(path.parent, path.name)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
        occupied = path.is_dir()
    except (OSError, ValueError) as error:
        hint = "make the folder first, or name another one"
        raise _refusal(path, expected, _reason(path, error), hint) from error
    if occupied:
        raise _refusal(path, expected, "a folder of this name", "name a file in it")
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write to; at the end it is synced and renamed, or removed if anything failed.

    Args:
        path: The file to write; one that is there already is replaced at once or not at all.

    Raises:
        CheckpointError: The file cannot be written.
    """
    temporary = hidden(path.parent, path.name)
    try:
        temporary.touch(exist_ok=False)
        mode = (
            temporary.stat().st_mode
        )  # what the umask gives; some writers make the file anew, for its owner alone
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        hint = "free some space or name another place"
        raise _refusal(path, "a place that can be written", _reason(path, error), hint) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file.
        content: Its bytes, or a text that is written as UTF-8.

    Raises:
        CheckpointError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces; hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(path: Path, error: OSError | ValueError) -> str:
    """What the system said, of the folder: the temporary file's name would tell nobody anything."""
    if not isinstance(error, OSError) or not error.strerror:
        return cause(error)
    return f"{type(error).__name__}: {error.strerror}: {str(path.parent)!r}"


def _refusal(path: Path, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(
        "the file cannot be written here", where=str(path), expected=expected, got=got, hint=hint
    )

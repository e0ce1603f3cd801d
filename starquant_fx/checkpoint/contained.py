"""Files of a checkpoint, which must be in its folder."""

from __future__ import annotations

import os
from pathlib import Path

from starquant_fx.checkpoint.format import AGAIN, CHECKPOINT, FETCHED
from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.folders.workplace import recover
from starquant_fx.models.folder import check_finished, contained
from starquant_fx.models.locate import HUB_ID, locate


def checkpoint_folder(given: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a checkpoint, absolute and with its own links resolved; one that a hub id names is downloaded.

    A checkpoint that a killed process was just replacing comes back first, and one that it was just putting there is
    made complete. A folder wins over a hub id.

    Args:
        given: The folder, or a hub id ``owner/name``.
        revision: Branch, tag or commit on the hub.

    Raises:
        InputError: It is no path.
        CheckpointError: There is no such folder, it cannot be downloaded, or a revision is asked of a folder.
    """
    if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
        raise InputError(
            "this is no name of a folder",
            where="folder",
            expected="a str or a pathlib.Path",
            got=repr(given)[:200],
            hint="name the folder that CompiledModel.save wrote, or a hub id",
        )
    try:
        path = Path(given).expanduser().resolve()
        recover(path, CHECKPOINT.mark_file)
        found = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # no path at all, or a loop of links
        path, found = Path(given), False
    named = isinstance(given, str) and HUB_ID.fullmatch(given) is not None
    if (found and revision is not None) or (named and not found and not path.is_file()):
        return locate(given, revision, FETCHED)
    if not found:
        raise CheckpointError(
            "there is no checkpoint here",
            where=str(given),
            expected="the folder that CompiledModel.save wrote",
            got="a file" if path.is_file() else "no such folder",
            hint="check the spelling and the working directory",
        )
    return path


def own_file(folder: Path, name: str) -> Path:
    """A file of the folder itself; links are followed in the hub's cache only.

    Args:
        folder: The checkpoint.
        name: Of the file.

    Returns:
        Its path, with links resolved.

    Raises:
        CheckpointError: It is missing, a link, or no file.
    """
    path, shown = contained(folder, name), folder / name
    inside = path.is_relative_to(folder)
    if not shown.exists():
        check_finished(folder, CheckpointError)
    if (shown.is_symlink() and inside) or not path.is_file():
        raise CheckpointError(
            f"{name} is a link" if shown.is_symlink() and path.is_file() else f"{name} is missing",
            where=str(shown),
            expected="a file in the folder of the checkpoint",
            got=f"a link to {path}" if shown.is_symlink() else _kind(shown),
            hint=AGAIN,
        )
    return path


def _kind(path: Path) -> str:
    return "something that is no file" if path.exists() else "no such file"

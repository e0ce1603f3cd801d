"""The folder of a model that is named as transformers names them: a folder, or a hub id, and a folder in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from starquant_fx.checkpoint.format import FETCHED
from starquant_fx.errors import CheckpointError
from starquant_fx.models.folder import contained
from starquant_fx.models.locate import HUB_ID, download

MAIN = "main"


def model_folder(name: str | os.PathLike[str], subfolder: str, hub: dict[str, Any]) -> Path:
    """Returns the folder of a model, downloading it if it is named by a hub id.

    Only data is downloaded: neither pickled weights nor model code.

    Args:
        name: A folder, or a hub id; a folder of that name wins.
        subfolder: Folder in it, or nothing.
        hub: Options of the hub's client.

    Returns:
        The folder, with its own links resolved.

    Raises:
        CheckpointError: There is no such folder, it cannot be downloaded, or a revision is asked of a folder.
    """
    where = os.fspath(name) if isinstance(name, str | os.PathLike) else ""
    local = Path(where).expanduser()
    if where and local.is_dir():
        if (revision := hub.get("revision", MAIN)) != MAIN:
            raise _refusal("revision", "None for a folder", repr(revision))
        folder = local.resolve()
    elif isinstance(name, str) and HUB_ID.fullmatch(name):
        inside = f"{subfolder}/" if subfolder else ""
        folder = download(name, tuple(f"{inside}{pattern}" for pattern in FETCHED), **hub)
    else:
        raise _refusal("pretrained_model_name_or_path", "a folder, or a hub id", repr(name))
    if subfolder:
        folder = contained(folder, subfolder)
        if not folder.is_dir():
            raise _refusal("subfolder", f"a folder in {name}", repr(subfolder))
    return folder


def _refusal(where: str, expected: str, got: str) -> CheckpointError:
    return CheckpointError(
        "there is no such model",
        where=where,
        expected=expected,
        got=got,
        hint="check the spelling and the working directory",
    )

"""Finding a model's folder: one that ships with the package, a local one, or a download from the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, cause, nearest
from starquant_fx.folders.workplace import recover
from starquant_fx.models.folder import CONFIG_FILE

PRETRAINED = Path(__file__).parent / "pretrained"
SHIPPED = ("dream-tiny", "llada-tiny")
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)

# What is fetched from the hub: data only. Neither pickled weights nor model code is ever downloaded.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
DOWNLOADED = (CONFIG_FILE, "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES)


def locate(
    name_or_folder: str | os.PathLike[str],
    revision: str | None = None,
    files: tuple[str, ...] = DOWNLOADED,
) -> Path:
    """Returns the folder of a model, downloading it if it is named by a hub id.

    A shipped name wins over a local folder of that name (write ``./llada-tiny`` for the folder), a local folder over
    a hub id.

    Args:
        name_or_folder: A shipped name, a folder, or a hub id ``owner/name``.
        revision: Branch, tag or commit on the hub.
        files: Patterns of what is fetched from the hub.

    Returns:
        The folder, with its own links resolved.

    Raises:
        CheckpointError: There is no such model, it cannot be downloaded, or a revision is asked of a folder.
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise CheckpointError(
            "this names no model",
            where="name_or_folder",
            expected=f"{', '.join(SHIPPED)}, an existing folder, or a hub id owner/name",
            got=repr(name_or_folder),
            hint="for example starquant_fx.from_pretrained('llada-tiny')",
        )
    if not isinstance(revision, str | None):
        raise CheckpointError(
            "the revision is not usable",
            where="revision",
            expected="a branch, tag or commit as text, or None",
            got=repr(revision),
            hint="leave the argument out",
        )
    name = os.fspath(name_or_folder)
    path = Path(name).expanduser()
    shipped = isinstance(name_or_folder, str) and name in SHIPPED
    if name and not shipped:
        recover(path.absolute(), CONFIG_FILE)  # what a killed process was just putting there
    if shipped:
        path = PRETRAINED / name
        if not path.is_dir():
            raise CheckpointError(
                f"{name!r} is missing from this installation",
                where=str(path),
                expected="the folder of a shipped model",
                got="none",
                hint="install the package again, or pass a model folder",
            )
    elif path.is_file():
        raise CheckpointError(
            "a model is loaded from its folder, not from one of its files",
            where=name,
            expected="a folder with config.json and *.safetensors",
            got="a file",
            hint=f"pass {str(path.parent)!r}",
        )
    elif not path.is_dir() or not name:
        if isinstance(name_or_folder, str) and HUB_ID.fullmatch(name):
            return download(name, files, revision=revision)
        offer = nearest(name, SHIPPED)
        raise CheckpointError(
            f"there is no model {name!r}",
            where="name_or_folder",
            expected=f"{', '.join(SHIPPED)}, an existing folder, or a hub id owner/name",
            got=repr(name),
            hint=offer or "check the spelling and the working directory",
        )
    if revision is not None:
        raise CheckpointError(
            "a revision can only be chosen on the hub",
            where="revision",
            expected="None for a folder",
            got=repr(revision),
            hint="leave the argument out, or check the folder out at that revision",
        )
    return path.resolve()


def download(
    hub_id: str, files: tuple[str, ...], *, revision: str | None = None, **options: Any
) -> Path:
    """Fetches a model's data files from the hub, or finds them in the local cache.

    Args:
        hub_id: ``owner/name``.
        files: Patterns of what is fetched.
        revision: Branch, tag or commit.
        **options: As ``huggingface_hub.snapshot_download``: ``cache_dir``, ``local_files_only``, ``token``, ...

    Returns:
        The folder in the cache, with its own links resolved.

    Raises:
        CheckpointError: It cannot be downloaded.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = huggingface_hub.snapshot_download(
            hub_id, revision=revision, allow_patterns=list(files), **options
        )
    # The hub's client raises a dozen unrelated classes; for the user each means: not downloaded.
    except Exception as error:
        hint = "check the connection, or download the folder elsewhere and pass its path"
        if isinstance(error, errors.GatedRepoError):
            hint = "accept the model's terms on its hub page and log in with `hf auth login`"
        elif isinstance(error, errors.RepositoryNotFoundError):
            hint = "check the spelling; private models need `hf auth login`"
        elif isinstance(error, errors.RevisionNotFoundError):
            hint = f"check the revision {revision!r}"
        raise CheckpointError(
            f"{hub_id!r} is no local folder and could not be downloaded from the hub",
            where=hub_id,
            expected="a folder, or a model that the hub offers",
            got=cause(error),
            hint=hint,
        ) from error
    return Path(folder).resolve()

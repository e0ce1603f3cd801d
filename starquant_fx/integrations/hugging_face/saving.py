"""``save_pretrained`` and ``push_to_hub`` of our models: the package's own folders, whole or not at all."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starquant_fx.checkpoint.checks import check_shard_bytes
from starquant_fx.checkpoint.writing import SHARD_BYTES
from starquant_fx.errors import CheckpointError, cause, nearest
from starquant_fx.integrations.hugging_face.full_precision import save_full_precision
from starquant_fx.integrations.hugging_face.refusals import not_done
from starquant_fx.models.locate import HUB_ID

if TYPE_CHECKING:
    from starquant_fx.integrations.hugging_face.modeling import DenoiserForMaskedLM

_refusal = functools.partial(not_done, "save_pretrained")
OPTIONS = ("max_shard_size", "force", "tokenizer", "push_to_hub", "repo_id", "tags")
UPLOAD = ("token", "private", "commit_message", "commit_description", "revision", "create_pr")
NOTHING = ("save_original_format", "save_peft_format", "safe_serialization")
"""True says what is done anyway, or is about what our models do not have."""
STALE = ["model*.safetensors", "model.safetensors.index.json"]
"""What an upload takes the place of: shards of a larger checkpoint would stay otherwise."""


def save(
    model: DenoiserForMaskedLM,
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    **options: Any,
) -> None:
    """Writes a model as a folder that ``from_pretrained`` and ``starquant_fx`` read.

    A compiled model becomes a packed checkpoint with a model card, one in full precision a published folder. The folder
    is written whole or not at all; anything else that is there is not touched.

    Args:
        model: The model.
        save_directory: The folder; its parent must exist.
        is_main_process: False writes nothing.
        **options: ``max_shard_size`` (bytes, or such as ``5GB``), ``force`` (replaces a model of the same kind that is
            there), ``tokenizer`` (written beside it), ``push_to_hub`` (uploads the folder afterwards) with ``repo_id``
            (the folder's name by default) and the options of ``push``; ``tags`` of the model card.

    Raises:
        InputError: An option is not honoured, or the model cannot be saved.
        CheckpointError: The folder cannot be written, or something else is there; the upload failed.
    """
    given = {name: one for name, one in options.items() if one is not None}
    for name in NOTHING:
        if given.pop(name, True) is False and name == "safe_serialization":
            raise _refusal(name, "True: safetensors are written, never pickle", "False")
    known = (*OPTIONS, *UPLOAD)
    for name, value in given.items():
        if name not in known and value is not False:
            hint = nearest(name, known) or "leave the argument out"
            raise _refusal(name, f"one of {', '.join(known)}", repr(value)[:100], hint)
    upload = {name: given[name] for name in UPLOAD if name in given}
    pushing = bool(given.get("push_to_hub", False))
    if not pushing and (upload.keys() - {"token"} or "repo_id" in given):
        where = ", ".join(sorted({*upload, "repo_id"} & given.keys()))
        raise _refusal(where, "nothing where nothing is uploaded", "a value", "push_to_hub=True")
    if not is_main_process:
        return
    limit = check_shard_bytes(given.get("max_shard_size", SHARD_BYTES), "max_shard_size")
    force, tokenizer = given.get("force", False), given.get("tokenizer")
    compiled = model.compiled
    if compiled is None:
        folder = save_full_precision(model.denoiser, save_directory, tokenizer, limit, force)
    else:
        origin = {"base_model": model.base_model_id, "tags": given.get("tags", ())}
        folder = compiled.save(
            save_directory, tokenizer=tokenizer, shard_bytes=limit, force=force, **origin
        )
    if pushing:
        _upload(folder, given.get("repo_id") or folder.name, **upload)


def push(model: DenoiserForMaskedLM, repo_id: str, **options: Any) -> str:
    """Saves a model to a temporary folder and uploads that.

    Args:
        model: The model.
        repo_id: Where to, ``owner/name`` or ``name``.
        **options: ``max_shard_size``, ``tokenizer`` and ``tags`` as for ``save``; ``token``, ``private``,
            ``commit_message``, ``commit_description``, ``revision`` and ``create_pr`` for the hub's client.

    Returns:
        The address of the commit.

    Raises:
        InputError: An option is not honoured, or the model cannot be saved.
        CheckpointError: The upload failed.
    """
    given = {name: one for name, one in options.items() if one is not None}
    upload = {name: given.pop(name) for name in UPLOAD if name in given}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save(model, folder, **given)
        return _upload(folder, repo_id, **upload)


def _upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    **options: Any,
) -> str:
    """Uploads a folder as one commit, and returns its address.

    Raises:
        CheckpointError: It failed.
    """
    import huggingface_hub

    named = isinstance(repo_id, str) and (repo_id if "/" in repo_id else f"owner/{repo_id}")
    if not named or not HUB_ID.fullmatch(named):
        raise _refusal("repo_id", "owner/name, or name", repr(repo_id)[:100])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    message = commit_message or f"Upload {config['model_type']}"
    try:
        api = huggingface_hub.HfApi()
        made = api.create_repo(repo_id, private=private, token=token, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=message,
            token=token,
            delete_patterns=STALE,
            **options,
        )
    # The hub's client raises a dozen unrelated classes; for the user each means: not uploaded.
    except Exception as error:
        raise CheckpointError(
            "the model could not be uploaded",
            where=str(repo_id),
            expected="a repository that may be written",
            got=cause(error),
            hint="log in with `hf auth login`, or save the model and upload the folder with `hf upload`",
        ) from error
    return str(commit)

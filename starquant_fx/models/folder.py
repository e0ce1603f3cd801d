"""Reading a model's folder without leaving it: contained paths, ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from starquant_fx.errors import CheckpointError, ConfigError, StarQuantError, cause

CONFIG_FILE = "config.json"
QUANTIZATION = "quantization_config"
"""Key of ``config.json`` that says how the weights are quantized."""
QUANT_METHOD = "starquant"
"""What packed checkpoints of this package have as ``quant_method`` of their ``quantization_config``."""

UNFINISHED = ".unfinished"
"""How the folder ends where a run of ``compile MODEL DST`` keeps what it has done."""
LOCK, PLAN = "lock", "plan.json"
"""What is in that folder from the beginning."""

LARGEST_JSON = 8 << 20
"""Bytes of a JSON file that is read: parsed, it may take thirty times as many. An index of 10⁴ tensors fits."""


def contained(folder: Path, name: str) -> Path:
    """Returns the real path of a file that a model's folder names, if it stays in the folder.

    The hub's cache keeps a snapshot's files as links into the ``blobs`` folder beside it; such links are followed.

    Args:
        folder: The model's folder.
        name: A path relative to it.

    Returns:
        The path with all links resolved. The file need not exist.

    Raises:
        CheckpointError: The path is absolute, climbs out with "..", or a link on it leads outside.
    """
    written = PurePath(name)
    try:
        real = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name!r} cannot be followed",
            where=str(folder),
            expected="a file inside the folder",
            got=cause(error),
            hint="copy the file itself into the folder",
        ) from error
    inside = real.is_relative_to(folder.resolve()) or _is_hub_blob(folder, real)
    if written.is_absolute() or ".." in written.parts or not inside:
        raise CheckpointError(
            f"{name!r} points outside of the model's folder",
            where=str(folder),
            expected="a file inside the folder",
            got=str(real),
            hint="copy the file into the folder; do not load folders from sources you do not trust",
        )
    return real


def _is_hub_blob(folder: Path, real: Path) -> bool:
    """Whether ``folder`` is a snapshot in the hub's cache, or in one, and ``real`` one of the blobs beside it."""
    return any(
        above.name == "snapshots" and real.parent == above.parent / "blobs"
        for above in folder.resolve().parents
    )


def quant_method(config: dict[str, Any]) -> object:
    """The method that the content of a ``config.json`` says its weights are quantized by; None if it says none."""
    quantization = config.get(QUANTIZATION)
    return quantization.get("quant_method") if isinstance(quantization, dict) else None


def read_json(folder: Path, name: str, refusal: type[StarQuantError]) -> dict[str, Any]:
    """Reads a JSON object from a file of a model's folder.

    Args:
        folder: The model's folder.
        name: The file, relative to the folder.
        refusal: The class of the error for a file that holds something else.

    Returns:
        The object.

    Raises:
        CheckpointError: The file leads outside of the folder.
        StarQuantError: The file is missing, unreadable, no JSON or no JSON object; of class ``refusal``.
    """
    path = contained(folder, name)
    hint = "take the file again from where the model was published"
    if not path.is_file():
        check_finished(folder, refusal)
        held = sorted(p.name for p in folder.iterdir())
        raise refusal(
            f"{name} is missing",
            where=str(folder),
            expected="a model folder with config.json and *.safetensors",
            got=f"{len(held)} files: {', '.join(held[:5])}" if held else "an empty folder",
            hint=hint,
        )
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise refusal(
            f"{name} is too large",
            where=str(folder / name),
            expected=f"at most {LARGEST_JSON} bytes",
            got=str(size),
            hint=hint,
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refusal(
            f"{name} is not readable as JSON",
            where=str(folder / name),
            expected="a JSON object in UTF-8",
            got=cause(error),
            hint=hint,
        ) from error
    if not isinstance(content, dict):
        raise refusal(
            f"{name} is not a JSON object",
            where=str(folder / name),
            expected="a JSON object",
            got=f"a {type(content).__name__}",
            hint=hint,
        )
    return content


def check_finished(folder: Path, refusal: type[StarQuantError]) -> None:
    """Refuses what a run of ``compile MODEL DST`` that was stopped keeps beside its result.

    Args:
        folder: A folder without the files of a model.
        refusal: The class of the error.

    Raises:
        StarQuantError: It is such a folder; of class ``refusal``.
    """
    if folder.name.endswith(UNFINISHED) and any((folder / name).is_file() for name in (LOCK, PLAN)):
        result = folder.with_name(folder.name.removesuffix(UNFINISHED))
        raise refusal(
            "this is what an unfinished run keeps, and no model",
            where=str(folder),
            expected=f"the folder that the run writes, {result.name}",
            got="parts of it",
            hint=f"repeat the command that began it, `starquant-fx compile MODEL {result}`: it goes on from here",
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a model folder's ``config.json`` and checks what every model needs from it.

    Args:
        folder: The model's folder.

    Returns:
        The published keys. ``model_type`` is a string, ``architectures`` a list of strings.

    Raises:
        ConfigError: The file is missing, no JSON object, names no model type, or describes quantized weights.
        CheckpointError: The file leads outside of the folder.
    """
    published = read_published(folder)
    require_float(published, folder)
    return published


def require_float(published: dict[str, Any], folder: Path) -> None:
    """Raises a ConfigError if the content of a folder's ``config.json`` describes quantized weights."""
    if quantization := published.get(QUANTIZATION):
        raise ConfigError(
            "the checkpoint is already quantized",
            where=str(folder / CONFIG_FILE),
            expected="float weights",
            got=f"quantization_config = {quantization}"[:200],
            hint="it is a packed checkpoint: starquant_fx.load(folder) loads it"
            if quant_method(published) == QUANT_METHOD
            else "load the model from which it was quantized",
        )


def read_published(folder: Path) -> dict[str, Any]:
    """As ``read_config``, also where the weights are quantized.

    Raises:
        ConfigError: The file is missing, no JSON object, or names no model type.
        CheckpointError: The file leads outside of the folder.
    """
    published = read_json(folder, CONFIG_FILE, ConfigError)
    where = str(folder / CONFIG_FILE)
    model_type = published.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(
            "the configuration lacks model_type",
            where=where,
            expected="model_type as a string",
            got=f"{len(published)} keys" if model_type is None else repr(model_type),
            hint="take config.json from the published model folder",
        )
    architectures = published.get("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(a, str) for a in architectures):
        raise ConfigError(
            "architectures must be a list of names",
            where=where,
            expected='for example ["LLaDAModelLM"]',
            got=repr(architectures),
            hint="take config.json from the published model folder",
        )
    return {**published, "architectures": architectures}

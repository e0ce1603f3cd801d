"""The artifact of a compilation: everything the passes made, in one safetensors file, to be bound to the model again.

It holds packed weights, scales, bases, means and corrections, and in its metadata the recipe and a fingerprint of the
model. The tensors that no pass changed (embeddings, norms) stay with the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from starquant_fx.arguments import check_parameters
from starquant_fx.artifact_checks import AGAIN, check_header, check_values
from starquant_fx.capture import capture, skeleton
from starquant_fx.compiled import CompiledModel, bind_tensors, compiled_model, spare_tensors
from starquant_fx.errors import CheckpointError, StarQuantError, cause
from starquant_fx.files import check_destination, replacing
from starquant_fx.fingerprint import fingerprint
from starquant_fx.lowering import AUTO, TARGETS, choose_target, runs_on
from starquant_fx.model_facts import check_mask_token, check_module
from starquant_fx.models.safetensors_files import check_length
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import CONSTANTS
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import from_dict
from starquant_fx.report import Report
from starquant_fx.sizes import shown_size
from starquant_fx.structure import structured

FORMAT = "starquant-artifact"
VERSION = 2
SUFFIX = ".safetensors"


def save_artifact(compiled: CompiledModel, path: str | Path) -> Path:
    """Writes the artifact; a file that is there already is replaced at once or not at all.

    Args:
        compiled: The compiled model.
        path: The file, ending in ``.safetensors``; its folder must exist.

    Returns:
        The path.

    Raises:
        CheckpointError: The path cannot be written.
        InputError: ``compiled`` is no compiled model.
    """
    compiled_model(compiled)
    path = check_destination(path, SUFFIX)
    made = {
        n: t.detach().cpu().contiguous()
        for n, t in compiled.program.tensors().items()
        if n.startswith(f"{CONSTANTS}.")
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "recipe": json.dumps(compiled.recipe.to_dict()),
        "mask_token_id": json.dumps(compiled.program.mask_token_id),
        "fingerprint": compiled.fingerprint,
        "report": json.dumps(compiled.report.to_dict()),
    }
    try:
        with replacing(path) as temporary:
            save_file(made, temporary, metadata)
    except SafetensorError as error:
        raise CheckpointError(
            "the artifact cannot be written",
            where=str(path),
            expected=f"room for {shown_size(sum(t.nbytes for t in made.values()))}",
            got=cause(error),
            hint="free some space or name another place",
        ) from error
    return path


def load_artifact(
    model: nn.Module, path: str | Path, *, target: str | None = None
) -> CompiledModel:
    """Rebuilds a compiled model: captures the model without its weights, applies the recipe, binds the artifact.

    The artifact stays mapped to its file. Of a model that ``from_pretrained`` left mapped, too, the weights that the
    artifact replaces are compared by reading their files and never take memory (on Linux).

    Args:
        model: The model that the artifact was made from.
        path: The file.
        target: As for ``compile``; None = the target that the artifact was made with.

    Returns:
        A compiled model with the same codes, without calibrating again.

    Raises:
        LoweringError: There is no such target.
        CheckpointError: The file is damaged, no artifact, of another version, or made from another model.
        InputError: ``model`` is no model, or its weights are not finite.
    """
    check_module(model)
    path = Path(path)
    try:
        check_length(path)
        with safe_open(path, framework="pt") as file:
            return _load(model, file, path, target)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "the artifact cannot be read",
            where=str(path),
            expected="a complete safetensors file that save_artifact wrote",
            got=cause(error),
            hint="check the path, or copy the file again",
        ) from error


def _load(model: nn.Module, file: Any, path: Path, target: str | None) -> CompiledModel:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
        raise CheckpointError(
            "the file is not an artifact of this version",
            where=str(path),
            expected=f"{FORMAT} version {VERSION}",
            got=f"{metadata.get('format')} version {metadata.get('version')}",
            hint="name a file that compile --output or save_artifact of this version wrote",
        )
    recipe: Recipe = _entry(metadata, "recipe", from_dict, path)
    mask_id = _entry(metadata, "mask_token_id", lambda value: check_mask_token(value, model), path)
    report: Report = _entry(metadata, "report", _report, path)
    made_from = metadata.get("fingerprint", "none")
    _check_fingerprint(model, made_from, path)
    twin = skeleton(model)
    try:
        program = run_passes(capture(twin, recipe, mask_token_id=mask_id), recipe.passes)
    except StarQuantError as error:
        raise _damaged("recipe", "one that applies to the model", error, path) from error
    made = {n: t for n, t in program.tensors().items() if n.startswith(f"{CONSTANTS}.")}
    check_header(file, made, path)
    held = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}
    bind_tensors(
        program, {**held, **{name: file.get_tensor(name).to(program.device) for name in made}}
    )
    check_values(program, path)
    program.stages.clear()
    asked = target or (report.target if runs_on(report.target, program.device) else AUTO)
    report = dataclasses.replace(report, target=choose_target(asked, program.device))
    spare = spare_tensors(model, program)
    return CompiledModel(twin, program, report, spare, model, made_from, asked)


def _entry(metadata: dict[str, str], key: str, read: Callable[[Any], Any], path: Path) -> Any:
    """Reads one entry of the metadata, which is JSON."""
    try:
        return read(json.loads(metadata[key]))
    except (StarQuantError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(key, f"what save_artifact wrote as {key!r}", error, path) from error


def _damaged(key: str, expected: str, error: Exception, path: Path) -> CheckpointError:
    return CheckpointError(
        f"the artifact's {key} is damaged",
        where=str(path),
        expected=expected,
        got=cause(error),
        hint=AGAIN,
    )


def _report(values: Any) -> Report:
    report: Report = structured(Report, values, "report")
    if report.target not in TARGETS:
        raise CheckpointError(
            "unknown target",
            where="report.target",
            expected=", ".join(TARGETS),
            got=report.target,
            hint="load it with the version of starquant_fx that wrote it",
        )
    return report


def _check_fingerprint(model: nn.Module, made_from: str, path: Path) -> None:
    """Raises a CheckpointError unless the model is the one that was compiled."""
    check_parameters(model)
    found = fingerprint(dict(model.named_parameters()))
    if found != made_from:
        raise CheckpointError(
            "the artifact was made from another model",
            where=str(path),
            expected=f"fingerprint {made_from[:12]}",
            got=f"fingerprint {found[:12]}",
            hint="load the model that was compiled, in the dtype it was compiled in",
        )

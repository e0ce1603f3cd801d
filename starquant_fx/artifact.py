"""The artifact of a compilation: everything the passes made, in one safetensors file, to be bound to the model again.

It holds packed weights, scales, bases, means and corrections, and in its metadata the recipe and a fingerprint of the
model. The tensors that no pass changed (embeddings, norms) stay with the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from starquant_fx.arguments import check_parameters
from starquant_fx.capture import capture, skeleton
from starquant_fx.compiled import CompiledModel, bind_tensors, spare_tensors
from starquant_fx.errors import CheckpointError, cause
from starquant_fx.files import check_destination, replacing
from starquant_fx.files import write_atomically as write_atomically
from starquant_fx.fingerprint import fingerprint
from starquant_fx.lowering import choose_target
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import CONSTANTS
from starquant_fx.recipes import from_dict
from starquant_fx.report import Report, SiteRow

FORMAT = "starquant-artifact"
VERSION = 1
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
    """
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
            expected=f"room for {sum(t.nbytes for t in made.values()) / 1e6:.0f} MB",
            got=cause(error),
            hint="free some space or name another place",
        ) from error
    return path


def load_artifact(model: nn.Module, path: str | Path) -> CompiledModel:
    """Rebuilds a compiled model: captures the model without its weights, applies the recipe, binds the artifact.

    Args:
        model: The model that the artifact was made from.
        path: The file.

    Returns:
        A compiled model with the same codes, without calibrating again.

    Raises:
        CheckpointError: The file is damaged, no artifact, of another version, or made from another model.
        RecipeError: Its recipe is not understood.
    """
    tensors, metadata = _read(Path(path))
    try:
        recipe = from_dict(json.loads(metadata["recipe"]))
        mask_token_id = json.loads(metadata["mask_token_id"])
        report = _report(json.loads(metadata["report"]))
        made_from = metadata["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the artifact's metadata is damaged",
            where=str(path),
            expected="recipe, mask_token_id, report and fingerprint",
            got=f"{type(error).__name__}: {error}",
        ) from error
    choose_target(report.target)
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
    twin = skeleton(model)
    program = capture(twin, recipe, mask_token_id=mask_token_id)
    run_passes(program, recipe.passes)
    held = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}
    bind_tensors(program, {**held, **tensors})
    program.stages.clear()
    return CompiledModel(twin, program, report, spare_tensors(model, program), model)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
                raise CheckpointError(
                    "the file is not an artifact of this version",
                    where=str(path),
                    expected=f"{FORMAT} version {VERSION}",
                    got=f"{metadata.get('format')} version {metadata.get('version')}",
                )
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "the artifact cannot be read", where=str(path), got=str(error)
        ) from error


def _report(values: dict[str, Any]) -> Report:
    rows = tuple(
        SiteRow(**{**row, "linears": tuple(row["linears"]), "roles": tuple(row["roles"])})
        for row in values["sites"]
    )
    pairs = {k: tuple(tuple(item) for item in values[k]) for k in ("unquantized", "seconds")}
    return Report(**{**values, **pairs, "sites": rows, "notes": tuple(values["notes"])})

"""The denoiser that a harness run asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from starquant_fx.api import compile as compile_model
from starquant_fx.artifact import load_artifact
from starquant_fx.errors import InputError
from starquant_fx.evaluation.corpus import calibration_texts
from starquant_fx.models.loading import from_pretrained
from starquant_fx.recipes import get_recipe


def denoiser(
    pretrained: Any,
    tokenizer: Any = None,
    recipe: Any = None,
    artifact: str | Path | None = None,
    calibration: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str | None = None,
    *,
    texts: list[str] | None = None,
    cache: str | Path | None = None,
    target: str = "auto",
) -> tuple[Any, Any]:
    """Loads a model where it is named, and compiles it where a recipe is given.

    Args:
        pretrained: A model, or the name of one.
        tokenizer: Its tokenizer; None = the one beside the weights.
        recipe: A recipe or its name; None = the model as it is.
        artifact: Bind this artifact instead.
        calibration: Text file to calibrate on; None = the shipped excerpt for shipped models, else the model's own
            generations.
        seed: Seed of the calibration.
        device: Where a named model is loaded.
        texts: Texts to calibrate a given model on; for a named one the other rules hold.
        cache: Folder that keeps what calibration and fits found.
        target: Whose kernels a recipe is compiled for; an artifact has its own.

    Returns:
        The model and the tokenizer, None where there is none.

    Raises:
        StarQuantError: It cannot be loaded or compiled.
    """
    if recipe is not None and artifact is not None:
        raise InputError(
            "recipe and artifact exclude each other", where="artifact", expected="one of them"
        )
    model, found, name = pretrained, tokenizer, None
    chosen = None if recipe is None else get_recipe(recipe).seeded(seed)
    if isinstance(pretrained, (str, os.PathLike)):
        name = os.fspath(pretrained)
        model, beside = from_pretrained(name, device=device)
        found = beside if tokenizer is None else tokenizer
    if artifact is not None:
        return load_artifact(model, artifact), found
    if chosen is None:
        return model, found
    texts = texts or calibration_texts(name, calibration)
    compiled = compile_model(
        model, chosen, calibration=texts, tokenizer=found, cache=cache, target=target
    )
    return compiled, found

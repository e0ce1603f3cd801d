"""Packed checkpoints on the command line, where a model may stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starquant_fx.errors import InputError, StarQuantError

if TYPE_CHECKING:
    from starquant_fx.models.named import NamedModel
    from starquant_fx.recipe import Recipe


def is_checkpoint(model: str) -> bool:
    """Whether MODEL is a packed checkpoint: a folder, or a hub id whose configuration says so."""
    from starquant_fx.checkpoint.reading import is_checkpoint as packed
    from starquant_fx.models.folder import CONFIG_FILE
    from starquant_fx.models.locate import HUB_ID, SHIPPED, locate

    path = Path(model).expanduser()
    if model in SHIPPED or path.exists() or not HUB_ID.fullmatch(model):
        return model not in SHIPPED and packed(path)
    try:
        return packed(locate(model, files=(CONFIG_FILE,)))
    except StarQuantError:
        return False  # whoever loads it says what is wrong


def recipe_of(named: NamedModel, given: Mapping[str, object]) -> Recipe | None:
    """The recipe that a model was compiled with if it is a packed checkpoint, else None.

    Args:
        named: What MODEL stands for.
        given: Options that are for models in full precision; none may be given with a packed checkpoint.

    Raises:
        InputError: One of the options is given.
        StarQuantError: What the folder says of its recipe is damaged.
    """
    from starquant_fx.checkpoint.reading import quantization_in

    if not named.packed or named.folder is None:
        return None
    refuse_options(named.name, given)
    return quantization_in(named.published, named.folder)[1]


def load_checkpoint(
    folder: str, target: str, device: str | None, given: Mapping[str, object]
) -> tuple[Any, Any]:
    """Loads a checkpoint and its tokenizer.

    Args:
        folder: The checkpoint, or its hub id.
        target: As ``compile``; ``auto`` = the one that it was saved with, if it runs here.
        device: Where the model goes.
        given: Options that are for models in full precision; none may be given.

    Returns:
        The compiled model and the tokenizer, or None where the folder has none.

    Raises:
        InputError: One of the options is given.
        StarQuantError: The folder cannot be loaded.
    """
    from starquant_fx.checkpoint.contained import checkpoint_folder
    from starquant_fx.checkpoint.reading import load
    from starquant_fx.lowering import AUTO
    from starquant_fx.models.tokenizer import load_tokenizer

    refuse_options(folder, given)
    path = checkpoint_folder(folder)
    compiled = load(path, target=None if target == AUTO else target, device=device)
    return compiled, load_tokenizer(path, str(compiled.config.model_type))


def refuse_options(model: str, given: Mapping[str, object]) -> None:
    """Raises an InputError for the first option that is given although MODEL is a packed checkpoint."""
    for option, value in given.items():
        if value:
            raise InputError(
                f"{option} does not go with a packed checkpoint",
                where=option,
                expected="a model in full precision",
                got=model,
                hint=f"leave {option} out: the checkpoint is compiled already",
            )

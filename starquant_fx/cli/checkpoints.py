"""Packed checkpoints on the command line, where a model may stand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starquant_fx.errors import InputError


def is_checkpoint(model: str) -> bool:
    """Whether MODEL is the folder of a packed checkpoint."""
    from starquant_fx.checkpoint.reading import is_checkpoint as packed
    from starquant_fx.models.locate import SHIPPED

    return model not in SHIPPED and packed(Path(model).expanduser())


def load_checkpoint(
    folder: str, target: str, device: str | None, given: Mapping[str, object]
) -> tuple[Any, Any]:
    """Loads a checkpoint and its tokenizer.

    Args:
        folder: The checkpoint.
        target: As ``compile``; ``auto`` = the one that it was saved with, if it runs here.
        device: Where the model goes.
        given: Options that are for models in full precision; all must be None.

    Returns:
        The compiled model and the tokenizer, or None where the folder has none.

    Raises:
        InputError: One of the options is given.
        StarQuantError: The folder cannot be loaded.
    """
    from starquant_fx.checkpoint.reading import load
    from starquant_fx.lowering import AUTO
    from starquant_fx.models.tokenizer import load_tokenizer

    for option, value in given.items():
        if value is not None:
            raise InputError(
                f"{option} does not go with a packed checkpoint",
                where=option,
                expected="a model in full precision",
                got=folder,
                hint=f"leave {option} out: the checkpoint is compiled already",
            )
    compiled = load(folder, target=None if target == AUTO else target, device=device)
    path = Path(folder).expanduser().resolve()
    return compiled, load_tokenizer(path, str(compiled.config.model_type))

"""Options and loading that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.errors import CalibrationError, InputError, cause

Model = Annotated[
    str,
    typer.Argument(
        help="llada-tiny, dream-tiny, a folder with a published checkpoint, or a hub id.",
        metavar="MODEL",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="<method>-w<bits>a<bits>; methods: rtn, star, star-paper; bits 2..8 or 16.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        "-c",
        help="Text file to calibrate on. Default: the shipped excerpt for shipped models, "
        "else the model's own generations.",
    ),
]
Target = Annotated[str, typer.Option("--target", "-t", help="auto or reference.")]
LARGEST_SEED = 2**63 - 1
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of every draw.")]


def read_text(path: Path) -> str:
    """Returns the content of a UTF-8 text file.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the text file cannot be read",
            where=str(path),
            expected="a text file in UTF-8",
            got=cause(error),
            hint="check the path and the encoding",
        ) from error


def calibration_texts(model: str, path: Path | None) -> list[str] | None:
    """Texts to calibrate on, or None for the model's own generations.

    Raises:
        CalibrationError: The file holds no text.
    """
    from starquant_fx.models.locate import SHIPPED

    if path is None:
        if model not in SHIPPED:
            return None
        from starquant_fx.evaluation.text import excerpt

        return [excerpt("calibration")]
    text = read_text(path)
    if not text.strip():
        raise CalibrationError(
            "the calibration file is empty",
            where=str(path),
            expected="some text",
            got="none",
            hint="leave --calibration out for the default",
        )
    return [text]


def load(model: str) -> tuple[Any, Any]:
    """Loads model and tokenizer."""
    from starquant_fx.models.loading import from_pretrained

    return from_pretrained(model)


def need_tokenizer(tokenizer: Any, model: str) -> Any:
    """Returns the tokenizer, or raises an InputError if the model's folder has none."""
    if tokenizer is None:
        raise InputError(
            "this needs a tokenizer",
            where=model,
            expected="tokenizer.json beside the weights",
            got="none",
            hint="copy the tokenizer files of the published model into the folder",
        )
    return tokenizer

"""The tokenizer of an exported folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, InputError, cause
from starquant_fx.runtime.contained import check_contained
from starquant_fx.runtime.metadata import TOKENIZER


def check_text(text: object) -> str:
    """Returns a text that a tokenizer takes, else raises an InputError."""
    if not isinstance(text, str):
        raise InputError(
            "this is no text",
            where="text",
            expected="a str",
            got=type(text).__name__,
            hint="give one text; token ids need no encoding",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "the text is not Unicode",
            where=f"text, character {error.start}",
            expected="characters that UTF-8 has",
            got=f"half of a surrogate pair, U+{ord(text[error.start]):04X}",
            hint="read the text with the encoding that it was written in",
        ) from error
    return text


def read_tokenizer(folder: Path) -> Any:
    """Reads the tokenizer of an exported folder with the library ``tokenizers``.

    Args:
        folder: The exported folder.

    Returns:
        A ``tokenizers.Tokenizer``.

    Raises:
        InputError: The folder has none, or the library is not installed.
        CheckpointError: The file is none, or lies outside of the folder.
    """
    path = folder / TOKENIZER
    check_contained(folder, [TOKENIZER])
    if not path.is_file():
        raise InputError(
            "this export has no tokenizer",
            where=str(folder),
            expected=TOKENIZER,
            got="no such file",
            hint="give token ids instead of text, or export with the tokenizer",
        )
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as error:
        raise InputError(
            "tokenizers is not installed",
            where="starquant_fx.runtime",
            expected="the package tokenizers",
            got=cause(error),
            hint="pip install tokenizers, or give token ids instead of text",
        ) from error
    try:
        return library.Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(
            "the tokenizer cannot be read",
            where=str(path),
            expected="a file of the library tokenizers",
            got=cause(error),
            hint="copy the exported folder again",
        ) from error

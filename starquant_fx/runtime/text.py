"""The tokenizer of an exported folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, InputError, cause
from starquant_fx.runtime.metadata import TOKENIZER


def read_tokenizer(folder: Path) -> Any:
    """Reads the tokenizer of an exported folder with the library ``tokenizers``.

    Args:
        folder: The exported folder.

    Returns:
        A ``tokenizers.Tokenizer``.

    Raises:
        InputError: The folder has none, or the library is not installed.
        CheckpointError: The file is none.
    """
    path = folder / TOKENIZER
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

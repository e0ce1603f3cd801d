"""Loading the tokenizer of a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.models.folder import contained
from starquant_fx.models.locate import TOKENIZER_FILES
from starquant_fx.models.registry import ARCHITECTURES

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


def load_tokenizer(folder: Path, model_type: str) -> PreTrainedTokenizerBase | None:
    """Loads a fast tokenizer; code that a repository publishes for its tokenizer is never run.

    Args:
        folder: The model's folder.
        model_type: The published model type.

    Returns:
        The tokenizer, or None where the folder holds no vocabulary.

    Raises:
        CheckpointError: The files cannot be read as a tokenizer, or lead outside of the folder.
    """
    held = [name for name in TOKENIZER_FILES if contained(folder, name).is_file()]
    if not set(held) & set(VOCABULARIES):
        return None
    loader: Any = AutoTokenizer
    if model_type in ARCHITECTURES:
        loader = PreTrainedTokenizerFast
        if "tokenizer.json" not in held:
            import transformers

            loader = getattr(transformers, ARCHITECTURES[model_type].tokenizer)
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    # The tokenizers library raises bare Exceptions for damaged files.
    except Exception as error:
        raise CheckpointError(
            "the tokenizer cannot be loaded",
            where=str(folder),
            expected="the files of a fast tokenizer",
            got=f"{', '.join(held)}; {cause(error)}",
            hint="take the tokenizer files again from where the model was published",
        ) from error
    return tokenizer

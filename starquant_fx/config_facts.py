"""What a model's configuration says: vocabulary, longest sequence, whose model it is. Needs no torch."""

from __future__ import annotations


def _first_integer(model: object, keys: tuple[str, ...]) -> int | None:
    config = getattr(model, "config", None)
    return next((v for v in (getattr(config, k, None) for k in keys) if isinstance(v, int)), None)


def vocabulary_size(model: object) -> int | None:
    """Rows of the model's embedding as its configuration says, None if it does not say."""
    # LLaDA's embedding_size is its number of rows; elsewhere the key is the width of the embedding.
    rows = ("embedding_size",) if is_llada(model) else ()
    return _first_integer(model, (*rows, "vocab_size"))


def maximum_length(model: object) -> int | None:
    """Longest sequence of the model as its configuration says, None if it does not say."""
    return _first_integer(model, ("max_sequence_length", "max_position_embeddings"))


def is_llada(model: object) -> bool:
    """Whether a model's configuration is LLaDA's."""
    return getattr(getattr(model, "config", None), "model_type", None) == "llada"


def is_shifted(model: object) -> bool:
    """Whether a model's raw logits at position i predict the token at position i + 1 (Dream and its relatives)."""
    return getattr(getattr(model, "config", None), "model_type", None) == "Dream"

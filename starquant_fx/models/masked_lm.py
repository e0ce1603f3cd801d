"""Loading any ``...ForMaskedLM`` that transformers knows: a masked language model is a one-step denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PreTrainedTokenizerBase

from starquant_fx.errors import CheckpointError, ConfigError, cause
from starquant_fx.models.folder import CONFIG_FILE
from starquant_fx.models.registry import ARCHITECTURES
from starquant_fx.models.safetensors_files import TensorFiles
from starquant_fx.models.tensor_names import mismatch


def masked_lm_class(folder: Path, published: dict[str, Any]) -> tuple[Any, Any]:
    """Finds transformers' classes for a published configuration.

    Args:
        folder: The model's folder, for messages.
        published: The content of ``config.json``.

    Returns:
        The configuration and the model class.

    Raises:
        ConfigError: The model is no masked language model known to transformers, has no SDPA attention there, or its
            keys do not fit.
    """
    model_type, where = published["model_type"], str(folder / CONFIG_FILE)
    if model_type in CONFIG_MAPPING:
        config_class: Any = CONFIG_MAPPING[model_type]
        model_class: Any = MODEL_FOR_MASKED_LM_MAPPING.get(config_class, None)
        if model_class is not None and model_class.__name__ in published["architectures"]:
            _require_sdpa(model_class, where)
            try:
                return config_class.from_dict(published), model_class
            # Each configuration class checks its keys in its own way.
            except Exception as error:
                raise ConfigError(
                    f"transformers refuses the configuration of {model_type!r}",
                    where=where,
                    expected=f"the keys of transformers' {config_class.__name__}",
                    got=cause(error),
                    hint="take config.json from the published model folder",
                ) from error
    # Only the spelling is corrected: llada2_moe resembles llada, but is another architecture.
    offer = [name for name in ARCHITECTURES if name.lower() == model_type.lower()]
    raise ConfigError(
        f"model_type {model_type!r} is not supported",
        where=where,
        expected=f"{', '.join(ARCHITECTURES)}, or a masked language model (...ForMaskedLM) that transformers knows",
        got=f"model_type {model_type!r}, architectures {published['architectures']}",
        hint=f"write {offer[0]!r}"
        if offer
        else "use a LLaDA, Dream, DiffuCoder, BERT, ModernBERT, ... checkpoint",
    )


def _require_sdpa(model_class: Any, where: str) -> None:
    """Raises a ConfigError for a model whose attention is not the one operator that a capture keeps whole."""
    if not model_class._supports_sdpa:
        raise ConfigError(
            f"transformers has no SDPA attention for {model_class.__name__}",
            where=where,
            expected="a masked language model with scaled_dot_product_attention, such as BERT, RoBERTa or ModernBERT",
            got=model_class.__name__,
            hint="use a model of another family",
        )


def load_masked_lm(
    model_class: Any, config: Any, files: TensorFiles, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Builds a transformers model from tensors that were checked.

    Args:
        model_class: The model's class.
        config: Its configuration.
        files: The folder's tensors.
        dtype: Float type of the parameters.
        device: Where the model goes.

    Returns:
        The model.

    Raises:
        CheckpointError: Tensors are missing, extra or wrongly shaped.
        ConfigError: The configuration describes no model that can be built.
    """
    where = str(files.folder)
    _compare_sizes(config, model_class, files)
    state = {name: files.read(name, dtype, device) for name in files.entries}
    try:
        # The state dict alone is given, not the folder: nothing else in it is read.
        model, told = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=dtype,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"transformers could not fill {model_class.__name__} from the checkpoint",
            where=where,
            expected=f"the tensors of {model_class.__name__}",
            got=cause(error),
            hint="take config.json and all weight files from one and the same revision",
        ) from error
    refusal = mismatch(
        where,
        missing=told["missing_keys"],
        extra=told["unexpected_keys"],
        misshapen=[
            f"{n}: expected {list(want)}, got {list(got)}"
            for n, got, want in told["mismatched_keys"]
        ],
    )
    if refusal:
        raise refusal
    result: nn.Module = model.to(device)
    return result


def set_mask_token(model: Any, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Sets ``model.config.mask_token_id`` from the tokenizer where the configuration has none.

    It stays None if the tokenizer has no mask token either; compiling such a model is refused.

    Raises:
        ConfigError: The mask token is outside of the embedding.
    """
    known = getattr(model.config, "mask_token_id", None)
    mask_id = getattr(tokenizer, "mask_token_id", None) if known is None else known
    rows = model.get_input_embeddings().num_embeddings
    if mask_id is not None and not 0 <= mask_id < rows:
        raise ConfigError(
            "the mask token is outside of the embedding",
            where=str(folder),
            expected=f"an id below {rows}",
            got=str(mask_id),
            hint="the tokenizer files belong to another model",
        )
    model.config.mask_token_id = mask_id


def _compare_sizes(config: Any, model_class: Any, files: TensorFiles) -> None:
    """Compares what the configuration describes with the headers, before any memory is taken."""
    try:
        with torch.device("meta"):
            model = model_class(config)
    except (RuntimeError, ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{model_class.__name__} cannot be built from the configuration",
            where=str(files.folder / CONFIG_FILE),
            expected="sizes that fit each other",
            got=cause(error),
            hint="take config.json from the published model folder",
        ) from error
    described = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    wrong = [
        f"{n}: expected {list(described[n])}, got {list(e.shape)}"
        for n, e in files.entries.items()
        if n in described and described[n] != e.shape
    ]
    # Names may differ between releases of transformers, so absent ones count here only if most of the model is absent.
    needed = sum(p.numel() for p in model.parameters())
    held = sum(e.count for e in files.entries.values())
    missing = described.keys() - files.entries.keys() if needed > 2 * held else ()
    if refusal := mismatch(str(files.folder), missing=missing, misshapen=wrong):
        raise refusal

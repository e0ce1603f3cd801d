"""Tensor names: one table from Llama's to LLaDA's, what is ignored, and what a mismatch looks like."""

from __future__ import annotations

import re
from collections.abc import Iterable

from starquant_fx.errors import CheckpointError

# Some exports of LLaDA carry Llama's names. The two `ff_out` have different sources, as they must.
LLAMA_TO_LLADA = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
}
LLAMA_LAYER_TO_LLADA_BLOCK = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ff_norm.weight",
    "self_attn.q_proj.weight": "q_proj.weight",
    "self_attn.k_proj.weight": "k_proj.weight",
    "self_attn.v_proj.weight": "v_proj.weight",
    "self_attn.o_proj.weight": "attn_out.weight",
    "mlp.gate_proj.weight": "ff_proj.weight",
    "mlp.up_proj.weight": "up_proj.weight",
    "mlp.down_proj.weight": "ff_out.weight",
}
_LLAMA_LAYER = re.compile(r"model\.layers\.([0-9]+)\.(.+)")

# Buffers that are computed, not learned, and parts of published masked language models that predict no token.
HARMLESS = re.compile(
    r"(^|\.)rotary_emb\.inv_freq$|(^|\.)embeddings\.(position_ids|token_type_ids)$"
    r"|(^|\.)pooler\.dense\.(weight|bias)$|^cls\.seq_relationship\.(weight|bias)$"
)


def llada_name(name: str) -> str:
    """Returns the published LLaDA name of a tensor under Llama's name; other names come back as they are."""
    layer = _LLAMA_LAYER.fullmatch(name)
    if layer is None:
        return LLAMA_TO_LLADA.get(name, name)
    part = LLAMA_LAYER_TO_LLADA_BLOCK.get(layer[2])
    return f"model.transformer.blocks.{layer[1]}.{part}" if part else name


def mismatch(
    where: str,
    *,
    missing: Iterable[str] = (),
    extra: Iterable[str] = (),
    misshapen: Iterable[str] = (),
    repeated: Iterable[str] = (),
    what: str = "the checkpoint does not match its config.json",
    expected: str = "exactly the tensors that config.json describes",
    hint: str = "take config.json and all weight files from one and the same revision",
) -> CheckpointError | None:
    """Returns one error for all tensors that are not as they should be.

    Args:
        where: The model's folder, or the file.
        missing: Names that are needed and the files lack.
        extra: Names that only the files have.
        misshapen: Texts "name: expected shape, got shape".
        repeated: Names that stand in the files twice, once in each layout.
        what: What the error says.
        expected: What would have been right.
        hint: What to do.

    Returns:
        The error with the first few and the count of each kind, or None if there is nothing to tell.
    """
    kinds = {
        "missing": sorted(missing),
        "extra": sorted(extra),
        "wrongly shaped": sorted(misshapen),
        "given twice": sorted(repeated),
    }
    told = [
        f"{len(names)} {kind} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if not told:
        return None
    return CheckpointError(what, where=where, expected=expected, got=", ".join(told), hint=hint)

"""The models of the benchmark: shipped ones, folders, and function-preserving hardened copies."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import starquant_fx
from starquant_fx.errors import InputError

HARDENED = ":hardened"
"""Ending of a model's name that asks for its hardened copy."""
LOUD = ((0.01, 100.0), (0.03, 10.0))
"""(share of the channels, factor): large models have a few massive outliers and some large channels."""


def load(name: str) -> tuple[Any, Any]:
    """Loads a model and its tokenizer; ``llada-tiny:hardened`` is the hardened copy of ``llada-tiny``."""
    model, tokenizer = starquant_fx.from_pretrained(name.removesuffix(HARDENED))
    return (harden(model) if name.endswith(HARDENED) else model), tokenizer


@torch.no_grad()
def harden(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy with outlier channels that computes the same function.

    Rows of up_proj are scaled against columns of down_proj, and rows of v_proj (with their bias) against columns of the
    output projection, where several heads share a key-value head all of its columns. No norm stands between the two,
    so that folding cannot undo it.

    Args:
        model: LLaDA or Dream as this package builds them, float32.
        seed: Seed of the channels.

    Returns:
        The copy.
    """
    hard = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for block in _blocks(hard):
        up, down, value, output = (block[name] for name in ("up", "down", "value", "output"))
        factors = _factors(up.weight.shape[0], generator)
        up.weight.mul_(factors[:, None])
        down.weight.div_(factors)
        factors = _factors(value.weight.shape[0], generator)
        value.weight.mul_(factors[:, None])
        if value.bias is not None:
            value.bias.mul_(factors)
        head = block["head_dim"]
        repeats = output.weight.shape[1] // value.weight.shape[0]
        spread = factors.unflatten(0, (-1, head)).repeat_interleave(repeats, 0).flatten()
        output.weight.div_(spread)
    return hard


def _factors(channels: int, generator: torch.Generator) -> Tensor:
    factors = torch.ones(channels)
    order = torch.randperm(channels, generator=generator)
    start = 0
    for share, factor in LOUD:
        count = max(1, round(share * channels))
        factors[order[start : start + count]] = factor
        start += count
    return factors


def _blocks(model: nn.Module) -> list[dict[str, Any]]:
    """The linears of every block by what they do, whatever the layout calls them."""
    names = {
        "up": ("up_proj", "mlp.up_proj"),
        "down": ("ff_out", "mlp.down_proj"),
        "value": ("v_proj", "self_attn.v_proj"),
        "output": ("attn_out", "self_attn.o_proj"),
    }
    config: Any = model.config
    heads = getattr(config, "n_heads", None) or config.num_attention_heads
    found = []
    for module in model.modules():
        own = dict(module.named_modules())
        parts: dict[str, Any] = {
            part: next((own[n] for n in options if n in own), None)
            for part, options in names.items()
        }
        if all(parts.values()):
            parts["head_dim"] = parts["output"].weight.shape[1] // heads
            found.append(parts)
    if not found:
        raise InputError(
            "the model has no blocks to harden",
            where=type(model).__name__,
            expected="linears named as LLaDA or Dream names them",
        )
    return found

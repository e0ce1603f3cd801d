"""What a variant is once it is built, and the bytes of its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Runner:
    """A model that is ready to run.

    Attributes:
        forward: Takes token ids int64 [B, L] and returns logits in the form of its own runtime; this is timed.
        weight_bytes: Bytes of the blocks' linears as they are held: codes, scales and transforms; None if not known.
        head: Type in which the head is multiplied.
        tensor: Makes a tensor [B, L, vocab] of what ``forward`` returned; None where there are no logits.
        note: What a reader of the row must know.
    """

    forward: Callable[[Tensor], Any]
    weight_bytes: int | None
    head: str
    tensor: Callable[[Any], Tensor] | None = lambda logits: logits
    note: str = ""


def block_linears(model: nn.Module) -> Iterable[nn.Linear]:
    """The linears of a LLaDA's blocks."""
    blocks: Any = model.get_submodule("model.transformer.blocks")
    return (module for module in blocks.modules() if isinstance(module, nn.Linear))


def linear_bytes(model: nn.Module) -> int:
    """Bytes of the blocks' linears of a model whose weights are plain tensors."""
    return sum(linear.weight.nbytes for linear in block_linears(model))

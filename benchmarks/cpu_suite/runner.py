"""What a variant is once it is built, its logits, and the bytes of its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch._inductor import config

Forward = Callable[[Tensor, Tensor | None], Any]


@dataclasses.dataclass(frozen=True)
class Runner:
    """A model that is ready to run.

    Attributes:
        forward: Takes token ids int64 [B, L], and places [R] in the flattened ids or None; returns the logits there, or
            all, as its runtime gives them; this is timed.
        weight_bytes: Bytes of the blocks' linears as they are held: codes, scales and transforms; None if not known.
        head: Type in which the head is multiplied.
        tensor: Makes a tensor [..., vocab] of what ``forward`` returned; None where there are no logits.
        note: What a reader of the row must know, once a forward of its shape has run.
    """

    forward: Forward
    weight_bytes: int | None
    head: str
    tensor: Callable[[Any], Tensor] | None = lambda logits: logits
    note: Callable[[], str] = str


class Logits(nn.Module):
    """A model whose only result is the logits, of all tokens or of those at some rows of the flattened ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits [B, L, vocab] of ids [B, L], or [R, vocab] at rows [R]."""
        model: Any = self.model
        if rows is None:
            logits: Tensor = model(ids).logits
        else:
            chosen = model.forward_hidden(ids)[-1].flatten(0, 1)[rows]
            # As a batch: a product of two matrices is exported as Gemm, which onnxruntime's quantizers leave out.
            logits = model.get_output_embeddings()(chosen[None])[0]
        return logits


def torch_forward(model: nn.Module, compiled: bool) -> Forward:
    """The logits of a model in PyTorch; compiled for every shape and kind of its own, with weights frozen in."""
    logits = Logits(model)
    if compiled:
        config.freezing = True
        logits.compile(dynamic=False)
    return logits


def block_linears(model: nn.Module) -> Iterable[nn.Linear]:
    """The linears of a LLaDA's blocks."""
    blocks: Any = model.get_submodule("model.transformer.blocks")
    return (module for module in blocks.modules() if isinstance(module, nn.Linear))


def linear_bytes(model: nn.Module) -> int:
    """Bytes of the blocks' linears of a model whose weights are plain tensors."""
    return sum(linear.weight.nbytes for linear in block_linears(model))

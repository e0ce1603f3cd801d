"""What a variant is once it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

Forward = Callable[[Tensor, Tensor | None], Tensor]
Greedy = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Runner:
    """A model that is ready to run.

    Attributes:
        forward: Takes token ids int64 [B, L], and places [R] in the flattened ids or None; returns the logits there, or
            of all.
        weight_bytes: What a forward reads.
        held_bytes: What is held on the device for it, which may be more.
        head: Type in which the head is multiplied.
        graphed: Whether it runs as one CUDA graph.
        note: What a reader of the row must know.
        greedy: Takes token ids [B, L] and places [R]; returns largest logit, most probable token and its probability
            there, as ``reference.greedy``; None: by the logits.
    """

    forward: Forward
    weight_bytes: int
    held_bytes: int
    head: str = "bf16"
    graphed: bool = True
    note: str = ""
    greedy: Greedy | None = None

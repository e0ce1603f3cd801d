"""The variants: what each is called, how it is built, and in which group it is measured."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cpu_suite.runner import Logits
from cpu_suite.specs import named
from gpu_suite import peers
from gpu_suite.models import blocks, held_bytes
from gpu_suite.ours import ours
from gpu_suite.runner import Runner
from gpu_suite.subject import Subject

EAGER, COMPILED, HEADLINE = "bf16 eager", "bf16 compiled", "star-w4a4"
HEAD8 = "star-w4a4[role:head=w8a8]"
EMBED8 = "star+embed8-w4a4[role:head=w8a8]"
RECOMPILATIONS = 512
"""Shapes and kinds of linears that one block is compiled for before dynamo gives up."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run a model.

    Attributes:
        name: What its row is called.
        kind: ``full``, ``peer`` or ``ours``.
        group: Variants of a group are in memory together and take turns, beside the bf16 ones.
        build: Makes it of a subject.
        needs: Package that must be installed.
        asked: Whether it runs only if it is named.
        bits: Of the weights of its blocks, head and embedding; None: those of the bf16 model, shared.
    """

    name: str
    kind: str
    group: int
    build: Callable[[Subject], Runner]
    needs: str = ""
    asked: bool = False
    bits: tuple[int, int, int] | None = None

    def missing(self) -> str:
        """Why it cannot be built here; empty if it can."""
        absent = self.needs and importlib.util.find_spec(self.needs.partition(".")[0]) is None
        return f"not installed: {self.needs}" if absent else ""


def _torch(model: nn.Module, head: str, note: str = "", graphed: bool = True) -> Runner:
    held = held_bytes(next(model.parameters()).device, model)
    return Runner(Logits(model), held, held, head, graphed, note)


def _blockwise(model: nn.Module, head: str) -> Runner:
    """Each block compiled, which is one compilation a shape for all of them; the whole forward is one CUDA graph."""
    config: Any = importlib.import_module("torch._dynamo.config")
    config.recompile_limit = RECOMPILATIONS
    config.accumulated_recompile_limit = 8 * RECOMPILATIONS
    for block in blocks(model):
        block.compile(dynamic=False)
    return _torch(model, head)


def _bf16_whole(subject: Subject, mode: str) -> Runner:
    """``torch.compile`` of the whole model, with its own CUDA graphs."""
    runner = _torch(peers.twin(subject.model), "bf16", graphed=False)
    whole = torch.compile(runner.forward, dynamic=False, mode=mode)
    return dataclasses.replace(runner, forward=whole, note=f"torch.compile(mode={mode!r})")


def _peer(make: Callable[[nn.Module], nn.Module], head: str) -> Callable[[Subject], Runner]:
    return lambda subject: _blockwise(make(subject.model), head)


def _ours(recipe: str, whole: bool = False) -> Callable[[Subject], Runner]:
    """StarQuant FX as it lowers the graph; ``whole`` puts the lowered graph through torch.compile too."""
    return lambda subject: ours(subject, recipe, whole)


VARIANTS = {
    one.name: one
    for one in (
        Variant(EAGER, "full", 0, lambda s: _torch(peers.twin(s.model), "bf16", graphed=False)),
        Variant(COMPILED, "full", 0, lambda s: _blockwise(peers.twin(s.model), "bf16")),
        Variant(
            "bf16 whole", "full", 0, lambda s: _bf16_whole(s, "reduce-overhead"), "", asked=True
        ),
        Variant(
            "bf16 max-autotune", "full", 0, lambda s: _bf16_whole(s, "max-autotune"), "", asked=True
        ),
        Variant(HEADLINE, "ours", 1, _ours(HEADLINE), bits=(4, 16, 16)),
        Variant(EMBED8, "ours", 1, _ours(EMBED8), bits=(4, 8, 8)),
        Variant("star-w4a8", "ours", 2, _ours("star-w4a8"), bits=(4, 16, 16)),
        Variant("star-w8a8", "ours", 2, _ours("star-w8a8"), bits=(8, 16, 16)),
        Variant(HEAD8, "ours", 2, _ours(HEAD8), bits=(4, 8, 16)),
        Variant(
            *("star-w4a4 compiled", "ours", 2, _ours(HEADLINE, whole=True)),
            asked=True,
            bits=(4, 16, 16),
        ),
        Variant(
            *("torchao int8", "peer", 3, _peer(peers.torchao_int8, "int8"), "torchao"),
            bits=(8, 8, 16),
        ),
        Variant("fp8 scaled_mm", "peer", 3, _peer(peers.fp8, "fp8"), bits=(8, 8, 16)),
        Variant(
            *("gemlite W8A8", "peer", 4, _peer(peers.gemlite_int8, "int8"), "gemlite"),
            bits=(8, 8, 16),
        ),
        Variant(
            *("gemlite W4A16", "peer", 4, _peer(peers.gemlite_int4, "bf16"), "gemlite"),
            bits=(4, 16, 16),
        ),
        *(
            Variant(
                f"humming W{weight}A{activation}",
                "peer",
                5,
                _peer(
                    functools.partial(
                        peers.humming, weight=f"int{weight}", activation=f"int{activation}"
                    ),
                    "int8" if weight == activation == 8 else "bf16",
                ),
                "humming",
                bits=(weight, 8 if weight == activation == 8 else 16, 16),
            )
            for weight, activation in ((4, 4), (4, 8), (8, 8))
        ),
    )
}
ANCHORS = (EAGER, COMPILED)
"""Measured beside every group: what ratios are taken of."""
GENERATING = (*ANCHORS, HEADLINE, EMBED8, "star-w4a8", "star-w8a8")
"""What generates as well; others would tell nothing that their forwards do not."""
QUICK = (*ANCHORS, HEADLINE, EMBED8)


def chosen(text: str | None, quick: bool) -> list[Variant]:
    """The variants of these names, separated by commas, the two bf16 ones always among them, in the table's order.

    Args:
        text: Names, ``all``, or None for the usual ones.
        quick: Whether the usual ones are few.

    Raises:
        InputError: There is no such variant.
    """
    if text is None:
        wanted = set(QUICK) if quick else {n for n, one in VARIANTS.items() if not one.asked}
    elif text == "all":
        wanted = set(VARIANTS)
    else:
        wanted = {*named(text, VARIANTS, "variant", "--variants"), *ANCHORS}
    return [one for name, one in VARIANTS.items() if name in wanted]

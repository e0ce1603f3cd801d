"""StarQuant FX: the program of a recipe with random tensors, lowered, gates and TAC in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.models import held_bytes
from gpu_suite.random_programs import random_compiled, require_gates_and_tac
from gpu_suite.runner import Runner
from gpu_suite.subject import Subject
from starquant_fx.errors import LoweringError
from starquant_fx.lowering.greedy import greedy_at_rows


def ours(subject: Subject, recipe: str, whole: bool = False) -> Runner:
    """Builds a recipe's model.

    Its graphs are called themselves: a call of the compiled model binds its arguments anew.

    Args:
        subject: The model.
        recipe: Name of the recipe.
        whole: Whether the lowered graph goes through ``torch.compile`` too.

    Raises:
        LoweringError: The target does not run here.
        PassError: The lowered graph lost gates or TAC.
    """
    target, note = tile.target(subject.device)
    if target is None:
        raise LoweringError(note)
    compiled = random_compiled(subject.captured, subject.model, recipe, target)
    require_gates_and_tac(compiled.graph.graph)
    made: dict[str, Callable[..., Any]] = {}

    def graph(name: str, make: Callable[[], torch.fx.GraphModule]) -> Callable[..., Any]:
        if name not in made:
            made[name] = torch.compile(make(), dynamic=False) if whole else make()
        return made[name]

    def at_rows(ids: Tensor) -> torch.fx.GraphModule:
        return compiled.graph_at_rows((ids,), {})[0]

    def forward(ids: Tensor, rows: Tensor | None) -> Tensor:
        logits: Tensor
        if rows is None:
            logits = graph("all", lambda: compiled.graph)(ids)
        else:
            logits = graph("rows", lambda: at_rows(ids))(ids, rows)[0]
        return logits

    def greedy(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        join = lambda: greedy_at_rows(at_rows(ids), target == tile.TARGET)  # noqa: E731
        largest, tokens, probability = graph("greedy", join)(ids, rows)
        return largest, tokens, probability

    return Runner(
        forward,
        weight_bytes=held_bytes(subject.device, compiled.graph),
        held_bytes=held_bytes(subject.device, compiled.graph, compiled.program.module),
        head="int8" if "head" in recipe else "bf16",
        note=note,
        greedy=greedy,
    )

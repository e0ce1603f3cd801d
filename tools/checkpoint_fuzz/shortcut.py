"""Traces kept from case to case, because most cases leave the configuration alone and a trace takes a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from starquant_fx.checkpoint import reading
from starquant_fx.pass_manager import Observer
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe

MOST = 20
"""Traces that are kept."""


class Traces:
    """Programs without weights by what they were traced from, until tensors are bound to them."""

    def __init__(self) -> None:
        self._kept: dict[Any, Program] = {}
        self._trace, self._bind = reading._program, reading.bind_tensors

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block, loading takes a program that is kept, if there is one."""
        reading._program, reading.bind_tensors = self._program, self._bound
        try:
            yield
        finally:
            reading._program, reading.bind_tensors = self._trace, self._bind

    def _program(
        self,
        folder: Path,
        recipe: Recipe,
        mask_token_id: int | None,
        model: nn.Module,
        observe: Observer | None,
    ) -> Program:
        shapes = tuple((n, p.shape, p.dtype) for n, p in model.named_parameters())
        key = (repr(recipe), mask_token_id, repr(model.config), shapes)
        program = self._kept.pop(key, None)
        if program is None:
            program = self._trace(folder, recipe, mask_token_id, model, observe)
        self._kept[key] = program  # the latest last
        if len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]
        return program

    def _bound(self, program: Program, tensors: dict[str, Tensor]) -> None:
        self._kept.popitem()
        self._bind(program, tensors)

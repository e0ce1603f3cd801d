"""Small compiled models, their exports, and calls to compare both on."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import starquant_fx
from starquant_fx import runtime
from starquant_fx.compiled import CompiledModel
from starquant_fx.export.api import ExportReport, export_onnx
from starquant_fx.export.build import Built, Form, build
from tests import compile_cases
from tests.small_models import MASK, VOCABULARY, model

BARE = "bare"
"""A masked LM that is told which tokens are masked."""
LOW = "-bf16"
"""Ending of a kind: in bfloat16."""
CASES = [
    ((1, 7), 0.5),
    ((1, 7), 1.0),
    ((1, 5), 0.0),
    ((3, 6), 0.5),
    ((3, 9), 1.0),
    ((3, 9), 0.0),
    ((1, 1), 1.0),
    ((2, 12), 0.3),
]
"""Batch and length, and the share of masked tokens."""


def _base(kind: str) -> str:
    """The kind of ``small_models.KINDS``."""
    return kind.removesuffix(LOW).replace(BARE, "bert")


@functools.cache
def compiled(kind: str, recipe: str = "rtn-w8a8") -> CompiledModel:
    """A small model, for the reference target; a kind of ``small_models.KINDS`` or ``bare``, also with an ending."""
    chosen = compile_cases.small(recipe)
    base = _base(kind)
    source = model(base)
    if kind.endswith(LOW):
        source = copy.deepcopy(source).bfloat16()
    state: dict[str, Any] = (
        {"token_state_input": True} if kind.startswith(BARE) else {"mask_token_id": MASK[base]}
    )
    texts = compile_cases.texts(base)
    return starquant_fx.compile(source, chosen, calibration=texts, target="reference", **state)


@functools.cache
def built(one: CompiledModel, form: Form) -> Built:
    """What ``build`` returns."""
    return build(one, form)


class Exports:
    """Exported folders, each written once.

    Args:
        root: Where they go.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reports: dict[Any, ExportReport] = {}

    def __call__(
        self,
        kind: str,
        recipe: str = "rtn-w8a8",
        *,
        flavour: str = "qdq",
        head: str = "logits",
        attention_mask: bool = False,
        opset: int = 21,
        verify: bool = False,
    ) -> ExportReport:
        """The export of a model; it is not verified unless that is asked for."""
        form = Form(flavour, head, opset, attention_mask)
        key = (kind, recipe, form, verify)
        if key not in self._reports:
            folder = self._root / str(len(self._reports))
            options = dataclasses.asdict(form)
            self._reports[key] = export_onnx(
                compiled(kind, recipe), folder, verify=verify, **options
            )
        return self._reports[key]


def call(
    kind: str, shape: tuple[int, int], share: float, masked: bool, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """The arguments of a call, and rows that are no padding."""
    base = _base(kind)
    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY[base], shape, generator=source)
    hidden = torch.rand(shape, generator=source) < share
    arguments: dict[str, Tensor] = {"input_ids": ids}
    if kind.startswith(BARE):
        arguments["token_state"] = hidden.long()
    else:
        arguments["input_ids"] = ids.masked_fill(hidden, MASK[base])
    keep = torch.ones(shape, dtype=torch.bool)
    if masked:
        keep[-1, : shape[1] // 3] = False
        arguments["attention_mask"] = keep.long()
        if base.startswith("dream"):
            arguments["attention_mask"] = (keep[:, :, None] & keep[:, None, :])[:, None]
            arguments["position_ids"] = (keep.long().cumsum(-1) - 1).clamp(min=0)
    return arguments, keep.flatten().nonzero()[:, 0][::2]


def arrays(arguments: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """As the runtime takes them."""
    return {name: value.numpy() for name, value in arguments.items()}


def errors_of(
    folder: Path, wanted: CompiledModel, kind: str, masked: bool, strict: bool
) -> list[float]:
    """Errors of an export's logits, or confidences, against a compiled model; a number for each of ``CASES``."""
    loaded = runtime.load(folder, strict=strict)
    errors = []
    for seed, (shape, share) in enumerate(CASES):
        arguments, rows = call(kind, shape, share, masked, seed)
        given = arrays(arguments)
        with torch.no_grad():
            if loaded.gives_logits:
                got = loaded.logits_at(rows.numpy(), **given)
                expected = wanted.logits_at(rows, **arguments)
                everywhere = loaded(**given).reshape(shape[0] * shape[1], -1)
                assert np.allclose(everywhere[rows.numpy()], got, atol=0.1 * np.abs(got).max())
            else:
                chosen, got = loaded.greedy_at(rows.numpy(), **given)
                _, tokens, expected = wanted.greedy_at(rows, **arguments)
                assert not strict or (chosen == tokens.numpy()).mean() >= 0.75
        assert got.dtype == np.float32
        assert got.shape == tuple(expected.shape)
        errors.append(float(np.abs(got - expected.numpy()).max() / expected.abs().max()))
    return errors

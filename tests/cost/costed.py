"""Costs of small captures, made once."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from starquant_fx.cost.calls import Call
from starquant_fx.cost.subject import Costs, costs
from starquant_fx.cost.work import Work, work_of
from starquant_fx.recipes import get_recipe


@functools.cache
def small(
    recipe: str = "star-w4a4",
    target: str = "reference",
    masked_rows: bool = False,
    model: str = "llada-tiny",
    layers: int | None = 1,
) -> Costs:
    return costs(model, get_recipe(recipe), target, layers=layers, masked_rows=masked_rows)


def work(name: str, result: tuple[int, ...], **arguments: Any) -> Work:
    """The work of a call that is written by hand; a tuple of sizes and a type is a tensor."""
    with FakeTensorMode():
        made = (torch.empty(result, dtype=torch.bfloat16),)
        given = {n: _tensor(value) for n, value in arguments.items()}
    return work_of(Call(f"starquant.{name}", given, made))


def _tensor(value: Any) -> Any:
    if isinstance(value, list):
        return [_tensor(one) for one in value]
    if isinstance(value, tuple) and value and isinstance(value[-1], torch.dtype):
        return torch.empty(value[:-1], dtype=value[-1])
    return value

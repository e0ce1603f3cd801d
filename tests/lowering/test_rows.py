"""Logits at some positions are those of a full call, and the rest is not computed."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from starquant_fx import compile as compile_model
from starquant_fx import generate
from starquant_fx.compiled import CompiledModel
from starquant_fx.kernels import cpu
from starquant_fx.lowering import lower
from starquant_fx.lowering.rows import at_rows
from starquant_fx.pass_manager import run_passes
from starquant_fx.recipes import get_recipe
from tests.small_models import KINDS, SHORT, masked_ids, model
from tests.small_programs import captured, quick

TARGETS = ["reference", *(["cpu"] if cpu.unavailable() is None else [])]


def lowered(kind: str, recipe: str, target: str) -> fx.GraphModule:
    chosen = quick(recipe) if recipe.startswith("star") else get_recipe(recipe)
    return lower(run_passes(captured(kind, chosen), chosen.passes), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", ["star-w4a4", "rtn-w4a16"])
def test_chosen_rows_are_those_of_a_full_call(kind: str, recipe: str, target: str) -> None:
    module = lowered(kind, recipe, target)
    some, ids = at_rows(module), masked_ids(kind, (3, 9), 0.5)
    full: Tensor = module(ids).flatten(0, 1)
    for rows in ([0], [26, 3, 3, 14], list(range(27)), []):
        index = torch.tensor(rows, dtype=torch.long)
        found = some(ids, index)
        assert found.shape == (1, len(rows), full.shape[1])
        torch.testing.assert_close(found[0], full[index], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("recipe", ["star-w4a4", "rtn-w4a4"])
def test_the_last_block_after_attention_reads_chosen_rows_only(recipe: str, target: str) -> None:
    graph = at_rows(lowered("llada", recipe, target)).graph
    names = ("linear.default", "panel_linears.default")
    linears = [node for node in graph.nodes if str(node.target).endswith(names)]
    joined = any("panel_linears" in str(node.target) for node in linears)  # gate and up in one
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if node.target == torch.ops.aten.index_select.default or after & set(node.all_input_nodes):
            after.add(node)
    last = 4 if joined else 5  # o, gate, up, down, head
    assert [node in after for node in linears[-last:]] == [True] * last
    assert not any(node in after for node in linears[:-last])


def test_what_mixes_positions_is_computed_whole() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    traced = make_fx(lambda ids: ids.unsqueeze(-1).float().cumsum(1) * 2)(ids)
    found = at_rows(traced)(ids, torch.tensor([5, 1]))
    assert found.flatten().tolist() == [30.0, 6.0]


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return compile_model(
        model("llada-short"), "rtn-w4a4", calibration=masked_ids("llada", (4, 16), 0.0)
    )


def test_rows_under_padding(compiled: CompiledModel) -> None:
    ids, keep = masked_ids("llada", (2, 9), 0.5), torch.ones(2, 9, dtype=torch.long)
    keep[0, :4] = 0
    rows = torch.tensor([5, 17])
    full = compiled(ids, attention_mask=keep).logits.flatten(0, 1)[rows]
    torch.testing.assert_close(compiled.logits_at(rows, ids, attention_mask=keep), full)


@functools.cache
def compiled_short(kind: str) -> CompiledModel:
    return compile_model(
        model(kind + SHORT), "rtn-w8a8", calibration=masked_ids(kind, (4, 16), 0.0)
    )


@pytest.mark.parametrize("kind", ["llada", "dream"])
@pytest.mark.parametrize("padded", [False, True])
def test_generation_is_that_of_full_calls(kind: str, padded: bool) -> None:
    low = compiled_short(kind)

    class Full(torch.nn.Module):
        config = low.config

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return low(*args, **kwargs)

    prompt, keep = masked_ids(kind, (2, 6), 0.0), torch.ones(2, 6, dtype=torch.long)
    if padded:
        keep[1, :2] = 0
    length = {"gen_length": 8, "block_length": 4} if kind == "llada" else {"max_new_tokens": 8}
    more = {"cfg_scale": 0.5} if kind == "llada" else {"alg": "entropy"}
    options: dict[str, Any] = {"steps": 4, "temperature": 0.5, **length, **more}
    results = [
        generate(one, prompt, keep, generator=torch.Generator().manual_seed(0), **options)
        for one in (low, Full())
    ]
    assert torch.equal(*results)

"""Captured programs to test passes on. A capture takes seconds, so each model is captured once and copied."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import Recorder
from starquant_fx.calibration.data import CalibrationData
from starquant_fx.capture import capture
from starquant_fx.pass_base import Pass
from starquant_fx.pass_manager import check_order, verify
from starquant_fx.passes import FitSgat, InsertLowRank, InsertSgat
from starquant_fx.program import Program, Site, facts
from starquant_fx.recipe import Recipe
from starquant_fx.recipes import get_recipe
from tests.small_models import MASK, masked_ids, model


@functools.cache
def _captured(kind: str) -> Program:
    return capture(model(kind), get_recipe("rtn-w8a8"), mask_token_id=MASK[kind])


@functools.cache
def _calibration_batches(kind: str) -> tuple[Tensor, ...]:
    ratios = torch.linspace(0.1, 0.9, 8).tolist()
    rows = [masked_ids(kind, (1, 16), ratio, seed=i) for i, ratio in enumerate(ratios)]
    return torch.cat(rows), masked_ids(kind, (3, 9), 0.5, seed=99)


def calibration(kind: str) -> CalibrationData:
    """155 tokens in both states, in sequences of two lengths."""
    return CalibrationData(list(_calibration_batches(kind)))


def captured(kind: str, recipe: str | Recipe = "star-w4a4", calibrated: bool = True) -> Program:
    """A fresh program: what ``capture`` returns for a kind of model, with calibration data."""
    program = copied(_captured(kind))
    program.recipe = get_recipe(recipe)
    program.calibration = calibration(kind) if calibrated else None
    return program


def _copied(module: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    old = next(iter(reversed(module.graph.nodes)))
    result = graph.graph_copy(module.graph, values)
    graph.output(result).meta.update(old.meta)
    return fx.GraphModule(module, graph)


def copied(program: Program) -> Program:
    """A copy with graphs of its own, stages included; tensors are shared, which no pass writes into."""
    return dataclasses.replace(
        program,
        module=_copied(program.module),
        sites={name: dataclasses.replace(site) for name, site in program.sites.items()},
        stages={name: _copied(stage) for name, stage in program.stages.items()},
        records=list(program.records),
        findings={where: dict(found) for where, found in program.findings.items()},
    )


def quick(recipe: str | Recipe) -> Recipe:
    """The recipe with a short fit, and with gates at every site and few directions whatever it is tuned to."""
    chosen = get_recipe(recipe)
    small = (InsertLowRank(rank=1), InsertSgat(size=16, rank=4), FitSgat(epochs=2, batch=64))
    fixed = {p.name: p for p in small}
    passes = tuple(fixed.get(p.name, p) for p in chosen.passes)
    return dataclasses.replace(chosen, passes=passes)


def until(name: str, recipe: str | Recipe = "star-w4a4") -> tuple[Pass, ...]:
    """The passes of a recipe up to and with the one of this name, as ``quick`` has them."""
    passes = quick(recipe).passes
    return passes[: [p.name for p in passes].index(name) + 1]


def rewritten(
    kind: str, passes: Sequence[Pass], recipe: str | Recipe = "star-w4a4", calibrated: bool = True
) -> Program:
    """A fresh program after some passes; common beginnings of pipelines run once."""
    check_order(passes)
    return copied(_rewritten(kind, tuple(passes), get_recipe(recipe), calibrated))


@functools.cache
def _rewritten(kind: str, passes: tuple[Pass, ...], recipe: Recipe, calibrated: bool) -> Program:
    if not passes:
        return captured(kind, recipe, calibrated)
    return continued(_rewritten(kind, passes[:-1], recipe, calibrated), passes[-1])


def continued(program: Program, *passes: Pass) -> Program:
    """A copy of a program after more passes, verified as the manager does but in any order."""
    program = copied(program)
    for one in passes:
        one.check_options()
        one.requires(program)
        program = one.run(program)
        verify(program)
        one.ensures(program)
    return program


def logits(module: Callable[..., Any], *inputs: Tensor) -> Tensor:
    """What a graph or a model answers."""
    with torch.no_grad():
        answer = module(*inputs)
    out: Tensor = answer if isinstance(answer, Tensor) else answer.logits
    return out


def values(
    module: fx.GraphModule,
    nodes: Sequence[fx.Node],
    *inputs: Tensor,
    quantizers_off: bool = False,
) -> list[Any]:
    """Values of some nodes of a graph."""
    found: dict[fx.Node, Any] = {}
    with torch.no_grad():
        Recorder(module, nodes, found.__setitem__, quantizers_off).run(*inputs)
    return [found[n] for n in nodes]


def code_nodes(module: fx.GraphModule) -> dict[str, fx.Node]:
    """The activation quantizer of every site that has one, fused or not."""
    return {
        str(facts(n)["site"]): n for n in module.graph.nodes if facts(n).get("part") == "quantize"
    }


def relative(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((got - expected).abs().max() / expected.abs().max())


def distance(got: Tensor, expected: Tensor) -> float:
    """||got - expected||^2 / ||expected||^2."""
    return float((got - expected).double().pow(2).sum() / expected.double().pow(2).sum())


def site_of(program: Program, role: str) -> Site:
    """The first site with a linear of this role."""
    return next(s for s in program.sites.values() if role in s.roles)

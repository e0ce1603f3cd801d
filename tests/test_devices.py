"""Compiling on another device than the CPU: a simulated one, see ``second_device``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _disable_current_modes

from starquant_fx import pass_manager
from starquant_fx.calibration.data import CalibrationData
from starquant_fx.calibration.prepare import prepare
from starquant_fx.capture import capture
from starquant_fx.devices import Draws, making_tensors_on
from starquant_fx.methods import pipeline
from starquant_fx.pass_manager import run_passes
from starquant_fx.passes import InsertDuquant, RefineSgat
from starquant_fx.program import Program
from starquant_fx.recipe import CalibrationOptions, Recipe
from starquant_fx.recipes import get_recipe
from tests.second_device import DEVICE, Elsewhere, SecondDevice
from tests.small_models import MASK, masked_ids, model
from tests.small_programs import calibration, copied, quick


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second device exists, in worker threads as well."""

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, initializer: Any) -> None:
            super().__init__(
                workers, initializer=lambda: (SecondDevice().__enter__(), initializer())
            )

    monkeypatch.setattr("starquant_fx.passes.fit_sgat.ThreadPoolExecutor", Pool)
    plain = Program.fake

    def fake(self: Program, value: Tensor) -> Tensor:
        if not isinstance(value, Elsewhere):
            return plain(self, value)
        with self.fake_mode:
            return plain(self, value.value).to(DEVICE)

    monkeypatch.setattr(Program, "fake", fake)
    monkeypatch.setattr(pass_manager, "propagate", _without_modes(pass_manager.propagate))
    torch._C._set_only_lift_cpu_tensors(True)
    with SecondDevice():
        yield
    torch._C._set_only_lift_cpu_tensors(False)


def _without_modes(function: Callable[[Program], None]) -> Callable[[Program], None]:
    """The function where the second device does not exist: for fake tensors it need not."""

    def called(program: Program) -> None:
        with _disable_current_modes():
            function(program)

    return called


def moved(program: Program) -> Program:
    """The program as a capture on the second device would be."""
    for name, tensor in program.tensors().items():
        program.set_tensor(name, Elsewhere(tensor.detach()))
    for node in program.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": DEVICE}
        if node.op == "placeholder":
            with program.fake_mode:
                node.meta["val"] = node.meta["val"].to(DEVICE)
    data = program.calibration
    assert data is not None
    data.batches = [Elsewhere(batch) for batch in data.batches]
    return program


@functools.cache
def _captured() -> Program:
    with sdpa_kernel(SDPBackend.MATH):
        return capture(model("llada"), get_recipe("rtn-w8a8"), mask_token_id=MASK["llada"])


def program_for(recipe: Recipe) -> Program:
    """A fresh capture with calibration data."""
    return dataclasses.replace(copied(_captured()), recipe=recipe, calibration=calibration("llada"))


def on_both(recipe: Recipe) -> tuple[Program, Program]:
    """A program that ran through the recipe's passes on the CPU, and one that did on the second device."""
    with sdpa_kernel(SDPBackend.MATH):  # the only one that the second device has
        here = run_passes(program_for(recipe), recipe.passes)
    return here, run_passes(moved(program_for(recipe)), recipe.passes)


def values(program: Program) -> dict[str, Tensor]:
    return {n: t.value if isinstance(t, Elsewhere) else t for n, t in program.tensors().items()}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param("star-w4a4", marks=pytest.mark.slow),
        "star-paper-w4a4",
        "duquant-w4a4",
        "smoothquant+clip-w4a8",
        "awq+gptq-w4a16",
    ],
)
def test_passes_give_the_same_on_another_device(second_device: None, recipe: str) -> None:
    chosen = quick(recipe) if "star" in recipe else get_recipe(recipe)
    if "duquant" in recipe:
        chosen = chosen.replacing(InsertDuquant(steps=4))
    here, there = on_both(chosen)
    assert all(isinstance(tensor, Elsewhere) for tensor in there.tensors().values())
    expected, found = values(here), values(there)
    assert expected.keys() == found.keys()
    for tensor_name, tensor in expected.items():
        assert torch.equal(tensor, found[tensor_name]), tensor_name
    ids = masked_ids("llada", (3, 9), 0.5)
    torch.testing.assert_close(there.module(Elsewhere(ids)).value, here.module(ids))


@pytest.mark.parametrize("objective", ["block", "model"])
def test_refinement_works_on_another_device(second_device: None, objective: str) -> None:
    paper = quick("star-paper-w4a8")
    refine = RefineSgat(objective=objective, epochs=1, batch=4, samples=8)
    here, there = on_both(dataclasses.replace(paper, passes=pipeline(*paper.passes, refine)))
    ids = masked_ids("llada", (3, 9), 0.5)
    # Gradients are added up in another order, so that a code may differ.
    apart = there.module(Elsewhere(ids)).value - here.module(ids)
    assert apart.norm() < 0.1 * here.module(ids).norm()


class Table(torch.nn.Module):
    """Logits that depend on nothing but the token, on the second device."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


@pytest.mark.parametrize("given", ["ids", "texts"])
def test_calibration_states_are_the_same_on_another_device(second_device: None, given: str) -> None:
    table = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(6 * 12).view(6, 12) % 19
    options = CalibrationOptions(samples=6, length=12)

    def states(table: Tensor) -> CalibrationData:
        texts = [" ".join(map(str, row)) for row in ids.tolist()]
        calibration = ids if given == "ids" else texts
        return prepare(Table(table), calibration, Words(), 19, options)

    here = states(table)
    with making_tensors_on(DEVICE):
        there = states(Elsewhere(table))
        subset = there.subset()
    for expected, found in zip(here.batches, there.batches, strict=True):
        assert isinstance(found, Elsewhere)
        assert torch.equal(expected, found.value)
    assert isinstance(subset, Elsewhere)


class Words:
    """A tokenizer of numbers."""

    eos_token_id = sep_token_id = None

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


def test_mixing_devices_fails_on_the_second_device(second_device: None) -> None:
    one = Elsewhere(torch.ones(3))
    with pytest.raises(RuntimeError, match="two devices"):
        torch.add(one, torch.ones(3))
    with pytest.raises(RuntimeError, match="generator of another"), making_tensors_on(DEVICE):
        torch.rand(3, generator=torch.Generator())


def test_draws_follow_their_seed_alone() -> None:
    first, again, other = Draws(3), Draws(3), Draws(4)
    for draw in (
        lambda d: d.uniform(2, 3),
        lambda d: d.normal(4),
        lambda d: d.permutation(9),
        lambda d: d.signs(40),
        lambda d: d.choice(torch.ones(30, 5)),
    ):
        one = draw(first)
        assert torch.equal(one, draw(again))
        assert not torch.equal(one, draw(other))

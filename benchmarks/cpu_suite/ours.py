"""StarQuant FX on its CPU target: compiled in a process of its own, loaded from the artifact."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

import starquant_fx
from cpu_suite.runner import Runner
from cpu_suite.specs import Place, Shape
from cpu_suite.weights import load, token_ids
from starquant_fx.compiled import CompiledModel
from starquant_fx.evaluation import excerpt
from starquant_fx.kernels import cpu
from starquant_fx.passes import FitSgat, Gptq
from starquant_fx.recipe import Recipe

SEQUENCES, LENGTH, KEPT = 4, 64, 256
"""Calibration of random models: sequences, tokens of each, and tokens kept a site."""
APART = ("wte", "ln_f", "transformer.ff_out", "transformer_ff_out", "_norm")
"""What stands in the names of tensors that belong to no linear of a block."""


def short(name: str) -> Recipe:
    """A recipe of which only the estimates are cut short; the graph that it makes is the same.

    Bases stay at their starts, GPTQ is left out (it changes codes only), and calibration is a few sequences.
    """
    recipe = starquant_fx.get_recipe(name)
    kept = [FitSgat(epochs=0) if p.name == FitSgat.name else p for p in recipe.passes]
    passes = tuple(p for p in kept if p.name != Gptq.name)
    options = dataclasses.replace(
        recipe.calibration, samples=SEQUENCES, length=LENGTH, rollout_steps=0, max_tokens=KEPT
    )
    return dataclasses.replace(recipe, passes=passes, calibration=options)


def prepare(place: Place, recipe: str) -> None:
    """Compiles the model and saves the artifact; a shipped model with the recipe and calibration as shipped."""
    model = load(place, "bf16")
    if place.spec.shipped:
        _, tokenizer = starquant_fx.from_pretrained(place.spec.name)
        compiled = starquant_fx.compile(
            model, recipe, calibration=[excerpt("calibration")], tokenizer=tokenizer, target="cpu"
        )
    else:
        ids = token_ids(place.spec, Shape(SEQUENCES, LENGTH), seed=1)
        compiled = starquant_fx.compile(model, short(recipe), calibration=ids, target="cpu")
    starquant_fx.save_artifact(compiled, _artifact(place, recipe))


def build(place: Place, recipe: str) -> Runner:
    """The compiled model, bound to the bf16 model again."""
    compiled = starquant_fx.load_artifact(load(place, "bf16"), _artifact(place, recipe))
    reason = cpu.unavailable()
    note = f"reference kernels: {reason}" if reason else ""
    quantized = any("head" in site.roles for site in compiled.program.quantized_sites())
    head = "int8" if quantized else "bf16"

    def forward(ids: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        return compiled(ids).logits if rows is None else compiled.logits_at(rows, ids)

    return Runner(forward, held_bytes(compiled), head, note=lambda: note)


def held_bytes(compiled: CompiledModel) -> int:
    """Bytes that the kernels read for the blocks' linears: codes, scales, sums, transforms, branches and biases.

    The artifact's file stays mapped beside them: clean pages, which the system takes back when it needs memory.
    """
    found: dict[int, int] = {}
    for name, tensor in compiled.graph.state_dict(keep_vars=True).items():
        if not any(part in name for part in APART):
            found[tensor.data_ptr()] = tensor.nbytes
    return sum(found.values())


def _artifact(place: Place, recipe: str) -> Path:
    return place.folder / f"{recipe}.safetensors"

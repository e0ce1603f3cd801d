"""Low-bit models at full size without a calibration: the graph of the real pipeline, with random tensors.

The model is captured and rewritten without weights, as an artifact is bound; the tensors that the passes would have
made are drawn on the device by their shapes: codes with their true column sums, orthogonal bases, maps near identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

import starquant_fx
from starquant_fx.capture import capture, skeleton
from starquant_fx.compiled import CompiledModel, bind_tensors
from starquant_fx.errors import InputError, PassError
from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import CONSTANTS, Program
from starquant_fx.report import make_report

FOLDED = f"{CONSTANTS}.folded."
SPREAD = 3.5
"""Standard deviations that the largest code stands for, about what the largest of thousands is at."""


class Captured:
    """A model captured once without its weights, for several recipes.

    Args:
        model: The model.
        mask_token_id: Id of its mask token.
    """

    def __init__(self, model: nn.Module, mask_token_id: int) -> None:
        self.skeleton = skeleton(model)
        recipe = starquant_fx.get_recipe("star-w4a4")
        self.program = capture(self.skeleton, recipe, mask_token_id=mask_token_id)

    def rewritten(self, recipe: str) -> Program:
        """A program that a recipe's passes ran over, without its tensors."""
        own = starquant_fx.get_recipe(recipe)
        program = dataclasses.replace(
            self.program,
            module=self.program.copied_module(),
            recipe=own,
            sites={},
            stages={},
            records=[],
            findings={},
        )
        return run_passes(program, own.passes)


def random_compiled(
    captured: Captured, model: nn.Module, recipe: str, target: str, seed: int = 1
) -> CompiledModel:
    """A compiled model whose quantized weights and tables are random; other tensors are the model's own.

    Args:
        captured: The model's capture.
        model: The model.
        recipe: Name of a recipe.
        target: Name of a target.
        seed: Of the draws.

    Raises:
        InputError: A pass made a tensor of a kind that is not known here.
    """
    program = captured.rewritten(recipe)
    own = dict(model.named_parameters())
    generator = torch.Generator(program.device).manual_seed(seed)
    bind_tensors(program, dict(_tensors(program, own, generator)))
    report = make_report(program, target, 0, 0)
    return CompiledModel(captured.skeleton, program, report, {}, model, "random weights", target)


def _tensors(
    program: Program, own: dict[str, nn.Parameter], generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """The real tensor for every fake one, by qualified name."""
    wanted = {n: t for n, t in program.tensors().items() if isinstance(t, FakeTensor)}
    with torch.device(program.device):
        for node in program.nodes(op("quantized_linear")):
            yield from _product(node, generator)
        for name, fake in wanted.items():
            source = own.get(name.removeprefix(FOLDED))
            if source is not None:  # the gains are one, so that what they were folded into stays
                yield name, source.detach()
            elif (table := _embedding(name, own)) is not None:
                yield name, table
            elif name.rpartition(".")[2] not in PRODUCT:
                yield name, _drawn(name, fake, generator)


PRODUCT = ("packed", "weight_scale", "column_sum")


def _product(node: fx.Node, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Codes as those of normal weights, packed; the scale that gives the product gain one; the true column sums."""
    codes, _, _, packed, scale, sums, bits = node.args[:7]
    assert isinstance(codes, fx.Node)
    assert isinstance(scale, fx.Node)
    assert isinstance(packed, fx.Node)
    assert isinstance(sums, fx.Node)
    assert isinstance(bits, int)
    features, outputs = int(codes.meta["val"].shape[-1]), int(scale.meta["val"].shape[0])
    drawn = random_codes(outputs, features, bits, generator)
    deviation = (2 ** (bits - 1) - 1) / SPREAD
    yield str(packed.target), reference.pack(drawn, bits)
    yield str(scale.target), torch.full((outputs,), features**-0.5 / deviation)
    yield str(sums.target), drawn.sum(-1, dtype=torch.int32)


def random_codes(rows: int, columns: int, bits: int, generator: torch.Generator) -> Tensor:
    """Symmetric int8 codes [rows, columns] of normal values, on the generator's device."""
    half, device = 2 ** (bits - 1), generator.device
    values = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
    values.normal_(0, (half - 1) / SPREAD, generator=generator)
    return values.round_().clamp_(-half, half - 1).to(torch.int8)


def _embedding(name: str, own: dict[str, nn.Parameter]) -> Tensor | None:
    """Codes or scale of an embedding in eight bits."""
    source, _, part = name.removeprefix(f"{CONSTANTS}.").rpartition(".")
    if part not in ("codes", "scale") or source not in own:
        return None
    codes, scale = reference.quantize_weight(own[source].detach(), 8, None)
    return codes if part == "codes" else scale[:, None]


def _drawn(name: str, fake: Tensor, generator: torch.Generator) -> Tensor:
    """A random tensor that a pass could have made, by the last part of its name."""
    part, shape = name.rpartition(".")[2], tuple(map(int, fake.shape))
    normal = torch.randn(shape, generator=generator, dtype=torch.float32)
    if part == "clip":
        made = torch.ones(shape)
    elif part.startswith("basis") or part == "directions":
        made = torch.linalg.qr(normal)[0]
    elif part == "low_rank":
        made = normal / shape[-2]
    elif part in ("means", "state_bias", "tac_bias"):
        made = 0.02 * normal
    elif part == "tac_matrix":
        made = torch.eye(shape[-1]) + 0.02 * normal
    else:
        raise InputError(
            "a tensor of an unknown kind",
            where=name,
            expected="what the recipe star makes",
            got=f"{fake.dtype} {list(shape)}",
            hint="say in benchmarks/gpu_suite/random_programs.py how to draw it",
        )
    return made.to(fake.dtype)


def require_gates_and_tac(graph: fx.Graph) -> None:
    """Refuses a lowered graph that lost what makes the method: one operator at least must gate, one must correct.

    Raises:
        PassError: There are no gates or no TAC.
    """
    found = {name for node in graph.nodes for name in _given(node)}
    for name, what in (("bounds", "gates"), ("matrix", "TAC")):
        if name not in found:
            raise PassError(
                f"the lowered graph has no {what}",
                where="graph",
                expected=f"a starquant operator with {name}",
                got="none",
                hint="measure a recipe that has them",
            )


def _given(node: fx.Node) -> set[str]:
    """Names of the arguments of a starquant operator that are there and not empty."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.name.startswith("starquant::"):
        return set()
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {name for name, value in given.items() if value is not None and value != []}

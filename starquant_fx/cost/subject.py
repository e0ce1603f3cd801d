"""What the cost model works on: a model built without weights, captured, rewritten and lowered."""

from __future__ import annotations

import dataclasses

import torch
from torch import fx

from starquant_fx.capture import capture
from starquant_fx.cost.graph import GraphCost, cost_of
from starquant_fx.cost.retrace import retrace
from starquant_fx.lowering import TARGETS, choose_target, lower
from starquant_fx.lowering.rows import at_rows
from starquant_fx.model_facts import mask_token_of
from starquant_fx.models.named import NamedModel, named_model
from starquant_fx.models.weightless import fake_model
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Costs:
    """The full-precision model and the quantized one.

    Attributes:
        model: Name of the model.
        recipe: Name of the recipe.
        target: Name of the target.
        bf16: Cost of the captured graph, as the model is.
        quantized: Cost of the lowered graph.
        notes: What has to be known to read them.
        layers: How many were counted instead of the model's own; None: its own.
    """

    model: str
    recipe: str
    target: str
    bf16: GraphCost
    quantized: GraphCost
    notes: tuple[str, ...] = ()
    layers: int | None = None

    @property
    def title(self) -> str:
        """The model, and how much of it."""
        if self.layers is None:
            return self.model
        return f"{self.model} with {self.layers} layer{'s' if self.layers > 1 else ''} only"


def costs(
    model: str | NamedModel,
    recipe: Recipe,
    target: str = "auto",
    *,
    layers: int | None = None,
    masked_rows: bool = False,
) -> Costs:
    """Captures a model from its configuration in bf16, rewrites it without weights, and counts.

    Args:
        model: As of ``fake_model``.
        recipe: The recipe.
        target: A target's name; ``auto`` = the fastest that runs on this machine's CPU.
        layers: Number of layers instead of the configuration's.
        masked_rows: Logits, and the last layer's MLP, only for R rows, in both graphs.

    Returns:
        The costs.

    Raises:
        InputError: There is no such model.
        LoweringError: There is no such target.
        StarQuantError: The model cannot be captured, or the recipe does not fit it.
    """
    # Nothing runs, so that a target is counted on a machine that it does not run on, too.
    resolved = target if target in TARGETS else choose_target(target, torch.device("cpu"))
    named = named_model(model)
    built = fake_model(named, layers)
    program = capture(built, recipe, mask_token_id=mask_token_of(built))
    captured = _without_assertions(program)
    run_passes(program, recipe.passes)
    with program.fake_mode:
        lowered = lower(program, resolved)
    plain = _costed(captured, program, masked_rows)  # now the sites are known
    found = _costed(lowered, program, masked_rows)
    own = any(n.operator.startswith("starquant.panel") for n in found.nodes)
    notes: tuple[str, ...] = ()
    if resolved == "cpu" and not own and any(program.quantized_sites()):
        notes = ("the CPU kernels do not run on this machine: the reference graph is counted",)
    return Costs(named.name, recipe.name, resolved, plain, found, notes, layers)


def _without_assertions(program: Program) -> fx.GraphModule:
    """A copy of the captured graph without the checks of types that export puts in."""
    module = program.copied_module()
    for node in reversed(module.graph.nodes):
        if node.target == torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
    return module


def _costed(module: fx.GraphModule, program: Program, masked_rows: bool) -> GraphCost:
    wanted = at_rows(module) if masked_rows else module
    return cost_of(retrace(wanted, program.fake_mode), program.sites)

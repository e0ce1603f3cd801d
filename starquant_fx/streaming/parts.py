"""A model in parts: its captured graph, cut between the blocks, each part a program of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from starquant_fx.calibration.spans import Span, part_spans
from starquant_fx.capture import TRACING, capture, skeleton
from starquant_fx.pass_base import Pass
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import ENTERING, Program, Site, facts
from starquant_fx.recipe import Recipe
from starquant_fx.streaming.roles import AdoptRoles

ROLES = "assign-roles"
"""The pass of which a part needs what the whole graph says."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """A model cut up.

    Attributes:
        captured: The whole program as it was captured, without weights; its graph is not rewritten.
        spans: The parts, in graph order.
        sites: What the linears are, by site.
        constants: Tensors of the capture that are no parameters.
    """

    captured: Program
    spans: list[Span]
    sites: dict[str, Site]
    constants: dict[str, Tensor]

    @classmethod
    def of(
        cls, model: nn.Module, recipe: Recipe, mask_token_id: int | None, device: torch.device
    ) -> Parts:
        """Captures a model as it is on a device, without touching its weights, and cuts the graph.

        Raises:
            CaptureError: The model cannot be traced.
            PassError: The recipe does not apply to it.
            CalibrationError: Two of its blocks are joined by more than one tensor.
        """
        with TRACING:
            program = capture(skeleton(model, device=device), recipe, mask_token_id=mask_token_id)
            captured = dataclasses.replace(program, module=program.copied_module())
            # All of them, so that what does not apply is refused before any work.
            run_passes(program, recipe.passes)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        constants = {n: t for n, t in captured.tensors().items() if n not in parameters}
        return cls(captured, part_spans(captured.graph), program.sites, constants)

    def passes(self, number: int) -> tuple[Pass, ...]:
        """The recipe's passes for a part; without TAC where it has no output projection to correct."""
        recipe = self.captured.recipe
        roles = {
            linear: role
            for site in self.sites.values()
            for linear, role in zip(site.linears, site.roles, strict=True)
        }
        inside = {facts(n).get("of") for n in self.spans[number].nodes}
        quantized = [s for s in self.sites.values() if s.options and inside.issuperset(s.linears)]
        passes = [AdoptRoles(roles=roles) if p.name == ROLES else p for p in recipe.passes]
        outputs = any("o" in site.roles for site in quantized)
        return tuple(one for one in passes if outputs or one.name != "insert-tac")

    def reads(self, number: int) -> list[str]:
        """Names of the tensors that a part reads."""
        return [str(n.target) for n in self.spans[number].nodes if n.op == "get_attr"]

    def program(self, number: int, parameters: Mapping[str, Tensor]) -> Program:
        """A part as a program of its own.

        Args:
            number: Of the part.
            parameters: The model's, by name.

        Returns:
            The program; it takes what the whole one takes, and what enters it unless it is the first part.
        """
        span, whole = self.spans[number], self.captured
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        for node in whole.graph.nodes:
            if node.op == "placeholder":
                values[node] = graph.node_copy(node)
        if span.start is not None:
            values[span.start] = graph.placeholder(ENTERING)
            values[span.start].meta["val"] = span.start.meta["val"]
        tensors: dict[str, Tensor] = {}
        for node in span.nodes:
            if node.op == "placeholder":
                continue
            values[node] = graph.node_copy(node, lambda n: values[n])
            if node.op == "get_attr":
                name = str(node.target)
                tensors[name] = parameters[name] if name in parameters else self.constants[name]
                tensors[name] = tensors[name].detach()
        graph.output(values[span.end])
        module = fx.GraphModule(tensors, graph, class_name="DenoiserPart")
        return Program(module, whole.fake_mode, whole.recipe, whole.mask_token_id)

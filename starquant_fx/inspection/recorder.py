"""Recording a compilation: an observer of the passes that copies the graph's facts after each."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

import starquant_fx
from starquant_fx.cost.shapes import Shape
from starquant_fx.inspection.describing import LOWER, Describer
from starquant_fx.inspection.recording import Node, Recording, SiteFacts, Stage
from starquant_fx.inspection.sizes import constant_bytes
from starquant_fx.passes import REGISTRY
from starquant_fx.program import LINEAR, Program, Site, facts


class Recorder:
    """Takes a stage after capture and after every pass; give it to ``compile`` as ``observe``.

    Args:
        model: What is compiled, for titles.
        shape: The forward whose operations and bytes are counted.
    """

    def __init__(self, model: str, shape: Shape) -> None:
        self._model = model
        self._shape = shape
        self._stages: list[Stage] = []
        self._weights: dict[str, int] = {}
        self._program: Program | None = None

    def __call__(self, text: str, program: Program) -> None:
        """Records the program as it is now.

        Args:
            text: ``capture``, or the text form of the pass that has run.
            program: The program.
        """
        if not self._stages:
            self._describer = Describer(program, self._shape)
            self._weights = _weight_bytes(program)
        seconds = program.records[-1].seconds if program.records else 0.0
        notes = program.records[-1].notes if program.records else ()
        name = text.partition("{")[0]
        preserves = REGISTRY[name].preserves.value if name in REGISTRY else ""
        self._add(name, text, preserves, seconds, notes, program.module, program)

    def lowered(self, module: fx.GraphModule, program: Program, target: str) -> None:
        """Records what a target made of the last stage.

        Args:
            module: With fake values in its nodes.
            program: Whose sites it computes.
            target: The target's name.
        """
        self._add(LOWER, f"{LOWER}{{target={target}}}", "", 0.0, (), module, program)

    def recording(self) -> Recording:
        """What was recorded."""
        assert self._program is not None
        nodes = self._stages[-1].nodes
        sites = {s.name: self._site(s, nodes) for s in self._program.sites.values()}
        recipe, version = self._program.recipe.name, starquant_fx.__version__
        return Recording(self._model, recipe, str(self._shape), tuple(self._stages), sites, version)

    def _add(
        self,
        name: str,
        text: str,
        preserves: str,
        seconds: float,
        notes: tuple[str, ...],
        module: fx.GraphModule,
        program: Program,
    ) -> None:
        before: Mapping[str, Node] = self._stages[-1].nodes if self._stages else {}
        found = self._describer.nodes(module, program, before, name)
        self._stages.append(Stage(name, text, preserves, seconds, notes, found))
        self._program = program

    def _site(self, site: Site, nodes: Mapping[str, Node]) -> SiteFacts:
        assert self._program is not None
        found = self._program.findings.get(site.name, {})
        own = [n for n in nodes.values() if n.site == site.name or n.linear in site.linears]
        constants = {name: kind for n in own for _, name, kind in n.tensors}
        return SiteFacts(
            name=site.name,
            linears=site.linears,
            roles=site.roles,
            features=site.features,
            outputs=site.outputs,
            bits="" if site.options is None else str(site.options),
            reason=site.reason or "",
            transform=found.get("transform", ""),
            gates=found.get("gates", 0),
            error=found.get("error"),
            leakage=found.get("leakage"),
            bytes_before=sum(self._weights.get(linear, 0) for linear in site.linears),
            bytes_after=sum(constant_bytes(kind) for kind in constants.values()),
            flops=sum(n.flops or 0.0 for n in own),
        )


def _weight_bytes(program: Program) -> dict[str, int]:
    """Bytes of every linear's weight and bias as captured."""
    found = {}
    for node in program.nodes(LINEAR):
        values = [n.meta["val"] for n in node.all_input_nodes if n.op == "get_attr"]
        found[str(facts(node).get("of", node.name))] = sum(
            v.numel() * v.element_size() for v in values
        )
    return found

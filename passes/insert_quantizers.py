"""Insert quantizers: per-token on the activations of a site, per output channel on its weights."""

from __future__ import annotations

import dataclasses
import operator
from functools import partial
from typing import ClassVar

import torch

from starquant_fx.calibration.tac_run import TRANSFORMED_STAGE
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import Program, Site, note
from starquant_fx.recipe import FULL_PRECISION


@dataclasses.dataclass(frozen=True)
class InsertQuantizers(Pass):
    """Adds quantize-dequantize pairs around the linears of every quantized site.

    Attributes:
        clip: Give the ranges clip factors in (0, 1] (two a site, one an output channel) that ``fit-sgat`` learns.
    """

    name: ClassVar[str] = "insert-quantizers"
    after: ClassVar[tuple[str, ...]] = ("assign-roles",)
    preserves: ClassVar[Preserves] = Preserves.NOT
    clip: bool = False

    def run(self, program: Program) -> Program:
        """Inserts the quantizers that the recipe's bits ask for."""
        for site in program.quantized_sites():
            assert site.options is not None
            if site.options.activation_bits != FULL_PRECISION:
                self._activation(program, site)
            if site.options.weight_bits != FULL_PRECISION:
                self._weights(program, site)
        program.keep_stage(TRANSFORMED_STAGE)
        return program

    def _activation(self, program: Program, site: Site) -> None:
        graph, options = program.graph, site.options
        linears = program.site_nodes(site, "linear")
        source = linears[0].args[0]
        assert options is not None
        clip = program.constant(f"{site.name}.clip", lambda: torch.ones(2)) if self.clip else None
        with graph.inserting_before(linears[0]):
            quantized = graph.call_function(
                op("quantize_activation"),
                (source, options.activation_bits, options.symmetric, clip),
            )
            parts = [graph.call_function(operator.getitem, (quantized, i)) for i in range(3)]
            dtype = source.meta["val"].dtype  # type: ignore[union-attr]
            restored = graph.call_function(op("dequantize_activation"), (*parts, dtype))
        note(quantized, site=site.name, part="quantize")
        note(restored, site=site.name, part="dequantize")
        for linear in linears:
            linear.update_arg(0, restored)

    def _weights(self, program: Program, site: Site) -> None:
        graph, options = program.graph, site.options
        assert options is not None
        for linear, name, n in zip(
            program.site_nodes(site, "linear"), site.linears, site.outputs, strict=True
        ):
            source = linear.args[1]
            clip = (
                program.constant(f"{name}.clip_weight", partial(torch.ones, n))
                if self.clip
                else None
            )
            bits, dtype = options.weight_bits, source.meta["val"].dtype  # type: ignore[union-attr]
            with graph.inserting_before(linear):
                quantized = graph.call_function(op("quantize_weight"), (source, bits, clip))
                codes, scale = (
                    graph.call_function(operator.getitem, (quantized, i)) for i in range(2)
                )
                packed = graph.call_function(op("pack"), (codes, bits))
                restored = graph.call_function(
                    op("dequantize_weight"), (packed, scale, bits, site.features, dtype)
                )
            for node, part in (
                (quantized, "quantize_weight"),
                (scale, "weight_scale"),
                (packed, "packed"),
                (restored, "weight"),
            ):
                note(node, site=site.name, part=part, of=name)
            linear.update_arg(1, restored)

    def ensures(self, program: Program) -> None:
        """Every quantized linear reads what the recipe asks for."""
        for site in program.quantized_sites():
            assert site.options is not None
            for linear in program.site_nodes(site, "linear"):
                for index, bits, target in (
                    (0, site.options.activation_bits, op("dequantize_activation")),
                    (1, site.options.weight_bits, op("dequantize_weight")),
                ):
                    reads = linear.args[index].target == target  # type: ignore[union-attr]
                    self.expect(
                        reads == (bits != FULL_PRECISION),
                        "a quantizer is missing",
                        where=site.name,
                        expected=f"{bits} bits",
                        got=str(linear.args[index]),
                    )

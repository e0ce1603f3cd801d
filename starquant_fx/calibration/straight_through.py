"""Runs a span of a graph with autograd: quantizers round, and gradients pass them as if they had not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from starquant_fx.calibration.fake_quantize import fake_quantize_activation, fake_quantize_weight
from starquant_fx.calibration.spans import Span
from starquant_fx.kernels import reference
from starquant_fx.operators import NAMESPACE, op

PASSED_ON = (op("dequantize_activation"), op("pack"), op("dequantize_weight"))
"""What a quantize-dequantize in one step leaves nothing to do for."""


class StraightThroughRun(fx.Interpreter):
    """Computes spans of a graph.

    Args:
        module: The graph and its tensors.
        tensors: Stand-ins for some of its tensors, by the node that reads them.
    """

    def __init__(
        self, module: fx.GraphModule, tensors: Mapping[fx.Node, Tensor] | None = None
    ) -> None:
        super().__init__(module)
        self._tensors = {} if tensors is None else tensors

    def compute(self, span: Span, known: Mapping[fx.Node, Any]) -> Tensor:
        """Returns the value of a span's end.

        Args:
            span: The span.
            known: Values of its start and of the graph's placeholders.
        """
        self.env = {**known, **self._tensors}
        for node in span.nodes:
            if node not in self.env:
                self.env[node] = self.run_node(node)
        value: Tensor = self.env[span.end]
        return value

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls one operator, our own by its reference, which autograd sees through."""
        if target == op("quantize_activation"):
            return (fake_quantize_activation(*args, **kwargs),) * 3
        if target == op("quantize_weight"):
            return (fake_quantize_weight(*args, **kwargs),) * 2
        if target in PASSED_ON:
            return args[0]
        namespace, _, name = str(getattr(target, "name", str)()).partition("::")
        if namespace == NAMESPACE:
            return getattr(reference, name.partition(".")[0])(*args, **kwargs)
        return target(*args, **kwargs)

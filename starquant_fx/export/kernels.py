"""What onnxruntime really runs each quantized linear as."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from starquant_fx.errors import cause
from starquant_fx.runtime.providers import onnxruntime
from starquant_fx.runtime.session import session_options

INTEGER = frozenset(
    ["MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"]
)
"""Kernels that multiply integers."""
NBITS = "MatMulNBits"
"""The kernel that reads packed weights and quantizes activations as it likes, unless told otherwise."""
UNKNOWN = "unknown: no profile could be made"
"""In place of a kernel where nothing could be looked at."""
PRODUCTS = INTEGER | {NBITS, "MatMul", "FusedMatMul", "Gemm"}
BETWEEN = frozenset(["DequantizeLinear", "Cast", "Transpose"])
"""What may stand between a weight and its product."""


@dataclasses.dataclass(frozen=True)
class LinearKernel:
    """How one linear runs.

    Attributes:
        name: Of the linear.
        kernel: Name of onnxruntime's operator; ``?`` if it was not found, ``UNKNOWN`` if nothing was looked at.
        provider: That ran it; ``?`` if the profile does not say.
        microseconds: Of its product in the profiled run.
    """

    name: str
    kernel: str
    provider: str
    microseconds: int

    @property
    def integer(self) -> bool:
        """Whether integers are multiplied."""
        return self.kernel in INTEGER

    @property
    def packed(self) -> bool:
        """Whether the weight is multiplied from its codes, or integers are; also where nothing was looked at."""
        return self.integer or self.kernel in (NBITS, UNKNOWN)


def linear_kernels(
    path: Path, linears: list[str], feeds: Mapping[str, NDArray[Any]], threads: int | None = None
) -> list[LinearKernel]:
    """Reads it from the graph that onnxruntime made of a model, and from a profile of one run.

    Both are written beside the model, for a moment: its weights once more. Where that fails, as on a full disk, the
    model is none the worse; a warning is logged and the kernels are ``UNKNOWN``.

    Args:
        path: The ONNX file, which runs.
        linears: Names of the quantized linears.
        feeds: Inputs of the run.
        threads: Of the run; None = onnxruntime's choice.

    Returns:
        A row for every linear, in order.
    """
    try:
        optimized, ran = _profiled(path, feeds, threads)
    except Exception as error:  # also of a graph or profile that was cut short
        text = "what onnxruntime runs the linears as is not known: no profile could be made: %s"
        logging.getLogger("starquant_fx").warning(text, cause(error))
        return [LinearKernel(name, UNKNOWN, "?", 0) for name in linears]
    readers = collections.defaultdict(list)
    for node in optimized.graph.node:
        for name in node.input:
            readers[name].append(node)
    return [_kernel(name, readers, ran) for name in linears]


def _profiled(
    path: Path, feeds: Mapping[str, NDArray[Any]], threads: int | None
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph that onnxruntime makes, and what it says of each node that ran."""
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=".kernels.", ignore_cleanup_errors=True
    ) as folder:
        options = session_options(threads, strict=False)
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimized.data"
        )
        providers = ["CPUExecutionProvider"]
        session = onnxruntime().InferenceSession(path, options, providers=providers)
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        optimized = onnx.load(Path(folder) / "optimized.onnx", load_external_data=False)
    ran = {
        str(event["name"]).removesuffix("_kernel_time"): event
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
    }
    return optimized, ran


def _kernel(
    name: str, readers: Mapping[str, list[Any]], ran: Mapping[str, Mapping[str, Any]]
) -> LinearKernel:
    waiting = [n for n in readers if n.startswith(f"{name}.weight") and "scale" not in n]
    while waiting:
        for node in readers.get(waiting.pop(), []):
            if node.op_type in PRODUCTS:
                event = ran.get(node.name, {})
                args = event.get("args", {})
                kernel = str(args.get("op_name", node.op_type))
                provider = str(args.get("provider", "?"))
                return LinearKernel(name, kernel, provider, int(event.get("dur", 0)))
            if node.op_type in BETWEEN:
                waiting.extend(node.output)
    return LinearKernel(name, "?", "?", 0)

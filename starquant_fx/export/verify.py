"""Whether an exported model computes what the reference does, and what its linears run as."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from starquant_fx.errors import LoweringError, StarQuantError, cause
from starquant_fx.export.build import HEADS, Built
from starquant_fx.export.kernels import LinearKernel, linear_kernels
from starquant_fx.export.states import Case
from starquant_fx.runtime.providers import onnxruntime
from starquant_fx.runtime.session import session_options

TINY = 1e-30
LARGEST, EVERYWHERE = 0.5, 5e-3
"""A rounding tie that falls the other way spoils some calls a little: none by the first, not all by the second."""
EXACT = 1e-3
"""Of exports that quantize weights alone: nothing is rounded at run time, so that there are no ties."""
OPTIONS = {"default": False, "strict": True}
"""Sets of session options: those of onnxruntime, and those under which it computes what the file says."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One call under one set of options.

    Attributes:
        case: Name of the call.
        options: ``default`` or ``strict``.
        error: Largest |difference| / largest |value| of the logits or confidences; infinite if one of two is NaN.
        typical: The median over tokens of each one's largest |difference| / largest |value|.
        agreement: Share of tokens whose most probable one is the same.
    """

    case: str
    options: str
    error: float
    typical: float
    agreement: float


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        comparisons: Of every call.
        linears: Of every quantized linear, under default options.
    """

    comparisons: tuple[Comparison, ...]
    linears: tuple[LinearKernel, ...]

    def error(self, options: str | None = None) -> float:
        """The largest error of any call, under some options or all."""
        return max(c.error for c in self.comparisons if options in (None, c.options))

    @property
    def agreement(self) -> float:
        """The smallest share of same tokens of any call under default options."""
        return min(c.agreement for c in self.comparisons if c.options == "default")

    @property
    def float_fallbacks(self) -> tuple[LinearKernel, ...]:
        """Linears that run in floating point."""
        return tuple(linear for linear in self.linears if not linear.packed)

    def doubts(self, flavour: str) -> tuple[str, ...]:
        """Why the export does not seem to compute what the reference does; empty = it does.

        Args:
            flavour: Its flavour. What quantizes weights alone is judged under strict options: by default onnxruntime
                may quantize activations as well.
        """
        limit = EXACT if flavour == "nbits" else LARGEST
        kinds = ("strict",) if flavour == "nbits" else tuple(OPTIONS)
        found = []
        for kind in kinds:
            calls = [c for c in self.comparisons if c.options == kind]
            worst = max(calls, key=lambda c: c.error)
            least = min(c.typical for c in calls)
            if not worst.error <= limit:
                found.append(
                    f"{kind} options: error {worst.error:.1e} on {worst.case}, above {limit:g}"
                )
            elif least > EVERYWHERE:
                found.append(f"{kind} options: every call differs, by {least:.1e} or more")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; an infinite error is null."""
        rows = [dataclasses.asdict(one) for one in self.comparisons]
        return {
            **{f"error_{name}": _finite(self.error(name)) for name in OPTIONS},
            "agreement": self.agreement,
            "comparisons": [
                row | {key: _finite(row[key]) for key in ("error", "typical")} for row in rows
            ],
            "linears": [dataclasses.asdict(one) for one in self.linears],
            "float_fallbacks": [one.name for one in self.float_fallbacks],
        }


def check_export(
    path: Path, built: Built, reference: torch.nn.Module, calls: list[Case]
) -> Verification:
    """Checks a written model.

    Args:
        path: The ONNX file.
        built: What was written.
        reference: The same function in PyTorch; see ``build.reference_of``.
        calls: What to compare on.

    Returns:
        What was found; it is the caller's to judge.

    Raises:
        LoweringError: The ONNX checker or onnxruntime refuses the model.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise _refused("the ONNX checker", path, error) from error
    expected = []
    with torch.no_grad():
        for call in calls:
            results = reference(*call.inputs.values())
            expected.append(results if isinstance(results, tuple) else (results,))
    comparisons, names = [], list(HEADS[built.form.head])
    feeds = {k: v.numpy() for k, v in calls[0].inputs.items()}
    try:
        for name, strict in OPTIONS.items():
            session = _session(path, strict)
            for call, wanted in zip(calls, expected, strict=True):
                got = session.run(names, {k: v.numpy() for k, v in call.inputs.items()})
                tensors = tuple(torch.from_numpy(value) for value in got)
                comparisons.append(_compare(call, name, tensors, wanted))
        linears = linear_kernels(path, quantized_linears(built), feeds)
    except (OSError, StarQuantError):
        raise
    except Exception as error:
        raise _refused("onnxruntime", path, error) from error
    return Verification(tuple(comparisons), tuple(linears))


def quantized_linears(built: Built) -> list[str]:
    """Names of the linears whose weights are codes."""
    ending = ".packed"
    names = [n for n in built.program.tensors() if n.endswith(ending)]
    order = {n: i for i, n in enumerate(dict.fromkeys(_reads(built)))}
    names.sort(key=lambda n: order.get(n, 0))
    return [n.removeprefix("starquant.").removesuffix(ending) for n in names]


def _reads(built: Built) -> list[str]:
    """Tensors of a program in the order in which calls read them."""
    nodes = [n for n in built.program.graph.nodes if n.op == "call_function"]
    return [str(source.target) for node in nodes for source in node.all_input_nodes]


def _session(path: Path, strict: bool) -> Any:
    options = session_options(None, strict)
    options.log_severity_level = 3
    return onnxruntime().InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _compare(
    case: Case, options: str, got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]
) -> Comparison:
    """Of logits alone, or of tokens and their confidences."""
    values, expected = (x[-1][case.kept].double() for x in (got, wanted))
    chosen = [x[0][case.kept] if len(x) == 2 else x[0][case.kept].argmax(-1) for x in (got, wanted)]
    same = (values == expected) | (values.isnan() & expected.isnan())
    away = (values - expected).abs().masked_fill(same, 0).nan_to_num(nan=math.inf)
    scale = expected.nan_to_num(0, 0, 0).abs().max().clamp(min=TINY)
    away = away / scale
    rows = away.flatten(1).amax(1) if away.dim() > 1 else away
    agreement = float((chosen[0] == chosen[1]).double().mean())
    return Comparison(case.name, options, float(away.max()), float(rows.median()), agreement)


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _refused(by: str, path: Path, error: BaseException) -> LoweringError:
    return LoweringError(
        f"{by} refuses the exported model",
        where=str(path),
        expected="a valid model",
        got=cause(error),
        hint="report this with the model's configuration and the recipe",
    )

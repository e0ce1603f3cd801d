"""The variants: what each is called and which function builds it. Nothing here loads torch."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any, ClassVar

from cpu_suite.specs import Place, named

FULL = "fp32"
LIMIT = "int8 limit"
HEADLINE = "star-w4a4"
HEAD8 = "star-w4a4 int8 head"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run a model.

    Attributes:
        package: Holds the module.
        name: What its row is called.
        kind: ``full`` (fp32, bf16), ``limit``, ``peer`` or ``ours``.
        module: Module of the package with ``build(place, *options)``, which returns a ``Runner``, and perhaps
            ``prepare(place, *options)``.
        options: Handed on to both.
        size: Most memory of its process, in units of the float32 model, roughly.
        prepared: Whether its module's ``prepare`` must run before.
        needs: Packages that must be installed; the first is what runs it.
        exported: Whether it is prepared from an export that its module's variants share, and that depends on which
            logits are wanted.
    """

    package: ClassVar[str] = "cpu_suite"
    name: str
    kind: str
    module: str
    options: tuple[Any, ...] = ()
    size: float = 1.0
    prepared: bool = False
    needs: tuple[str, ...] = ()
    exported: bool = False

    def missing(self) -> str | None:
        """The first package that is needed and not installed."""
        return next((n for n in self.needs if importlib.util.find_spec(n) is None), None)

    def load(self) -> Any:
        """The module."""
        return importlib.import_module(f"{self.package}.{self.module}")

    def served(self, place: Place) -> Any:
        """What answers the requests in its process."""
        return importlib.import_module("cpu_suite.served").Served(self, place)


ORT = ("onnxruntime",)
LLAMA = ("llama_cpp", "gguf")
VARIANTS = {
    one.name: one
    for one in (
        Variant(LIMIT, "limit", "int8_limit", (), 0.5),
        Variant("bf16", "full", "full_precision", ("bf16", False), 0.7),
        Variant("bf16 compiled", "full", "full_precision", ("bf16", True), 1.8),
        Variant("fp32", "full", "full_precision", ("fp32", False), 1.2),
        Variant("fp32 compiled", "full", "full_precision", ("fp32", True), 2.3),
        Variant("torchao int8 compiled", "peer", "torchao_int8", (), 2.3, False, ("torchao",)),
        Variant("onnxruntime fp32", "peer", "onnx_models", ("fp32",), 1.1, True, ORT, True),
        Variant(
            "onnxruntime quantize_dynamic", "peer", "onnx_models", ("int8",), 0.5, True, ORT, True
        ),
        Variant(
            "onnxruntime MatMulNBits 32", "peer", "onnx_models", ("nbits32",), 0.5, True, ORT, True
        ),
        Variant(
            "onnxruntime MatMulNBits 128",
            "peer",
            "onnx_models",
            ("nbits128",),
            0.5,
            True,
            ORT,
            True,
        ),
        Variant("llama.cpp Q4_0", "peer", "llama_cpp_models", ("Q4_0",), 0.6, True, LLAMA),
        Variant("llama.cpp Q8_0", "peer", "llama_cpp_models", ("Q8_0",), 0.6, True, LLAMA),
        Variant(HEADLINE, "ours", "ours", ("star-w4a4",), 1.1, True),
        Variant(HEAD8, "ours", "ours", ("star-w4a4[role:head=w8a8]",), 1.1, True),
        Variant("star-w4a8", "ours", "ours", ("star-w4a8",), 1.1, True),
        Variant("star-w8a8", "ours", "ours", ("star-w8a8",), 1.4, True),
    )
}
HALVES = ("bf16", "bf16 compiled")
"""The faster of these is what ratios are taken of."""
ANCHORS = (LIMIT, *HALVES)
"""Measured beside every group of variants: what ratios and shares are taken of."""
QUICK = (*ANCHORS, FULL, "onnxruntime quantize_dynamic", HEADLINE, HEAD8)
PAIRED = (*ANCHORS, HEADLINE, HEAD8)
"""Measured with the logits of the masked tokens too, where both kinds are asked for."""
LOGITS = {"all": (False,), "masked": (True,), "both": (False, True)}
"""Whether logits are of the masked tokens only, by what is asked for."""


def logits_of(variant: Variant, logits: str) -> tuple[bool, ...]:
    """Whether a variant's logits are of the masked tokens only; no and then yes where it runs both ways."""
    return LOGITS[logits if logits != "both" or variant.name in PAIRED else "all"]


def chosen(text: str) -> list[Variant]:
    """The variants of these names, separated by commas, the anchors and fp32 always among them, in the table's order.

    Raises:
        InputError: There is no such variant.
    """
    names = list(VARIANTS) if text == "all" else named(text, VARIANTS, "variant", "--variants")
    wanted = {*names, *ANCHORS, FULL}
    return [variant for name, variant in VARIANTS.items() if name in wanted]

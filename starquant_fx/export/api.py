"""``export_onnx``: a compiled model as a folder that runs without PyTorch."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import InputError, LoweringError, nearest
from starquant_fx.export.build import HEADS, Built, Form, build, reference_of
from starquant_fx.export.folder import check_folder, replacing_folder, write
from starquant_fx.export.states import cases
from starquant_fx.export.verify import Verification, check_export
from starquant_fx.lowering.onnx.flavours import FLAVOURS
from starquant_fx.model_facts import is_shifted, maximum_length, vocabulary_size
from starquant_fx.runtime.metadata import MODEL, Metadata

OPSETS = (21, 22, 23)
"""Versions of ONNX's operators that have 4-bit integers and scales of blocks, and that torch writes."""


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        folder: Where to.
        flavour: See ``Form``.
        head: See ``Form``.
        opset: See ``Form``.
        bytes: On disk, by file.
        nodes: Of the graph.
        seconds: Of building and writing.
        verification: None = it was not asked for.
    """

    folder: Path
    flavour: str
    head: str
    opset: int
    bytes: dict[str, int]
    nodes: int
    seconds: float
    verification: Verification | None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


def export_onnx(
    compiled: CompiledModel,
    path: str | os.PathLike[str],
    *,
    flavour: str = "qdq",
    head: str = "logits",
    opset: int = 21,
    attention_mask: bool = False,
    tokenizer: Any = None,
    samples: Tensor | None = None,
    verify: bool = True,
    force: bool = False,
) -> ExportReport:
    """Writes a folder with an ONNX model, what is to be known about it, and its tokenizer.

    The graph computes in float32. Weights are written one by one, so that a large model is not in memory twice.

    Args:
        compiled: The compiled model.
        path: The folder; its parent must exist.
        flavour: ``qdq``: standard nodes, right in every runtime; ``integer``: products of bytes, fast in onnxruntime;
            ``nbits``: only weights are quantized.
        head: ``logits`` [B, L, vocab]; ``row-logits`` [R, vocab] or ``tokens`` (the most probable token and its
            probability, each [R]) at an input ``rows`` [R] of positions in the flattened [B, L].
        opset: 21 to 23.
        attention_mask: Whether prompts may be padded: the model then takes a mask at every call.
        tokenizer: Of the model, to be written beside it.
        samples: Real tokens [N, L] to verify on, besides random ones.
        verify: Whether to compare the written model with the reference target and to look at what onnxruntime runs;
            it takes the memory of the weights in float32.
        force: Whether an export that is there is replaced.

    Returns:
        What was written and found.

    Raises:
        InputError: An argument does not fit.
        LoweringError: The graph has no such form, or the written model is refused.
        CheckpointError: The folder cannot be written; then nothing is left behind.
    """
    began = time.perf_counter()
    form = _form(compiled, flavour, head, opset, attention_mask)
    folder = check_folder(Path(path), force)
    built = build(compiled, form)
    with replacing_folder(folder) as temporary:
        write(temporary, built.model, _metadata(compiled, built), _tokenizer_file(tokenizer))
        seconds = time.perf_counter() - began
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        found = _verified(temporary / MODEL, compiled, built, samples) if verify else None
    nodes = len(built.model.graph)
    return ExportReport(folder, flavour, head, opset, sizes, nodes, seconds, found)


def _form(
    compiled: CompiledModel, flavour: str, head: str, opset: int, attention_mask: bool
) -> Form:
    if not isinstance(compiled, CompiledModel):
        raise InputError(
            "this is no compiled model",
            where="compiled",
            expected="what starquant_fx.compile returned",
            got=type(compiled).__name__,
            hint="compile the model first",
        )
    check_arguments(flavour, head, opset)
    return Form(flavour, head, opset, attention_mask)


def check_arguments(flavour: str, head: str, opset: int) -> None:
    """Raises an error if there is no such flavour, head or opset."""
    for where, value, known in (("flavour", flavour, FLAVOURS), ("head", head, HEADS)):
        if value not in known:
            raise InputError(
                f"unknown {where} {value!r}",
                where=where,
                expected=", ".join(known),
                got=repr(value),
                hint=nearest(str(value), known) or "see docs/onnx.md",
            )
    newest = onnx.defs.onnx_opset_version()
    if opset not in OPSETS or opset > newest:
        raise LoweringError(
            f"opset {opset} cannot be written",
            where="opset",
            expected=", ".join(str(o) for o in OPSETS if o <= newest),
            got=f"{opset!r}; the installed onnx knows up to {newest}",
            hint="21 is what most runtimes take",
        )


def _verified(
    path: Path, compiled: CompiledModel, built: Built, samples: Tensor | None
) -> Verification:
    calls = cases(
        built.inputs,
        _vocabulary(compiled),
        compiled.program.mask_token_id,
        maximum_length(compiled),
        samples,
    )
    return check_export(path, built, reference_of(built, compiled.tensors()), list(calls))


def _metadata(compiled: CompiledModel, built: Built) -> Metadata:
    config, form = compiled.config, built.form
    return Metadata(
        flavour=form.flavour,
        opset=form.opset,
        recipe=compiled.report.recipe,
        model_type=str(getattr(config, "model_type", "")),
        vocab_size=_vocabulary(compiled),
        mask_token_id=compiled.program.mask_token_id,
        max_length=maximum_length(compiled),
        eos_token_id=getattr(config, "eos_token_id", None),
        eot_token_id=getattr(config, "eot_token_id", None),
        head=form.head,
        inputs=tuple(built.inputs),
        outputs=HEADS[form.head],
        sampler="dream" if is_shifted(compiled) else "llada",
        sampler_defaults={},
        files={},
    )


def _vocabulary(compiled: CompiledModel) -> int:
    """Number of token ids."""
    size = vocabulary_size(compiled)
    if size is None:
        raise InputError(
            "the size of the vocabulary is not known",
            where="compiled.config",
            expected="vocab_size",
            got="none",
            hint="compile a model whose config says it",
        )
    return size


def _tokenizer_file(tokenizer: Any) -> str | None:
    """The content of ``tokenizer.json``, of transformers' fast tokenizers and of the tokenizers library's own."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    to_str = getattr(backend, "to_str", None)
    return None if to_str is None else str(to_str())

"""``export_onnx``: a compiled model as a folder that runs without PyTorch."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from starquant_fx.compiled import CompiledModel
from starquant_fx.export.build import HEADS, Built, Form, build, reference_of
from starquant_fx.export.checks import (
    check_arguments,
    check_compiled,
    check_sampler_defaults,
    check_samples,
    tokenizer_file,
    vocabulary,
)
from starquant_fx.export.folder import check_folder, replacing_folder, write
from starquant_fx.export.states import cases
from starquant_fx.export.verify import Verification, check_export
from starquant_fx.model_facts import is_shifted, maximum_length
from starquant_fx.runtime.metadata import MODEL, Metadata
from starquant_fx.sampling import arguments


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
        found = self.verification
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found_too = None if found is None else found.to_dict()
        return {**own, "folder": str(self.folder), "verification": found_too}


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
    sampler_defaults: Mapping[str, Any] | None = None,
    verify: bool = True,
    force: bool = False,
    flavor: str | None = None,
) -> ExportReport:
    """Writes a folder with an ONNX model, what is to be known about it, and its tokenizer.

    The graph computes in float32. Weights are written one by one, so that a large model is not in memory twice.

    Args:
        compiled: The compiled model.
        path: The folder; its parent must exist. The model in it is ``model.onnx``.
        flavour: ``qdq``: standard nodes, right in every runtime; ``integer``: products of bytes, fast in onnxruntime;
            ``nbits``: only weights are quantized.
        head: ``logits`` [B, L, vocab]; ``row-logits`` [R, vocab] or ``tokens`` (the most probable token and its
            probability, each [R]) at an input ``rows`` [R] of positions in the flattened [B, L].
        opset: 21 to 23.
        attention_mask: Whether prompts may be padded: the model then takes a mask at every call.
        tokenizer: Of the model, to be written beside it.
        samples: Real tokens [N, L] to verify on, besides random ones.
        sampler_defaults: Arguments of the model's sampler that the runtime takes where a caller gives none.
        verify: Whether to compare the written model with the reference target and to look at what onnxruntime runs;
            it takes the memory of the weights in float32.
        force: Whether an export that is there is replaced.
        flavor: The same as ``flavour``.

    Returns:
        What was written and found.

    Raises:
        InputError: An argument does not fit, or onnxruntime is missing and ``verify`` is set.
        LoweringError: The graph has no such form, or the written model is refused.
        CheckpointError: The folder cannot be written; then nothing is left behind.
    """
    began = time.perf_counter()
    check_compiled(compiled)
    flavour = flavour if flavor is None else flavor
    defaults = check_sampler_defaults(sampler_defaults, is_shifted(compiled))
    check_arguments(flavour, head, opset, verify)
    form = Form(flavour, head, opset, arguments.flag("attention_mask", attention_mask))
    samples, text = check_samples(samples, compiled), tokenizer_file(tokenizer)
    folder = check_folder(path, arguments.flag("force", force))
    built = build(compiled, form)
    with replacing_folder(folder) as temporary:
        write(temporary, built.model, _metadata(compiled, built, defaults), text)
        seconds = time.perf_counter() - began
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        found = _verified(temporary / MODEL, compiled, built, samples) if verify else None
    nodes = len(built.model.graph)
    return ExportReport(folder, flavour, head, opset, sizes, nodes, seconds, found)


def _verified(
    path: Path, compiled: CompiledModel, built: Built, samples: Tensor | None
) -> Verification:
    calls = cases(
        built.inputs,
        vocabulary(compiled),
        compiled.program.mask_token_id,
        maximum_length(compiled),
        samples,
    )
    return check_export(path, built, reference_of(built, compiled.tensors()), list(calls))


def _metadata(compiled: CompiledModel, built: Built, defaults: dict[str, Any]) -> Metadata:
    form = built.form
    return Metadata(
        flavour=form.flavour,
        opset=form.opset,
        recipe=compiled.report.recipe,
        model_type=str(getattr(compiled.config, "model_type", "")),
        vocab_size=vocabulary(compiled),
        mask_token_id=compiled.program.mask_token_id,
        max_length=maximum_length(compiled),
        eos_token_id=_token(compiled, "eos_token_id"),
        eot_token_id=_token(compiled, "eot_token_id"),
        head=form.head,
        inputs=tuple(built.inputs),
        outputs=HEADS[form.head],
        sampler="dream" if is_shifted(compiled) else "llada",
        sampler_defaults=defaults,
        files={},
    )


def _token(compiled: CompiledModel, key: str) -> int | None:
    """A token id of the configuration, the first of several; None if it has none within the vocabulary."""
    value = getattr(compiled.config, key, None)
    first = next(iter(value), None) if isinstance(value, list | tuple) else value
    if not isinstance(first, int) or isinstance(first, bool):
        return None
    return first if 0 <= first < vocabulary(compiled) else None

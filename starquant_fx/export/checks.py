"""Checks of what ``export_onnx`` is given, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from torch import Tensor

from starquant_fx.compiled import CompiledModel, compiled_model
from starquant_fx.errors import InputError, LoweringError, nearest
from starquant_fx.export.build import HEADS
from starquant_fx.lowering.onnx.flavours import FLAVOURS
from starquant_fx.model_facts import check_ids, maximum_length, vocabulary_size
from starquant_fx.runtime.dream import dream_generate
from starquant_fx.runtime.llada import llada_generate
from starquant_fx.runtime.providers import onnxruntime
from starquant_fx.sampling import arguments

OPSETS = (21, 22, 23)
"""Versions of ONNX's operators that have 4-bit integers and scales of blocks, and that torch writes."""


def check_compiled(compiled: object) -> CompiledModel:
    """Returns a compiled model whose vocabulary is known, else raises an InputError."""
    model = compiled_model(compiled)
    vocabulary(model)
    return model


def check_arguments(flavour: object, head: object, opset: object, verify: object = True) -> None:
    """Checks what needs no model.

    Args:
        flavour: As ``export_onnx``.
        head: As there.
        opset: As there.
        verify: As there; it needs onnxruntime.

    Raises:
        InputError: There is no such flavour or head, or onnxruntime is missing.
        LoweringError: The opset cannot be written.
    """
    for where, value, known in (("flavour", flavour, FLAVOURS), ("head", head, HEADS)):
        if not isinstance(value, str) or value not in known:
            raise InputError(
                f"unknown {where} {value!r}",
                where=where,
                expected=", ".join(known),
                got=repr(value),
                hint=nearest(str(value), known) or "see docs/onnx.md",
            )
    newest = onnx.defs.onnx_opset_version()
    if type(opset) is not int or opset not in OPSETS or opset > newest:
        raise LoweringError(
            f"opset {opset!r} cannot be written",
            where="opset",
            expected=", ".join(str(o) for o in OPSETS if o <= newest),
            got=f"{opset!r}; the installed onnx knows up to {newest}",
            hint="21 is what most runtimes take",
        )
    if arguments.flag("verify", verify):
        _need_onnxruntime()


def check_sampler_defaults(given: object, dream: bool) -> dict[str, Any]:
    """Returns arguments of a sampler as JSON takes them.

    Args:
        given: By name, or None.
        dream: Whether the sampler is Dream's.

    Raises:
        InputError: The sampler has no such argument, or a value is none for JSON.
    """
    if given is None:
        return {}
    plain = isinstance(given, Mapping) and all(
        isinstance(value, str | int | float | bool | None) for value in given.values()
    )
    if not isinstance(given, Mapping) or not plain:
        raise InputError(
            "the defaults of the sampler are not usable",
            where="sampler_defaults",
            expected="numbers, texts or flags by the names of the sampler's arguments, or None",
            got=repr(given),
            hint="for example sampler_defaults={'temperature': 0.2}",
        )
    names = arguments.names_of(dream_generate if dream else llada_generate)
    arguments.check_names(given, [name for name in names if name != "generator"])
    return dict(given)


def check_samples(samples: object, compiled: CompiledModel) -> Tensor | None:
    """Returns token ids [N, L] to verify on as int64, or None, else raises an InputError."""
    if samples is None:
        return None
    longest = maximum_length(compiled)
    fits = isinstance(samples, Tensor) and samples.dim() == 2 and samples.numel()
    if not fits or (longest is not None and samples.shape[1] > longest):  # type: ignore[attr-defined]
        at_most = "" if longest is None else f" of at most {longest} tokens"
        raise InputError(
            "the samples are not usable",
            where="samples",
            expected=f"a tensor of token ids [N, L]{at_most}",
            got=str(list(samples.shape)) if isinstance(samples, Tensor) else repr(samples)[:200],
            hint="leave the argument out to verify on random tokens only",
        )
    assert isinstance(samples, Tensor)
    return check_ids(samples.detach().cpu(), compiled, "samples")


def tokenizer_file(tokenizer: Any) -> str | None:
    """The content of ``tokenizer.json``, of transformers' fast tokenizers and of the tokenizers library's own.

    Args:
        tokenizer: None = there is none.

    Returns:
        The content.

    Raises:
        InputError: The tokenizer is of another kind.
    """
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    to_str = getattr(backend, "to_str", None)
    if to_str is None:
        raise InputError(
            "the tokenizer cannot be written",
            where="tokenizer",
            expected="a fast tokenizer of transformers, or a tokenizers.Tokenizer",
            got=type(tokenizer).__name__,
            hint="leave the argument out: the export then takes token ids, and text is up to you",
        )
    return str(to_str())


def vocabulary(compiled: CompiledModel) -> int:
    """Number of token ids; an InputError if the configuration does not say it."""
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


def _need_onnxruntime() -> None:
    try:
        onnxruntime()
    except InputError as error:
        raise InputError(
            "verification needs onnxruntime, which is not installed",
            where="verify",
            expected=error.expected,
            got=error.got,
            hint="pip install onnxruntime, or verify=False writes without looking",
        ) from error

"""An onnxruntime session of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, StarQuantError, cause
from starquant_fx.runtime.metadata import MODEL, Metadata
from starquant_fx.runtime.processor import lacks_vnni
from starquant_fx.runtime.providers import (
    check_provider_options,
    check_providers,
    check_started,
    onnxruntime,
)
from starquant_fx.sampling import arguments

STRICT = {
    # Weights of few bits are multiplied with float32 activations as in the file, which are int8 by default.
    "session.qdq_matmulnbits_accuracy_level": "1",
    # Of two rounds of quantization none is dropped.
    "session.disable_double_qdq_remover": "1",
}
"""Session options under which onnxruntime computes what the file says."""
EXACT_BYTES = {"session.x64quantprecision": "1"}
"""On x86 without VNNI onnxruntime's products of uint8 and int8 may saturate, unless it makes both unsigned.

Elsewhere they are exact, this is slower, and in other flavours than "integer" it has broken scales of channels.
"""
MOST_THREADS = 1 << 13
"""As many processors as Linux is built for at most; onnxruntime would try to start any number."""


def session_options(threads: int | None, strict: bool, flavour: str | None = None) -> Any:
    """``onnxruntime.SessionOptions``.

    Args:
        threads: As ``load`` takes it.
        strict: As there.
        flavour: Of the export; None = not known.

    Returns:
        The options.

    Raises:
        InputError: An argument does not fit.
    """
    options = onnxruntime().SessionOptions()
    # With one block for all of a run's buffers attention's products and softmax are slower.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = arguments.integer("threads", threads, 1, MOST_THREADS)
    for key, value in STRICT.items() if arguments.flag("strict", strict) else ():
        options.add_session_config_entry(key, value)
    for key, value in EXACT_BYTES.items() if flavour == "integer" and lacks_vnni() else ():
        options.add_session_config_entry(key, value)
    return options


def open_session(
    folder: Path,
    metadata: Metadata,
    *,
    providers: Sequence[str],
    provider_options: Sequence[Mapping[str, Any]] | None,
    threads: int | None,
    strict: bool,
) -> Any:
    """Opens the model of a folder.

    Args:
        folder: The exported folder.
        metadata: Its metadata.
        providers: As ``load``.
        provider_options: As there.
        threads: As there.
        strict: As there.

    Returns:
        An ``onnxruntime.InferenceSession``.

    Raises:
        InputError: A provider or option does not fit.
        CheckpointError: onnxruntime refuses the model, or it is not what the metadata says.
    """
    library = onnxruntime()
    names = check_providers(providers)
    own = check_provider_options(provider_options, names)
    options = session_options(threads, strict, metadata.flavour)
    path = str(folder / MODEL)
    try:
        session = library.InferenceSession(path, options, names, own, enable_fallback=0)
    except Exception as error:
        raise CheckpointError(
            "onnxruntime cannot load the model",
            where=path,
            expected=f"a model that onnxruntime {library.__version__} runs on {', '.join(names)}",
            got=cause(error),
            hint="copy the exported folder as a whole, or update onnxruntime",
        ) from error
    check_started(names, session.get_providers())
    for key, listed, found in (
        ("inputs", metadata.inputs, session.get_inputs()),
        ("outputs", metadata.outputs, session.get_outputs()),
    ):
        if {each.name for each in found} != set(listed):
            raise CheckpointError(
                f"the model has other {key} than its metadata says",
                where=path,
                expected=", ".join(listed),
                got=", ".join(each.name for each in found),
                hint="export the model again",
            )
    return session


def run(session: Any, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """Runs a session once.

    Args:
        session: See ``open_session``.
        outputs: Names.
        feeds: Arrays by the names of the inputs.

    Returns:
        An array for each output.

    Raises:
        StarQuantError: onnxruntime failed.
    """
    try:
        results: list[Any] = session.run(list(outputs), dict(feeds))
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise StarQuantError(
            "onnxruntime could not run the model",
            where=shapes,
            expected=", ".join(f"{each.name} {each.shape}" for each in session.get_inputs()),
            got=cause(error),
            hint="check memory and shapes; smaller batches or shorter sequences need less",
        ) from error
    return results

"""``load``: an exported folder, checked and opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starquant_fx.errors import InputError
from starquant_fx.runtime.contained import check_contained
from starquant_fx.runtime.denoiser import OnnxDenoiser
from starquant_fx.runtime.external_data import check_external_files
from starquant_fx.runtime.integrity import check_files
from starquant_fx.runtime.metadata import MODEL, read_metadata
from starquant_fx.runtime.providers import check_provider_options, check_providers
from starquant_fx.runtime.session import open_session
from starquant_fx.sampling import arguments


def load(
    folder: str | os.PathLike[str],
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    provider_options: Sequence[Mapping[str, Any]] | None = None,
    threads: int | None = None,
    strict: bool = False,
    check: bool = True,
) -> OnnxDenoiser:
    """Loads a model that was exported to ONNX. Needs numpy, onnxruntime and, for text, tokenizers; no torch.

    Args:
        folder: The exported folder.
        providers: onnxruntime's execution providers, the preferred first; "cuda" is short for "CUDAExecutionProvider".
        provider_options: onnxruntime's options, one mapping for each provider. Its CPU provider has none, and ignores
            without a message whatever it is given.
        threads: Threads within an operator; None = onnxruntime decides.
        strict: Compute what the file says, whatever is faster: onnxruntime does not quantize activations that the file
            leaves in float32, and drops no quantizer.
        check: Compare the SHA-256 of all files with those of the export. Without it the folder is still refused if the
            model names files outside of its own, or a file is a link that leads out of the folder.

    Returns:
        The model.

    Raises:
        InputError: An argument does not fit; onnxruntime or a provider is missing.
        CheckpointError: The folder is no export, of an unknown version, not whole, or was changed.
    """
    if not isinstance(folder, str | os.PathLike):
        raise InputError(
            "this is no folder",
            where="folder",
            expected="a path",
            got=type(folder).__name__,
            hint="name the folder that the model was exported to",
        )
    names = check_providers(providers)
    check_provider_options(provider_options, names)
    path = Path(folder)
    metadata = read_metadata(path)
    check_contained(path, metadata.files)
    if arguments.flag("check", check):
        check_files(path, metadata)
    check_external_files(path / MODEL, set(metadata.files) - {MODEL})
    session = open_session(
        path,
        metadata,
        providers=names,
        provider_options=provider_options,
        threads=threads,
        strict=strict,
    )
    return OnnxDenoiser(path, metadata, session)

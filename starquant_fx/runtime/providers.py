"""Execution providers of onnxruntime: the CPU, GPUs and other devices."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from starquant_fx.errors import InputError, cause, nearest

SUFFIX = "ExecutionProvider"
PACKAGES = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "DmlExecutionProvider": "onnxruntime-directml",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
}
"""Provider -> the package with an onnxruntime that has it."""


def onnxruntime() -> Any:
    """Imports onnxruntime.

    Returns:
        The module.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(
            "onnxruntime is not installed",
            where="starquant_fx.runtime",
            expected="onnxruntime 1.23 or newer",
            got=cause(error),
            hint="pip install onnxruntime, or onnxruntime-gpu for CUDA",
        ) from error


def check_providers(names: Sequence[str]) -> list[str]:
    """Checks execution providers against the installed onnxruntime.

    Args:
        names: In the order of preference, such as "CUDAExecutionProvider", or short, "cuda".

    Returns:
        Their full names.

    Raises:
        InputError: There are none, one does not exist, or the installed onnxruntime lacks it.
    """
    library = onnxruntime()
    known: list[str] = library.get_all_providers()
    available: list[str] = library.get_available_providers()
    by_name = {name.lower(): name for name in known}
    by_name |= {name.removesuffix(SUFFIX).lower(): name for name in known}
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not names or not all(isinstance(name, str) for name in names):
        raise _refusal(
            "there is no execution provider to run with",
            "a list of names",
            repr(names),
            "providers=['cpu']",
        )
    full = []
    for name in names:
        found = by_name.get(name.lower())
        if found is None:
            hint = (
                nearest(name.lower(), by_name)
                or "see onnxruntime's documentation of execution providers"
            )
            raise _refusal(
                f"unknown execution provider {name!r}", ", ".join(available), repr(name), hint
            )
        if found not in available:
            package = PACKAGES.get(found)
            get = (
                f"pip install {package} in place of onnxruntime"
                if package
                else f"install an onnxruntime with {found}"
            )
            raise _refusal(
                f"the installed onnxruntime {library.__version__} has no {found}",
                ", ".join(available),
                found,
                f"{get}, or run with the CPUExecutionProvider",
            )
        full.append(found)
    return full


def check_provider_options(
    options: Sequence[Mapping[str, Any]] | None, providers: Sequence[str]
) -> list[dict[str, str]]:
    """Returns onnxruntime's options of every provider; raises an InputError if there is not one mapping for each.

    Names and values are the provider's to check: the CPU's ignores them all, and does not say so.
    """
    if options is None:
        return [{} for _ in providers]
    whole = isinstance(options, Sequence) and all(isinstance(each, Mapping) for each in options)
    if not whole or len(options) != len(providers):
        raise InputError(
            "the provider options do not fit the providers",
            where="provider_options",
            expected=f"a list of {len(providers)}, one mapping for each of {', '.join(providers)}",
            got=repr(options)[:200],
            hint="for example provider_options=[{'device_id': 1}] for providers=['cuda']",
        )
    return [{str(name): str(value) for name, value in each.items()} for each in options]


def check_started(requested: Sequence[str], started: Sequence[str]) -> None:
    """Raises an InputError if a session lacks one of the requested providers: onnxruntime leaves out what fails."""
    for name in requested:
        if name not in started:
            raise _refusal(
                f"{name} did not start",
                name,
                f"a session on {', '.join(started)}",
                "see onnxruntime's message above: a driver or library (CUDA, cuDNN) is missing or too old",
            )


def _refusal(what: str, expected: str, got: str, hint: str) -> InputError:
    return InputError(what, where="providers", expected=expected, got=got, hint=hint)

"""The command line: thin commands over the public API."""

from __future__ import annotations

import sys

NEEDED = ("torch", "transformers", "onnx", "onnx_ir", "sympy", "networkx", "safetensors", "numpy")
"""Dependencies that an installation for exported models leaves out, as docs/onnx-runtime.md says."""


def main() -> None:
    """Runs the command line; a refusal is printed without a traceback and ends with exit code 2."""
    from rich.console import Console

    from starquant_fx.cli.app import app
    from starquant_fx.cli.wording import as_options
    from starquant_fx.errors import StarQuantError, plain

    try:
        app()
    except StarQuantError as error:
        # it may hold names out of a file
        text = f"error: {plain(str(as_options(error)))}"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in NEEDED:
            raise
        print(f"error: {_missing(error.name)}", file=sys.stderr)
        sys.exit(2)


def _missing(package: str) -> str:
    """The refusal of a command whose packages were left out of the installation."""
    return (
        f"this command needs the package {package}, which is not installed\n"
        "  do: install starquant-fx with its dependencies; without them only `generate --onnx` runs"
    )

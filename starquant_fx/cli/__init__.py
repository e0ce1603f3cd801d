"""The command line: thin commands over the public API."""

from __future__ import annotations

import sys


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

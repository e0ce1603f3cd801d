#!/usr/bin/env python3
"""Shows the graph of a model after every pass: ``starquant-fx inspect`` as a file to run.

``python tools/inspect_graph.py --config llada-8b --recipe star-w4a4 --html FILE --json FILE2``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from starquant_fx.cli import main as command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Runs ``starquant-fx inspect`` with these arguments; exit code 2 if it is refused."""
    sys.argv[1:] = ["inspect", *(sys.argv[1:] if argv is None else argv)]
    command_line()


if __name__ == "__main__":
    main()

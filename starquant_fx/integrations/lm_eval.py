r"""The lm-evaluation-harness integration: a model type ``starquant``, and the paper's nine tasks from local files.

Versions of the harness that read entry points know the model type once this package is installed. For those that do
not, ``python -m starquant_fx.integrations.lm_eval`` is the harness's own command line with the type registered:

    python -m starquant_fx.integrations.lm_eval --model starquant \
        --model_args pretrained=llada-tiny,recipe=star-w4a4 --tasks ...
"""

from __future__ import annotations

import sys

from starquant_fx.errors import exit_code
from starquant_fx.integrations.harness.model import StarQuantLM
from starquant_fx.integrations.harness.tasks import local_tasks

__all__ = ["StarQuantLM", "local_tasks"]


def main() -> None:
    """Runs the harness's command line; a refusal is printed without a traceback and ends with exit code 2."""
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    if code := exit_code(cli_evaluate):
        sys.exit(code)


if __name__ == "__main__":
    main()

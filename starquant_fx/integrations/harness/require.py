"""Whether the lm-evaluation-harness is there."""

from __future__ import annotations

import importlib.metadata

from starquant_fx.errors import StarQuantError


def require_harness() -> str:
    """Returns the harness's version.

    Raises:
        StarQuantError: It is not installed, or too old.
    """
    try:
        version = importlib.metadata.version("lm_eval")
        import datasets  # pyright: ignore[reportMissingImports] # noqa: F401
        import lm_eval.tasks._yaml_loader  # pyright: ignore[reportMissingImports] # noqa: F401
    except ImportError as error:
        raise StarQuantError(
            "the lm-evaluation-harness cannot be used",
            where="lm_eval",
            expected="lm_eval 0.4.13 or newer",
            got=str(error) or type(error).__name__,
            hint="pip install 'starquant-fx[eval]'",
        ) from error
    return version

"""transformers' own API: ``AutoModelForMaskedLM.from_pretrained`` of LLaDA, Dream and packed checkpoints.

``import starquant_fx`` is all that is needed. ``register`` does it at once, and raises where it fails.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starquant_fx.integrations.hugging_face.quantization_config import StarQuantConfig
    from starquant_fx.integrations.hugging_face.registration import register

__all__ = ["StarQuantConfig", "register"]
_HOMES = {"StarQuantConfig": "quantization_config", "register": "registration"}


def __getattr__(name: str) -> Any:
    """Imports a public name at first use: this package is imported with ``starquant_fx``, and stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

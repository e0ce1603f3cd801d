"""Looking into a compilation: the graph after every pass, what each pass changed, what each site costs and loses."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starquant_fx.inspection.collection import read_recording, to_json
    from starquant_fx.inspection.exported_program import save_exported_program
    from starquant_fx.inspection.page import to_html
    from starquant_fx.inspection.record import (
        record_checkpoint,
        record_compilation,
        record_config,
    )
    from starquant_fx.inspection.recorder import Recorder
    from starquant_fx.inspection.recording import Node, Recording, SiteFacts, Stage

__all__ = [
    "Node",
    "Recorder",
    "Recording",
    "SiteFacts",
    "Stage",
    "read_recording",
    "record_checkpoint",
    "record_compilation",
    "record_config",
    "save_exported_program",
    "to_html",
    "to_json",
]
_HOMES = {
    "Node": "recording",
    "Recorder": "recorder",
    "Recording": "recording",
    "SiteFacts": "recording",
    "Stage": "recording",
    "read_recording": "collection",
    "record_checkpoint": "record",
    "record_compilation": "record",
    "record_config": "record",
    "save_exported_program": "exported_program",
    "to_html": "page",
    "to_json": "collection",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at first use: looking at a recording needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'starquant_fx.inspection' has no attribute {name!r}")
    return getattr(importlib.import_module(f"starquant_fx.inspection.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

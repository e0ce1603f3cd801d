"""StarQuant FX: a compiler that quantizes masked diffusion LLMs to low bits by rewriting their torch.fx graph."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from starquant_fx.integrations.hugging_face.hook import install as _install

if TYPE_CHECKING:
    from starquant_fx.api import compile
    from starquant_fx.artifact import load_artifact, save_artifact
    from starquant_fx.checkpoint.reading import load
    from starquant_fx.compiled import CompiledModel
    from starquant_fx.diffusion import generate
    from starquant_fx.errors import StarQuantError
    from starquant_fx.export.api import ExportReport, export_onnx
    from starquant_fx.integrations.hugging_face.quantization_config import StarQuantConfig
    from starquant_fx.models.loading import from_pretrained
    from starquant_fx.recipe import Recipe
    from starquant_fx.recipes import get_recipe
    from starquant_fx.report import Report
    from starquant_fx.streaming.api import compile_folder

__version__ = "0.1.0"
__all__ = [
    "CompiledModel",
    "ExportReport",
    "Recipe",
    "Report",
    "StarQuantConfig",
    "StarQuantError",
    "compile",
    "compile_folder",
    "export_onnx",
    "from_pretrained",
    "generate",
    "get_recipe",
    "load",
    "load_artifact",
    "save_artifact",
]
_HOMES = {
    "CompiledModel": "compiled",
    "ExportReport": "export.api",
    "Recipe": "recipe",
    "Report": "report",
    "StarQuantConfig": "integrations.hugging_face.quantization_config",
    "StarQuantError": "errors",
    "compile": "api",
    "compile_folder": "streaming.api",
    "export_onnx": "export.api",
    "from_pretrained": "models.loading",
    "generate": "diffusion",
    "get_recipe": "recipes",
    "load": "checkpoint.reading",
    "load_artifact": "artifact",
    "save_artifact": "artifact",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at first use, so that ``import starquant_fx`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'starquant_fx' has no attribute {name!r}")
    return getattr(importlib.import_module(f"starquant_fx.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


_install()  # transformers then loads our checkpoints; it is not imported here

"""Registers with transformers when it is imported, so that ``import starquant_fx`` does not have to import it.

The order of the two imports does not matter. Modules of transformers that are there already are registered with at
once; for the others a finder on ``sys.meta_path`` waits. It finds modules as Python does, and adds one thing: after the
module has run, our types are registered. It holds no lock while anything is imported, and never makes an import fail: a
failure is a warning.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

REGISTRIES = {
    "transformers.models.auto.modeling_auto": "register_models",
    "transformers.quantizers.auto": "register_quantization",
    "transformers.models.auto.configuration_auto": "register_configurations",
}
"""Modules that keep what is registered -> the functions of ``registration`` that do it; the first imports the last."""
HERE = "starquant_fx.integrations.hugging_face"
USERS = (
    "transformers.modeling_utils",
    *(f"{HERE}.{name}" for name in ("configuration", "modeling", "quantizer", "stand_ins")),
)
"""Modules that may be what imports a registry, and that must be complete before anything is registered."""
WATCHED = (*REGISTRIES, *USERS)


class AfterImport(MetaPathFinder):
    """Finds the watched modules, and registers when the last of those that are being imported is complete."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        """Watched modules that are being imported, by any thread."""
        self.counting = threading.Lock()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """What Python finds for a watched module; None for all others."""
        spec = PathFinder.find_spec(name, path, target) if name in WATCHED else None
        loader: Any = None if spec is None else spec.loader
        if loader is None:
            return None
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with self.counting:
                self.running.add(name)
            try:
                run(module)
            finally:
                with self.counting:
                    self.running.discard(name)
                    last = not self.running
                if last:  # else it is the turn of a module, or a thread, that needs this one
                    register_with_loaded()

        loader.exec_module = exec_module  # of this spec's own loader; its type stays what it is
        return spec


def register_with_loaded() -> None:
    """Registers with every registry that is imported; a failure is a warning."""
    for registry, function in REGISTRIES.items():
        if registry not in sys.modules:
            continue
        try:
            getattr(importlib.import_module(f"{HERE}.registration"), function)()
        except Exception as error:
            warnings.warn(
                f"starquant_fx could not register with {registry}: {type(error).__name__}: {error}. "
                f"{HERE}.register() tries again",
                stacklevel=2,
            )


def install() -> None:
    """Registers with what is imported of transformers, now or later; a second call does nothing."""
    if any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, AfterImport())
    register_with_loaded()

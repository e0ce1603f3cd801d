"""Registers with transformers when it is imported, so that ``import starquant_fx`` does not have to import it.

The order of the two imports does not matter. Modules of transformers that are there already are registered with at
once; for the others a finder on ``sys.meta_path`` waits. It finds modules as Python does, and adds one thing: after the
module has run, and before any other thread can see it complete, our types are registered. It holds no lock of its own
while anything is imported, and never makes an import fail: a failure is a warning.
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
"""Modules that may be what imports a registry, after which what could not be registered inside them is."""
WATCHED = (*REGISTRIES, *USERS)


class AfterImport(MetaPathFinder):
    """Finds the watched modules; after each of them it registers with every registry that is complete.

    What registers needs nothing of transformers that its registry has not imported. Only a module of ours may be what
    imports the registry, in this thread or in another that waits for this one: it is then incomplete, what needs it
    fails, and is done after it.
    """

    def __init__(self) -> None:
        self.complete = {name for name in REGISTRIES if name in sys.modules}
        """Registries that have run."""
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
                with self.counting:
                    self.complete.update({name}.intersection(REGISTRIES))
            finally:
                with self.counting:
                    self.running.discard(name)
                self.register()

        loader.exec_module = exec_module  # of this spec's own loader; its type stays what it is
        return spec

    def register(self) -> None:
        """Registers with every registry that is complete.

        A failure is a warning, unless a watched module is being imported: this is called again after it.
        """
        with self.counting:
            registries = [name for name in REGISTRIES if name in self.complete]
            again = bool(self.running)
        for registry in registries:
            try:
                getattr(importlib.import_module(f"{HERE}.registration"), REGISTRIES[registry])()
            except Exception as error:
                if not again:
                    warnings.warn(
                        f"starquant_fx could not register with {registry}: {type(error).__name__}: {error}. "
                        f"{HERE}.register() tries again",
                        stacklevel=2,
                    )


def install() -> None:
    """Registers with what is imported of transformers, now or later; a second call does nothing."""
    if any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        return
    finder = AfterImport()
    sys.meta_path.insert(0, finder)
    finder.register()

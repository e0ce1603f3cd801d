"""The model that is compiled: its weights are maps of its files, which must stay what they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from starquant_fx.errors import CheckpointError
from starquant_fx.fingerprint import fingerprint
from starquant_fx.mapped import release
from starquant_fx.models.loading import from_pretrained
from starquant_fx.models.locate import HUB_ID, locate


class Source:
    """A model in full precision whose weights are read when they are needed.

    Args:
        name: A shipped name, a folder, or a hub id.

    Attributes:
        model: The model; its parameters are maps of the files where they are stored as the model computes.
        tokenizer: Its tokenizer, or None.
        hub_id: Under which it was named, or None.
        fingerprint: Of all values.

    Raises:
        CheckpointError: There is no such model, or its files are damaged.
        ConfigError: Its configuration is unusable.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        self.folder = locate(name)
        shown = os.fspath(name)
        self.hub_id = shown if HUB_ID.fullmatch(shown) and not Path(shown).is_dir() else None
        self._files = self._facts()
        self.model, self.tokenizer = from_pretrained(self.folder)
        self.fingerprint = fingerprint(dict(self.model.named_parameters()))
        self.check()

    def check(self) -> None:
        """Raises a CheckpointError if the files changed since they were opened."""
        now = self._facts()
        changed = sorted(n for n in now.keys() | self._files if now.get(n) != self._files.get(n))
        if changed:
            raise CheckpointError(
                "the model's files changed while they were read",
                where=str(self.folder),
                expected="the files that the run began with",
                got=f"other files: {', '.join(changed[:3])}",
                hint="put the files back and run the same command again, or begin anew in another folder",
            )

    @contextlib.contextmanager
    def released_after_use(self, then: Callable[[], None]) -> Iterator[None]:
        """A context in which each module gives its weights' memory back after its forward.

        Args:
            then: Called after each.
        """

        def forget(module: nn.Module, inputs: Any, output: Any) -> None:
            for parameter in module.parameters(recurse=False):
                release(parameter)
            then()

        hooks = [module.register_forward_hook(forget) for module in self.model.modules()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _facts(self) -> dict[str, tuple[int, ...]]:
        """Size, time and identity of each file, of what links lead to."""
        return {file.name: _fact(file) for file in sorted(self.folder.glob("*.safetensors"))}


def _fact(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ino

"""Failures of any step that writes, for tests that nothing is left half done."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from starquant_fx.checkpoint import shards


class Failing:
    """Counts what is done to files below a folder, and raises before one of these."""

    places: ClassVar[tuple[tuple[Any, str], ...]] = (
        *((os, name) for name in ("rename", "replace", "mkdir", "fsync", "link")),
        (io, "open"),
        (shards, "_bytes"),
    )

    def __init__(self, at: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.error = at, error
        for owner, name in self.places:
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                raise self.error
            return real(*arguments, **options)

        return call

"""What ``inspect`` writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, InputError


@dataclasses.dataclass(frozen=True)
class Files:
    """The options that name files, as the command line does."""

    json_file: Path | None
    html: Path | None
    dot: Path | None
    svg: Path | None
    module: str | None
    figure: Path | None
    overlays: Path | None
    stage: str | None
    every: bool
    force: bool

    @property
    def any(self) -> bool:
        """Whether anything is written."""
        return self.overlays is not None or any(True for _ in self._named())

    def check(self) -> None:
        """Refuses, before any work, what cannot be written.

        Raises:
            CheckpointError: A file is there and ``--force`` is not given, or nothing can be written in this place.
            InputError: ``--module`` without a figure, or a picture without Graphviz.
        """
        from starquant_fx.files import check_destination
        from starquant_fx.inspection.drawing import graphviz

        if self.module is not None and self.dot is None and self.svg is None:
            raise InputError(
                "--module has no effect here",
                where="--module",
                expected="--dot or --svg beside it",
                got="neither",
                hint="leave the option out, or name a file with --svg",
            )
        for path, suffixes in self._named():
            check_destination(path, path.suffix if path.suffix in suffixes else suffixes[0])
            self._check_absent(path)
            if path.suffix == ".svg":
                graphviz()
        if self.overlays is not None:
            self._check_folder(self.overlays)

    def write(self, recording: Any) -> Iterator[Path]:
        """Writes everything, one file after the other.

        Yields:
            What was written.
        """
        from starquant_fx.files import write_atomically
        from starquant_fx.inspection import collection, drawing, page

        def drawn(path: Path, text: str) -> bytes | str:
            return drawing.svg(text) if path.suffix == ".svg" else text

        stage = recording.last if self.stage is None else recording.stage(self.stage)
        part = self.module or ""
        depth = None if self.every else drawing.fitting_depth(stage, part)
        contents: list[tuple[Path | None, Callable[[Path], bytes | str]]] = [
            (self.json_file, lambda _: collection.to_json(recording)),
            (self.html, lambda _: page.to_html(recording)),
            (self.dot, lambda _: drawing.dot(stage, part=part, depth=depth)),
            (self.svg, lambda path: drawn(path, drawing.dot(stage, part=part, depth=depth))),
            (self.figure, lambda path: drawn(path, drawing.before_after(recording))),
        ]
        for path, content in contents:
            if path is not None:
                write_atomically(path, content(path))
                yield path
        if self.overlays is not None:
            from starquant_fx.inspection.overlays import overlays

            self.overlays.mkdir(exist_ok=True)
            for name, values in overlays(recording).items():
                path = self.overlays / f"{name}.json"
                write_atomically(path, json.dumps(values, separators=(",", ":")))
                yield path

    def _named(self) -> Iterator[tuple[Path, tuple[str, ...]]]:
        for path, suffixes in (
            (self.json_file, (".json",)),
            (self.html, (".html",)),
            (self.dot, (".dot", ".gv")),
            (self.svg, (".svg",)),
            (self.figure, (".svg", ".dot", ".gv")),
        ):
            if path is not None:
                yield path, suffixes

    def _check_folder(self, folder: Path) -> None:
        from starquant_fx.files import check_destination
        from starquant_fx.inspection.overlays import MEASURES

        inside = folder if folder.is_dir() else folder.parent
        for name in MEASURES:
            check_destination(inside / f"{name}.json", ".json")
            self._check_absent(folder / f"{name}.json")

    def _check_absent(self, path: Path) -> None:
        if path.exists() and not self.force:
            raise CheckpointError(
                "there is a file already",
                where=str(path),
                expected="a new name",
                got="a file",
                hint="--force replaces it",
            )

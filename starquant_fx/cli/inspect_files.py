"""What ``inspect`` writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from starquant_fx.errors import CheckpointError, InputError, cause


@dataclasses.dataclass(frozen=True)
class Files:
    """The options that name files, as the command line does."""

    json_file: Path | None
    html: Path | None
    dot: Path | None
    svg: Path | None
    module: str | None
    figure: Path | None
    block: str | None
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
            InputError: ``--module`` or ``--block`` without what it is a part of, two options of one file, or a picture
                without Graphviz.
        """
        from starquant_fx.files import check_destination
        from starquant_fx.inspection.drawing import graphviz

        if self.module is not None and self.dot is None and self.svg is None:
            raise _without_effect("--module", "--dot or --svg", "--svg")
        if self.block is not None and self.figure is None:
            raise _without_effect("--block", "--figure", "--figure")
        self._check_names()
        for path, suffixes in self._named():
            check_destination(path, path.suffix if path.suffix in suffixes else suffixes[0])
            self._check_absent(path)
            if path.suffix == ".svg":
                graphviz()
        if self.overlays is not None:
            self._check_folder(self.overlays)

    def write(self, recording: Any) -> Iterator[Path]:
        """Makes everything, then writes it: what cannot be made leaves no file behind.

        Yields:
            What was written.
        """
        from starquant_fx.files import write_atomically

        contents = self._contents(recording)
        if self.overlays is not None:
            try:
                self.overlays.mkdir(exist_ok=True)
            except OSError as error:
                raise _no_folder(self.overlays, cause(error)) from error
        for path, content in contents:
            write_atomically(path, content)
            yield path

    def _contents(self, recording: Any) -> list[tuple[Path, bytes | str]]:
        from starquant_fx.inspection import collection, drawing, page
        from starquant_fx.inspection.overlays import overlays

        def drawn(path: Path, text: str) -> bytes | str:
            return drawing.svg(text) if path.suffix == ".svg" else text

        stage = recording.last if self.stage is None else recording.stage(self.stage)
        part, block = self.module or "", self.block or ""
        depth = None if self.every else drawing.fitting_depth(stage, part)
        contents: list[tuple[Path | None, Callable[[Path], bytes | str]]] = [
            (self.json_file, lambda _: collection.to_json(recording)),
            (self.html, lambda _: page.to_html(recording)),
            (self.dot, lambda _: drawing.dot(stage, part=part, depth=depth)),
            (self.svg, lambda path: drawn(path, drawing.dot(stage, part=part, depth=depth))),
            (self.figure, lambda path: drawn(path, drawing.before_after(recording, block))),
        ]
        made = [(path, content(path)) for path, content in contents if path is not None]
        if self.overlays is not None:
            for name, values in overlays(recording).items():
                path = self.overlays / f"{name}.json"
                made.append((path, json.dumps(values, separators=(",", ":"))))
        return made

    def _check_names(self) -> None:
        """Refuses two options that name one file."""
        from starquant_fx.inspection.overlays import MEASURES

        named = [(option, path) for option, path, _ in self._options()]
        if self.overlays is not None:
            inside = [self.overlays / f"{name}.json" for name in MEASURES]
            named += [("--overlays", path) for path in (self.overlays, *inside)]
        seen: dict[Path, str] = {}
        for option, path in named:
            other = seen.setdefault(path.resolve(), option)
            if other != option:
                raise InputError(
                    "two options name the same file",
                    where=f"{other} and {option}",
                    expected="a file for each",
                    got=str(path),
                    hint="name another file",
                )

    def _named(self) -> Iterator[tuple[Path, tuple[str, ...]]]:
        return ((path, suffixes) for _, path, suffixes in self._options())

    def _options(self) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
        """Options that name a file, the file, and the suffixes that it may have."""
        for option, path, suffixes in (
            ("--json", self.json_file, (".json",)),
            ("--html", self.html, (".html",)),
            ("--dot", self.dot, (".dot", ".gv")),
            ("--svg", self.svg, (".svg",)),
            ("--figure", self.figure, (".svg", ".dot", ".gv")),
        ):
            if path is not None:
                yield option, path, suffixes

    def _check_folder(self, folder: Path) -> None:
        from starquant_fx.files import check_destination
        from starquant_fx.inspection.overlays import MEASURES

        if folder.exists() and not folder.is_dir():
            raise _no_folder(folder, "a file of this name")
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


def _without_effect(option: str, beside: str, hint: str) -> InputError:
    return InputError(
        f"{option} has no effect here",
        where=option,
        expected=f"{beside} beside it",
        got="none",
        hint=f"leave the option out, or name a file with {hint}",
    )


def _no_folder(folder: Path, got: str) -> CheckpointError:
    return CheckpointError(
        "overlays cannot be written here",
        where=f"--overlays {folder}",
        expected="a new folder, or one that is there",
        got=got,
        hint="name another folder",
    )

"""What enters the parts of a model: the values of its blocks on the calibration states, in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, fx

from starquant_fx.calibration.activations import run_recorded
from starquant_fx.calibration.data import CORRECTED, FULL, QUANTIZED, TRANSFORMED
from starquant_fx.pass_base import Pass
from starquant_fx.passes import Gptq
from starquant_fx.program import Program
from starquant_fx.recipe import Recipe
from starquant_fx.streaming import sealed
from starquant_fx.tensor_file import read_tensors, write_tensors


class Streams:
    """Values [b, L, d] that enter one part, a file for each chunk of sequences and stream.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, stream: str, rows: slice) -> Tensor:
        """The values of some sequences that were written together.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        path = self.folder / f"{stream}-{rows.start:06d}.safetensors"
        return read_tensors(path)["values"][: rows.stop - rows.start]

    def write(self, stream: str, start: int, values: Tensor) -> None:
        """Keeps the values of the sequences from ``start`` on.

        Raises:
            CheckpointError: They cannot be written.
        """
        write_tensors(self.folder / f"{stream}-{start:06d}.safetensors", {"values": values})

    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


class HandingOn:
    """Computes what a part hands on to the next one, each stream when the passes have made what it is the value of.

    Args:
        recipe: The recipe.
        passes: Those of them that run on this part.
        place: Where the next part finds it; it takes its place in ``done``.
    """

    def __init__(self, recipe: Recipe, passes: Sequence[Pass], place: Path) -> None:
        self._place = place
        self._streams = Streams(sealed.begin(place))
        order = [one.name for one in recipe.passes]
        names = [one.name for one in passes]
        self._due: dict[str, list[str]] = {}
        for stream, anchor in _anchors(recipe).items():
            reached = order[: order.index(anchor) + 1]
            last = [name for name in names if name in reached][-1]
            self._due.setdefault(last, []).append(stream)

    def __call__(self, text: str, program: Program) -> None:
        """Follows the pass manager: called with a pass's text form after it has run."""
        for stream in self._due.get(text.partition("{")[0], ()):
            self._advance(stream, program)

    def _advance(self, stream: str, program: Program) -> None:
        (end,) = next(iter(reversed(program.graph.nodes))).all_input_nodes
        start = 0

        def record(node: fx.Node, values: Tensor) -> None:
            nonlocal start
            self._streams.write(stream, start, values)
            start += len(values)

        with torch.no_grad():
            run_recorded(program, program.module, [end], record, stream)

    def done(self) -> None:
        """Gives the values their place."""
        sealed.finish(self._place)


def _anchors(recipe: Recipe) -> dict[str, str]:
    """The streams that a recipe's estimates read, and after which pass a program computes each."""
    by_name = {one.name: one for one in recipe.passes}
    anchors = {FULL: "assign-roles"}
    if isinstance(gptq := by_name.get("gptq"), Gptq) and gptq.inputs == "quantized":
        anchors[QUANTIZED] = "gptq"
    if "insert-tac" in by_name:
        anchors[TRANSFORMED] = "fit-sgat" if "fit-sgat" in by_name else "insert-quantizers"
        anchors[CORRECTED] = "insert-tac"
    return anchors

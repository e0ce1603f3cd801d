"""Figures of a stage's graph in Graphviz's language, with a cluster a module, and as SVG through its ``dot``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

import networkx as nx

from starquant_fx.errors import InputError, plain
from starquant_fx.inspection import colours
from starquant_fx.inspection.attention_block import attention_block
from starquant_fx.inspection.collapsing import Box, by_module, part_of, pattern
from starquant_fx.inspection.dot import Canvas, quoted
from starquant_fx.inspection.recording import Recording, Stage
from starquant_fx.inspection.wording import operator

BEFORE = "assign-roles"
"""The stage before of a figure of before and after, where there is one: linears have roles, all else is the model."""
SECONDS = 120
MOST = 300
"""Boxes of a figure that Graphviz draws in seconds."""


def dot(stage: Stage, *, part: str = "", depth: int | None = None) -> str:
    """A stage in Graphviz's language.

    Args:
        stage: The stage.
        part: Path of the module that is drawn; empty = all.
        depth: How many parts of a module's path are drawn below ``part``; a module deeper than that is one box. None =
            a box a node.

    Returns:
        The figure.

    Raises:
        InputError: There is no such module, or ``pydot`` is not installed.
    """
    names = part_of(stage, part)
    absolute = None if depth is None else depth + (len(part.split(".")) if part else 0)
    canvas = Canvas(f"{part or 'all'} in stage {stage.name}")
    _draw(canvas, by_module(stage, names, absolute), "", below=part)
    return canvas.text()


def fitting_depth(stage: Stage, part: str = "", most: int = MOST) -> int | None:
    """The largest depth of which a figure can still be drawn and read.

    Args:
        stage: The stage.
        part: Path of the module that is drawn; empty = all.
        most: Boxes of the figure.

    Returns:
        For ``dot``; None where a box a node is not too many, and 1 where no depth is small enough.

    Raises:
        InputError: There is no such module.
    """
    names = part_of(stage, part)
    if len(names) <= most:
        return None
    above = len(part.split(".")) if part else 0
    deepest = max(len(stage.nodes[name].module.split(".")) for name in names)
    depths = range(deepest - above, 0, -1)
    return next((d for d in depths if len(by_module(stage, names, above + d)) <= most), 1)


def before_after(recording: Recording, block: str = "", before: str = "", after: str = "") -> str:
    """The pattern around one attention block before and after the passes, side by side, in Graphviz's language.

    Args:
        recording: The recording.
        block: Path of the module that holds it, such as ``model.transformer.blocks.0``; empty = the first.
        before: Name of the stage on the left; empty = ``assign-roles``, or else the first.
        after: Name of the stage on the right; empty = the last.

    Returns:
        The figure, from the block's input to the sum behind its output projection.

    Raises:
        InputError: There is no such stage or module, no attention in it, or ``pydot`` is not installed.
    """
    first = BEFORE if BEFORE in recording.names else recording.names[0]
    left = recording.stage(before or first)
    right = recording.stage(after) if after else recording.last
    canvas = Canvas(f"{recording.model}, {recording.recipe}")
    for stage, prefix in ((left, "before"), (right, "after")):
        names = attention_block(stage, block)
        side = canvas.cluster((prefix,), f"{prefix}: {stage.name}", None)
        _draw(canvas, pattern(stage, names), prefix, below="", flat=side)
    return canvas.text()


def graphviz() -> str:
    """Graphviz's program.

    Raises:
        InputError: It is not installed.
    """
    program = shutil.which("dot")
    if program is None:
        raise InputError(
            "SVG needs Graphviz, which draws the figure",
            where="dot",
            expected="Graphviz's program dot on the path",
            got="none",
            hint="install it (apt-get install graphviz, brew install graphviz, conda install graphviz), or write the "
            "figure as .dot",
        )
    return program


def svg(text: str) -> bytes:
    """Draws a figure.

    Args:
        text: In Graphviz's language.

    Returns:
        The SVG.

    Raises:
        InputError: Graphviz is not installed, or cannot draw the figure.
    """
    program = graphviz()
    try:
        made = subprocess.run(
            [program, "-Tsvg"],
            input=text.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            "Graphviz takes too long for this figure",
            where="dot -Tsvg",
            expected=f"a figure within {SECONDS} s",
            got=f"{text.count('->'):,} edges",
            hint="draw one module (--module model.transformer.blocks.0), or leave --all out",
        ) from error
    if made.returncode:
        raise InputError(
            "Graphviz cannot draw this figure",
            where="dot -Tsvg",
            expected="a figure in its language",
            got=plain(made.stderr.decode(errors="replace").strip()[:300]),
            hint="another version of Graphviz may be able to",
        )
    return made.stdout


def _draw(
    canvas: Canvas, made: nx.DiGraph, prefix: str, *, below: str, flat: object | None = None
) -> None:
    """Draws boxes and edges; ``flat`` is the one cluster of all boxes, otherwise each module has one."""
    ids: Mapping[object, str] = {key: f"{prefix}n{i}" for i, key in enumerate(made)}
    for key, facts in made.nodes(data=True):
        box: Box = facts["box"]
        place = flat if flat is not None else _cluster(canvas, box, below)
        canvas.box(place, ids[key], **_look(box))
    for source, target in made.edges:
        outside = made.nodes[source]["box"].outside
        style = {"style": "dashed", "color": quoted(colours.CLUSTER)} if outside else {}
        canvas.edge(ids[source], ids[target], **style)


def _cluster(canvas: Canvas, box: Box, below: str) -> object | None:
    """The cluster of a box's module, inside of those of the modules above."""
    if box.outside or not box.module:
        return None
    parts = box.module.split(".")
    shown = len(below.split(".")) if below else 0
    place: object | None = None
    for end in range(max(shown, 1), len(parts) + 1):
        path = tuple(parts[:end])
        title = ".".join(path) if end == max(shown, 1) else path[-1]
        place = canvas.cluster(path, title, place)
    return place


def _look(box: Box) -> dict[str, str]:
    chief = box.chief
    lines = box.title.split("\n")
    if chief.role and box.title == operator(chief):
        lines[0] = f"{chief.role}: {lines[0]}"
    if chief.bits:
        lines[0] += f"  {chief.bits}"
    if len(box.nodes) == 1 and chief.outputs and not box.outside:
        lines.append(chief.outputs[0])
    if box.by_state:
        lines.append("by token state")
    names = ", ".join(node.name for node in box.nodes[:8]) + (", ..." if len(box.nodes) > 8 else "")
    return {
        "label": quoted("\n".join(lines)),
        "tooltip": quoted(names),
        "fillcolor": quoted(colours.OUTSIDE if box.outside else colours.colour(chief)),
        "shape": "ellipse" if box.outside else "box",
    }

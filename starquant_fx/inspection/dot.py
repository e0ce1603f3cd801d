"""Writing Graphviz's language through pydot, safe for any name."""

from __future__ import annotations

from typing import Any

from starquant_fx.errors import InputError, plain
from starquant_fx.inspection import colours

FONT = "Helvetica"
LARGE = 200
"""Boxes."""


def quoted(text: str) -> str:
    """A text as Graphviz shows it as it is, whatever stands in it; a line end is a line end."""
    lines = text.split("\n")
    return '"' + "\\n".join(plain(s).replace("\\", "\\\\").replace('"', '\\"') for s in lines) + '"'


class Canvas:
    """A figure.

    Args:
        title: Above it.

    Raises:
        InputError: ``pydot`` is not installed.
    """

    def __init__(self, title: str) -> None:
        try:
            import pydot
        except ImportError as error:
            raise InputError(
                "figures of graphs need pydot",
                where="pydot",
                expected="an installed package",
                got="none",
                hint="pip install 'starquant-fx[figures]'",
            ) from error
        self._pydot: Any = pydot
        self._graph: Any = pydot.Dot("starquant", graph_type="digraph", rankdir="TB")
        words = {"fontname": FONT, "fontcolor": quoted(colours.WORDS)}
        self._graph.set_graph_defaults(
            label=quoted(title), labelloc="t", fontsize="14", compound="true", **words
        )
        self._graph.set_node_defaults(
            style=quoted("filled,rounded"),
            color=quoted(colours.CLUSTER),
            fontsize="10",
            margin=quoted("0.12,0.06"),
            height="0.3",
            **words,
        )
        self._graph.set_edge_defaults(color=quoted(colours.EDGE), arrowsize="0.6")
        self._boxes: list[str] = []
        self._used: set[str] = set()
        self._clusters: dict[tuple[str, ...], Any] = {}

    def cluster(self, path: tuple[str, ...], title: str, parent: Any) -> Any:
        """The cluster of a path, made when it is first asked for.

        Args:
            path: What it is known by.
            title: Its title.
            parent: The cluster around it; None = the figure.

        Returns:
            The cluster.
        """
        if path not in self._clusters:
            made = self._pydot.Cluster(
                f"m{len(self._clusters)}",
                label=quoted(title),
                style="rounded",
                color=quoted(colours.CLUSTER),
                fontsize="11",
                labeljust="l",
            )
            (self._graph if parent is None else parent).add_subgraph(made)
            self._clusters[path] = made
        return self._clusters[path]

    def box(self, place: Any, name: str, **attributes: str) -> None:
        """Adds a box to a cluster; None = to the figure."""
        self._boxes.append(name)
        self._used.add(attributes.get("fillcolor", ""))
        (self._graph if place is None else place).add_node(self._pydot.Node(name, **attributes))

    def edge(self, source: str, target: str, **attributes: str) -> None:
        """Adds an edge between two boxes."""
        self._graph.add_edge(self._pydot.Edge(source, target, **attributes))

    def _legend(self) -> None:
        """Adds what the colours mean that are used."""
        entries = [(text, c) for text, c in colours.LEGEND if quoted(c) in self._used]
        place = self.cluster(("", "legend"), "colours", None)
        before = ""
        for index, (text, colour) in enumerate(entries):
            name = f"legend{index}"
            self.box(place, name, label=quoted(text), fillcolor=quoted(colour), shape="box")
            if before:
                self.edge(before, name, style="invis")
            before = name

    def text(self) -> str:
        """The figure in Graphviz's language, with its legend."""
        if len(self._boxes) > LARGE:
            # rounds of the search for places; without a limit hundreds of boxes take minutes
            self._graph.set_graph_defaults(nslimit="2")
        self._legend()
        return str(self._graph.to_string())

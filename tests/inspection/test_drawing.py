"""Figures: clusters, boxes, edges and quoting by pydot's own parser, and SVG where Graphviz is installed."""

from __future__ import annotations

import dataclasses
import shutil
import xml.etree.ElementTree as ElementTree
from typing import Any

import pydot
import pytest

from starquant_fx.errors import InputError
from starquant_fx.inspection import colours, drawing
from starquant_fx.inspection.dot import quoted
from starquant_fx.inspection.recording import Node, Source, Stage
from tests.inspection.small import hostile, recording

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


def parsed(text: str) -> Any:
    graphs = pydot.graph_from_dot_data(text)
    assert graphs is not None
    assert len(graphs) == 1
    return graphs[0]


def clusters(graph: Any) -> dict[str, Any]:
    """By title, also those inside of others."""
    found = {}
    for one in graph.get_subgraphs():
        found[one.get_label().strip('"')] = one
        found |= clusters(one)
    return found


def labels(graph: Any) -> dict[str, str]:
    """The first line of every box, by its id."""
    found = {
        n.get_name(): n.get_label().strip('"').split("\\n")[0]
        for n in graph.get_nodes()
        if n.get_label() and n.get_name() != "graph"
    }
    for one in graph.get_subgraphs():
        found |= labels(one)
    return found


def test_a_stage_has_a_box_a_node_and_an_edge_a_source() -> None:
    one = recording()
    graph = parsed(drawing.dot(one.last))
    ids = {key: text for key, text in labels(graph).items() if not key.startswith("legend")}
    assert len(ids) == len(one.last.nodes)
    drawn = [e for e in graph.get_edges() if not e.get_source().startswith("legend")]
    assert len(drawn) == len({(s.node, n.name) for n in one.last.nodes.values() for s in n.sources})


def test_modules_are_clusters_inside_of_each_other() -> None:
    graph = parsed(drawing.dot(recording().last))
    top = clusters(graph)["model"]
    layer = clusters(clusters(top)["layers"])["0"]
    inner = clusters(layer)
    assert {"norm", "site", "q_proj"} <= set(inner)
    assert list(labels(inner["q_proj"]).values()) == ["q: quantized_linear  w4a4"]


def test_one_module_shows_what_feeds_it_from_outside() -> None:
    graph = parsed(drawing.dot(recording().last, part="model.layers.1"))
    assert set(clusters(graph)) >= {"model.layers.1", "q_proj"}
    outside = [n for n in graph.get_nodes() if n.get_shape() == "ellipse"]
    assert sorted(n.get_label() for n in outside) == ['"add"', '"cos"']


def test_depth_makes_a_module_one_box() -> None:
    graph = parsed(drawing.dot(recording().last, depth=3))
    titles = list(labels(graph).values())
    assert titles.count("0  w4a4") == titles.count("1  w4a4") == 1
    assert "quantized_linear" not in str(titles)
    deeper = parsed(drawing.dot(recording().last, part="model.layers.0", depth=1))
    assert "q_proj  w4a4" in labels(deeper).values()


def test_a_depth_that_fits_is_the_largest() -> None:
    last = recording().last
    assert drawing.fitting_depth(last) is None
    for most, depth in ((25, 4), (12, 3), (6, 2)):
        found = drawing.fitting_depth(last, most=most)
        boxes = labels(parsed(drawing.dot(last, depth=found)))
        drawn = [key for key in boxes if not key.startswith("legend")]
        assert (found, len(drawn) <= most) == (depth, True)
    assert drawing.fitting_depth(last, "model.layers.0", most=9) == 1


def test_colours_are_those_of_bits_and_the_legend_names_those_used() -> None:
    graph = parsed(drawing.dot(recording(bits=2).last, part="model.layers.0"))
    site = clusters(graph)["q_proj"].get_nodes()[0]
    assert site.get_fillcolor().strip('"') == colours.LOW
    legend = set(labels(clusters(graph)["colours"]).values())
    assert legend == {"floats", "below 4 bits", "moves values only"}


def test_before_and_after_stand_side_by_side() -> None:
    graph = parsed(drawing.before_after(recording()))
    sides = clusters(graph)
    before = labels(sides["before: assign-roles"])
    after = labels(sides["after: fuse"])
    assert sorted(before.values()) == sorted(
        [
            *("embedding", "cos", "norm", "q: linear", "k: linear", "v: linear", "rotary"),
            *("scaled_dot_product_attention", "o: linear", "add"),
        ]
    )
    assert sum("quantized_linear  w4a4" in text for text in after.values()) == 4
    assert not set(before) & set(after)
    drawn = {(e.get_source(), e.get_destination()) for e in graph.get_edges()}
    assert not any((a in before) != (b in before) for a, b in drawn if a in {*before, *after})


def test_readers_of_the_token_state_are_marked_instead_of_connected() -> None:
    one = recording()
    nodes = {
        "state": Node(
            "state", "starquant.token_state", part="state", outputs=("i64[B, L]",), flops=1.0
        )
    }
    nodes |= one.last.nodes
    reader = nodes["codes_q_proj_0"]
    sources = (*reader.sources, Source("state", 0, "state"))
    nodes["codes_q_proj_0"] = dataclasses.replace(reader, sources=sources)
    last = Stage("fuse", "fuse", "", 0.0, (), nodes)
    text = drawing.before_after(dataclasses.replace(one, stages=(*one.stages[:2], last)))
    assert text.count("by token state") == 1
    assert "token_state" not in labels(parsed(text)).values()


def test_another_block_can_be_drawn_and_an_unknown_one_is_refused() -> None:
    text = drawing.before_after(recording(), "model.layers.1")
    assert "sum_1" in text
    assert "norm_0" not in text
    with pytest.raises(InputError) as refused:
        drawing.before_after(recording(), "model.layer.1")
    assert "did you mean 'model.layers" in str(refused.value)
    with pytest.raises(InputError, match="no attention"):
        drawing.before_after(recording(), "model.embed")


def test_hostile_names_stay_text() -> None:
    one = hostile()
    for text in (drawing.dot(one.last), drawing.before_after(one)):
        graph = parsed(text)
        assert not any("<" in key or "red" in key for key in labels(graph))
        tips = [n.get_tooltip() for c in clusters(graph).values() for n in c.get_nodes()]
        assert any('\\"];\\n{<b>[red]\\\\N\\\\x1b[31m|' in tip for tip in tips if tip)
        assert "\x1b" not in text


def test_quoting() -> None:
    assert quoted('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'


@needs_graphviz
@pytest.mark.parametrize("one", [recording(), hostile()], ids=["plain", "hostile"])
def test_svg_is_xml_with_all_boxes(one: Any) -> None:
    root = ElementTree.fromstring(drawing.svg(drawing.before_after(one)))
    texts = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sum("quantized_linear" in text for text in texts) == 4
    assert not any(True for _ in root.iter("{http://www.w3.org/2000/svg}b"))


@needs_graphviz
def test_what_graphviz_cannot_draw_is_refused() -> None:
    with pytest.raises(InputError, match="cannot draw"):
        drawing.svg("no figure")


def test_svg_without_graphviz_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError) as refused:
        drawing.svg("digraph {}")
    assert "apt-get install graphviz" in str(refused.value)

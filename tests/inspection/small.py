"""A recording of two layers written by hand: attention, sites of q, k and v and of o, and a head in full precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from starquant_fx.inspection.recording import Node, Recording, SiteFacts, Source, Stage

HOSTILE = 'x"];\n{<b>[red]\\N\x1b[31m|'
"""A name that would end a quotation, open a cluster, be markup, or colour a terminal."""


def _node(name: str, operator: str, *sources: str | tuple[str, int, str], **facts: Any) -> Node:
    read = tuple(Source(s, 0, "x") if isinstance(s, str) else Source(*s) for s in sources)
    return dataclasses.replace(Node(name, operator, sources=read), **facts)


def _linear(layer: str, role: str, source: str) -> Node:
    linear = f"{layer}.{role}_proj"
    return _node(
        f"{role}_{layer[-1]}",
        "aten.linear",
        source,
        module=linear,
        outputs=("bf16[B, L, 8]",),
        tensors=(("weight", f"{linear}.weight", "bf16[8, 8]"),),
        linear=linear,
        flops=2048.0,
        bytes=640.0,
    )


def _layer(number: int, stream: str) -> list[Node]:
    layer = f"model.layers.{number}"
    n = str(number)
    value: dict[str, Any] = {"outputs": ("bf16[B, L, 8]",), "bytes": 512.0}
    return [
        _node(f"norm_{n}", "aten.rms_norm", stream, module=f"{layer}.norm", flops=64.0, **value),
        *(_linear(layer, role, f"norm_{n}") for role in ("q", "k", "v")),
        _node(
            *(f"turned_{n}", "aten.mul", f"q_{n}", ("cos", 0, "other")),
            **{"module": layer, "flops": 128.0, **value},
        ),
        _node(f"view_{n}", "aten.view", f"k_{n}", module=layer, outputs=("bf16[B, 2, L, 4]",)),
        _node(
            *(f"attention_{n}", "aten.scaled_dot_product_attention"),
            *((f"turned_{n}", 0, "query"), (f"view_{n}", 0, "key"), (f"v_{n}", 0, "value")),
            **{"module": layer, "flops": 4096.0, **value},
        ),
        _linear(layer, "o", f"attention_{n}"),
        _node(
            *(f"sum_{n}", "aten.add", stream, (f"o_{n}", 0, "other")),
            **{"module": layer, "flops": 128.0, **value},
        ),
    ]


def _captured() -> list[Node]:
    return [
        _node("ids", "input", outputs=("i64[B, L]",)),
        _node("positions", "aten.arange", outputs=("f32[L]",), bytes=64.0),
        _node("cos", "aten.cos", "positions", outputs=("f32[L]",), flops=16.0, bytes=128.0),
        _node(
            *("table", "aten.embedding", "ids"),
            module="model.embed",
            outputs=("bf16[B, L, 8]",),
            bytes=256.0,
        ),
        *_layer(0, "table"),
        *_layer(1, "sum_0"),
        dataclasses.replace(_linear("model", "head", "sum_1"), name="head"),
        _node("output", "output", ("head", 0, ""), outputs=("bf16[B, L, 8]",)),
    ]


def _role(node: Node) -> Node:
    if node.operator != "aten.linear":
        return node
    role = node.linear.rpartition(".")[2].removesuffix("_proj")
    return dataclasses.replace(node, role=role, site=_site(node), part="linear")


def _site(node: Node) -> str:
    layer, _, name = node.linear.rpartition(".")
    return f"{layer}.q_proj" if name in ("q_proj", "k_proj", "v_proj") else node.linear


def _fused(nodes: Iterable[Node], bits: int) -> list[Node]:
    """Every site as a quantizer and quantized products; names of what reads them change, too."""
    found: list[Node] = []
    renamed: dict[str, str] = {}
    for node in nodes:
        node = dataclasses.replace(
            node,
            sources=tuple(
                Source(renamed.get(s.node, s.node), s.output, s.argument) for s in node.sources
            ),
        )
        if not node.part or node.role == "head":
            found.append(node)
            continue
        codes = f"codes_{node.site.rpartition('.')[2]}_{node.site.split('.')[2]}"
        if all(other.name != codes for other in found):
            found.append(
                _node(
                    *(codes, "starquant.quantize_activation", node.sources[0].node),
                    module=f"{node.site.rpartition('.')[0]}.site",
                    outputs=("u8[B, L, 8]", "f32[B, L, 1]"),
                    site=node.site,
                    part="quantize",
                    made_by="fuse",
                    made_from=(node.sources[0].node,),
                    bits=f"a{bits}",
                    flops=256.0,
                    bytes=448.0,
                )
            )
        renamed[node.name] = f"low_{node.name}"
        found.append(
            dataclasses.replace(
                node,
                name=renamed[node.name],
                operator="starquant.quantized_linear",
                sources=(Source(codes, 0, "codes"), Source(codes, 1, "scale")),
                tensors=(("packed", f"starquant.{node.linear}.packed", "u8[8, 4]"),),
                arguments=(("weight_bits", "4"),),
                part="quantized_linear",
                made_by="fuse",
                made_from=(node.name,),
                bits=f"w4a{bits}",
            )
        )
    return found


def _stage(name: str, text: str, preserves: str, seconds: float, nodes: Iterable[Node]) -> Stage:
    notes = ("8 linears were replaced",) if name == "fuse" else ()
    return Stage(name, text, preserves, seconds, notes, {node.name: node for node in nodes})


def _sites(errors: Mapping[str, float]) -> dict[str, SiteFacts]:
    found = [
        site
        for layer in ("model.layers.0", "model.layers.1")
        for site in (
            SiteFacts(
                f"{layer}.q_proj",
                tuple(f"{layer}.{role}_proj" for role in "qkv"),
                ("q", "k", "v"),
                *(8, (8, 8, 8), "w4a4"),
                bytes_before=384,
                bytes_after=96,
                flops=6400.0,
            ),
            SiteFacts(
                *(
                    f"{layer}.o_proj",
                    (f"{layer}.o_proj",),
                    ("o",),
                    8,
                    (8,),
                    "w4a4",
                    "",
                    "kronecker 4x2",
                ),
                gates=2,
                leakage=1e-4,
                bytes_before=128,
                bytes_after=32,
                flops=2304.0,
            ),
        )
    ]
    found.append(
        SiteFacts(
            *(
                "model.head_proj",
                ("model.head_proj",),
                ("head",),
                8,
                (8,),
                "",
                "ignored by the recipe",
            ),
            bytes_before=128,
            bytes_after=128,
            flops=2048.0,
        )
    )
    return {s.name: dataclasses.replace(s, error=errors.get(s.name)) for s in found}


ERRORS = {
    "model.layers.0.q_proj": 0.01,
    "model.layers.0.o_proj": 0.02,
    "model.layers.1.q_proj": 0.03,
    "model.layers.1.o_proj": 0.04,
}


def recording(*, measured: bool = True, bits: int = 4, model: str = "small") -> Recording:
    """Three stages: as captured, with roles, and with quantized sites."""
    captured = _captured()
    roles = [_role(node) for node in captured]
    stages = (
        _stage("capture", "capture", "", 0.0, captured),
        _stage("assign-roles", "assign-roles", "bitwise", 0.01, roles),
        _stage("fuse", "fuse{form=plain}", "numerically", 0.2, _fused(roles, bits)),
    )
    return Recording(
        model, "star-w4a4", "1x16", stages, _sites(ERRORS if measured else {}), "0.1.0"
    )


def hostile() -> Recording:
    """The same with names that break quoting wherever they are not quoted."""
    one = recording(model=HOSTILE)
    stages = tuple(
        dataclasses.replace(stage, nodes={n.name: n for n in map(_hostile, stage.nodes.values())})
        for stage in one.stages
    )
    return dataclasses.replace(one, stages=stages)


def _hostile(node: Node) -> Node:
    return dataclasses.replace(
        node,
        name=f"{node.name}{HOSTILE}",
        module=f"{node.module}.{HOSTILE}" if node.module else "",
        sources=tuple(Source(f"{s.node}{HOSTILE}", s.output, s.argument) for s in node.sources),
        outputs=tuple(f"{kind}{HOSTILE}" for kind in node.outputs),
        made_by=f"{node.made_by}{HOSTILE}",
    )

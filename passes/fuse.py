"""Fuse: choose the form of the partition, then turn each site into transform-quantize and integer linears."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import fx

from starquant_fx.kernels import reference
from starquant_fx.operators import op
from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import LINEAR, Program, Site, facts, note

FORMS = ("gates", "partition")


@dataclasses.dataclass(frozen=True)
class Fuse(Pass):
    """Fuses ``quantize -> matmul -> dequantize -> bias`` and the transforms before the quantizer.

    Attributes:
        form: gates: no partition, every token is gated by its own state. partition: tokens of a state stay contiguous.
    """

    name: ClassVar[str] = "fuse"
    after: ClassVar[tuple[str, ...]] = ("fold-sgat",)
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    form: str = "gates"

    def check_options(self) -> None:
        """The form exists."""
        self.expect_one_of("form", FORMS)

    def run(self, program: Program) -> Program:
        """Rewrites every site."""
        for site in program.quantized_sites():
            if self.form == "gates":
                _unpartition(program, site)
            codes = _fuse_transform(program, site)
            if codes is not None:
                for linear in program.site_nodes(site, "linear"):
                    _fuse_linear(program, site, linear, codes)
        return program

    def ensures(self, program: Program) -> None:
        """Sites with both sides quantized hold no float linear, and the gates form no partition."""
        pair = [op("dequantize_activation"), op("dequantize_weight")]
        left = [
            n for n in program.nodes(LINEAR) if [a.target for a in n.all_input_nodes[:2]] == pair
        ]
        self.expect(
            not left,
            "a quantized linear is not fused",
            where=str(left[:1]),
            expected="none",
            got=len(left),
        )
        partitions = len(program.nodes(op("partition"))) if self.form == "gates" else 0
        self.expect(
            partitions == 0, "partitions are left", where="graph", expected="none", got=partitions
        )


def _unpartition(program: Program, site: Site) -> None:
    """Removes partition and scatter: per-token operators commute with the permutation."""
    for partition in program.site_nodes(site, "partition"):
        source, state = partition.args
        for part, replacement in (("tokens", source), ("states", state)):
            node = program.site_node(site, part)
            node.replace_all_uses_with(replacement)  # type: ignore[arg-type]
            program.graph.erase_node(node)
        for scatter in program.site_nodes(site, "scatter"):
            scatter.replace_all_uses_with(scatter.args[0])  # type: ignore[arg-type]
            program.graph.erase_node(scatter)


def _fuse_transform(program: Program, site: Site) -> list[fx.Node] | None:
    """Fuses TAC, centring, basis, gates and quantizer; returns (codes, scale, zero point) or None."""
    quantizers = program.site_nodes(site, "quantize")
    if not quantizers:
        return None
    quantize = quantizers[0]
    parts = sorted(quantize.users, key=lambda n: int(str(n.args[1])))
    x, bits, symmetric, clip = quantize.args
    found: dict[str, fx.Node] = {}
    for part in ("gate", "rotate", "center", "tac"):
        assert isinstance(x, fx.Node)
        apart = x.target == op("compensate_by_state")  # has no place in the fused operator
        if facts(x).get("part") == part and len(x.users) == 1 and not apart:
            found[part] = x
            x = x.args[0]
    if not found:
        return parts
    state = next((found[p].args[1] for p in ("gate", "center") if p in found), None)
    rotate: tuple[Any, ...] = found["rotate"].args[1:] if "rotate" in found else ([], "dense")
    gate: tuple[Any, ...] = found["gate"].args[2:] if "gate" in found else (0, [])
    matrix, offset = found["tac"].args[1:] if "tac" in found else (None, None)
    means = found["center"].args[2] if "center" in found else None
    with program.graph.inserting_before(quantize):
        fused = program.graph.call_function(
            op("transform_quantize"),
            (x, state, means, *rotate, *gate, matrix, offset, bits, symmetric, clip),
        )
    replaced = (*(one.name for one in found.values()), quantize.name)
    note(fused, **facts(quantize), fused=tuple(found), made_from=replaced)
    quantize.replace_all_uses_with(fused)
    return parts


def _column_sums(program: Program, weight: fx.Node) -> torch.Tensor:
    """Sum of the codes of each output channel of a ``dequantize_weight``, int32 [n]."""
    packed, scale, bits, features, _ = weight.args
    outputs = program.tensor(scale).shape[0]  # type: ignore[arg-type]
    codes = reference.unpack(program.tensor(packed), bits, outputs, features)  # type: ignore[arg-type]
    return codes.sum(-1, dtype=torch.int32)


def _fuse_linear(program: Program, site: Site, linear: fx.Node, activation: list[fx.Node]) -> None:
    """Fuses one linear with its dequantizers and the bias of the state; leaves weight-only sites alone."""
    weight = linear.args[1]
    assert isinstance(weight, fx.Node)
    if weight.target != op("dequantize_weight"):
        return
    packed, scale, bits = weight.args[:3]
    name = facts(linear)["of"]
    sums = program.constant(
        f"{name}.column_sum",
        lambda: _column_sums(program, weight),
    )
    shifted = [u for u in linear.users if facts(u).get("part") == "state_bias"]
    state, state_bias = shifted[0].args[1:] if shifted else (None, None)
    end = shifted[0] if shifted else linear
    bias = linear.args[2] if len(linear.args) > 2 else None
    with program.graph.inserting_before(linear):
        fused = program.graph.call_function(
            op("quantized_linear"),
            (
                *activation,
                packed,
                scale,
                sums,
                bits,
                bias,
                state,
                state_bias,
                linear.meta["val"].dtype,
            ),
        )
    replaced = (weight.name, linear.name, *(one.name for one in shifted))
    noted = {**facts(linear), "part": "quantized_linear", "made_from": replaced}
    note(fused, **noted)
    end.replace_all_uses_with(fused)

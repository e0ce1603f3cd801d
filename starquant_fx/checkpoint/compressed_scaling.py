"""Factors of SmoothQuant and AWQ, moved from the activations into what comes before them.

A site that is scaled reads ``x * inverse``. The format has no such product, but what makes ``x`` can make the product:
a norm by its gain, a linear by the scale of its output channels, which costs no code of a weight.
"""

from __future__ import annotations

import dataclasses
import re

import torch
from torch import Tensor, fx

from starquant_fx.checkpoint.compressed_sites import Quantized, inexpressible
from starquant_fx.compiled import CompiledModel
from starquant_fx.program import ATTENTION, CONSTANTS, Program

aten = torch.ops.aten
MULTIPLY = aten.mul.Tensor
INVERSE = ".scale_inverse"
LAYER = re.compile(r"(.*\.(?:blocks|layers)\.\d+)\..*")
NORMS = {
    "llada": {"q": "attn_norm", "gate": "ff_norm"},
    "Dream": {"q": "input_layernorm", "gate": "post_attention_layernorm"},
}
"""Model type -> role of a site's first linear -> the norm before it."""
HINT = "use a recipe of the methods rtn or gptq for this model, or keep the packed checkpoint"
SHAPES = (aten.view.default, aten.transpose.int, aten.reshape.default, aten.clone.default)


@dataclasses.dataclass
class Moved:
    """Factors that were moved.

    Attributes:
        gains: Name of a norm's weight -> what its gain is multiplied by.
        outputs: Name of a linear -> what its output channels are multiplied by.
    """

    gains: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def moved_scales(compiled: CompiledModel, linears: dict[str, Quantized]) -> Moved:
    """Finds a place for the factors of every scaled site.

    Args:
        compiled: The compiled model.
        linears: Its quantized linears.

    Returns:
        Where they go; nothing if no site is scaled.

    Raises:
        InputError: What a site reads is made in another way, or is read by others too.
    """
    moved, program = Moved(), compiled.program
    made_by = {one.node: one.name for one in linears.values()}
    for site in program.quantized_sites():
        scaled = linears[site.linears[0]].source
        inverse = _inverse(program, scaled)
        if inverse is None:
            continue
        source = scaled.args[0]
        assert isinstance(source, fx.Node)
        if len(source.users) > 1:
            raise inexpressible(
                site.name, "scaled inputs that nothing else reads", "others do", HINT
            )
        norm = _norm(compiled, site.name, site.roles[0], source)
        if norm is not None:
            moved.gains[norm] = inverse
            continue
        maker = _maker(source, made_by)
        if maker is None or linears[maker].outputs != site.features:
            raise inexpressible(
                site.name,
                "inputs whose channels a norm or a quantized linear makes one by one and can multiply",
                "inputs that come otherwise, as from value heads that several query heads share",
                HINT,
            )
        moved.outputs[maker] = inverse
    return moved


def _inverse(program: Program, node: fx.Node) -> Tensor | None:
    """The factors of a product that insert-scaling put in."""
    if node.target != MULTIPLY:
        return None
    factor = node.args[1]
    ours = isinstance(factor, fx.Node) and factor.op == "get_attr"
    if not ours or not str(factor.target).startswith(f"{CONSTANTS}."):  # type: ignore[union-attr]
        return None
    return program.tensor(factor)  # type: ignore[arg-type]


def _norm(compiled: CompiledModel, name: str, role: str, source: fx.Node) -> str | None:
    """The weight of the norm that makes a site's input, whose gain is in the linears already."""
    norm = NORMS.get(str(getattr(compiled.config, "model_type", "")), {}).get(role)
    layer = LAYER.fullmatch(name)
    plain = source.target == aten.rms_norm.default and source.args[2] is None
    if norm is None or layer is None or not plain:
        return None
    return f"{layer[1]}.{norm}.weight"


def _maker(source: fx.Node, made_by: dict[fx.Node, str]) -> str | None:
    """The linear whose output channels are those of a value: up of a gated MLP, v of an attention."""
    if source.target == MULTIPLY:
        return next((made_by[a] for a in source.args if a in made_by and len(a.users) == 1), None)  # type: ignore[index,union-attr]
    node = _through_shapes(source)
    if node.target != ATTENTION or len(node.users) > 1:
        return None
    value = node.args[2]
    assert isinstance(value, fx.Node)
    value = _through_shapes(value)
    return made_by.get(value) if len(value.users) == 1 else None


def _through_shapes(node: fx.Node) -> fx.Node:
    """What a value was before its shape was changed."""
    while node.target in SHAPES and len(node.users) == 1:
        before = node.args[0]
        assert isinstance(before, fx.Node)
        node = before
    return node

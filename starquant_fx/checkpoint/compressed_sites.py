"""Which linears of a compiled model the format compressed-tensors can express, and how they are quantized."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx

from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import InputError
from starquant_fx.operators import op
from starquant_fx.program import CONSTANTS, LINEAR, Program, Site

WEIGHT_BITS = (4, 8)
ACTIVATION_BITS = (4, 8, 16)
PLAIN = ("quantize_activation", "quantized_linear", "dequantize_weight")
"""Operators that the format has a counterpart of."""
MADE = (".packed", ".weight_scale", ".column_sum", ".scale_inverse")
"""Ends of the names of tensors that are taken over, or not needed any more."""
PACKED = ".packed"


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A linear that is written in the format.

    Attributes:
        name: Of its module.
        weight_bits: 4 or 8; symmetric, with a scale for every output channel.
        activation_bits: 4, 8 or 16; quantized per token as the call finds it, asymmetric; 16 = not at all.
        outputs: Output channels.
        features: Input channels.
        source: The node whose value it reads, before any quantizer.
        node: The node that computes it.
    """

    name: str
    weight_bits: int
    activation_bits: int
    outputs: int
    features: int
    source: fx.Node
    node: fx.Node


def quantized_linears(compiled: CompiledModel) -> dict[str, Quantized]:
    """Finds the quantized linears.

    Args:
        compiled: The compiled model.

    Returns:
        By name.

    Raises:
        InputError: Something in the model has no counterpart in the format: a basis, gates, centring, a correction,
            a branch, clipped or symmetric activations, other bits, a quantized embedding.
    """
    program = compiled.program
    _check_operators(program)
    found = {}
    for site in program.quantized_sites():
        for name in site.linears:
            found[name] = _linear(program, site, name)
    if not found:
        raise inexpressible("the recipe", "quantized linears", "none")
    for name in program.tensors():
        if name.startswith(f"{CONSTANTS}.") and not _known(name):
            raise inexpressible(name, "packed weights and their scales", "another tensor")
    return found


HINT = "use a recipe of rtn, gptq or smoothquant, or of awq for weights alone, in 4 or 8 bits, or keep the checkpoint"


def inexpressible(where: str, expected: str, got: str, hint: str = HINT) -> InputError:
    """The refusal of a model, or a part of one, that the format cannot express."""
    return InputError(
        "the model cannot be written as compressed-tensors",
        where=where,
        expected=expected,
        got=got,
        hint=hint,
    )


def _known(name: str) -> bool:
    return name.startswith(f"{CONSTANTS}.folded.") or name.endswith(MADE)


def _check_operators(program: Program) -> None:
    """Refuses operators that passes put in and the format lacks."""
    plain = [op(name) for name in PLAIN]
    for node in program.graph.nodes:
        ours = node.op == "call_function" and str(node.target).startswith(f"{CONSTANTS}.")
        if ours and node.target not in plain:
            known = ", ".join(PLAIN)
            raise inexpressible(node.name, f"no operators of passes but {known}", str(node.target))


def _linear(program: Program, site: Site, name: str) -> Quantized:
    packed = next(
        (
            n
            for n in program.graph.find_nodes(op="get_attr")
            if n.target == f"{CONSTANTS}.{name}{PACKED}"
        ),
        None,
    )
    if packed is None:
        raise inexpressible(name, f"weights of {_list(WEIGHT_BITS)} bits", "16 bits")
    (reader,) = packed.users
    activation = 16
    if reader.target == op("dequantize_weight"):
        bits, node = reader.args[2], next(iter(reader.users))
        source: Any = node.args[0]
        if node.target != LINEAR:
            raise inexpressible(name, "a linear", str(node.target))
    else:
        bits, node = reader.args[6], reader
        codes: Any = reader.args[0]
        quantize = codes.args[0]
        source, activation, symmetric, clip = quantize.args
        if symmetric:
            raise inexpressible(
                name,
                "asymmetric activations: the format's symmetric scale is max|x| / 127.5 for 8 bits, ours max|x| / 127",
                "symmetric ones",
            )
        if clip is not None:
            raise inexpressible(name, "activations that are not clipped", "clipped ones")
        if reader.args[9] is not None:
            raise inexpressible(name, "one bias", "a bias for each token state")
    if bits not in WEIGHT_BITS or activation not in ACTIVATION_BITS:
        wanted = f"weights of {_list(WEIGHT_BITS)} bits, activations of {_list(ACTIVATION_BITS)}"
        raise inexpressible(name, wanted, f"w{bits}a{activation}")
    assert isinstance(source, fx.Node)
    outputs = site.outputs[site.linears.index(name)]
    return Quantized(name, int(bits), int(activation), outputs, site.features, source, node)


def _list(bits: tuple[int, ...]) -> str:
    return " or ".join(map(str, bits))

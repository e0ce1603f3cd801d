"""What the Triton target does to integer linears and what follows them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from starquant_fx.kernels.reference import unpack
from starquant_fx.kernels.triton.layout import tile_pack
from starquant_fx.lowering.linear_form import LinearForm
from starquant_fx.lowering.matching import become, call_before, tensors_of
from starquant_fx.lowering.site_form import before_swiglu
from starquant_fx.lowering.tables import Tables
from starquant_fx.lowering.triton_branch import flat_image
from starquant_fx.lowering.triton_site import KEPT

aten = torch.ops.aten


def use_linear_kernel(module: fx.GraphModule, forms: list[LinearForm], tables: Tables) -> None:
    """Makes the linears of a site one product, with the SwiGLU that reads two of them."""
    swiglu = _swiglu(forms)
    forms = swiglu[0] if swiglu else forms
    f = forms[0]
    owner = f"{f.packed.target}_{len(forms)}"
    read = {
        name: tables.read(f.end, owner, name, _maker(module, forms, name))
        for name in ("packed", "weight_scale", "column_sum", "bias", "state_bias", "image")
    }
    arguments = (
        *(f.codes, f.scale, f.zero, read["packed"], read["weight_scale"], read["column_sum"]),
        *(f.weight_bits, read["bias"], f.state, read["state_bias"], f.coefficients),
        *(read["image"], f.residual, swiglu is not None, f.dtype),
    )
    target = torch.ops.starquant.tile_linear.default
    if swiglu is not None:
        become(swiglu[1], target, *arguments)
    elif len(forms) == 1:
        become(f.end, target, *arguments)
    else:
        _split(call_before(f.end, target, arguments), forms)


def _swiglu(forms: Sequence[LinearForm]) -> tuple[list[LinearForm], fx.Node] | None:
    """Gate and up, and the product ``silu(gate) * up`` if nothing else reads the two; else None."""
    if len(forms) != 2:
        return None
    by_end = {form.end: form for form in forms}
    for product in [user for form in forms for user in form.end.users]:
        pair = before_swiglu(product, KEPT)
        if pair is not None and set(pair) == set(by_end) and product not in by_end:
            alone = all(len(end.users) == 1 for end in pair)
            return ([by_end[end] for end in pair], product) if alone else None
    return None


def _split(joined: fx.Node, forms: Sequence[LinearForm]) -> None:
    """Hands the parts of a joined product [..., n1 + n2 + ...] to the readers of the linears."""
    values = [form.end.meta["val"] for form in forms]
    sizes = [value.shape[-1] for value in values]
    joined.meta["val"] = values[0].new_empty((*values[0].shape[:-1], sum(sizes)))
    with joined.graph.inserting_after(joined):
        parts = joined.graph.call_function(aten.split_with_sizes.default, (joined, sizes, -1))
    for i, form in enumerate(forms):
        become(form.end, operator.getitem, parts, i)


def _maker(
    module: fx.GraphModule, forms: Sequence[LinearForm], name: str
) -> Callable[[], Tensor | None]:
    """Makes one tensor of a product from those of its linears."""

    def make() -> Tensor | None:
        found = [tensors_of(module, getattr(form, name)) for form in forms]
        if all(tensor is None for tensor in found):
            return None
        scales = [tensors_of(module, form.weight_scale) for form in forms]
        f = forms[0]
        if name == "packed":
            features = int(f.codes.meta["val"].shape[-1])
            codes = [
                unpack(packed, f.weight_bits, len(scale), features)
                for packed, scale in zip(found, scales, strict=True)
            ]
            return tile_pack(torch.cat(codes), f.weight_bits)
        if name == "image":
            return torch.cat([flat_image(image, f.dtype) for image in found], 1)
        if name in ("weight_scale", "column_sum"):
            return torch.cat(found)  # [n], or [n, groups]
        return _joined(found, scales)

    return make


def _joined(found: Sequence[Any], scales: Sequence[Tensor]) -> Tensor:
    """Tensors [..., n] side by side, zeros where a linear has none."""
    lead = next(tensor for tensor in found if tensor is not None)
    return torch.cat(
        [
            lead.new_zeros((*lead.shape[:-1], len(scale))) if tensor is None else tensor
            for tensor, scale in zip(found, scales, strict=True)
        ],
        -1,
    )

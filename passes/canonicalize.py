"""Canonicalize: what export adds and no later pass wants goes; gains of norms move into the weights that read them."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from starquant_fx.pass_base import Pass, Preserves
from starquant_fx.program import ATTENTION, LINEAR, Program, facts, note

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device)
PIECE = 1 << 24
"""Elements that are scaled at once."""
VIEWS = (
    aten.expand.default,
    aten.unsqueeze.default,
    aten.view.default,
    aten.slice.Tensor,
    aten.reshape.default,
)


@dataclasses.dataclass(frozen=True)
class Canonicalize(Pass):
    """Drops asserts, casts and slices that change nothing, all-true attention masks and repeated KV heads; folds gains.

    Attributes:
        fold_gains: Fold the gain (and bias) of a norm into the linears that read it, when only linears do.
    """

    name: ClassVar[str] = "canonicalize"
    preserves: ClassVar[Preserves] = Preserves.NUMERICALLY
    fold_gains: bool = True

    def run(self, program: Program) -> Program:
        """Rewrites in one sweep over the graph, then folds gains."""
        for node in list(program.graph.nodes):
            if node.op != "call_function":
                continue
            if node.target == aten._assert_tensor_metadata.default:
                program.graph.erase_node(node)
            elif _changes_nothing(node):
                node.replace_all_uses_with(node.args[0])
                program.graph.erase_node(node)
        for attention in program.nodes(ATTENTION):
            _drop_true_mask(attention)
            _drop_repeated_heads(attention)
        if self.fold_gains:
            for node in list(program.graph.nodes):
                _fold_gain(program, node)
        return program

    def ensures(self, program: Program) -> None:
        """No metadata asserts are left."""
        left = program.nodes(aten._assert_tensor_metadata.default)
        self.expect(
            not left, "asserts are left", where=str(left[:1]), expected="none", got=len(left)
        )


def _changes_nothing(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return False
    if node.target in COPIES:
        before, after = source.meta.get("val"), node.meta.get("val")
        if not isinstance(before, Tensor) or not isinstance(after, Tensor):
            return False
        return before.dtype == after.dtype and before.device == after.device
    if node.target == aten.slice.Tensor:
        full = (0, sys.maxsize)
        return tuple(node.args[2:4]) == full and len(node.args) == 4
    return False


def _drop_true_mask(attention: fx.Node) -> None:
    """Removes an attention mask that is True everywhere by construction."""
    mask = attention.args[3] if len(attention.args) > 3 else attention.kwargs.get("attn_mask")
    if isinstance(mask, fx.Node) and _all_true(mask):
        if len(attention.args) > 3:
            attention.update_arg(3, None)
        else:
            attention.update_kwarg("attn_mask", None)


def _all_true(node: fx.Node) -> bool:
    if node.target in (aten.ones.default, aten.full.default):
        value = node.meta["val"]
        return value.dtype == torch.bool and (
            node.target == aten.ones.default or node.args[1] is True
        )
    if node.target in (aten.bitwise_and.Tensor, aten.logical_and.default, aten.__and__.Tensor):
        return all(isinstance(a, fx.Node) and _all_true(a) for a in node.args)
    source = node.args[0] if node.args else None
    return node.target in VIEWS and isinstance(source, fx.Node) and _all_true(source)


def _drop_repeated_heads(attention: fx.Node) -> None:
    """Replaces key and value heads that were repeated by expand by grouped-query attention."""
    sources = [_before_repeat(a) for a in attention.args[1:3] if isinstance(a, fx.Node)]
    if len(sources) == 2 and all(sources):
        attention.update_arg(1, sources[0])
        attention.update_arg(2, sources[1])
        attention.update_kwarg("enable_gqa", True)


def _before_repeat(node: fx.Node) -> fx.Node | None:
    """[B, H_kv, L, D] -> unsqueeze(2) -> expand -> (clone) -> view [B, H, L, D]: returns the source, or None."""
    heads = node.meta["val"].shape[1]
    current: Any = node
    for accepted in (
        (aten.view.default, aten.reshape.default, aten._unsafe_view.default),
        (aten.clone.default,),
        (aten.expand.default,),
    ):
        if current.target in accepted:
            current = current.args[0]
        elif accepted != (aten.clone.default,):
            return None
    if current.target != aten.unsqueeze.default or current.args[1] != 2:
        return None
    source = current.args[0]
    assert isinstance(source, fx.Node)
    value = source.meta["val"]
    return (
        source
        if value.dim() == 4 and heads % value.shape[1] == 0 and heads > value.shape[1]
        else None
    )


def _fold_gain(program: Program, node: fx.Node) -> None:
    """Folds ``norm(x) * gain (+ bias)`` into the weights of its readers when every reader is a linear."""
    if node.op != "call_function":
        return
    norm, gain, bias = _norm_parts(node)
    readers = list(node.users)
    if norm is None or gain is None or not readers:
        return
    if not all(_may_fold(r, node) for r in readers):
        return
    scale = program.tensor(gain)
    shift = program.tensor(bias) if bias is not None else None
    for linear in readers:
        _fold_into(program, linear, scale, shift)
    if norm is node:
        plain = (
            (*node.args[:2], None, *node.args[3:]) if node.target == aten.rms_norm.default else None
        )
        node.args = plain or (*node.args[:2], None, None, *node.args[4:])
    else:
        source = node.args[0] if node.args[1] is gain else node.args[1]
        node.replace_all_uses_with(source)  # type: ignore[arg-type]
        program.graph.erase_node(node)


def _may_fold(reader: fx.Node, node: fx.Node) -> bool:
    """Whether a reader of a scaled norm is a linear with a weight of its own (a tied one would have to be copied)."""
    if reader.target != LINEAR or reader.args[0] is not node:
        return False
    weight = reader.args[1]
    return isinstance(weight, fx.Node) and weight.op == "get_attr" and len(weight.users) == 1


def _norm_parts(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None, fx.Node | None]:
    """Returns (norm, gain, bias) if ``node`` is the scaled output of a norm."""
    if node.target == aten.mul.Tensor:
        for one, other in (node.args[:2], node.args[1::-1]):
            if isinstance(one, fx.Node) and isinstance(other, fx.Node) and other.op == "get_attr":
                norm = one.args[0] if one.target in COPIES else one
                if isinstance(norm, fx.Node) and norm.target == aten.rms_norm.default:
                    return norm, other, None
    if (
        node.target == aten.rms_norm.default
        and len(node.args) > 2
        and isinstance(node.args[2], fx.Node)
    ):
        return node, node.args[2], None
    if (
        node.target == aten.layer_norm.default
        and len(node.args) > 2
        and isinstance(node.args[2], fx.Node)
    ):
        bias = node.args[3] if len(node.args) > 3 and isinstance(node.args[3], fx.Node) else None
        return node, node.args[2], bias
    return None, None, None


def _scaled(weight: Tensor, gain: Tensor) -> Tensor:
    """The weight [n, d] with scaled columns, computed in float32 and in pieces, because a head is large."""
    made = torch.empty_like(weight)
    step = max(1, PIECE // weight.shape[1])
    for place, rows in zip(made.split(step), weight.split(step), strict=True):
        place.copy_(rows.float() * gain.float())
    return made


def _fold_into(program: Program, linear: fx.Node, gain: Tensor, shift: Tensor | None) -> None:
    name = facts(linear)["of"]
    weight = program.tensor(linear.args[1])  # type: ignore[arg-type]

    scaled = torch.empty_like if program.weightless else partial(_scaled, gain=gain)
    folded = program.constant(f"folded.{name}.weight", partial(scaled, weight))
    linear.update_arg(1, folded)
    if shift is not None:
        arguments: tuple[Any, ...] = linear.args
        bias_node = arguments[2] if len(arguments) > 2 else None
        old = program.tensor(bias_node) if isinstance(bias_node, fx.Node) else None

        def shifted() -> Tensor:
            added = weight.float() @ shift.float()
            return (added if old is None else added + old.float()).to(weight.dtype)

        bias = program.constant(f"folded.{name}.bias", shifted)
        linear.args = (*arguments[:2], bias)
    note(linear, gain_folded=True)

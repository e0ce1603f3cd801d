"""``tile_linear`` in the forms that models run: integers bit for bit, whole epilogues against float64."""

from __future__ import annotations

import torch

from gpu_suite.comparing import Verdict, close, exact, int_mm
from gpu_suite.products import Bits, product
from gpu_suite.specs import Form

GROUP = 128
"""Channels that share a scale where groups have scales of their own."""


def compare_product(
    form: Form, tokens: int, bits: Bits, generator: torch.Generator, split: int = 0
) -> dict[str, Verdict]:
    """The bare integers against ``torch._int_mm``, and the form with its whole epilogue.

    Args:
        form: What is computed.
        tokens: Of the activations.
        bits: Of both sides.
        generator: Of the draws.
        split: Parts that the channels are summed in; 0 = as the target chooses.
    """
    made = product(form.size, tokens, bits, generator).formed(form, generator)
    integers, packed = int_mm(made.codes, made.weight), made.packed()
    return {
        "integers": exact(made.plain(packed, split), integers),
        "epilogue": close(made.whole(packed, made.column_sum, split), made.expected(integers)),
    }


def compare_groups(
    form: Form, tokens: int, bits: Bits, generator: torch.Generator
) -> dict[str, Verdict]:
    """The same with a weight scale for every group of channels; with scales of one the sum is the integers'."""
    made = product(form.size, tokens, bits, generator).formed(form, generator)
    made = made.grouped(GROUP, generator)
    pairs = zip(made.codes.split(GROUP, -1), made.weight.split(GROUP, -1), strict=True)
    integers = torch.stack([int_mm(codes.contiguous(), w.contiguous()) for codes, w in pairs])
    packed = made.packed()
    return {
        "integers": exact(made.plain(packed), integers.sum(0, dtype=torch.int32)),
        "epilogue": close(made.whole(packed, made.column_sum), made.expected(integers)),
    }

"""Correctness before speed: integers bit for bit against ``torch._int_mm``, sites against their formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.head import Head, head_problem
from gpu_suite.products import ALL_BITS, Bits, Product, product
from gpu_suite.rows import Check
from gpu_suite.sites import SiteProblem, site_problem
from gpu_suite.specs import GpuModel
from starquant_fx.errors import cause
from starquant_fx.kernels import reference

LARGEST = 2**29
"""Elements of a product that are compared at once; larger ones (the head at many tokens) take fewer tokens."""
FEWEST = 32
"""Rows that ``torch._int_mm`` is given at least; it takes no fewer than 17."""
FLOAT_ERROR = 0.01
"""Relative L2 error of bf16 results; a rounding alone is about 0.002."""
SITE_BITS = 4
FLIPPED = 0.05
"""Share of the 4-bit codes that may be one level off, because transforms in bf16 round before the quantizer does."""


def checks(
    models: Sequence[GpuModel], tokens: Sequence[int], device: torch.device, seed: int = 3
) -> Iterator[Check]:
    """Compares every kernel of the Triton target on every tuned shape and number of tokens.

    Args:
        models: Their linears, the head among them, give the shapes.
        tokens: Numbers of tokens.
        device: Where the kernels run.
        seed: Of the draws.
    """
    generator = torch.Generator(device).manual_seed(seed)
    sizes = list(dict.fromkeys(size for model in models for size in (*model.tuned, model.head)))
    for size in sizes:
        for count in tokens:
            few = max(1, min(count, LARGEST // size[1]))
            for bits in ALL_BITS:
                name = f"{bits} {size[0]}x{size[1]}, {few} tokens"
                with_name = _guarded(f"tile_linear {name}", device)
                yield from with_name(lambda: _product(size, few, bits, generator))  # noqa: B023
    for model in models:
        for count in tokens:
            few = max(1, min(count // 2, LARGEST // model.vocab))
            name = f"tile_greedy {model.width}x{model.vocab}, {few} rows"
            head = head_problem(model.head, few, generator)
            yield from _guarded(name, device)(lambda: _greedy(head))  # noqa: B023
    for features in dict.fromkeys(size[0] for size in sizes):
        for count in tokens:
            name = f"{features} channels, {count} tokens"
            made = site_problem(features, count, generator)
            yield from _guarded(f"tile_prepare {name}", device)(
                lambda: _prepare(made)  # noqa: B023
            )
            yield from _guarded(f"tile_site {name}", device)(
                lambda: _site(made)  # noqa: B023
            )


def _guarded(
    name: str, device: torch.device
) -> Callable[[Callable[[], dict[str, tuple[bool, str]]]], Iterator[Check]]:
    """Runs a comparison; one that cannot run is not passed on a machine that should run it."""

    def run(compare: Callable[[], dict[str, tuple[bool, str]]]) -> Iterator[Check]:
        if reason := tile.missing(device):
            yield Check(name, None, reason)
            return
        try:
            for part, (passed, detail) in compare().items():
                yield Check(f"{name}: {part}", passed, detail)
        except Exception as error:  # whatever a kernel raises is a failure with a reason
            yield Check(name, False, cause(error))

    return run


def int_mm(codes: Tensor, weight: Tensor) -> Tensor:
    """Exact ``codes @ weight.T`` int32 by PyTorch, which takes no fewer than 17 rows and sizes that 8 divides."""
    rows = len(codes)
    if rows < FEWEST:
        codes = torch.nn.functional.pad(codes, (0, 0, 0, FEWEST - rows))
    found: Tensor = torch.ops.aten._int_mm(codes, weight.t())
    return found[:rows]


def _product(
    size: tuple[int, int], tokens: int, bits: Bits, generator: torch.Generator
) -> dict[str, tuple[bool, str]]:
    """The integers, and the whole epilogue."""
    made = product(size, tokens, bits, generator)
    integers, packed = int_mm(made.codes, made.weight), made.packed()
    return {
        "integers": _exact(made.plain(packed), integers),
        "epilogue": _close(made.whole(packed, made.column_sum), _in_rows(made, integers)),
    }


def _in_rows(made: Product, integers: Tensor) -> Tensor:
    """The expected product; float64 of a few hundred million elements at once would fill the memory."""
    return made.expected(integers).float()


def _exact(found: Tensor, integers: Tensor) -> tuple[bool, str]:
    """Whether float32 results are the very integers, which float32 must hold."""
    largest = int(integers.abs().max())
    if largest >= reference.EXACT_FLOAT32:
        return False, f"the draw is not comparable: {largest} is more than float32 holds exactly"
    wrong = int((found.to(torch.int32) != integers).sum()) + int((found != found.round()).sum())
    return wrong == 0, "equal" if wrong == 0 else f"{wrong} of {integers.numel()} integers differ"


def _close(found: Tensor, expected: Tensor) -> tuple[bool, str]:
    """Whether the relative L2 error is small; NaN is not."""
    apart = torch.linalg.vector_norm(found.float() - expected.float())
    error = float(apart / torch.linalg.vector_norm(expected.float()).clamp(min=1e-30))
    return error <= FLOAT_ERROR, f"relative error {error:.2g}, at most {FLOAT_ERROR}"


def _prepare(made: SiteProblem) -> dict[str, tuple[bool, str]]:
    rest, coefficients = made.prepare()
    expected = made.expected_prepare()
    return {"rest": _close(rest, expected[0]), "coefficients": _close(coefficients, expected[1])}


def _site(made: SiteProblem) -> dict[str, tuple[bool, str]]:
    """Codes at most one level off, few of them, and values that are as close as their steps allow."""
    codes, scale, zero = made.site(SITE_BITS)
    wide = made.expected_site().float()
    wanted, step, offset = reference.quantize_activation(wide, SITE_BITS, False, None)
    apart = (codes.to(torch.int16) - wanted.to(torch.int16)).abs()
    furthest, share = int(apart.max()), float((apart > 0).float().mean())
    values = (wanted.float() - offset) * step
    return {
        "codes": (
            furthest <= 1 and share <= FLIPPED,
            f"{100 * share:.2g} % differ, by {furthest} at most",
        ),
        "scale": _close(scale, step),
        "values": (
            float((zero - offset).abs().max()) <= 1
            and _near((codes.float() - zero) * scale, values),
            "values within two steps",
        ),
    }


def _greedy(head: Head) -> dict[str, tuple[bool, str]]:
    """The largest logit, its token and its probability; the token may be another that is as large but for rounding."""
    largest, tokens, probability = head.fused()
    logits = head.x.float() @ head.weight.float().T
    peak = logits.amax(-1)
    reached = logits.gather(-1, tokens[:, None]).squeeze(-1)
    missed = float(((peak - reached) / peak.abs()).max())
    return {
        "largest": _close(largest, peak),
        "token": (missed <= FLOAT_ERROR, f"its logit is at most {missed:.2g} below the largest"),
        "probability": _close(probability, (peak - logits.logsumexp(-1)).exp()),
    }


def _near(found: Tensor, values: Tensor) -> bool:
    """Whether dequantized values are within two steps of a grid of 4 bits over their own range."""
    span = values.amax(-1, keepdim=True) - values.amin(-1, keepdim=True)
    return bool(((found - values).abs() <= 2 * span / (2**SITE_BITS - 1)).all())

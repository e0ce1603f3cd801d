"""Single kernels: products beside bf16 and the fastest int8 product of the run, sites beside memory, the head."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gpu_suite import tile
from gpu_suite.clock import Clock
from gpu_suite.comparing import int_mm
from gpu_suite.head import heads
from gpu_suite.peers import bf16_linear
from gpu_suite.products import ALL_BITS, Bits, Product, product
from gpu_suite.rows import KernelRow
from gpu_suite.sites import site_problem
from gpu_suite.specs import GpuModel, Workload
from starquant_fx.errors import LoweringError, cause
from structures import in_turns

INT8 = "torch._int_mm"
BF16 = "bf16"
Calls = list[Callable[[], Any]]


@dataclasses.dataclass
class Kernels:
    """Measures single kernels.

    Attributes:
        clock: Of the device.
        work: Numbers of tokens, the large product, and how much is read so that no cache holds it.
        repeats: Timed rounds.
        generator: Of the draws.
    """

    clock: Clock
    work: Workload
    repeats: int
    generator: torch.Generator

    def rows(self, models: Sequence[GpuModel], enough: Callable[[], bool]) -> Iterator[KernelRow]:
        """All rows, without the ceiling, which is known at the end.

        Args:
            models: What gives the shapes.
            enough: Whether time is up; what is left then is left out.
        """
        side = self.work.square
        yield from self.products((side, side), side, ())
        sizes = list(dict.fromkeys(size for model in models for size in model.tuned))
        widths = list(dict.fromkeys(size[0] for size in sizes))
        tasks: list[tuple[int, Callable[[int], list[KernelRow]]]] = []
        for tokens in self.work.tokens:
            tasks += [(tokens, functools.partial(self.products, size)) for size in sizes]
            tasks += [(tokens, functools.partial(self.sites, width)) for width in widths]
            tasks += [(tokens, functools.partial(self.masked_head, one.head)) for one in models]
        for done, (tokens, task) in enumerate(tasks):
            if enough():
                why = f"the time for kernels was spent before {len(tasks) - done} more shapes"
                yield KernelRow("others", "", tokens, reason=why)
                return
            yield from task(tokens)

    def masked_head(self, size: tuple[int, int], tokens: int) -> list[KernelRow]:
        """The head on half of the tokens."""
        return heads(self, size, max(1, tokens // 2))

    def products(
        self, size: tuple[int, int], tokens: int, kinds: Sequence[Bits] = ALL_BITS
    ) -> list[KernelRow]:
        """PyTorch's bf16 and int8 products of a shape, and ours with the epilogue of a model."""
        inputs, outputs = size
        made = product(size, tokens, Bits(8, 8), self.generator)
        weight, x = made.weight.bfloat16(), made.codes.bfloat16()
        calls: dict[str, Calls] = {
            BF16: [functools.partial(bf16_linear, x, w) for w in self.copies(weight)],
            INT8: [functools.partial(int_mm, made.codes, w) for w in self.copies(made.weight)],
        }
        failed: dict[str, str] = {}
        for bits in kinds:
            name = f"tile_linear {bits}"
            try:
                calls[name] = self._ours(product(size, tokens, bits, self.generator))
            except LoweringError as error:
                failed[name] = error.what
        shape = f"{inputs}x{outputs}"
        rows = self.timed(calls, shape, tokens, BF16)
        for row in rows:
            row.operations = 2 * tokens * inputs * outputs
        return [*rows, *(KernelRow(n, shape, tokens, reason=why) for n, why in failed.items())]

    def _ours(self, made: Product) -> Calls:
        tile.operator("tile_linear", self.clock.device)
        sums = made.column_sum
        packed = self.copies(made.packed())
        return [functools.partial(made.whole, one, sums) for one in packed]

    def sites(self, features: int, tokens: int) -> list[KernelRow]:
        """The two kernels of a site with norm, TAC, branch, basis and gates."""
        made = site_problem(features, tokens, self.generator)
        inputs = [dataclasses.replace(made, x=x) for x in self.copies(made.x)]
        prepare: Calls = [one.prepare for one in inputs]
        site: Calls = [functools.partial(one.site, 4) for one in inputs]
        rows, shape = [], f"{features} channels"
        for name, calls, written in (
            ("tile_prepare", prepare, made.x.element_size()),
            ("tile_site a4", site, 1),
        ):
            if reason := tile.missing(self.clock.device):
                rows.append(KernelRow(name, shape, tokens, reason=reason))
                continue
            (row,) = self.timed({name: calls}, shape, tokens, "")
            row.bytes = tokens * features * (made.x.element_size() + written)
            rows.append(row)
        return rows

    def copies(self, tensor: Tensor) -> list[Tensor]:
        """A tensor and copies, as many as take the bytes that no cache holds."""
        more = -(-self.work.rotate_bytes // max(1, tensor.nbytes)) - 1
        return [tensor, *(tensor.clone() for _ in range(more))]

    def timed(self, calls: dict[str, Calls], shape: str, tokens: int, base: str) -> list[KernelRow]:
        """A row for each kernel; the kernels take turns, each a graph of all its calls.

        Args:
            calls: By kernel, one call for each copy of its operands.
            shape: For the rows.
            tokens: For the rows.
            base: The kernel that ratios are taken of.
        """
        rows = {name: KernelRow(name, shape, tokens) for name in calls}
        replays: dict[str, Callable[[], Any]] = {}
        for name, some in calls.items():
            try:
                replays[name], _ = self.clock.captured(functools.partial(_last, some))
            except Exception as error:  # whatever a kernel raises is the reason in its row
                rows[name].reason = cause(error)
        found = in_turns(list(replays.values()), self.repeats, self.clock.seconds)
        for name, seconds in zip(replays, found, strict=True):
            rows[name].seconds = statistics.median(seconds) / len(calls[name])
        for row in rows.values():
            row.bf16_seconds = rows[base].seconds if base else None
        self.clock.release()
        return list(rows.values())


def _last(calls: Calls) -> Any:
    """Runs some calls, none of whose results but the last stays."""
    result = None
    for call in calls:
        result = call()
    return result


def add_ceiling(rows: Sequence[KernelRow]) -> float | None:
    """Notes the rate of the fastest int8 product of PyTorch on every row that has operations, and returns it."""
    rates = [row.rate for row in rows if row.kernel == INT8 and row.rate is not None]
    ceiling = max(rates, default=None)
    for row in rows:
        row.ceiling = ceiling if row.operations else None
    return ceiling

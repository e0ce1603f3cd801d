"""The report of a compilation: a row a site, every linear that was left alone with the reason, bytes, seconds."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, fx

from starquant_fx.program import CONSTANTS, Program, Site
from starquant_fx.sizes import shown_size

aten = torch.ops.aten
PRODUCTS = (
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.matmul.default,
    aten.convolution.default,
    aten.conv1d.default,
    aten.conv2d.default,
)
"""Operators besides linear that multiply by a weight."""
VIEWS = (
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.to.dtype,
    aten._to_copy.default,
    aten.contiguous.default,
    aten.cat.default,
)
STORED_FLOAT_BYTES = 2
"""Floating-point model tensors are counted as stored in bf16, whatever dtype they were loaded in."""


@dataclasses.dataclass(frozen=True)
class SiteRow:
    """One quantized site.

    Attributes:
        site: Its name.
        linears: Its linears.
        roles: Their roles.
        bits: For example ``w4a4``.
        transform: Structure and sizes of the basis, or ``none``.
        gates: Coordinates r of each state, 0 = no gates.
        error: ||y - y'||^2 / ||y||^2 on calibration states given full-precision inputs; None = not measured.
        leakage: What the gates alone lose, quantizers off, relative to the centred outputs; None = not fitted.
        tac: Distance of the attention output to the references before and after TAC, and the constants where they were
            chosen; empty where there is none.
    """

    site: str
    linears: tuple[str, ...]
    roles: tuple[str, ...]
    bits: str
    transform: str
    gates: int
    error: float | None
    leakage: float | None
    tac: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compilation did.

    Attributes:
        recipe: Name of the recipe.
        target: Name of the target.
        sites: The quantized sites.
        unquantized: (linear or weight, reason) of every linear left in full precision, and of weights that something
            else multiplies.
        bytes_before: The model's tensors, stored in bf16.
        bytes_after: The program's tensors: packed codes, scales and transforms as they are, other floats in bf16.
        seconds: Per pass, in order, (text form, seconds).
        notes: What passes want to be read.
        calibration: sequences, tokens, tokens kept of each site, and, if the model was compiled whole, bytes of the
            activations that were held at once; empty without calibration data.
        kernels: Which kernels run on this machine, how many of each, and why.
    """

    recipe: str
    target: str
    sites: tuple[SiteRow, ...]
    unquantized: tuple[tuple[str, str], ...]
    bytes_before: int
    bytes_after: int
    seconds: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]
    calibration: dict[str, int]
    kernels: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Returns the report as text tables."""
        text = io.StringIO()
        Console(width=120, file=text).print(self)
        return text.getvalue()

    def __rich_console__(self, console: Any, options: Any) -> Any:
        """Renders with rich."""
        shared = _shared_prefix([row.site for row in self.sites])
        title = f"{self.recipe} on {self.target}" + (f"; sites of {shared}" if shared else "")
        table = Table(
            title=Text(title),
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        for column in ("site", "roles", "bits", "transform", "gates", "error", "leakage", "TAC"):
            table.add_column(column, no_wrap=True)
        for row in self.sites:
            before, after = row.tac.get("tac_before_original"), row.tac.get("tac_after_original")
            table.add_row(
                Text(row.site.removeprefix(f"{shared}.")),
                " ".join(row.roles),
                row.bits,
                row.transform,
                str(row.gates or "-"),
                _number(row.error),
                _number(row.leakage),
                _change(before, after),
            )
        yield table
        if any(row.tac for row in self.sites):
            yield Text("TAC: change of the attention output's squared distance to the original's")
        for linear, reason in self.unquantized:
            yield Text(f"not quantized: {linear} ({reason})")
        yield Text(
            f"weights: {shown_size(self.bytes_before)} (bf16) -> {shown_size(self.bytes_after)}"
        )
        if used := self.calibration:
            held = f", {shown_size(used['bytes'])} of activations" if "bytes" in used else ""
            yield Text(
                f"calibration: {used['sequences']:,} sequences, {used['tokens']:,} tokens, {used['kept']:,} kept a "
                f"site{held}"
            )
        if self.kernels:
            yield Text(self.kernels)
        yield from map(Text, self.notes)


def _shared_prefix(names: list[str]) -> str:
    """The module path that all names start with; empty for fewer than two names."""
    if len(names) < 2:
        return ""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(p[0] for p in itertools.takewhile(lambda p: len(set(p)) == 1, parts))


def _change(before: float | None, after: float | None) -> str:
    """By how much a distance changed, for example ``-10.3%``."""
    return "-" if not before or after is None else f"{after / before - 1:+.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def tensor_bytes(tensors: dict[str, Tensor], made_by_passes: str) -> int:
    """Bytes of tensors as stored: floats of the model in bf16, everything that a pass made as it is."""
    total = 0
    for name, tensor in tensors.items():
        folded = name.startswith(f"{made_by_passes}.folded.")
        own = name.startswith(f"{made_by_passes}.") and not folded
        size = (
            STORED_FLOAT_BYTES if tensor.is_floating_point() and not own else tensor.element_size()
        )
        total += tensor.numel() * size
    return total


def make_report(program: Program, target: str, bytes_before: int, bytes_after: int) -> Report:
    """Reads the report off a finished program."""
    rows = tuple(_row(program, site) for site in program.quantized_sites())
    skipped = tuple(
        (n, s.reason or "") for s in program.sites.values() if s.options is None for n in s.linears
    )
    skipped += tuple(_other_products(program))
    seconds = tuple((r.name, r.seconds) for r in program.records)
    notes = tuple(text for r in program.records for text in r.notes)
    data = program.calibration
    return Report(
        program.recipe.name,
        target,
        rows,
        skipped,
        bytes_before,
        bytes_after,
        seconds,
        notes,
        {} if data is None else data.use(),
    )


def _other_products(program: Program) -> Iterator[tuple[str, str]]:
    """Weights that something other than a linear multiplies, with the reason why they are not quantized."""
    for node in program.graph.nodes:
        if node.target in PRODUCTS:
            for source in map(_through_views, node.all_input_nodes):
                name = str(source.target)
                weight = source.op == "get_attr" and not name.startswith(f"{CONSTANTS}.")
                if weight and program.tensor(source).dim() > 1:
                    yield name, f"read by {node.target}, which is not a linear"


def _through_views(node: fx.Node) -> fx.Node:
    """What a node is a view of."""
    while node.target in VIEWS:
        node = node.all_input_nodes[0]
    return node


def _row(program: Program, site: Site) -> SiteRow:
    found = program.findings.get(site.name, {})
    return SiteRow(
        site=site.name,
        linears=site.linears,
        roles=site.roles,
        bits=str(site.options),
        transform=found.get("transform", "none"),
        gates=found.get("gates", 0),
        error=found.get("error"),
        leakage=found.get("leakage"),
        tac={k: v for k, v in found.items() if k.startswith("tac_")},
    )

"""Chips by name: rates and bandwidth, each with where the figure comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from starquant_fx.cost.units import BF16, ELEMENTWISE, FP32, INT8
from starquant_fx.errors import InputError, nearest


@dataclasses.dataclass(frozen=True)
class Rate:
    """A rate that a kernel reaches.

    Attributes:
        value: Operations, or bytes, a second.
        source: Where it comes from.
    """

    value: float
    source: str


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip.

    Attributes:
        name: Its name.
        rates: Operations a second by unit, as reached (not the peak).
        bandwidth: Bytes a second between memory and chip, as reached.
        launch: Seconds a launch of a kernel takes where launches are not captured in a graph.
        own_launch: The same of a ``starquant::`` operator, which Python prepares.
        captures: Whether launches can be captured in a graph, after which they cost nothing here.
        architecture: Compute capability times ten; 0 = no GPU.
    """

    name: str
    rates: Mapping[str, Rate]
    bandwidth: Rate
    launch: Rate
    own_launch: Rate
    captures: bool
    architecture: int = 0


REACHED_PRODUCTS, REACHED_INT8, REACHED_BANDWIDTH = 0.80, 0.66, 0.90
"""Shares of the data sheet's dense peaks. Products and bandwidth: measured on one H200 (790 of 989 TFLOP/s in bf16, 4.3
of 4.8 TB/s), assumed of the others. int8: an assumption, 1300 TOP/s on an H200, the middle of 1000, 1300 and 1500."""
MEASURED = "measured on one H200, without this package"
LAUNCH = Rate(5e-6, "assumption: a launch from Python's eager mode")


def _gpu(
    name: str,
    architecture: int,
    bf16: float,
    fp32: float,
    int8: float,
    bandwidth: float,
    sheet: str,
) -> Chip:
    """A GPU by the data sheet's dense peaks in TFLOP/s (TOP/s) and bandwidth in GB/s."""

    def rate(value: float, share: float, what: str) -> Rate:
        return Rate(value * share, f"{sheet}: {what}; reached share {share} assumed")

    return Chip(
        name,
        {
            BF16: rate(bf16 * 1e12, REACHED_PRODUCTS, f"{bf16} TFLOP/s dense bf16"),
            FP32: rate(fp32 * 1e12, REACHED_PRODUCTS, f"{fp32} TFLOP/s fp32"),
            INT8: rate(int8 * 1e12, REACHED_INT8, f"{int8} TOP/s dense int8"),
            # An addition takes the place of a multiplication and an addition.
            ELEMENTWISE: rate(fp32 / 2 * 1e12, REACHED_PRODUCTS, f"half of {fp32} TFLOP/s fp32"),
        },
        rate(bandwidth * 1e9, REACHED_BANDWIDTH, f"{bandwidth} GB/s"),
        LAUNCH,
        LAUNCH,
        True,
        architecture,
    )


def _h200() -> Chip:
    """The H200 with what was measured on one."""
    peaks = _gpu("H200", 90, 989, 67, 1979, 4800, "NVIDIA H200 SXM data sheet")
    measured = Rate(790e12, f"{MEASURED}: 790 TFLOP/s in bf16 products")
    bandwidth = Rate(4.3e12, f"{MEASURED}: 4.3 TB/s")
    return dataclasses.replace(peaks, rates={**peaks.rates, BF16: measured}, bandwidth=bandwidth)


def _cpu(name: str, cores: int, bandwidth: float) -> Chip:
    """Cores of a server processor with AVX512-VNNI and AVX512-BF16, no AMX; products scale with the cores."""
    one_core = f"{cores} x one core, measured at 512 to 1024 tokens"

    def rate(value: float, source: str) -> Rate:
        return Rate(cores * value * 1e9, source)

    return Chip(
        name,
        {
            BF16: rate(215, f"{one_core}: 215 GFLOP/s by torch"),
            FP32: rate(97, f"{one_core}: 97 GFLOP/s by torch"),
            INT8: rate(430, f"{one_core}: 420 to 440 GOP/s by _int_mm and oneDNN"),
            ELEMENTWISE: rate(
                10, "docs/performance.md, Single kernels: what products leave of a site's time"
            ),
        },
        Rate(
            bandwidth * 1e9,
            "measured: 256 MiB copied by torch, bytes read and written; two cores together copied no faster",
        ),
        Rate(1e-5, "assumption: a call of one of torch's operators"),
        Rate(1.5e-4, "docs/performance.md, Single kernels: a call's own time"),
        False,
    )


CHIPS = {
    chip.name: chip
    for chip in (
        _gpu("A40", 86, 149.7, 37.4, 299.3, 696, "NVIDIA A40 data sheet"),
        _gpu("A100", 80, 312, 19.5, 624, 2039, "NVIDIA A100 80GB SXM data sheet"),
        _gpu("H100", 90, 989, 67, 1979, 3350, "NVIDIA H100 SXM data sheet"),
        _h200(),
        _cpu("cpu", 1, 25),
        _cpu("cpu-2", 2, 25),
    )
}
"""By name; ``cpu`` is one core of the processor that docs/performance.md is measured on, ``cpu-2`` two."""


def chip_named(name: str, rates: Mapping[str, float] | None = None) -> Chip:
    """A chip by its name, upper or lower case.

    Args:
        name: The name.
        rates: Rates to take instead, by unit or ``bandwidth``, in 10^12 a second.

    Returns:
        The chip.

    Raises:
        InputError: There is no such chip, or no such rate (the nearest name is offered).
    """
    known = {one.lower(): chip for one, chip in CHIPS.items()}
    chip = known.get(name.lower())
    if chip is None:
        raise InputError(
            f"unknown chip {name!r}",
            where="--chip",
            expected=", ".join(CHIPS),
            got=repr(name),
            hint="another chip is one of these with figures of its own: --rate bf16=..., int8=..., bandwidth=...",
        )
    for unit, value in (rates or {}).items():
        given = Rate(value * 1e12, "given")
        if unit == "bandwidth":
            chip = dataclasses.replace(chip, bandwidth=given)
        elif unit in chip.rates:
            chip = dataclasses.replace(chip, rates={**chip.rates, unit: given})
        else:
            raise InputError(
                f"unknown rate {unit!r}",
                where="--rate",
                expected=", ".join((*chip.rates, "bandwidth")),
                got=repr(unit),
                hint=nearest(unit, (*chip.rates, "bandwidth")),
            )
    return chip

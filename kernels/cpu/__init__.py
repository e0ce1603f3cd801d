"""CPU kernels in C++; importing them registers their operators."""

from starquant_fx.kernels.cpu.attention import attention, rotary
from starquant_fx.kernels.cpu.greedy import greedy
from starquant_fx.kernels.cpu.library import unavailable
from starquant_fx.kernels.cpu.linear import RANK, branch_image, panel_linear, panel_linears
from starquant_fx.kernels.cpu.site import TABLES, covers, site_codes, site_tables

OPERATORS = ("attention", "panel_linear", "panel_linears", "rotary", "site_codes")
"""Names of the operators that are registered here."""

__all__ = [
    "OPERATORS",
    "RANK",
    "TABLES",
    "attention",
    "branch_image",
    "covers",
    "greedy",
    "panel_linear",
    "panel_linears",
    "rotary",
    "site_codes",
    "site_tables",
    "unavailable",
]

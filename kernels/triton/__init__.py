"""Triton kernels of the ``triton`` target; importing them registers their operators.

Nothing here is imported before the target is used.
"""

from starquant_fx.kernels.triton.head import tile_greedy, tile_greedy_int8
from starquant_fx.kernels.triton.linear import tile_linear
from starquant_fx.kernels.triton.prepare import tile_prepare
from starquant_fx.kernels.triton.prepare_checks import prepares
from starquant_fx.kernels.triton.site import tile_site
from starquant_fx.kernels.triton.site_checks import covers

__all__ = [
    "covers",
    "prepares",
    "tile_greedy",
    "tile_greedy_int8",
    "tile_linear",
    "tile_prepare",
    "tile_site",
]

"""Symbols of sizes, and units of operations. Nothing here needs torch."""

from __future__ import annotations

import sympy

BATCH, LENGTH, ROWS = sympy.symbols("B L R", integer=True, positive=True)
"""Sequences of a forward, tokens of each, and the positions whose logits are computed."""
BF16, FP32, INT8, ELEMENTWISE = "bf16", "fp32", "int8", "elementwise"
UNITS = (BF16, FP32, INT8, ELEMENTWISE)
"""Where operations are done: matrix products by the type they multiply (bf16 stands for fp16 too), and all else."""

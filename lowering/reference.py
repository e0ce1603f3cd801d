"""The reference target: every operator runs its executable specification. Slow, exact, and what others are held to."""

from __future__ import annotations

from torch import fx

from starquant_fx.lowering.tables import Laid
from starquant_fx.program import Program


def lower(program: Program, laid: Laid) -> fx.GraphModule:
    """Returns the program's graph as a callable; the operators' reference implementations are always registered.

    Args:
        program: A fused program.
        laid: Stays as it is: the reference reads a program's own tensors.

    Returns:
        The module: placeholders in, logits out.
    """
    program.module.recompile()
    return program.module.eval()

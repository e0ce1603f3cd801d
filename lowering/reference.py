"""The reference target: every operator runs its executable specification. Slow, exact, and what others are held to."""

from __future__ import annotations

from torch import fx

from starquant_fx.program import Program


def lower(program: Program) -> fx.GraphModule:
    """Returns the program's graph as a callable; the operators' reference implementations are always registered.

    Args:
        program: A fused program.

    Returns:
        The module: placeholders in, logits out.
    """
    program.module.recompile()
    return program.module.eval()

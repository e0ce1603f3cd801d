"""The refusal of arguments of transformers' functions that are not honoured here."""

from __future__ import annotations

from starquant_fx.errors import InputError


def not_done(
    function: str, where: str, expected: str, got: str, hint: str = "leave the argument out"
) -> InputError:
    """The refusal of an argument.

    Args:
        function: Of transformers, as ``from_pretrained``.
        where: The argument.
        expected: What is honoured.
        got: What was given.
        hint: What to do.
    """
    return InputError(
        f"{function} does not do this for LLaDA, Dream and packed checkpoints",
        where=where,
        expected=expected,
        got=got,
        hint=hint,
    )

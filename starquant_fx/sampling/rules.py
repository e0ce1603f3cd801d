"""Numbers and rules of the published samplers of LLaDA and Dream that need no tensors."""

from __future__ import annotations

from starquant_fx.errors import InputError
from starquant_fx.sampling import arguments

REMASKING = ("low_confidence", "random")
PUBLISHED_EOS_ID = 126081
PUBLISHED_EOT_ID = 126348
CONFIDENCE_OF = {
    "origin": "probability",
    "maskgit_plus": "probability",
    "topk_margin": "margin",
    "entropy": "negative_entropy",
}
DEFAULT_NEW_TOKENS = 20


def llada_schedule(steps: int, gen_length: int, block_length: int) -> tuple[int, int]:
    """Returns (blocks, steps per block) of LLaDA's sampler; raises an InputError if the numbers do not divide."""
    steps = arguments.integer("steps", steps, 1)
    gen_length = arguments.integer("gen_length", gen_length, 1)
    block_length = arguments.integer("block_length", block_length, 1)
    blocks, rest = divmod(gen_length, block_length)
    if rest:
        raise InputError(
            "gen_length is not divisible by block_length",
            where="gen_length",
            expected=f"a multiple of block_length = {block_length}",
            got=str(gen_length),
            hint=f"for example block_length={gen_length}",
        )
    if steps % blocks:
        raise InputError(
            "steps is not divisible by the number of blocks",
            where="steps",
            expected=f"a multiple of gen_length / block_length = {blocks}",
            got=str(steps),
            hint=f"for example steps={-(-steps // blocks) * blocks}",
        )
    return blocks, steps // blocks


def dream_new_tokens(given: int, max_new_tokens: int | None, max_length: int | None) -> int:
    """Returns how many tokens Dream's sampler appends.

    Args:
        given: Tokens of the prompt; read only if ``max_length`` is given.
        max_new_tokens: As ``dream_generate``.
        max_length: As there.

    Raises:
        InputError: Both are given, or the one that is does not fit.
    """
    if max_length is None:
        wanted = DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        return arguments.integer("max_new_tokens", wanted, 1)
    if max_new_tokens is not None:
        raise InputError(
            "max_new_tokens and max_length are both given",
            where="max_length",
            expected="one of the two",
            got=f"max_new_tokens={max_new_tokens!r}, max_length={max_length!r}",
            hint="max_length counts the prompt as well",
        )
    return arguments.integer("max_length", max_length, given + 1) - given

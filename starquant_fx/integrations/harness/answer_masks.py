"""Which tokens of an answer are masked when its likelihood is estimated."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor


class AnswerMasks(NamedTuple):
    """Distinct masks of an answer of L tokens and what each counts.

    The bound on the answer's log-likelihood is the sum over masks of weight · (sum of log p over masked tokens).

    Attributes:
        masked: [K, L] bool, every row masks at least one token.
        weights: [K] float64; 0 for a mask that is only there to be looked at.
    """

    masked: Tensor
    weights: Tensor


def answer_masks(
    length: int, draws: int, identity: str, seed: int = 0, *, with_full: bool = False
) -> AnswerMasks:
    """Chooses masks for the bound that LLaDA's likelihood evaluation estimates.

    With k tokens masked, k ~ U{1..L}, every subset of that size equally likely:

        log p(answer | prompt) >= E_k E_{M: |M| = k} [ L/k · sum over i in M of log p(x_i | rest) ]

    (Nie et al. 2025, "Large Language Diffusion Models", appendix on evaluation). An answer with no more than
    ``draws`` subsets gets all of them with their probabilities, which is exact and costs less than drawing. Otherwise
    ``draws`` subsets are drawn, their sizes stratified: the n-th takes k from the n-th of ``draws`` equal parts of
    (0, 1], all with one random offset. Subsets drawn more than once are computed once.

    Args:
        length: Tokens of the answer, L >= 1.
        draws: Monte-Carlo draws, at least 1.
        identity: What the answer belongs to. Seed and identity alone decide the masks, so every model meets the same.
        seed: Seed of all draws.
        with_full: Include the mask of all tokens in any case.

    Returns:
        The masks, in an order that depends on nothing but the masks.
    """
    if 2**length - 1 <= draws:
        codes = torch.arange(1, 2**length)
        masked = (codes[:, None] >> torch.arange(length)) & 1 == 1
        sizes = masked.sum(1).tolist()
        weights = [1 / (k * math.comb(length, k)) for k in sizes]
        return AnswerMasks(masked, torch.tensor(weights, dtype=torch.float64))
    generator = torch.Generator().manual_seed(_seed(seed, identity))
    offset = 1 - torch.rand((), generator=generator, dtype=torch.float64)  # (0, 1]
    shares = (torch.arange(draws) + offset) / draws
    sizes_drawn = (shares * length).ceil().clamp(1, length)
    uniforms = torch.rand(draws, length, generator=generator, dtype=torch.float64)
    # The order of uniforms is a random permutation, of which exactly k entries are below k.
    drawn = uniforms.argsort(-1) < sizes_drawn[:, None]
    counts = length / sizes_drawn / draws
    if with_full:
        drawn = torch.cat([drawn, torch.ones(1, length, dtype=torch.bool)])
        counts = torch.cat([counts, counts.new_zeros(1)])
    masked, which = torch.unique(drawn, dim=0, return_inverse=True)
    weights_drawn = torch.zeros(len(masked), dtype=torch.float64).index_add_(0, which, counts)
    return AnswerMasks(masked, weights_drawn)


def _seed(seed: int, identity: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{identity}".encode()).digest()
    return int.from_bytes(digest[:7], "big")

"""The masked-diffusion objective and what is measured with it.

Nie et al., "Large Language Diffusion Models" (2025), equation 3: a mask ratio t ~ U(0, 1] for each
sequence, every token masked with probability t, and

    loss = -E[ (1 / t) * sum over masked i of log p(x_i | x_t) ] / L,

an upper bound on the negative log-likelihood per token (NELBO, in nats).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_RATIO = 1e-3  # as in the published training guide: t = (1 - eps) * u + eps
ACCURACY_RATIOS = (0.15, 0.5, 0.9)


class Noised(NamedTuple):
    """A batch with masks.

    Attributes:
        ids: [B, L] token ids, masked positions replaced by the mask token.
        masked: [B, L] bool.
        weights: [B] float32, 1 / t of each sequence.
    """

    ids: Tensor
    masked: Tensor
    weights: Tensor


def stratified_ratios(count: int, generator: torch.Generator) -> Tensor:
    """Draws ``count`` mask ratios, each uniform on (0, 1], one in each of ``count`` equal strata.

    One offset is shared, so the mean ratio hardly varies from batch to batch; each ratio by itself
    is still uniform, so the estimate stays unbiased (Kingma et al. 2021, appendix I.1).
    """
    offset = 1.0 - torch.rand((), generator=generator)  # (0, 1]
    return ((torch.arange(count) + offset) / count)[torch.randperm(count, generator=generator)]


def add_noise(ids: Tensor, ratios: Tensor, mask_id: int, generator: torch.Generator) -> Noised:
    """Masks each token of sequence b with probability t_b = (1 - eps) * ratios[b] + eps.

    Args:
        ids: [B, L] token ids.
        ratios: [B] in (0, 1].
        mask_id: The mask token.
        generator: CPU generator of the draws.
    """
    t = (1.0 - SMALLEST_RATIO) * ratios + SMALLEST_RATIO
    masked = torch.rand(ids.shape, generator=generator) < t[:, None]
    return Noised(ids.masked_fill(masked, mask_id), masked, 1.0 / t)


def read_positions(masked: Tensor, shifted: bool) -> tuple[Tensor, Tensor]:
    """Finds the hidden rows that predict the masked positions.

    Args:
        masked: [B, L] bool.
        shifted: Whether position j is predicted by row j - 1 (row 0 by itself), as Dream does.

    Returns:
        Flat indices into [B * L]: of the masked positions, and of the rows that predict them.
    """
    positions = masked.flatten().nonzero()[:, 0]
    if not shifted:
        return positions, positions
    columns = positions % masked.shape[1]
    return positions, positions - (columns > 0).to(positions.dtype)


def pad_to_multiple(values: Tensor, multiple: int) -> Tensor:
    """Pads [M] with zeros to the next multiple of ``multiple``.

    The number of masked tokens differs in every step; a few fixed sizes need a few compiled graphs
    and leave the allocator's heap in one piece.
    """
    return F.pad(values, (0, -len(values) % multiple))


def masked_cross_entropy(
    hidden: Tensor, head: Tensor, rows: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of cross-entropies, the head applied to the given rows only.

    Args:
        hidden: [B * L, d] final normed states.
        head: [V, d] weight of the LM head.
        rows: [M] indices into the B * L rows.
        targets: [M] true tokens.
        weights: [M] float32.

    Returns:
        Scalar, float32.
    """
    logits = F.linear(hidden.index_select(0, rows), head)
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum()


class _Scores(NamedTuple):
    """Losses [M], hits [M] (the most likely token is the true one) and window [M] of each masked token."""

    losses: Tensor
    hits: Tensor
    window: Tensor


def _score(model: Any, noised: Noised, clean: Tensor, shifted: bool) -> _Scores:
    device = next(model.parameters()).device
    positions, rows = read_positions(noised.masked, shifted)
    hidden = model.forward_hidden(noised.ids.to(device))[-1].flatten(0, 1)
    logits = F.linear(hidden[rows.to(device)], model.get_output_embeddings().weight).float().cpu()
    targets = clean.flatten()[positions]
    losses = F.cross_entropy(logits, targets, reduction="none")
    return _Scores(losses, logits.argmax(-1) == targets, positions // clean.shape[1])


@torch.no_grad()
def nelbo(
    model: Any, windows: Tensor, mask_id: int, shifted: bool, batch: int = 32, seed: int = 0
) -> float:
    """Estimates the NELBO in nats per token with stratified ratios and masks that depend on the seed alone.

    Args:
        model: Has ``forward_hidden`` and ``get_output_embeddings``.
        windows: [N, L] token ids.
        mask_id: The mask token.
        shifted: Whether the model's logits are shifted (Dream).
        batch: Windows a forward pass.
        seed: Seed of ratios and masks.
    """
    generator = torch.Generator().manual_seed(seed)
    ratios = stratified_ratios(len(windows), generator)
    total = 0.0
    for start in range(0, len(windows), batch):
        clean = windows[start : start + batch]
        noised = add_noise(clean, ratios[start : start + batch], mask_id, generator)
        scores = _score(model, noised, clean, shifted)
        total += float((scores.losses.double() * noised.weights[scores.window]).sum())
    return total / windows.numel()


@torch.no_grad()
def masked_accuracy(
    model: Any,
    windows: Tensor,
    mask_id: int,
    shifted: bool,
    ratio: float,
    batch: int = 32,
    seed: int = 0,
) -> float:
    """Share of masked tokens whose most likely token is the true one, each token masked with ``ratio``.

    Args: as ``nelbo``.
    """
    generator = torch.Generator().manual_seed(seed)
    hits = count = 0
    for start in range(0, len(windows), batch):
        clean = windows[start : start + batch]
        masked = torch.rand(clean.shape, generator=generator) < ratio
        noised = Noised(clean.masked_fill(masked, mask_id), masked, torch.ones(len(clean)))
        scores = _score(model, noised, clean, shifted)
        hits, count = hits + int(scores.hits.sum()), count + len(scores.hits)
    return hits / max(count, 1)

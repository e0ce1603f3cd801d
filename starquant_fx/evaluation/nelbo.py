"""The negative evidence lower bound (NELBO) of a masked diffusion model on held-out text."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.evaluation.alignment import Model, masked_log_probabilities, true_token
from starquant_fx.evaluation.checks import require_fit
from starquant_fx.evaluation.masks import MaskPlan, batch_count, masked_batches
from starquant_fx.progress import track


def nelbo(
    model: Model, segments: Tensor, plan: MaskPlan, *, batch: int = 8, name: str = "model"
) -> Tensor:
    """Estimates, for each segment, the bound on its negative log-likelihood, per token.

    The bound with a mask ratio t ~ U(0, 1], each token masked with probability t, and weight 1/t
    equals, after integrating over t, the one with exactly k masked tokens, k ~ U{1..L}, and weight
    L/k:

        -log p(x) <= E_k E_{M: |M| = k} [ L/k · sum over i in M of -log p(x_i | x without M) ]

    LLaDA's likelihood evaluation uses the second form for its lower variance (Nie et al. 2025,
    "Large Language Diffusion Models", section 2.4 on evaluation), and so does this. Divided by L,
    each draw is the mean cross-entropy of the masked tokens.

    Args:
        model: A denoiser with ``config.mask_token_id``; shifted logits (Dream) are shifted back.
        segments: [N, L] token ids, without padding.
        plan: Masks for these segments; the estimate averages over its draws.
        batch: Segments a forward pass; memory grows with batch · L · V.
        name: The model's name, for errors and the progress bar.

    Returns:
        [N] float64, nats per token.

    Raises:
        InputError: Model, segments and plan do not fit each other.
        StarQuantError: The model's logits give no finite loss.
    """
    mask_id = require_fit({name: model}, segments, plan)
    total = torch.zeros(len(segments), dtype=torch.float64)
    batches = masked_batches(segments, plan.likelihood, mask_id, batch)
    for masked in track(batches, f"NELBO of {name}", batch_count(plan.likelihood, batch)):
        log_probabilities = masked_log_probabilities(model, masked, name)
        total[masked.rows] -= masked.means(true_token(log_probabilities, masked))
    return total / len(plan.likelihood)

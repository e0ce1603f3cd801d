"""Dream's sampler: the whole continuation is denoised at once along a time grid.

Reference: the published ``generation_utils.py`` of Dream-v0 (arXiv:2508.15487), which it follows
token for token; random numbers are drawn in the same order and shapes. Behaviour worth knowing,
kept on purpose:

- Logits are shifted: column j uses the model's raw logits of column j - 1, column 0 its own.
- Nothing stops at the end-of-text token and nothing forbids sampling [MASK] itself.
- The number of tokens revealed in a step is int(mean number of masks per row x (1 - s / t)), shared
  by all rows. It is often 0 in early steps, and the last step takes what is left. Where rows hold
  different numbers of [MASK] (prompts that contain [MASK], or [MASK] sampled), a row can have fewer
  masks than the count: fixed columns are then chosen, whose order is up to ``torch.topk``, and
  overwritten with [MASK], while other rows keep masks.
- ``alg="origin"`` draws a uniform per [MASK], at temperature 0 too.

On a device nothing is read back until all steps are done: every step computes as many rows as there
were masks at the start, random numbers are drawn for all of them, and among positions of the same
confidence the first is revealed. Greedy choices by probability are then the model's ``greedy_at``:
the largest logit, where the published code takes the first of the probabilities that are equal once
rounded.

Defaults are those of the published ``generation_config.json`` (greedy, no top_p, no top_k). The
published function itself, called without that file, takes temperature 1.0, top_p 1.0 and **top_k
50** from old library defaults, so the usual recipe there (temperature, top_p and alg given) filters
with top_k = 50 unasked; give ``top_k=50`` here to reproduce such a run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from starquant_fx.diffusion.candidates import (
    NumberWatch,
    at_candidates,
    candidate_rows,
    may_look,
    row_capacity,
)
from starquant_fx.diffusion.canvas import blank_canvas, prompt_length
from starquant_fx.diffusion.filters import sample_tokens
from starquant_fx.diffusion.reveal import Reveal
from starquant_fx.diffusion.stepping import StepCallback, greedy_at, logits_at, random_source
from starquant_fx.sampling import arguments
from starquant_fx.sampling.rules import CONFIDENCE_OF, dream_new_tokens


@torch.no_grad()
def dream_generate(
    model: Callable[..., Any],
    prompt_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    steps: int = 512,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    eps: float = 1e-3,
    alg: str = "origin",
    alg_temp: float | None = None,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    mask_token_id: int | None = None,
    generator: torch.Generator | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Appends tokens to each prompt by denoising them together.

    Args:
        model: Callable ``(input_ids, attention_mask=...)``, under padding also
            ``position_ids=...``, that returns raw (unshifted) [B, L, vocab] logits or an object
            with ``.logits``. Under padding the attention mask is bool [B, 1, L, L], true where both
            columns are kept.
        prompt_ids: [B, L] int64.
        attention_mask: [B, L], 1 = keep, 0 = padding on the left. Positions count kept tokens only.
        steps: Denoising steps.
        max_new_tokens: New tokens; 20 if ``max_length`` is not given either.
        max_length: Prompt and new tokens together; give one of the two.
        eps: End of the time grid linspace(1, eps, steps + 1), in [0, 1).
        alg: "origin" reveals each [MASK] with probability 1 - s / t; the others reveal the surest
            first, by probability ("maskgit_plus"), margin of the two best ("topk_margin") or
            negative entropy ("entropy").
        alg_temp: Draws which positions to reveal from softmax(confidence / alg_temp); None or 0 =
            the surest.
        temperature: 0 = greedy.
        top_p: Nucleus filter in (0, 1]; None = off.
        top_k: None = off. See the module's text on the published default of 50.
        mask_token_id: Id of [MASK]; by default ``model.config.mask_token_id``.
        generator: Source of random numbers; torch's global one by default.
        on_step: Called after every step; the confidences of "origin" are those of the revealed
            positions.

    Returns:
        [B, L_total] int64 ids on the model's device.

    Raises:
        InputError: An argument does not fit.
    """
    steps = arguments.integer("steps", steps, 1)
    arguments.choice("alg", alg, CONFIDENCE_OF)
    eps = arguments.number("eps", eps, 0.0, 1.0, open_high=True)
    alg_temp = None if alg_temp is None else arguments.number("alg_temp", alg_temp, 0.0)
    draw = functools.partial(
        sample_tokens,
        temperature=arguments.number("temperature", temperature, 0.0),
        top_p=None if top_p is None else arguments.number("top_p", top_p, 0.0, 1.0, open_low=True),
        top_k=None if top_k is None else arguments.integer("top_k", top_k, 1),
        confidence=CONFIDENCE_OF[alg],
        generator=random_source("generator", generator),
    )
    mask_id = arguments.token_id(model, "mask_token_id", mask_token_id, "mask_token_id")
    given = 0 if max_length is None else prompt_length(prompt_ids)
    new_tokens = dream_new_tokens(given, max_new_tokens, max_length)
    ids, keep = blank_canvas(model, prompt_ids, attention_mask, new_tokens, mask_id)
    attention, positions = _padding(keep)

    greedy = temperature == 0 and top_k is None and top_p in (None, 1.0)
    greedy = greedy and CONFIDENCE_OF[alg] == "probability" and not may_look(ids.device)
    watch = NumberWatch(ids.device)
    # A row can have masks again, never more than the count of a step, and so than the most of a row at the start.
    capacity = row_capacity((ids == mask_id).sum(1).amax().repeat(len(ids)))
    reveal = Reveal(alg_temp, generator)
    times = torch.linspace(1, eps, steps + 1)
    shares = [*(1 - times[1:-1] / times[:-2]).tolist(), 1.0]
    for step, share in enumerate(shares):
        masked = ids == mask_id
        rows = candidate_rows(masked, capacity)
        before = rows - (rows % ids.shape[1] > 0).long()
        revealed: Tensor | None = None
        if alg == "origin":
            revealed = torch.rand(len(rows), device=ids.device, generator=generator) < share
        if greedy:
            largest, drawn, sureness = greedy_at(model, before, ids, attention, positions)
            watch.see(step + 1, largest, masked, rows)
        else:
            logits = logits_at(model, before, ids, attention, positions)
            watch.see(step + 1, logits, masked, rows)
            if revealed is not None and capacity is None:  # no others get random numbers
                rows, logits, revealed = rows[revealed], logits[revealed], revealed[revealed]
            sureness, drawn = draw(logits)

        if revealed is not None:
            masked = at_candidates(masked, rows, revealed, False)
        confidence = at_candidates(masked, rows, sureness, -torch.inf)
        tokens = at_candidates(masked, rows, drawn, mask_id)
        chosen = masked if alg == "origin" else reveal(confidence, masked, share)
        ids = torch.where(chosen, tokens, ids)
        if on_step is not None:
            on_step(step + 1, steps, ids.clone(), confidence)
    watch.check()
    reveal.check()
    return ids


def _padding(keep: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Returns attention mask [B, 1, L, L] and positions [B, L] for a padding mask [B, L]."""
    if keep is None:
        return None, None
    positions = (keep.long().cumsum(-1) - 1).masked_fill(~keep, 1)
    return (keep[:, :, None] & keep[:, None, :])[:, None], positions

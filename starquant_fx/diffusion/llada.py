"""LLaDA's sampler: semi-autoregressive blocks with remasking.

Reference: the published ``generate.py`` of LLaDA (arXiv:2502.09992, section 2.4 and appendix A),
which it follows token for token; random numbers are drawn in the same order and shapes. Behaviour
worth knowing, kept on purpose:

- Nothing stops at the end-of-text token and nothing forbids sampling [MASK] itself.
- [MASK] inside the prompt is a candidate of every block and competes for its quota, so as many
  masks remain.
- With more steps than masks in a block the last steps reveal nothing, but the model still runs.
- ``confidence_eos_eot_inf`` acts after the tokens are chosen. At temperature 0 it takes EOS and EoT
  out of the confidence, at a higher temperature only EoT.

One thing differs: guidance without an attention mask works here, as with a mask of ones; the
published code fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from starquant_fx.diffusion.candidates import (
    NumberWatch,
    at_candidates,
    candidate_rows,
    row_capacity,
)
from starquant_fx.diffusion.canvas import blank_canvas
from starquant_fx.diffusion.stepping import StepCallback, greedy_at, logits_at, random_source
from starquant_fx.operators import op
from starquant_fx.sampling import arguments
from starquant_fx.sampling.rules import (
    PUBLISHED_EOS_ID,
    PUBLISHED_EOT_ID,
    REMASKING,
    llada_schedule,
)


@torch.no_grad()
def llada_generate(
    model: Callable[..., Any],
    prompt_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int | None = None,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    eos_id: int | None = None,
    eot_id: int | None = None,
    generator: torch.Generator | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Appends ``gen_length`` tokens to each prompt by denoising block after block.

    Args:
        model: Callable ``(input_ids, attention_mask=...)`` that returns [B, L, vocab] logits or an
            object with ``.logits``; position i predicts token i.
        prompt_ids: [B, L] int64.
        attention_mask: [B, L], 1 = keep, 0 = padding on the left. Padding does not shift positions.
        steps: Denoising steps in all, a multiple of the number of blocks.
        gen_length: New tokens, a multiple of ``block_length``.
        block_length: Tokens of a block; blocks are finished from left to right.
        temperature: 0 = greedy; else the scale of the Gumbel noise, drawn in float64.
        cfg_scale: Strength w of classifier-free guidance, logits = u + (w + 1) (c - u), where u
            comes from the prompt masked; 0 = off. Doubles the batch.
        remasking: "low_confidence" reveals the most probable tokens first, "random" a random
            choice.
        mask_id: Id of [MASK]; by default ``model.config.mask_token_id``.
        logits_eos_inf: Never generate the end-of-text token.
        confidence_eos_eot_inf: Reveal end-of-text and end-of-turn tokens last.
        eos_id: By default ``model.config.eos_token_id``, else that of LLaDA-8B.
        eot_id: By default ``model.config.eot_token_id``, else that of LLaDA-8B.
        generator: Source of random numbers; torch's global one by default.
        on_step: Called after every step.

    Returns:
        [B, L + gen_length] int64 ids on the model's device.

    Raises:
        InputError: An argument does not fit.
    """
    blocks, steps_per_block = llada_schedule(steps, gen_length, block_length)
    gen_length, block_length = int(gen_length), int(block_length)  # numpy's may be narrow
    temperature = arguments.number("temperature", temperature, 0.0)
    cfg_scale = arguments.number("cfg_scale", cfg_scale, 0.0)
    arguments.choice("remasking", remasking, REMASKING)
    random_source("generator", generator)
    mask_id = arguments.token_id(model, "mask_id", mask_id, "mask_token_id")
    logits_eos_inf = arguments.flag("logits_eos_inf", logits_eos_inf)
    confidence_eos_eot_inf = arguments.flag("confidence_eos_eot_inf", confidence_eos_eot_inf)
    eos: int | None = None
    eot: int | None = None
    if logits_eos_inf or confidence_eos_eot_inf:
        eos = arguments.token_id(model, "eos_id", eos_id, "eos_token_id", PUBLISHED_EOS_ID)
    if confidence_eos_eot_inf:
        eot = arguments.token_id(model, "eot_id", eot_id, "eot_token_id", PUBLISHED_EOT_ID)

    ids, keep = blank_canvas(model, prompt_ids, attention_mask, gen_length, mask_id)
    given = ids != mask_id
    mask = None if keep is None else keep.long()
    only_greedy = temperature == 0 and cfg_scale == 0 and remasking == "low_confidence"
    only_greedy = only_greedy and not (logits_eos_inf or confidence_eos_eot_inf)
    demoted = [i for i in (eot, eos if temperature == 0 else None) if i is not None]
    demoted = demoted if confidence_eos_eot_inf else []
    quota, remainder = divmod(block_length, steps_per_block)
    watch = NumberWatch(ids.device)
    capacity: int | None = None
    for step in range(blocks * steps_per_block):
        block, step_in_block = divmod(step, steps_per_block)
        end = prompt_ids.shape[1] + (block + 1) * block_length
        candidates = ids == mask_id
        candidates[:, end:].fill_(False)
        if step_in_block == 0:
            capacity = row_capacity(candidates)
        rows = candidate_rows(candidates, capacity)
        if only_greedy:
            largest, tokens, sureness = greedy_at(model, rows, ids, mask)
            watch.see(step + 1, largest, candidates, rows)
        else:
            logits = _guided_logits(model, rows, ids, mask, given, mask_id, cfg_scale)
            watch.see(step + 1, logits, candidates, rows)
            noise = None
            if temperature > 0:
                # The full shape is drawn, whatever is used of it: this keeps the published stream of
                # numbers.
                noise = torch.rand(
                    (*ids.shape, logits.shape[-1]),
                    dtype=torch.float64,
                    device=logits.device,
                    generator=generator,
                ).flatten(0, 1)[rows]
            if logits_eos_inf:
                logits[:, eos].fill_(-torch.inf)
            tokens, sureness = _chosen(logits, noise, temperature, demoted)
        if remasking == "random":
            drawn = torch.rand(ids.shape, device=ids.device, generator=generator)
            confidence = drawn.masked_fill(~candidates, -torch.inf)
        else:
            confidence = at_candidates(candidates, rows, sureness, -torch.inf)

        proposed = at_candidates(candidates, rows, tokens, ids)
        chosen = confidence.topk(quota + (step_in_block < remainder), dim=1).indices
        ids = ids.scatter(1, chosen, proposed.gather(1, chosen))
        if on_step is not None:
            on_step(step + 1, blocks * steps_per_block, ids.clone(), confidence)
    watch.check()
    return ids


def gumbel_argmax(logits: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """Samples from softmax(logits / temperature) by the exponential form of the Gumbel-max trick.

    argmax(exp(logits) / (-ln u)^temperature), in float64: float32 noise was reported to spoil the
    text (arXiv:2409.02908).

    Args:
        logits: [..., vocab].
        temperature: More than 0.
        uniforms: [..., vocab] float64 in [0, 1).

    Returns:
        [...] int64.
    """
    return (logits.double().exp() / (-uniforms.log()) ** temperature).argmax(-1)


def _chosen(
    logits: Tensor, noise: Tensor | None, temperature: float, demoted: list[int]
) -> tuple[Tensor, Tensor]:
    """The tokens [R] of logits [R, vocab] and how sure they are; that of demoted tokens is 0."""
    if noise is None:
        _, tokens, sureness = op("greedy")(logits, False)
        if not demoted:
            return tokens, sureness
    else:
        tokens = gumbel_argmax(logits, temperature, noise)
    for one in demoted:  # one by one: a list of them would be copied to the device, which waits
        logits[:, one].fill_(-torch.inf)
    return tokens, logits.softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def _guided_logits(
    model: Callable[..., Any],
    rows: Tensor,
    ids: Tensor,
    mask: Tensor | None,
    given: Tensor,
    mask_id: int,
    scale: float,
) -> Tensor:
    """Logits [R, vocab] at rows of the flattened ids, with classifier-free guidance if ``scale`` > 0."""
    if scale == 0:
        return logits_at(model, rows, ids, mask)
    both = torch.cat([ids, ids.masked_fill(given, mask_id)])
    twice = torch.cat([rows, rows + ids.numel()])
    doubled = logits_at(model, twice, both, None if mask is None else mask.repeat(2, 1))
    conditional, unconditional = doubled.chunk(2)
    return unconditional + (scale + 1) * (conditional - unconditional)

"""LLaDA's sampler with arrays: semi-autoregressive blocks with remasking.

The same as ``starquant_fx.diffusion.llada``, whose text says what it does and why. What differs: random numbers are
numpy's, and drawn for the candidates only; among positions of equal confidence, such as those that
``confidence_eos_eot_inf`` puts last, the first is revealed, where ``torch.topk`` has an order of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.runtime.canvas import blank_canvas
from starquant_fx.runtime.inputs import Ids
from starquant_fx.runtime.stepping import (
    StepCallback,
    check_numbers,
    greedy,
    logits_at,
    need_greedy,
    random_source,
    softmax,
    spread,
    surest,
)
from starquant_fx.sampling import arguments
from starquant_fx.sampling.rules import (
    PUBLISHED_EOS_ID,
    PUBLISHED_EOT_ID,
    REMASKING,
    llada_schedule,
)


def llada_generate(
    model: Callable[..., Any],
    prompt_ids: Ids,
    attention_mask: Any = None,
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
    generator: np.random.Generator | None = None,
    on_step: StepCallback | None = None,
) -> Ids:
    """Appends ``gen_length`` tokens to each prompt by denoising block after block.

    Args:
        model: An ``OnnxDenoiser``, or any callable ``(input_ids, attention_mask=...)`` that returns logits
            [B, L, vocab]; position i predicts token i.
        prompt_ids: [B, L] int64.
        attention_mask: [B, L], 1 = keep, 0 = padding on the left. Padding does not shift positions.
        steps: Denoising steps in all, a multiple of the number of blocks.
        gen_length: New tokens, a multiple of ``block_length``.
        block_length: Tokens of a block; blocks are finished from left to right.
        temperature: 0 = greedy; else the scale of the Gumbel noise, drawn in float64.
        cfg_scale: Strength w of classifier-free guidance, logits = u + (w + 1) (c - u), where u comes from the prompt
            masked; 0 = off. Doubles the batch.
        remasking: "low_confidence" reveals the most probable tokens first, "random" a random choice.
        mask_id: Id of [MASK]; by default the model's.
        logits_eos_inf: Never generate the end-of-text token.
        confidence_eos_eot_inf: Reveal end-of-text and end-of-turn tokens last.
        eos_id: By default the model's, else that of LLaDA-8B.
        eot_id: By default the model's, else that of LLaDA-8B.
        generator: Source of random numbers; by default other ones each time.
        on_step: Called after every step.

    Returns:
        [B, L + gen_length] int64 ids.

    Raises:
        InputError: An argument does not fit.
    """
    blocks, steps_per_block = llada_schedule(steps, gen_length, block_length)
    gen_length, block_length = int(gen_length), int(block_length)  # numpy's may be narrow
    temperature = arguments.number("temperature", temperature, 0.0)
    cfg_scale = arguments.number("cfg_scale", cfg_scale, 0.0)
    arguments.choice("remasking", remasking, REMASKING)
    source = random_source(generator)
    mask_id = arguments.token_id(model, "mask_id", mask_id, "mask_token_id")
    logits_eos_inf = arguments.flag("logits_eos_inf", logits_eos_inf)
    confidence_eos_eot_inf = arguments.flag("confidence_eos_eot_inf", confidence_eos_eot_inf)
    eos: int | None = None
    eot: int | None = None
    if logits_eos_inf or confidence_eos_eot_inf:
        eos = arguments.token_id(model, "eos_id", eos_id, "eos_token_id", PUBLISHED_EOS_ID)
    if confidence_eos_eot_inf:
        eot = arguments.token_id(model, "eot_id", eot_id, "eot_token_id", PUBLISHED_EOT_ID)
    need_greedy(
        model,
        {
            f"temperature={temperature}": temperature > 0,
            f"cfg_scale={cfg_scale}": cfg_scale > 0,
            "logits_eos_inf=True": logits_eos_inf,
            "confidence_eos_eot_inf=True": confidence_eos_eot_inf,
        },
    )

    ids, keep = blank_canvas(model, prompt_ids, attention_mask, gen_length, mask_id)
    given = ids != mask_id
    mask = None if keep is None else keep.astype(np.int64)
    demoted = [i for i in (eot, eos if temperature == 0 else None) if i is not None]
    demoted = demoted if confidence_eos_eot_inf else []
    quota, remainder = divmod(block_length, steps_per_block)
    for step in range(blocks * steps_per_block):
        block, step_in_block = divmod(step, steps_per_block)
        candidates = ids == mask_id
        candidates[:, prompt_ids.shape[1] + (block + 1) * block_length :] = False
        rows = np.flatnonzero(candidates)
        if not getattr(model, "gives_logits", True):
            tokens, sureness = model.greedy_at(rows, ids, attention_mask=mask)  # type: ignore[attr-defined]
            check_numbers(sureness, step + 1)
        else:
            logits = _guided_logits(model, rows, ids, mask, given, mask_id, cfg_scale)
            check_numbers(logits, step + 1)
            noise = source.random(logits.shape) if temperature > 0 else None
            if logits_eos_inf:
                logits = logits.copy()  # it belongs to the model
                logits[:, eos] = -np.inf
            tokens, sureness = _chosen(logits, noise, temperature, demoted)
        if remasking == "random":
            drawn = source.random(ids.shape, dtype=np.float32)
            confidence = np.where(candidates, drawn, np.float32(-np.inf))
        else:
            confidence = spread(candidates, sureness, -np.inf)

        proposed = spread(candidates, tokens, ids)
        chosen = surest(confidence, quota + (step_in_block < remainder))
        ids = ids.copy()
        np.put_along_axis(ids, chosen, np.take_along_axis(proposed, chosen, 1), 1)
        if on_step is not None:
            on_step(step + 1, blocks * steps_per_block, ids.copy(), confidence)
    return ids


def gumbel_argmax(logits: NDArray[Any], temperature: float, uniforms: NDArray[np.float64]) -> Ids:
    """Samples from softmax(logits / temperature): argmax(exp(logits) / (-ln u)^temperature), in float64.

    Args:
        logits: [R, vocab].
        temperature: More than 0.
        uniforms: [R, vocab] in [0, 1).

    Returns:
        [R] int64.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        noisy = np.exp(logits.astype(np.float64)) / (-np.log(uniforms)) ** temperature
    return noisy.argmax(-1)


def _chosen(
    logits: NDArray[Any], noise: NDArray[np.float64] | None, temperature: float, demoted: list[int]
) -> tuple[Ids, NDArray[Any]]:
    """The tokens [R] of logits [R, vocab] and how sure they are; that of demoted tokens is 0."""
    if noise is None:
        tokens, sureness = greedy(logits, by_probability=False)
        if not demoted:
            return tokens, sureness
    else:
        tokens = gumbel_argmax(logits, temperature, noise)
    logits = logits.copy()
    logits[:, demoted] = -np.inf
    return tokens, np.take_along_axis(softmax(logits), tokens[:, None], -1)[:, 0]


def _guided_logits(
    model: Callable[..., Any],
    rows: Ids,
    ids: Ids,
    mask: Ids | None,
    given: NDArray[np.bool_],
    mask_id: int,
    scale: float,
) -> NDArray[Any]:
    """Logits [R, vocab] at rows of the flattened ids, with classifier-free guidance if ``scale`` > 0."""
    if scale == 0:
        return logits_at(model, rows, ids, mask)
    both = np.concatenate([ids, np.where(given, mask_id, ids)])
    twice = np.concatenate([rows, rows + ids.size])
    doubled = logits_at(model, twice, both, None if mask is None else np.tile(mask, (2, 1)))
    conditional, unconditional = np.split(doubled, 2)
    return unconditional + (scale + 1) * (conditional - unconditional)

"""Dream's sampler with arrays: the whole continuation is denoised at once along a time grid.

The same as ``starquant_fx.diffusion.dream``, whose text says what it does and why. What differs: random numbers are
numpy's, and among positions of equal confidence the first is revealed (as there on a GPU, while ``torch.topk`` on the
CPU has an order of its own). Where rows of a batch hold different numbers of [MASK], a row with fewer masks than a step
reveals has its first other columns overwritten with [MASK], as there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starquant_fx.errors import InputError
from starquant_fx.runtime.canvas import blank_canvas
from starquant_fx.runtime.filters import draw_order, sample_tokens
from starquant_fx.runtime.inputs import Ids, check_ids
from starquant_fx.runtime.stepping import (
    StepCallback,
    check_numbers,
    logits_at,
    need_greedy,
    random_source,
    softmax,
    spread,
    surest,
)
from starquant_fx.sampling import arguments
from starquant_fx.sampling.rules import CONFIDENCE_OF, dream_new_tokens


def dream_generate(
    model: Callable[..., Any],
    prompt_ids: Ids,
    attention_mask: Any = None,
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
    generator: np.random.Generator | None = None,
    on_step: StepCallback | None = None,
) -> Ids:
    """Appends tokens to each prompt by denoising them together.

    Args:
        model: An ``OnnxDenoiser``, or any callable ``(input_ids, attention_mask=...)``, under padding also
            ``position_ids=...``, that returns raw (unshifted) logits [B, L, vocab]. Under padding the attention mask
            is bool [B, 1, L, L], true where both columns are kept.
        prompt_ids: [B, L] int64.
        attention_mask: [B, L], 1 = keep, 0 = padding on the left. Positions count kept tokens only.
        steps: Denoising steps.
        max_new_tokens: New tokens; 20 if ``max_length`` is not given either.
        max_length: Prompt and new tokens together; give one of the two.
        eps: End of the time grid linspace(1, eps, steps + 1), in [0, 1).
        alg: "origin" reveals each [MASK] with probability 1 - s / t; the others reveal the surest first, by
            probability ("maskgit_plus"), margin of the two best ("topk_margin") or negative entropy ("entropy").
        alg_temp: Draws which positions to reveal from softmax(confidence / alg_temp); None or 0 = the surest.
        temperature: 0 = greedy.
        top_p: Nucleus filter in (0, 1]; None = off.
        top_k: None = off.
        mask_token_id: Id of [MASK]; by default the model's.
        generator: Source of random numbers; by default other ones each time.
        on_step: Called after every step; the confidences of "origin" are those of the revealed positions.

    Returns:
        [B, L_total] int64 ids.

    Raises:
        InputError: An argument does not fit.
    """
    steps = arguments.integer("steps", steps, 1)
    arguments.choice("alg", alg, CONFIDENCE_OF)
    eps = arguments.number("eps", eps, 0.0, 1.0, open_high=True)
    alg_temp = None if alg_temp is None else arguments.number("alg_temp", alg_temp, 0.0)
    temperature = arguments.number("temperature", temperature, 0.0)
    top_p = None if top_p is None else arguments.number("top_p", top_p, 0.0, 1.0, open_low=True)
    top_k = None if top_k is None else arguments.integer("top_k", top_k, 1)
    source = random_source(generator)
    draw = functools.partial(
        sample_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        confidence=CONFIDENCE_OF[alg],
        generator=source,
    )
    mask_id = arguments.token_id(model, "mask_token_id", mask_token_id, "mask_token_id")
    need_greedy(
        model,
        {
            f"alg={alg!r}": CONFIDENCE_OF[alg] != "probability",
            f"temperature={temperature}": temperature > 0,
            f"top_p={top_p}": top_p is not None and top_p < 1,
            f"top_k={top_k}": top_k is not None,
        },
    )
    given = 0 if max_length is None else check_ids(prompt_ids, None, "prompt_ids").shape[1]
    new_tokens = dream_new_tokens(given, max_new_tokens, max_length)
    ids, keep = blank_canvas(model, prompt_ids, attention_mask, new_tokens, mask_id)
    attention, positions = _padding(keep)

    for step, share in enumerate(shares(steps, eps)):
        masked = ids == mask_id
        rows = np.flatnonzero(masked)
        before = rows - (rows % ids.shape[1] > 0)
        revealed: NDArray[np.bool_] | None = None
        if alg == "origin":
            revealed = source.random(len(rows), dtype=np.float32) < np.float32(share)
        if not getattr(model, "gives_logits", True):
            extra = {} if positions is None else {"position_ids": positions}
            own = model.greedy_at  # type: ignore[attr-defined]
            drawn, sureness = own(before, ids, attention_mask=attention, **extra)
            check_numbers(sureness, step + 1)
            if revealed is not None:
                drawn, sureness = drawn[revealed], sureness[revealed]
        else:
            logits = logits_at(model, before, ids, attention, positions)
            check_numbers(logits, step + 1)
            sureness, drawn = draw(logits if revealed is None else logits[revealed])

        if revealed is not None:
            masked = spread(masked, revealed, False)
        confidence = spread(masked, sureness, -np.inf)
        tokens = spread(masked, drawn, mask_id)
        chosen = (
            masked if alg == "origin" else _revealed(confidence, masked, share, alg_temp, source)
        )
        ids = np.where(chosen, tokens, ids)
        if on_step is not None:
            on_step(step + 1, steps, ids.copy(), confidence)
    return ids


def shares(steps: int, eps: float) -> list[float]:
    """The part of the masks that each step reveals, 1 - s / t along the time grid, in float32; the last reveals all."""
    grid = np.arange(steps + 1, dtype=np.float64)
    width = np.float64(np.float32((np.float32(eps) - np.float32(1)) / np.float32(steps)))
    # torch.linspace counts from the nearer end, and rounds once where the processor multiplies and adds in one.
    halves = grid < (steps + 1) // 2
    ends = np.where(
        halves, 1.0 + width * grid, np.float64(np.float32(eps)) - width * (steps - grid)
    )
    times = ends.astype(np.float32)
    return [*(np.float32(1) - times[1:-1] / times[:-2]).tolist(), 1.0]


def _revealed(
    confidence: NDArray[Any],
    masked: NDArray[np.bool_],
    share: float,
    alg_temp: float | None,
    source: np.random.Generator,
) -> NDArray[np.bool_]:
    """As many positions [B, L] of every row as the mean number of masks times a share, rounded down."""
    mean = np.float32(masked.sum()) / np.float32(len(masked))
    count = int(mean * np.float32(share))
    chosen = np.zeros_like(masked)
    if count == 0:
        return chosen
    columns = surest(confidence, count)
    if alg_temp:
        if (confidence.max(1) == -np.inf).any():
            raise InputError(
                "a row has no [MASK] left to draw from while others still have some",
                where="alg_temp",
                expected="rows with equally many [MASK]",
                got="a row without any",
                hint="use alg_temp=None, or generate the rows one by one",
            )
        chances = softmax(confidence / confidence.dtype.type(alg_temp))
        columns = draw_order(chances, count, source)
    np.put_along_axis(chosen, columns, True, 1)
    return chosen


def _padding(keep: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_] | None, Ids | None]:
    """Returns attention mask [B, 1, L, L] and positions [B, L] for a padding mask [B, L]."""
    if keep is None:
        return None, None
    positions = np.where(keep, keep.cumsum(-1) - 1, 1)
    return (keep[:, :, None] & keep[:, None, :])[:, None], positions

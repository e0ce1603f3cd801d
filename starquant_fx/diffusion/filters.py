"""Turning logits into tokens with a confidence, as Dream's sampler does it."""

from __future__ import annotations

import torch
from torch import Tensor

from starquant_fx.diffusion.candidates import may_look
from starquant_fx.operators import op


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Nucleus filter: keeps the fewest most probable tokens whose sum exceeds ``top_p``.

    Args:
        logits: [N, vocab].
        top_p: In (0, 1]. The most probable token always stays.

    Returns:
        [N, vocab]; dropped logits are the dtype's lowest finite value.
    """
    ordered, order = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1).roll(1, dims=-1)
    before[..., 0].fill_(0.0)
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > top_p)
    return logits.masked_fill(dropped, torch.finfo(logits.dtype).min)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Keeps the ``top_k`` largest logits [N, vocab] and ties with the last; see ``keep_top_p``."""
    least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, torch.finfo(logits.dtype).min)


def draw_order(scores: Tensor, count: int | None, generator: torch.Generator | None) -> Tensor:
    """Indices drawn without replacement from softmax(scores) of each row, in the order of the draws.

    ``torch.multinomial``, which looks at the probabilities to refuse bad ones; where that would make the host wait for
    a device, the same by an order of score - log(exponential noise), in which small probabilities do not become zero.

    Args:
        scores: [N, M]; -inf is drawn last.
        count: How many; None = all.
        generator: Source of random numbers; torch's global one by default.

    Returns:
        [N, count] int64.
    """
    if may_look(scores.device):
        drawn = scores.shape[-1] if count is None else count
        return torch.multinomial(scores.softmax(-1), drawn, generator=generator)
    keys = (
        scores.float()
        - torch.empty_like(scores, dtype=torch.float32).exponential_(generator=generator).log()
    )
    return keys.argsort(dim=-1, descending=True, stable=True)[..., :count]


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """One index from each row of probabilities [N, M]; see ``draw_order``."""
    if may_look(probabilities.device):
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
    noise = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / noise).argmax(-1)


def sample_tokens(
    logits: Tensor,
    *,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    confidence: str = "probability",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws one token per row and says how sure the model is of it.

    The order is temperature, top_p, top_k; the filters act at temperature 0 too, where they change
    only the confidence, which is measured on the filtered probabilities.

    Args:
        logits: [N, vocab].
        temperature: 0 = the most probable token, no random number is drawn.
        top_p: None or 1 = off.
        top_k: None = off.
        confidence: "probability" of the drawn token, "margin" of the two largest probabilities, or
            "negative_entropy" in nats.
        generator: Source of random numbers; torch's global one by default.

    Returns:
        Confidences [N] in the dtype of the logits, and token ids [N] int64.
    """
    if temperature > 0:
        logits = logits / temperature
    if top_p is not None and top_p < 1:
        logits = keep_top_p(logits, top_p)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if temperature == 0 and confidence == "probability":
        _, tokens, sureness = op("greedy")(logits, True)
        return sureness, tokens
    probabilities = logits.softmax(-1)
    if temperature > 0:
        # The second normalisation is the published one (a Categorical's); it can move the last bit
        # of a draw.
        normalised = probabilities / probabilities.sum(-1, keepdim=True)
        tokens = _draw(normalised, generator)
        sureness = probabilities.gather(-1, tokens[:, None]).squeeze(-1)
    else:
        sureness, tokens = probabilities.max(-1)
    if confidence == "margin":
        first, second = probabilities.topk(2, dim=-1).values.unbind(-1)
        sureness = first - second
    elif confidence == "negative_entropy":
        sureness = (probabilities * (probabilities + 1e-10).log()).sum(-1)
    return sureness, tokens

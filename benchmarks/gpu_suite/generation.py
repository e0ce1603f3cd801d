"""A generation of fixed shapes: what a denoising step costs when nothing in it waits for the device.

The second half of every sequence is masked and revealed in equal parts, surest first, as LLaDA's sampler does with one
block; a Dream's logits are those of the position before. Logits are computed of all tokens, or of the second half at
every step, as ``starquant_fx.generate`` does on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cpu_suite.specs import Shape
from gpu_suite.runner import Runner
from gpu_suite.specs import GpuModel
from starquant_fx.operators import op


class Generation:
    """A canvas and the step that denoises it, always the same amount of work.

    Args:
        spec: The model's sizes.
        shape: Of the canvas.
        prompt: Token ids of the first half [B, L // 2].
        runner: The model.
        masked: Whether it computes the logits of the second half only.
        steps: Steps until all is revealed.
    """

    def __init__(
        self,
        spec: GpuModel,
        shape: Shape,
        prompt: Tensor,
        runner: Runner,
        masked: bool,
        steps: int,
    ) -> None:
        self.runner, self.masked = runner, masked
        self.mask_id = spec.vocab - 1
        self.start = prompt.shape[1]
        self.length = shape.length - self.start
        self.quota = -(-self.length // steps)
        self.blank = torch.full(
            (shape.batch, shape.length), self.mask_id, dtype=torch.int64, device=prompt.device
        )
        self.blank[:, : self.start] = prompt
        self.ids = self.blank.clone()
        places = torch.arange(shape.tokens, device=prompt.device).view(shape.batch, shape.length)
        first = self.start - spec.shifted
        self.rows = places[:, first : first + self.length].flatten()

    def reset(self) -> None:
        """Masks the second half again."""
        self.ids.copy_(self.blank)

    def step(self) -> Tensor:
        """One step: logits, the most probable tokens, and the surest of them revealed. Returns the ids [B, L]."""
        if self.masked and self.runner.greedy is not None:
            _, tokens, sureness = self.runner.greedy(self.ids, self.rows)
        elif self.masked:
            _, tokens, sureness = op("greedy")(self.runner.forward(self.ids, self.rows), False)
        else:
            logits = self.runner.forward(self.ids, None).flatten(0, 1)[self.rows]
            _, tokens, sureness = op("greedy")(logits, False)
        left = self.ids[:, self.start :]
        hidden = left == self.mask_id
        # A model with random weights may choose the mask token itself, which would stay hidden.
        tokens = tokens.view_as(left).clamp(max=self.mask_id - 1)
        confidence = sureness.view_as(left).masked_fill(~hidden, -torch.inf)
        chosen = confidence.topk(self.quota, dim=1).indices
        revealed = torch.where(hidden, tokens, left).gather(1, chosen)
        left.scatter_(1, chosen, revealed)
        return self.ids

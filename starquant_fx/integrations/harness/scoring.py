"""Log-probabilities of masked answer tokens, in batches of rows of about equal length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from starquant_fx.diffusion.stepping import evaluating, model_logits
from starquant_fx.errors import StarQuantError
from starquant_fx.model_facts import is_shifted, model_device

# A row is padded to the longest of its batch only if it has at least this share of its length.
LEAST_SHARE = 0.75


class Row(NamedTuple):
    """One forward pass of one answer.

    Attributes:
        request: Whose row it is.
        prompt: Token ids, never masked; at least one.
        answer: Token ids.
        masked: [L_answer] bool.
        weight: What the row's log-likelihood counts.
    """

    request: int
    prompt: list[int]
    answer: list[int]
    masked: Tensor
    weight: float

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.answer)


class Score(NamedTuple):
    """What a row's forward pass says.

    Attributes:
        log_likelihood: Sum of log p of the masked tokens, nats.
        surest: Position in the answer of the masked token that is predicted with the highest probability.
        surest_is_true: Whether that prediction is the answer's token.
    """

    log_likelihood: float
    surest: int
    surest_is_true: bool


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores rows with a denoiser.

    Attributes:
        model: The denoiser; Dream's shifted logits are shifted back.
        mask_id: Id of [MASK].
        batch_size: Rows a forward pass; memory grows with rows · tokens · vocabulary.
        padding: Whether rows of different lengths may share a batch, padded on the right.
        cfg_scale: Strength w of classifier-free guidance, logits = u + (w + 1) (c - u), where u comes from the
            prompt masked; 0 = off, as in LLaDA's evaluation.
    """

    model: Callable[..., Any]
    mask_id: int
    batch_size: int = 8
    padding: bool = True
    cfg_scale: float = 0.0

    def score(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Score]]:
        """Yields each row with its score, in the rows' order, which should be by length.

        Raises:
            StarQuantError: The model's logits give no finite loss.
        """
        for batch in self._batches(rows):
            yield from zip(batch, self._score(batch), strict=True)

    def _batches(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        for row in rows:
            shorter, longer = sorted((row.length, batch[0].length if batch else row.length))
            fits = shorter == longer or (self.padding and shorter >= LEAST_SHARE * longer)
            if batch and (len(batch) == self.batch_size or not fits):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _score(self, batch: list[Row]) -> list[Score]:
        longest = max(row.length for row in batch)
        ids = torch.full((len(batch), longest), batch[0].answer[0])
        keep = torch.zeros(len(batch), longest, dtype=torch.bool)
        masked, in_prompt = keep.clone(), keep.clone()
        for index, row in enumerate(batch):
            ids[index, : row.length] = torch.tensor(row.prompt + row.answer)
            keep[index, : row.length] = True
            masked[index, len(row.prompt) : row.length] = row.masked
            in_prompt[index, : len(row.prompt)] = True
        device = model_device(self.model, ids.device)
        with evaluating(self.model), torch.no_grad():
            log_p = self._log_probabilities(
                ids.to(device), keep.to(device), masked.to(device), in_prompt.to(device)
            )
            true = log_p.gather(1, ids[masked].to(device)[:, None])[:, 0].double().cpu()
            sure, guess = (values.cpu() for values in log_p.max(-1))
        if not bool(true.isfinite().all()):
            raise StarQuantError(
                "the logits give no finite log-likelihood",
                where="the model",
                expected="logits without NaN or Inf",
                got=f"{int((~true.isfinite()).sum())} of {len(true)} masked tokens without one",
                hint="check the weights, and try a wider dtype if the model runs in float16",
            )
        right = guess == ids[masked]
        scores, start = [], 0
        for row in batch:
            positions = row.masked.nonzero()[:, 0]
            part = slice(start, start + len(positions))
            first = int(sure[part].argmax())
            scores.append(
                Score(float(true[part].sum()), int(positions[first]), bool(right[part][first]))
            )
            start = part.stop
        return scores

    def _log_probabilities(
        self, ids: Tensor, keep: Tensor, masked: Tensor, in_prompt: Tensor
    ) -> Tensor:
        """Log-probabilities [M, V] at the masked positions, float32."""
        noisy = ids.masked_fill(masked, self.mask_id)
        row, column = masked.nonzero(as_tuple=True)
        if is_shifted(self.model):
            column = (column - 1).clamp(min=0)
        if not self.cfg_scale:
            return self._logits(noisy, keep)[row, column].float().log_softmax(-1)
        both = torch.cat([noisy, noisy.masked_fill(in_prompt, self.mask_id)])
        conditional, unconditional = (
            half[row, column].float() for half in self._logits(both, keep.repeat(2, 1)).chunk(2)
        )
        guided = unconditional + (self.cfg_scale + 1) * (conditional - unconditional)
        return guided.log_softmax(-1)

    def _logits(self, ids: Tensor, keep: Tensor) -> Tensor:
        """Calls the model; without padding also one that takes no attention mask."""
        model = self.model
        if bool(keep.all()):
            return model_logits(lambda inputs, attention_mask: model(inputs), ids, None)
        return model_logits(model, ids, keep.long())

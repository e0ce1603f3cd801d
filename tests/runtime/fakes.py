"""Denoisers of arrays, the same for torch, and the random numbers of torch for a sampler of arrays."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VOCABULARY, EOT, MASK, EOS, LIMIT = 12, 9, 10, 11, 40


class ArrayDenoiser:
    """Random but fixed logits that depend on position, token and the sum of the kept tokens."""

    def __init__(self, model_type: str = "llada", seed: int = 0, mask_logit: float = -1e4) -> None:
        source = np.random.default_rng(seed)
        self.table = source.standard_normal((LIMIT, VOCABULARY, VOCABULARY)).astype(np.float32)
        self.table[..., MASK] = mask_logit
        self.context = source.standard_normal((VOCABULARY, VOCABULARY)).astype(np.float32) / 8
        self.config = SimpleNamespace(
            model_type=model_type,
            vocab_size=VOCABULARY,
            mask_token_id=MASK,
            eos_token_id=EOS,
            eot_token_id=EOT,
            max_sequence_length=LIMIT,
        )
        self.rows: NDArray[Any] | None = None
        self.shape: tuple[int, ...] = ()

    def __call__(
        self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None
    ) -> NDArray[Any]:
        batch, length = input_ids.shape
        keep = np.ones((batch, length, length), np.float32)
        if attention_mask is not None:
            keep = keep * (
                attention_mask[:, 0] if attention_mask.ndim == 4 else attention_mask[:, None]
            )
        columns = np.arange(length)[None] if position_ids is None else position_ids
        logits: NDArray[Any] = self.table[columns, input_ids]
        return logits + keep.astype(np.float32) @ self.context[input_ids]

    def logits_at(self, rows: Any, input_ids: Any, **given: Any) -> NDArray[Any]:
        self.rows, self.shape = rows, input_ids.shape
        return self(input_ids, **given).reshape(-1, VOCABULARY)[rows]


class TokensOnly(ArrayDenoiser):
    """The same model exported with the head "tokens"."""

    gives_logits = False

    def __call__(self, *args: Any, **given: Any) -> NDArray[Any]:
        raise AssertionError("this model has no logits")

    def logits_at(self, *args: Any, **given: Any) -> NDArray[Any]:
        raise AssertionError("this model has no logits")

    def greedy_at(self, rows: Any, input_ids: Any, **given: Any) -> tuple[Any, Any]:
        logits = ArrayDenoiser.__call__(self, input_ids, **given).reshape(-1, VOCABULARY)[rows]
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = powers / powers.sum(-1, keepdims=True)
        tokens = logits.argmax(-1)
        return tokens, np.take_along_axis(probabilities, tokens[:, None], -1)[:, 0]


class ForTorch:
    """A denoiser of arrays for the samplers of torch."""

    def __init__(self, model: ArrayDenoiser) -> None:
        self.model, self.config = model, model.config

    def __call__(self, input_ids: Tensor, **given: Tensor | None) -> Tensor:
        arrays = {name: None if v is None else v.numpy() for name, v in given.items()}
        return torch.from_numpy(self.model(input_ids.numpy(), **arrays))


class ForArrays(ArrayDenoiser):
    """A model of torch for the samplers of arrays."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def __call__(self, input_ids: Any, *args: Any, **given: Any) -> NDArray[Any]:
        tensors = {n: None if v is None else torch.from_numpy(v) for n, v in given.items()}
        with torch.no_grad():
            output = self.model(torch.from_numpy(input_ids), **tensors)
        logits: Tensor = getattr(output, "logits", output)
        self.vocabulary = logits.shape[-1]
        return logits.float().numpy()

    def logits_at(self, rows: Any, input_ids: Any, **given: Any) -> NDArray[Any]:
        self.rows, self.shape = rows, input_ids.shape
        logits = self(input_ids, **given)
        return logits.reshape(-1, logits.shape[-1])[rows]


class TorchNumbers(np.random.Generator):
    """The random numbers that torch's samplers draw, in their order and shapes."""

    model: ArrayDenoiser
    generator: torch.Generator
    batch: int

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if dtype is np.float32:
            return torch.rand(size, generator=self.generator).numpy()
        # LLaDA's noise: torch draws it for all positions. Under guidance the model's rows come twice.
        assert self.model.rows is not None
        rows, vocabulary = self.model.rows[: size[0]], size[-1]
        shape = (self.batch, self.model.shape[1], vocabulary)
        drawn = torch.rand(shape, dtype=torch.float64, generator=self.generator)
        return drawn.flatten(0, 1).numpy()[rows]

    def standard_exponential(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, size: Any = None, dtype: Any = None, method: Any = None, out: Any = None
    ) -> Any:
        return torch.empty(size).exponential_(generator=self.generator).numpy()


def torch_numbers(model: ArrayDenoiser, generator: torch.Generator, batch: int) -> TorchNumbers:
    """A numpy generator that gives the numbers of a torch generator to a sampler that calls a model."""
    numbers = TorchNumbers(np.random.PCG64(0))
    numbers.model, numbers.generator, numbers.batch = model, generator, batch
    return numbers

"""Muon for the hidden matrices, AdamW for everything else, and the warm-up, hold, decay schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MUON_DECAY = 0.05
ADAM_DECAY = 0.01


@dataclass(frozen=True)
class Budget:
    """When to stop, and the schedule that follows from it: warm-up, a constant, a linear decay to zero.

    Attributes:
        target_tokens: Tokens to see in all.
        decay_from: Tokens from which the learning rates fall.
        seconds: Training time at which to be done at the latest; None for no limit.
        warmup_steps: Steps of linear warm-up after the optimizer is made.
    """

    target_tokens: int
    decay_from: int
    seconds: float | None = None
    warmup_steps: int = 100

    def factor(self, step: int, tokens: int, seconds: float) -> float:
        """Returns the factor on the learning rates, 0 when the budget is used up.

        Args:
            step: Steps done.
            tokens: Tokens seen.
            seconds: Training time so far.
        """
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.target_tokens - tokens) / max(1, self.target_tokens - self.decay_from)
        if self.seconds is not None:
            share = 1.0 - self.decay_from / self.target_tokens
            left = min(left, (self.seconds - seconds) / (share * self.seconds))
        return warm * min(1.0, max(0.0, left))


class MuonWithAdamW:
    """The two optimizers behind one interface, with a state of named tensors.

    Muon (Jordan et al. 2024) orthogonalises the momentum of each hidden matrix; embeddings, head,
    gains and biases are not maps between hidden spaces and take AdamW.

    Args:
        model: The model to train; has ``get_output_embeddings``.
        muon_rate: Peak learning rate of Muon.
        embedding_rate: Peak learning rate of AdamW for the embedding.
        adam_rate: Peak learning rate of AdamW for head, gains and biases.
    """

    def __init__(
        self, model: nn.Module, muon_rate: float, embedding_rate: float, adam_rate: float
    ) -> None:
        head = model.get_output_embeddings().weight  # type: ignore[operator]
        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
        hidden, vectors = [], []
        for parameter in model.parameters():
            if parameter.ndim == 1:
                vectors.append(parameter)
            elif parameter is not head and all(parameter is not table for table in tables):
                hidden.append(parameter)
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.muon = torch.optim.Muon(hidden, lr=muon_rate, momentum=0.95, weight_decay=MUON_DECAY)
        self.adam = torch.optim.AdamW(
            [
                {"params": tables, "lr": embedding_rate, "weight_decay": ADAM_DECAY},
                {"params": [head], "lr": adam_rate, "weight_decay": ADAM_DECAY},
                {"params": vectors, "lr": adam_rate, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.95),
            eps=1e-10,
        )
        self.peaks = [(g, float(g["lr"])) for o in self.optimizers for g in o.param_groups]

    @property
    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Both optimizers."""
        return (self.muon, self.adam)

    def step(self, factor: float) -> None:
        """Updates all parameters with the learning rates scaled by ``factor`` and clears the gradients."""
        for group, peak in self.peaks:
            group["lr"] = peak * factor
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Returns the moments as ``"<parameter>/<moment>"`` -> tensor."""
        return {
            f"{self.names[p]}/{key}": value
            for o in self.optimizers
            for p, entries in o.state.items()
            for key, value in entries.items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restores what ``state`` returned."""
        parameters = {name: p for p, name in self.names.items()}
        restored: dict[Any, dict[str, Tensor]] = {}
        for key, value in state.items():
            name, _, moment = key.rpartition("/")
            restored.setdefault(parameters[name], {})[moment] = value
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p in restored:
                        optimizer.state[p] = restored[p]

"""The training loop: resumable, the same weights whether or not it was interrupted."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from starquant_fx.model_facts import is_shifted
from tiny_training.objective import (
    add_noise,
    masked_cross_entropy,
    nelbo,
    pad_to_multiple,
    read_positions,
    stratified_ratios,
)
from tiny_training.optimizer import Budget, MuonWithAdamW
from tiny_training.shapes import build, initialise
from tiny_training.state import (
    Curve,
    Progress,
    Settings,
    cpu_weights,
    load_state,
    open_run,
    save_state,
)
from tiny_training.stream import LENGTH_SHARES, TrainingStream, cut_lengths

CLIP_NORM = 1.0
ROWS_MULTIPLE = 512


@dataclass(frozen=True)
class Options:
    """How to run; none of it changes what is learnt.

    Attributes:
        device: Where to train.
        compiled: Whether to compile the step with inductor.
        bf16: Whether to compute in bfloat16 (the weights stay float32).
        save_seconds: Time between two state files.
        eval_tokens: Tokens between two validations.
    """

    device: torch.device
    compiled: bool = True
    bf16: bool = True
    save_seconds: float = 180.0
    eval_tokens: int = 1_000_000


def describe(options: Options) -> str:
    """Returns what a run computes on, and in which types."""
    products = "bfloat16" if options.bf16 else "float32"
    if options.device.type == "cuda":
        place = torch.cuda.get_device_name(options.device)
    else:
        threads = torch.get_num_threads()
        place = f"{threads} thread{'s' * (threads > 1)} of a {os.cpu_count()}-core {_processor()}"
    return f"{place}, {products} products, float32 weights"


def _processor() -> str:
    """Name of the CPU as Linux tells it, else its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return f"{platform.machine()} CPU"


def step_batch(windows: Tensor, seed: int, step: int) -> tuple[Tensor, torch.Generator]:
    """Cuts a batch to the step's length and gives the step's own generator for the masks.

    Args:
        windows: [B, W] token ids.
        seed: The run's seed.
        step: Number of the step.
    """
    lengths = cut_lengths(windows.shape[1])
    shares = np.array([LENGTH_SHARES.get(n, 1.0) for n in lengths])
    random = np.random.default_rng([seed, step])
    length = int(random.choice(lengths, p=shares / shares.sum()))
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    return windows.reshape(-1, length), generator


class Trainer:
    """Trains one small model in a run folder.

    Args:
        folder: The run's folder; continued if it holds a state.
        settings: What identifies the run.
        stream: Training batches.
        validation: [N, L] windows of the validation split.
        options: How to run.
        initial: Weights to start from; None draws them from the seed.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        stream: TrainingStream,
        validation: Tensor,
        options: Options,
        initial: dict[str, Tensor] | None = None,
    ) -> None:
        open_run(folder, settings)
        self.folder, self.settings, self.options = folder, settings, options
        self.stream, self.validation = stream, validation
        # Without this the plain attention of bfloat16 tensors is computed in float32.
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        self.mask_id = int(settings.config["mask_token_id"])
        self.model = build(settings.arch, settings.config)
        self.shifted = is_shifted(self.model)
        self.progress = Progress()
        state = load_state(folder)
        moments: dict[str, Tensor] = {}
        if state is not None:
            weights, moments, self.progress = state
            self.model.load_state_dict(weights)
        else:
            self._start(initial)
        self.model.to(options.device)
        self.optimizer = MuonWithAdamW(
            self.model, settings.muon_rate, settings.embedding_rate, settings.adam_rate
        )
        self.optimizer.load_state({k: v.to(options.device) for k, v in moments.items()})
        self.curve = Curve(folder, self.progress.step)
        self._stopping = False
        self._hidden: Callable[[Tensor], Tensor] = self._final_states
        self._loss: Callable[..., Tensor] = masked_cross_entropy
        if options.compiled:
            # A graph for each of the few lengths and numbers of rows.
            self._hidden = torch.compile(self._final_states, dynamic=False)
            self._loss = torch.compile(masked_cross_entropy, dynamic=False)

    @torch.no_grad()
    def _start(self, initial: dict[str, Tensor] | None) -> None:
        """Gives the model the weights of step 0."""
        if initial is not None:
            self.model.load_state_dict(initial)
        else:
            initialise(self.model, self.settings.seed)
        embedding = next(m for m in self.model.modules() if isinstance(m, nn.Embedding))
        embedding.weight[self.mask_id] *= self.settings.mask_embedding_scale

    def stop(self) -> None:
        """Asks ``run`` to save and return after the step in flight."""
        self._stopping = True

    def _final_states(self, ids: Tensor) -> Tensor:
        """Final normed states [B, L, d] of a batch."""
        if self.options.device.type != "cpu":
            return self.model.forward_hidden(ids)[-1]
        # On the CPU the flash kernel's backward takes a quarter of a step; plain products take less.
        with sdpa_kernel(SDPBackend.MATH):
            return self.model.forward_hidden(ids)[-1]

    def _autocast(self) -> torch.autocast:
        kind = self.options.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.options.bf16)

    def _step(self, windows: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """Does one update and returns loss and gradient norm."""
        clean, generator = step_batch(windows, self.settings.seed, self.progress.step)
        noised = add_noise(clean, stratified_ratios(len(clean), generator), self.mask_id, generator)
        positions, rows = read_positions(noised.masked, self.shifted)
        targets = clean.flatten()[positions]
        weights = noised.weights[positions // clean.shape[1]]
        device = self.options.device
        rows, targets, weights = (
            pad_to_multiple(values, ROWS_MULTIPLE).to(device) for values in (rows, targets, weights)
        )
        with self._autocast():
            hidden = self._hidden(noised.ids.to(device)).flatten(0, 1)
            head = self.model.get_output_embeddings().weight
            loss = self._loss(hidden, head, rows, targets, weights)
        loss = loss / clean.numel()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step(factor)
        return loss.detach(), norm

    def validate(self) -> float:
        """NELBO of the validation windows, nats per token."""
        with self._autocast():
            return nelbo(self.model, self.validation, self.mask_id, self.shifted)

    def save(self) -> None:
        """Writes the state file."""
        moments = self.optimizer.state()
        save_state(self.folder, cpu_weights(self.model), moments, self.progress)

    def run(
        self,
        budget: Budget,
        report: Callable[[dict[str, float]], None],
        stop_after: int | None = None,
    ) -> None:
        """Trains until the budget is used up.

        Args:
            budget: When to stop.
            report: Called with each line of the curve.
            stop_after: Stop after so many steps of this call, as if interrupted just after a save.
        """
        progress, options = self.progress, self.options
        on = describe(options)
        if on not in progress.hardware:
            progress.hardware.append(on)
        losses: list[Tensor] = []
        last_save = time.monotonic()
        done, rate, norm = 0, 0.0, torch.tensor(0.0)
        for windows in self.stream.batches(progress.step):
            factor = budget.factor(progress.step, progress.tokens, progress.seconds)
            if factor <= 0.0 or done == stop_after or self._stopping:
                break
            started = time.monotonic()
            loss, norm = self._step(windows, factor)
            losses.append(loss)
            done, rate = done + 1, factor
            progress.step += 1
            before, progress.tokens = progress.tokens, progress.tokens + windows.numel()
            progress.seconds += time.monotonic() - started
            if before // options.eval_tokens != progress.tokens // options.eval_tokens:
                self._record(losses, norm, rate, report)
                losses = []
            if time.monotonic() - last_save > options.save_seconds:
                self.save()
                last_save = time.monotonic()
        if losses:
            self._record(losses, norm, rate, report)
        self.save()

    def _record(
        self,
        losses: list[Tensor],
        norm: Tensor,
        rate: float,
        report: Callable[[dict[str, float]], None],
    ) -> None:
        row = {
            "step": self.progress.step,
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 1),
            "train_loss": round(float(torch.stack(losses).mean()), 4),
            "validation_nelbo": round(self.validate(), 4),
            "gradient_norm": round(float(norm), 3),
            "rate": round(rate, 3),
        }
        self.curve.add(row)
        report(row)

"""The folder of a run: settings, tokenizer, curve, and one atomically replaced state file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from starquant_fx.errors import CheckpointError, InputError, cause
from starquant_fx.files import replacing, write_atomically

STATE_FILE, SETTINGS_FILE, CURVE_FILE = "state.safetensors", "run.json", "curve.jsonl"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What identifies a run; a resumed run must agree in all of it.

    Attributes:
        arch: ``"llada"`` or ``"dream"``.
        config: The model's ``config.json``.
        seed: Seed of weights, data order and masks.
        batch: Windows a step.
        window: Tokens a window.
        muon_rate: Peak learning rate of the hidden matrices.
        embedding_rate: Peak learning rate of the embedding.
        adam_rate: Peak learning rate of head, gains and biases.
        init_from: Checkpoint folder the weights started from; None from scratch.
        mask_embedding_scale: Factor of the mask token's embedding before the first step.
    """

    arch: str
    config: dict[str, Any]
    seed: int
    batch: int
    window: int
    muon_rate: float
    embedding_rate: float
    adam_rate: float
    init_from: str | None = None
    mask_embedding_scale: float = 1.0


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: Optimizer steps done.
        tokens: Tokens seen.
        seconds: Training time, over all resumptions.
        hardware: What it ran on, in order, each once.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    hardware: list[str] = dataclasses.field(default_factory=list)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Replaces a safetensors file whole or not at all."""
    with replacing(path) as temporary:
        held = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
        save_file(held, temporary, metadata)


def open_run(folder: Path, settings: Settings) -> None:
    """Makes the run's folder, or checks that an existing one holds the same run.

    Raises:
        InputError: The folder holds a run with other settings.
    """
    path = folder / SETTINGS_FILE
    wanted = dataclasses.asdict(settings)
    if path.is_file():
        found = dataclasses.asdict(read_settings(folder))
        differing = sorted(k for k in wanted | found if wanted.get(k) != found.get(k))
        if differing:
            raise InputError(
                "the run folder holds a run with other settings",
                where=str(path),
                expected=", ".join(f"{k} = {found.get(k)!r}" for k in differing),
                got=", ".join(f"{k} = {wanted.get(k)!r}" for k in differing),
                hint="repeat the command that started it, or name another --run",
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(wanted, indent=2) + "\n")


def read_settings(folder: Path) -> Settings:
    """Reads the settings of an existing run."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise InputError(
            "there is no run here",
            where=str(folder),
            expected=SETTINGS_FILE,
            got="no such file",
            hint="train first, or name another --run",
        )
    try:
        return Settings(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(
            "the run's settings cannot be read",
            where=str(path),
            expected="what this version of the tool wrote",
            got=cause(error),
            hint="name another --run",
        ) from error


def save_state(
    folder: Path, weights: dict[str, Tensor], moments: dict[str, Tensor], progress: Progress
) -> None:
    """Writes weights, optimizer moments and progress in one atomic file."""
    tensors = {f"weights:{k}": v for k, v in weights.items()}
    tensors |= {f"moments:{k}": v for k, v in moments.items()}
    metadata = {"progress": json.dumps(dataclasses.asdict(progress))}
    save_tensors(folder / STATE_FILE, tensors, metadata)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Progress] | None:
    """Reads what ``save_state`` wrote; None if there is nothing yet.

    Raises:
        CheckpointError: The file is there but cannot be read.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}}
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part, _, name = key.partition(":")
                parts[part][name] = file.get_tensor(key)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            "the training state cannot be read",
            where=str(path),
            expected="a whole file that save_state wrote",
            got=cause(error),
            hint="delete the run folder and train again",
        ) from error
    return parts["weights"], parts["moments"], progress


def load_checked_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], Progress]:
    """As ``load_state``, but a run without a state is an error."""
    state = load_state(folder)
    if state is None:
        raise InputError(
            "the run has no state yet",
            where=str(folder),
            expected=STATE_FILE,
            got="no such file",
            hint="let it train until it has saved once",
        )
    return state


class Curve:
    """The training curve, one JSON object a line.

    Args:
        folder: The run's folder.
        step: Lines after this step are dropped: they belong to work lost when the run was stopped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / CURVE_FILE
        kept = [json.dumps(row) + "\n" for row in read_curve(self.path) if row["step"] <= step]
        write_atomically(self.path, "".join(kept))

    def add(self, row: dict[str, float]) -> None:
        """Appends a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read_curve(path: Path) -> list[dict[str, float]]:
    """Reads a curve; empty if there is none. A half-written last line is ignored."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def cpu_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The model's weights on the CPU, by published name."""
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}

#!/usr/bin/env python3
"""Trains the small LLaDA and Dream models that ship in the package, and writes what ships.

``train`` trains, and resumes when the same command is given again; ``export`` writes the folder of a
model with its card, and its curve, from the latest state of a run; ``excerpts`` writes the texts.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from starquant_fx.errors import exit_code
from tiny_training.card import Remarks
from tiny_training.corpus import load_documents, select
from tiny_training.excerpts import write_excerpts
from tiny_training.export import HeldOut, export, export_curve
from tiny_training.loop import Options, Trainer
from tiny_training.optimizer import Budget
from tiny_training.shapes import ARCHITECTURES, published_config
from tiny_training.state import Settings, load_checked_state, read_settings
from tiny_training.stream import TrainingStream, encode_documents, evaluation_windows
from tiny_training.tokenizer import load_tokenizer, train_tokenizer

EVALUATION_WINDOW = 256
CURVE_WINDOWS = 128  # enough to see the curve, little enough to cost nothing
EXPORT_WINDOWS = 256


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a model, or go on with it")
    train.set_defaults(job=run_train)
    train.add_argument("--arch", choices=ARCHITECTURES, required=True)
    train.add_argument("--target-tokens", type=int, default=28_000_000, help="tokens to see")
    train.add_argument("--decay-from", type=int, help="tokens (default: 75 %% of the target)")
    train.add_argument("--minutes", type=float, help="be done after so much training time")
    train.add_argument("--init-from", type=Path, help="checkpoint folder to start from")
    train.add_argument(
        "--mask-embedding-scale", type=float, default=1.0, help="of the weights at step 0"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--batch", type=int, default=16, help="windows a step")
    train.add_argument("--window", type=int, default=512, help="tokens a window")
    train.add_argument("--muon-rate", type=float, default=0.02, help="of the hidden matrices")
    train.add_argument("--embedding-rate", type=float, default=2e-2, help="of the embedding")
    train.add_argument("--adam-rate", type=float, default=3e-3, help="of everything else")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--eager", action="store_true", help="do not compile")
    writer = commands.add_parser("export", help="write the folder that ships")
    writer.set_defaults(job=run_export)
    writer.add_argument("--arch", choices=ARCHITECTURES, required=True)
    writer.add_argument("--to", type=Path, help="default: starquant_fx/models/pretrained/ARCH-tiny")
    writer.add_argument("--note", default="Intermediate checkpoint: training goes on.")
    writer.add_argument("--made-by", help="command for the card (default: from the run's settings)")
    writer.add_argument("--history", help="a sentence for the card on how the run went")
    writer.add_argument("--hardware", help="for the card of a run that did not record it")
    writer.add_argument("--docs", type=Path, help="also write the curve into this folder")
    writer.add_argument(
        "--earlier", type=Path, help="curve of the run that this one started from (--init-from)"
    )
    texts = commands.add_parser("excerpts", help="write the texts that ship")
    texts.set_defaults(job=run_excerpts)
    texts.add_argument("--to", type=Path, default=Path("starquant_fx/data"))
    for command in (train, writer):
        command.add_argument("--run", type=Path, help="run folder (default: runs/ARCH-tiny)")
        command.add_argument("--threads", type=int, help="CPU threads")
    for command in (train, writer, texts):
        command.add_argument("--data", type=Path, default=Path("../shared/data"), help="corpus")
    return top


def run_folder(arguments: argparse.Namespace) -> Path:
    """The run's folder, named or by default."""
    return Path(arguments.run or Path("runs") / f"{arguments.arch}-tiny")


def run_train(arguments: argparse.Namespace) -> None:
    """Trains until the budget is used up, or until SIGTERM."""
    folder = run_folder(arguments)
    documents = load_documents(arguments.data)
    training = select(documents, "train")
    if (folder / "tokenizer").is_dir():
        tokenizer = load_tokenizer(folder / "tokenizer")
    elif arguments.init_from is not None:
        tokenizer = load_tokenizer(arguments.init_from)
    else:
        tokenizer = train_tokenizer(d.text for d in training)
    settings = Settings(
        arch=arguments.arch,
        config=published_config(arguments.arch, tokenizer),
        seed=arguments.seed,
        batch=arguments.batch,
        window=arguments.window,
        muon_rate=arguments.muon_rate,
        embedding_rate=arguments.embedding_rate,
        adam_rate=arguments.adam_rate,
        init_from=str(arguments.init_from) if arguments.init_from else None,
        mask_embedding_scale=arguments.mask_embedding_scale,
    )
    initial = None
    if arguments.init_from is not None:
        tensors = load_file(arguments.init_from / "model.safetensors")
        initial = {name: value.float() for name, value in tensors.items()}
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    held_out = encode_documents(tokenizer, select(documents, "validation"))
    trainer = Trainer(
        folder,
        settings,
        TrainingStream(
            encode_documents(tokenizer, training), settings.window, settings.batch, settings.seed
        ),
        evaluation_windows(held_out, EVALUATION_WINDOW, CURVE_WINDOWS),
        Options(device=torch.device(device), compiled=not arguments.eager),
        initial,
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    target = arguments.target_tokens
    budget = Budget(
        target_tokens=target,
        decay_from=int(0.75 * target) if arguments.decay_from is None else arguments.decay_from,
        seconds=None if arguments.minutes is None else 60 * arguments.minutes,
    )
    trainer.run(budget, lambda row: print(json.dumps(row), flush=True))


def run_export(arguments: argparse.Namespace) -> None:
    """Evaluates the latest state of a run and writes the folder that ships."""
    folder, name = run_folder(arguments), f"{arguments.arch}-tiny"
    settings = read_settings(folder)
    weights, _, progress = load_checked_state(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    documents = load_documents(arguments.data)
    validation, test = (
        evaluation_windows(
            encode_documents(tokenizer, select(documents, split)), EVALUATION_WINDOW, EXPORT_WINDOWS
        )
        for split in ("validation", "test")
    )
    command = (
        f"python tools/train_tiny.py train --arch {settings.arch} --seed {settings.seed} "
        f"--target-tokens {progress.tokens}"
    )
    if settings.init_from is not None:
        command += f" --init-from {settings.init_from}"
    if settings.mask_embedding_scale != 1:
        command += f" --mask-embedding-scale {settings.mask_embedding_scale:g}"
    for name in ("muon_rate", "embedding_rate", "adam_rate"):
        command += f" --{name.replace('_', '-')} {getattr(settings, name):g}"
    figures = export(
        settings,
        weights,
        progress,
        tokenizer,
        HeldOut(validation, test),
        documents,
        arguments.to or Path("starquant_fx/models/pretrained") / name,
        Remarks(
            arguments.note, arguments.made_by or command, arguments.history, arguments.hardware
        ),
    )
    for split, measured in zip(("validation", "test"), figures, strict=True):
        print(split, measured)
    if arguments.docs is not None:
        export_curve(folder, arguments.docs, name, arguments.earlier)


def run_excerpts(arguments: argparse.Namespace) -> None:
    """Writes the texts that ship."""
    write_excerpts(load_documents(arguments.data), arguments.to)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = parser().parse_args(argv)
    if getattr(arguments, "threads", None):
        torch.set_num_threads(arguments.threads)
    return exit_code(lambda: arguments.job(arguments))


if __name__ == "__main__":
    sys.exit(main())

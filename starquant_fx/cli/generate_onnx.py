"""``starquant-fx generate --onnx``: an exported model, run by onnxruntime; nothing here loads torch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from starquant_fx.errors import InputError

OTHERS = {
    "model": "MODEL",
    "recipe": "--recipe",
    "artifact": "--artifact",
    "calibration": "--calibration",
    "target": "--target",
    "timing": "--timing",
    "device": "--device",
}
"""Parameters of the command that say something about a model that is not exported."""
LENGTHS = ("steps", "gen_length", "block_length", "max_new_tokens", "max_length")


def refuse_others(context: typer.Context) -> None:
    """Raises an InputError if the command line says something that an exported model has no use for."""
    for parameter, name in OTHERS.items():
        source = context.get_parameter_source(parameter)
        if source is not None and source.name != "DEFAULT":
            raise InputError(
                f"{name} and --onnx exclude each other",
                where=name,
                expected="one of them",
                got="both",
                hint="an exported model is compiled already; --provider says where it runs",
            )


def continue_prompt(
    folder: Path,
    prompt: str,
    *,
    length: int,
    steps: int,
    options: dict[str, Any],
    live: bool,
    providers: Sequence[str],
    strict: bool,
    seed: int,
) -> None:
    """Continues a prompt and prints the text.

    Args:
        folder: The exported folder.
        prompt: The text.
        length: Tokens to generate.
        steps: Denoising steps.
        options: More arguments of the sampler.
        live: Show the tokens being unmasked, where standard output is a terminal.
        providers: As ``starquant_fx.runtime.load``.
        strict: As there.
        seed: Of every draw.

    Raises:
        InputError: An argument does not fit.
        CheckpointError: The folder is no usable export.
    """
    from rich.console import Console

    from starquant_fx.runtime import dream_generate, load
    from starquant_fx.runtime.generation import sampler_defaults, sampler_of
    from starquant_fx.sampling import arguments as checks
    from starquant_fx.sampling.views import LiveView

    model = load(folder, providers=providers, strict=strict)
    sampler = sampler_of(model)
    dream = sampler is dream_generate
    checks.check_names(options, [name for name in checks.names_of(sampler) if name != "generator"])
    arguments = checks.greedy_arguments(dream, length, steps)
    if dream and not model.gives_logits:
        arguments["alg"] = "maskgit_plus"  # entropies need logits
    own = sampler_defaults(model, options)
    arguments |= {name: value for name, value in own.items() if name not in LENGTHS} | options
    ids = model.encode(prompt)
    view: Any = None
    console = Console()
    if live and console.is_terminal:
        name = "mask_token_id" if dream else "mask_id"
        mask_id = checks.token_id(model, name, arguments.get(name), "mask_token_id")
        view = LiveView(_Words(model.tokenizer), ids, None, mask_id, console=console)
    with view or contextlib.nullcontext():
        out = model.generate(ids, seed=seed, on_step=view, **arguments)
    typer.echo(model.decode(out))


class _Words:
    """A tokenizer as the view calls it: special tokens are shown."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

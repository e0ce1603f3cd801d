"""``starquant-fx generate``."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from starquant_fx.cli.checkpoints import is_checkpoint, load_checkpoint
from starquant_fx.cli.options import (
    CalibrationFile,
    Device,
    Seed,
    Target,
    check_place,
    load,
    need_tokenizer,
)
from starquant_fx.errors import InputError


def generate_command(
    context: typer.Context,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to continue.")],
    model: Annotated[
        str | None,
        typer.Argument(
            help="llada-tiny, dream-tiny, a folder with a published checkpoint or of `compile --save`, or a hub id; "
            "or give --onnx instead.",
            metavar="[MODEL]",
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx", help="Run this exported folder with onnxruntime instead, without torch."
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            help="With --onnx: cpu, cuda, ... of onnxruntime, repeatable, preferred first. Default: cpu.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="With --onnx: compute what the file says, whatever is faster."
        ),
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", "-r", help="Compile with this recipe first; default: full precision."
        ),
    ] = None,
    artifact: Annotated[
        Path | None,
        typer.Option("--artifact", "-a", help="Use this artifact of `compile --output` instead."),
    ] = None,
    calibration: CalibrationFile = None,
    length: Annotated[int, typer.Option("--length", "-n", help="Tokens to generate.")] = 64,
    steps: Annotated[int, typer.Option("--steps", "-s", help="Denoising steps.")] = 64,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            help="name=value of the published sampler, repeatable. LLaDA: temperature, block_length, "
            "cfg_scale, remasking, ... Dream: alg, alg_temp, temperature, top_p, top_k, eps.",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live/--no-live", help="Watch the tokens being unmasked.")
    ] = True,
    target: Target = "auto",
    timing: Annotated[
        bool, typer.Option("--timing", help="Also print where the time of a step goes.")
    ] = False,
    device: Device = None,
    seed: Seed = 0,
) -> None:
    """Continue a prompt by denoising, in full precision or low bits.

    Example: starquant-fx generate llada-tiny --recipe star-w4a4 --prompt "Once upon a time"
    """
    options = _parsed(option or [])
    _check_text(prompt)
    if onnx is not None:
        from starquant_fx.cli.generate_onnx import continue_prompt, refuse_others

        refuse_others(context)
        continue_prompt(
            onnx,
            prompt,
            length=length,
            steps=steps,
            options=options,
            live=live,
            providers=provider or ["cpu"],
            strict=strict,
            seed=seed,
        )
        return
    model = _named(model, provider, strict)

    import torch
    from rich.console import Console

    from starquant_fx.diffusion import generate
    from starquant_fx.diffusion.api import argument_names
    from starquant_fx.sampling.arguments import check_names, sampler_arguments

    console = Console()
    packed = is_checkpoint(model)
    if packed or recipe is not None or artifact is not None:
        check_place(target, device)
    kernels = _kernel_seconds() if timing and packed else 0.0
    began = time.perf_counter()
    if packed:
        given = {"--recipe": recipe, "--artifact": artifact, "--calibration": calibration}
        loaded, tokenizer = load_checkpoint(model, target, device, given)
    else:
        loaded, tokenizer = load(model, device)
    need_tokenizer(tokenizer, model)
    check_names(options, [name for name in argument_names(loaded) if name != "generator"])
    if not packed:
        kernels = _kernel_seconds() if timing else 0.0
        began = time.perf_counter()
    # Under the same name, so that weights that an artifact or a recipe replaced are not kept.
    loaded = _denoiser(loaded, tokenizer, model, recipe, artifact, calibration, seed, target)
    prepared = time.perf_counter() - began
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]], dtype=torch.long)
    torch.manual_seed(seed)
    view = tokenizer if live and console.is_terminal else None
    arguments = sampler_arguments(loaded, length, steps) | options
    if timing:
        from starquant_fx.evaluation.step_time import timed_generation

        out, times = timed_generation(loaded, ids, live=view, **arguments)
    else:
        out, times = generate(loaded, ids, live=view, **arguments), None
    typer.echo(tokenizer.decode(out[0], skip_special_tokens=True))
    if times is not None:
        console.print(times.sheet().table())
        typer.echo(
            f"Before the first step: CPU kernels {kernels:.2f} s (built at first use, then kept), "
            f"compiling or binding the model {prepared:.2f} s."
        )


def _named(model: str | None, provider: list[str] | None, strict: bool) -> str:
    """Returns MODEL; raises an InputError if it is missing, or comes with an option of --onnx."""
    if model is None:
        raise InputError(
            "there is no model to generate with",
            where="MODEL",
            expected="a name, folder or hub id, or --onnx DIR",
            got="neither",
            hint="for example starquant-fx generate llada-tiny --prompt Hello",
        )
    for name, given in (("--provider", provider), ("--strict", strict)):
        if given:
            raise InputError(
                f"{name} is for exported models",
                where=name,
                expected="--onnx DIR with it",
                got=f"MODEL = {model}",
                hint=f"leave {name} out, or give the exported folder by --onnx",
            )
    return model


def _kernel_seconds() -> float:
    """Seconds until the kernels of this machine are at hand: they are compiled at first use, and loaded later."""
    from starquant_fx.kernels import cpu

    start = time.perf_counter()
    cpu.unavailable()
    return time.perf_counter() - start


def _denoiser(
    loaded: Any,
    tokenizer: Any,
    name: str,
    recipe: str | None,
    artifact: Path | None,
    calibration: Path | None,
    seed: int,
    target: str,
) -> Any:
    from starquant_fx.api import compile as compile_model
    from starquant_fx.artifact import load_artifact
    from starquant_fx.recipes import get_recipe

    if recipe is not None and artifact is not None:
        raise InputError(
            "--recipe and --artifact exclude each other",
            where="--artifact",
            expected="one of them",
            got="both",
            hint="an artifact holds its own recipe",
        )
    if artifact is not None:
        return load_artifact(loaded, artifact, target=target)
    if recipe is not None:
        from starquant_fx.evaluation.corpus import calibration_texts

        texts = calibration_texts(name, calibration)
        chosen = get_recipe(recipe).seeded(seed)
        return compile_model(loaded, chosen, calibration=texts, tokenizer=tokenizer, target=target)
    return loaded


def _check_text(prompt: str) -> None:
    """Refuses bytes that the shell handed over and that are no text in its encoding."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "the prompt is no text",
            where="--prompt",
            expected="UTF-8",
            got=f"{prompt!r}",
            hint="check the encoding of the terminal",
        ) from error


def _parsed(options: list[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for item in options:
        name, separator, value = item.partition("=")
        if not separator:
            raise InputError(
                "malformed option",
                where="--option",
                expected="name=value",
                got=item,
                hint="for example --option temperature=0.7",
            )
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed

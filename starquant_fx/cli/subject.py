"""What ``starquant-fx evaluate`` was asked for and what it works on: read, loaded and checked before the work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from starquant_fx.cli.checkpoints import is_checkpoint, load_checkpoint
from starquant_fx.cli.measure import FULL, chosen_recipes, labelled
from starquant_fx.cli.options import check_place, load, need_tokenizer
from starquant_fx.errors import CheckpointError, InputError

DRAWS, QUICK_DRAWS = 4, 1
"""Masks a segment for the NELBO and for the quick gate."""
PROMPT = 32
"""Tokens of a prompt at most."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of the command, by their names; where ``draws`` or ``ratios`` are None, the usual ones.

    ``model`` is in full precision; a packed checkpoint to compare with it is ``checkpoint``.
    """

    model: str
    checkpoint: str | None
    recipes: tuple[str, ...]
    without: tuple[str, ...]
    replace: tuple[str, ...]
    text: Path | None
    split: str
    calibration: Path | None
    segments: int
    length: int
    target: str
    device: str | None
    cache: Path | None
    draws: int | None
    ratios: tuple[float, ...] | None
    seeds: tuple[int, ...]
    trajectory: bool
    prompts: int
    new_tokens: int
    steps: int
    json: Path | None
    figures: Path | None
    markdown: bool
    quick: bool
    rank: bool


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated, loaded and checked.

    Attributes:
        model: The full-precision model.
        tokenizer: Its tokenizer.
        recipes: By name; a packed checkpoint is a compiled model instead of a recipe.
        texts: To calibrate on, or None.
        ids: Held-out segments [N, L].
    """

    model: Any
    tokenizer: Any
    recipes: dict[str, Any]
    texts: list[str] | None
    ids: Any

    def only_recipes(self) -> dict[str, Any]:
        """The recipes by name, those of compiled models too."""
        return {name: getattr(one, "recipe", one) for name, one in self.recipes.items()}


def prepare(settings: Settings) -> Subject:
    """Reads and loads everything, and refuses what does not fit before anything is compiled."""
    from starquant_fx.evaluation.checks import require_fit, require_segments
    from starquant_fx.evaluation.corpus import calibration_texts, read_corpus
    from starquant_fx.evaluation.text import excerpt
    from starquant_fx.evaluation.text import segments as cut
    from starquant_fx.model_facts import check_tokenizer, mask_token_of

    recipes = labelled(chosen_recipes(settings.recipes, settings.without, settings.replace))
    held_out = excerpt(settings.split) if settings.text is None else read_corpus(settings.text)
    texts = calibration_texts(settings.model, settings.calibration)
    check_place(settings.target, settings.device)
    model, tokenizer = load(settings.model, settings.device)
    check_tokenizer(need_tokenizer(tokenizer, settings.model), model, mask_token_of(model))
    if settings.checkpoint is not None:
        recipes = {**_packed(settings, model), **recipes}
    ids = cut(held_out, tokenizer, settings.length, settings.segments)
    require_segments(ids, least=2)
    for seed in settings.seeds:
        require_fit({FULL: model}, ids, mask_plan_of(settings, ids, seed))
    if settings.trajectory:
        prompts_of(settings, ids)
    return Subject(model, tokenizer, recipes, texts, ids)


def checkpoint_of(model: str, reference: str | None) -> str | None:
    """MODEL, if it is a packed checkpoint, else None.

    Raises:
        InputError: It comes without ``--reference``, or something else with it.
    """
    packed = is_checkpoint(model)
    if packed == (reference is not None):
        return model if packed else None
    raise InputError(
        "a packed checkpoint is compared with the model that it was compiled from"
        if packed
        else "--reference is for packed checkpoints",
        where="--reference",
        expected="that model's name, folder or hub id" if packed else "nothing",
        got="nothing" if packed else f"MODEL = {model}",
        hint="for example --reference llada-tiny" if packed else "leave --reference out",
    )


def _packed(settings: Settings, model: Any) -> dict[str, Any]:
    """The packed checkpoint, by the name of its recipe.

    Raises:
        CheckpointError: It was compiled from another model.
    """
    from starquant_fx.fingerprint import fingerprint

    assert settings.checkpoint is not None
    compiled, _ = load_checkpoint(settings.checkpoint, settings.target, settings.device, {})
    found = fingerprint(dict(model.named_parameters()))
    if found != compiled.fingerprint:
        raise CheckpointError(
            "the checkpoint was compiled from another model",
            where=settings.checkpoint,
            expected=f"fingerprint {compiled.fingerprint[:12]}",
            got=f"fingerprint {found[:12]} of {settings.model}",
            hint="--reference names the model that was compiled, in the dtype it was compiled in",
        )
    return {f"packed {compiled.recipe.name}": compiled}


def mask_plan_of(settings: Settings, ids: Any, seed: int) -> Any:
    """The masks of a seed."""
    from starquant_fx.evaluation.masks import RATIOS, mask_plan

    count, length = ids.shape
    usual = QUICK_DRAWS if settings.quick else DRAWS
    return mask_plan(count, length, seed, settings.draws or usual, settings.ratios or RATIOS)


def show(settings: Settings, title: str, *sheets: Any) -> None:
    """Prints tables under a title."""
    from rich.console import Console

    typer.echo(f"\n{settings.model}, {title}\n")
    for sheet in sheets:
        if settings.markdown:
            typer.echo(sheet.markdown())
        else:
            Console().print(sheet.table())
            typer.echo()


def prompts_of(settings: Settings, ids: Any) -> Any:
    """The beginnings of some segments, as long as fits beside the new tokens.

    Raises:
        InputError: Too few segments, or segments too short to hold a prompt and the new tokens.
    """
    room = ids.shape[1] - settings.new_tokens
    if room < 1 or settings.prompts > len(ids):
        raise InputError(
            "the generations to follow do not fit the segments",
            where="--prompts, --new-tokens",
            expected=f"at most {len(ids)} prompts and {ids.shape[1] - 1} new tokens",
            got=f"{settings.prompts} prompts and {settings.new_tokens} new tokens",
        )
    chosen = ids[:: len(ids) // settings.prompts][: settings.prompts]
    return chosen[:, : min(room, PROMPT)]

"""The run behind ``starquant-fx evaluate``: seed after seed, then the spread, tables and files."""

from __future__ import annotations

import dataclasses
import json as json_format
from pathlib import Path
from typing import Any

import typer

from starquant_fx.cli.figures import require_figures, write_figures
from starquant_fx.cli.measure import FULL, chosen_recipes, labelled, measure
from starquant_fx.cli.options import calibration_texts, load, need_tokenizer
from starquant_fx.errors import InputError

FORMAT, VERSION = "starquant-evaluation", 1
PROMPT = 32
"""Tokens of a prompt at most."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of the command, by their names; ``ratios`` None = the usual three."""

    model: str
    recipes: tuple[str, ...]
    without: tuple[str, ...]
    replace: tuple[str, ...]
    text: Path | None
    split: str
    calibration: Path | None
    segments: int
    length: int
    draws: int
    ratios: tuple[float, ...] | None
    seeds: tuple[int, ...]
    trajectory: bool
    prompts: int
    new_tokens: int
    steps: int
    json: Path | None
    figures: Path | None
    markdown: bool


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is evaluated, loaded and checked.

    Attributes:
        model: The full-precision model.
        tokenizer: Its tokenizer.
        recipes: By name.
        texts: To calibrate on, or None.
        ids: Held-out segments [N, L].
    """

    model: Any
    tokenizer: Any
    recipes: dict[str, Any]
    texts: list[str] | None
    ids: Any


def run(settings: Settings) -> None:
    """Evaluates, prints the tables and writes the files.

    Raises:
        StarQuantError: An option, file, text or model does not fit; files are written whole or not at all.
    """
    from starquant_fx.evaluation.sheets import spread_sheet
    from starquant_fx.files import check_destination, write_atomically

    if settings.json is not None:
        check_destination(settings.json, ".json")
    if settings.figures is not None:
        require_figures(settings.figures)
    subject = prepare(settings)
    comparisons, followed, records = [], [], []
    for seed in settings.seeds:
        comparison, found, record = _one_seed(settings, subject, seed)
        comparisons.append(comparison)
        followed.append(found)
        records.append(record)
    if len(comparisons) > 1:
        show(settings, "all seeds", spread_sheet(comparisons))
    if settings.json is not None:
        write_atomically(settings.json, as_json(settings, records))
        typer.echo(f"wrote {settings.json}")
    if settings.figures is not None:
        for path in write_figures(
            settings.figures, subject.model, subject.recipes, subject.ids, comparisons, followed[0]
        ):
            typer.echo(f"wrote {path}")


def prepare(settings: Settings) -> Subject:
    """Reads and loads everything, and refuses what does not fit before anything is compiled."""
    from starquant_fx.evaluation.checks import require_fit, require_segments, require_tokenizer
    from starquant_fx.evaluation.corpus import read_corpus
    from starquant_fx.evaluation.text import excerpt
    from starquant_fx.evaluation.text import segments as cut

    recipes = labelled(chosen_recipes(settings.recipes, settings.without, settings.replace))
    held_out = excerpt(settings.split) if settings.text is None else read_corpus(settings.text)
    texts = calibration_texts(settings.model, settings.calibration)
    model, tokenizer = load(settings.model)
    require_tokenizer(need_tokenizer(tokenizer, settings.model), model)
    ids = cut(held_out, tokenizer, settings.length, settings.segments)
    require_segments(ids, least=2)
    for seed in settings.seeds:
        require_fit({FULL: model}, ids, mask_plan_of(settings, ids, seed))
    if settings.trajectory:
        prompts_of(settings, ids)
    return Subject(model, tokenizer, recipes, texts, ids)


def mask_plan_of(settings: Settings, ids: Any, seed: int) -> Any:
    """The masks of a seed."""
    from starquant_fx.evaluation.masks import RATIOS, mask_plan

    count, length = ids.shape
    return mask_plan(count, length, seed, settings.draws, settings.ratios or RATIOS)


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


def as_json(settings: Settings, records: list[dict[str, Any]]) -> str:
    """The document of all seeds."""
    from starquant_fx.evaluation.record import spread_record

    values = {
        "format": FORMAT,
        "version": VERSION,
        "model": settings.model,
        "text": settings.split if settings.text is None else settings.text.name,
        "reference": FULL,
        "summary": spread_record(records),
        "seeds": records,
    }
    return json_format.dumps(values, indent=1, allow_nan=False) + "\n"


def _one_seed(settings: Settings, subject: Subject, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Compiles, measures and prints; returns the comparison, the trajectories by name, and the record."""
    from starquant_fx.evaluation.record import comparison_record, trajectory_record
    from starquant_fx.evaluation.sheets import masked_sheet, summary_sheet, trajectory_sheet
    from starquant_fx.evaluation.trajectory import trajectories

    seeded = {name: recipe.seeded(seed) for name, recipe in subject.recipes.items()}
    plan = mask_plan_of(settings, subject.ids, seed)
    comparison, costs, models = measure(
        subject.model, subject.tokenizer, seeded, subject.texts, subject.ids, plan
    )
    record = comparison_record(comparison, costs)
    sheets = [summary_sheet(comparison, costs), masked_sheet(comparison)]
    found: dict[str, Any] = {}
    if settings.trajectory:
        prompts = prompts_of(settings, subject.ids)
        found = trajectories(
            models, prompts, FULL, new_tokens=settings.new_tokens, steps=settings.steps
        )
        sheets.append(trajectory_sheet(found, FULL))
        for name, one in found.items():
            record["models"][name]["trajectory"] = trajectory_record(one)
    count, length = subject.ids.shape
    show(settings, f"seed {seed}, {count} segments of {length} tokens", *sheets)
    return comparison, found, record


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

"""The run behind ``starquant-fx evaluate``: seed after seed, then the spread, tables and files."""

from __future__ import annotations

import json
from typing import Any

import typer

from starquant_fx.cli.figures import require_figures, write_figures
from starquant_fx.cli.gate import gate_document
from starquant_fx.cli.measure import FULL, measure, seeded
from starquant_fx.cli.subject import Settings, Subject, mask_plan_of, prepare, prompts_of, show

FORMAT, VERSION = "starquant-evaluation", 1


def run(settings: Settings) -> None:
    """Evaluates, prints the tables and writes the files.

    Raises:
        StarQuantError: An option, file, text or model does not fit; files are written whole or not at all.
    """
    from starquant_fx.files import check_destination

    if settings.json is not None:
        check_destination(settings.json, ".json")
    if settings.figures is not None:
        require_figures(settings.figures)
    subject = prepare(settings)
    if settings.quick:
        _write(settings, gate_document(settings, subject))
        return
    document, comparisons, followed = _document(settings, subject)
    _write(settings, document)
    if settings.figures is not None:
        for path in write_figures(
            settings.figures,
            subject.model,
            subject.only_recipes(),
            subject.ids,
            comparisons,
            followed,
        ):
            typer.echo(f"wrote {path}")


def _write(settings: Settings, document: dict[str, Any]) -> None:
    """Writes the JSON document, if one is asked for."""
    from starquant_fx.files import write_atomically

    if settings.json is not None:
        write_atomically(settings.json, json.dumps(document, indent=1, allow_nan=False) + "\n")
        typer.echo(f"wrote {settings.json}")


def _document(settings: Settings, subject: Subject) -> tuple[dict[str, Any], list[Any], Any]:
    """Runs the long evaluation and prints its tables.

    Returns:
        What the JSON document holds; the comparisons, one a seed, and the first seed's trajectories, for figures.
    """
    from starquant_fx.evaluation.record import spread_record
    from starquant_fx.evaluation.sheets import spread_sheet

    comparisons, followed, records = [], [], []
    for seed in settings.seeds:
        comparison, found, record = _one_seed(settings, subject, seed)
        comparisons.append(comparison)
        followed.append(found)
        records.append(record)
    if len(comparisons) > 1:
        show(settings, "all seeds", spread_sheet(comparisons))
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": settings.model,
        "text": settings.split if settings.text is None else settings.text.name,
        "reference": FULL,
        "summary": spread_record(records),
        "seeds": records,
    }
    return document, comparisons, followed[0]


def _one_seed(settings: Settings, subject: Subject, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Compiles, measures and prints; returns the comparison, the trajectories by name, and the record."""
    from starquant_fx.evaluation.record import comparison_record, trajectory_record
    from starquant_fx.evaluation.sheets import masked_sheet, summary_sheet, trajectory_sheet
    from starquant_fx.evaluation.trajectory import trajectories

    plan = mask_plan_of(settings, subject.ids, seed)
    comparison, costs, models = measure(
        subject.model,
        subject.tokenizer,
        seeded(subject.recipes, seed),
        subject.texts,
        subject.ids,
        plan,
        cache=settings.cache,
        target=settings.target,
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

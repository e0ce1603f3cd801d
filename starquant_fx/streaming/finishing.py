"""From the shards of all parts to the checkpoint, which is loaded once before it takes its place."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from starquant_fx.checkpoint.card import model_card
from starquant_fx.checkpoint.format import CHECKPOINT, RUN_FILE, Hashes, Index, Quantization
from starquant_fx.checkpoint.reading import load
from starquant_fx.checkpoint.writing import (
    has_tokenizer,
    write_card,
    write_description,
    write_index,
)
from starquant_fx.folders.writing import check_folder, replacing_folder
from starquant_fx.program import CONSTANTS
from starquant_fx.report import Report, tensor_bytes
from starquant_fx.streaming.memory import check_memory, peak_resident
from starquant_fx.streaming.part import Run
from starquant_fx.streaming.place import discard
from starquant_fx.streaming.work import PartRecord, mark_finished


@dataclasses.dataclass(frozen=True)
class Description:
    """What stands beside the shards.

    Attributes:
        published: The model's configuration.
        says: What is added to it.
        tokenizer: The model's, or None.
        memory_limit: That the run was given.
        force: Whether a checkpoint that is there is replaced.
        starting: Seconds before the first part that this process compiled.
    """

    published: dict[str, Any]
    says: Quantization
    tokenizer: Any
    memory_limit: int | None
    force: bool
    starting: float


def finish(run: Run, path: Path, records: list[PartRecord], described: Description) -> Path:
    """Writes the checkpoint, loads it as a user would, and removes what the run kept.

    Args:
        run: The run; all its parts are done.
        path: Where the checkpoint goes.
        records: What the parts left behind.
        described: The rest.

    Returns:
        The path.

    Raises:
        CheckpointError: Something cannot be written, or a shard was changed meanwhile.
        ConfigError: Loading it took more memory than it may.
    """
    check_folder(path, CHECKPOINT, described.force)  # it may have come meanwhile
    with replacing_folder(path, CHECKPOINT) as place:
        report = _report(run, records)
        files = write_description(
            place, described.published, described.says, report, described.tokenizer
        )
        shards = [run.work.shard(number) for number in range(run.count)]
        for shard in shards:
            _link(shard, place / shard.name)
        hashes = Hashes(
            total_size=sum(record.nbytes for record in records),
            tensor_sha256={n: h for record in records for n, h in record.tensor_sha256.items()},
            header_sha256={s.name: r.header_sha256 for s, r in zip(shards, records, strict=True)},
            file_sha256=files,
        )
        homes = {n: s.name for s, r in zip(shards, records, strict=True) for n in r.tensor_sha256}
        write_index(place, Index(hashes, homes))
        model_type, size = described.published["model_type"], hashes.total_size
        base_model = run.source.hub_id
        card = model_card(
            report, model_type, described.says, size, base_model, tokenizer=has_tokenizer(files)
        )
        write_card(place, card)
        begin = time.perf_counter()
        load(place)
        check_memory(run.memory_limit, "loading the checkpoint")
        run_facts = _run_facts(run, records, described, time.perf_counter() - begin)
        (place / RUN_FILE).write_text(json.dumps(run_facts, indent=1) + "\n", encoding="utf-8")
        mark_finished(run.work, place)
    discard(run.work.folder)
    return path


def _report(run: Run, records: list[PartRecord]) -> Report:
    """The report of all parts; it says nothing of times, which differ from run to run."""
    parameters = {n: p.detach() for n, p in run.source.model.named_parameters()}
    calibration: dict[str, int] = {}
    for record in records:
        calibration |= record.calibration
    calibration.pop("bytes", None)  # how much was in memory depends on what the machine had
    return Report(
        recipe=run.parts.captured.recipe.name,
        target=run.target,
        sites=tuple(row for record in records for row in record.rows),
        unquantized=tuple(pair for record in records for pair in record.unquantized),
        bytes_before=tensor_bytes(parameters, CONSTANTS),
        bytes_after=sum(record.stored_bytes for record in records),
        seconds=(),
        notes=tuple(dict.fromkeys(note for record in records for note in record.notes)),
        calibration=calibration,
    )


def _run_facts(
    run: Run, records: list[PartRecord], described: Description, checking: float
) -> dict[str, Any]:
    """What ``starquant_run.json`` says."""
    passes: dict[str, float] = {}
    for record in records:
        for name, seconds in record.seconds.items():
            passes[name] = round(passes.get(name, 0.0) + seconds, 3)
    return {
        "seconds": round(described.starting + sum(passes.values()) + checking, 3),
        "seconds_of_starting": round(described.starting, 3),
        "seconds_of_loading_it_again": round(checking, 3),
        "seconds_by_pass": dict(sorted(passes.items(), key=lambda item: -item[1])),
        "seconds_by_part": {r.name: round(sum(r.seconds.values()), 3) for r in records},
        "memory_limit_bytes": described.memory_limit,
        "peak_resident_bytes": max([peak_resident(), *(r.peak_bytes for r in records)]),
        "peak_spilled_bytes": max(record.spilled_bytes for record in records),
        "checkpoint_bytes": sum(record.nbytes for record in records),
    }


def _link(file: Path, to: Path) -> None:
    """A second name for a file, so that the run can be finished again if this is interrupted; else a copy."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)

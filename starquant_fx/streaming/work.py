"""What an unfinished run has done, so that the same command goes on from there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from starquant_fx.checkpoint.format import Hashes, Index, shard_name
from starquant_fx.checkpoint.shards import Shards
from starquant_fx.errors import CheckpointError, StarQuantError, cause
from starquant_fx.files import sha256_of, write_atomically
from starquant_fx.folders.workplace import ANY_HIDDEN
from starquant_fx.models.folder import LOCK, PLAN
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.report import SiteRow
from starquant_fx.streaming.place import FINISHED, damaged, refusal, remove_entry, unfinished
from starquant_fx.streaming.sealed import NEW
from starquant_fx.structure import structured

RECORDS = "part-*.json"
SITES = "sites"
"""Folder of the activations of the part in work."""
HALF_WRITTEN = re.compile(rf"{ANY_HIDDEN.pattern}|{SITES}|entering-[0-9]{{5}}|.+{re.escape(NEW)}")
"""Names of what only the part in work needs, and of what is renamed when it is complete."""


@dataclasses.dataclass(frozen=True)
class PartRecord:
    """What a part left behind, written when all of it is on the disk.

    Attributes:
        name: Of the part's block.
        header_sha256: Of its shard.
        tensor_sha256: Of its tensors.
        nbytes: Bytes of its tensors.
        stored_bytes: The same, as the report counts them.
        rows: Of the report.
        unquantized: Of the report.
        notes: Of the report.
        calibration: Of the report.
        seconds: By pass, and for what is not one: reading, handing on, writing.
        peak_bytes: The process's peak of resident memory so far.
        spilled_bytes: Activations and hidden states in files at once.
    """

    name: str
    header_sha256: str
    tensor_sha256: dict[str, str]
    nbytes: int
    stored_bytes: int
    rows: tuple[SiteRow, ...]
    unquantized: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    calibration: dict[str, int]
    seconds: dict[str, float]
    peak_bytes: int
    spilled_bytes: int


class Work:
    """What a run has done so far, in its folder.

    What a killed run left half written is removed.

    Args:
        folder: The folder, which is this run's alone.
        parts: How many parts there are.
        plan: Everything that the result depends on, JSON-ready.

    Raises:
        CheckpointError: Parts are done that belong to another plan, or what is there is damaged or cannot be written.
    """

    def __init__(self, folder: Path, parts: int, plan: dict[str, Any]) -> None:
        self.folder, self._parts = folder, parts
        _same_plan(folder, plan)
        there = [self._record(number).is_file() for number in range(parts)]
        done = there.index(False) if False in there else parts
        if any(there[done:]):
            raise damaged(self._record(done), "no such file, but a later one")
        for entry in folder.iterdir():
            if HALF_WRITTEN.fullmatch(entry.name) and entry != self.entering(done):
                remove_entry(entry)

    def shard(self, number: int) -> Path:
        """The file of a part's tensors."""
        return self.folder / shard_name(number + 1, self._parts)

    def entering(self, number: int) -> Path:
        """The folder of what enters a part."""
        return self.folder / f"entering-{number:05d}"

    @property
    def sites(self) -> Path:
        """The folder of the activations of the part in work."""
        return self.folder / SITES

    @property
    def states(self) -> Path:
        """The folder of the calibration states."""
        return self.folder / "calibration"

    def record(self, number: int) -> PartRecord | None:
        """What a part left behind, its shard compared with the hashes; None if it is not done.

        Raises:
            CheckpointError: The record or the shard is damaged.
        """
        path = self._record(number)
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["sha256"] != _digest(values["record"]):
                raise ValueError("other content than was written")
            record: PartRecord = structured(PartRecord, values["record"], str(path))
        except (OSError, ValueError, TypeError, KeyError, RecursionError, StarQuantError) as error:
            raise damaged(path, cause(error)) from error
        self._check_shard(self.shard(number), record)
        return record

    def keep(self, number: int, record: PartRecord) -> None:
        """Writes what a part left behind; from then on it is done."""
        values = json.loads(json.dumps(dataclasses.asdict(record)))
        content = json.dumps({"sha256": _digest(values), "record": values})
        write_atomically(self._record(number), content)

    def _record(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.json"

    def _check_shard(self, shard: Path, record: PartRecord) -> None:
        headers = {shard.name: record.header_sha256}
        hashes = Hashes(record.nbytes, record.tensor_sha256, headers, {})
        index = Index(hashes, dict.fromkeys(record.tensor_sha256, shard.name))
        try:
            held = Shards(self.folder, index, check=True)
            for name in record.tensor_sha256:
                held.read(name, torch.device("cpu"))
        except CheckpointError as error:
            raise damaged(shard, f"{error.what}: {error.got}") from error


def parts_done(path: Path) -> int:
    """How many parts an unfinished run has done, by the path of its result; looked at from outside."""
    return sum(1 for _ in unfinished(path.resolve()).glob(RECORDS))


def finished(path: Path) -> bool:
    """Whether the run that wrote this checkpoint was only stopped before it could remove its own folder."""
    try:
        mark = unfinished(path) / FINISHED
        return mark.read_text(encoding="ascii") == sha256_of(path / INDEX_FILE)
    except (OSError, ValueError):
        return False


def mark_finished(work: Work, folder: Path) -> None:
    """Notes that a checkpoint is complete, before it takes its place."""
    write_atomically(work.folder / FINISHED, sha256_of(folder / INDEX_FILE))


def _same_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan, or refuses one that differs from that of parts that are done."""
    path = folder / PLAN
    begun = any(folder.glob(RECORDS)) or (folder / FINISHED).exists()
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError(f"a {type(before).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        if begun:
            raise damaged(path, cause(error)) from error
        before = {}
    odd = sorted(k for k in before.keys() | plan if before.get(k) != plan.get(k))
    if odd and not begun:  # nothing is lost: begin anew
        for entry in folder.iterdir():
            if entry.name != LOCK:
                remove_entry(entry)
        write_atomically(path, json.dumps(plan, indent=1))
    elif odd:
        raise refusal(
            "what was begun here is another run",
            folder,
            "the same source, recipe, calibration and versions as when it began",
            "; ".join(_differences(before, plan)[:3]),
            f"run the command that began it, or remove {str(folder)!r} to begin anew",
        )


def _digest(values: Any) -> str:
    """SHA-256 of what JSON holds."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs, by name, down to the values."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        inside = [
            _differences(before.get(k), now.get(k), f"{name}.{k}" if name else k) for k in keys
        ]
        return [one for some in inside for one in some]
    return [f"{name} {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

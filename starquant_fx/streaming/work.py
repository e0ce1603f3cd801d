"""The folder of a run that is not finished: what is done, so that the same command goes on from there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starquant_fx.checkpoint.format import shard_name
from starquant_fx.errors import CheckpointError, cause
from starquant_fx.files import sha256_of, write_atomically
from starquant_fx.folders.workplace import hidden, locked
from starquant_fx.models.safetensors_files import INDEX_FILE
from starquant_fx.report import SiteRow
from starquant_fx.structure import structured

PLAN, LOCK, FINISHED = "plan.json", "lock", "finished"
ENDING = ".unfinished"


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
    """The folder of an unfinished run, beside what it will write.

    Args:
        folder: The folder.
        parts: How many parts there are.
    """

    def __init__(self, folder: Path, parts: int) -> None:
        self.folder, self._parts = folder, parts

    def shard(self, number: int) -> Path:
        """The file of a part's tensors."""
        return self.folder / shard_name(number + 1, self._parts)

    def entering(self, number: int) -> Path:
        """The folder of what enters a part."""
        return self.folder / f"entering-{number:05d}"

    @property
    def states(self) -> Path:
        """The file of the calibration states."""
        return self.folder / "calibration.safetensors"

    def record(self, number: int) -> PartRecord | None:
        """What a part left behind; None if it is not done.

        Raises:
            CheckpointError: The record is damaged.
        """
        path = self._record(number)
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _damaged(path, cause(error)) from error
        record: PartRecord = structured(PartRecord, values, str(path))
        if not self.shard(number).is_file():
            raise _damaged(self.shard(number), "no such file")
        return record

    def keep(self, number: int, record: PartRecord) -> None:
        """Writes what a part left behind; from then on it is done."""
        write_atomically(self._record(number), json.dumps(dataclasses.asdict(record)))

    def _record(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.json"


@contextlib.contextmanager
def opened(path: Path, parts: int, plan: dict[str, Any]) -> Iterator[Work]:
    """Makes the folder of a run or comes back to it; no other run can until this one ends.

    Args:
        path: What the run will write.
        parts: How many parts there are.
        plan: Everything that the result depends on, JSON-ready.

    Yields:
        The folder.

    Raises:
        CheckpointError: Another run is at it, it belongs to another plan, is something else, or cannot be made.
    """
    folder = path.with_name(path.name + ENDING)
    try:
        folder.mkdir(exist_ok=True)
        if (foreign := sorted(p.name for p in folder.iterdir())) and LOCK not in foreign:
            raise _refusal(
                "something else is where the run keeps what it has done",
                folder,
                "a folder that an unfinished run left",
                f"a folder with {', '.join(foreign[:3])}",
                "move it away, or name another folder for the result",
            )
        stream = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise _refusal(
            "the run has no place for what it has done",
            folder,
            "a folder that can be written",
            cause(error),
            "name another folder for the result",
        ) from error
    with stream:
        if not locked(stream):
            stream.seek(0)
            raise _refusal(
                "another run is at work on this folder",
                folder,
                "one run at a time",
                f"a run of process {stream.read(20).strip() or 'unknown'}",
                "wait for it, or name another folder for the result",
            )
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        _same_plan(folder, plan)
        yield Work(folder, parts)


def discard(folder: Path) -> None:
    """Removes the folder of a run that is finished; what is left if that is interrupted belongs to no run any more."""
    gone = hidden(folder.parent, folder.name)
    folder.rename(gone)
    shutil.rmtree(gone)


def finished(path: Path) -> bool:
    """Whether the run that wrote this checkpoint was only stopped before it could remove its own folder."""
    try:
        mark = path.with_name(path.name + ENDING) / FINISHED
        return mark.read_text(encoding="ascii") == sha256_of(path / INDEX_FILE)
    except (OSError, ValueError):
        return False


def mark_finished(work: Work, folder: Path) -> None:
    """Notes that a checkpoint is complete, before it takes its place."""
    write_atomically(work.folder / FINISHED, sha256_of(folder / INDEX_FILE))


def _same_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan, or refuses one that differs from that of parts that are done."""
    path = folder / PLAN
    begun = any(folder.glob("part-*.json"))
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError(f"a {type(before).__name__}")
    except (OSError, ValueError) as error:
        if begun:
            raise _damaged(path, cause(error)) from error
        before = {}
    odd = sorted(k for k in before.keys() | plan if before.get(k) != plan.get(k))
    if odd and not begun:  # nothing is lost: begin anew
        for entry in folder.iterdir():
            if entry.name != LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_atomically(path, json.dumps(plan, indent=1))
    elif odd:
        raise _refusal(
            "what was begun here is another run",
            folder,
            "the same source, recipe, calibration and versions as when it began",
            "; ".join(f"{k} {_short(before.get(k))}, now {_short(plan.get(k))}" for k in odd[:3]),
            f"run the command that began it, or remove {str(folder)!r} to begin anew",
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _damaged(path: Path, got: str) -> CheckpointError:
    return _refusal(
        "what an unfinished run left is damaged",
        path,
        "the file as it was written",
        got,
        f"remove {str(path.parent)!r} to begin anew",
    )


def _refusal(what: str, where: Path, expected: str, got: str, hint: str) -> CheckpointError:
    return CheckpointError(what, where=str(where), expected=expected, got=got, hint=hint)

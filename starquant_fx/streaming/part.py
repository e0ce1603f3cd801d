"""Compiles one part of a model: everything that the recipe does to a block, from its files to its shard."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from starquant_fx.calibration.data import Activations, CalibrationData
from starquant_fx.capture import TRACING
from starquant_fx.checkpoint.checks import check_tensors
from starquant_fx.checkpoint.shards import write_shard
from starquant_fx.compiled import spare
from starquant_fx.errors import InputError
from starquant_fx.files import replacing
from starquant_fx.mapped import release
from starquant_fx.pass_manager import run_passes
from starquant_fx.program import CONSTANTS, Program
from starquant_fx.report import make_report, tensor_bytes
from starquant_fx.streaming import sealed
from starquant_fx.streaming.memory import check_memory, give_back, peak_resident, resident
from starquant_fx.streaming.parts import Parts
from starquant_fx.streaming.source import Source
from starquant_fx.streaming.streams import HandingOn, Streams
from starquant_fx.streaming.work import PartRecord, Work

ACTIVATIONS = 4
"""The share of free memory that a part's cached activations may take is one in so many; the rest goes to files."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What all parts of a run share.

    Attributes:
        source: The model.
        parts: It, cut up.
        data: The calibration states.
        work: Where what is done is kept.
        target: That the checkpoint is for.
        device: Where parts are computed.
        memory_limit: Bytes of resident memory at most; None = any number.
    """

    source: Source
    parts: Parts
    data: CalibrationData
    work: Work
    target: str
    device: torch.device
    memory_limit: int | None

    @property
    def count(self) -> int:
        """Number of parts."""
        return len(self.parts.spans)

    def compile(self, number: int, written: set[str]) -> PartRecord:
        """Compiles a part and keeps what it leaves behind.

        Args:
            number: Of the part.
            written: Names of the tensors that parts before it wrote.

        Returns:
            The record.

        Raises:
            StarQuantError: It cannot be compiled, or takes more memory than it may.
            CheckpointError: The model's files changed, or something cannot be written.
        """
        self.source.check()
        watch = _Watch()
        model = self.source.model
        parameters = dict(model.named_parameters(remove_duplicate=False))
        reads = [name for name in self.parts.reads(number) if name in parameters]
        tensors = {name: parameters[name].to(self.device) for name in reads}
        program = self.parts.program(number, tensors)
        passes = self.parts.passes(number)
        spilled = self.work.sites
        shutil.rmtree(spilled, ignore_errors=True)
        spilled.mkdir()
        entering = self._entering(number)
        self._give_memory(program, spilled, entering)
        handing = None
        if number + 1 < self.count:
            place = self.work.entering(number + 1)
            handing = HandingOn(program.recipe, passes, place)

        def observe(text: str, now: Program) -> None:
            watch.lap(text)
            check_memory(self.memory_limit, text)
            if handing is not None:
                handing(text, now)
                watch.lap("hand on")
                check_memory(self.memory_limit, "hand on")

        with TRACING:
            run_passes(program, passes, observe)
        report = make_report(program, self.target, 0, 0)
        made = {n: t for n, t in program.tensors().items() if n not in written}
        stored = tensor_bytes(made, CONSTANTS)
        if number + 1 == self.count:
            sites = self.parts.sites.values()
            quantized = {name for s in sites if s.options for name in s.linears}
            made |= spare(model, written | made.keys(), quantized)
        check_tensors(made)
        with replacing(self.work.shard(number)) as temporary:
            header, hashes = write_shard(temporary, made)
        self.source.check()
        assert program.calibration is not None
        held = program.calibration.activations.spilled + (entering.nbytes() if entering else 0)
        if handing is not None:
            handing.done()
        watch.lap("write")
        record = PartRecord(
            name=self.parts.spans[number].name,
            header_sha256=header,
            tensor_sha256=hashes,
            nbytes=sum(t.nbytes for t in made.values()),
            stored_bytes=stored,
            rows=report.sites,
            unquantized=report.unquantized,
            notes=report.notes,
            calibration=report.calibration,
            seconds=watch.seconds,
            peak_bytes=peak_resident(),
            spilled_bytes=held,
        )
        self.work.keep(number, record)
        for folder in (spilled, self.work.entering(number)):
            shutil.rmtree(folder, ignore_errors=True)
        for name in reads:
            release(parameters[name])
        program.stages.clear()
        del program, tensors, made
        give_back()
        return record

    def _entering(self, number: int) -> Streams | None:
        """What enters a part, compared with its hashes; None = token ids alone."""
        if number == 0:
            return None
        place = self.work.entering(number)
        sealed.check(place)
        return Streams(place)

    def _give_memory(self, program: Program, spilled: Path, entering: Streams | None) -> None:
        """Tells a program what it may take, and its calibration data where to put what is more."""
        activations = Activations()
        if self.memory_limit is not None:
            weights = sum(tensor.nbytes for tensor in program.tensors().values())
            program.memory = max(0, self.memory_limit - resident() - 2 * weights)
            activations = Activations(spilled, program.memory // ACTIVATIONS)
            program.memory -= program.memory // ACTIVATIONS
        program.calibration = dataclasses.replace(
            self.data, activations=activations, entering=entering
        )


class _Watch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, text: str) -> None:
        """Counts the time since the last lap."""
        now = time.perf_counter()
        name = text.partition("{")[0]
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 3)
        self._last = now


def all_written(records: Iterable[PartRecord]) -> set[str]:
    """Names of the tensors that parts wrote."""
    return {name for record in records for name in record.tensor_sha256}


Progress = Callable[[int, int, PartRecord, float], None]
"""Called after every part with its number from 1, how many there are, its record, and about the seconds that the parts
after it take; writing and loading the checkpoint at the end is left out."""


def check_progress(progress: object) -> None:
    """Raises an InputError for what cannot be called."""
    if progress is not None and not callable(progress):
        raise InputError(
            "progress is not usable",
            where="progress",
            expected="a callable (number, count, record, seconds left), or None",
            got=repr(progress)[:100],
            hint="for example lambda number, count, record, left: print(number, count)",
        )

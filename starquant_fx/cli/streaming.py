"""``starquant-fx compile MODEL DST``: block by block, whatever the model's size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starquant_fx.cli.wording import written
from starquant_fx.errors import InputError
from starquant_fx.sizes import shown_size


def check_options(destination: Path | None, whole: Mapping[str, object], parts: str | None) -> None:
    """Refuses options that do not go with, or without, a folder to compile to.

    Args:
        destination: DST.
        whole: Options for a model that is compiled in memory; falsy where they are not given.
        parts: Value of ``--memory-limit``.

    Raises:
        InputError: One of them is given where it has no meaning.
    """
    for option, value in whole.items():
        if destination is not None and value:
            raise InputError(
                f"{option} does not go with a folder to compile to",
                where=option,
                expected=f"MODEL with {option}, or MODEL DST",
                got=f"both, DST being {str(destination)!r}",
                hint=f"leave {option} out: the checkpoint is written to DST as it is made",
            )
    if destination is None and parts is not None:
        raise InputError(
            "--memory-limit needs a folder to compile to",
            where="--memory-limit",
            expected="MODEL DST",
            got="MODEL alone, which is compiled in memory",
            hint="name a folder after MODEL",
        )


def duration(seconds: float) -> str:
    """A time to read, such as ``1:02:03`` or ``9.5 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def compile_in_parts(
    model: str, destination: Path, recipe: Any, texts: list[str] | None, **options: Any
) -> None:
    """Compiles to a folder, prints a line after every block that was not done before, and the report.

    Args:
        model: MODEL.
        destination: DST.
        recipe: The recipe.
        texts: To calibrate on, or None.
        **options: Of ``compile_folder``.
    """
    from rich.console import Console

    from starquant_fx.checkpoint.format import RUN_FILE, read_report
    from starquant_fx.models.folder import read_json
    from starquant_fx.streaming.api import compile_folder
    from starquant_fx.streaming.work import parts_done

    console = Console()
    before = parts_done(destination)

    def progress(done: int, count: int, record: Any, left: float) -> None:
        if done == before:
            console.print(f"going on: {before} of {count} parts are done", highlight=False)
        if done <= before:
            return
        seconds = sum(record.seconds.values())
        console.print(
            f"  {done:>3}/{count} {record.name:<36} {duration(seconds):>9}, {duration(left)} left for the parts, "
            f"peak {shown_size(record.peak_bytes)}",
            markup=False,
            highlight=False,
        )

    folder = compile_folder(
        model, destination, recipe, calibration=texts, progress=progress, **options
    )
    console.print(read_report(folder))
    run = read_json(folder, RUN_FILE, InputError)
    console.print(
        f"wrote {written(folder)} in {duration(run['seconds'])}, peak "
        f"{shown_size(run['peak_resident_bytes'])} of memory",
        highlight=False,
        markup=False,
    )

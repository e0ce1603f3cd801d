"""Files of an exported folder stay in it: no link of it is followed to anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from starquant_fx.errors import CheckpointError, cause


def check_contained(folder: Path, names: Iterable[str]) -> None:
    """Checks that files lie in their folder, before anybody reads them; those that are missing are not its business.

    The folder itself may be a link, and so may a file that leads to another one of the folder.

    Args:
        folder: The exported folder.
        names: Of files in it.

    Raises:
        CheckpointError: A link leads out of the folder, or cannot be followed.
    """
    for name in names:
        path = folder / name
        try:
            real = path.resolve()
            inside = real.is_relative_to(folder.resolve())
        except (OSError, RuntimeError, ValueError) as error:  # the second is a loop's
            raise _refusal(path, cause(error)) from error
        if not inside:
            raise _refusal(path, f"a link to {real}")


def _refusal(path: Path, got: str) -> CheckpointError:
    return CheckpointError(
        "a file of the export lies somewhere else",
        where=str(path),
        expected="a file in the exported folder itself",
        got=got,
        hint="do not use this folder: somebody changed it after the export; files that you linked yourself, copy",
    )

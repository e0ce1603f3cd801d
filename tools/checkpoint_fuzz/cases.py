"""Drawing a case: what is changed in a copy of a sound folder, from a seed and the number of the case."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from random import Random

from checkpoint_fuzz.damage import DAMAGE, Mutation
from checkpoint_fuzz.documents import DOCUMENTS
from checkpoint_fuzz.headers import HEADERS
from checkpoint_fuzz.places import PLACES
from checkpoint_fuzz.sealing import seal

KINDS: dict[str, dict[Mutation, int]] = {
    "damage": DAMAGE,
    "places": PLACES,
    "headers": HEADERS,
    "documents": DOCUMENTS,
}
WEIGHTS = (4, 1, 4, 3)
TRIES = 20


@dataclasses.dataclass(frozen=True)
class Case:
    """A folder that was changed.

    Attributes:
        number: Of the case.
        steps: What was changed, in words.
        sealed: Whether the index was made to fit again, so that the hashes tell nothing.
        check: Whether loading compares the hashes.
    """

    number: int
    steps: tuple[str, ...]
    sealed: bool
    check: bool

    @property
    def forged(self) -> bool:
        """Whether values may differ without anybody noticing: a forgery may compute anything."""
        return self.sealed or not self.check


def make(seed: int, number: int, sound: Path, folder: Path, hashed: bool = True) -> Case:
    """Copies a folder and changes the copy.

    Args:
        seed: Of all cases.
        number: Of this one.
        sound: The folder.
        folder: Where the copy goes; its parent is the case's own.
        hashed: Whether the folder has an index with hashes, to be sealed again in a part of the cases.

    Returns:
        What was done.
    """
    random = Random(f"{seed}-{number}")
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    shutil.copytree(sound, folder)
    wanted = random.choice((1, 1, 1, 1, 2, 2, 3, 5))
    steps: list[str] = []
    for _ in range(TRIES):
        if len(steps) == wanted:
            break
        (kind,) = random.choices(list(KINDS), WEIGHTS)
        (mutation,) = random.choices(list(KINDS[kind]), list(KINDS[kind].values()))
        try:
            steps.append(f"{kind}: {mutation(random, folder)}")
        except Exception:  # it does not apply to what earlier steps left
            continue
    sealed = hashed and random.random() < 0.45
    if sealed:
        try:
            seal(folder)
        except LookupError:
            sealed = False
    return Case(number, tuple(steps), sealed, check=random.random() < 0.85)

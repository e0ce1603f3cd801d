"""What is known of a kind of folder that this package writes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class FolderKind:
    """A kind of folder.

    Attributes:
        noun: What it is called, with its article.
        main: Name of the file that holds the model, for messages.
        mark_file: The JSON file that says what the folder is; it comes to its place last.
        marked: Whether the content of that file is of this kind.
        owns: Whether a file of this name belongs to the kind.
    """

    noun: str
    main: str
    mark_file: str
    marked: Callable[[dict[str, Any]], bool]
    owns: Callable[[str], bool]

    @property
    def word(self) -> str:
        """The noun without its article."""
        return self.noun.split(maxsplit=1)[1]

    def is_one(self, folder: Path) -> bool:
        """Whether a folder has the mark; nothing else makes it one that may be replaced."""
        try:
            content = json.loads((folder / self.mark_file).read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(content, dict) and self.marked(content)

"""The short texts that ship in the package, taken from public-domain books only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starquant_fx.errors import InputError
from starquant_fx.files import write_atomically
from tiny_training.corpus import Document, Split

# No translations, and only authors who died before 1950.
CALIBRATION_BOOKS = (
    "Alice's Adventures in Wonderland",
    "Anne of Green Gables",
    "Black Beauty",
    "Little Women",
    "The Adventures of Tom Sawyer",
    "The Coral Island",
    "The Jungle Book",
    "The Merry Adventures of Robin Hood",
    "The Secret Garden",
    "The Wonderful Wizard of Oz",
    "Treasure Island",
    "Five Children and It",
)
SOURCES_HEADING = """# Sources of the texts in this folder

Every text is the beginning of a book that is in the public domain in the United States. Within a
file, books follow each other after an empty line; a line is a paragraph. Mark-up was removed, words
were not changed. The digital texts come from the collection mlschmitt/classic-books-markdown
("All titles from the public domain").

`test.txt` and `validation.txt` come from books that no shipped model was trained on;
`calibration.txt` comes from books of the training split.
"""


@dataclass(frozen=True)
class Excerpt:
    """A shipped file.

    Attributes:
        name: File name.
        split: The split its books must belong to.
        characters: At most so many characters of each book.
        titles: Its books; None takes all of the split.
    """

    name: str
    split: Split
    characters: int
    titles: Sequence[str] | None = None


EXCERPTS = (
    Excerpt("test.txt", "test", 30_000),
    Excerpt("validation.txt", "validation", 30_000),
    Excerpt("calibration.txt", "train", 15_000, CALIBRATION_BOOKS),
)


def beginning(text: str, characters: int) -> str:
    """Returns whole lines from the start of a text, at most so many characters."""
    if len(text) <= characters:
        return text
    return text[: text.rindex("\n", 0, characters)].rstrip()


def write_excerpts(documents: Sequence[Document], folder: Path) -> None:
    """Writes the shipped texts and ``SOURCES.md``.

    Args:
        documents: The corpus.
        folder: Where to write.

    Raises:
        InputError: A book is missing from the corpus or is not of the split it should be of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = ["| file | title | author | first published | characters |", "|---|---|---|---|---|"]
    for excerpt in EXCERPTS:
        books = {d.title: d for d in documents if d.source == "book" and d.split == excerpt.split}
        parts = []
        for title in excerpt.titles or sorted(books):
            if title not in books:
                raise InputError(
                    "a book is missing from its split",
                    where=title,
                    expected=f"among the books of {excerpt.split}",
                    got=f"{len(books)} others",
                    hint="use the corpus that the excerpts were cut from",
                )
            book = books[title]
            part = beginning(book.text, excerpt.characters)
            parts.append(part)
            table.append(
                f"| {excerpt.name} | {title} | {book.author} | {book.year} | {len(part)} |"
            )
        write_atomically(folder / excerpt.name, "\n\n".join(parts) + "\n")
    write_atomically(folder / "SOURCES.md", SOURCES_HEADING + "\n" + "\n".join(table) + "\n")

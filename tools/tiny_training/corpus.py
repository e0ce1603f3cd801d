"""The training corpus: documents, how they are cleaned, and which split each belongs to.

Splits are by document and do not depend on the order of the files: books by a fixed list of titles,
stories by a hash of their text (so equal stories always land in the same split).
"""

from __future__ import annotations

import hashlib
import html
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from starquant_fx.errors import InputError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

BOOKS_FILE = Path("books_children/books.jsonl.xz")
STORIES_FILE = Path("tinystories_4m/stories.jsonl.xz")

# Whole books, none of them with a sequel or a second edition in the training split's titles.
HELD_OUT_BOOKS: dict[str, Split] = {
    "The Princess and the Goblin": "validation",
    "Captains Courageous": "validation",
    "A Little Princess": "validation",
    "The Wind in the Willows": "test",
    "The Railway Children": "test",
    "The Story of Doctor Dolittle": "test",
}
HELD_OUT_STORY_PERCENT = 2  # of the stories, for each of validation and test

# Everything first published up to here is in the public domain in the United States.
LAST_PUBLIC_DOMAIN_YEAR = 1928


@dataclass(frozen=True)
class Document:
    """One book or story.

    Attributes:
        source: ``"book"`` or ``"story"``.
        title: The book's title; empty for a story.
        author: The book's author; empty for a story.
        year: Year of first publication; None for a story.
        text: The cleaned text.
    """

    source: Literal["book", "story"]
    title: str
    author: str
    year: int | None
    text: str

    @property
    def split(self) -> Split:
        """The split that this document belongs to, the same in every run."""
        if self.source == "book":
            return HELD_OUT_BOOKS.get(self.title, "train")
        digest = hashlib.blake2b(self.text.encode(), digest_size=8).digest()
        percent = int.from_bytes(digest, "big") % 100
        if percent < HELD_OUT_STORY_PERCENT:
            return "validation"
        return "test" if percent < 2 * HELD_OUT_STORY_PERCENT else "train"


_HTML = re.compile(r"</?[a-zA-Z][^<>\n]{0,80}>")
_FOOTNOTE = re.compile(r"\[(?:\d+|[Ii]llustration[^\]\n]*)\]")
_CHARACTERS = str.maketrans({"*": "", "_": "", "\u200b": "", "\u2060": "", "\u00a0": " "})
_BLANKS = re.compile(r"[ \t]+")
_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """Strips mark-up (tags, footnote marks, emphasis) and surplus white space from a text."""
    text = html.unescape(_HTML.sub("", text.replace("\r\n", "\n")))
    text = _FOOTNOTE.sub("", text).translate(_CHARACTERS)
    text = "\n".join(_BLANKS.sub(" ", line).strip() for line in text.split("\n"))
    return _LINES.sub("\n\n", text).strip()


def _rows(path: Path) -> Iterator[dict[str, object]]:
    if not path.is_file():
        raise InputError(
            "a corpus file is missing",
            where=str(path),
            expected=f"a data folder with {BOOKS_FILE} and {STORIES_FILE}",
            got="no such file",
            hint="name the folder with --data",
        )
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def load_documents(data: Path) -> list[Document]:
    """Reads all documents of the corpus.

    Args:
        data: Folder with ``books_children/books.jsonl.xz`` (title, author, year, text a line) and
            ``tinystories_4m/stories.jsonl.xz`` (text a line).

    Returns:
        Books, then stories, in file order. A book of a later year than 1928 is left out.

    Raises:
        InputError: A file is missing.
    """
    documents = []
    for row in _rows(data / BOOKS_FILE):
        year = int(str(row["year"]))
        if year <= LAST_PUBLIC_DOMAIN_YEAR:
            text = clean(str(row["text"]))
            documents.append(Document("book", str(row["title"]), str(row["author"]), year, text))
    stories = (clean(str(row["text"])) for row in _rows(data / STORIES_FILE))
    return documents + [Document("story", "", "", None, text) for text in stories]


@dataclass(frozen=True)
class Contents:
    """What a corpus holds.

    Attributes:
        books: Number of books.
        held_out_books: How many of them are in no training split.
        last_year: Year of first publication of the latest book.
        stories: Number of stories.
    """

    books: int
    held_out_books: int
    last_year: int
    stories: int


def summarise(documents: Iterable[Document]) -> Contents:
    """Counts what a corpus holds."""
    listed = list(documents)
    books = [d for d in listed if d.source == "book"]
    held_out = sum(d.split != "train" for d in books)
    last_year = max((d.year for d in books if d.year is not None), default=0)
    return Contents(len(books), held_out, last_year, len(listed) - len(books))


def select(documents: Iterable[Document], split: Split) -> list[Document]:
    """Returns the documents of one split, in order."""
    return [document for document in documents if document.split == split]

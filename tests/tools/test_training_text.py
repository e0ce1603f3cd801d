"""Corpus, tokenizer and batches of the small models' training."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from starquant_fx.errors import InputError
from tests.tools.texts import story, write_rows
from tiny_training import corpus
from tiny_training.excerpts import CALIBRATION_BOOKS, EXCERPTS, write_excerpts
from tiny_training.stream import TrainingStream, encode_documents
from tiny_training.tokenizer import SPECIAL_TOKENS, load_tokenizer


def test_splits_are_by_document_disjoint_and_independent_of_order(tmp_path: Path) -> None:
    titles = [*corpus.HELD_OUT_BOOKS, "Another Book", "Too Late"]
    books = [
        {"title": t, "author": "A", "year": 1929 if t == "Too Late" else 1900, "text": f"{t}\nline"}
        for t in titles
    ]
    stories = [{"text": story(i)} for i in range(1000)] + [{"text": story(0)}]
    write_rows(tmp_path / corpus.BOOKS_FILE, books)
    write_rows(tmp_path / corpus.STORIES_FILE, stories)
    loaded = corpus.load_documents(tmp_path)
    splits = {s: corpus.select(loaded, s) for s in corpus.SPLITS}

    assert sum(len(d) for d in splits.values()) == len(loaded) == len(titles) - 1 + 1001
    texts = {s: {d.text for d in found} for s, found in splits.items()}
    for first, second in itertools.combinations(corpus.SPLITS, 2):
        assert not texts[first] & texts[second]
    assert [d.title for d in splits["train"] if d.source == "book"] == ["Another Book"]
    for split in ("validation", "test"):
        assert sum(d.source == "book" for d in splits[split]) == 3
        assert 5 <= sum(d.source == "story" for d in splits[split]) <= 45  # 2 % of 1000, ± 5 σ
    again = corpus.select(list(reversed(loaded)), "test")
    assert {d.text for d in again} == texts["test"]


def test_missing_corpus_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"books\.jsonl\.xz"):
        corpus.load_documents(tmp_path)


def test_cleaning_strips_markup_and_keeps_words() -> None:
    raw = (
        'A <i>fine</i>  day,[3]\r\n*said* _she_\u200b; &amp; "so".\n\n\n\nEnd [Illustration: a cat]'
    )
    assert corpus.clean(raw) == 'A fine day,\nsaid she; & "so".\n\nEnd'


def test_tokenizer_is_lossless_and_knows_its_specials(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "The Mole's  river —\n\n 1907, “naïve” \t🐇 don't ."
    ids = loaded(text)["input_ids"]
    assert loaded.decode(ids) == text
    specials = [loaded.get_vocab()[token] for token in SPECIAL_TOKENS]
    assert specials == list(range(len(loaded) - 4, len(loaded)))
    assert (loaded.eos_token_id, loaded.mask_token_id) == (specials[0], specials[-1])
    assert not set(specials) & set(ids)


def test_excerpts_are_whole_lines_from_books_of_their_split(tmp_path: Path) -> None:
    titles = [*corpus.HELD_OUT_BOOKS, *CALIBRATION_BOOKS, "Not Shipped"]
    books = [
        corpus.Document("book", title, "A. Author", 1900, f"{title}\n" + "word\n" * 8000)
        for title in titles
    ]
    write_excerpts(books, tmp_path)
    for excerpt in EXCERPTS:
        parts = (tmp_path / excerpt.name).read_text().rstrip("\n").split("\n\n")
        shipped = [part.partition("\n")[0] for part in parts]
        wanted = excerpt.titles or [
            t for t, s in corpus.HELD_OUT_BOOKS.items() if s == excerpt.split
        ]
        assert sorted(shipped) == sorted(wanted)
        for part in parts:
            assert len(part) <= excerpt.characters
            assert part.endswith("\nword")
    sources = (tmp_path / "SOURCES.md").read_text()
    assert all((title in sources) == (title != "Not Shipped") for title in titles)
    with pytest.raises(InputError, match="Alice"):
        write_excerpts([book for book in books if "Alice" not in book.title], tmp_path)


# Batches


def test_stream_resumes_anywhere_and_covers_the_epoch(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document]
) -> None:
    stream = TrainingStream(encode_documents(tokenizer, documents), window=64, batch=8, seed=3)
    ahead = stream.batches_per_epoch + 2
    batches = list(itertools.islice(stream.batches(0), ahead + 1))
    for step in (0, 5, stream.batches_per_epoch, ahead):
        assert torch.equal(next(iter(stream.batches(step))), batches[step])
    assert not torch.equal(batches[0], batches[stream.batches_per_epoch])
    seen = np.bincount(stream.epoch(0).ravel(), minlength=len(tokenizer))
    whole = np.bincount(np.concatenate(stream.documents), minlength=len(tokenizer))
    assert (seen <= whole).all()
    assert whole.sum() - seen.sum() <= 64 * (8 + 1)


def test_text_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match="smaller than one batch"):
        TrainingStream([np.zeros(100, dtype=np.uint16)], window=64, batch=8, seed=0)

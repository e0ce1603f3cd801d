"""The training of the small models: splits, resumption, export."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import lzma
import math
import random
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import train_tiny
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.model_facts import is_shifted
from tiny_training import corpus
from tiny_training.card import Figures, Remarks, model_card
from tiny_training.excerpts import CALIBRATION_BOOKS, EXCERPTS, write_excerpts
from tiny_training.export import HeldOut, export, export_curve
from tiny_training.loop import Options, Trainer, describe
from tiny_training.objective import (
    nelbo,
)
from tiny_training.optimizer import Budget
from tiny_training.shapes import ARCHITECTURES, build, published_config
from tiny_training.state import (
    CURVE_FILE,
    STATE_FILE,
    Progress,
    Settings,
    load_checked_state,
    read_curve,
)
from tiny_training.stream import TrainingStream, encode_documents, evaluation_windows
from tiny_training.tokenizer import SPECIAL_TOKENS, load_tokenizer, train_tokenizer

WORDS = ("the", "a", "rabbit", "Mole", "said", "went", "river", "to", "and", "of", "her", "old")
SMALL: dict[str, dict[str, int]] = {
    "llada": {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 48},
    "dream": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
    },
}


def story(seed: int, words: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + "."


@pytest.fixture(scope="module")
def documents() -> list[corpus.Document]:
    return [corpus.Document("story", "", "", None, story(i)) for i in range(200)]


@pytest.fixture(scope="module")
def tokenizer(documents: list[corpus.Document]) -> PreTrainedTokenizerFast:
    return train_tokenizer((d.text for d in documents), vocab_size=320)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


# Corpus and tokenizer


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


# Training


def settings_of(arch: str, tokenizer: PreTrainedTokenizerFast, **others: Any) -> Settings:
    config = published_config(arch, tokenizer, **SMALL[arch])
    return Settings(
        arch,
        config,
        seed=5,
        batch=4,
        window=64,
        muon_rate=0.02,
        embedding_rate=0.02,
        adam_rate=3e-3,
        **others,
    )


def trainer_of(
    folder: Path,
    arch: str,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[corpus.Document],
    **others: Any,
) -> Trainer:
    encoded = encode_documents(tokenizer, documents)
    settings = settings_of(arch, tokenizer, **others)
    stream = TrainingStream(encoded, settings.window, settings.batch, settings.seed)
    options = Options(torch.device("cpu"), compiled=False, save_seconds=1e9, eval_tokens=1024)
    return Trainer(folder, settings, stream, evaluation_windows(encoded, 64, 8), options)


BUDGET = Budget(target_tokens=12 * 256, decay_from=8 * 256, warmup_steps=3)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resumed_run_ends_with_the_same_weights(
    arch: str, tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    rows: list[dict[str, float]] = []
    trainer_of(tmp_path / "whole", arch, tokenizer, documents).run(BUDGET, rows.append)
    interrupted = tmp_path / "interrupted"
    for stop in (5, 3, None):
        trainer = trainer_of(interrupted, arch, tokenizer, documents)
        trainer.run(BUDGET, lambda row: None, stop_after=stop)
    whole, moments, progress = load_checked_state(tmp_path / "whole")
    weights, resumed_moments, resumed = load_checked_state(interrupted)
    assert (progress.step, progress.tokens) == (resumed.step, resumed.tokens) == (12, 12 * 256)
    assert whole.keys() == weights.keys()
    assert all(torch.equal(whole[k], weights[k]) for k in whole)
    assert all(torch.equal(moments[k], resumed_moments[k]) for k in moments)
    assert resumed.hardware == progress.hardware == [describe(trainer.options)]
    assert {"step", "tokens", "train_loss", "validation_nelbo", "seconds"} <= rows[0].keys()


def test_a_run_can_start_with_a_large_mask_embedding(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    plain = trainer_of(tmp_path / "plain", "llada", tokenizer, documents)
    loud = trainer_of(tmp_path / "loud", "llada", tokenizer, documents, mask_embedding_scale=30.0)
    before, after = (dict(t.model.named_parameters()) for t in (plain, loud))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 1
    expected = before[changed[0]].detach().clone()
    expected[plain.mask_id] *= 30
    torch.testing.assert_close(after[changed[0]].detach(), expected)


def test_training_learns(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    rows: list[dict[str, float]] = []
    trainer = trainer_of(tmp_path, "llada", tokenizer, documents)
    trainer.run(Budget(80 * 256, 60 * 256, warmup_steps=5), rows.append)
    assert rows[-1]["validation_nelbo"] < 0.8 * math.log(len(tokenizer))
    assert [row["step"] for row in read_curve(tmp_path / CURVE_FILE)] == [
        row["step"] for row in rows
    ]


def test_work_lost_with_a_stopped_run_leaves_the_curve(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    trainer_of(tmp_path, "dream", tokenizer, documents).run(BUDGET, lambda row: None, stop_after=8)
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"step": 9, "tokens": 2304, "validation_nelbo": 5.0}\n{"step": 10, "tok')
    trainer_of(tmp_path, "dream", tokenizer, documents)
    assert [row["step"] for row in read_curve(tmp_path / CURVE_FILE)] == [4, 8]


def test_other_settings_and_broken_states_are_refused(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    trainer_of(tmp_path, "llada", tokenizer, documents).run(BUDGET, lambda row: None, stop_after=1)
    with pytest.raises(InputError, match="other settings"):
        trainer_of(tmp_path, "dream", tokenizer, documents)
    state = tmp_path / STATE_FILE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer_of(tmp_path, "llada", tokenizer, documents)


def test_run_starts_from_given_weights(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    first = trainer_of(tmp_path / "first", "llada", tokenizer, documents)
    first.run(BUDGET, lambda row: None, stop_after=2)
    weights, _, _ = load_checked_state(tmp_path / "first")
    second = Trainer(
        tmp_path / "second",
        dataclasses.replace(first.settings, init_from="first"),
        first.stream,
        first.validation,
        first.options,
        weights,
    )
    assert second.progress.step == 0
    assert all(torch.equal(value, weights[k]) for k, value in second.model.state_dict().items())


# Export


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_export_loads_and_its_card_holds_the_measured_figures(
    arch: str, tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document], tmp_path: Path
) -> None:
    run, destination = tmp_path / "run", tmp_path / "pretrained" / f"{arch}-tiny"
    trainer = trainer_of(run, arch, tokenizer, documents)
    trainer.run(BUDGET, lambda row: None)
    weights, _, progress = load_checked_state(run)
    windows = trainer.validation
    write = functools.partial(
        export,
        trainer.settings,
        weights,
        progress,
        tokenizer,
        HeldOut(windows, windows),
        [*documents, corpus.Document("book", "The Railway Children", "A", 1906, "Text.")],
        destination,
        Remarks("Intermediate.", "python tools/train_tiny.py train"),
    )
    write()
    validation, _ = write()  # replaces the first
    assert {p.name for p in destination.parent.iterdir()} == {destination.name}
    tensors = load_file(destination / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    model = build(arch, json.loads((destination / "config.json").read_text()))
    model.load_state_dict(tensors)
    loaded = load_tokenizer(destination)
    assert loaded.mask_token_id == model.config.mask_token_id
    again = nelbo(model, windows, cast("int", loaded.mask_token_id), is_shifted(model))
    assert again == pytest.approx(validation.nelbo, rel=1e-6)
    card = (destination / "README.md").read_text()
    assert f"| validation | {validation.nelbo:.4f} |" in card
    assert "Eldan" in card
    assert "Community Data License Agreement" in card

    export_curve(run, tmp_path / "docs", "tiny")
    curve = tmp_path / "docs" / "tiny.jsonl"
    rows = read_curve(curve)
    assert rows == read_curve(run / CURVE_FILE) != []
    export_curve(run, tmp_path / "docs", "tiny", earlier=curve)  # as if it had started from itself
    both = read_curve(curve)
    assert both[: len(rows)] == rows
    assert both[-1]["tokens"] == 2 * rows[-1]["tokens"]
    assert both[-1]["validation_nelbo"] == rows[-1]["validation_nelbo"]
    shutil.rmtree(run)
    assert (tmp_path / "docs/tiny.svg").read_text().count("<polyline") == 2


def test_a_card_tells_what_run_and_corpus_were(
    tokenizer: PreTrainedTokenizerFast, documents: list[corpus.Document]
) -> None:
    books = [corpus.Document("book", t, "A", 1906, "") for t in ("The Railway Children", "Another")]
    figures = Figures(4.5, {0.15: 0.25}, windows=3, window=96)

    def card(progress: Progress, window: int, hardware: str | None) -> str:
        settings = dataclasses.replace(settings_of("llada", tokenizer), window=window)
        remarks = Remarks("Final.", "python x", hardware=hardware)
        contents = corpus.summarise([*documents, *books])
        text = model_card("m", settings, 10**6, progress, {"test": figures}, contents, remarks)
        return " ".join(text.split())

    told = card(Progress(3, 192, 7200.0, ["a clockwork", "an abacus"]), 256, "ignored")
    for words in (
        "| test | 4.5000 | 25.0 % | 288 |",
        "evenly spaced windows of 96 tokens",
        "packed windows of 256 tokens joined by the end-of-text token, cut to 256, 128 or 64.",
        "3 steps of 1,024 tokens, 0.0 M tokens in all, 2.00 hours, seed 5.",
        "- Hardware: a clockwork; then an abacus. -",
        "slice of 200 stories",
        "2 children's books first published up to 1906",
        "1 whole books are held out",
    ):
        assert words in told
    assert "token, cut to 96." in card(Progress(), 96, None)
    assert "- Hardware: not recorded. -" in card(Progress(), 96, None)
    assert "- Hardware: a clockwork. -" in card(Progress(), 96, "a clockwork")


def test_command_line_from_corpus_to_shipped_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, to = str(tmp_path / "data"), str(tmp_path / "run"), tmp_path / "llada-tiny"
    books = [
        {"title": t, "author": "A", "year": 1900, "text": story(i, 400)}
        for i, t in enumerate([*corpus.HELD_OUT_BOOKS, "Another Book"])
    ]
    write_rows(tmp_path / "data" / corpus.BOOKS_FILE, books)
    write_rows(tmp_path / "data" / corpus.STORIES_FILE, [{"text": story(i)} for i in range(9)])
    train = ["train", "--arch", "llada", "--eager", "--batch", "1", "--window", "64", "--run", run]
    assert train_tiny.main([*train, "--data", data, "--target-tokens", "128"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tokens"] == 128
    export_line = ["export", "--arch", "llada", "--run", run, "--data", data, "--to", str(to)]
    assert train_tiny.main([*export_line, "--note", "Only a test.", "--history", "Cut short."]) == 0
    card = (to / "README.md").read_text()
    assert "**Only a test.**" in card
    assert "- Cut short.\n" in card
    assert {t.dtype for t in load_file(to / "model.safetensors").values()} == {torch.bfloat16}
    capsys.readouterr()
    assert train_tiny.main([*train, "--data", str(tmp_path)]) == 2
    assert "error: a corpus file is missing" in capsys.readouterr().err

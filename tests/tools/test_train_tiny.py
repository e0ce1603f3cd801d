"""The training of the small models: resumption, export."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import train_tiny
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.model_facts import is_shifted
from tests.tools.texts import story, write_rows
from tiny_training import corpus
from tiny_training.card import Figures, Remarks, model_card
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
from tiny_training.tokenizer import load_tokenizer

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

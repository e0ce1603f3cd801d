"""``starquant-fx evaluate`` on a small model whose tokenizer knows letters only."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from starquant_fx.cli import subject
from starquant_fx.cli.app import app
from starquant_fx.cli.measure import chosen_recipes, labelled
from starquant_fx.errors import InputError, RecipeError, StarQuantError
from starquant_fx.recipes import get_recipe
from tests.small_models import MASK, model

LETTERS = string.ascii_letters
OPTIONS = ("--length", "16", "--segments", "4", "--draws", "1")


class Letters:
    """A token a letter, whatever the text says besides."""

    def __init__(self, size: int = 61, mask_token_id: int | None = MASK["odd"]) -> None:
        self.size = size
        self.mask_token_id = mask_token_id
        self.eos_token_id = 59

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str, **options: Any) -> list[int]:
        return [LETTERS.index(c) for c in text if c in LETTERS]

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text)}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "held_out.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 6)
    return path


def evaluate(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, tokenizer: Any = None) -> str:
    """What the command prints; refusals are raised."""
    given = tokenizer or Letters()
    monkeypatch.setattr(subject, "load", lambda name, device: (model("odd"), given))
    done = CliRunner().invoke(
        app, ["evaluate", "odd", *map(str, arguments)], env={"COLUMNS": "100"}
    )
    if isinstance(done.exception, StarQuantError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_seeds_trajectories_and_figures_come_out_of_one_run(
    monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "figures.json"
    trajectory = ("--prompts", "2", "--new-tokens", "8", "--steps", "4")
    printed = evaluate(
        monkeypatch,
        *("--recipes", "rtn-w8a8, rtn-w3a4", "--text", text, "--seeds", "2", *OPTIONS),
        *("--ratio", "0.25", "--ratio", "0.75", *trajectory, "--json", output),
        *("--figures", tmp_path / "figures"),
    )
    drawn = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert drawn == {".png", ".svg"}
    for words in ("seed 0", "seed 1", "all seeds", "±", "commit flips", "accuracy"):
        assert words in printed
    values = json.loads(output.read_text())
    assert (values["format"], values["model"]) == ("starquant-evaluation", "odd")
    assert [seed["seed"] for seed in values["seeds"]] == [0, 1]
    gaps = {}
    for name in ("rtn-w8a8", "rtn-w3a4"):
        found = values["summary"][name]["gap"]
        each = [seed["models"][name]["gap"]["mean"] for seed in values["seeds"]]
        assert found["values"] == each
        assert found["mean"] == pytest.approx(sum(each) / 2)
        assert found["deviation"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
        gaps[name] = abs(found["mean"])
        one = values["seeds"][0]["models"][name]
        assert [at["ratio"] for at in one["masked"]] == [0.25, 0.75]
        assert {"top1", "kl", "accuracy", "drift", "signed_drift"} < set(one["masked"][0])
        assert sum(one["trajectory"]["committed"]) == 2 * 8
        assert len(one["trajectory"]["hidden_error"]) == 4
        assert one["compile_seconds"] > 0
    assert gaps["rtn-w8a8"] < gaps["rtn-w3a4"]
    assert values["seeds"][0]["models"]["full precision"]["gap"]["mean"] == 0


@pytest.mark.parametrize("quick", [(), ("--quick",)])
def test_what_was_fitted_is_kept_and_used_again(
    monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path, quick: tuple[str, ...]
) -> None:
    kept, first, second = tmp_path / "kept", tmp_path / "first.json", tmp_path / "second.json"
    recipe = tmp_path / "small.json"
    values = get_recipe("sgat-w4a4").to_dict()
    values["calibration"].update(samples=4, length=16, rollout_steps=1)
    recipe.write_text(json.dumps(values))
    options: list[str | Path] = ["--recipe", recipe, "--text", text, "--cache", kept]
    options += [*OPTIONS, *quick]
    evaluate(monkeypatch, *options, "--json", first)
    files = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert files
    evaluate(monkeypatch, *options, "--json", second)
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == files
    gaps = [
        [seed["models"]["sgat-w4a4"] for seed in json.loads(path.read_text())["seeds"]]
        for path in (first, second)
    ]
    for one, other in zip(*gaps, strict=True):
        assert {key for key in one if one[key] != other[key]} <= {"compile_seconds", "run_seconds"}


def test_the_quick_gate_prints_its_rank_correlation(
    monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "gate.json"
    options = ("--recipes", "rtn-w8a8,rtn-w3a4", "--text", text, "--length", "16", "--json", output)
    printed = evaluate(monkeypatch, *options, "--segments", "4", "--quick", "--rank")
    assert "Quick gate" in printed
    values = json.loads(output.read_text())
    (seed,) = values["seeds"]
    assert (values["format"], seed["draws"]) == ("starquant-gate", 1)
    assert -1 <= seed["long"]["spearman_of_own_gap"] <= 1
    assert f"2 recipes: {seed['long']['spearman']:.3f}" in " ".join(printed.split())
    scores = {name: found["score"]["mean"] for name, found in seed["models"].items()}
    assert 0 < scores["rtn-w8a8"] < scores["rtn-w3a4"]
    assert set(seed["long"]["gaps"]) == set(scores)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, (), "the text file cannot be read"),
        ("", (), "the text is empty"),
        ("a", (), "does not fill one segment"),
        ("abcdefghijklmnopqrst", (), "too few segments"),
        ("abcdefgh" * 40, ("--length", "65"), "longer than the maximum"),
        ("abcdefgh" * 40, ("--ratio", "0.02"), "no token would be masked"),
        ("abcdefgh" * 40, ("--quick", "--trajectory"), "measures one number"),
        ("abcdefgh" * 40, ("--without", "insert-tac"), "no recipe has the pass"),
        ("abcdefgh" * 40, ("--recipes", "rtn-w4a4"), "have the same name"),
        ("abcdefgh" * 40, ("--seed", "1", "--seeds", "2"), "exclude each other"),
        ("abcdefgh" * 40, ("--trajectory", "--new-tokens", "16"), "do not fit the segments"),
        ("abcdefgh" * 40, ("--trajectory", "--prompts", "5"), "do not fit the segments"),
        ("abcdefgh" * 40, ("--quick", "--rank"), "one recipe cannot be ranked"),
    ],
)
def test_bad_input_is_refused_before_the_work_and_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    content: str | None,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("starquant_fx.api.compile", lambda *a, **k: pytest.fail("compiled"))
    path, output = tmp_path / "text.txt", tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StarQuantError, match=message):
        evaluate(
            monkeypatch,
            *("-r", "rtn-w4a4", "--text", path, "--json", output),
            *(*OPTIONS, *options),
        )
    assert sorted(tmp_path.iterdir()) == [path] * (content is not None)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (Letters(size=62), "does not match the model's vocabulary"),
        (Letters(mask_token_id=3), "mask token is not the model's"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: Path, tokenizer: Letters, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(monkeypatch, "-r", "rtn-w4a4", "--text", text, *OPTIONS, tokenizer=tokenizer)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, text: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("starquant_fx.api.compile", lambda *a, **k: pytest.fail("compiled"))
    for output in (tmp_path / "no" / "a.json", tmp_path / "a.txt"):
        with pytest.raises(StarQuantError, match="cannot be written here"):
            evaluate(monkeypatch, "-r", "rtn-w4a4", "--text", text, *OPTIONS, "--json", output)
    assert list(tmp_path.iterdir()) == [text]


def test_variants_are_added_to_the_recipes_that_have_the_pass() -> None:
    found = chosen_recipes(["rtn-w4a4", "star-w4a4"], ["insert-tac"], ["fit-sgat{epochs=1}"])
    names = [recipe.name for recipe in found]
    assert names[:3] == ["rtn-w4a4", "star-w4a4", "star(no insert-tac)-w4a4"]
    assert len(names) == 4
    assert "epochs=1" in names[3]
    with pytest.raises(RecipeError, match="did you mean 'insert-tac'"):
        chosen_recipes(["star-w4a4"], ["insert-tca"], [])


def test_a_replaced_pass_keeps_its_other_options() -> None:
    (_, changed) = chosen_recipes(["star-w4a4"], [], ["insert-tac{block=8}"])
    (tac,) = (one for one in changed.passes if one.name == "insert-tac")
    assert (tac.block, tac.tune) == (8, True)
    (_, changed) = chosen_recipes(["quarot-w4a4"], [], ["insert-sgat{seed=3}"])
    (sgat,) = (one for one in changed.passes if one.name == "insert-sgat")
    assert (sgat.structure, sgat.seed) == ("hadamard", 3)


def test_recipes_of_one_name_need_names_of_their_own() -> None:
    one = get_recipe("rtn-w4a4")
    assert labelled({"a": one, "b": one}) == {"a": one, "b": one}
    with pytest.raises(RecipeError, match="same name"):
        labelled([one, one])
    with pytest.raises(RecipeError, match="same name"):
        labelled({"full precision": one})

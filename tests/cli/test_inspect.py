from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from starquant_fx.cli import main
from starquant_fx.cli.app import app
from starquant_fx.cost.shapes import Shape
from starquant_fx.errors import CheckpointError, InputError, RecipeError, StarQuantError
from starquant_fx.inspection import drawing
from starquant_fx.inspection.collection import read_recording, to_json
from starquant_fx.inspection.overlays import MEASURES
from starquant_fx.inspection.recorder import Recorder
from starquant_fx.models.locate import PRETRAINED
from tests.compile_cases import compiled, fresh
from tests.inspection.test_recorder import recorded

ROOT = Path(__file__).parents[2]
needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")


def shown(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": "100"})
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recordings") / "llada.json"
    path.write_text(to_json(recorded("llada", "star-w4a4")[0]))
    return path


def test_a_configuration_goes_to_the_terminal_and_into_files(tmp_path: Path) -> None:
    page, kept = tmp_path / "a.html", tmp_path / "a.json"
    small = ("--config", "llada-8b", "--layers", "1", "--recipe", "rtn-w4a8", "--target", "cpu")
    text = shown(*small, "--tokens", "2x64", "--html", page, "--json", kept)
    assert text.count("wrote") == 2
    assert page.stat().st_size < 3e6
    found = read_recording(kept)
    assert (found.model, found.recipe, found.tokens) == (
        *("llada-8b, 1 layer only", "rtn-w4a8"),
        "2x64",
    )
    assert found.names[-1] == "lower"
    assert "site_codes" in shown("--recording", kept)


def test_a_config_file_is_enough(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    published = json.loads((PRETRAINED / "dream-tiny" / "config.json").read_text())
    config.write_text(json.dumps({**published, "num_hidden_layers": 1}))
    text = shown("--config", config, "--recipe", "rtn-w8a8")
    assert "mlp" in text


def test_a_packed_checkpoint_has_the_graph_and_the_errors_of_its_compilation(
    tmp_path: Path,
) -> None:
    recorder = Recorder("odd", Shape(2, 8))
    one = fresh("odd", "star-w4a4", target="reference", observe=recorder)
    right = recorder.recording()
    folder, kept = one.save(tmp_path / "packed"), tmp_path / "a.json"
    shown(folder, "--json", kept, "--tokens", right.tokens)
    found = read_recording(kept)
    assert (found.recipe, found.names, found.tokens) == (right.recipe, right.names, right.tokens)
    assert found.last.nodes == right.last.nodes
    assert found.sites == right.sites
    for option in ("--recipe", "--seed", "--calibration"):
        with pytest.raises(InputError, match=f"{option} does not go with a packed checkpoint"):
            shown(folder, option, "0" if option == "--seed" else "rtn-w4a4")


@pytest.mark.parametrize("file", ["", "config.json"])
def test_the_configuration_of_a_packed_checkpoint_has_its_recipe(file: str, tmp_path: Path) -> None:
    config, kept = compiled("odd", "rtn-w8a8").save(tmp_path / "a") / file, tmp_path / "a.json"
    shown("--config", config, "--tokens", "1x8", "--json", kept)
    assert read_recording(kept).recipe == "rtn-w8a8"
    for option, value in (("--recipe", "rtn-w4a4"), ("--seed", "0")):
        with pytest.raises(InputError, match=f"{option} does not go with a packed checkpoint"):
            shown("--config", config, option, value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), ["insert-sgat", "q_proj", "alike"]),
        (("--passes",), ["capture", "fuse", "numerically"]),
        (("--stage", "insert-sgat"), ["insert-sgat", "rotate"]),
        (("--site", "1.attn_out"), ["blocks.1.attn_out", "SQNR", "transform_quantize"]),
        (("--site", "1.attn_out", "--stage", "capture"), ["aten.linear"]),
        (("--diff", "insert-tac..fuse"), ["added", "quantized_linear"]),
        (("--sites",), ["SQNR", "blocks.0.ff_proj"]),
        (("--sort", "error"), ["by error"]),
        (("--analysis", "critical-path", "--chip", "A100"), ["critical path", "A100"]),
        (("--analysis", "all"), ["critical path", "precision along"]),
    ],
)
def test_views_of_a_recording(file: Path, options: tuple[str, ...], told: list[str]) -> None:
    text = shown("--recording", file, *options)
    assert all(part in text for part in told)


def test_all_files_of_a_recording(file: Path, tmp_path: Path) -> None:
    dot, figure, overlays = tmp_path / "a.dot", tmp_path / "b.gv", tmp_path / "overlays"
    block = "model.transformer.blocks.0"
    shown(
        *("--recording", file, "--dot", dot, "--module", block, "--stage", "capture"),
        *("--figure", figure, "--overlays", overlays),
    )
    assert "q_proj" in dot.read_text()
    assert "blocks.1" not in dot.read_text()
    assert figure.read_text().startswith("digraph")
    assert {p.stem for p in overlays.iterdir()} == set(MEASURES)
    assert json.loads((overlays / "error.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ([], InputError, "nothing to inspect"),
        (["llada-tiny", "--config", "llada-8b"], InputError, "MODEL, --config"),
        (["--config", "llada-9b"], InputError, "did you mean 'llada-8b'"),
        (["LLaDA-8B"], InputError, "write --config LLaDA-8B"),
        (["a.json"], InputError, "write --recording a.json"),
        (["--config", "llada-8b", "-r", "star-w4a9"], RecipeError, "w4a9"),
        (["--config", "llada-8b", "--calibration", "a.txt"], InputError, "--calibration"),
        (["--config", "llada-8b", "--tokens", "many"], InputError, "--tokens"),
        (
            ["--config", "llada-8b", "--analysis", "precison"],
            InputError,
            "did you mean 'precision'",
        ),
        (["--config", "llada-8b", "--sort", "eror"], InputError, "did you mean 'error'"),
        (["--config", "llada-8b", "--chip", "H900"], InputError, "H900"),
        (["--config", "llada-8b", "--module", "a"], InputError, "--module"),
        (["--config", "llada-8b", "--json", "a.html"], CheckpointError, ".json"),
        (["--config", "llada-8b", "--html", "nowhere/a.html"], CheckpointError, "nowhere"),
        (["--recording", "FILE", "--recipe", "rtn-w4a4"], InputError, "--recipe"),
        (["--recording", "FILE", "--layers", "2"], InputError, "--layers"),
        (["--recording", "FILE", "--tokens", "1x1024"], InputError, "--tokens"),
        (["--recording", "FILE", "--seed", "0"], InputError, "--seed"),
        (["--recording", "FILE", "--chip", "A100"], InputError, "--analysis critical-path"),
        (
            ["--recording", "FILE", "--chip", "A100", "--analysis", "precision"],
            *(InputError, "--analysis critical-path"),
        ),
        (["--config", "llada-8b", "--tokens", ""], InputError, "--tokens"),
        (["--recording", "FILE", "--block", "model"], InputError, "--figure beside it"),
        (
            ["--recording", "FILE", "--figure", "a.dot", "--block", "model.transformer.block.0"],
            *(InputError, "did you mean 'model.transformer.blocks."),
        ),
        (
            ["--config", "llada-8b", "--dot", "a.dot", "--figure", "../TMP/a.dot"],
            *(InputError, "--dot and --figure"),
        ),
        (
            ["--config", "llada-8b", "--json", "error.json", "--overlays", "."],
            *(InputError, "--json and --overlays"),
        ),
        (
            ["--config", "llada-8b", "--json", "a.json", "--overlays", "a.json"],
            *(InputError, "--json and --overlays"),
        ),
        (["--config", "llada-8b", "--overlays", "FILE"], CheckpointError, "a file of this name"),
        (["--recording", "FILE", "--stage", "fold-sgta"], InputError, "fold-sgat"),
        (["--recording", "FILE", "--site", "0.q_prj"], InputError, "q_proj"),
        (["--recording", "FILE", "--diff", ".."], InputError, "no range"),
        (["--recording", "FILE", "--diff", "fuse..fold"], InputError, "fold"),
        (["--recording", "nowhere.json"], CheckpointError, "nowhere.json"),
        (["--recording", "FILE", "--dot", "a.dot", "--module", "no.such"], InputError, "no.such"),
    ],
)
def test_refusals_come_before_the_work_and_leave_no_file(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[StarQuantError],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as refused:
        shown(
            *(
                str(file) if one == "FILE" else one.replace("TMP", tmp_path.name)
                for one in arguments
            )
        )
    assert told in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("--json", "a.json"), ("--html", "a.html"), ("--dot", "a.dot"), ("--figure", "a.gv")),
        *(pytest.param(option, "a.svg", marks=needs_graphviz) for option in ("--svg", "--figure")),
    ],
)
def test_files_are_replaced_with_force_only(
    file: Path, tmp_path: Path, option: str, name: str
) -> None:
    path = tmp_path / name
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="there is a file already"):
        shown("--recording", file, option, path)
    assert path.read_text() == "mine"
    shown("--recording", file, option, path, "--force")
    assert path.read_text() != "mine"


def test_what_cannot_be_drawn_leaves_nothing_behind(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("Graphviz cannot draw this figure")

    monkeypatch.setattr(drawing, "graphviz", lambda: "dot")
    monkeypatch.setattr(drawing, "svg", refuse)
    others = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    for option in ("--svg", "--figure"):
        with pytest.raises(InputError, match="cannot draw"):
            shown(
                *("--recording", file, *others, "--overlays", tmp_path / "o"),
                *(option, tmp_path / "a.svg"),
            )
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_of_the_block_that_is_named(file: Path, tmp_path: Path) -> None:
    def figure(*options: str) -> str:
        shown("--recording", file, "--figure", tmp_path / "a.dot", "--force", *options)
        return (tmp_path / "a.dot").read_text()

    first, second = (figure("--block", f"model.transformer.blocks.{i}") for i in (0, 1))
    assert figure() == first
    assert second != first
    with pytest.raises(InputError, match="no attention"):
        figure("--block", "model.transformer.wte")


def test_an_overlay_that_is_there_is_kept(file: Path, tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text("mine")
    with pytest.raises(CheckpointError, match="there is a file already"):
        shown("--recording", file, "--overlays", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["error.json"]


def test_a_picture_needs_graphviz(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for option in ("--svg", "--figure"):
        with pytest.raises(InputError, match="Graphviz"):
            shown("--recording", file, option, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_the_tool_is_the_command(file: Path) -> None:
    tool = [sys.executable, str(ROOT / "tools" / "inspect_graph.py")]
    done = subprocess.run(
        [*tool, "--recording", str(file), "--passes"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "insert-sgat" in done.stdout
    refused = subprocess.run(
        [*tool, "--recording", str(file), "--stage", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "there is no stage" in refused.stderr


def test_a_refusal_gives_the_terminal_nothing_to_obey(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(file.read_text())
    values["starquant"]["model"] = "\x1b]0;mine\x07\x1b[31m\x9b1m\u202e\rx"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    monkeypatch.setattr(
        sys, "argv", ["starquant-fx", "inspect", "--recording", str(path), "--stage", "x"]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr().err
    assert all(c.isprintable() or c == "\n" for c in told)
    assert "\\x1b]0;mine\\x07" in told
    assert len(told.splitlines()) == 5


@pytest.mark.parametrize(
    ("edit", "options"),
    [
        (lambda own: own["sites"][0].update(flops=10**400), ()),
        (lambda own: own["sites"][0].update(bytes_after=10**400), ("--sites",)),
        (lambda own: own["stages"][0].update(seconds=10**400), ("--passes",)),
        (lambda own: own.update(tokens="9" * 5000 + "x1"), ("--analysis", "boundaries")),
        (lambda own: own["sites"][0].update(name="9" * 5000), ("--sort", "name")),
        (lambda own: own.update(model="\ud800"), ("--html", "a.html")),
    ],
)
def test_a_damaged_recording_is_refused_whatever_is_asked(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[dict[str, Any]], None],
    options: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = json.loads(file.read_text())
    edit(values["starquant"])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="the recording cannot be read"):
        shown("--recording", path, *options)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]

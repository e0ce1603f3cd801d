"""Artifacts: what a compilation made can be written, read and bound to the model again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import starquant_fx
from starquant_fx.artifact import load_artifact, save_artifact
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import CheckpointError, InputError
from tests import compile_cases, small_models

GOLDEN = Path(__file__).parent / "goldens" / "llada"
IDS = torch.tensor([[3, 158, 40, 158, 7, 99, 158, 21]])


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return starquant_fx.from_pretrained(GOLDEN)[0]


@pytest.fixture(scope="module")
def compiled(model: torch.nn.Module) -> CompiledModel:
    calibration = torch.randint(0, 150, (16, 24), generator=torch.Generator().manual_seed(0))
    recipe = starquant_fx.get_recipe("star-w4a4")
    return starquant_fx.compile(model, recipe, calibration=calibration)


def test_loaded_artifact_gives_the_same_bits(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    again = load_artifact(model, path)
    assert torch.equal(again(IDS).logits, compiled(IDS).logits)
    keep = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    assert torch.equal(again(IDS, keep).logits, compiled(IDS, keep).logits)
    assert again.report == compiled.report
    assert again.recipe == compiled.recipe
    assert [p.name for p in tmp_path.iterdir()] == ["golden.safetensors"]


def test_weights_are_stored_packed(compiled: CompiledModel, tmp_path: Path) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    packed = {n: t for n, t in load_file(path).items() if n.endswith(".packed")}
    assert len(packed) == 7 * 3
    assert all(t.dtype == torch.uint8 for t in packed.values())
    assert packed["starquant.model.transformer.blocks.0.q_proj.packed"].shape == (1, 64 * 32)


def test_another_model_is_refused(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    other = starquant_fx.from_pretrained(GOLDEN)[0]
    with torch.no_grad():
        next(other.parameters())[-1, -1] += 1
    with pytest.raises(CheckpointError, match="another model"):
        load_artifact(other, path)


def test_damaged_and_foreign_files_are_refused(
    model: torch.nn.Module, compiled: CompiledModel, tmp_path: Path
) -> None:
    path = save_artifact(compiled, tmp_path / "golden.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_artifact(model, short)
    with pytest.raises(CheckpointError, match="not an artifact of this version"):
        load_artifact(model, GOLDEN / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "version": "3"}
    newer = tmp_path / "newer.safetensors"
    save_file(load_file(path), newer, metadata)
    with pytest.raises(CheckpointError, match="version 3"):
        load_artifact(model, newer)


LAYER = "starquant.model.transformer.blocks.0"
PACKED, SUMS, SCALE = (
    f"{LAYER}.q_proj.{part}" for part in ("packed", "column_sum", "weight_scale")
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a model of one layer: that it does not fit is found in little time."""
    return save_artifact(one_layer(), tmp_path_factory.mktemp("saved") / "a.safetensors")


def one_layer() -> CompiledModel:
    return compile_cases.compiled("odd", "rtn-w4a4")


def rewritten(
    saved: Path,
    path: Path,
    tensors: dict[str, Tensor | None] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A copy of the artifact with other tensors (None removes one) or other metadata."""
    with safe_open(saved, framework="pt") as file:
        old = file.metadata()
    held = {n: t for n, t in {**load_file(saved), **(tensors or {})}.items() if t is not None}
    save_file(held, path, {**old, **(metadata or {})})
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_artifact(small_models.model("odd"), path)
    error = caught.value
    assert error.where == str(path)
    assert error.expected
    assert error.got
    assert error.hint
    return str(error)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({PACKED: None}, f"1 missing ({PACKED})"),
        ({"starquant.more": torch.ones(2)}, "1 extra (starquant.more)"),
        (
            {PACKED: torch.ones(2, 1280, dtype=torch.uint8)},
            "expected U8 [1, 1280], got U8 [2, 1280]",
        ),
        (
            {PACKED: torch.ones(1, 1280, dtype=torch.int8)},
            "expected U8 [1, 1280], got I8 [1, 1280]",
        ),
        ({SCALE: torch.ones(36, dtype=torch.float16)}, "expected F32 [36], got F16 [36]"),
        ({SCALE: torch.full((36,), torch.nan)}, f"{SCALE} is not finite"),
        ({SCALE: torch.full((36,), -torch.inf)}, "36 NaN or Inf"),
        ({SUMS: torch.zeros(36, dtype=torch.int32)}, f"{SUMS} is not the sum of the codes"),
    ],
)
def test_tensors_are_compared_with_what_the_recipe_makes(
    saved: Path,
    tmp_path: Path,
    tensors: dict[str, Tensor | None],
    message: str,
) -> None:
    assert message in refusal(rewritten(saved, tmp_path / "a.safetensors", tensors))


def test_names_shapes_and_dtypes_are_compared_before_a_tensor_is_read(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rewritten(saved, tmp_path / "a.safetensors", {PACKED: None})
    monkeypatch.setattr("starquant_fx.artifact.bind_tensors", pytest.fail)
    assert "1 missing" in refusal(path)


def report_with(**changed: Any) -> str:
    return json.dumps({**one_layer().report.to_dict(), **changed})


@pytest.mark.parametrize("value", ['"x"', "99999", "-1", "true", "1.5", "{", '"158"'])
def test_a_mask_token_that_the_model_does_not_have(saved: Path, tmp_path: Path, value: str) -> None:
    path = rewritten(saved, tmp_path / "a.safetensors", metadata={"mask_token_id": value})
    assert "the artifact's mask_token_id is damaged" in refusal(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": 3}, "report.target expected: str got: 3"),
        ({"target": "auto"}, "unknown target"),
        ({"target": "quantum"}, "unknown target"),
        ({"sites": {}}, "report.sites"),
        ({"sites": [{"site": "a"}]}, "is missing where: report.sites[0]"),
        ({"unquantized": [["a"]]}, "report.unquantized[0]"),
        ({"seconds": [["fuse", "1"]]}, "report.seconds[0][1] expected: float got: '1'"),
        ({"bytes_after": 1.5}, "report.bytes_after"),
        ({"bytes_aftr": 1}, "did you mean 'bytes_after'?"),
        ({"notes": [1]}, "report.notes[0]"),
    ],
)
def test_damaged_reports(
    saved: Path,
    tmp_path: Path,
    changed: dict[str, Any],
    message: str,
) -> None:
    report = report_with(**changed)
    path = rewritten(saved, tmp_path / "a.safetensors", metadata={"report": report})
    text = refusal(path)
    assert "the artifact's report is damaged" in text
    assert message in text


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("[]", "the artifact's recipe is damaged"),
        ("3", "the artifact's recipe is damaged"),
        ('{"method": "rtn"}', "the recipe lacks weight_bits"),
        ("[" * 100_000, "the artifact's recipe is damaged"),
    ],
)
def test_damaged_recipes(saved: Path, tmp_path: Path, recipe: str, message: str) -> None:
    path = rewritten(saved, tmp_path / "a.safetensors", metadata={"recipe": recipe})
    assert message in refusal(path)


def test_a_recipe_that_does_not_apply(saved: Path, tmp_path: Path) -> None:
    recipe = json.dumps({**one_layer().recipe.to_dict(), "passes": ["fuse"]})
    path = rewritten(saved, tmp_path / "a.safetensors", metadata={"recipe": recipe})
    assert "out of order" in refusal(path)


def test_places_without_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("nowhere", "empty", "."):
        assert "the artifact cannot be read" in refusal(tmp_path / name)


def test_only_what_was_compiled_is_saved(model: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no compiled model"):
        save_artifact(model, tmp_path / "a.safetensors")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/x.safetensors", "x.pt"])
def test_bad_paths_write_nothing(compiled: CompiledModel, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be written here"):
        save_artifact(compiled, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_report_survives_json(compiled: CompiledModel) -> None:
    values = json.loads(json.dumps(compiled.report.to_dict()))
    assert len(values["sites"]) == 4 * 3
    assert values["unquantized"] == [
        ["model.transformer.ff_out", "ignored by the recipe (role:head)"]
    ]

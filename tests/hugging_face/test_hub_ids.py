"""Hub ids: data alone is fetched, with the options that were given; no hub is asked here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForMaskedLM

import starquant_fx
from starquant_fx.errors import CheckpointError
from starquant_fx.integrations.hugging_face.modeling import StarQuantLladaForMaskedLM
from tests.small_models import masked_ids

Folder = Callable[[str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill_cache(cache: Path, hub_id: str, source: Path, subfolder: str = "") -> None:
    """Makes the hub's cache of a repository, with a snapshot of links into the blobs."""
    place = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT / subfolder
    for folder in (place / "refs", place / "blobs", snapshot):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for file in source.iterdir():
        blob = Path(shutil.copy(file, place / "blobs" / f"blob-of-{file.name}"))
        (snapshot / file.name).symlink_to(blob)


@pytest.mark.parametrize("subfolder", ["", "w4a4", "quantized/w4a4"])
@pytest.mark.parametrize("kind", ["packed", "full"])
def test_from_the_cache(
    kind: str, subfolder: str, packed: Folder, full: Folder, tmp_path: Path
) -> None:
    source = packed("odd") if kind == "packed" else full("odd")
    fill_cache(tmp_path, "me/odd", source, subfolder)
    loaded: Any = AutoModelForMaskedLM.from_pretrained(
        "me/odd", cache_dir=tmp_path, local_files_only=True, subfolder=subfolder
    )
    ids = masked_ids("odd", (1, 6), 0.5)
    ours: Any = (
        starquant_fx.load(source) if kind == "packed" else starquant_fx.from_pretrained(source)[0]
    )
    assert torch.equal(loaded(ids).logits, ours(ids).logits)
    assert loaded.name_or_path == "me/odd"


def test_the_card_names_the_base_model(full: Folder, tmp_path: Path) -> None:
    fill_cache(tmp_path, "me/odd", full("odd"))
    config = starquant_fx.StarQuantConfig("rtn-w4a4")
    loaded: Any = AutoModelForMaskedLM.from_pretrained(
        "me/odd", cache_dir=tmp_path, local_files_only=True, quantization_config=config
    )
    loaded.save_pretrained(tmp_path / "a")
    assert 'base_model: "me/odd"' in (tmp_path / "a" / "README.md").read_text()


def test_options_reach_the_client(packed: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(packed("odd"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    given = {"revision": "v2", "cache_dir": "c", "force_download": True, "token": "t"}
    StarQuantLladaForMaskedLM.from_pretrained("me/odd", local_files_only=True, **given)
    patterns = asked.pop("allow_patterns")
    assert asked == {"hub_id": "me/odd", "local_files_only": True, **given}
    assert "starquant_report.json" in patterns
    assert not any(p.endswith((".py", ".bin", ".pt")) or p == "*" for p in patterns)


@pytest.mark.parametrize("name", ["no-such-folder", "", "a/b/c", None])
def test_names_that_are_nothing(name: Any) -> None:
    with pytest.raises(CheckpointError):
        StarQuantLladaForMaskedLM.from_pretrained(name)


def test_what_is_not_in_the_cache(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        StarQuantLladaForMaskedLM.from_pretrained(
            "me/nothing", cache_dir=tmp_path, local_files_only=True
        )


@pytest.mark.parametrize("subfolder", ["..", "/", "nothing"])
def test_subfolders_that_are_none(subfolder: str, packed: Folder) -> None:
    with pytest.raises(CheckpointError):
        StarQuantLladaForMaskedLM.from_pretrained(packed("odd"), subfolder=subfolder)

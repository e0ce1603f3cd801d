"""``from_pretrained`` of full-precision folders and packed checkpoints gives our models' bits in transformers' form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel

import starquant_fx
from starquant_fx.models.locate import PRETRAINED
from tests.checkpoint.forging import edit
from tests.small_models import MASK, masked_ids, model

Folder = Callable[[str], Path]
KINDS = ("llada", "dream", "odd")


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModel])
@pytest.mark.parametrize("kind", KINDS)
def test_full_precision(kind: str, auto: Any, full: Folder) -> None:
    loaded: Any = auto.from_pretrained(full(kind))
    assert PreTrainedModel in type(loaded).__mro__
    assert loaded.compiled is None
    assert not loaded.training
    ids = masked_ids(kind, (2, 7), 0.5)
    output: Any = loaded(ids)
    assert isinstance(output, MaskedLMOutput)
    assert torch.equal(output["logits"], model(kind)(ids).logits)
    assert loaded.state_dict().keys() == model(kind).state_dict().keys()


@pytest.mark.parametrize(
    ("kind", "auto"), [*((kind, AutoModelForMaskedLM) for kind in KINDS), ("odd", AutoModel)]
)
def test_packed(kind: str, auto: Any, packed: Folder) -> None:
    loaded: Any = auto.from_pretrained(packed(kind))
    ours = starquant_fx.load(packed(kind))
    assert PreTrainedModel in type(loaded).__mro__
    ids = masked_ids(kind, (3, 12), 0.9)
    output: Any = loaded(ids)
    assert isinstance(output, MaskedLMOutput)
    assert torch.equal(output["logits"], ours(ids).logits)
    assert loaded.compiled.report == ours.report
    assert loaded.num_parameters() == sum(p.numel() for p in model(kind).parameters())


def test_packed_with_padding(packed: Folder) -> None:
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    keep = torch.ones(2, 8, dtype=torch.long)
    keep[0, :3] = 0
    ids = masked_ids("odd", (2, 8), 0.5)
    wanted = starquant_fx.load(packed("odd"))(ids, keep).logits
    assert torch.equal(loaded(ids, keep).logits, wanted)
    assert torch.equal(loaded(input_ids=ids, attention_mask=keep).logits, wanted)


def test_packed_tensors_are_mapped_to_their_files(packed: Folder) -> None:
    path = packed("odd")
    loaded = AutoModelForMaskedLM.from_pretrained(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    del loaded


@pytest.mark.parametrize("kind", ["llada", "dream"])
def test_generation_is_the_samplers(kind: str, packed: Folder) -> None:
    prompt = masked_ids(kind, (1, 5), 0.0)
    options: dict[str, Any] = {"steps": 8}
    options |= {"gen_length": 8, "block_length": 8} if kind == "llada" else {"max_new_tokens": 8}
    loaded = AutoModelForMaskedLM.from_pretrained(packed(kind))
    found = []
    for call in (loaded.generate, starquant_fx.load(packed(kind)).generate):
        torch.manual_seed(0)
        found.append(call(prompt, **options))
    torch.manual_seed(0)
    keep = torch.ones_like(prompt)
    found.append(loaded.generate(input_ids=prompt, attention_mask=keep, **options))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["llada-tiny", "dream-tiny"])
def test_the_shipped_models(name: str) -> None:
    loaded = AutoModelForMaskedLM.from_pretrained(PRETRAINED / name)
    tokenizer: Any = AutoTokenizer.from_pretrained(PRETRAINED / name)
    ours, same = starquant_fx.from_pretrained(name)
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    assert same is not None
    assert ids.tolist() == [same("Once upon a time")["input_ids"]]
    assert torch.equal(loaded(ids).logits, ours(ids).logits)


def test_a_pipeline_of_transformers(tiny: Path) -> None:
    fill: Any = pipeline("fill-mask", model=str(tiny))
    found = fill("Once upon a<|mask|>, there was a little girl.", top_k=3)
    assert [one["token_str"].strip() for one in found][:1] == ["time"]


@pytest.mark.parametrize(
    ("asked", "dtype"),
    [(None, torch.float32), ("auto", torch.bfloat16), ("float16", torch.float16)],
)
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_dtypes_of_full_precision(name: str, asked: Any, dtype: torch.dtype) -> None:
    loaded = AutoModelForMaskedLM.from_pretrained(PRETRAINED / "llada-tiny", **{name: asked})
    assert loaded.dtype == dtype
    assert loaded.config.dtype == dtype
    assert next(loaded.parameters()).dtype == dtype


def test_dtypes_of_packed(packed: Folder) -> None:
    for asked in (None, "auto", torch.float32, "float32"):
        loaded = AutoModelForMaskedLM.from_pretrained(packed("odd"), dtype=asked)
        assert loaded.dtype == torch.float32


@pytest.mark.parametrize("place", ["cpu", torch.device("cpu"), {"": "cpu"}, "auto"])
def test_device_maps_of_one_device(place: Any, packed: Folder) -> None:
    loaded = AutoModelForMaskedLM.from_pretrained(packed("odd"), device_map=place)
    assert loaded.device == torch.device(
        "cuda" if place == "auto" and torch.cuda.is_available() else "cpu"
    )


def test_loading_info_names_nothing(packed: Folder, full: Folder) -> None:
    for folder in (packed("odd"), full("odd")):
        _, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
        assert {key: list(one) for key, one in info.items()} == {key: [] for key in info}
        assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys()


def test_a_subfolder(packed: Folder, tmp_path: Path) -> None:
    shutil.copytree(packed("odd"), tmp_path / "all" / "w4a4")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "all", subfolder="w4a4")
    ids = masked_ids("odd", (1, 6), 0.5)
    assert torch.equal(loaded(ids).logits, starquant_fx.load(packed("odd"))(ids).logits)


@pytest.mark.parametrize("trust", [None, False, True])
def test_code_of_a_repository_is_never_run(
    trust: bool | None, full: Folder, tmp_path: Path
) -> None:
    """Published LLaDA and Dream name code in their folders."""
    folder = Path(shutil.copytree(full("odd"), tmp_path / "odd"))
    code = "raise SystemExit('remote code was run')\n"
    names = {
        "AutoConfig": "config_x.X",
        "AutoModel": "model_x.Y",
        "AutoModelForMaskedLM": "model_x.Y",
    }
    edit(folder / "config.json", lambda c: c.update(auto_map=names))
    for name in ("config_x.py", "model_x.py"):
        (folder / name).write_text(code)
    for auto in (AutoModelForMaskedLM, AutoModel):
        loaded = auto.from_pretrained(folder, trust_remote_code=trust)
        assert type(loaded).__module__ == "starquant_fx.integrations.hugging_face.modeling"
    loaded.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_configurations(packed: Folder, full: Folder, tmp_path: Path) -> None:
    plain = AutoConfig.from_pretrained(full("llada"))
    assert plain.mask_token_id == MASK["llada"]
    assert plain.hidden_size == plain.d_model
    assert plain.num_hidden_layers == plain.n_layers
    says = json.loads((packed("llada") / "config.json").read_text())["quantization_config"]
    assert AutoConfig.from_pretrained(packed("llada")).quantization_config == says
    loaded = AutoModelForMaskedLM.from_pretrained(packed("llada"))
    assert loaded.config.to_dict()["quantization_config"] == says
    # A configuration that is saved by transformers is read again, with the weights beside it.
    plain.save_pretrained(tmp_path)
    shutil.copy(full("llada") / "model.safetensors", tmp_path)
    ids = masked_ids("llada", (1, 6), 0.5)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model("llada")(ids).logits)


def test_a_model_of_a_configuration_alone_has_random_weights(full: Folder) -> None:
    built = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(full("llada")))
    ids = masked_ids("llada", (1, 6), 0.5)
    assert built(ids).logits.shape == model("llada")(ids).logits.shape
    assert 0.01 < built.get_output_embeddings().weight.std() < 0.03
    built(ids).logits.sum().backward()
    assert all(p.grad is not None for p in built.parameters())


def test_tuples_and_hidden_states(full: Folder) -> None:
    loaded = AutoModelForMaskedLM.from_pretrained(full("llada"))
    ids = masked_ids("llada", (1, 6), 0.5)
    wanted = model("llada")(ids, output_hidden_states=True)
    output = loaded(ids, output_hidden_states=True)
    assert all(map(torch.equal, output.hidden_states, wanted.hidden_states))
    assert torch.equal(loaded(ids, return_dict=False)[0], wanted.logits)
    asked = AutoModelForMaskedLM.from_pretrained(full("llada"), output_hidden_states=True)
    assert len(asked(ids).hidden_states) == len(wanted.hidden_states)


def test_moving_and_casting_full_precision(full: Folder) -> None:
    loaded = AutoModelForMaskedLM.from_pretrained(full("odd")).to(torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded(masked_ids("odd", (1, 5), 0.5)).logits.dtype == torch.bfloat16
    packed = loaded.to("cpu")
    assert packed is loaded

"""``from_pretrained`` honours an argument or refuses it, and never loads what the folder does not say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertConfig

from starquant_fx.errors import CheckpointError, ConfigError, InputError, StarQuantError
from starquant_fx.integrations.hugging_face.modeling import (
    StarQuantDreamForMaskedLM,
    StarQuantLladaForMaskedLM,
)
from tests.checkpoint.forging import (
    edit,
    edit_config,
    edit_quantization,
    flip,
    retensor,
    seal,
    shard,
)
from tests.small_models import masked_ids

Folder = Callable[[str], Path]
UNKNOWN: dict[str, Any] = {
    "state_dict": {},
    "variant": "fp16",
    "output_attentions": True,
    "key_mapping": {"a": "b"},
    "ignore_mismatched_sizes": True,
    "use_safetensors": False,
    "attn_implementation": "eager",
    "max_memory": {0: "1GB"},
    "offload_folder": "x",
    "tp_plan": "auto",
    "proxies": {"http": "x"},
    "fusion_config": {"x": True},
    "use_kernels": True,
    "disable_mmap": True,
    "load_in_4bit": True,
    "device_map": {"model": "cpu", "packed": "meta"},
    "dtype": "int8",
    "device_mapp": "cpu",
    "revision": "v2",
    "adapter_kwargs": {"_adapter_model_path": "x"},
}
SAME_AS_DEFAULT: dict[str, Any] = {
    "attn_implementation": "sdpa",
    "use_safetensors": True,
    "low_cpu_mem_usage": True,
    "weights_only": True,
    "local_files_only": True,
    "ignore_mismatched_sizes": False,
    "revision": "main",
    "trust_remote_code": True,
}


def refusal(folder: Path, **options: Any) -> StarQuantError:
    with pytest.raises(StarQuantError) as caught:
        AutoModelForMaskedLM.from_pretrained(folder, **options)
    error = caught.value
    assert error.where
    assert error.expected
    assert error.got
    assert error.hint
    return error


@pytest.mark.parametrize("name", UNKNOWN)
def test_arguments_that_are_not_honoured(name: str, packed: Folder, full: Folder) -> None:
    where = "attn_implementation" if name == "output_attentions" else name  # which it sets
    for folder in (packed("odd"), full("odd")):
        assert where in str(refusal(folder, **{name: UNKNOWN[name]}).where)


@pytest.mark.parametrize("name", SAME_AS_DEFAULT)
def test_arguments_that_say_what_is_done_anyway(name: str, packed: Folder) -> None:
    AutoModelForMaskedLM.from_pretrained(packed("odd"), **{name: SAME_AS_DEFAULT[name]})


def test_an_argument_that_is_misspelt_is_told_its_name(packed: Folder) -> None:
    error = refusal(packed("odd"), device_mapp="cpu")
    assert error.hint == "did you mean 'device_map'?"


def test_packed_keeps_its_dtype(packed: Folder) -> None:
    assert refusal(packed("odd"), dtype=torch.bfloat16).where == "dtype"
    loaded: Any = AutoModelForMaskedLM.from_pretrained(packed("odd"))
    before = loaded(masked_ids("odd", (1, 5), 0.5)).logits
    casts = (lambda: loaded.to(torch.float16), loaded.bfloat16, loaded.double)
    for moved in (*casts, lambda: loaded.to("meta"), lambda: loaded.to(device="meta")):
        with pytest.raises(InputError, match="stays as it was loaded"):
            moved()
    assert loaded.to("cpu", torch.float32) is loaded
    for refused in (loaded.half, loaded.float):  # by transformers
        with pytest.raises(ValueError, match="not supported for quantized"):
            refused()
    assert torch.equal(loaded(masked_ids("odd", (1, 5), 0.5)).logits, before)


def test_devices_that_are_not_there(packed: Folder, full: Folder) -> None:
    for folder in (packed("odd"), full("odd")):
        with pytest.raises(ConfigError, match="device is not usable"):
            AutoModelForMaskedLM.from_pretrained(folder, device_map="meta")


@pytest.mark.parametrize("kind", ["packed", "full"])
def test_a_configuration_that_is_not_the_folders(kind: str, packed: Folder, full: Folder) -> None:
    folder = packed("odd") if kind == "packed" else full("odd")
    assert refusal(folder, mask_token_id=3).where == "mask_token_id"
    assert refusal(folder, n_layers=2).where == "n_layers"
    config = AutoConfig.from_pretrained(folder)
    AutoModelForMaskedLM.from_pretrained(folder, config=config)
    config.rope_theta = 5.0
    assert refusal(folder, config=config).where == "rope_theta"
    other = AutoConfig.from_pretrained(packed("llada"))
    assert "d_model" in str(refusal(folder, config=other).where)
    if kind == "packed":
        config = AutoConfig.from_pretrained(folder)
        config.quantization_config = {**config.quantization_config, "version": 2}
        assert refusal(folder, config=config).where == "quantization_config"


def test_classes_of_other_types(packed: Folder) -> None:
    with pytest.raises(ConfigError, match="of another type"):
        StarQuantDreamForMaskedLM.from_pretrained(packed("odd"))
    with pytest.raises(InputError):
        StarQuantLladaForMaskedLM.from_pretrained(packed("odd"), config="config.json")
    assert StarQuantLladaForMaskedLM.from_pretrained(packed("odd")).is_quantized
    with pytest.raises(InputError):
        StarQuantLladaForMaskedLM.from_pretrained(packed("odd"), config=BertConfig())


def test_a_packed_configuration_alone_makes_no_model(packed: Folder) -> None:
    config = AutoConfig.from_pretrained(packed("odd"))
    with pytest.raises(InputError, match="not built from its configuration alone"):
        AutoModelForMaskedLM.from_config(config)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a bit of a tensor": lambda f: flip(shard(f), -1),
    "a bit of a header": lambda f: flip(shard(f), 12),
    "a shard cut short": lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-5]),
    "a shard missing": lambda f: shard(f).unlink(),
    "the index missing": lambda f: (f / "model.safetensors.index.json").unlink(),
    "the report changed": lambda f: edit(
        f / "starquant_report.json", lambda r: r.update(recipe="x")
    ),
    "the config changed": lambda f: edit(f / "config.json", lambda c: c.update(rope_theta=7.0)),
    "another version": lambda f: edit_quantization(f, version=2),
    "one more key": lambda f: edit_quantization(f, bits=4),
    "a recipe of nothing": lambda f: edit_quantization(f, recipe={}),
    "one more layer": lambda f: edit_config(f, n_layers=2),
    "a tensor of another shape": lambda f: retensor(f, "wte.weight", torch.zeros(3, 3)),
    "a tensor more": lambda f: retensor(f, "extra", torch.zeros(3)),
    "a tensor missing": lambda f: retensor(f, "wte.weight", None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints(damage: str, packed: Folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed("odd"), tmp_path / "odd"))
    DAMAGE[damage](folder)
    assert str(folder) in str(refusal(folder).where)


def test_full_precision_that_does_not_fit(full: Folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(full("odd"), tmp_path / "odd"))
    edit(folder / "config.json", lambda c: c.update(mlp_hidden_size=70))
    with pytest.raises(CheckpointError):
        AutoModelForMaskedLM.from_pretrained(folder)
    edit(folder / "config.json", lambda c: c.update(mlp_hidden_size=75, block_type="sequential"))
    with pytest.raises(ConfigError, match="block_type"):
        AutoModelForMaskedLM.from_pretrained(folder)


def test_calls_that_do_not_fit(packed: Folder, full: Folder) -> None:
    ids = masked_ids("odd", (1, 6), 0.5)
    for folder in (packed("odd"), full("odd")):
        loaded: Any = AutoModelForMaskedLM.from_pretrained(folder)
        for given in ({"labels": ids}, {"output_attentions": True}, {"position_ids": ids}, {}):
            named = {"input_ids": ids, **given} if given else {}
            with pytest.raises(InputError):
                loaded(**named)
        assert loaded(ids, output_attentions=False, labels=None).logits.shape[:2] == ids.shape
        for arguments in ((), (ids, None)):
            with pytest.raises(InputError, match="given once"):
                loaded.generate(*arguments, **({"input_ids": ids} if arguments else {}))


def test_the_hash_is_of_what_seal_says(packed: Folder, tmp_path: Path) -> None:
    """The tests above change one thing: a folder that is sealed again without a change loads."""
    folder = Path(shutil.copytree(packed("odd"), tmp_path / "odd"))
    seal(folder)
    AutoModelForMaskedLM.from_pretrained(folder)

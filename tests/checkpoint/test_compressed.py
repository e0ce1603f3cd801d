"""The format compressed-tensors: the library of that name loads what was written, and computes the same."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import starquant_fx
from starquant_fx.checkpoint.compressed import convert
from starquant_fx.checkpoint.compressed_format import packed
from starquant_fx.compiled import CompiledModel
from starquant_fx.errors import CheckpointError, InputError
from starquant_fx.kernels import reference
from starquant_fx.models.folder import read_published
from starquant_fx.models.registry import ARCHITECTURES
from tests import compile_cases
from tests.compile_cases import compiled, fresh
from tests.small_models import MASK, masked_ids, model

pytest.importorskip("compressed_tensors", reason="the package compressed-tensors (extra dev)")


def loaded_by_the_library(folder: Path) -> nn.Module:
    """Our implementation without weights, filled as transformers' quantizer fills one of its own."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    published = read_published(folder)
    config = QuantizationConfig.model_validate(published.pop("quantization_config"))
    architecture = ARCHITECTURES[published["model_type"]]
    built = architecture.model(architecture.config.from_dict(published)).eval()
    apply_quantization_config(built, config, run_compressed=False)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(built)
    tensors = {n: t for p in folder.glob("*.safetensors") for n, t in load_file(p).items()}
    built.load_state_dict(tensors, strict=True, assign=True)
    return built


def codes_of(one: CompiledModel, name: str) -> tuple[Tensor, Tensor]:
    """Codes [n, d] and scales [n] of a linear."""
    held = one.tensors()
    (site,) = [s for s in one.program.quantized_sites() if name in s.linears]
    scale = held[f"starquant.{name}.weight_scale"]
    bits = site.options.weight_bits  # type: ignore[union-attr]
    raw = held[f"starquant.{name}.packed"]
    return reference.unpack(raw, bits, len(scale), site.features), scale


def close(one: Tensor, other: Tensor, share: float) -> None:
    error = (one - other).norm() / one.norm()
    assert error < share, float(error)


PLAIN = ["rtn-w4a16", "rtn-w8a16", "rtn-w8a8", "rtn-w4a8", "rtn-w4a4", "gptq-w4a16", "gptq-w8a8"]


@pytest.mark.parametrize("recipe", PLAIN)
@pytest.mark.parametrize("kind", ["odd", "dream"])
def test_the_library_computes_the_same(kind: str, recipe: str, tmp_path: Path) -> None:
    one = compiled(kind, recipe)
    library = loaded_by_the_library(convert(one, tmp_path / "a", shard_bytes=20_000))
    ids = masked_ids(kind, (2, 9), 0.5)
    library(ids)  # the first call unpacks the weights
    linears = [name for site in one.program.quantized_sites() for name in site.linears]
    assert len(linears) > 6
    for name in linears:
        codes, scale = codes_of(one, name)
        weight = library.get_parameter(f"{name}.weight")
        assert torch.equal(weight, codes.float() * scale[:, None]), name
    if recipe.endswith("a16"):
        assert torch.equal(one(ids).logits, library(ids).logits)
    close(one(ids).logits, library(ids).logits, 1e-5)


@pytest.mark.parametrize("recipe", ["awq-w4a16", "smoothquant-w8a8", "smoothquant-w4a8"])
def test_scales_of_activations_move_into_what_comes_before(recipe: str, tmp_path: Path) -> None:
    one = compiled("llada", recipe)
    folder = convert(one, tmp_path / "a")
    library = loaded_by_the_library(folder)
    ids = masked_ids("llada", (2, 9), 0.5)
    close(one(ids).logits, library(ids).logits, 1e-5)
    held = {n: t for p in folder.glob("*.safetensors") for n, t in load_file(p).items()}
    layer = "model.transformer.blocks.0"
    factor = one.tensors()[f"starquant.{layer}.ff_out.scale_inverse"]
    codes, scale = codes_of(one, f"{layer}.up_proj")
    assert torch.equal(held[f"{layer}.up_proj.weight_scale"][:, 0], scale * factor)
    weight = library.get_parameter(f"{layer}.up_proj.weight")
    assert torch.equal(weight, codes.float() * (scale * factor)[:, None])
    gain = one.tensors()[f"starquant.{layer}.q_proj.scale_inverse"]
    assert torch.equal(held[f"{layer}.attn_norm.weight"], gain)
    assert torch.equal(held["model.transformer.ln_f.weight"], torch.ones(64))


def test_sites_of_other_bits_are_a_group_of_their_own(tmp_path: Path) -> None:
    recipe = compile_cases.small("rtn-w4a16").overriding(
        ("role:down", "w8a8"), ("role:o", "w16a16")
    )
    one = fresh("llada", recipe)
    folder = convert(one, tmp_path / "a")
    ids = masked_ids("llada", (2, 9), 0.5)
    close(one(ids).logits, loaded_by_the_library(folder)(ids).logits, 1e-5)
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert said["format"] == "mixed-precision"
    formats = {group["format"]: len(group["targets"]) for group in said["config_groups"].values()}
    assert formats == {"pack-quantized": 15, "int-quantized": 3}
    assert len(said["ignore"]) == 4


def test_a_head_that_is_quantized(tmp_path: Path) -> None:
    recipe = compile_cases.small("rtn-w8a8").overriding(("role:head", "w8a8"))
    one = fresh("odd", recipe)
    folder = convert(one, tmp_path / "a")
    ids = masked_ids("odd", (2, 9), 0.5)
    close(one(ids).logits, loaded_by_the_library(folder)(ids).logits, 1e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("features", [1, 7, 8, 9, 32, 75])
def test_packing_is_the_librarys(bits: int, features: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import (
        pack_to_int32,
        unpack_from_int32,
    )

    half = 1 << (bits - 1)
    random = torch.Generator().manual_seed(features)
    codes = torch.randint(-half, half, (5, features), generator=random).to(torch.int8)
    assert torch.equal(packed(codes, bits), pack_to_int32(codes, bits))
    assert torch.equal(unpack_from_int32(packed(codes, bits), bits, codes.shape), codes)


def test_what_is_said_of_the_quantization(tmp_path: Path) -> None:
    folder = convert(compiled("odd", "rtn-w8a8"), tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llada"
    assert config["torch_dtype"] == "float32"
    said = config["quantization_config"]
    assert said["quant_method"] == "compressed-tensors"
    assert said["format"] == "int-quantized"
    assert said["ignore"] == ["model.transformer.ff_out"]
    group = said["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"]
    assert group["weights"]["strategy"] == "channel"
    assert group["input_activations"]["symmetric"] is False
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = load_file(folder / "model-00001-of-00001.safetensors")
    assert index["weight_map"].keys() == held.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in held.values())
    assert held["model.transformer.blocks.0.q_proj.weight"].dtype == torch.int8


def symmetric(name: str) -> Any:
    return dataclasses.replace(compile_cases.small(name), symmetric=True)


@pytest.mark.parametrize(
    ("kind", "recipe", "message"),
    [
        ("odd", "star-w4a4", "starquant.token_state"),
        ("odd", "quarot-w4a16", "starquant.rotate"),
        ("odd", "duquant-w4a4", "starquant."),
        ("odd", "rtn+clip-w4a4", "clipped ones"),
        ("odd", "rtn+center-w4a16", "starquant."),
        ("odd", "awq-w4a8", "clipped ones"),
        ("odd", "rtn+embed8-w4a16", "wte.weight"),
        ("odd", "rtn-w3a16", "w3a16"),
        ("odd", "rtn-w8a6", "w8a6"),
        ("odd", "rtn-w16a8", "starquant.dequantize_activation"),
        ("odd", "awq-w4a16", "several query heads share"),
        ("dream", "smoothquant-w8a8", "several query heads share"),
        ("bert", "rtn-w8a8", "cannot be built again"),
    ],
)
def test_what_the_format_cannot_express(
    kind: str, recipe: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        convert(fresh(kind, recipe), tmp_path / "a")
    error = caught.value
    assert message in str(error)
    assert all((error.where, error.expected, error.got, error.hint))
    assert list(tmp_path.iterdir()) == []


def test_symmetric_activations_are_not_what_the_library_computes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"127\.5"):
        convert(fresh("odd", symmetric("rtn-w8a8")), tmp_path / "a")


def test_a_packed_checkpoint_in_bfloat16(tmp_path: Path) -> None:
    """The library keeps scales in the model's type: its weights are ours to the precision of that."""
    half = copy.deepcopy(model("odd")).to(torch.bfloat16)
    one = starquant_fx.compile(
        half,
        compile_cases.small("rtn-w4a16"),
        calibration=compile_cases.texts("odd"),
        mask_token_id=MASK["odd"],
    )
    folder = convert(one.save(tmp_path / "packed"), tmp_path / "a")
    held = {n: t for p in folder.glob("*.safetensors") for n, t in load_file(p).items()}
    name = "model.transformer.blocks.0.q_proj"
    assert torch.equal(held[f"{name}.weight_scale"][:, 0], codes_of(one, name)[1])
    assert held["model.transformer.wte.weight"].dtype == torch.bfloat16


def test_only_its_own_kind_of_folder_is_replaced(sound: Path, tmp_path: Path) -> None:
    one = compiled("odd", "rtn-w4a16")
    folder = convert(one, tmp_path / "a", shard_bytes=10_000)
    with pytest.raises(CheckpointError, match="force=True"):
        convert(one, folder)
    convert(one, folder, force=True)
    assert len(list(folder.glob("*.safetensors"))) == 1
    with pytest.raises(CheckpointError, match="a folder with"):
        convert(one, sound, force=True)
    with pytest.raises(CheckpointError, match="there is no checkpoint here"):
        convert(tmp_path / "nowhere", tmp_path / "b")

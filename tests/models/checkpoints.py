"""Small checkpoint folders in the published layouts, written for the tests of loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from starquant_fx.errors import StarQuantError
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.models.loading import from_pretrained
from tests import golden_data

WORDS = ("[PAD]", "[MASK]", "once", "upon", "a", "time")
SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
}


def published_config(name: str, **changed: Any) -> dict[str, Any]:
    """The golden folder's config.json, which has every published key, with a few values changed."""
    published: dict[str, Any] = json.loads((golden_data.FOLDER / name / "config.json").read_text())
    return {**published, **changed}


def llada_config(**changed: Any) -> dict[str, Any]:
    """Published LLaDA keys for a model of two blocks."""
    sizes = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "mlp_hidden_size": 40}
    ids = {"vocab_size": 48, "embedding_size": 48, "mask_token_id": 47, "eos_token_id": 46}
    return published_config("llada", **{**sizes, **ids, "pad_token_id": 46, **changed})


def dream_config(**changed: Any) -> dict[str, Any]:
    """Published Dream keys for a model of two layers."""
    ids = {"mask_token_id": 47, "eos_token_id": 46, "pad_token_id": 46, "bos_token_id": 45}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return published_config("dream", **{**SIZES, **ids, **heads, **changed})


def random_llada(config: dict[str, Any], seed: int = 0) -> LladaModel:
    """A LLaDA with random weights, norm gains included."""
    model = LladaModel(LladaConfig.from_dict(config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], shards: int = 1
) -> Path:
    """Writes a folder as it is published: config.json, one file or shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    index: dict[str, str] = {}
    names = list(tensors)
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        held = names[k::shards]
        save_file({n: tensors[n] for n in held}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(held, file)
    content = {"metadata": {"total_size": 0}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def write_llada(folder: Path, shards: int = 1, **changed: Any) -> tuple[Path, LladaModel]:
    """A LLaDA folder and the model it was written from."""
    config = llada_config(**changed)
    model = random_llada(config)
    return write(folder, config, dict(model.state_dict()), shards), model


def randomise_norms_and_biases(model: nn.Module) -> None:
    """transformers starts these at one and zero, which would hide a mix-up."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.mul_(20)


def write_llama_named(folder: Path) -> LlamaForCausalLM:
    """A LLaDA folder whose weights transformers' own Llama wrote, in shards, under Llama's names."""
    config = LlamaConfig(
        **SIZES,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    randomise_norms_and_biases(model)
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "config.json").write_text(json.dumps(llada_config()))
    return model


def write_dream(folder: Path) -> Qwen2ForCausalLM:
    """A Dream folder whose weights transformers' own Qwen2 wrote, in shards."""
    config = Qwen2Config(
        **SIZES,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=False,
        use_sliding_window=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    randomise_norms_and_biases(model)
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "config.json").write_text(json.dumps(dream_config()))
    return model


def write_bert(folder: Path) -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, num_attention_heads=4, max_position_embeddings=16)
    model = BertForMaskedLM(config).eval()
    model.save_pretrained(folder)
    return model


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer with a mask token, as transformers saves it."""
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", mask_token="[MASK]"
    ).save_pretrained(folder)


def copy(folder: Path, to: Path) -> Path:
    """A copy of a folder that a test may damage."""
    return Path(shutil.copytree(folder, to))


def rewrite(folder: Path, **tensors: Tensor | None) -> None:
    """Replaces, adds or (None) removes tensors of model.safetensors; "__" in a name stands for a dot."""
    path = folder / "model.safetensors"
    held = {n: t.clone() for n, t in load_file(path).items()}
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del held[name]
        else:
            held[name] = tensor
    path.unlink()
    save_file(held, path)


def set_keys(folder: Path, **changed: Any) -> None:
    """Changes keys of config.json; None removes one."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def refusal(kind: type[StarQuantError], folder: Path | str, **arguments: Any) -> str:
    """The text of the error that loading ends with; it must say where, what was expected and got, and what to do."""
    with pytest.raises(kind) as caught:
        from_pretrained(folder, **arguments)
    error = caught.value
    assert [part for part in ("where", "expected", "got", "hint") if not getattr(error, part)] == []
    return str(error)

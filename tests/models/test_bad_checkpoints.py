from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from starquant_fx.errors import CheckpointError, ConfigError
from starquant_fx.models.loading import from_pretrained
from starquant_fx.models.safetensors_files import TensorFiles
from tests.models import checkpoints
from tests.models.checkpoints import refusal

HEAD = "model.transformer.ff_out.weight"

Damaged = Callable[[str], Path]

# config.json: (folder, changed keys (None removes one), what the message must hold)
BAD_CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("llada", {"d_model": None, "mask_token_id": None}, "lacks d_model, mask_token_id"),
    ("dream", {"num_key_value_heads": None}, "lacks num_key_value_heads"),
    ("llada", {"model_type": None}, "lacks model_type"),
    ("llada", {"model_type": 3}, "got: 3"),
    ("llada", {"architectures": [1]}, "architectures must be a list"),
    ("llada", {"num_experts": 64}, "this is LLaDA-MoE"),
    ("llada", {"architectures": ["LLaDAMoEModelLM"]}, "this is LLaDA-MoE"),
    ("llada", {"weight_tying": True}, "weight_tying = True is not implemented"),
    ("dream", {"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
    ("llada", {"rope_theta": None}, "lacks rope_theta"),
    ("llada", {"rms_norm_eps": None}, "lacks rms_norm_eps"),
    ("llada", {"rope": None, "layer_norm_type": None}, "lacks layer_norm_type, rope"),
    ("dream", {"rope_theta": None}, "lacks rope_theta"),
    ("dream", {"rms_norm_eps": None}, "lacks rms_norm_eps"),
    ("llada", {"rope_theta": None, "rope_tetha": 5e5}, "did you mean 'rope_theta'?"),
    ("dream", {"rms_norm_eps": None, "rms_norm_epsilon": 1e-6}, "did you mean 'rms_norm_eps'?"),
    ("llada", {"n_layers": "2"}, "n_layers is not usable"),
    ("llada", {"n_layers": True}, "n_layers is not usable"),
    ("llada", {"n_heads": 0}, "expected: an integer, at least 1"),
    ("dream", {"hidden_size": -32}, "hidden_size is not usable"),
    ("llada", {"rope_theta": "big"}, "rope_theta is not usable"),
    ("llada", {"rope_theta": float("nan")}, "expected: a finite number above 0"),
    ("llada", {"rms_norm_eps": 0}, "rms_norm_eps is not usable"),
    ("llada", {"eos_token_id": 48}, "eos_token_id is outside the embedding"),
    ("llada", {"pad_token_id": 48}, "pad_token_id is outside the embedding"),
    ("llada", {"bos_token_id": 48}, "bos_token_id is outside the embedding"),
    ("llada", {"bos_token_id": "<s>"}, "bos_token_id is not usable"),
    ("dream", {"mask_token_id": 48}, "expected: 0 to 47"),
    ("dream", {"eos_token_id": 151643}, "eos_token_id is outside the embedding"),
    ("dream", {"pad_token_id": -1}, "pad_token_id is not usable"),
    ("dream", {"bos_token_id": 48}, "bos_token_id is outside the embedding"),
    ("llada", {"n_heads": 5}, "n_heads must divide d_model"),
    ("llada", {"mask_token_id": 48}, "mask_token_id is outside the embedding"),
    ("llada", {"n_layers": 10**9}, "n_layers is larger than the number of tensors"),
    ("llada", {"d_model": 2**62}, "describe no model that can be built"),
    ("llada", {"d_model": 10**30}, "describe no model that can be built"),
    ("llada", {"quantization_config": {"bits": 4}}, "already quantized"),
    ("dream", {"model_type": "dream"}, "write 'Dream'"),
    ("bert", {"model_type": "llada2_moe"}, "model_type 'llada2_moe' is not supported"),
    ("bert", {"model_type": "llama"}, "expected: llada, Dream, or a masked language model"),
    ("bert", {"architectures": ["BertModel"]}, "architectures ['BertModel']"),
    ("bert", {"architectures": None}, "architectures []"),
    (
        "bert",
        {"model_type": "mpnet", "architectures": ["MPNetForMaskedLM"]},
        "transformers has no SDPA attention for MPNetForMaskedLM",
    ),
    ("bert", {"hidden_size": "wide"}, "refuses the configuration of 'bert'"),
    ("bert", {"num_attention_heads": 5}, "cannot be built from the configuration"),
    ("bert", {"mask_token_id": 48}, "the mask token is outside of the embedding"),
]


@pytest.mark.parametrize(("name", "changed", "message"), BAD_CONFIGS)
def test_bad_configuration(
    damaged: Damaged, name: str, changed: dict[str, Any], message: str
) -> None:
    folder = damaged(name)
    checkpoints.set_keys(folder, **changed)
    text = refusal(ConfigError, folder)
    assert message in text
    assert str(folder) in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b"\xff\xfe{", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"[1]", "got: a list"),
        (b"null", "got: a NoneType"),
        (None, "config.json is missing"),
    ],
)
def test_unreadable_configuration(damaged: Damaged, content: bytes | None, message: str) -> None:
    folder = damaged("llada")
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)
    assert message in refusal(ConfigError, folder)


@pytest.mark.parametrize(
    ("name", "changes", "parts"),
    [
        ("llada", {HEAD: None}, [f"1 missing ({HEAD})"]),
        ("llada", {"model.transformer.wpe.weight": torch.ones(4)}, ["1 extra (model.transformer.wpe"]),
        ("llada", {HEAD: torch.ones(47, 32)}, [f"1 wrongly shaped ({HEAD}: expected [48, 32], got [47, 32])"]),
        ("llada", {HEAD: torch.ones(48 * 32)}, ["expected [48, 32], got [1536]"]),
        ("llada", {"lm_head.weight": torch.ones(48, 32)}, [f"1 given twice ({HEAD})"]),
        (
            "llada",
            {HEAD: None, "lm_head.bias": torch.ones(3), "model.transformer.ln_f.weight": torch.ones(31)},
            ["1 missing", "1 extra (lm_head.bias)", "1 wrongly shaped (model.transformer.ln_f"],
        ),
        (
            "llada",
            {f"model.transformer.blocks.0.{n}_proj.weight": None for n in ("q", "k", "v", "ff", "up")},
            ["5 missing (model.transformer.blocks.0.ff_proj.weight; ", "; ...)"],
        ),
        ("llada", {HEAD: torch.ones(48, 32, dtype=torch.int32)}, [f"{HEAD} (I32)"]),
        ("llada", {HEAD: torch.ones(48, 32).to(torch.float8_e4m3fn)}, [f"{HEAD} (F8_E4M3)"]),
        ("bert", {"cls.predictions.bias": None}, [" missing (cls.predictions.bias"]),
        ("bert", {"bert.more.weight": torch.ones(3)}, ["1 extra (bert.more.weight)"]),
        ("bert", {"cls.predictions.bias": torch.ones(3)}, ["cls.predictions.bias: expected [48], got [3]"]),
    ],
)  # fmt: skip
def test_tensors_that_do_not_match_the_configuration(
    damaged: Damaged, name: str, changes: dict[str, torch.Tensor | None], parts: list[str]
) -> None:
    folder = damaged(name)
    checkpoints.rewrite(folder, **changes)
    text = refusal(CheckpointError, folder)
    assert [part for part in parts if part not in text] == []
    assert str(folder) in text


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("llada", {"embedding_size": 10**9}, "expected [1000000000, 32], got [48, 32]"),
        ("dream", {"intermediate_size": 10**9}, "expected [1000000000, 32]"),
        ("bert", {"vocab_size": 10**9}, "expected [1000000000, 32], got [48, 32]"),
        ("bert", {"num_hidden_layers": 400}, "missing (bert.encoder.layer.10."),
    ],
)
def test_sizes_are_compared_before_any_value_is_read(
    damaged: Damaged,
    name: str,
    changed: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TensorFiles, "read", pytest.fail)
    folder = damaged(name)
    checkpoints.set_keys(folder, **changed)
    assert message in refusal(CheckpointError, folder)


@pytest.mark.parametrize("name", ["llada", "bert"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([float("nan")], "holds 1 NaN and 0 infinite values"),
        ([float("inf"), float("-inf")], "holds 0 NaN and 2 infinite values"),
        ([float("nan"), float("inf"), float("nan")], "holds 2 NaN and 1 infinite values"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite(
    damaged: Damaged, name: str, bad: list[float], message: str, dtype: torch.dtype
) -> None:
    folder = damaged(name)
    tensors = load_file(folder / "model.safetensors")
    last = sorted(tensors)[-1]
    changed = tensors[last].to(dtype)
    changed.view(-1)[5 : 5 + len(bad)] = torch.tensor(bad).to(dtype)
    checkpoints.rewrite(folder, **{last: changed})
    text = refusal(CheckpointError, folder)
    assert f"{last} {message}" in text
    assert f"{len(bad)} that are not" in text


def test_values_too_large_for_the_asked_dtype(damaged: Damaged) -> None:
    folder = damaged("llada")
    large = torch.ones(48, 32)
    large[3, 4] = -70000.0
    checkpoints.rewrite(folder, **{HEAD: large})
    text = refusal(CheckpointError, folder, dtype=torch.float16)
    assert f"{HEAD} does not fit into torch.float16" in text
    assert "got: 7e+04" in text
    from_pretrained(folder, dtype=torch.bfloat16)

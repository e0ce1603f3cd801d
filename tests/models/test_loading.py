from __future__ import annotations

import fnmatch
import json
import re
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from starquant_fx.errors import CheckpointError
from starquant_fx.models import loading, locate
from starquant_fx.models.dream import DreamModel
from starquant_fx.models.llada import LladaModel
from starquant_fx.models.loading import from_pretrained
from tests import golden_data
from tests.models import checkpoints

ATOL = 2e-4
IDS = torch.tensor([[3, 47, 9, 47, 12, 1], [47, 47, 5, 6, 30, 2]])


def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def bidirectional_logits(causal: nn.Module) -> Tensor:
    """What a causal transformers model gives when everything may attend to everything."""
    everything = torch.zeros(IDS.shape[0], 1, IDS.shape[1], IDS.shape[1])
    with torch.no_grad():
        found: Tensor = causal(IDS, attention_mask=everything).logits
    return found


@pytest.mark.parametrize(("name", "kind"), [("llada", LladaModel), ("dream", DreamModel)])
def test_golden_folder_reproduces_the_published_logits(name: str, kind: type[nn.Module]) -> None:
    model, tokenizer = from_pretrained(golden_data.FOLDER / name)
    recorded = golden_data.tensors(name)
    assert isinstance(model, kind)
    assert tokenizer is None
    assert not model.training
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    assert model.config.mask_token_id == 158  # type: ignore[union-attr]
    got = logits(model, recorded["fwd/a/input_ids"])
    torch.testing.assert_close(got, recorded["fwd/a/logits"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("shards", [1, 3])
def test_llada_comes_back_as_it_was_written(tmp_path: Path, shards: int) -> None:
    folder, written = checkpoints.write_llada(tmp_path / "m", shards)
    assert len(list(folder.glob("*.safetensors"))) == shards
    model, _ = from_pretrained(str(folder))
    assert torch.equal(logits(model), logits(written))


def test_llada_under_llama_names_equals_bidirectional_llama(tmp_path: Path) -> None:
    llama = checkpoints.write_llama_named(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    model, _ = from_pretrained(tmp_path)
    assert isinstance(model, LladaModel)
    torch.testing.assert_close(logits(model), bidirectional_logits(llama), atol=ATOL, rtol=0)


def test_dream_equals_bidirectional_qwen2(tmp_path: Path) -> None:
    qwen = checkpoints.write_dream(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    model, _ = from_pretrained(tmp_path)
    assert isinstance(model, DreamModel)
    torch.testing.assert_close(logits(model), bidirectional_logits(qwen), atol=ATOL, rtol=0)


@pytest.mark.parametrize("llama_names", [False, True])
def test_the_two_ff_out_of_llada_stay_apart(tmp_path: Path, llama_names: bool) -> None:
    # All sizes are equal, so that no shape could give a mix-up away.
    config = checkpoints.llada_config(
        mlp_hidden_size=32,
        vocab_size=32,
        embedding_size=32,
        mask_token_id=31,
        n_kv_heads=4,
        eos_token_id=30,
        pad_token_id=30,
    )
    head, downs = torch.full((32, 32), 7.0), [torch.full((32, 32), 1.0 + i) for i in range(2)]
    tensors = dict(checkpoints.random_llada(config).state_dict())
    tensors["model.transformer.ff_out.weight"] = head
    for i, down in enumerate(downs):
        tensors[f"model.transformer.blocks.{i}.ff_out.weight"] = down
    if llama_names:
        tensors["lm_head.weight"] = tensors.pop("model.transformer.ff_out.weight")
        for i in range(2):
            down = tensors.pop(f"model.transformer.blocks.{i}.ff_out.weight")
            tensors[f"model.layers.{i}.mlp.down_proj.weight"] = down
    model, _ = from_pretrained(checkpoints.write(tmp_path / "m", config, tensors))
    assert torch.equal(model.get_output_embeddings().weight, head)  # type: ignore[operator]
    for i, down in enumerate(downs):
        assert torch.equal(model.get_parameter(f"model.transformer.blocks.{i}.ff_out.weight"), down)


def test_computed_buffers_in_a_checkpoint_are_ignored(tmp_path: Path) -> None:
    folder, written = checkpoints.write_llada(tmp_path / "m")
    checkpoints.rewrite(
        folder,
        model__rotary_emb__inv_freq=torch.ones(4),
        model__layers__1__self_attn__rotary_emb__inv_freq=torch.ones(4, dtype=torch.int32),
    )
    model, _ = from_pretrained(folder)
    assert torch.equal(logits(model), logits(written))


def write_rounded(folder: Path) -> LladaModel:
    """A folder in bfloat16 but for its float32 norms; returns the rounded model."""
    config = checkpoints.llada_config()
    rounded = {n: t.bfloat16() for n, t in checkpoints.random_llada(config).state_dict().items()}
    stored = {n: t.float() if t.dim() == 1 else t for n, t in rounded.items()}
    checkpoints.write(folder, config, stored)
    model = checkpoints.random_llada(config)
    model.load_state_dict({n: t.float() for n, t in rounded.items()})
    return model


def dtypes(model: nn.Module) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters()}


def test_small_model_computes_in_float32_on_the_cpu(tmp_path: Path) -> None:
    written = write_rounded(tmp_path)
    model, _ = from_pretrained(tmp_path)
    assert dtypes(model) == {torch.float32}
    assert torch.equal(logits(model), logits(written))


def test_large_model_keeps_the_type_most_is_stored_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_rounded(tmp_path)
    monkeypatch.setattr(loading, "SMALL", sum(p.numel() for p in written.parameters()))
    model, _ = from_pretrained(tmp_path)
    assert dtypes(model) == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_asked_dtype_is_given(tmp_path: Path, dtype: torch.dtype) -> None:
    folder, written = checkpoints.write_llada(tmp_path / "m")
    model, _ = from_pretrained(folder, dtype=dtype, device="cpu")
    assert dtypes(model) == {dtype}
    for name, parameter in written.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.to(dtype))


def test_weights_are_mapped_and_never_written_back(tmp_path: Path) -> None:
    folder, _ = checkpoints.write_llada(tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()
    model, _ = from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before
    again, _ = from_pretrained(folder)
    assert all(p.abs().sum() > 0 for p in again.parameters())


def own_memory() -> int:
    """Memory of this process that no file backs, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_weights_take_no_memory_of_their_own(tmp_path: Path) -> None:
    config = checkpoints.llada_config(embedding_size=200_000)
    tensors = {
        n: t.detach()
        for n, t in LladaModel(checkpoints.LladaConfig.from_dict(config)).named_parameters()
    }
    size = sum(t.nbytes for t in tensors.values())
    assert size > 50e6
    checkpoints.write(tmp_path / "m", config, tensors)
    before = own_memory()
    model, _ = from_pretrained(tmp_path / "m")
    assert own_memory() - before < size / 4
    assert logits(model).shape[-1] == 200_000


def test_odd_header_length_is_read_right(tmp_path: Path) -> None:
    folder, written = checkpoints.write_llada(tmp_path / "m")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    path.write_bytes(
        (length + 3).to_bytes(8, "little") + raw[8 : 8 + length] + b"   " + raw[8 + length :]
    )
    model, _ = from_pretrained(folder)
    assert torch.equal(logits(model), logits(written))
    assert all(p.data_ptr() % 4 == 0 for p in model.parameters())


def test_tokenizer_of_the_folder_is_loaded(tmp_path: Path) -> None:
    folder, _ = checkpoints.write_llada(tmp_path / "m")
    checkpoints.write_tokenizer(folder)
    _, tokenizer = from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer("once upon a time")["input_ids"] == [2, 3, 4, 5]
    assert tokenizer.mask_token_id == 1


def test_published_dream_tokenizer_is_read_without_running_its_code(tmp_path: Path) -> None:
    checkpoints.write_dream(tmp_path)
    vocabulary = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4, "<|endoftext|>": 5, "<|mask|>": 6}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    special = {
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": True,
    }
    described = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": {
            "5": {"content": "<|endoftext|>", **special},
            "6": {"content": "<|mask|>", **special},
        },
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    ran = tmp_path / "ran"
    (tmp_path / "tokenization_dream.py").write_text(
        f"open({str(ran)!r}, 'w')\nclass DreamTokenizer: pass\n"
    )
    _, tokenizer = from_pretrained(tmp_path)
    assert tokenizer is not None
    assert tokenizer.is_fast
    assert tokenizer("ab ab<|mask|>")["input_ids"] == [2, 4, 6]
    assert tokenizer.mask_token_id == 6
    assert not ran.exists()


def test_bert_loads_with_the_parts_that_predict_no_token_left_out(tmp_path: Path) -> None:
    written = checkpoints.write_bert(tmp_path)
    checkpoints.write_tokenizer(tmp_path)
    norm = written.bert.embeddings.LayerNorm.weight.detach().clone()
    checkpoints.rewrite(
        tmp_path,
        bert__pooler__dense__weight=torch.ones(32, 32),
        cls__seq_relationship__bias=torch.ones(2),
        bert__embeddings__position_ids=torch.arange(16)[None],
        bert__embeddings__LayerNorm__weight=None,
        bert__embeddings__LayerNorm__gamma=norm,  # the name in the first published files
    )
    model, tokenizer = from_pretrained(tmp_path)
    assert isinstance(model, BertForMaskedLM)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.config.mask_token_id == tokenizer.mask_token_id == 1
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(logits(model), logits(written), atol=1e-6, rtol=0)


def test_modernbert_in_bfloat16_loads_as_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens: dict[str, Any] = {f"{kind}_token_id": 0 for kind in ("pad", "bos", "eos", "cls", "sep")}
    config = ModernBertConfig(**checkpoints.SIZES, **tokens, num_attention_heads=4)
    written = ModernBertForMaskedLM(config).eval().bfloat16()
    written.save_pretrained(tmp_path)
    checkpoints.set_keys(tmp_path, mask_token_id=33)
    checkpoints.write_tokenizer(tmp_path)
    model, tokenizer = from_pretrained(tmp_path)
    assert isinstance(model, ModernBertForMaskedLM)
    assert tokenizer is not None
    assert model.config.mask_token_id == 33  # the configuration's own id wins
    assert dtypes(model) == {torch.float32}
    torch.testing.assert_close(logits(model), logits(written.float()), atol=1e-6, rtol=0)


def test_without_a_tokenizer_the_mask_id_of_bert_stays_open(tmp_path: Path) -> None:
    checkpoints.write_bert(tmp_path)
    model, tokenizer = from_pretrained(tmp_path)
    assert tokenizer is None
    assert model.config.mask_token_id is None  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [p.parent.name for p in locate.PRETRAINED.glob("*/config.json")])
def test_shipped_model_and_its_tokenizer_belong_together(name: str) -> None:
    assert name in locate.SHIPPED
    model, tokenizer = from_pretrained(name)
    assert tokenizer is not None
    assert dtypes(model) == {torch.float32}
    assert tokenizer.mask_token_id == model.config.mask_token_id  # type: ignore[union-attr]
    text = "Once upon a time there was a little girl."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    decoded = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert "".join(decoded).strip() == text
    found = logits(model, ids)
    assert found.isfinite().all()
    assert found.shape[-1] >= len(tokenizer)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locate, "PRETRAINED", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_shipped_name_wins_over_a_folder_in_the_working_directory(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, written = checkpoints.write_llada(shipped / "llada-tiny")
    _, other = checkpoints.write_llada(tmp_path / "llada-tiny", n_layers=1)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(from_pretrained("llada-tiny")[0]), logits(written))
    assert torch.equal(logits(from_pretrained("./llada-tiny")[0]), logits(other))
    assert torch.equal(logits(from_pretrained(Path("llada-tiny"))[0]), logits(other))


def test_shipped_model_missing_from_the_installation_is_said(shipped: Path) -> None:
    with pytest.raises(CheckpointError, match="missing from this installation"):
        from_pretrained("dream-tiny")


class Hub:
    """Stands in for the hub: a cache as its client lays it out, and what was asked of it."""

    def __init__(self, cache: Path) -> None:
        repository = cache / "models--someone--llada"
        self.snapshot = repository / "snapshots" / "0123abc"
        _, self.written = checkpoints.write_llada(self.snapshot, shards=2)
        blobs = repository / "blobs"
        blobs.mkdir()
        for i, file in enumerate(sorted(self.snapshot.iterdir())):
            file.rename(blobs / f"hash{i}")
            file.symlink_to(Path("..", "..", "blobs", f"hash{i}"))
        self.asked: list[tuple[str, str | None]] = []
        self.patterns: list[str] = []

    def __call__(self, repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo_id, revision))
        self.patterns = allow_patterns
        return str(self.snapshot)

    def fetches(self, file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in self.patterns)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in)
    return stand_in


def test_hub_id_is_downloaded_and_its_linked_files_are_followed(hub: Hub) -> None:
    model, _ = from_pretrained("someone/llada", revision="v2")
    assert hub.asked == [("someone/llada", "v2")]
    assert torch.equal(logits(model), logits(hub.written))
    assert torch.equal(logits(from_pretrained(hub.snapshot)[0]), logits(hub.written))
    assert len(hub.asked) == 1


def test_only_data_is_downloaded(hub: Hub) -> None:
    from_pretrained("someone/llada")
    wanted = ("config.json", "model-00001-of-00006.safetensors", "model.safetensors.index.json")
    assert all(hub.fetches(file) for file in (*wanted, "tokenizer.json", "vocab.json"))
    unwanted = ("pytorch_model.bin", "model.pt", "modeling_llada.py", "rust_model.ot", "x.pkl")
    assert not any(hub.fetches(file) for file in unwanted)


def test_local_folder_wins_over_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.write_llada(tmp_path / "someone" / "llada")
    monkeypatch.chdir(tmp_path)
    from_pretrained("someone/llada")
    assert hub.asked == []

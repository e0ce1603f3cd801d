"""llama.cpp: its LLaDA architecture, from a GGUF file with the same weights."""

from __future__ import annotations

import ctypes
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cpu_suite.runner import Runner
from cpu_suite.specs import Place
from starquant_fx.errors import InputError

NAMES = {
    "attn_norm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_norm": "ffn_norm",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
}
"""Published LLaDA names of a block's parts -> GGUF's."""
OUTSIDE = {"wte": "token_embd", "ln_f": "output_norm", "ff_out": "output"}


def prepare(place: Place, kind: str) -> None:
    """Writes the GGUF file: matrices in ``Q4_0`` or ``Q8_0`` (embedding and head always Q8_0), norms in float32."""
    gguf = importlib.import_module("gguf")
    config = json.loads((place.folder / "bf16" / "config.json").read_text())
    writer = gguf.GGUFWriter(_file(place, kind), "llada")
    writer.add_context_length(config["max_sequence_length"])
    writer.add_embedding_length(config["d_model"])
    writer.add_block_count(config["n_layers"])
    writer.add_feed_forward_length(config["mlp_hidden_size"])
    writer.add_head_count(config["n_heads"])
    writer.add_head_count_kv(config["n_kv_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["d_model"] // config["n_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_vocab_size(config["embedding_size"])
    writer.add_tokenizer_model("no_vocab")
    held = 0
    with safe_open(place.folder / "bf16" / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            values = file.get_tensor(name).float().numpy()
            target = gguf_name(name)
            if values.ndim == 1:
                writer.add_tensor(target, values)
                continue
            if target.endswith(("attn_q.weight", "attn_k.weight")):
                values = interleaved(values, config["n_heads"])
            wanted = kind if target.startswith("blk.") else "Q8_0"
            form = gguf.GGMLQuantizationType[wanted]
            packed = gguf.quantize(values, form)
            held += packed.nbytes if target.startswith("blk.") else 0
            writer.add_tensor(target, packed, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _file(place, kind).with_suffix(".json").write_text(json.dumps({"weight_bytes": held}))


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor under its published LLaDA name."""
    parts = name.split(".")
    if "blocks" in parts:
        return f"blk.{parts[3]}.{NAMES[parts[4]]}.weight"
    return f"{OUTSIDE[parts[2]]}.weight"


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows [heads * head_dim, d] for a rotary embedding of neighbouring pairs, from those for half-split pairs."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def build(place: Place, kind: str) -> Runner:
    """A context without a cache, attention in both directions; sequences are run one after another."""
    if place.masked:
        raise InputError("llama.cpp's encoder computes the logits of all tokens", where=kind)
    llama_cpp = importlib.import_module("llama_cpp")
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    path = _file(place, kind)
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise InputError("llama.cpp does not load the GGUF file", where=kind)
    contexts: dict[int, Any] = {}

    def context(length: int) -> Any:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = length
        options.n_threads = options.n_threads_batch = place.threads
        made = llama_cpp.llama_init_from_model(model, options)
        if not made:
            raise InputError("llama.cpp makes no context", where=kind, got=f"{length} tokens")
        batch = llama_cpp.llama_batch_init(length, 0, 1)
        batch.n_tokens = length
        for i in range(length):
            batch.pos[i], batch.logits[i] = i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        return made, batch

    def forward(ids: Tensor, _: Tensor | None) -> Tensor:
        length = ids.shape[1]
        if length not in contexts:
            contexts[length] = context(length)
        state, batch = contexts[length]
        found = []
        for sequence in ids:
            np.ctypeslib.as_array(batch.token, (length,))[:] = sequence
            if llama_cpp.llama_encode(state, batch):
                raise InputError("llama.cpp refuses the batch", where=kind, got=str(ids.shape))
            logits = llama_cpp.llama_get_logits(state)
            size = (length, place.spec.vocab)
            found.append(torch.from_numpy(np.ctypeslib.as_array(logits, size).copy()))
        return torch.stack(found)

    held = json.loads(path.with_suffix(".json").read_text())["weight_bytes"]
    build.keep = silent  # type: ignore[attr-defined]  # the library calls it as long as it lives
    return Runner(forward, held, "Q8_0")


def _file(place: Place, kind: str) -> Path:
    return place.folder / f"{kind}.gguf"

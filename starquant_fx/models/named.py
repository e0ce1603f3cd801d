"""What a name stands for where a configuration is enough: decided once, whatever is asked of the model afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from starquant_fx.errors import InputError, nearest
from starquant_fx.models.folder import CONFIG_FILE, QUANT_METHOD, quant_method, read_published
from starquant_fx.models.locate import HUB_ID, SHIPPED, locate

LLADA_8B: dict[str, Any] = {
    "model_type": "llada",
    "d_model": 4096,
    "n_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "max_sequence_length": 4096,
    "rope_theta": 500000.0,
}
DREAM_7B: dict[str, Any] = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
}
_BENCHMARK = {
    **LLADA_8B,
    "vocab_size": 32000,
    "embedding_size": 32000,
    "mask_token_id": 31999,
    "eos_token_id": 0,
}
SIZES: dict[str, dict[str, Any]] = {
    "LLaDA-8B": LLADA_8B,
    "Dream-7B": DREAM_7B,
    "12x1024": {
        **_BENCHMARK,
        "d_model": 1024,
        "n_heads": 16,
        "n_layers": 12,
        "mlp_hidden_size": 3072,
    },
    "2x4096": {**_BENCHMARK, "n_layers": 2},
}
"""Configurations by name: the published ones, and the models of ``benchmarks/cpu.py``."""


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A model by its configuration.

    Attributes:
        name: What it was called.
        published: The content of its ``config.json``.
        folder: Where that is; None for a name in ``SIZES``.
    """

    name: str
    published: dict[str, Any]
    folder: Path | None = None

    @property
    def packed(self) -> bool:
        """Whether it is a packed checkpoint, which has its own recipe."""
        return quant_method(self.published) == QUANT_METHOD


def named_model(name: str | NamedModel) -> NamedModel:
    """Finds the configuration of a model, and reads it.

    A name in ``SIZES``, in capitals or not, or of a shipped model wins over a local folder that is called so (write
    ``./LLaDA-8B`` for the folder), a local folder over a hub id.

    Args:
        name: A name in ``SIZES``, a shipped model, a folder, its ``config.json``, or a hub id; or what was found.

    Raises:
        InputError: There is no such model.
        StarQuantError: The configuration cannot be read.
    """
    if isinstance(name, NamedModel):
        return name
    for size, config in SIZES.items():
        if name.lower() == size.lower():
            return NamedModel(name, config)
    folder = _folder(name)
    return NamedModel(name, read_published(folder), folder)


def _folder(name: str) -> Path:
    """The folder that holds a model's configuration.

    Raises:
        InputError: There is no such model.
    """
    path = Path(name).expanduser()
    if path.name == CONFIG_FILE and path.is_file():
        return path.parent.resolve()
    if name in SHIPPED or path.is_dir():
        return locate(name)
    if HUB_ID.fullmatch(name):
        return locate(name, files=(CONFIG_FILE,))
    if path.is_file():
        raise InputError(
            "this file is no model's configuration",
            where=name,
            expected=f"a file that is called {CONFIG_FILE}, or its folder",
            got=path.name,
            hint=f"rename the file to {CONFIG_FILE}",
        )
    raise InputError(
        f"there is no model {name!r}",
        where="MODEL",
        expected=f"{', '.join((*SIZES, *SHIPPED))}, a folder, its {CONFIG_FILE}, or a hub id owner/name",
        got=repr(name),
        hint=nearest(name.lower(), (*map(str.lower, SIZES), *SHIPPED)) or "check the spelling",
    )

"""The arguments of ``from_pretrained``: what is passed on, what changes nothing, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch

from starquant_fx.checkpoint.format import DTYPES
from starquant_fx.errors import nearest
from starquant_fx.integrations.hugging_face.configuration import DenoiserConfig
from starquant_fx.integrations.hugging_face.refusals import not_done

_refusal = functools.partial(not_done, "from_pretrained")
HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision")
"""Passed on to the hub's client."""
ONLY: dict[str, tuple[Any, ...]] = {
    "attn_implementation": ("sdpa",),
    "use_safetensors": (True,),
}
"""Settings with values that say what is done anyway."""
NOTHING = (
    *("_commit_hash", "_from_auto", "_from_pipeline", "code_revision", "low_cpu_mem_usage"),
    *("tqdm_class", "trust_remote_code", "weights_only"),
)
"""What changes nothing: no code of a repository is run and no pickle read, whatever is trusted."""
WHOLE = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps by which transformers spreads a model; ours stays on one device."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a call of ``from_pretrained`` asks for.

    Attributes:
        config: The configuration that was given or found.
        quantization: How to quantize; None = not at all.
        dtype: A float type, ``auto`` = as stored, None = the package's own choice.
        device: Where to.
        hub: Options of the hub's client.
        subfolder: Folder in the model's folder.
        loading_info: Whether to return what did not fit.
    """

    config: DenoiserConfig | None
    quantization: Any
    dtype: torch.dtype | str | None
    device: torch.device | str | None
    hub: dict[str, Any]
    subfolder: str
    loading_info: bool


def read(model_args: tuple[Any, ...], given: dict[str, Any]) -> Asked:
    """Reads the arguments of ``from_pretrained``.

    Args:
        model_args: Positional arguments behind the folder.
        given: Arguments by name; None means that nothing is asked for, and so does False but for ``ONLY``.

    Raises:
        InputError: One is not honoured here.
    """
    given = {
        name: one
        for name, one in given.items()
        if one is not None and (one is not False or name in ONLY)
    }
    for name in NOTHING:
        given.pop(name, None)
    if "_adapter_model_path" in given.pop("adapter_kwargs", {}):
        raise _refusal("adapter_kwargs", "a model without an adapter", "an adapter")
    if model_args:
        raise _refusal("from_pretrained", "a folder, and options by name", repr(model_args)[:100])
    for name, accepted in ONLY.items():
        if (value := given.pop(name, accepted[0])) not in accepted:
            raise _refusal(name, " or ".join(map(repr, (*accepted, None))), repr(value))
    asked = Asked(
        config=_config(given.pop("config", None)),
        quantization=given.pop("quantization_config", None),
        dtype=_dtype(given.pop("torch_dtype", None), given.pop("dtype", None)),
        device=_device(given.pop("device_map", None)),
        hub={name: given.pop(name) for name in HUB if name in given},
        subfolder=str(given.pop("subfolder", "")),
        loading_info=bool(given.pop("output_loading_info", False)),
    )
    known = (
        *("config", "quantization_config", "dtype", "device_map", *HUB, "subfolder"),
        *("output_loading_info", *ONLY),
    )
    for name, value in given.items():
        hint = nearest(name, known) or "leave the argument out"
        raise _refusal(name, f"None, or one of {', '.join(known)}", repr(value)[:100], hint)
    return asked


def _config(given: Any) -> DenoiserConfig | None:
    """A configuration of ours."""
    if given is None:
        return None
    if not isinstance(given, DenoiserConfig):
        hint = "AutoConfig.from_pretrained(folder)"
        raise _refusal("config", "one of our configurations, or None", repr(given)[:100], hint)
    # AutoConfig takes this argument into the configuration.
    if given._attn_implementation not in (None, *ONLY["attn_implementation"]):
        raise _refusal("attn_implementation", "'sdpa' or None", repr(given._attn_implementation))
    return given


def _dtype(older: Any, asked: Any) -> Any:
    """A float type by its value or name; ``torch_dtype`` is the older name of the argument."""
    asked = older if asked is None else asked
    if asked is None or asked == "auto":
        return asked
    found = DTYPES.get(str(asked).removeprefix("torch.")) if asked else None
    if found is None:
        raise _refusal("dtype", f"{', '.join(DTYPES)}, 'auto' or None", repr(asked))
    return found


def _device(asked: Any) -> torch.device | str | None:
    """The one device of a device map."""
    if isinstance(asked, dict):
        places = set(map(str, asked.values()))
        if len(places) != 1:
            hint = "device_map='cuda:0'"
            raise _refusal("device_map", "one device", f"{len(places)} devices", hint)
        asked = next(iter(asked.values()))
    if isinstance(asked, int) and not isinstance(asked, bool):
        return f"cuda:{asked}"
    if isinstance(asked, str) and asked in WHOLE:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked is None or isinstance(asked, str | torch.device):
        return asked
    raise _refusal("device_map", "a device, its number, or 'auto'", repr(asked)[:100])

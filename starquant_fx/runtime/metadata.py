"""What an exported folder says about itself: ``starquant.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

from starquant_fx.errors import CheckpointError, cause
from starquant_fx.runtime.contained import check_contained

METADATA, TOKENIZER = "starquant.json", "tokenizer.json"
MODEL, DATA = "model.onnx", "model.onnx.data"
FORMAT, VERSION = "starquant-onnx", 1
FLAVOURS = ("qdq", "integer", "nbits", "float")
SAMPLERS = ("llada", "dream")
INPUTS = ("input_ids", "attention_mask", "position_ids", "token_state", "rows")
OUTPUTS = {
    "logits": ("logits",),
    "row-logits": ("logits",),
    "tokens": ("token", "confidence"),
}
"""Head -> outputs of the model."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The checked content of ``starquant.json``.

    Attributes:
        flavour: How quantized linears are written: "qdq", "integer", "nbits" or "float".
        opset: Version of the ONNX operators.
        recipe: Name of the recipe; None = full precision or not known.
        model_type: As in the model's configuration, such as "llada" or "Dream".
        vocab_size: Token ids lie below.
        mask_token_id: Id of [MASK]; None = the model has none, and takes ``token_state`` if it needs it.
        max_length: Longest sequence; None = not limited.
        eos_token_id: End of text; None = not known.
        eot_token_id: End of turn; None = not known.
        head: What the model returns: "logits" [B, L, vocab], "row-logits" [R, vocab], or "tokens", the greedy token
            and its probability [R].
        inputs: Names, in order.
        outputs: Names, in order.
        sampler: "llada", "dream", or None = by the model's type.
        sampler_defaults: Arguments of the sampler where the caller gives none.
        files: Name of every file of the folder -> its SHA-256 in hexadecimal digits.
    """

    flavour: str
    opset: int
    recipe: str | None
    model_type: str
    vocab_size: int
    mask_token_id: int | None
    max_length: int | None
    eos_token_id: int | None
    eot_token_id: int | None
    head: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sampler: str | None
    sampler_defaults: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def config(self) -> SimpleNamespace:
        """The same facts under the names of a model's configuration."""
        return SimpleNamespace(
            model_type=self.model_type,
            vocab_size=self.vocab_size,
            mask_token_id=self.mask_token_id,
            eos_token_id=self.eos_token_id,
            eot_token_id=self.eot_token_id,
            max_sequence_length=self.max_length,
        )


def read_metadata(folder: Path) -> Metadata:
    """Reads and checks the metadata of an exported folder.

    Args:
        folder: The folder.

    Returns:
        The metadata.

    Raises:
        CheckpointError: The folder is no export, is of a version that is not known, or a key does not fit.
    """
    path = folder / METADATA
    absent = _absent(folder)
    if absent is not None:
        raise CheckpointError(
            "this is no exported folder",
            where=str(folder),
            expected=f"a folder with {METADATA} and {MODEL}",
            got=absent,
            hint="name the folder itself, as it was exported",
        )
    check_contained(folder, [METADATA])
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "the metadata cannot be read",
            where=str(path),
            expected="a JSON object",
            got=cause(error),
            hint="export the model again",
        ) from error
    keys = content if isinstance(content, dict) else {}
    if keys.get("format") != FORMAT:
        raise _wrong(
            path, "format", repr(FORMAT), keys.get("format"), "name the folder of an exported model"
        )
    if keys.get("version") != VERSION or isinstance(keys["version"], bool):
        hint = "update starquant-fx, or export the model again with this version"
        raise _wrong(path, "version", str(VERSION), keys.get("version"), hint)
    return _Keys(path, keys).metadata()


def _absent(folder: Path) -> str | None:
    """What is there instead of a folder with metadata; None if it is one."""
    try:
        if (folder / METADATA).is_file():
            return None
        if folder.is_dir():
            return f"no {METADATA}"
        return "a file" if folder.is_file() else "no such folder"
    except (OSError, ValueError) as error:  # a name that the system does not take
        return cause(error)


def _wrong(path: Path, key: str, expected: str, got: object, hint: str) -> CheckpointError:
    return CheckpointError(
        f"the metadata of an export has an unusable {key!r}",
        where=str(path),
        expected=expected,
        got=repr(got)[:200],
        hint=hint,
    )


class _Keys:
    """The keys of one ``starquant.json``, each checked as it is read."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    def metadata(self) -> Metadata:
        head = self._one_of("head", tuple(OUTPUTS))
        size = self._whole("vocab_size", 1)
        assert size is not None
        inputs = self._names("inputs")
        takes_rows = head != "logits"
        if (
            not set(inputs) <= set(INPUTS)
            or "input_ids" not in inputs
            or ("rows" in inputs) != takes_rows
        ):
            rows = f", rows {'included' if takes_rows else 'left out'} for the head {head!r}"
            raise self._no("inputs", f"input_ids and more of {', '.join(INPUTS)}{rows}", inputs)
        outputs = self._names("outputs")
        if outputs != OUTPUTS[head]:
            raise self._no("outputs", f"{list(OUTPUTS[head])} for the head {head!r}", list(outputs))
        opset = self._whole("opset", 1)
        assert opset is not None
        defaults = self._content.get("sampler_defaults") or {}
        if not isinstance(defaults, dict):
            raise self._no("sampler_defaults", "an object", defaults)
        return Metadata(
            flavour=self._one_of("flavour", FLAVOURS),
            opset=opset,
            recipe=self._text("recipe", optional=True),
            model_type=str(self._text("model_type")),
            vocab_size=size,
            mask_token_id=self._whole("mask_token_id", 0, size, optional=True),
            max_length=self._whole("max_length", 1, optional=True),
            eos_token_id=self._whole("eos_token_id", 0, size, optional=True),
            eot_token_id=self._whole("eot_token_id", 0, size, optional=True),
            head=head,
            inputs=inputs,
            outputs=outputs,
            sampler=None
            if self._content.get("sampler") is None
            else self._one_of("sampler", SAMPLERS),
            sampler_defaults=defaults,
            files=self._files(),
        )

    def _no(self, key: str, expected: str, got: object) -> CheckpointError:
        return _wrong(self._path, key, expected, got, "export the model again")

    def _text(self, key: str, *, optional: bool = False) -> str | None:
        value = self._content.get(key)
        if (value is None and optional) or isinstance(value, str):
            return value
        raise self._no(key, "a text" + (" or null" if optional else ""), value)

    def _one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self._content.get(key)
        if isinstance(value, str) and value in known:
            return value
        raise self._no(key, " | ".join(known), value)

    def _whole(
        self, key: str, low: int, limit: int | None = None, *, optional: bool = False
    ) -> int | None:
        value = self._content.get(key)
        if value is None and optional:
            return None
        below = "" if limit is None else f", below {limit}"
        fits = isinstance(value, int) and not isinstance(value, bool)
        if not fits or not low <= int(value) < (math.inf if limit is None else limit):  # type: ignore[arg-type]
            raise self._no(key, f"an integer, at least {low}{below}", value)
        return value

    def _names(self, key: str) -> tuple[str, ...]:
        value = self._content.get(key)
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self._no(key, "a list of names", value)
        if len(set(value)) < len(value):
            raise self._no(key, "names that differ", value)
        return tuple(value)

    def _files(self) -> dict[str, str]:
        value = self._content.get("files")
        if not isinstance(value, dict) or MODEL not in value:
            raise self._no("files", f"an object with {MODEL!r}", value)
        for name, digest in value.items():
            if not is_plain_name(name):
                raise self._no("files", "names of files in the folder itself", name)
            if (
                not isinstance(digest, str)
                or len(digest) != 64
                or set(digest) - set("0123456789abcdef")
            ):
                raise self._no("files", f"a SHA-256 in hexadecimal digits for {name}", digest)
        return value


def is_plain_name(name: str) -> bool:
    """Whether a text names a file in a folder and cannot lead out of it, on any system."""
    if not name or name in (".", "..") or "\0" in name:
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name

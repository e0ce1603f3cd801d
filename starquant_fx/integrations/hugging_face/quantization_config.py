"""``StarQuantConfig``: how to quantize a model while it is loaded, or what a packed checkpoint's config.json says."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from starquant_fx.errors import InputError, nearest
from starquant_fx.models.folder import QUANT_METHOD

if TYPE_CHECKING:
    from starquant_fx.calibration.prepare import Calibration
    from starquant_fx.checkpoint.format import Quantization
    from starquant_fx.recipe import Recipe

KEYS = ("quant_method", "recipe", "target", "mask_token_id")
"""Keys of a dictionary that asks for quantization; a packed checkpoint's has those of ``Quantization``."""


class StarQuantConfig(QuantizationConfigMixin):
    """Quantizes LLaDA or Dream while ``from_pretrained`` loads it.

    ``AutoModelForMaskedLM.from_pretrained(folder, quantization_config=StarQuantConfig("star-w4a4"))`` gives the logits
    of ``starquant_fx.compile`` with the same arguments. For a packed checkpoint it may choose the target, and nothing
    else.

    Attributes:
        packed: What the ``quantization_config`` of a packed checkpoint says; None where the model is still to be
            quantized.

    Args:
        recipe: A recipe, its name, or what ``Recipe.to_dict`` gives. None: ``star-w4a4``, or the checkpoint's own.
        target: As for ``starquant_fx.compile``.
        calibration: As for ``starquant_fx.compile``: texts, token ids [N, L], or None for the model's own generations.
        tokenizer: For texts; None = the folder's.
        mask_token_id: Overrides the configuration's.
        cache: Folder that keeps what is fitted.

    Raises:
        RecipeError: Unknown recipe, bits or options.
        InputError: The recipe cannot be written to a ``config.json``.
    """

    def __init__(
        self,
        recipe: str | Recipe | dict[str, Any] | None = None,
        *,
        target: str = "auto",
        calibration: Calibration = None,
        tokenizer: Any = None,
        mask_token_id: int | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        from starquant_fx.checkpoint.checks import check_recipe
        from starquant_fx.recipes import from_dict, get_recipe

        self.quant_method: Any = QUANT_METHOD
        self.packed: Quantization | None = None
        self.recipe: Recipe | None = None
        if recipe is not None:
            self.recipe = from_dict(recipe) if isinstance(recipe, dict) else get_recipe(recipe)
            check_recipe(self.recipe)
        self.target = target
        self.calibration = calibration
        self.tokenizer = tokenizer
        self.mask_token_id = mask_token_id
        self.cache = cache

    @classmethod
    def of_packed(cls, packed: Quantization) -> StarQuantConfig:
        """What the ``quantization_config`` of a packed checkpoint says."""
        made = cls(target=packed.target, mask_token_id=packed.mask_token_id)
        made.recipe, made.packed = packed.parsed_recipe(), packed
        return made

    @classmethod
    def from_dict(
        cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Reads what ``to_dict`` gives, strictly.

        Args:
            config_dict: A packed checkpoint's ``quantization_config``, or ``quant_method`` with any of ``recipe``,
                ``target`` and ``mask_token_id``.
            return_unused_kwargs: Whether to return the further arguments too.
            **kwargs: Further arguments; none is read.

        Raises:
            CheckpointError: It is a damaged checkpoint's.
            InputError: It has other keys.
            RecipeError: Unknown recipe, bits or options.
        """
        from starquant_fx.checkpoint.format import parse_quantization

        if "version" in config_dict or "fingerprint" in config_dict:
            made = cls.of_packed(parse_quantization(config_dict))
        else:
            for key in config_dict:
                if key not in KEYS:
                    raise InputError(
                        "unknown key",
                        where=f"quantization_config.{key}",
                        expected=", ".join(KEYS),
                        got=repr(key),
                        hint=nearest(str(key), KEYS)
                        or "StarQuantConfig(...) takes everything else",
                    )
            made = cls(**{k: v for k, v in config_dict.items() if k != "quant_method"})
        return (made, kwargs) if return_unused_kwargs else made

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready values; calibration data, tokenizer and cache are left out.

        Returns:
            The exact keys of a packed checkpoint's ``quantization_config``, or what ``from_dict`` reads as the same
            request.
        """
        if self.packed is not None:
            values = dataclasses.asdict(self.packed)
        else:
            recipe = {} if self.recipe is None else {"recipe": self.recipe.to_dict()}
            mask = {} if self.mask_token_id is None else {"mask_token_id": self.mask_token_id}
            values = {"quant_method": QUANT_METHOD, **recipe, "target": self.target, **mask}
        ready: dict[str, Any] = json.loads(json.dumps(values))  # tuples become lists
        return ready

    def __iter__(self) -> Generator[tuple[str, Any], None, None]:
        """Gives the items of ``to_dict``, as ``dict(config)`` asks for."""
        yield from self.to_dict().items()

    def __deepcopy__(self, memo: dict[int, Any]) -> StarQuantConfig:
        """Copies the configuration and shares the data: transformers copies all arguments of ``from_pretrained``."""
        return copy.copy(self)

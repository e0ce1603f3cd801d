"""The quantizer that transformers finds for ``StarQuantConfig``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.quantizers.base import HfQuantizer

from starquant_fx.errors import InputError

if TYPE_CHECKING:
    from starquant_fx.compiled import CompiledModel
    from starquant_fx.integrations.hugging_face.quantization_config import StarQuantConfig

DEFAULT_RECIPE = "star-w4a4"


class StarQuantQuantizer(HfQuantizer):
    """Compiles a model that is loaded.

    Our models load themselves and ask it to ``compile``. transformers' own classes replace modules while they load, and
    a compiled model is another graph: they are refused.

    Args:
        quantization_config: A ``StarQuantConfig``.
        **kwargs: As ``HfQuantizer``: ``pre_quantized``.
    """

    quantization_config: StarQuantConfig

    def compile(self, model: nn.Module, tokenizer: Any) -> CompiledModel:
        """Compiles a full-precision model as the configuration says.

        Args:
            model: Our implementation.
            tokenizer: The folder's, for calibration texts where the configuration has none.

        Raises:
            StarQuantError: As ``starquant_fx.compile``.
        """
        from starquant_fx.api import compile

        asked = self.quantization_config
        return compile(
            model,
            DEFAULT_RECIPE if asked.recipe is None else asked.recipe,
            calibration=asked.calibration,
            tokenizer=tokenizer if asked.tokenizer is None else asked.tokenizer,
            target=asked.target,
            mask_token_id=asked.mask_token_id,
            cache=asked.cache,
        )

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuses every model that asks, which are those of transformers.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "a model of transformers' own is not quantized while it is loaded",
            where="quantization_config",
            expected="a model of type llada or Dream, in starquant_fx's implementation",
            got="a model that transformers implements",
            hint="load it without quantization_config, then call starquant_fx.compile(model, recipe)",
        )

    def is_serializable(self, *args: Any, **kwargs: Any) -> Any:
        """Returns that models can be saved."""
        return True

    @property
    def is_trainable(self) -> Any:
        """Whether models can be trained: they cannot."""
        return False

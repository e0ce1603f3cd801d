"""The configurations of LLaDA and Dream as transformers has configurations: the published keys as attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.configuration_utils import PreTrainedConfig

from starquant_fx.errors import ConfigError
from starquant_fx.models.folder import CONFIG_FILE

if TYPE_CHECKING:
    from starquant_fx.models.config import PublishedConfig


class DenoiserConfig(PreTrainedConfig):
    """Base of our configurations.

    It takes any keys, as transformers' configurations do; they are checked when a model is built of them.

    Raises:
        ConfigError: The rotary embedding is scaled, which is not implemented.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        """Keeps the published keys as they are: transformers would turn a scaled rotary embedding into other keys."""
        if (scaling := kwargs.pop("rope_scaling", None)) is not None:
            raise ConfigError(
                "rope_scaling is not implemented",
                where=CONFIG_FILE,
                expected="None",
                got=repr(scaling)[:100],
                hint="use a model of the published LLaDA-8B or Dream-7B families",
            )
        super().__post_init__(**kwargs)

    def published(self) -> PublishedConfig:
        """The configuration that our implementation is built from.

        Raises:
            ConfigError: Keys are missing, wrong, or ask for what is not implemented.
        """
        from starquant_fx.models.registry import (
            ARCHITECTURES,  # imports torch, which AutoConfig does not need
        )

        return ARCHITECTURES[self.model_type].config.from_dict(self.to_dict())


class StarQuantLladaConfig(DenoiserConfig):
    """LLaDA's published ``config.json``; transformers' names of the sizes are other names for its own."""

    model_type = "llada"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "num_key_value_heads": "n_kv_heads",
    }


class StarQuantDreamConfig(DenoiserConfig):
    """Dream's published ``config.json``."""

    model_type = "Dream"


CONFIGURATIONS: dict[str, type[DenoiserConfig]] = {
    one.model_type: one for one in (StarQuantLladaConfig, StarQuantDreamConfig)
}

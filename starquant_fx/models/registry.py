"""The architectures with an implementation of their own, by the published ``model_type``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import nn

from starquant_fx.models.config import PublishedConfig
from starquant_fx.models.dream import DreamConfig, DreamModel
from starquant_fx.models.llada import LladaConfig, LladaModel
from starquant_fx.models.tensor_names import llada_name


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How a published architecture is built and read.

    Attributes:
        config: Class of its configuration.
        model: Builds the model from a configuration.
        depth: The configuration's field that counts the layers.
        published_name: Name in a file -> published name, for the layouts that are accepted.
        tokenizer: The transformers tokenizer for a folder without ``tokenizer.json``.
    """

    config: type[PublishedConfig]
    model: Callable[[Any], nn.Module]
    depth: str
    published_name: Callable[[str], str]
    tokenizer: str


# Dream's published tokenizer is code in its repository; its vocabulary and rules are Qwen2's.
ARCHITECTURES = {
    "llada": Architecture(
        LladaConfig, LladaModel, "n_layers", llada_name, "PreTrainedTokenizerFast"
    ),
    "Dream": Architecture(DreamConfig, DreamModel, "num_hidden_layers", str, "Qwen2Tokenizer"),
}

"""What transformers is told: configurations and models of our types, and the quantization method ``starquant``.

A type that transformers has an implementation of its own for, or that somebody else registered, is left alone.
Registering twice changes nothing.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from starquant_fx.models.folder import QUANT_METHOD


def register() -> None:
    """Registers everything with transformers, which is imported for it."""
    register_configurations()
    register_quantization()
    register_models()


def register_configurations() -> None:
    """Registers the configurations with ``AutoConfig``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    from starquant_fx.integrations.hugging_face.configuration import CONFIGURATIONS

    for model_type, configuration in CONFIGURATIONS.items():
        if model_type not in CONFIG_MAPPING:
            with contextlib.suppress(ValueError):  # another thread was faster
                AutoConfig.register(model_type, configuration)


def register_quantization() -> None:
    """Registers ``StarQuantConfig`` and its quantizer."""
    from transformers.quantizers import auto

    from starquant_fx.integrations.hugging_face.quantization_config import StarQuantConfig
    from starquant_fx.integrations.hugging_face.quantizer import StarQuantQuantizer

    with contextlib.suppress(ValueError):  # registered already
        auto.register_quantization_config(QUANT_METHOD)(StarQuantConfig)
    with contextlib.suppress(ValueError):
        auto.register_quantizer(QUANT_METHOD)(StarQuantQuantizer)


def register_models() -> None:
    """Registers the models with ``AutoModelForMaskedLM`` and ``AutoModel``, where the configuration is ours.

    Until ``modeling`` is imported these are its stand-ins: it takes a second, which nobody should wait for who only
    imports ``AutoTokenizer``.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForMaskedLM

    from starquant_fx.integrations.hugging_face.stand_ins import MODELING, STAND_INS

    register_configurations()
    models = getattr(sys.modules.get(MODELING), "MODELS", STAND_INS)
    autos: tuple[Any, ...] = (AutoModelForMaskedLM, AutoModel)
    for model_type, model in models.items():
        if CONFIG_MAPPING[model_type] is not model.config_class:
            continue
        for auto in autos:
            held = auto._model_mapping.get(model.config_class, None)
            if held in (None, STAND_INS[model_type]):
                auto.register(model.config_class, model, exist_ok=True)

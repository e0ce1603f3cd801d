"""What transformers is told: configurations and models of our types, and the quantization method ``starquant``.

A type that transformers has an implementation of its own for, or that somebody else registered, is left alone.
Registering twice changes nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

from starquant_fx.models.folder import QUANT_METHOD

_REPLACING = threading.Lock()


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
    from transformers.quantizers.auto import register_quantization_config, register_quantizer

    from starquant_fx.integrations.hugging_face.quantization_config import StarQuantConfig
    from starquant_fx.integrations.hugging_face.quantizer import StarQuantQuantizer

    with contextlib.suppress(ValueError):  # registered already
        register_quantization_config(QUANT_METHOD)(StarQuantConfig)
    with contextlib.suppress(ValueError):
        register_quantizer(QUANT_METHOD)(StarQuantQuantizer)


def register_models() -> None:
    """Registers the models with ``AutoModelForMaskedLM`` and ``AutoModel``, where the configuration is ours.

    Until ``modeling`` is imported these are its stand-ins: it takes a second, which nobody should wait for who only
    imports ``AutoTokenizer``.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForMaskedLM

    from starquant_fx.integrations.hugging_face.stand_ins import MODELING, STAND_INS

    register_configurations()
    autos: tuple[Any, ...] = (AutoModelForMaskedLM, AutoModel)
    for model_type, stand_in in STAND_INS.items():
        configuration = stand_in.config_class
        if CONFIG_MAPPING[model_type] is not configuration:
            continue
        for auto in autos:
            with _REPLACING:  # else a thread that knows the stand-in alone could put it back
                models = getattr(sys.modules.get(MODELING), "MODELS", STAND_INS)
                if auto._model_mapping.get(configuration, None) in (None, stand_in):
                    auto.register(configuration, models[model_type], exist_ok=True)

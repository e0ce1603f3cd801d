"""Stand-ins for our model classes, which import transformers' own modelling code when they are used.

transformers looks models up in its own mappings before it imports that code, and ``AutoTokenizer`` imports the mappings
too. What is registered there must therefore be light. ``modeling`` takes the place of the stand-ins once it is
imported.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

from starquant_fx.integrations.hugging_face.configuration import (
    StarQuantDreamConfig,
    StarQuantLladaConfig,
)

MODELING = "starquant_fx.integrations.hugging_face.modeling"


class ImportedAtUse(type):
    """A class that is, in all but identity, the class of the same name in ``modeling``.

    Any attribute that the stand-in does not have itself is the real class's, and imports it. So does a class that
    derives from it, which derives from the real class. ``issubclass(stand_in, PreTrainedModel)`` is False: Python asks
    ``PreTrainedModel``, which looks at the bases that the stand-in was made with. A base with another metaclass
    beside a stand-in is Python's metaclass conflict.
    """

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **keywords: Any
    ) -> Any:
        """Makes a stand-in, or a class of the real metaclass where a base is a stand-in."""
        if not any(isinstance(base, ImportedAtUse) for base in bases):
            return super().__new__(mcs, name, bases, namespace, **keywords)
        true = tuple(real(base) if isinstance(base, ImportedAtUse) else base for base in bases)
        return types.new_class(name, true, keywords, lambda body: body.update(namespace))

    def __getattr__(cls, name: str) -> Any:
        """An attribute of the real class."""
        return getattr(real(cls), name)

    def __setattr__(cls, name: str, value: Any) -> None:
        """Sets an attribute of the real class, and the stand-in's own where it has one."""
        setattr(real(cls), name, value)
        if name in vars(cls):
            super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        """Deletes an attribute of the real class, and the stand-in's own where it has one."""
        delattr(real(cls), name)
        if name in vars(cls):
            super().__delattr__(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes a model of the real class."""
        return real(cls)(*args, **kwargs)

    def __instancecheck__(cls, one: Any) -> bool:
        """Whether it is a model of the real class."""
        return isinstance(one, real(cls))

    def __subclasscheck__(cls, one: type) -> bool:
        """Whether it is the stand-in, the real class, or derives from it."""
        return one is cls or issubclass(one, real(cls))


def real(stand_in: type) -> Any:
    """The class that a stand-in stands for."""
    return getattr(importlib.import_module(MODELING), stand_in.__name__)


class StarQuantLladaForMaskedLM(metaclass=ImportedAtUse):
    """LLaDA with its LM head, in full precision or compiled."""

    config_class = StarQuantLladaConfig


class StarQuantDreamForMaskedLM(metaclass=ImportedAtUse):
    """Dream with its LM head, in full precision or compiled."""

    config_class = StarQuantDreamConfig


STAND_INS: dict[str, Any] = {
    StarQuantLladaConfig.model_type: StarQuantLladaForMaskedLM,
    StarQuantDreamConfig.model_type: StarQuantDreamForMaskedLM,
}

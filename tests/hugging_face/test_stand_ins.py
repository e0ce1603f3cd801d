"""What is registered is light until a model is used, and then is our model classes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel

from starquant_fx.integrations import hugging_face
from starquant_fx.integrations.hugging_face import configuration, stand_ins
from starquant_fx.integrations.hugging_face.modeling import MODELS

Run = Callable[[str], str]
Folder = Callable[[str], Path]
IMPORTS = (
    "from transformers import AutoTokenizer",
    "from transformers import AutoConfig",
    "from transformers import AutoModel, AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING",
)
HEAVY = ("transformers.modeling_utils", "transformers.quantizers.auto", "torchao")
SAY = "\nimport json, sys; print(json.dumps(sorted(m for m in sys.modules if m[:12] != 'starquant_fx')))"
START = """
import pickle, sys, torch, starquant_fx
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING
config = AutoConfig.from_pretrained({folder!r})
first = AutoModelForMaskedLM._model_mapping[type(config)]
assert type(config) in AutoModel._model_mapping and type(config) in AutoModelForMaskedLM._model_mapping
assert MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None) is first
assert first.__name__ == "StarQuantLladaForMaskedLM" and first.config_class is type(config)
assert pickle.loads(pickle.dumps(first)) is first
assert "transformers.modeling_utils" not in sys.modules, "so far nothing was used"
"""
END = """
assert type(model).__module__ == "starquant_fx.integrations.hugging_face.modeling", type(model)
assert type(model).__name__ == first.__name__ and isinstance(model, first) and issubclass(type(model), first)
assert AutoModel._model_mapping[type(config)] is type(model) is AutoModelForMaskedLM._model_mapping[type(config)]
assert type(pickle.loads(pickle.dumps(model))) is type(model)
print("done")
"""
USES = {
    "from_pretrained": "model = AutoModelForMaskedLM.from_pretrained({folder!r})",
    "from_config": "model = AutoModel.from_config(config)",
    "the class that was found": "model = first.from_pretrained({folder!r})",
    "its modelling code": "import transformers.modeling_utils\nmodel = AutoModel.from_pretrained({folder!r})",
    "a class that derives from it": "class Mine(first): pass\nmodel = AutoModel.from_pretrained({folder!r})\n"
    "assert Mine.__bases__ == (type(model),) and type(Mine.from_pretrained({folder!r})) is Mine",
    "the registry of quantizers": "import transformers.quantizers\nmodel = AutoModel.from_config(config)",
}
USUAL = ("from_pretrained", "a class that derives from it")


@pytest.mark.parametrize(
    "imports", [IMPORTS[0], *(pytest.param(i, marks=pytest.mark.slow) for i in IMPORTS[1:])]
)
def test_an_import_loads_no_more_of_transformers_with_ours(imports: str, fresh_python: Run) -> None:
    with_ours = set(json.loads(fresh_python(f"import starquant_fx\n{imports}{SAY}")))
    without = set(json.loads(fresh_python(imports + SAY)))
    assert not [name for name in with_ours - without if name.partition(".")[0] == "transformers"]
    assert with_ours.isdisjoint(HEAVY) or not without.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "use", [pytest.param(u, marks=[] if u in USUAL else pytest.mark.slow) for u in USES]
)
def test_the_real_class_takes_its_place_at_use(use: str, fresh_python: Run, full: Folder) -> None:
    code = (START + USES[use]).format(folder=str(full("llada"))) + END
    assert fresh_python(code).strip() == "done"


def test_a_stand_in_is_the_real_class_in_all_but_identity(full: Folder) -> None:
    assert stand_ins.STAND_INS.keys() == MODELS.keys() == configuration.CONFIGURATIONS.keys()
    for model_type, model in MODELS.items():
        one = stand_ins.STAND_INS[model_type]
        assert (one.__name__, one.__doc__) == (model.__name__, model.__doc__)
        assert one.config_class is model.config_class
        assert one.main_input_name == model.main_input_name
        assert issubclass(model, one)
        assert issubclass(one, one)
        assert not issubclass(PreTrainedModel, one)
        assert type(one(one.config_class.from_pretrained(full(model_type.lower())))) is model
        assert copy.deepcopy(one) is one is pickle.loads(pickle.dumps(one))
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = one.no_such_name


def test_a_class_derives_from_the_real_one(full: Folder) -> None:
    class Mixin:
        said: str

        def __init_subclass__(cls, said: str = "nothing", **others: Any) -> None:
            super().__init_subclass__(**others)
            cls.said = said

    one: Any = stand_ins.STAND_INS["llada"]
    model: Any = MODELS["llada"]

    class Mine(Mixin, one, said="something"):
        """A class of a user."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            found = super().forward(*args, **kwargs)
            found.logits = found.logits * 2
            return found

    assert Mine.__bases__ == (Mixin, model)
    assert type(Mine) is type(model)
    assert issubclass(Mine, PreTrainedModel)
    assert issubclass(Mine, one)
    assert not issubclass(model, Mine)
    assert (Mine.said, Mine.__doc__, Mine.__name__) == ("something", "A class of a user.", "Mine")
    assert Mine.__module__ == __name__
    ours, theirs = Mine.from_pretrained(full("llada")), model.from_pretrained(full("llada"))
    assert type(ours) is Mine
    assert isinstance(ours, one)
    ids = torch.arange(6)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits * 2)
    assert type("Mine", (one,), {}).__mro__[1] is model


def test_attributes_that_are_set_are_the_real_class_s(monkeypatch: pytest.MonkeyPatch) -> None:
    one, model = stand_ins.STAND_INS["llada"], MODELS["llada"]
    before = model.forward
    with monkeypatch.context() as patched:
        patched.setattr(one, "forward", len)
        patched.setattr(one, "config_class", configuration.DenoiserConfig)  # both have their own
        assert one.forward is model.forward is len
        assert one.config_class is model.config_class is configuration.DenoiserConfig
    assert one.forward is model.forward is before
    assert one.config_class is model.config_class is configuration.StarQuantLladaConfig
    one.mark = 1
    assert model.mark == 1
    del one.mark
    assert not hasattr(model, "mark")
    with pytest.raises(AttributeError):
        del one.mark


def test_a_class_that_somebody_else_registered_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configuration.StarQuantLladaConfig
    others: Any = type("Other", (), {"config_class": config})
    monkeypatch.setitem(AutoModel._model_mapping._extra_content, config, others)
    hugging_face.register()
    assert AutoModel._model_mapping[config] is others
    assert AutoModelForMaskedLM._model_mapping[config] is MODELS["llada"]

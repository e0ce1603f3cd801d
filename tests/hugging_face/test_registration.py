"""``import starquant_fx`` is enough, in any order, and stays light."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

import starquant_fx
from starquant_fx.integrations import hugging_face
from starquant_fx.integrations.hugging_face import configuration, hook, registration
from starquant_fx.integrations.hugging_face.modeling import MODELS
from starquant_fx.integrations.hugging_face.quantizer import StarQuantQuantizer

Run = Callable[[str], str]
Folder = Callable[[str], Path]
LOAD = """
model = transformers.AutoModelForMaskedLM.from_pretrained({folder!r})
print(type(model).__name__, model.config.quantization_config.quant_method)
"""
SLOW = """
import importlib, sys, threading, starquant_fx
reached, go_on = threading.Event(), threading.Event()

def wait(event, found):
    if event == "import" and found[0] == {module!r} and not reached.is_set():
        reached.set()
        go_on.wait(60)

sys.addaudithook(wait)
thread = threading.Thread(target=importlib.import_module, args=("transformers.modeling_utils",))
thread.start()
assert reached.wait(60)
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
config = AutoConfig.from_pretrained({folder!r})
model = AutoModelForMaskedLM._model_mapping[type(config)]
assert model is AutoModel._model_mapping[type(config)]
print(type(config).__name__, model.__name__)
if {module!r} != "transformers.quantizers.auto":
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
    print(AUTO_QUANTIZATION_CONFIG_MAPPING["starquant"] is starquant_fx.StarQuantConfig)
assert thread.is_alive() and not go_on.is_set(), "the other thread still imports"
go_on.set()
thread.join(60)
model = AutoModelForMaskedLM.from_pretrained({folder!r})
print(type(model).__module__.rpartition(".")[2])
"""
"""Another thread stops where transformers' modelling code imports a module, while this one looks for ours."""
QUANTIZERS = "transformers.quantizers.auto"
LOADED = "StarQuantLladaForMaskedLM starquant"
ORDERS = {
    "ours first": "import starquant_fx, transformers",
    "transformers first": "import transformers, starquant_fx",
    "its auto classes first": "import transformers\nfrom transformers import AutoModelForMaskedLM\nimport starquant_fx",
    "its models first": "import transformers, transformers.modeling_utils, starquant_fx",
    "its tokenizers first": "import transformers\nfrom transformers import AutoTokenizer\nimport starquant_fx",
    "its models after ours": "import starquant_fx, transformers, transformers.modeling_utils",
    "a model of its own after ours": "import starquant_fx, transformers\nfrom transformers import BertForMaskedLM",
    "our model classes first": "import starquant_fx.integrations.hugging_face.modeling, transformers",
    "our stand-ins first": "import starquant_fx.integrations.hugging_face.stand_ins, transformers",
    "our quantizer first": "import starquant_fx.integrations.hugging_face.quantizer, transformers",
    "our loaders first": "import starquant_fx.integrations.hugging_face.loading, transformers",
}


USUAL = ("ours first", "its auto classes first")


@pytest.mark.parametrize(
    "order", [pytest.param(o, marks=[] if o in USUAL else pytest.mark.slow) for o in ORDERS]
)
def test_any_order_of_imports(order: str, fresh_python: Run, packed: Folder) -> None:
    folder = str(packed("odd"))
    assert fresh_python(ORDERS[order] + LOAD.format(folder=folder)).strip() == LOADED


def test_the_import_loads_neither_torch_nor_transformers(fresh_python: Run) -> None:
    code = "import json, sys, starquant_fx; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(fresh_python(code))}
    assert "starquant_fx" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "huggingface_hub", "safetensors"})


def test_configurations_do_not_load_torch(fresh_python: Run) -> None:
    code = (
        "import sys, starquant_fx, transformers.models.auto.configuration_auto as auto\n"
        "before = 'torch' in sys.modules\n"
        "print(auto.CONFIG_MAPPING['llada'].__name__, auto.CONFIG_MAPPING['Dream'].__name__, before)"
    )
    first, second, torch = fresh_python(code).split()
    assert (first, second) == ("StarQuantLladaConfig", "StarQuantDreamConfig")
    plain = "import sys, transformers.models.auto.configuration_auto; print('torch' in sys.modules)"
    assert torch == fresh_python(plain).strip()


def test_threads_that_import_at_once(fresh_python: Run, packed: Folder) -> None:
    code = """
import threading, starquant_fx, importlib
names = ["transformers.models.auto.modeling_auto", "transformers.models.auto.configuration_auto",
         "transformers.modeling_utils", "transformers.quantizers.auto",
         *(f"starquant_fx.integrations.hugging_face.{n}" for n in ("quantizer", "modeling", "stand_ins", "loading"))]
threads = [threading.Thread(target=importlib.import_module, args=(name,)) for name in names]
for t in threads: t.start()
for t in threads: t.join(60)
print(sum(t.is_alive() for t in threads))
import transformers
"""
    hung, *loaded = fresh_python(code + LOAD.format(folder=str(packed("odd")))).splitlines()
    assert (hung, loaded) == ("0", [LOADED])


@pytest.mark.parametrize(
    ("module", "quantization"),
    [
        pytest.param(QUANTIZERS, [], marks=pytest.mark.slow),
        ("transformers.safetensors_conversion", ["True"]),
    ],
)
def test_ours_are_known_while_another_thread_imports_models(
    module: str, quantization: list[str], fresh_python: Run, full: Folder
) -> None:
    found = fresh_python(SLOW.format(module=module, folder=str(full("llada")))).split()
    assert found == [
        "StarQuantLladaConfig",
        "StarQuantLladaForMaskedLM",
        *quantization,
        "modeling",
    ]


def test_everything_is_registered_once() -> None:
    hugging_face.register()
    hugging_face.register()
    hook.install()
    assert sum(isinstance(finder, hook.AfterImport) for finder in sys.meta_path) == 1
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["starquant"] is starquant_fx.StarQuantConfig
    assert AUTO_QUANTIZER_MAPPING["starquant"] is StarQuantQuantizer
    for model_type, model in MODELS.items():
        config = CONFIG_MAPPING[model_type]
        assert config is configuration.CONFIGURATIONS[model_type]
        assert AutoModelForMaskedLM._model_mapping[config] is model
        assert AutoModel._model_mapping[config] is model


def test_a_type_of_transformers_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a later version brought LLaDA itself."""
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "llada", LlamaConfig)
    hugging_face.register()
    assert CONFIG_MAPPING["llada"] is LlamaConfig
    assert LlamaConfig not in AutoModelForMaskedLM._model_mapping


def test_a_failure_is_a_warning_and_the_import_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("no such name")

    monkeypatch.setattr(registration, "register_quantization", fail)
    with pytest.warns(UserWarning, match=r"could not register with transformers\.quantizers\.auto"):
        hook.AfterImport().register()


@pytest.mark.parametrize("recovers", [True, False])
def test_what_fails_inside_an_import_is_tried_again_after_it(
    recovers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where our quantizer is what imports the registry of quantizers, and is not complete when that is."""
    (tmp_path / "keeps_quantizers.py").write_text("")
    (tmp_path / "needs_it.py").write_text("import keeps_quantizers\nREADY = True\n")
    tried: list[bool] = []

    def register() -> None:
        tried.append(hasattr(sys.modules["needs_it"], "READY"))
        if not (recovers and tried[-1]):
            raise ImportError("no such name")

    monkeypatch.setattr(registration, "register_quantization", register)
    monkeypatch.setattr(hook, "REGISTRIES", {"keeps_quantizers": "register_quantization"})
    monkeypatch.setattr(hook, "WATCHED", ("keeps_quantizers", "needs_it"))
    monkeypatch.setattr(sys, "meta_path", [hook.AfterImport(), *sys.meta_path])
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            importlib.import_module("needs_it")
    finally:
        for name in ("keeps_quantizers", "needs_it"):
            sys.modules.pop(name, None)
    assert tried == [False, True]
    assert len(told) == (0 if recovers else 1)


def test_other_modules_are_found_as_before() -> None:
    finder = hook.AfterImport()
    assert finder.find_spec("json") is None
    assert finder.find_spec("transformers.no_such_module", transformers.__path__) is None
    spec = finder.find_spec(QUANTIZERS, [str(Path(transformers.__path__[0], "quantizers"))])
    assert spec is not None
    assert type(spec.loader).__name__ == "SourceFileLoader"


def test_models_of_transformers_are_as_before() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found: Any = AutoModelForMaskedLM._model_mapping[BertConfig]
        assert found is BertForMaskedLM

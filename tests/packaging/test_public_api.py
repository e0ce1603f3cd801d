"""Every public name exists, is documented, and is what the documentation lists."""

import inspect
from types import ModuleType

import pytest

import starquant_fx


def public_names() -> list[str]:
    return [name for name in starquant_fx.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", public_names())
def test_public_name_resolves_and_has_a_docstring(name: str) -> None:
    thing = getattr(starquant_fx, name)
    if not isinstance(thing, ModuleType):
        assert callable(thing)
        assert thing.__module__.startswith("starquant_fx.")
    doc = inspect.getdoc(thing)
    assert doc
    assert len(doc.splitlines()[0].split()) >= 3


@pytest.mark.parametrize("name", public_names())
def test_public_function_documents_its_parameters(name: str) -> None:
    thing = getattr(starquant_fx, name)
    if not inspect.isfunction(thing):
        return
    doc = inspect.getdoc(thing) or ""
    missing = [p for p in inspect.signature(thing).parameters if f"{p}:" not in doc]
    assert missing == []


def test_all_is_sorted_without_repeats_and_seen_by_dir() -> None:
    assert list(starquant_fx.__all__) == sorted(set(starquant_fx.__all__))
    assert set(starquant_fx.__all__) <= set(dir(starquant_fx))


def test_an_unknown_name_is_refused() -> None:
    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(starquant_fx, name)

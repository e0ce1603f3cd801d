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


def test_public_functions_document_their_parameters() -> None:
    things = {name: getattr(starquant_fx, name) for name in public_names()}
    functions = {name: thing for name, thing in things.items() if inspect.isfunction(thing)}
    assert "compile" in functions
    undocumented = [
        f"{name}({parameter})"
        for name, function in functions.items()
        for parameter in inspect.signature(function).parameters
        if f"{parameter}:" not in (inspect.getdoc(function) or "")
    ]
    assert undocumented == []


def test_all_is_sorted_without_repeats_and_seen_by_dir() -> None:
    assert list(starquant_fx.__all__) == sorted(set(starquant_fx.__all__))
    assert set(starquant_fx.__all__) <= set(dir(starquant_fx))


def test_an_unknown_name_is_refused() -> None:
    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(starquant_fx, name)

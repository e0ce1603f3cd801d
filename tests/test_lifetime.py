"""What a compilation made is let go of when nobody holds it."""

from __future__ import annotations

import gc
import weakref

from tests.compile_cases import fresh


def test_a_compiled_model_that_nobody_holds_is_gone() -> None:
    one = fresh("odd", "rtn-w8a8")
    assert one.program.fake_values == {}
    kept = [weakref.ref(x) for x in (one, one.program.module, one.program.graph)]
    del one
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3

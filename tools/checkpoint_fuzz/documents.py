"""Forged JSON: configurations, recipes, indexes and reports with other keys, kinds and numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from random import Random
from typing import Any

from checkpoint_fuzz.damage import Mutation, is_plain, plain_files
from starquant_fx.methods import METHODS
from starquant_fx.passes import REGISTRY

NESTED: Any = []
for _ in range(500):
    NESTED = [NESTED]
EXTREMES: tuple[Any, ...] = (
    0,
    1,
    2,
    -1,
    7,
    255,
    2**31,
    2**40,
    2**63,
    2**64,
    10**9,
    10**400,
    -(10**20),
    0.5,
    1e308,
    1e-320,
    float("inf"),
    float("nan"),
    -0.0,
    True,
    False,
    None,
    "",
    "x",
    "cpu",
    "cuda",
    "triton",
    "float64",
    "bfloat16",
    "../x",
    "a\0b",
    "\ud800",
    "x" * 100_000,
    [],
    [0],
    {},
    {"a": 1},
    NESTED,
)
"""What any value may become."""
VALUES = (
    *(
        "0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "64",
        "1000000000",
        "1e308",
        "1e999",
        "-1e999",
        "nan",
        "0.5",
        "None",
        "True",
        "x",
    ),
    *(
        "'x'",
        "()",
        "(1,)",
        "(0.5,0.5)",
        "(1,'a')",
        "[1]",
        "{1:2}",
        "all",
        "q+k",
        "hadamard",
        "dense",
        "block",
    ),
    *(
        "9" * 5000,
        "(" * 300 + ")" * 300,
        "-" * 5000 + "1",
        "{" * 3000,
        "1" + "+1j" * 2000,
        "\0",
        "0x10",
        "b'a'",
    ),
)
"""Texts of options."""
PATTERNS = (
    "role:head",
    "role:q",
    "role:x",
    "re:.*",
    "re:(",
    "re:(.+)+0x",
    "re:(.*)*(.*)*x",
    "re:" + ".*" * 30 + "x",
    "re:(?:.|.)*x",
    "re:(" * 200,
    "re:a{99999999}",
    "re:" + "(?:a?){1000}" * 3 + "x",
    "nothing",
    "",
)
KEPT = {"config.json", "model.safetensors.index.json", "starquant_report.json"}


def value(random: Random, folder: Path) -> str:
    """Gives one key at any depth another value, takes it out, or adds another."""
    path, content = _some(random, folder)
    places = list(_places(content))
    holder, key = random.choice(places or _none())
    way = random.random()
    if way < 0.75:
        made = random.choice(EXTREMES)
        holder[key] = made
        said = f"{key} = {str(made)[:40]!r}"
    elif way < 0.85:
        del holder[key]
        said = f"no {key}"
    elif way < 0.95 and isinstance(holder, dict):
        name = random.choice(("more", f"{key}s", str(key).upper(), "", "\0", "__class__"))
        holder[name] = random.choice(EXTREMES)
        said = f"{name!r} more"
    else:
        other, place = random.choice(places)
        holder[key] = other[place]
        said = f"{key} as {place}"
    _write(path, content)
    return f"{path.name}: {said}"


def number(random: Random, folder: Path) -> str:
    """Changes a number a little or beyond all bounds."""
    path, content = _some(random, folder)
    found = [(h, k) for h, k in _places(content) if type(h[k]) in (int, float)]
    holder, key = random.choice(found or _none())
    held = holder[key]
    made = random.choice(
        (held + 1, held - 1, -held, held * 2, held * 10**6, held * 10**15, 10**9, 2**40, 0)
    )
    holder[key] = made
    _write(path, content)
    return f"{path.name}: {key} = {made} for {held}"


def repeated(random: Random, folder: Path) -> str:
    """Has a JSON object name a key twice, the second time with another value."""
    path, content = _some(random, folder)
    key = random.choice(list(content) or _none())
    text = json.dumps(content)
    again = (
        f"{json.dumps(key)}: {json.dumps(random.choice((content[key], random.choice(EXTREMES))))}"
    )
    whole = f"{text[:-1]}, {again}}}" if random.random() < 0.5 else f"{{{again}, {text[1:]}"
    path.write_bytes(whole.encode("utf-8", "surrogatepass"))
    return f"{path.name}: {key} twice"


def recipe(random: Random, folder: Path) -> str:
    """Changes passes, their options, bits or patterns of the recipe."""
    path, content = _read(folder / "config.json")
    try:
        held: dict[str, Any] = content["quantization_config"]["recipe"]
        passes: list[Any] = held["passes"]
        assert isinstance(held, dict)
        assert isinstance(passes, list)
    except (KeyError, TypeError, AssertionError):
        raise LookupError from None
    way = random.randrange(8)
    at = random.randrange(len(passes)) if passes else 0
    if way == 0 and passes:
        del passes[at]
    elif way == 1 and passes:
        passes.insert(random.randrange(len(passes) + 1), passes[at])
    elif way == 2:
        random.shuffle(passes)
    elif way == 3:
        passes.insert(at, _pass(random))
    elif way == 4 and passes:
        passes[at] = _pass(random)
    elif way == 5:
        held[random.choice(("weight_bits", "activation_bits"))] = random.choice(
            (1, 2, 3, 4, 8, 9, 16, 0, -4, 64)
        )
    elif way == 6:
        held["ignore"] = random.sample(PATTERNS, 2)
    else:
        held["overrides"] = {
            random.choice(PATTERNS): random.choice(("w4a4", "w8a8", "w16a16", "w3a2", "x"))
        }
    if random.random() < 0.1:
        held["method"] = random.choice((*METHODS, "x"))
    _write(path, content)
    return f"recipe: {json.dumps(held)[:300]}"


def lists(random: Random, folder: Path) -> str:
    """Gives the recipe lists of thousands."""
    path, content = _read(folder / "config.json")
    try:
        held = content["quantization_config"]["recipe"]
        passes = list(held["passes"])
    except (KeyError, TypeError):
        raise LookupError from None
    way = random.randrange(4)
    if way == 0:
        held["passes"] = passes + [random.choice(passes or ["fuse"])] * 20_000
    elif way == 1:
        held["passes"] = ["assign-roles{" + "x=1," * 20_000 + "}"]
    elif way == 2:
        held["ignore"] = ["role:head"] + [f"re:{i}" for i in range(20_000)]
    else:
        held["calibration"] = {"strata": [1] * 100_000}
    _write(path, content)
    return f"recipe: thousands, in way {way}"


def _pass(random: Random) -> str:
    """A pass of the registry with any options."""
    name = random.choice(list(REGISTRY))
    fields = [f.name for f in dataclasses.fields(REGISTRY[name])]  # type: ignore[arg-type]
    chosen = random.sample(fields, min(len(fields), random.randrange(3)))
    if random.random() < 0.1:
        chosen.append("seed")
    return name + "{" + ",".join(f"{one}={random.choice(VALUES)}" for one in chosen) + "}"


def _places(content: Any) -> Any:
    """Every key of every object and list."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, held in list(pairs):
        yield content, key
        if isinstance(held, dict | list) and held is not NESTED:
            yield from _places(held)


def _some(random: Random, folder: Path) -> tuple[Path, dict[str, Any]]:
    found = [f for f in plain_files(folder) if f.name in KEPT]
    weights = [4 if f.name == "config.json" else 1 for f in found]
    return _read(random.choices(found or _none(), weights)[0])


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    if not is_plain(path):
        raise LookupError
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise LookupError from None
    if not isinstance(content, dict):
        raise LookupError
    return path, content


def _write(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def _none() -> Any:
    raise LookupError


DOCUMENTS: dict[Mutation, int] = {value: 6, number: 3, repeated: 1, recipe: 6, lists: 1}
"""Mutation -> how often it is drawn."""

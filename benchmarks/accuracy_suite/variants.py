"""What is compared: the rows of every table, each a recipe with a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from starquant_fx.methods import STAR_LOW_RANK, STAR_TAC, pipeline
from starquant_fx.pass_base import parse_pass
from starquant_fx.passes import REGISTRY, InsertTokenState
from starquant_fx.recipe import CalibrationOptions, Recipe
from starquant_fx.recipes import get_recipe

STATES = ("insert-token-state", "insert-partition")
CENTER = ("insert-centering", "estimate-means")
QUARTERS = (0.25, 0.5, 0.75)
SOME_SITES = ("q", "o", "gate", "down", "q+gate", "o+down")
BASELINES = (
    "rtn",
    "smoothquant",
    "smoothquant+clip+gptq",
    "awq",
    "awq+gptq",
    "gptq",
    "gptq+clip",
    "quarot",
    "duquant",
    "duquant+gptq",
    "freeact",
    "freeact+clip+gptq",
    "dllmquant+",
    "dllmquant++",
)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
        label: What the row is called.
        recipe: How the model is compiled, under seed 0.
    """

    label: str
    recipe: Recipe


def changed(base: str, *passes: str, without: tuple[str, ...] = ()) -> Recipe:
    """A named recipe with passes added or replaced (text forms) and others left out."""
    recipe = get_recipe(base)
    added = pipeline(*recipe.passes, *(parse_pass(text, REGISTRY) for text in passes))
    return dataclasses.replace(recipe, passes=tuple(p for p in added if p.name not in without))


def _named(*names: str) -> list[Variant]:
    return [Variant(name, get_recipe(name)) for name in names]


def main_table() -> list[Variant]:
    """Every method at W4A4; baselines also with GPTQ and clip search, and one with star's extras."""
    extras = (*STATES, *CENTER, str(STAR_LOW_RANK), str(STAR_TAC))
    literal = get_recipe("star-paper-w4a4")
    return [
        *_named(*(f"{m}-w4a4" for m in BASELINES)),
        Variant("quarot + star's extras", changed("quarot-w4a4", *extras)),
        *_named("sgat-w4a4", "star-paper-w4a4"),
        Variant(
            "star-paper, star's calibration",
            dataclasses.replace(literal, calibration=CalibrationOptions()),
        ),
        *_named("star-w4a4"),
    ]


def w8a8() -> list[Variant]:
    """W8A8."""
    return _named(*(f"{m}-w8a8" for m in ("rtn", "smoothquant", "quarot", "star")))


def bits() -> list[Variant]:
    """Accuracy against bits."""
    widths = ("w8a8", "w4a8", "w4a4", "w4a16", "w3a16", "w2a16")
    return _named(*(f"{m}-{w}" for m in ("rtn", "quarot", "star") for w in widths))


def ablation() -> list[Variant]:
    """Star without its parts, each refitted without it."""
    star = "star-w4a4"
    no_sgat = ("insert-sgat", "fit-sgat")
    return [
        Variant("star", get_recipe(star)),
        Variant("star, no TAC", changed(star, without=("insert-tac",))),
        Variant("star, no gates", without_gates()),
        Variant("star, no SGAT", changed(star, "search-clip", without=no_sgat)),
        Variant(
            "star, neither SGAT nor TAC",
            changed(star, "search-clip", without=(*no_sgat, "insert-tac")),
        ),
        Variant("star, no centring", changed(star, without=CENTER)),
        Variant("star, no low-rank branch", changed(star, without=("insert-low-rank",))),
        Variant("star, no GPTQ", changed(star, without=("gptq",))),
        Variant("star, no clipping", changed(star, "insert-quantizers")),
        Variant(
            "star, no GPTQ, no low-rank branch", changed(star, without=("gptq", "insert-low-rank"))
        ),
    ]


def paper() -> list[Variant]:
    """The paper's literal form without its parts, each refitted without it."""
    literal = "star-paper-w4a4"
    return [
        Variant(literal, get_recipe(literal)),
        Variant(f"{literal}, no TAC", changed(literal, without=("insert-tac",))),
        Variant(f"{literal}, no gates", _with_options(literal, "insert-sgat", rank=0)),
    ]


def without_gates() -> Recipe:
    """Star with r = 0."""
    return _with_options("star-w4a4", "insert-sgat", rank=0)


def _with_options(base: str, name: str, **options: object) -> Recipe:
    """A named recipe with some options of one of its passes changed."""
    recipe = get_recipe(base)
    passes = tuple(
        dataclasses.replace(p, **options) if p.name == name else p  # type: ignore[type-var]
        for p in recipe.passes
    )
    return dataclasses.replace(recipe, passes=passes)


def tac_block() -> list[Variant]:
    """TAC's block size (the paper's Table 3)."""
    return [
        Variant(f"g = {g}", _with_options("star-w4a4", "insert-tac", block=g))
        for g in (4, 8, 16, 32, 64)
    ]


def tac_form() -> list[Variant]:
    """TAC's estimators, references, groupings and constants."""
    rows: list[tuple[str, dict[str, object]]] = []
    for estimator in ("covariance", "ridge"):
        for reference in ("transformed", "original"):
            label = f"{estimator}, towards the {reference} model"
            rows.append((label, {"estimator": estimator, "reference": reference}))
    guessed: dict[str, object] = {"tune": False}
    rows += [
        ("covariance, constants guessed", guessed),
        ("covariance, constants guessed, the paper's units", {**guessed, "scaled": False}),
        ("ridge, constants guessed", {**guessed, "estimator": "ridge"}),
    ]
    variants = [Variant(n, _with_options("star-w4a4", "insert-tac", **o)) for n, o in rows]
    for per in ("state", "all", "ratio", "both"):
        recipe = _with_options("star-w4a4", "insert-tac", per=per)
        if per != "state":  # centring and branch are then estimated by bucket too
            recipe = _refined(recipe)
        label = "one map" if per == "all" else f"one map for each {per}"
        variants.append(Variant(label + ", buckets" * (per != "state"), recipe))
    return variants


def _refined(recipe: Recipe, edges: tuple[float, ...] = QUARTERS) -> Recipe:
    """The recipe with token states refined by mask-ratio buckets."""
    passes = pipeline(*recipe.passes, InsertTokenState(edges=edges))
    return dataclasses.replace(recipe, passes=passes)


def gates() -> list[Variant]:
    """d_m = d_u = r: slices of each state, where star has them and elsewhere; and with less that removes means."""
    alone = [
        Variant(
            f"r = {rank}, all, without {label}",
            dataclasses.replace(
                recipe, passes=tuple(p for p in recipe.passes if p.name not in gone)
            ),
        )
        for label, gone in (
            ("centring", CENTER),
            ("centring and branch", (*CENTER, "insert-low-rank")),
        )
        for rank in (0, 1)
        for recipe in (_with_options("star-w4a4", "insert-sgat", rank=rank, gated="all"),)
    ]
    return alone + [
        Variant(
            f"r = {rank} (rounded up to slices), {where}",
            _with_options("star-w4a4", "insert-sgat", rank=rank, gated=where),
        )
        for where in ("o", "all")
        for rank in (0, 1, 4, 16)
    ]


def structure() -> list[Variant]:
    """Structure of the basis."""
    rows: list[tuple[str, dict[str, object]]] = [
        ("dense", {"structure": "dense", "size": 0}),
        ("kronecker, first factor 128", {"structure": "kronecker", "size": 128}),
        ("kronecker, balanced", {"structure": "kronecker", "size": 0}),
        ("block 128", {"structure": "block", "size": 128}),
        ("hadamard", {"structure": "hadamard", "size": 0}),
    ]
    # Without gates: their slices are of another size in each structure.
    return [Variant(n, _with_options("star-w4a4", "insert-sgat", rank=0, **o)) for n, o in rows]


def fit() -> list[Variant]:
    """How the basis is found: its start, where gates start, and what is learned after the sites one by one."""
    rows = [
        ("star-w4a4", get_recipe("star-w4a4")),
        ("gaussian start", _with_options("star-w4a4", "insert-sgat", start="gaussian")),
        ("gates start anywhere", _with_options("star-w4a4", "fit-sgat", aim=False)),
        ("Hadamard matrices, not learned", _with_options("star-w4a4", "fit-sgat", epochs=0)),
    ]
    for label, options in (
        ("then block outputs, inputs of full precision", "objective=block,inputs=full"),
        ("then block outputs, inputs of the quantized model", "objective=block"),
        ("then the logits", "objective=model"),
    ):
        rows.append((label, changed("star-w4a4", f"refine-sgat{{{options}}}")))
    return [Variant(label, recipe) for label, recipe in rows]


def calibration() -> list[Variant]:
    """Calibration sequences of 256 tokens."""
    star = get_recipe("star-w4a4")
    sizes = (8, 16, 32, 64, 128)
    return [
        Variant(
            f"{n} sequences",
            dataclasses.replace(
                star,
                calibration=dataclasses.replace(star.calibration, samples=n, max_tokens=n * 128),
            ),
        )
        for n in sizes
    ]


def centring() -> list[Variant]:
    """Means: none, one for all states, one a state, one a state and mask-ratio bucket."""
    rows = []
    for base in ("quarot-w4a4", "star-w4a4"):
        center = changed(base, *STATES, *CENTER)
        rows += [
            Variant(f"{base}, none", changed(base, without=CENTER)),
            Variant(
                f"{base}, one mean",
                changed(base, *STATES, "insert-centering", "estimate-means{prior=1e12}"),
            ),
            Variant(f"{base}, a state", center),
            *(
                Variant(f"{base}, a state and bucket, edges {edges}", _refined(center, edges))
                for edges in ((0.5,), (0.1, 0.9), QUARTERS)
            ),
        ]
    rows += [
        Variant(
            f"star-w4a4, a state, at {where} only",
            _with_options("star-w4a4", "insert-centering", sites=where),
        )
        for where in SOME_SITES
    ]
    return rows


def low_rank() -> list[Variant]:
    """Directions of each state that bypass the quantizer, and where."""
    somewhere = [
        Variant(
            f"star-w4a4, at {where} only",
            _with_options("star-w4a4", "insert-low-rank", sites=where),
        )
        for where in SOME_SITES
    ]
    return somewhere + [
        Variant(
            f"{base}, k = {k}",
            changed(base, *STATES, f"insert-low-rank{{rank={k}}}")
            if k
            else changed(base, without=("insert-low-rank",)),
        )
        for base in ("quarot+center-w4a4", "star-w4a4")
        for k in (0, 4, 8, 16)
    ]


QUICK: dict[str, Callable[[], Recipe]] = {
    "gap_rtn": lambda: get_recipe("rtn-w4a4"),
    "gap_quarot": lambda: get_recipe("quarot-w4a4"),
    "gap_star": lambda: get_recipe("star-w4a4"),
    "gap_star_no_tac": lambda: changed("star-w4a4", without=("insert-tac",)),
    "gap_star_no_gates": without_gates,
    "w8a8_gap_percent": lambda: get_recipe("star-w8a8"),
}
"""Keys of the summary and the recipes behind them."""

TABLES: dict[str, Callable[[], list[Variant]]] = {
    "main": main_table,
    "w8a8": w8a8,
    "ablation": ablation,
    "paper": paper,
    "bits": bits,
    "tac-block": tac_block,
    "tac-form": tac_form,
    "gates": gates,
    "structure": structure,
    "fit": fit,
    "calibration": calibration,
    "centring": centring,
    "low-rank": low_rank,
}
"""Tables by name."""

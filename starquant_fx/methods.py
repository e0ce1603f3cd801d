"""The methods: pipelines of the same passes, each with its source and what in it is our reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from starquant_fx.pass_base import Pass
from starquant_fx.passes import (
    REGISTRY,
    AssignRoles,
    Canonicalize,
    EstimateMeans,
    FitSgat,
    FoldSgat,
    Fuse,
    Gptq,
    InsertCentering,
    InsertDuquant,
    InsertLowRank,
    InsertPartition,
    InsertQuantizers,
    InsertScaling,
    InsertSgat,
    InsertTac,
    InsertTokenState,
    MeasureSites,
    QuantizeEmbedding,
    RoundTables,
    SearchClip,
)
from starquant_fx.recipe import CalibrationOptions, Recipe

FRAME = (
    *(Canonicalize(), AssignRoles(), InsertQuantizers()),
    *(FoldSgat(), RoundTables(), MeasureSites(), Fuse()),
)
"""What every pipeline has."""
STATES = (InsertTokenState(), InsertPartition())
CLIP = (InsertQuantizers(clip=True), SearchClip())
HADAMARD = InsertSgat(structure="hadamard")
CENTER = (InsertCentering(), EstimateMeans())
STAR_BASIS = InsertSgat(structure="kronecker", size=128, rank=1, gated="o")
STAR_FIT = FitSgat(lr=1e-2, epochs=5)
STAR_LOW_RANK = InsertLowRank(rank=16)
STAR_TAC = InsertTac(tune=True)
TMAS = (0.3, 0.2, 0.2, 0.3)


def pipeline(*passes: Pass) -> tuple[Pass, ...]:
    """The frame with more passes, all in the registry's order; a pass given later replaces one of its name."""
    by_name = {one.name: one for one in (*FRAME, *passes)}
    return tuple(by_name[name] for name in REGISTRY if name in by_name)


def rtn(weight_bits: int, activation_bits: int) -> Recipe:
    """Round to nearest: the quantizers alone, nothing estimated."""
    calibration = CalibrationOptions(samples=16)
    return Recipe("rtn", weight_bits, activation_bits, pipeline(), calibration=calibration)


def smoothquant(weight_bits: int, activation_bits: int) -> Recipe:
    """SmoothQuant (Xiao et al. 2023, arXiv 2211.10438), alpha = 0.5, then round to nearest.

    Our reading: o_proj and down_proj are scaled too, where the original leaves them out because no norm precedes them.
    """
    return Recipe("smoothquant", weight_bits, activation_bits, pipeline(InsertScaling()))


def awq(weight_bits: int, activation_bits: int) -> Recipe:
    """AWQ (Lin et al. 2024, arXiv 2306.00978): searched channel scales and weight clipping, round to nearest.

    Our reading: the search counts the activation quantizer's error, and activations get a clip factor too, because the
    original quantizes weights only.
    """
    passes = pipeline(InsertScaling(method="awq"), *CLIP)
    return Recipe("awq", weight_bits, activation_bits, passes)


def gptq(weight_bits: int, activation_bits: int) -> Recipe:
    """GPTQ (Frantar et al. 2023, arXiv 2210.17323) with activation order and 1 % damping; no transform."""
    return Recipe("gptq", weight_bits, activation_bits, pipeline(Gptq()))


def quarot(weight_bits: int, activation_bits: int) -> Recipe:
    """QuaRot (Ashkboos et al. 2024, arXiv 2404.00456): random Hadamard rotations, GPTQ, clip search.

    Our reading: every site has a rotation of its own, computed at run time. The original folds most of them into the
    neighbouring weights, which computes the same function. Its fixed activation clip of 0.9 is searched here.
    """
    return Recipe("quarot", weight_bits, activation_bits, pipeline(HADAMARD, *CLIP, Gptq()))


def duquant(weight_bits: int, activation_bits: int) -> Recipe:
    """DuQuant (Lin et al. 2024, arXiv 2406.01721): smoothing, greedy block rotations, zigzag permutation, clip search.

    Our reading: a smoothing strength of 0.5 at every site, and the clip factors come from our grid search.
    """
    passes = pipeline(InsertScaling(), InsertDuquant(), *CLIP)
    return Recipe("duquant", weight_bits, activation_bits, passes)


def freeact(weight_bits: int, activation_bits: int) -> Recipe:
    """State-conditioned transforms without TAC, in the manner of FreeAct (2603.01776), which motivates SGAT.

    Our reading: its text was not at hand. This is SGAT as the STaR-Quant paper describes it, a learned orthogonal basis
    with one slice of gates at every site from a Gaussian start, star's Kronecker structure, no centring, no learned
    clipping, no TAC. How it does is no verdict on FreeAct.
    """
    sgat = InsertSgat(structure="kronecker", size=128, rank=1, start="gaussian")
    passes = pipeline(*STATES, sgat, FitSgat(aim=False))
    return Recipe("freeact", weight_bits, activation_bits, passes)


def dllmquant_plus(weight_bits: int, activation_bits: int) -> Recipe:
    """DLLMQuant+ (arXiv 2508.14090): AWQ with TMAS calibration and CGQ.

    TMAS draws calibration states from four mask-ratio buckets with shares 0.3, 0.2, 0.2, 0.3. CGQ weights the Hessian
    of GPTQ by certainty; we take the public constants, 1 for masked and 0.7 for unmasked tokens. Its code is not
    public, and IA-AQ, which searches the scale of a quantized V, is left out: no recipe here quantizes attention.
    """
    passes = pipeline(InsertScaling(method="awq"), *CLIP, *STATES, Gptq(unmasked=0.7))
    calibration = CalibrationOptions(strata=TMAS)
    return Recipe("dllmquant+", weight_bits, activation_bits, passes, calibration=calibration)


def dllmquant_plus_plus(weight_bits: int, activation_bits: int) -> Recipe:
    """DLLMQuant++ (arXiv 2508.14090): QuaRot with TMAS calibration and CGQ; see ``dllmquant+`` for our reading."""
    passes = pipeline(HADAMARD, *CLIP, *STATES, Gptq(unmasked=0.7))
    calibration = CalibrationOptions(strata=TMAS)
    return Recipe("dllmquant++", weight_bits, activation_bits, passes, calibration=calibration)


def sgat(weight_bits: int, activation_bits: int) -> Recipe:
    """SGAT alone: star's basis and gates, without centring, clipping and TAC."""
    passes = pipeline(*STATES, STAR_BASIS, STAR_FIT)
    return Recipe("sgat", weight_bits, activation_bits, passes)


def star(weight_bits: int, activation_bits: int) -> Recipe:
    """The best form found of the paper's method: SGAT and TAC, with GPTQ, learned clipping and what we add.

    From the paper: one learned basis a site, gates (r > 0 at o), TAC. Ours: the basis as a Kronecker product, learned
    clip factors, a mean of its own for each state, 16 directions a state that bypass the quantizer, and TAC in units of
    the channels' deviations, its constants chosen on held-out sequences.
    """
    passes = pipeline(
        *STATES,
        *CENTER,
        STAR_LOW_RANK,
        STAR_BASIS,
        InsertQuantizers(clip=True),
        STAR_FIT,
        Gptq(),
        STAR_TAC,
    )
    return Recipe("star", weight_bits, activation_bits, passes)


def star_paper(weight_bits: int, activation_bits: int) -> Recipe:
    """The paper's literal form: Gaussian-QR start, dense basis, no clipping, covariance TAC, 128 segments.

    Our guesses, because the text does not give them: r = 16, the learning rate 5e-3 and its cosine schedule, TAC's
    lambda, eps, alpha and beta. Adam works in the Lie algebra of the rotations, which keeps the basis orthogonal.
    """
    sgat = InsertSgat(structure="dense", rank=16, start="gaussian")
    passes = pipeline(*STATES, sgat, FitSgat(aim=False), InsertTac(scaled=False))
    calibration = CalibrationOptions(samples=128, max_tokens=128 * 256)
    return Recipe("star-paper", weight_bits, activation_bits, passes, calibration=calibration)


METHODS: dict[str, Callable[[int, int], Recipe]] = {
    "rtn": rtn,
    "smoothquant": smoothquant,
    "awq": awq,
    "gptq": gptq,
    "quarot": quarot,
    "duquant": duquant,
    "freeact": freeact,
    "dllmquant+": dllmquant_plus,
    "dllmquant++": dllmquant_plus_plus,
    "sgat": sgat,
    "star": star,
    "star-paper": star_paper,
}
"""Method name -> builder from weight and activation bits."""

EXTRAS: dict[str, tuple[Pass, ...]] = {
    "center": (*STATES, *CENTER),
    "lowrank": (*STATES, InsertLowRank()),
    "clip": CLIP,
    "gptq": (Gptq(),),
    "tac": (*STATES, STAR_TAC),
    "embed8": (QuantizeEmbedding(),),
}
"""What can be added to any method by name, as in ``quarot+center-w4a4``; the method's own passes stay."""


def extended(recipe: Recipe, extra: str) -> Recipe:
    """Returns the recipe with the passes of an extra, a key of ``EXTRAS``; the method's name says so."""
    names = {one.name for one in recipe.passes} - {one.name for one in FRAME}
    added = [one for one in EXTRAS[extra] if one.name not in names]
    passes = pipeline(*recipe.passes, *added)
    samples = max(recipe.calibration.samples, CalibrationOptions().samples)  # rtn has few
    calibration = dataclasses.replace(recipe.calibration, samples=samples)
    method = f"{recipe.method}+{extra}"
    return dataclasses.replace(recipe, passes=passes, method=method, calibration=calibration)

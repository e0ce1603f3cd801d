"""Generation with masked diffusion language models: the published samplers of LLaDA and Dream."""

from starquant_fx.diffusion.api import generate
from starquant_fx.diffusion.dream import dream_generate
from starquant_fx.diffusion.llada import llada_generate
from starquant_fx.diffusion.stepping import GenerationResult, StepCallback

__all__ = [
    "GenerationResult",
    "StepCallback",
    "dream_generate",
    "generate",
    "llada_generate",
]

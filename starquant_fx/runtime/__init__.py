"""Runs models that were exported to ONNX, without torch: numpy, onnxruntime and tokenizers are enough."""

from starquant_fx.runtime.denoiser import OnnxDenoiser
from starquant_fx.runtime.dream import dream_generate
from starquant_fx.runtime.llada import llada_generate
from starquant_fx.runtime.loading import load
from starquant_fx.runtime.metadata import Metadata
from starquant_fx.runtime.stepping import StepCallback

__all__ = [
    "Metadata",
    "OnnxDenoiser",
    "StepCallback",
    "dream_generate",
    "llada_generate",
    "load",
]

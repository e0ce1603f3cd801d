"""Generates text with a model that was exported to ONNX. Needs numpy, onnxruntime and tokenizers, and no torch.

python examples/onnx_generate.py DIR "Once upon a time" --length 64 --steps 64
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from starquant_fx.errors import exit_code
from starquant_fx.runtime import OnnxDenoiser, load
from starquant_fx.runtime.generation import sampler_of


def generate(
    model: OnnxDenoiser, prompt: str, length: int, steps: int, seed: int, *, watch: bool
) -> str:
    """Continues a prompt; on the way, if asked, the text so far is written over itself on standard error."""
    ids = model.encode(prompt)

    def show(step: int, total: int, state: Any, confidence: Any) -> None:
        kept = state[0][np.isinf(confidence[0]) | (state[0] != model.metadata.mask_token_id)]
        text = model.decode(kept).replace("\n", " ")
        print(f"\r\x1b[K{step}/{total} {text[-100:]}", end="", file=sys.stderr, flush=True)

    arguments: dict[str, Any] = {"gen_length": length, "block_length": length}
    if sampler_of(model).__name__ == "dream_generate":
        arguments = {"max_new_tokens": length, "alg": "maskgit_plus"}
    on_step = show if watch else None
    ids = model.generate(ids, steps=steps, seed=seed, on_step=on_step, **arguments)
    if watch:
        print(file=sys.stderr)
    return model.decode(ids)


def main() -> int:
    """Reads the command line and prints the text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", help="the exported folder")
    parser.add_argument("prompt", help="text to continue")
    parser.add_argument("--length", type=int, default=64, help="tokens to generate")
    parser.add_argument("--steps", type=int, default=64, help="denoising steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--provider", default="cpu", help="cpu, cuda, ... of onnxruntime")
    given = parser.parse_args()

    def job() -> None:
        model = load(given.folder, providers=[given.provider])
        watch = sys.stderr.isatty()
        print(generate(model, given.prompt, given.length, given.steps, given.seed, watch=watch))

    return exit_code(job)


if __name__ == "__main__":
    sys.exit(main())

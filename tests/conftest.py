"""Triton kernels are interpreted here. Triton decides so when it is imported, which any test may make happen."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

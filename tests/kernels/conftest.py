"""Triton kernels of these tests run in Triton's interpreter."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

#!/usr/bin/env python3
"""Exported models in onnxruntime beside full precision and its own quantizer: the tables of docs/performance-onnx.md.

A folder, which Python runs as it runs a script: a file ``onnx.py`` beside the others would take the place of the
package ``onnx`` in all of them.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from onnx_suite.command import main

if __name__ == "__main__":
    # A terminated run ends like an interrupted one, so that processes and temporary files go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())

#!/usr/bin/env python3
"""Runs the tests of the Hugging Face integration under other versions of transformers.

``python tools/transformers_versions.py 5.17.0 5.24.0``: each version goes into a throw-away environment that sees the
packages of this one, so that pip installs only what differs (transformers, and huggingface_hub where that has to be
older).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/hugging_face",)


def environment(version: str, folder: Path) -> Path:
    """Makes an environment with a version of transformers, in front of the packages of this one.

    Args:
        version: Of transformers.
        folder: Where to; its parent must exist.

    Returns:
        The environment's interpreter.

    Raises:
        subprocess.CalledProcessError: It cannot be installed.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    say = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", say], text=True).strip()
    Path(packages, "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.check_call([*install, f"transformers=={version}"])
    return python


def run(version: str, arguments: Sequence[str]) -> int:
    """Runs the tests under a version; returns pytest's exit code.

    Args:
        version: Of transformers.
        arguments: For pytest; without any, the tests of the integration.
    """
    with tempfile.TemporaryDirectory() as place:
        python = environment(version, Path(place) / "environment")
        says = "import transformers as t, huggingface_hub as h; print(t.__version__, h.__version__)"
        found = subprocess.check_output([python, "-c", says], text=True).split()
        print(f"== transformers {found[0]}, huggingface_hub {found[1]}", flush=True)
        if found[0] != version:
            print(f"expected transformers {version}")
            return 1
        tests = [*(arguments or TESTS), "-p", "no:cacheprovider"]
        settings = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        return subprocess.call([python, "-m", "pytest", *tests], cwd=ROOT, env=settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tests under every version that is named; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", help="of transformers, such as 5.17.0")
    parser.add_argument(
        "--pytest", nargs=argparse.REMAINDER, default=[], help="arguments for pytest"
    )
    asked = parser.parse_args(argv)
    results = {version: run(version, asked.pytest) for version in asked.versions}
    for version, code in results.items():
        print(f"transformers {version}: {'PASSED' if code == 0 else 'FAILED'}")
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main())

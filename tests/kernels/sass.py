"""Compiles Triton kernels ahead of time for a chip that need not be there, and reads what became of them.

Run where ``TRITON_INTERPRET`` is not set: an interpreted kernel has nothing to compile.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PRODUCT_MODULES = ("gemm.", "greedy.")
"""Of the kernels that ``compile_gemm`` compiles; ``triton_site_kernels`` does all others."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a kernel was compiled to.

    Attributes:
        name: Of the kernel, with its module: ``"gemm.linear_kernel"``.
        registers: Of a thread.
        shared: Bytes of shared memory of a program.
        stack: Bytes of local memory of a thread.
        sass: Its machine code as text.
    """

    name: str
    registers: int
    shared: int
    stack: int
    sass: str

    def count(self, pattern: str) -> int:
        """How often a regular expression occurs in the machine code."""
        return len(re.findall(pattern, self.sass))

    @property
    def spills(self) -> int:
        """Loads and stores of local memory."""
        return self.count(r"\b(?:LDL|STL)\b")

    @property
    def unfenced(self) -> bool:
        """Whether warpgroup products may read shared memory that copies of this program have not reached.

        Copies (``cp.async``) and stores become visible to them by ``fence.proxy.async`` alone.
        """
        return self.count(r"\b[HI]GMMA\b") > 0 and not self.count(r"\bFENCE\.VIEW\.ASYNC\b")


def compile_kernel(
    kernel: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    capability: int,
    num_warps: int = 4,
    num_stages: int = 3,
) -> Facts:
    """Compiles a kernel.

    Args:
        kernel: A ``triton.jit`` function.
        signature: Types of its run-time arguments by name, for example ``"*bf16"``, ``"i32"``. Pointers are taken to
            be aligned to 16 bytes, as PyTorch allocates them.
        constants: Its other arguments by name; None for a tensor that is not given.
        capability: 80, 86, 89, 90.
        num_warps: Warps of a program.
        num_stages: Stages of software pipelining.

    Returns:
        What it was compiled to.
    """
    names = kernel.arg_names
    types = {name: signature.get(name, "constexpr") for name in names}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    return built(ASTSource(kernel, types, fixed, aligned), capability, num_warps, num_stages)


def built(source: ASTSource, capability: int, num_warps: int, num_stages: int) -> Facts:
    """Compiles a source; the other arguments are those of ``compile_kernel``."""
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = _tool("cuobjdump", "--dump-resource-usage", str(binary))
        sass = _tool("nvdisasm", "-c", str(binary))
    stack, registers = (int(re.findall(rf"{what}:(\d+)", usage)[-1]) for what in ("STACK", "REG"))
    name = f"{source.fn.__module__.split('.')[-1]}.{source.fn.__name__}"
    return Facts(name, registers, compiled.metadata.shared, stack, sass)


def launched(package: ModuleType) -> set[str]:
    """Names, as in ``Facts``, of a package's ``triton.jit`` functions that none of them calls: the kernels."""
    kernels: set[str] = set()
    called: set[str] = set()
    for path in Path(str(package.__file__)).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and _is_jit(function):
                kernels.add(f"{path.stem}.{function.name}")
                called |= {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return {name for name in kernels if name.split(".")[1] not in called}


def _is_jit(function: ast.FunctionDef) -> bool:
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def _tool(name: str, *arguments: str) -> str:
    """Output of one of the programs that come with Triton."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=True)
    return done.stdout

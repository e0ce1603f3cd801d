"""Tensors that a target lays out for its kernels, and the nodes that read them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

Laid = dict[str, Tensor | None]
"""Tensors in a target's layout by qualified name; None where there is none."""


class Tables:
    """Adds tensors to a lowered module; captures of one model share what is laid out once.

    Args:
        laid: What other captures of the model laid out; receives what this one does.
        module: What is lowered.
        prefix: The tensors' names start with it.
    """

    def __init__(self, laid: Laid, module: fx.GraphModule, prefix: str) -> None:
        self._laid = laid
        self._module = module
        self._prefix = prefix
        self._names: dict[str, set[str]] = {}

    def read(
        self, node: fx.Node, owner: str, name: str, make: Callable[[], Tensor | None]
    ) -> fx.Node | None:
        """A node before ``node`` that reads a tensor; None if there is none.

        Args:
            node: Whose graph it is.
            owner: Name of the site or linear; dots are allowed.
            name: The tensor's own.
            make: Lays it out, or returns None; not called if another capture did.

        Returns:
            The node.
        """
        folder = f"{self._prefix}.{owner.replace('.', '_')}"
        qualified = f"{folder}.{name}"
        if qualified not in self._laid:
            self._laid[qualified] = make()
        tensor = self._laid[qualified]
        if tensor is None:
            return None
        if name not in self._names.setdefault(folder, set()):
            if not self._names[folder]:
                self._module.add_submodule(folder, torch.nn.Module())
            self._module.get_submodule(folder).register_buffer(name, tensor)
            self._names[folder].add(name)
        with node.graph.inserting_before(node):
            return node.graph.get_attr(qualified)

"""Tensors in what functions and modules take and give."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.Size})


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """All tensors of a tree, in the order of its leaves. Most are a few arguments: torch's own walk takes longer."""
    kind = type(tree)
    if kind in PLAIN:
        return []
    if isinstance(tree, torch.Tensor):
        return [tree]
    if kind in (tuple, list, dict):
        return [x for part in (tree.values() if kind is dict else tree) for x in tensors_in(part)]
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]

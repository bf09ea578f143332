"""Modules that become others made of layers: what an expander does, and the registry of the expanders.

A package adds one with `@EXPANDERS.register("name")`, and names its module in an entry point of the group
`mho.expanders`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ...devices.registry import Registry
from .handler import REGISTRIES, Handler, check_handler


class Expander(Handler, ABC):
    """Makes a module out of layers: its matrices become modules of their own, which go onto tiles as any layer does.

    Attributes:
        makes: the types of the modules that `expand` gives, if saved chips shall rebuild them: each is made again by
            the arguments in its attribute `config`, a dict of plain data.
        reason: what the report says of a module that was expanded: what of it stays digital.
    """

    makes: ClassVar[tuple[type[nn.Module], ...]] = ()
    reason: ClassVar[str] = "its matrices are on tiles; the rest of it stays digital"

    @classmethod
    @abstractmethod
    def expand(cls, module: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """What takes the place of a module of one of the types in `modules`, in evaluation.

        It is called like the module, gives the same, and has the attributes that models read. Those of its parts that
        leaf handlers take go onto tiles. The samples of a batch are rows of what they read.

        Args:
            module: it is not changed.
            tensors: its weights, as `tensors` gives them, without those that are None.
        """


def _check(name: str, thing: Any) -> None:
    check_handler(Expander, name, thing)


EXPANDERS: Registry[type[Expander]] = Registry("expander", "mho.expanders", _check)
REGISTRIES.append(EXPANDERS)

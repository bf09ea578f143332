"""Tensors of a network as the arrays of a backend, and back: numpy arrays, or tensors as they are.

A backend says by `Arrays.kind` what its arrays are. A package adds another kind with `EXCHANGES.add("name", ...)`, and
names it in an entry point of the group `mho.arrays`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch

from ..crossbar.arrays import Arrays, Unpadded
from ..devices.registry import Registry
from ..devices.units import brief


class Exchange(ABC):
    """How tensors become arrays of one kind, and how these become tensors.

    Attributes:
        keeps_graph: whether gradients pass both, and so the reads of a chip if its backend lets them pass.
    """

    keeps_graph: ClassVar[bool] = False

    @abstractmethod
    def given(self, x: torch.Tensor) -> Any:
        """Inputs, a float32 tensor on any device, as what `Reader.read` takes."""

    @abstractmethod
    def returned(self, y: Any, like: torch.Tensor) -> torch.Tensor:
        """What `Reader.read` gives, as a tensor of the type and on the device of another one."""


class Copied(Exchange):
    """Numpy arrays, in the memory of the tensor where it is the CPU's. Gradients end here."""

    def given(self, x: torch.Tensor) -> np.ndarray[Any, Any]:
        return as_numpy(x)

    def returned(self, y: Any, like: torch.Tensor) -> torch.Tensor:
        found = torch.from_numpy(y)
        return found if like.is_cpu and like.dtype == torch.float32 else found.to(like.device, like.dtype)


class Kept(Exchange):
    """Tensors, on their device and in their graph."""

    keeps_graph = True

    def given(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def returned(self, y: Any, like: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = y.to(like.device, like.dtype)
        return found


def as_numpy(x: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor as a numpy array on the CPU, without its gradients, in the same memory where that is possible."""
    x = x.detach().resolve_neg()
    return (x if x.is_cpu else x.cpu()).numpy()


class TensorArrays(Arrays):
    """Tensors as the arrays of a backend that derives from this too, before `Backend`: see docs/kernels.md.

    Codes are float32, so that gradients pass them.
    """

    kind = "torch"
    namespace: ClassVar[Any] = torch

    def array(self, x: Any) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float32).contiguous()

    def padded(self, x: Unpadded) -> torch.Tensor:
        both = [size for pair in reversed(x.margins) for size in pair]
        return torch.nn.functional.pad(self.array(x.values), (0, 0, *both)) if any(both) else self.array(x.values)

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]:
        return as_numpy(torch.as_tensor(x))

    def empty(self, shape: tuple[int, ...], like: Any, *, integers: bool = False) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=like.device)

    def joined(self, groups: Any) -> torch.Tensor:
        return groups.permute(1, 2, 0, 3).flatten(2)

    def rescaled(self, y: Any, scales: Any, bias: np.ndarray[Any, Any]) -> torch.Tensor:
        found: torch.Tensor = y * scales[:, :, None] + torch.from_numpy(bias).to(y.device)
        return found

    def all_finite(self, x: Any) -> bool:
        return bool(x.isfinite().all())


def _check(name: str, thing: Any) -> None:
    if not isinstance(thing, Exchange):
        raise TypeError(f"arrays {name!r} must be an object of a class derived from Exchange, got {brief(thing)}")


EXCHANGES: Registry[Exchange] = Registry("kind of arrays of a backend", "mho.arrays", _check)
EXCHANGES.add("numpy", Copied())
EXCHANGES.add("torch", Kept())

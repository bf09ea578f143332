"""The noise layer: Gaussian noise after a matrix product, in training and in inference."""

from __future__ import annotations

from typing import Literal

import torch
import torch.fx
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor

from ..mapping.trainable.numbers import seeded_normals

MANY = 1 << 14  # numbers from which counting is faster

torch.fx.wrap("normal_like")  # a function of graphs, which draws anew in each call

Kind = Literal["mult", "add"]


class Noise(nn.Module):
    """y = x z with z ~ N(1, sigma^2) ("mult") or y = x + z with z ~ N(0, sigma^2) ("add"), a z for every element.

    Eqs. (3) and (2) of Qin and Vucinic. Sigma is `sigma_train` in training and `sigma_val` in evaluation; where it is 0
    the layer returns its input.
    """

    def __init__(self, kind: Kind = "mult", sigma_train: float = 0.0, sigma_val: float = 0.0) -> None:
        super().__init__()
        if kind not in ("mult", "add"):
            raise ValueError(f"noise must be 'mult' or 'add', got {kind!r}")
        for name, value in (("sigma_train", sigma_train), ("sigma_val", sigma_val)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        self.kind, self.sigma_train, self.sigma_val = kind, sigma_train, sigma_val

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return with_normals(x, self.kind, self.sigma_train if self.training else self.sigma_val)

    def extra_repr(self) -> str:
        return f"{self.kind}, sigma_train={self.sigma_train}, sigma_val={self.sigma_val}"


class ChipNoise(nn.Module):
    """In training, the noise of one layer of a chip: y = x (1 + mult z) + add rms(x) z', z, z' ~ N(0, 1) per element.

    `add` is a share of the root mean square of the layer's outputs, of which each batch is a sample: on a chip the
    weights fill the range of the conductances and ranges are calibrated, so larger signals have larger noise.
    In evaluation it returns its input.
    """

    def __init__(self, add: float, mult: float) -> None:
        super().__init__()
        for name, value in (("add", add), ("mult", mult)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        self.add, self.mult = add, mult

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        rms = x.detach().square().mean().sqrt()
        return x * normal_like(x).mul_(self.mult).add_(1) + normal_like(x) * (self.add * rms)

    def extra_repr(self) -> str:
        return f"add={self.add}, mult={self.mult}"


def with_normals(x: torch.Tensor, kind: Kind, sigma: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """x with the noise of `Noise`; x itself where sigma is 0."""
    if sigma == 0:
        return x
    z = normal_like(x, generator)
    return x * z.mul_(sigma).add_(1) if kind == "mult" else torch.add(x, z, alpha=sigma)


def normal_like(x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Standard normals of the shape and layout of x, on its device.

    Many of them, in float32 on a CPU, are counted by a key that torch's generator gives: the same seed gives the same
    on any number of threads, in a fourth of the time of torch's own. Few of them, and those of other types, devices and
    graphs that torch keeps (`torch.compile`, traces, `torch.func`), are torch's.
    """
    if _counted(x):
        flat = seeded_normals(int(torch.randint(2**62, (), generator=generator)), x.numel())
    else:  # drawn flat: torch fills channels-last tensors 8 times slower
        flat = torch.randn(x.numel(), dtype=x.dtype, device=x.device, generator=generator)
    return flat.as_strided(x.shape, torch.empty_like(x).stride())


def _counted(x: torch.Tensor) -> bool:
    """Whether normals for x are counted."""
    if type(x) not in (torch.Tensor, nn.Parameter) or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return not traced and not is_functorch_wrapped_tensor(x) and x.numel() >= MANY


def set_inference_noise(model: nn.Module, sigma: float) -> None:
    """Set sigma_val of all noise layers of a model."""
    for module in model.modules():
        if isinstance(module, Noise):
            module.sigma_val = Noise(sigma_val=sigma).sigma_val

"""Linear layers as matrices."""

from __future__ import annotations

from functools import cached_property
from operator import index
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from .handler import dtype_of
from .leaf import LEAVES, Leaf


@LEAVES.register("linear")
class Linear(Leaf):
    """`nn.Linear`: its word lines are features."""

    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)
    folds: ClassVar[bool] = True

    @classmethod
    def of(cls, module: Any) -> Linear:
        return cls(
            in_features=index(module.in_features), out_features=index(module.out_features), dtype=dtype_of(module)
        )

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.T[None]

    def weight_of(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices[0].T

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 1, 1, 1, self.in_features)

    def assemble(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def digital(self, x: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.linear(x, self.weight_of(matrices), bias)


@LEAVES.register("transformers_conv1d")
class Conv1D(Linear):
    """The `Conv1D` of transformers, as in GPT-2: a linear layer whose weight has the inputs first."""

    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    named: ClassVar[tuple[str, ...]] = ("transformers.pytorch_utils.Conv1D",)

    @classmethod
    def of(cls, module: Any) -> Linear:
        inputs, outputs = module.weight.shape
        if outputs != module.nf:
            raise ValueError(f"its nf is {module.nf}, its weight has {outputs} outputs")
        return cls(in_features=inputs, out_features=outputs, dtype=dtype_of(module))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.in_features, self.out_features

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {"nx": self.in_features, "nf": self.out_features}

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight[None]

    def weight_of(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices[0]

    def digital(self, x: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.linear(x, matrices[0].T, bias)

"""Layers that become matrices: what each kind says of itself, and the registry of the kinds.

A kind is a class derived from `Leaf`; one of its objects is the geometry of one layer. A package adds one with
`@LEAVES.register("name")`, and names its module in an entry point of the group `mho.layers`: see docs/mapping.md.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, ValidationError

from ...crossbar.arrays import Margins
from ...crossbar.max_memory import released, zeros
from ...crossbar.patches import PLAIN, Patches
from ...devices.config import Config, faults
from ...devices.registry import Registry
from .handler import REGISTRIES, Handler, check_handler

Features = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Tiles = Callable[[torch.Tensor], torch.Tensor]


class Leaf(Config, Handler):
    """A layer as matrices: what its weights, its inputs and its outputs are there.

    The inputs of a layer have any leading dimensions (samples, steps), then `in_features`, then `dims` dimensions of
    space. On tiles they are (samples, depth, height, width, channels), of which `patches` says what the word lines take
    for one read, as a convolution does: (kernel depth, height, width, channel). One read gives groups x outputs values.

    A kind of layer defines the abstract methods, and those others of which the default is not true of it. All
    that takes tensors is made of torch's differentiable functions, on any device. Fields say what the geometry is; they
    are plain data, and so are saved with a chip.

    Attributes:
        in_features: features, or channels, of the inputs.
        out_features: of the outputs.
        dtype: of the weights in the model, by its name in torch.
        folds: whether a batch norm behind the layer may become part of it.
    """

    folds: ClassVar[bool] = False

    in_features: Features
    out_features: Features
    dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float32"

    @classmethod
    @abstractmethod
    def of(cls, module: Any) -> Leaf:
        """The geometry of a module of one of the types in `modules`.

        Raises:
            ValueError: its attributes do not say what its forward does. It stays digital, with this reason.
        """

    @property
    def kind(self) -> str:
        """The name that this kind is registered under."""
        return next(name for name, known in LEAVES.loaded().items() if known is type(self))

    @property
    def dims(self) -> int:
        """How many dimensions of space inputs and outputs have, behind the features."""
        return 0

    @property
    def patches(self) -> Patches:
        """What one read takes of the arranged inputs."""
        return PLAIN

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(groups, rows, outputs) of the matrices: group g reads the g-th part of the channels."""
        return 1, self.in_features, self.out_features

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the module's weight."""
        return self.out_features, self.in_features

    @property
    def shiftable(self) -> bool:
        """Whether a shift of all inputs of a channel shifts each column of the matrices by one number everywhere.

        A batch norm in front of the layer may then become part of it. Padding with zeros forbids it.
        """
        return False

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes that models may read, by their names on the module."""
        return {"in_features": self.in_features, "out_features": self.out_features}

    @abstractmethod
    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        """The module's weight as matrices (groups, rows, outputs); values are moved, and zeros added, nothing else."""

    @abstractmethod
    def weight_of(self, matrices: torch.Tensor) -> torch.Tensor:
        """The inverse of `matrices`."""

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        """(groups, outputs): what each column of the matrices has, of what each output channel has (out_features,)."""
        return values.reshape(self.matrix_shape[0], -1)

    def channels(self, columns: torch.Tensor) -> torch.Tensor:
        """The inverse of `columns`; of columns of one channel that differ, their mean."""
        return columns.reshape(-1)

    @abstractmethod
    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (*leading, in_features, *space) as (samples, depth, height, width, channels), padding included.

        Samples are all leading dimensions in one.
        """

    def laid_out(self, x: torch.Tensor) -> tuple[torch.Tensor, Margins | None]:
        """`arrange` without the zeros that it puts around the values, and these; None where it puts none, or others.

        The values may then lie in memory in any order.
        """
        return self.arrange(x), None

    @abstractmethod
    def assemble(self, y: torch.Tensor) -> torch.Tensor:
        """What the layer gives, (samples, out_features, *space), from the readings (samples, *space, groups x outputs).

        Positions of the patches lie along the last `dims` of depth, height and width.
        """

    def digital(self, x: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """What the layer gives without tiles, of matrices (groups, rows, outputs) and bias (groups x outputs,).

        By default it is computed as tiles do: from the arranged inputs. A faster function of torch may take its place.
        """
        y = self.of_arranged(self.arrange(x), matrices, bias)
        return y.reshape(*x.shape[: x.ndim - 1 - self.dims], *y.shape[1:])

    def of_arranged(self, values: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """As `digital`, for inputs that are arranged already; their samples come first."""
        parts = values.chunk(len(matrices), dim=-1)
        y = torch.cat([_patches(p, self.patches) @ m for p, m in zip(parts, matrices, strict=True)], dim=-1)
        y = y.reshape(len(y), *y.shape[4 - self.dims :])
        return self.assemble(y if bias is None else y + bias)

    def called(self, tiles: Tiles, input: torch.Tensor) -> torch.Tensor:
        """What the module's forward gives, of what the tiles give for an input. A forward that takes more than an
        input takes it here.
        """
        return tiles(input)

    def reads(self, space: tuple[int, ...]) -> int:
        """Reads of the matrices that give one output with this size in space."""
        return prod(space)

    def rows_needed(self, rows: int, rows_in: int) -> tuple[int, ...] | None:
        """For each of the rows of an image (samples, channels, rows, columns) that the layer gives, the last of the
        `rows_in` rows of its input that it needs; None where it needs all, or gives no image.

        The schedule starts a layer as soon as the rows that it needs are there.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """Its fields as plain data, of which `build` makes it again."""
        return self.model_dump(mode="json")

    @classmethod
    def build(cls, plain: dict[str, Any]) -> Leaf:
        """The geometry that plain data of a file describe.

        Raises:
            ValueError: they are none, in one line.
        """
        try:
            made = cls.model_validate(plain)
        except ValidationError as error:
            raise ValueError(faults(error)) from None
        for name in ("in_features", "out_features"):
            if not getattr(made, name):
                raise ValueError(f"{name} must be at least 1, got 0")
        return made


def _check(name: str, thing: Any) -> None:
    check_handler(Leaf, name, thing)


LEAVES: Registry[type[Leaf]] = Registry("kind of layer", "mho.layers", _check)
REGISTRIES.append(LEAVES)


class Matrices(NamedTuple):
    """Weights (groups, rows, outputs) and bias (groups, outputs) of a layer, float32."""

    weights: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None


def lowered(leaf: Leaf, weight: torch.Tensor, bias: torch.Tensor | None) -> Matrices:
    """Weight and bias of a module as matrices of word lines by bit lines.

    Raises:
        ValueError: the kind of the layer makes matrices of another shape than it says, or no weight of them again.
    """
    weight = weight.detach().to("cpu", torch.float32)
    w, kind = leaf.matrices(weight), type(leaf).__name__
    if tuple(w.shape) != leaf.matrix_shape:
        raise ValueError(f"{kind}.matrices gives the shape {tuple(w.shape)}, not {leaf.matrix_shape}")
    if not torch.equal(leaf.weight_of(w), weight):
        raise ValueError(f"{kind}.weight_of does not give the weight that {kind}.matrices made its matrices of")
    b = None if bias is None else leaf.columns(bias.detach().to("cpu", torch.float32))
    return as_matrices(w, b)


def as_matrices(weights: torch.Tensor, bias: torch.Tensor | None) -> Matrices:
    """Matrices of tensors of these shapes."""
    return Matrices(_packed(weights), None if bias is None else _packed(bias))


def _packed(x: torch.Tensor) -> np.ndarray[Any, Any]:
    found = zeros(tuple(x.shape), np.float32)  # a copy: the tensor may be the caller's
    torch.from_numpy(found).copy_(x)
    released(found)
    return found


def _patches(x: torch.Tensor, patches: Patches) -> torch.Tensor:
    """(samples, depth, height, width, rows) what each read takes of x (samples, depth, height, width, channels)."""
    kernel, stride, dilation = patches.kernel, patches.stride, patches.dilation
    for axis, size in enumerate(patches.positions(x.shape[1:4])):
        reach = torch.arange(size, device=x.device)[:, None] * stride[axis]
        taps = reach + torch.arange(kernel[axis], device=x.device) * dilation[axis]
        x = x.index_select(1 + axis, taps.reshape(-1)).unflatten(1 + axis, taps.shape).movedim(2 + axis, 4 + axis)
    return x.flatten(4)

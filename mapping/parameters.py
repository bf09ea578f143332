"""Weights and biases of layers on tiles, as the rest of a model sees them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_map_only

from .errors import MappingError
from .session import Session


class OnTiles(Protocol):
    """What a parameter knows of its layer: a `TileLayer` has it."""

    name: str
    session: Session

    def stored(self, kind: str) -> torch.Tensor: ...


class TileParameter(torch.Tensor):
    """The weight or bias of a layer on tiles: it has torch's shape, dtype and device, and no memory of its own.

    An operation on it, outside of an inference, is one on the values that the cells were programmed to, batch norm
    folded in. Within an inference it is an error, as it would be a product beside the tiles; and so is writing to it.
    """

    _is_param = True  # isinstance(x, nn.Parameter)
    layer: OnTiles
    kind: str

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, layer: OnTiles, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> TileParameter:
        made: TileParameter = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        made.layer, made.kind = layer, kind
        return made

    def __init__(self, *_: Any) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        written = [
            args[place] if place < len(args) else kwargs.get(argument.name)
            for place, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        for value in written:
            if isinstance(value, TileParameter):
                raise MappingError(f"{value.said} is on tiles and cannot be written to; change the model and map it")
        args, kwargs = tree_map_only(TileParameter, TileParameter.values, (args, kwargs))
        return func(*args, **kwargs)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        raise MappingError(f"{self.said} is on tiles and cannot be written to; change the model and map it")

    @property
    def said(self) -> str:
        return f"layer {self.layer.name!r}: its {self.kind}"

    def values(self) -> torch.Tensor:
        """What the cells stand for, in torch's layout.

        Raises:
            MappingError: within an inference.
        """
        if self.layer.session.inference is not None:
            raise MappingError(
                f"{self.said} is on tiles, and the model uses it beside them; exclude the layer to keep it digital"
            )
        return self.layer.stored(self.kind).to(self.dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"{type(self).__name__}({self.said}, {tuple(self.shape)}, {self.dtype})"

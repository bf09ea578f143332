"""Layers in the place of a parameter that a model multiplies by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..errors import MappingError
from ..layers import TileLayer
from ..modules import swap_leaves
from .operand import Operand
from .product import Convolving, Part
from .view import Layout, View

LAYERS = "_layers"  # behind the name of a parameter: that of its layers
LOOKUP = "embedding"  # the function that looks rows up
Bias = tuple[str, Layout]  # which parameter, and where in it


@dataclass(frozen=True)
class Chosen:
    """One layer of a parameter: the part that it multiplies by, and the bias that it adds, if that is a parameter."""

    part: Part
    bias: Bias | None = None

    def module(self, device: str = "cpu") -> nn.Module:
        """The layer of torch, without values yet."""
        shape, how = self.part.layout.shape, self.part.convolving
        kind: Any = nn.Linear if how is None else {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(shape) - 2]
        args: tuple[Any, ...] = (shape[1], shape[0])
        if how is not None:
            args = (shape[1] * how.groups, shape[0], shape[2:], how.stride, how.padding, how.dilation, how.groups)
        made: nn.Module = nn.utils.skip_init(kind, *args, bias=self.bias is not None, device=device)
        return made.eval()


@dataclass(frozen=True)
class Plan:
    """What becomes of a parameter: its layers by name, none where it is the bias of others.

    Attributes:
        places: all its names in the model.
        table: whether the model looks rows of it up as well, which needs it digitally.
    """

    places: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    layers: Mapping[str, Chosen]
    table: bool = False

    def plain(self) -> dict[str, Any]:
        """Its fields as plain data, for a file."""
        layers = {}
        for name, chosen in self.layers.items():
            how, bias = chosen.part.convolving, chosen.bias
            layers[name] = {
                "layout": chosen.part.layout.plain(),
                "convolving": None if how is None else [_listed(value) for value in vars(how).values()],
                "bias": None if bias is None else [bias[0], bias[1].plain()],
            }
        rest = {"places": list(self.places), "shape": list(self.shape), "dtype": self.dtype, "table": self.table}
        return rest | {"layers": layers}

    @classmethod
    def build(cls, plain: Any) -> Plan:
        """The plan of plain data; they are right, or it fails in some way."""
        layers = {}
        for name, text in plain["layers"].items():
            how, bias = text["convolving"], text["bias"]
            made: list[Any] = [tuple(v) if isinstance(v, list) else v for v in how or ()]
            convolving = None if how is None else Convolving(*made)
            layers[name] = Chosen(
                Part(Layout.build(text["layout"]), convolving),
                None if bias is None else (bias[0], Layout.build(bias[1])),
            )
        size = torch.Size(plain["shape"]).numel()
        if any(not chosen.part.layout.fits(size) for chosen in layers.values()):
            raise ValueError("a layer has other weights than its parameter")
        if plain["dtype"] not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(f"a parameter has no type {plain['dtype']!r:.40}")
        return cls(tuple(plain["places"]), tuple(plain["shape"]), plain["dtype"], layers, plain["table"] is True)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class Weights(nn.Module):
    """The layers that a parameter became, which the products of a model with it call: see `operand.Operand`."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.name = plan, plan.places[0]
        self.table: nn.Parameter | None = None
        self.by_part = {chosen.part: name for name, chosen in plan.layers.items()}

    def operand(self) -> Operand:
        return Operand(self, View.whole(self.plan.shape), getattr(torch, self.plan.dtype))

    def call(self, part: Part, x: torch.Tensor, bias: Any) -> torch.Tensor:
        name = self.by_part.get(part)
        given: Bias | None = None
        if isinstance(bias, Operand):
            given = bias.source.name, bias.piece.layout(1)
        if name is None or given != self.plan.layers[name].bias:
            what = "with another part of it" if name is None else "and adds another bias"
            raise MappingError(
                f"parameter {self.name!r} is on tiles: the model multiplies {what} than in the passes that "
                "showed how it is used; exclude it to keep it digital"
            )
        layer = self.get_submodule(name)
        if isinstance(layer, TileLayer):
            y = layer(x)
        else:  # the model may have cast the parameter
            y = functional_call(layer, {key: value.to(x.dtype) for key, value in layer.named_parameters()}, (x,))
        if bias is None or given is not None:
            return y
        return y + bias.reshape(-1, *(1,) * (0 if part.convolving is None else len(part.layout.shape) - 2))

    def values(self, view: View, used: str) -> torch.Tensor:
        """What the cells stand for; for lookups the exact ones.

        Raises:
            MappingError: within an inference, or of a bias that is part of other layers.
        """
        if used == LOOKUP and self.table is not None:
            return view.of(self.table.detach().reshape(-1))
        layers = dict(self.named_children())
        sessions = [layer.session for layer in layers.values() if isinstance(layer, TileLayer)]
        if not layers or any(session.inference is not None for session in sessions):
            raise MappingError(
                f"parameter {self.name!r} is on tiles, and the model computes {used} with it; "
                "exclude it to keep it digital"
            )
        flat = torch.zeros(torch.Size(self.plan.shape).numel())
        every = torch.arange(flat.numel())
        for name, layer in layers.items():
            weight: Any = layer.stored("weight") if isinstance(layer, TileLayer) else layer.weight
            flat[self.plan.layers[name].part.layout.of(every)] = weight.detach().to(flat)
        return view.of(flat)


def install(
    model: nn.Module, plan: Plan, layer: Callable[[str, Chosen], nn.Module], table: nn.Parameter | None = None
) -> None:
    """Put layers in all the places of a parameter; `layer` gives each by its whole name, `table` is the parameter."""
    weights = Weights(plan)
    if plan.table:
        empty = torch.empty(plan.shape, dtype=getattr(torch, plan.dtype))
        weights.table = nn.Parameter(empty, requires_grad=False) if table is None else table
    for name, chosen in plan.layers.items():
        weights.add_module(name, layer(f"{weights.name}{LAYERS}.{name}", chosen))
    put(model, plan.places, weights.operand())
    for place in plan.places:
        holder, _, key = place.rpartition(".")
        model.get_submodule(holder).add_module(f"{key}{LAYERS}", weights)


def put(model: nn.Module, places: Iterable[str], operand: Operand) -> None:
    """Put an operand in the places of a parameter, as buffers that a state dict has not, and in the model's lists."""
    there: Any = None
    for place in places:
        name, _, key = place.rpartition(".")
        holder = model.get_submodule(name)
        there = holder._parameters.pop(key, there)
        holder._buffers[key] = operand
        holder._non_persistent_buffers_set.add(key)
    if there is not None:
        swap_leaves(model, lambda leaf: operand if leaf is there else leaf)


def filled(chosen: Chosen, owner: str, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The layer of torch with its values, from the parameters of a model by name."""
    made = chosen.module("meta")
    made.weight = _kept(chosen.part.layout, tensors[owner])
    if chosen.bias is not None:
        made.bias = _kept(chosen.bias[1], tensors[chosen.bias[0]])
    return made


def _kept(layout: Layout, value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(layout.of(value.detach().contiguous().reshape(-1)).contiguous(), requires_grad=False)


def plans_of(model: nn.Module) -> dict[str, Plan]:
    """What became of the parameters of a model, by their first names."""
    return {m.name: m.plan for m in model.modules() if isinstance(m, Weights)}

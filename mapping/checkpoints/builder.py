"""Networks that are put together node by node, as graphs of torch.fx: matrix layers as modules of torch.nn."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

CONVOLUTIONS = {
    False: (nn.Conv1d, nn.Conv2d, nn.Conv3d),
    True: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Builder:
    """A graph under construction, and the modules and tensors that it uses.

    A layer with the same weights and settings as one before is that one, so that weights that are shared stay so.
    """

    def __init__(self) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self._layers: dict[Any, str] = {}
        self._kept: list[torch.Tensor] = []  # the id of a tensor is its own as long as it lives
        self._names: set[str] = set()

    def layer(self, name: str, key: Any, make: Callable[[], nn.Module], *inputs: Any) -> fx.Node:
        """A call of the layer that `key` tells from others, made and named where it is new."""
        if key not in self._layers:
            self._layers[key] = self._place(name, make())
        return self.graph.call_module(self._layers[key], inputs)

    def tensor(self, name: str, value: torch.Tensor) -> fx.Node:
        """A tensor of the network, a buffer of its root."""
        key = ("tensor", id(value))
        if key not in self._layers:
            self._layers[key] = self._place(name, value)
            self._kept.append(value)
        return self.graph.get_attr(self._layers[key])

    def forget(self, node: fx.Node) -> None:
        """Take a call of a layer out of the graph again, and the layer where nothing else calls it."""
        place = str(node.target)
        self.graph.erase_node(node)
        if not any(other.op == "call_module" and other.target == place for other in self.graph.nodes):
            self._names.discard(place)
            self._layers = {key: name for key, name in self._layers.items() if name != place}
            parent, _, last = place.rpartition(".")
            delattr(self.root.get_submodule(parent), last)

    def finish(self, output: Any) -> fx.GraphModule:
        """The network that gives this."""
        self.graph.output(output)
        self.graph.eliminate_dead_code(_has_effect)
        self.graph.lint()
        used = {str(node.target) for node in self.graph.nodes if node.op in ("call_module", "get_attr")}
        model = fx.GraphModule({name: self._found(name) for name in used}, self.graph)
        return model.eval()

    def check_sizes(self, value: fx.Node, sizes: Sequence[int | None]) -> fx.Node:
        """A tensor whose sizes must be these; None is any. Torch raises for others when the network is called."""
        for dim, size in enumerate(sizes):
            if size is not None and size > 0:
                value = self.graph.call_method("unflatten", (value, dim, (size,)))
        return value

    def _place(self, name: str, value: nn.Module | torch.Tensor) -> str:
        """Put a part where its name says, or where that is taken, beside it; returns the place."""
        parts = [_identifier(part) for part in re.split(r"[./:]+", name) if part]
        place = clean = ".".join(parts) or "layer"
        if any(place.startswith(f"{name}.") for name in self._names):
            place = clean = clean.replace(".", "_")
        number = 1
        while place in self._names or any(name.startswith(f"{place}.") for name in self._names):
            number += 1
            place = f"{clean}_{number}"
        self._names.add(place)
        *path, last = place.split(".")
        parent = self.root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        if isinstance(value, nn.Module):
            parent.add_module(last, value)
        else:
            parent.register_buffer(last, value)
        return place

    def _found(self, place: str) -> Any:
        parent, _, last = place.rpartition(".")
        return getattr(self.root.get_submodule(parent), last)


def _identifier(part: str) -> str:
    """A part of a name as a module may have it, and nothing else in it."""
    clean = re.sub(r"\W", "_", part, flags=re.ASCII)[:100]
    return f"{clean}_" if hasattr(_EMPTY, clean) else clean


_EMPTY = nn.Module()


def _has_effect(node: fx.Node) -> bool:
    """Whether a node does more than give its value: inputs, checks of sizes, changes in place."""
    if node.op == "call_function":
        schema = getattr(node.target, "_schema", None)
        return schema is not None and bool(schema.is_mutable)
    return node.op in ("placeholder", "output") or (node.op == "call_method" and node.target == "unflatten")


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    """`nn.Linear` with this weight (outputs, inputs) and bias (outputs,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return _filled(layer, weight=weight, bias=bias)


def convolution(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
    transposed: bool = False,
    output_padding: Sequence[int] = (),
) -> nn.Module:
    """A convolution with this weight, transposed or not, in as many dimensions as its kernel has.

    Raises:
        ValueError: its sizes do not fit one another.
    """
    kernel = tuple(weight.shape[2:])
    if transposed:
        inputs, outputs = weight.shape[0], weight.shape[1] * groups
        options = {"output_padding": tuple(output_padding)}
    else:
        inputs, outputs, options = weight.shape[1] * groups, weight.shape[0], {}
    padded = padding if isinstance(padding, str) else tuple(padding)
    layer = CONVOLUTIONS[transposed][len(kernel) - 1](
        inputs,
        outputs,
        kernel,
        stride=tuple(stride),
        padding=padded,
        dilation=tuple(dilation),
        groups=groups,
        bias=bias is not None,
        device="meta",
        **options,
    )
    return _filled(layer, weight=weight, bias=bias)


def batch_norm(
    dims: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
) -> nn.Module:
    """A batch norm in evaluation mode, over so many dimensions of space."""
    if (weight is None) != (bias is None):
        weight = torch.ones_like(mean) if weight is None else weight
        bias = torch.zeros_like(mean) if bias is None else bias
    layer = BATCH_NORMS[dims - 1](len(mean), eps=eps, affine=weight is not None, device="meta")
    count = torch.zeros((), dtype=torch.int64)
    filled = _filled(layer, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    filled.register_buffer("num_batches_tracked", count)
    return filled


def recurrent(kind: str, weights: Sequence[torch.Tensor], **options: Any) -> nn.Module:
    """`nn.LSTM`, `nn.GRU` or `nn.RNN` with weights in the order that torch has them in."""
    layer: Any = getattr(nn, kind)(**options, device="meta")
    names = [name for group in layer._all_weights for name in group]
    if len(names) != len(weights):
        raise ValueError(f"{kind} wants {len(names)} weights, got {len(weights)}")
    return _filled(layer, **dict(zip(names, weights, strict=True)))


def _filled(layer: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    """The layer with these tensors, whose shapes it must have."""
    for name, value in tensors.items():
        own = getattr(layer, name)
        if value is None or own is None:
            continue
        if own.shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, {type(layer).__name__} wants {tuple(own.shape)}")
        if isinstance(own, nn.Parameter):
            setattr(layer, name, nn.Parameter(value))
        else:
            layer.register_buffer(name, value)
    return layer.eval()

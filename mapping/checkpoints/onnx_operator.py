"""One operator of an ONNX graph as importers see it: its inputs and attributes, and the graph that takes its place.

An importer is a function of an `Operator` that gives its value, or a list of values where it has several outputs. It is
registered under the name of its operator: `@imports("Relu")`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import fx

from .builder import Builder

Value = Any  # a torch.Tensor that is constant, a node of the graph, or `Sizes`
Import = Callable[["Operator"], Value]
IMPORTS: dict[str, Import] = {}


class Unsupported(ValueError):
    """An operator, or a way to use one, that is not imported."""


class Sizes:
    """Sizes of tensors, and what is calculated of them: a vector, or a single one, of numbers and nodes that give some.

    They are calculated as numbers when the network runs, where a file has them as tensors.

    floats: whether that tensor is one of floats.
    """

    def __init__(self, items: Sequence[Any], *, single: bool = False, floats: bool = False) -> None:
        self.items, self.single, self.floats = list(items), single, floats


def imports(*names: str) -> Callable[[Import], Import]:
    """Register the importer of the operators of these names."""

    def register(function: Import) -> Import:
        IMPORTS.update(dict.fromkeys(names, function))
        return function

    return register


class Network(Protocol):
    """A network under construction, as importers of operators see it: an `Importer` is one.

    onnx: the package. opset: the version of its operators. users: how often the tensor of a name is used. bare: calls
    of linear layers that may still take a bias in. zeros: nodes that give nothing but zeros. first: the first input.
    """

    onnx: Any
    opset: int
    builder: Builder
    users: dict[str, int]
    bare: dict[fx.Node, Any]
    zeros: set[fx.Node]
    first: fx.Node | None

    def shape(self, name: str) -> list[int | None] | None: ...
    def type_of(self, name: str) -> int | None: ...
    def learn(self, name: str, sizes: list[Any]) -> None: ...
    def as_node(self, value: Value, name: str) -> fx.Node: ...
    def part(self, value: fx.Node, number: int) -> fx.Node: ...
    def tensor_of(self, tensor: Any) -> torch.Tensor: ...


class Operator:
    """A node of an ONNX graph.

    Attributes:
        kind: the name of the operator. opset: the version of ONNX's operators that counts.
        inputs: their values; None for one that is left out.
        outputs: the names of its outputs, empty for one that nobody takes.
    """

    def __init__(self, importer: Network, node: Any, inputs: list[Value]) -> None:
        self.importer, self.node, self.inputs = importer, node, inputs
        self.kind, self.opset, self.builder = node.op_type, importer.opset, importer.builder
        self.outputs = list(node.output)
        self.attributes = {one.name: importer.onnx.helper.get_attribute_value(one) for one in node.attribute}

    @property
    def name(self) -> str:
        return self.node.name or (self.outputs[0] if self.outputs else "")

    def fault(self, why: str) -> Unsupported:
        """What to raise for a use of the operator that is not imported."""
        return Unsupported(f"operator {self.kind} of node {self.name!r:.100}: {why}")

    def attr(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, **usual: Any) -> None:
        """Raises Unsupported where an attribute is there and not as usual."""
        for name, value in usual.items():
            if (own := self.attr(name, value)) != value:
                raise self.fault(f"{name} = {own!r:.100} is not imported")

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def input_name(self, index: int) -> str:
        return str(self.node.input[index])

    def constant(self, index: int, what: str = "") -> torch.Tensor:
        """A constant input.

        Raises:
            Unsupported: it is none.
        """
        value = self.inputs[index] if self.has(index) else None
        if isinstance(value, Sizes) and all(isinstance(item, (int, float)) for item in value.items):
            return torch.tensor(value.items[0] if value.single else value.items)
        if not isinstance(value, torch.Tensor):
            raise self.fault(f"its {what or 'input'} {self.input_name(index)!r} must be constant")
        return value

    def is_constant(self, index: int) -> bool:
        return self.has(index) and isinstance(self.inputs[index], torch.Tensor)

    def tensor(self, index: int) -> fx.Node:
        """An input as a node that gives a tensor."""
        return self.importer.as_node(self.inputs[index], self.input_name(index))

    def numbers(self, index: int) -> list[Any]:
        """An input of sizes or positions: numbers, and nodes that give some."""
        value = self.inputs[index]
        if isinstance(value, Sizes):
            return value.items
        if isinstance(value, torch.Tensor):
            return list(value.reshape(-1).tolist())
        count = self.importer.shape(self.input_name(index))
        if count is None or len(count) > 1 or None in count:
            raise self.fault(f"its input {self.input_name(index)!r} must have a size that is known")
        size = count[0] if count else 1
        flat = self.builder.graph.call_method("reshape", (value, (-1,)))
        parts = [self.call(operator.getitem, flat, number) for number in range(size or 0)]
        return [self.builder.graph.call_method("item", (part,)) for part in parts]

    def rank(self, index: int) -> int:
        """How many dimensions an input has.

        Raises:
            Unsupported: the file does not say.
        """
        value = self.inputs[index]
        if isinstance(value, torch.Tensor):
            return value.ndim
        if isinstance(value, Sizes):
            return 0 if value.single else 1
        shape = self.importer.shape(self.input_name(index))
        if shape is None:
            raise self.fault(f"the number of dimensions of {self.input_name(index)!r} is not known")
        return len(shape)

    def sizes(self, index: int) -> list[int | None]:
        """The sizes of an input; None for those that the file leaves open."""
        value = self.inputs[index]
        if isinstance(value, torch.Tensor):
            return list(value.shape)
        return self.importer.shape(self.input_name(index)) or []

    def axis(self, value: int, rank: int) -> int:
        return value + rank if value < 0 else value

    def call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.builder.graph.call_function(function, args, kwargs)

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return self.builder.graph.call_method(name, args, kwargs)

    def axes(self, index: int, default: list[int] | None = None) -> list[int] | None:
        """Axes, which are an attribute in old versions and an input in new ones."""
        if "axes" in self.attributes:
            return [int(axis) for axis in self.attributes["axes"]]
        if self.has(index):
            return [int(axis) for axis in self.constant(index, "axes").reshape(-1).tolist()]
        return default

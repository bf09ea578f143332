"""From a graph of ONNX to one of torch.fx: nodes in their order, constants folded, sizes as numbers."""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Iterable
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from . import onnx_layers, onnx_normalisation, onnx_recurrent, onnx_shapes, onnx_values  # noqa: F401  # they register
from .builder import Builder
from .onnx_operator import IMPORTS, Operator, Sizes, Unsupported, Value
from .onnx_sizes import MOST_ITEMS, of_sizes

MOST_FOLDED = 2**27  # values of a constant that is worked out
DOMAINS = ("", "ai.onnx")
# operators whose weights are integers that stand for numbers: what they compute is not what a float network does
QUANTISED = re.compile(r"QLinear|Integer$|^(Dynamic)?QuantizeLinear$|^DynamicQuantize")


class Importer:
    """Makes a network of an ONNX graph, which is checked to be one of ONNX's own operators."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self.onnx, self.model = onnx, model
        self.evaluator = import_module("onnx.reference").ReferenceEvaluator
        self.opset = next(one.version for one in model.opset_import if one.domain in DOMAINS)
        self.builder = Builder()
        self.values: dict[str, Value] = {"": None}
        self.users: dict[str, int] = {}
        self.bare: dict[fx.Node, Any] = {}  # calls of linear layers that may still take a bias in
        self.zeros: set[fx.Node] = set()
        self._shapes: dict[str, list[int | None]] = {}
        self._types: dict[str, int] = {}
        self._learned: dict[str, list[int | None]] = {}
        self._light = self._without_weights()
        self.first: fx.Node | None = None

    def network(self) -> nn.Module:
        graph = self.model.graph
        self._infer()
        for name in [name for node in graph.node for name in node.input] + [one.name for one in graph.output]:
            self.users[name] = self.users.get(name, 0) + 1
        self._initializers(graph)
        self._inputs([one for one in graph.input if one.name not in self.values])
        self.run(graph.node)
        outputs = [self.as_node(self._known(one.name), one.name) for one in graph.output]
        return self.builder.finish(outputs[0] if len(outputs) == 1 else tuple(outputs))

    def _infer(self) -> None:
        """Learn what shapes tensors have, from those of the inputs, and from those that were worked out since."""
        inference = import_module("onnx.shape_inference")
        for name, sizes in self._learned.items():
            info = self.onnx.helper.make_tensor_value_info(name, self._types.get(name, 1), sizes)
            self._light.graph.value_info.append(info)
        self._learned.clear()
        try:
            found = inference.infer_shapes(self._light, data_prop=True).graph
        except Exception:  # operators that it does not know
            found = self._light.graph
        for info in [*found.value_info, *found.input, *found.output]:
            kind = info.type.tensor_type
            self._types[info.name] = kind.elem_type
            if kind.HasField("shape"):
                self._shapes[info.name] = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]

    def _without_weights(self) -> Any:
        """The model without what the file says of values between, and with large constants as inputs."""
        light = self.onnx.ModelProto()
        light.CopyFrom(self.model)
        graph = light.graph
        del graph.value_info[:]
        given = {one.name for one in graph.input}
        small = []
        for tensor in graph.initializer:
            if prod(tensor.dims) <= MOST_ITEMS:
                small.append(self.onnx.TensorProto.FromString(tensor.SerializeToString()))
            elif tensor.name not in given:
                shape = list(tensor.dims)
                graph.input.append(self.onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
        del graph.initializer[:]
        graph.initializer.extend(small)
        return light

    def shape(self, name: str) -> list[int | None] | None:
        """The sizes of a tensor, None for those that are open; None where not even their number is known."""
        if name not in self._shapes and self._learned:
            self._infer()
        return self._shapes.get(name)

    def learn(self, name: str, sizes: list[Any]) -> None:
        """Take down the sizes of a tensor, numbers or nodes, where the file did not tell."""
        if name not in self._shapes:
            self._learned[name] = [size if isinstance(size, int) and size > 0 else None for size in sizes]

    def type_of(self, name: str) -> int | None:
        return self._types.get(name)

    def _initializers(self, graph: Any) -> None:
        for tensor in graph.initializer:
            self.values[tensor.name] = self.tensor_of(tensor)

    def tensor_of(self, tensor: Any) -> torch.Tensor:
        array = self.onnx.numpy_helper.to_array(tensor)
        if array.dtype == object or array.dtype.kind not in "biuf":
            raise Unsupported(f"the tensor {tensor.name!r:.100} is of type {array.dtype}, which is not imported")
        return torch.from_numpy(np.array(array))

    def _inputs(self, inputs: list[Any]) -> None:
        given = []
        taken = {"self"}
        for info in inputs:
            if not info.type.HasField("tensor_type"):
                raise Unsupported(f"the input {info.name!r:.100} is no tensor")
            name = re.sub(r"\W", "_", info.name, flags=re.ASCII) or "input"
            name = name if name.isidentifier() else f"input_{name}"
            while name in taken or keyword.iskeyword(name):
                name += "_"
            taken.add(name)
            given.append(self.builder.graph.placeholder(name))
        for info, node in zip(inputs, given, strict=True):
            sizes = self._shapes.get(info.name, [])
            self.values[info.name] = self.builder.check_sizes(node, sizes)
        self.first = next(iter(self.values[info.name] for info in inputs), None)

    def run(self, nodes: Iterable[Any]) -> None:
        """Import nodes, which stand in the order in which they are run."""
        for node in nodes:
            inputs = [self._known(name) for name in node.input]
            found = self._value(node, inputs)
            several = found if isinstance(found, list) else [found]
            for name, value in zip(node.output, several, strict=False):
                if name:
                    self.values[name] = value
            for name in node.output[len(several) :]:
                if name and self.users.get(name):
                    raise Unsupported(
                        f"operator {node.op_type} of node {node.name!r:.100}: its output {name!r} is used"
                    )

    def _known(self, name: str) -> Value:
        if name not in self.values:
            raise Unsupported(f"the tensor {name!r:.100} is used before it is there")
        return self.values[name]

    def _value(self, node: Any, inputs: list[Value]) -> Any:
        op = Operator(self, node, inputs)
        if node.domain not in DOMAINS:
            raise Unsupported(f"operator {node.domain}.{node.op_type} of node {op.name!r:.100} is not imported")
        if node.op_type == "If":
            return self._chosen(op)
        if (found := of_sizes(op)) is not None:
            return found
        if node.op_type == "Constant":
            return self._constant(op)
        graphs = any(one.type in (one.GRAPH, one.GRAPHS) for one in node.attribute)
        constant = not graphs and all(value is None or isinstance(value, torch.Tensor) for value in inputs)
        if constant and (folded := self._folded(op)) is not None:
            return folded
        if QUANTISED.search(node.op_type):
            raise op.fault("computes with quantised codes; export the network with weights as floats")
        if node.op_type not in IMPORTS:
            raise Unsupported(f"operator {node.op_type} of node {op.name!r:.100} is not imported")
        return IMPORTS[node.op_type](op)

    def _constant(self, op: Operator) -> torch.Tensor:
        ((kind, value),) = op.attributes.items()
        if kind == "value":
            return self.tensor_of(value)
        if kind in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
        if kind in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
        raise op.fault(f"a constant given as {kind} is not imported")

    def _folded(self, op: Operator) -> list[torch.Tensor] | None:
        """What an operator gives of constants alone, by the reference of ONNX; None where it draws random numbers."""
        if op.kind.startswith(("Random", "Bernoulli", "Multinomial")):
            return None
        if op.kind == "Identity":
            return list(op.inputs)
        if op.kind == "DequantizeLinear":
            return [_dequantised(op)]
        self._check_size(op)
        feeds = {name: value.numpy() for name, value in zip(op.node.input, op.inputs, strict=True) if name}
        wanted = [name for name in op.outputs if name]
        graph = self.onnx.helper.make_graph(
            [op.node],
            "constant",
            [self._info(name, array.dtype) for name, array in feeds.items()],
            [self.onnx.ValueInfoProto(name=name) for name in wanted],
        )
        imported = [self.onnx.helper.make_opsetid("", self.opset)]
        model = self.onnx.helper.make_model(graph, opset_imports=imported)
        evaluator = self.evaluator(model)
        given = dict(zip(wanted, evaluator.run(None, feeds), strict=True))
        found = [np.array(given[name]) if name in given else None for name in op.outputs]
        return [torch.empty(0) if array is None else self._array(op, array) for array in found]

    def _array(self, op: Operator, array: Any) -> torch.Tensor:
        if array.dtype.kind not in "biuf":
            raise op.fault(f"gives a constant of type {array.dtype}, which is not imported")
        return torch.from_numpy(array)

    def _info(self, name: str, dtype: Any) -> Any:
        helper = self.onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), None)

    def _check_size(self, op: Operator) -> None:
        """Raises Unsupported for a constant that is larger than anyone's."""
        sizes = self._shapes.get(op.outputs[0]) if op.outputs else None
        count = prod(size or 1 for size in sizes or [])
        if op.kind in ("ConstantOfShape", "Expand", "Tile") and op.inputs:
            count = max(count, abs(prod(op.numbers(len(op.inputs) - 1))))
        if op.kind == "Range":
            start, limit, delta = (float(op.numbers(n)[0]) for n in range(3))
            count = int((limit - start) / delta) if delta else MOST_FOLDED + 1
        if count > MOST_FOLDED:
            raise op.fault(f"makes a constant of {count} values")

    def _chosen(self, op: Operator) -> list[Value]:
        """The branch of an `If` whose condition is constant."""
        condition = op.inputs[0]
        if not isinstance(condition, torch.Tensor):
            raise op.fault("its condition depends on the inputs, which a network of fixed layers cannot follow")
        branch = op.attributes["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
        for node in branch.node:
            for name in node.input:
                self.users[name] = self.users.get(name, 0) + 1
        for one in branch.output:
            self.users[one.name] = self.users.get(one.name, 0) + 1
        self._initializers(branch)
        self.run(branch.node)
        return [self._known(one.name) for one in branch.output]

    def as_node(self, value: Value, name: str) -> fx.Node:
        """A value as a node that gives a tensor."""
        if isinstance(value, torch.Tensor):
            return self.builder.tensor(name or "constant", value)
        if isinstance(value, Sizes):
            if self.first is None:
                raise Unsupported("sizes of a network without inputs")
            items = value.items[0] if value.single else value.items
            dtype = torch.float32 if value.floats else torch.int64
            return self.builder.graph.call_method("new_tensor", (self.first, items), {"dtype": dtype})
        if not isinstance(value, fx.Node):
            raise Unsupported(f"the tensor {name!r:.100} is left out where it is needed")
        return value

    def part(self, value: fx.Node, number: int) -> fx.Node:
        return self.builder.graph.call_function(operator.getitem, (value, number))


def _dequantised(op: Operator) -> torch.Tensor:
    """The numbers that constant codes stand for: (code - zero point) times scale, in 32-bit floats."""
    op.refuse(block_size=0, output_dtype=0)
    codes, scale = op.constant(0), op.constant(1).float()
    zero = op.constant(2) if op.has(2) else torch.zeros((), dtype=torch.int32)
    around = [1] * codes.ndim
    if scale.ndim:
        around[op.attr("axis", 1)] = -1
        scale, zero = scale.reshape(around), zero.reshape(around) if zero.ndim else zero
    return (codes.to(torch.int32) - zero.to(torch.int32)).float() * scale

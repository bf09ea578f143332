"""Operators of ATen as nodes of a network: those with weights become layers of torch.nn."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from ..errors import CheckpointError
from .builder import Builder, batch_norm, convolution, linear, recurrent

# views and copies, which of a constant are another constant
OF_CONSTANTS = {"clone", "contiguous", "detach", "detach_", "lift_fresh_copy", "permute", "reshape", "t", "transpose"}
OF_CONSTANTS |= {"numpy_T", "view", "unsqueeze", "squeeze"}
RECURRENT = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}
# functions of torch that take the arguments of the operator of their name, beside those that are bound to it
OF_MODULES = {"hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu6", "silu"}
OF_MODULES |= {f"adaptive_avg_pool{n}d" for n in (1, 2, 3)}


class Constant:
    """A tensor of the file, or a view of one, with the name of that in the file."""

    def __init__(self, name: str, value: torch.Tensor) -> None:
        self.name, self.value = name, value


class Aten:
    """Calls operators in the graph of a builder. Arguments are nodes, `Constant`, plain values, and lists of these."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.constants: dict[tuple[str, str], Constant] = {}
        self.ranks: dict[Any, int] = {}  # dimensions of the values of nodes, where the file says them

    def constant(self, name: str, value: torch.Tensor) -> Constant:
        return self.constants.setdefault((name, ""), Constant(name, value))

    def nodes(self, value: Any) -> Any:
        """The same with nodes in the place of constants."""
        if isinstance(value, Constant):
            return self.builder.tensor(value.name, value.value)
        if isinstance(value, dict):
            return {key: self.nodes(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.nodes(one) for one in value)
        return value

    def part(self, value: Any, number: int) -> Any:
        """One of several results of a call."""
        if isinstance(value, (list, tuple)):
            return value[number]
        return self.builder.graph.call_function(operator.getitem, (value, number))

    def call(self, operation: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The value of a call.

        Raises:
            CheckpointError: the operator draws random numbers, or is one of training.
        """
        schema = operation._schema
        name = schema.name.removeprefix("aten::")
        given = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        given |= dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        if given.get("training") is True or given.get("train") is True:
            raise CheckpointError(f"it calls {name} as in training; export it after model.eval()")
        if name.removesuffix("_") in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"):
            return given["input"]
        if torch.Tag.nondeterministic_seeded in operation.tags and given.get("dropout_p", given.get("train", 1)) != 0:
            raise CheckpointError(f"it calls {name}, which draws random numbers")
        if name in OF_CONSTANTS and isinstance(args[0], Constant):
            plain = [argument for argument in [*args[1:], *kwargs.values()] if not _is_plain(argument)]
            if not plain:
                return self._folded(operation, args, kwargs)
        found = LAYERS[name](self, given) if name in LAYERS else None
        if found is not None:
            return found
        return self._called(operation, name, given, tuple(self.nodes(args)), self.nodes(kwargs))

    def _called(
        self, operation: Any, name: str, given: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Node:
        """A call by the name that users of torch know, under which a saved chip keeps it; else of the operator."""
        graph = self.builder.graph
        if name in ("view", "reshape", "_unsafe_view"):  # whatever the order in memory
            return graph.call_method("reshape", args, kwargs)
        if name == "sym_size":
            return graph.call_method("size", args)
        if name == "slice" and given.get("step", 1) == 1 and len(args) > 1:
            return graph.call_function(operator.getitem, (args[0], _along(given)))
        for home in (torch, functional):
            found = getattr(home, name, None)
            if isinstance(found, BuiltinFunctionType) or (found is not None and name in OF_MODULES):
                return graph.call_function(found, args, kwargs)
        if isinstance(getattr(torch.Tensor, name, None), MethodDescriptorType) and isinstance(args[0], fx.Node):
            return graph.call_method(name, args, kwargs)
        return graph.call_function(operation, args, kwargs)

    def _folded(self, operation: Any, args: list[Any], kwargs: dict[str, Any]) -> Constant:
        first = args[0]
        said = ",".join(str(argument) for argument in [*args[1:], *kwargs.values()])
        name = operation._schema.name.removeprefix("aten::")
        if name in ("clone", "contiguous", "detach", "detach_", "lift_fresh_copy"):
            return first
        viewed = Constant(first.name, operation(first.value, *args[1:], **kwargs))
        return self.constants.setdefault((f"{id(first)}", f"{name}({said})"), viewed)

    def _linear(self, given: dict[str, Any]) -> Any:
        return self._matrix(given["input"], given["weight"], given.get("bias"), turned=False)

    def _addmm(self, given: dict[str, Any]) -> Any:
        if given["beta"] != 1 or given["alpha"] != 1:
            return None
        return self._matrix(given["mat1"], given["mat2"], given["self"], turned=True)

    def _mm(self, given: dict[str, Any]) -> Any:
        return self._matrix(given["self"], given["mat2"], None, turned=True)

    def _matmul(self, given: dict[str, Any]) -> Any:
        return self._matrix(given["self"], given["other"], None, turned=True)

    def _matrix(self, x: Any, weight: Any, bias: Any, *, turned: bool) -> Any:
        """A linear layer, whose weight is (inputs, outputs) where it is turned."""
        if not (_floats(weight, 2) and (bias is None or _floats(bias, 1)) and isinstance(x, fx.Node)):
            return None
        value = weight.value.t() if turned else weight.value
        if bias is not None and bias.value.shape != value.shape[:1]:
            return None
        return self._layer(weight, (bias, turned), lambda: linear(value, _tensor(bias)), x)

    def _conv(self, given: dict[str, Any], *, transposed: bool = False) -> Any:
        weight, bias = given["weight"], given.get("bias")
        x = given["input"]
        if not (isinstance(weight, Constant) and _floats(weight, weight.value.ndim) and isinstance(x, fx.Node)):
            return None
        if bias is not None and not _floats(bias, 1):
            return None
        dims = weight.value.ndim - 2
        lists = {"stride": given["stride"], "padding": given["padding"], "dilation": given["dilation"]}
        if transposed:
            lists["output_padding"] = given["output_padding"]
        options: dict[str, Any] = {name: _filled(value, dims) for name, value in lists.items()}
        if not all(_is_plain(value) for value in (*options.values(), given["groups"])):
            return None
        options |= {"groups": given["groups"], "transposed": transposed}
        return self._layer(weight, (bias, str(options)), lambda: convolution(weight.value, _tensor(bias), **options), x)

    def _transposed(self, given: dict[str, Any]) -> Any:
        return self._conv(given, transposed=True)

    def _convolution(self, given: dict[str, Any]) -> Any:
        return self._conv(given, transposed=given["transposed"])

    def _batch_norm(self, given: dict[str, Any]) -> Any:
        parts = [given[name] for name in ("weight", "bias", "running_mean", "running_var")]
        if given["running_mean"] is None or not all(part is None or _floats(part, 1) for part in parts):
            return None
        return None if not isinstance(given["input"], fx.Node) else self._normed(given, parts)

    def _normed(self, given: dict[str, Any], parts: list[Any]) -> Any:
        """A batch norm; its class follows from how many dimensions its input has."""
        rank = self.ranks.get(given["input"])
        if rank is None or not 2 <= rank <= 5:
            return None
        dims, eps = max(rank - 2, 1), given["eps"]
        weight, bias, mean, variance = (_tensor(part) for part in parts)
        assert mean is not None
        assert variance is not None
        make = partial(batch_norm, dims, weight, bias, mean, variance, eps)
        return self._layer(parts[2], (dims, eps, *parts), make, given["input"])

    def _normed_part(self, given: dict[str, Any]) -> Any:
        found = self._batch_norm(given)
        return None if found is None else [found, None, None]

    def _recurrent(self, given: dict[str, Any], *, kind: str) -> Any:
        name, options = RECURRENT[kind]
        weights = given["params"]
        if not all(isinstance(one, Constant) for one in weights) or not isinstance(given["input"], fx.Node):
            return None
        first, second = weights[0].value, weights[1].value
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
        settings: dict[str, Any] = {
            "input_size": first.shape[1],
            "hidden_size": second.shape[0] // gates,
            "num_layers": given["num_layers"],
            "bias": given["has_biases"],
            "batch_first": given["batch_first"],
            "bidirectional": given["bidirectional"],
            **options,
        }
        if second.shape[1] != settings["hidden_size"]:
            return None  # with a projection
        tensors = [one.value for one in weights]
        state = self.nodes(given["hx"])
        state = tuple(state) if isinstance(state, (list, tuple)) else state
        name_of = weights[0].name.rpartition(".")[0] or name.lower()
        key = (id(weights[0]), str(settings))
        called = self.builder.layer(name_of, key, lambda: recurrent(name, tensors, **settings), given["input"], state)
        outputs, last = self.part(called, 0), self.part(called, 1)
        return [outputs, self.part(last, 0), self.part(last, 1)] if name == "LSTM" else [outputs, last]

    def _layer(self, weight: Constant, rest: tuple[Any, ...], make: Any, x: fx.Node) -> fx.Node:
        owner, _, last = weight.name.rpartition(".")
        name = owner if last in ("weight", "running_mean") else weight.name
        key = (id(weight), *(id(one) if isinstance(one, Constant) else one for one in rest))
        return self.builder.layer(name or "layer", key, make, x)


LAYERS: dict[str, Callable[[Aten, dict[str, Any]], Any]] = {
    "linear": Aten._linear,
    "addmm": Aten._addmm,
    "mm": Aten._mm,
    "matmul": Aten._matmul,
    **{f"conv{n}d": Aten._conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": Aten._transposed for n in (1, 2, 3)},
    "convolution": Aten._convolution,
    "batch_norm": Aten._batch_norm,
    "_native_batch_norm_legit_no_training": Aten._normed_part,
    **{kind: partial(Aten._recurrent, kind=kind) for kind in RECURRENT},
}


def _along(given: dict[str, Any]) -> tuple[Any, ...]:
    """The index of a slice along one dimension."""
    dim, cut = given["dim"], slice(given.get("start"), given.get("end"))
    if dim < 0:
        return (Ellipsis, cut, *(slice(None),) * (-dim - 1))
    return (*(slice(None),) * dim, cut)


def _floats(value: Any, dims: int) -> bool:
    return isinstance(value, Constant) and value.value.ndim == dims and value.value.is_floating_point()


def _tensor(value: Constant | None) -> torch.Tensor | None:
    return None if value is None else value.value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return not isinstance(value, (fx.Node, Constant))


def _filled(value: Any, dims: int) -> Any:
    """One number for all dimensions, as many times as there are."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        return list(value) * dims
    return value

"""Operators of ONNX that work value by value, and those that gather values along axes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from .onnx_layers import with_bias
from .onnx_operator import IMPORTS, Operator, Value, imports

UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
BINARY: dict[str, Callable[..., Any]] = {
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
MANY: dict[str, Callable[..., Any]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}
DTYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def _unary(op: Operator) -> Value:
    return op.call(UNARY[op.kind], op.tensor(0))


def _binary(op: Operator) -> Value:
    return op.call(BINARY[op.kind], op.tensor(0), op.tensor(1))


def _many(op: Operator) -> Value:
    found = op.tensor(0)
    for n in range(1, len(op.inputs)):
        found = op.call(MANY[op.kind], found, op.tensor(n))
    return found


IMPORTS.update(dict.fromkeys(UNARY, _unary) | dict.fromkeys(BINARY, _binary) | dict.fromkeys(MANY, _many))


@imports("Add")
def _add(op: Operator) -> Value:
    found = with_bias(op)
    return op.call(torch.add, op.tensor(0), op.tensor(1)) if found is None else found


@imports("Div")
def _div(op: Operator) -> Value:
    kinds = {_kind(op, n) for n in range(2)}
    if kinds <= {True}:
        return op.call(torch.div, op.tensor(0), op.tensor(1))
    if kinds <= {False}:
        return op.call(torch.div, op.tensor(0), op.tensor(1), rounding_mode="trunc")
    raise op.fault("whether it divides integers is not known")


def _kind(op: Operator, index: int) -> bool | None:
    """Whether an input is of floats; None where the file does not say."""
    value = op.inputs[index]
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    code = op.importer.type_of(op.input_name(index))
    return DTYPES[code].is_floating_point if code in DTYPES else None


@imports("Mod")
def _mod(op: Operator) -> Value:
    return op.call(torch.fmod if op.attr("fmod", 0) else torch.remainder, op.tensor(0), op.tensor(1))


@imports("PRelu")
def _prelu(op: Operator) -> Value:
    x = op.tensor(0)
    return op.call(torch.where, op.call(torch.lt, x, 0), op.call(torch.mul, x, op.tensor(1)), x)


@imports("LeakyRelu")
def _leaky(op: Operator) -> Value:
    return op.call(functional.leaky_relu, op.tensor(0), op.attr("alpha", 0.01))


@imports("Elu")
def _elu(op: Operator) -> Value:
    return op.call(functional.elu, op.tensor(0), op.attr("alpha", 1.0))


@imports("Celu")
def _celu(op: Operator) -> Value:
    return op.call(functional.celu, op.tensor(0), op.attr("alpha", 1.0))


@imports("Selu")
def _selu(op: Operator) -> Value:
    alpha, gamma = op.attr("alpha", 1.6732632423543772), op.attr("gamma", 1.0507009873554805)
    return op.call(torch.mul, op.call(functional.elu, op.tensor(0), alpha), gamma)


@imports("HardSigmoid")
def _hard_sigmoid(op: Operator) -> Value:
    scaled = op.call(torch.mul, op.tensor(0), op.attr("alpha", 0.2))
    return op.call(torch.clamp, op.call(torch.add, scaled, op.attr("beta", 0.5)), 0.0, 1.0)


@imports("ThresholdedRelu")
def _thresholded(op: Operator) -> Value:
    return op.call(functional.threshold, op.tensor(0), op.attr("alpha", 1.0), 0.0)


@imports("Gelu")
def _gelu(op: Operator) -> Value:
    return op.call(functional.gelu, op.tensor(0), approximate=op.attr("approximate", "none"))


@imports("Swish")
def _swish(op: Operator) -> Value:
    x, alpha = op.tensor(0), op.attr("alpha", 1.0)
    return op.call(torch.mul, x, op.call(torch.sigmoid, x if alpha == 1 else op.call(torch.mul, x, alpha)))


@imports("Clip")
def _clip(op: Operator) -> Value:
    if op.opset < 11:
        low, high = op.attr("min"), op.attr("max")
    else:
        low, high = (op.tensor(n) if op.has(n) else None for n in (1, 2))
        if all(not op.has(n) or op.is_constant(n) for n in (1, 2)):
            low, high = (op.constant(n).item() if op.has(n) else None for n in (1, 2))
    return op.tensor(0) if low is None and high is None else op.call(torch.clamp, op.tensor(0), low, high)


@imports("Softmax", "LogSoftmax")
def _softmax(op: Operator) -> Value:
    function = torch.softmax if op.kind == "Softmax" else torch.log_softmax
    x = op.tensor(0)
    if op.opset >= 13:
        return op.call(function, x, op.attr("axis", -1))
    axis, rank = op.axis(op.attr("axis", 1), op.rank(0)), op.rank(0)
    if axis == rank - 1:
        return op.call(function, x, -1)
    flat = op.method("flatten", x, axis, -1)  # of old versions: over all axes from this one on
    return op.call(torch.reshape, op.call(function, flat, axis), op.method("size", x))


@imports("Cast")
def _cast(op: Operator) -> Value:
    if (code := op.attr("to")) not in DTYPES:
        raise op.fault(f"to = {code} is a type that is not imported")
    return op.method("to", op.tensor(0), DTYPES[code])


@imports("CastLike")
def _cast_like(op: Operator) -> Value:
    return op.method("type_as", op.tensor(0), op.tensor(1))


@imports("Identity", "Dropout")
def _identity(op: Operator) -> Value:
    if op.kind == "Dropout" and op.has(2) and not (op.is_constant(2) and not op.constant(2).any()):
        raise op.fault("in training it is not imported")
    return op.inputs[0]


@imports("Where")
def _where(op: Operator) -> Value:
    return op.call(torch.where, op.tensor(0), op.tensor(1), op.tensor(2))


@imports("Einsum")
def _einsum(op: Operator) -> Value:
    return op.call(torch.einsum, op.attr("equation"), *(op.tensor(n) for n in range(len(op.inputs))))


@imports("CumSum")
def _cumsum(op: Operator) -> Value:
    op.refuse(exclusive=0, reverse=0)
    return op.call(torch.cumsum, op.tensor(0), int(op.constant(1, "axis")))


@imports("Trilu")
def _trilu(op: Operator) -> Value:
    k = int(op.constant(1, "k")) if op.has(1) else 0
    return op.call(torch.triu if op.attr("upper", 1) else torch.tril, op.tensor(0), k)


def _reduced(function: Callable[..., Any]) -> Callable[[Operator], Value]:
    """An importer of what reduces axes: the function takes the input, the axes and whether they are kept."""

    def reduce(op: Operator) -> Value:
        x, keep = op.tensor(0), bool(op.attr("keepdims", 1))
        axes = op.axes(1)
        if not axes:
            if op.attr("noop_with_empty_axes", 0):
                return x
            axes = list(range(op.rank(0)))
        return function(op, x, tuple(axes), keep)

    return reduce


def _square(op: Operator, x: fx.Node) -> fx.Node:
    return op.call(torch.mul, x, x)


def _product(op: Operator, x: fx.Node, axes: tuple[int, ...], keep: bool) -> fx.Node:
    for axis in sorted((op.axis(axis, op.rank(0)) for axis in axes), reverse=True):
        x = op.call(torch.prod, x, axis, keep)
    return x


def _named(name: str) -> Callable[..., fx.Node]:
    return lambda op, x, axes, keep: op.method(name, x, axes, keep)


def _sum_of(change: Callable[[Operator, fx.Node], fx.Node]) -> Callable[..., fx.Node]:
    return lambda op, x, axes, keep: op.method("sum", change(op, x), axes, keep)


def _absolute(op: Operator, x: fx.Node) -> fx.Node:
    return op.call(torch.abs, x)


REDUCED: dict[str, Callable[..., fx.Node]] = {
    "ReduceMean": _named("mean"),
    "ReduceSum": _named("sum"),
    "ReduceMax": _named("amax"),
    "ReduceMin": _named("amin"),
    "ReduceLogSumExp": _named("logsumexp"),
    "ReduceProd": _product,
    "ReduceL1": _sum_of(_absolute),
    "ReduceSumSquare": _sum_of(_square),
    "ReduceL2": lambda op, x, axes, keep: op.call(torch.sqrt, _sum_of(_square)(op, x, axes, keep)),
}
IMPORTS.update({name: _reduced(function) for name, function in REDUCED.items()})


@imports("ArgMax", "ArgMin")
def _argmax(op: Operator) -> Value:
    op.refuse(select_last_index=0)
    function = torch.argmax if op.kind == "ArgMax" else torch.argmin
    return op.call(function, op.tensor(0), op.attr("axis", 0), bool(op.attr("keepdims", 1)))


@imports("TopK")
def _topk(op: Operator) -> Value:
    k = op.numbers(1)[0] if op.opset >= 10 else op.attr("k")
    largest, ordered = bool(op.attr("largest", 1)), bool(op.attr("sorted", 1))
    found = op.call(torch.topk, op.tensor(0), k, op.attr("axis", -1), largest, ordered)
    return [op.call(operator.getitem, found, n) for n in range(2)]

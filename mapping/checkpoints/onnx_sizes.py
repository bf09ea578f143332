"""Arithmetic of sizes: what a file of ONNX calculates with tensors of integers, calculated with numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from .onnx_operator import Operator, Sizes

MOST_ITEMS = 4096
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Mod": operator.mod,
}
COMPARISONS: dict[str, Callable[..., Any]] = {
    "Equal": operator.eq,
    "Less": operator.lt,
    "Greater": operator.gt,
    "LessOrEqual": operator.le,
    "GreaterOrEqual": operator.ge,
}
INTEGERS = (6, 7, 12, 13)  # types of tensors in ONNX: int32, int64, uint32, uint64


def of_sizes(op: Operator) -> Any:
    """The value of an operator on sizes; None where it has none, or gives something else than sizes."""
    if op.kind == "Shape":
        return _shape(op)
    if op.kind == "Size":
        return Sizes([_product(_shape(op, whole=True))], single=True)
    if not any(isinstance(value, Sizes) for value in op.inputs):
        return None
    given = [_sizes(value) for value in op.inputs]
    found = _calculated(op, given)
    if isinstance(found, Sizes) and all(isinstance(item, bool) for item in found.items):
        return torch.tensor(found.items[0] if found.single else found.items)
    if isinstance(found, Sizes) and all(isinstance(item, (int, float)) for item in found.items):
        dtype = torch.float32 if found.floats else torch.int64
        return torch.tensor(found.items[0] if found.single else found.items, dtype=dtype)
    return found


def _shape(op: Operator, *, whole: bool = False) -> Any:
    """The sizes of a tensor: numbers where the file fixes them, else as they are when the network runs."""
    value = op.inputs[0]
    if isinstance(value, torch.Tensor):
        items: list[Any] = list(value.shape)
    elif isinstance(value, Sizes):
        items = [] if value.single else [len(value.items)]
    else:
        known = op.importer.shape(op.input_name(0))
        if known is None:
            raise op.fault(f"the number of dimensions of {op.input_name(0)!r} is not known")
        items = [op.method("size", value, n) if size is None else size for n, size in enumerate(known)]
    if not whole:
        items = items[op.attr("start", 0) : op.attr("end", len(items))]
    if whole or not all(isinstance(item, int) for item in items):
        return Sizes(items)
    return torch.tensor(items, dtype=torch.int64)


def _sizes(value: Any) -> Sizes | None:
    """Constants of at most one dimension as sizes."""
    if isinstance(value, Sizes):
        return value
    if isinstance(value, torch.Tensor) and value.ndim <= 1 and value.numel() <= MOST_ITEMS:
        return Sizes(value.reshape(-1).tolist(), single=value.ndim == 0, floats=value.is_floating_point())
    return None


def _calculated(op: Operator, given: list[Sizes | None]) -> Any:
    first = given[0]
    kind = op.kind
    if kind in ("Identity", "Dropout"):
        return first
    if kind == "Concat" and all(one is not None for one in given):
        parts = [one for one in given if one is not None]
        return Sizes([item for one in parts for item in one.items], floats=parts[0].floats)
    if first is None:
        return _chosen(op, given) if kind == "Where" else _pairwise(op, given)
    if kind == "Cast":
        return _cast(op, first)
    if kind in ("Floor", "Ceil", "Neg"):
        function = operator.neg if kind == "Neg" else getattr(math, kind.lower())
        return _like(first, [_apply(op, function, item) for item in first.items])
    if kind in ("Unsqueeze", "Squeeze", "Reshape"):
        return _reshaped(op, first)
    if kind == "Gather" and isinstance(op.inputs[0], Sizes) and op.is_constant(1):
        index = op.constant(1)
        picked = [first.items[int(number)] for number in index.reshape(-1).tolist()]
        return Sizes(picked, single=index.ndim == 0, floats=first.floats) if index.ndim <= 1 else None
    if kind == "Slice" and isinstance(op.inputs[0], Sizes):
        return _sliced(op, first)
    if kind == "ReduceProd":
        return Sizes([_product(first)], single=not op.attr("keepdims", 1), floats=first.floats)
    if kind == "Where":
        return _chosen(op, given)
    return _pairwise(op, given)


def _like(sizes: Sizes, items: list[Any]) -> Sizes:
    return Sizes(items, single=sizes.single, floats=sizes.floats)


def _cast(op: Operator, sizes: Sizes) -> Any:
    to = op.attr("to")
    if to in INTEGERS:
        return Sizes([_whole(op, item) if sizes.floats else item for item in sizes.items], single=sizes.single)
    if to in (1, 11):
        items = [item if isinstance(item, fx.Node) else float(item) for item in sizes.items]
        return Sizes(items, single=sizes.single, floats=True)
    return None


def _whole(op: Operator, item: Any) -> Any:
    """A number without its fraction."""
    if not isinstance(item, fx.Node):
        return int(item)
    return op.call(math.trunc, item) if _fractional(item) else item


def _apply(op: Operator, function: Callable[..., Any], *items: Any) -> Any:
    """A function of numbers, now or when the network runs."""
    return op.call(function, *items) if any(isinstance(item, fx.Node) for item in items) else function(*items)


def _fractional(node: fx.Node) -> bool:
    """Whether the number that a node gives may have a fraction."""
    if node.op == "call_function" and node.target in (operator.add, operator.sub, operator.mul, operator.truediv):
        return node.target is operator.truediv or any(
            isinstance(one, float) or (isinstance(one, fx.Node) and _fractional(one)) for one in node.args
        )
    return False


def _pairwise(op: Operator, given: list[Sizes | None]) -> Any:
    if len(given) != 2 or any(one is None for one in given):
        return None
    left, right = (one for one in given if one is not None)
    count = max(len(left.items), len(right.items))
    if not {len(left.items), len(right.items)} <= {1, count}:
        return None
    pairs = [
        (left.items[n if len(left.items) > 1 else 0], right.items[n if len(right.items) > 1 else 0])
        for n in range(count)
    ]
    single, floats = left.single and right.single, left.floats or right.floats
    function = ARITHMETIC.get(op.kind)
    if op.kind == "Div":
        function = operator.truediv if floats else operator.floordiv
    if function is not None:
        return Sizes([_apply(op, function, a, b) for a, b in pairs], single=single, floats=floats)
    if op.kind in COMPARISONS:
        decided = [_compared(op.kind, a, b) for a, b in pairs]
        return Sizes(decided, single=single) if all(isinstance(one, bool) for one in decided) else None
    return None


def _compared(kind: str, left: Any, right: Any) -> bool | None:
    """A comparison of two numbers; None where it depends on the inputs. A size is never negative."""
    if isinstance(left, fx.Node) and isinstance(right, fx.Node):
        return None
    if isinstance(left, fx.Node) and right < 0:
        return kind in ("Greater", "GreaterOrEqual")
    if isinstance(right, fx.Node) and left < 0:
        return kind in ("Less", "LessOrEqual")
    if isinstance(left, fx.Node) or isinstance(right, fx.Node):
        return None
    return bool(COMPARISONS[kind](left, right))


def _chosen(op: Operator, given: list[Sizes | None]) -> Any:
    """`Where` with a condition that is known."""
    if not op.is_constant(0) or any(one is None for one in given):
        return None
    condition, left, right = (one for one in given if one is not None)
    count = max(len(one.items) for one in (condition, left, right))
    at = [[one.items[n if len(one.items) > 1 else 0] for one in (condition, left, right)] for n in range(count)]
    single = condition.single and left.single and right.single
    return Sizes([a if c else b for c, a, b in at], single=single, floats=left.floats)


def _reshaped(op: Operator, sizes: Sizes) -> Any:
    if not isinstance(op.inputs[0], Sizes):
        return None
    single = {"Unsqueeze": False, "Squeeze": True}.get(op.kind)
    if single is None:
        shape = op.numbers(1)
        single = not shape
        if len(shape) > 1:
            return None
    if (op.kind == "Unsqueeze" and not sizes.single) or (single and len(sizes.items) != 1):
        return None
    return Sizes(sizes.items, single=single, floats=sizes.floats)


def _sliced(op: Operator, sizes: Sizes) -> Any:
    if op.opset < 10:
        starts, ends, steps = op.attr("starts"), op.attr("ends"), [1]
    else:
        starts, ends = op.numbers(1), op.numbers(2)
        steps = op.numbers(4) if op.has(4) else [1]
    if any(isinstance(one, fx.Node) for one in (*starts, *ends, *steps)):
        return None
    return _like(sizes, sizes.items[int(starts[0]) : int(ends[0]) : int(steps[0])])


def _product(sizes: Any) -> Any:
    total: Any = 1
    for item in sizes.items:
        known = not isinstance(total, fx.Node) and not isinstance(item, fx.Node)
        if known or total == 1:
            total = item if total == 1 else total * item
        else:
            node = total if isinstance(total, fx.Node) else item
            total = node.graph.call_function(operator.mul, (total, item))
    return total

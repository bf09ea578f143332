"""Operators of ONNX that move values: reshapes, slices, gathers, padding, and resizing of images."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from .onnx_operator import Operator, Value, imports

END = 2**31 - 1  # from here on an end is behind everything
PADS = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@imports("Reshape")
def _reshape(op: Operator) -> Value:
    sizes = op.numbers(1)
    x = op.tensor(0)
    if not op.attr("allowzero", 0):
        sizes = [op.method("size", x, n) if _is(size, 0) else size for n, size in enumerate(sizes)]
    op.importer.learn(op.outputs[0], sizes)
    return op.call(torch.reshape, x, tuple(sizes))


@imports("Flatten")
def _flatten(op: Operator) -> Value:
    axis, x = op.axis(op.attr("axis", 1), op.rank(0)), op.tensor(0)
    if axis == 0:
        return op.call(torch.reshape, x, (1, -1))
    if axis == op.rank(0):
        return op.call(torch.reshape, x, (-1, 1))
    found = op.call(torch.flatten, x, axis, -1)
    return found if axis == 1 else op.call(torch.flatten, found, 0, axis - 1)


@imports("Transpose")
def _transpose(op: Operator) -> Value:
    axes = op.attr("perm") or list(reversed(range(op.rank(0))))
    return op.method("permute", op.tensor(0), tuple(axes))


@imports("Squeeze")
def _squeeze(op: Operator) -> Value:
    axes = op.axes(1)
    if axes is None:
        sizes = op.sizes(0)
        if None in sizes or len(sizes) != op.rank(0):
            raise op.fault("without axes, of an input whose sizes are not all known, it is not imported")
        axes = [n for n, size in enumerate(sizes) if size == 1]
    found = op.tensor(0)
    for axis in sorted((op.axis(axis, op.rank(0)) for axis in axes), reverse=True):
        found = op.method("select", op.builder.check_sizes(found, [None] * axis + [1]), axis, 0)
    return found


@imports("Unsqueeze")
def _unsqueeze(op: Operator) -> Value:
    axes = op.axes(1, [])
    found, rank = op.tensor(0), op.rank(0) + len(axes or [])
    for axis in sorted(op.axis(axis, rank) for axis in axes or []):
        found = op.call(torch.unsqueeze, found, axis)
    return found


@imports("Concat")
def _concat(op: Operator) -> Value:
    return op.call(torch.cat, [op.tensor(n) for n in range(len(op.inputs))], op.attr("axis"))


@imports("Split")
def _split(op: Operator) -> Value:
    count, axis = len(op.outputs), op.attr("axis", 0)
    lengths = [int(n) for n in op.constant(1, "split").tolist()] if op.has(1) else op.attr("split")
    if lengths is None:
        size = (op.sizes(0) or [None])[op.axis(axis, op.rank(0))]
        if size is None:
            raise op.fault("along an axis whose size is not known it is not imported")
        whole = -(-size // count)
        lengths = [min(whole, size - n * whole) for n in range(count)]
    found = op.method("split", op.tensor(0), list(lengths), axis)
    return [op.call(operator.getitem, found, n) for n in range(count)]


@imports("Slice")
def _slice(op: Operator) -> Value:
    if op.opset < 10:
        starts, ends = list(op.attr("starts")), list(op.attr("ends"))
        axes, steps = op.attr("axes"), [1] * len(starts)
    else:
        starts, ends = op.numbers(1), op.numbers(2)
        axes = op.numbers(3) if op.has(3) else None
        steps = op.numbers(4) if op.has(4) else [1] * len(starts)
    x, rank = op.tensor(0), op.rank(0)
    index: list[Any] = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes or range(len(starts)), steps, strict=True):
        if _is(step, -1) and _is(start, -1) and not isinstance(end, fx.Node) and end < -END:
            x = op.call(torch.flip, x, (op.axis(axis, rank),))
        elif isinstance(step, fx.Node) or step <= 0:
            raise op.fault(f"steps = {step} from {start} to {end} are not imported")
        else:
            last = None if not isinstance(end, fx.Node) and end >= END else end
            index[op.axis(axis, rank)] = slice(start, last, step)
    return op.call(operator.getitem, x, tuple(index))


@imports("Gather")
def _gather(op: Operator) -> Value:
    axis = op.attr("axis", 0)
    if op.is_constant(1):
        index = op.constant(1)
        if index.ndim == 0:
            return op.method("select", op.tensor(0), axis, int(index))
        if index.ndim == 1:
            place = (slice(None),) * op.axis(axis, op.rank(0))
            return op.call(operator.getitem, op.tensor(0), (*place, [int(n) for n in index.tolist()]))
    elif op.is_constant(0) and op.constant(0).ndim == 2 and axis == 0 and op.constant(0).is_floating_point():
        rows = op.constant(0).shape[0]
        index_node = op.method("to", op.tensor(1), torch.int64)
        # an index below zero counts from the end
        below = op.call(torch.lt, index_node, 0)
        index_node = op.call(torch.where, below, op.call(torch.add, index_node, rows), index_node)
        return op.call(functional.embedding, index_node, op.tensor(0))
    place = (slice(None),) * op.axis(axis, op.rank(0))
    return op.call(operator.getitem, op.tensor(0), (*place, op.method("to", op.tensor(1), torch.int64)))


@imports("GatherElements")
def _gather_elements(op: Operator) -> Value:
    return op.call(torch.gather, op.tensor(0), op.attr("axis", 0), op.method("to", op.tensor(1), torch.int64))


@imports("ScatterElements")
def _scatter(op: Operator) -> Value:
    op.refuse(reduction="none")
    index = op.method("to", op.tensor(1), torch.int64)
    return op.call(torch.scatter, op.tensor(0), op.attr("axis", 0), index, op.tensor(2))


@imports("Expand")
def _expand(op: Operator) -> Value:
    sizes, rank = op.numbers(1), op.rank(0)
    more = len(sizes) - rank
    own = op.sizes(0) or [None] * rank
    found = [-1] * max(0, -more)
    for n, size in enumerate(sizes):
        inside = n >= more
        known = own[n - more] if inside else 1
        if inside and isinstance(size, fx.Node) and known not in (1, None):
            size = -1  # a size of the network's own that is 1 or this one
        elif inside and isinstance(size, fx.Node) and known is None:
            size = _wider(op, size, op.method("size", op.tensor(0), n - more))
        found.append(-1 if inside and _is(size, 1) else size)
    op.importer.learn(op.outputs[0], found)
    return op.method("expand", op.tensor(0), tuple(found))


def _wider(op: Operator, size: fx.Node, own: fx.Node) -> Any:
    """Of two sizes the one that both become: where one is 1, the other."""
    if size is own or (size.target == own.target and size.args == own.args):
        return -1
    # a * b // min(a, b) would be the larger; sizes that fit one another are equal or 1
    return op.call(operator.floordiv, op.call(operator.mul, size, own), _smaller(op, size, own))


def _smaller(op: Operator, one: fx.Node, other: fx.Node) -> Any:
    return op.call(
        operator.sub,
        one,
        op.call(operator.mul, op.call(operator.sub, one, other), op.call(operator.gt, one, other)),
    )


@imports("Tile")
def _tile(op: Operator) -> Value:
    return op.method("repeat", op.tensor(0), tuple(op.numbers(1)))


@imports("ConstantOfShape")
def _constant_of_shape(op: Operator) -> Value:
    value = op.importer.tensor_of(op.attributes["value"]) if "value" in op.attributes else torch.zeros(1)
    first = op.importer.first
    if first is None:
        raise op.fault("in a network without inputs it is not imported")
    op.importer.learn(op.outputs[0], op.numbers(0))
    found = op.method("new_full", first, tuple(op.numbers(0)), value.reshape(-1)[0].item(), dtype=value.dtype)
    if not value.any():
        op.importer.zeros.add(found)
    return found


@imports("Range")
def _range(op: Operator) -> Value:
    start, limit, delta = (op.numbers(n)[0] for n in range(3))
    first = op.importer.first
    if first is None or isinstance(start, fx.Node) or not _is(delta, 1) or isinstance(start, float):
        raise op.fault("other than by steps of 1 from a constant integer it is not imported")
    count = limit if start == 0 else op.call(operator.sub, limit, start)
    ones = op.method("new_full", first, (count,), 1, dtype=torch.int64)
    return op.call(torch.add, op.call(torch.cumsum, ones, 0), start - 1)


@imports("Pad")
def _pad(op: Operator) -> Value:
    mode = PADS.get(op.attr("mode", "constant"))
    pads = list(op.attr("pads")) if op.opset < 11 else op.numbers(1)
    value = op.attr("value", 0.0) if op.opset < 11 else op.constant(2).item() if op.has(2) else 0.0
    rank = op.rank(0)
    axes = op.numbers(3) if op.has(3) else list(range(rank))
    if mode is None or len(pads) != 2 * len(axes):
        raise op.fault(f"mode = {op.attr('mode')!r:.40} with pads {pads} is not imported")
    around: list[list[Any]] = [[0, 0] for _ in range(rank)]
    for n, axis in enumerate(axes):
        around[op.axis(int(axis), rank)] = [pads[n], pads[n + len(axes)]]
    while around and all(_is(size, 0) for size in around[0]):
        around.pop(0)
    if not around:
        return op.tensor(0)
    if mode != "constant" and len(around) > rank - 2 and not (rank in (2, 3) and len(around) == 1):
        raise op.fault(f"mode = {mode} of the first two axes is not imported")
    flat = tuple(size for pair in reversed(around) for size in pair)
    more = {"value": value} if mode == "constant" else {}
    return op.call(functional.pad, op.tensor(0), flat, mode=mode, **more)


@imports("DepthToSpace")
def _depth_to_space(op: Operator) -> Value:
    block, x = op.attr("blocksize"), op.tensor(0)
    if op.attr("mode", "DCR") == "CRD":
        return op.call(functional.pixel_shuffle, x, block)
    parts = op.method("permute", op.method("unflatten", x, 1, (block, block, -1)), (0, 3, 4, 1, 5, 2))
    return op.method("flatten", op.method("flatten", parts, 4, 5), 2, 3)


@imports("SpaceToDepth")
def _space_to_depth(op: Operator) -> Value:
    block = op.attr("blocksize")
    parts = op.method("unflatten", op.method("unflatten", op.tensor(0), 3, (-1, block)), 2, (-1, block))
    return op.method("flatten", op.method("permute", parts, (0, 3, 5, 1, 2, 4)), 1, 3)


@imports("Resize", "Upsample")
def _resize(op: Operator) -> Value:
    mode = op.attr("mode", "nearest")
    op.refuse(antialias=0, exclude_outside=0, keep_aspect_ratio_policy="stretch", cubic_coeff_a=-0.75)
    rank = op.rank(0)
    if "axes" in op.attributes or not 3 <= rank <= 5:
        raise op.fault("of axes, or of other than three to five dimensions, it is not imported")
    place = 1 if op.kind == "Upsample" or op.opset < 11 else 2
    scales = None
    if op.kind == "Upsample" and op.opset < 9:
        scales = list(op.attr("scales"))
    elif op.has(place) and (not op.is_constant(place) or op.constant(place).numel()):
        scales = op.numbers(place)
    sizes = op.numbers(3) if scales is None and op.has(3) else None
    if scales is None and sizes is None:
        raise op.fault("it has neither scales nor sizes")
    whole = scales is not None and all(not isinstance(s, fx.Node) and float(s).is_integer() for s in scales)
    kind, corners = _interpolation(op, mode, rank, whole and max(scales or [0]) <= 2, whole)
    options: dict[str, Any] = {"mode": kind} | ({} if kind == "nearest" else {"align_corners": corners})
    if sizes is not None:
        known = op.sizes(0) or [None] * rank
        kept = all(isinstance(s, fx.Node) or k in (None, s) for s, k in zip(sizes[:2], known[:2], strict=True))
        if not kept:
            raise op.fault("of samples or channels it is not imported")
        return op.call(functional.interpolate, op.tensor(0), size=tuple(sizes[2:]), **options)
    if scales is None or any(not _is(scale, 1) for scale in scales[:2]):
        raise op.fault("of samples or channels it is not imported")
    return op.call(functional.interpolate, op.tensor(0), scale_factor=tuple(scales[2:]), **options)


def _interpolation(op: Operator, mode: str, rank: int, doubled: bool, whole: bool) -> tuple[str, bool]:
    """The mode of torch that computes the same, and whether corners are aligned."""
    old = op.kind == "Upsample" or op.opset < 11
    where = "asymmetric" if old else op.attr("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        rounding = "floor" if old else op.attr("nearest_mode", "round_prefer_floor")
        floored = where == "asymmetric" and rounding == "floor"
        same = (where == "asymmetric" and rounding == "round_prefer_floor" and doubled) or (
            where in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer") and whole
        )
        if floored or same:
            return "nearest", False
    kinds = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    kind = kinds.get((mode, rank))
    if kind is not None and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return kind, where == "align_corners"
    rounding = op.attr("nearest_mode", "round_prefer_floor")
    raise op.fault(f"mode = {mode!r:.20} with {where!r:.40} and {rounding!r:.40} is not imported")


def _is(value: Any, number: int) -> bool:
    return not isinstance(value, fx.Node) and value == number

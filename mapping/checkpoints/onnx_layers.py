"""Operators of ONNX with weights: products and convolutions. With constant weights they are layers of torch.nn."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from .builder import convolution, linear
from .onnx_operator import Operator, Value, imports

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def layer_name(op: Operator, index: int = 1) -> str:
    """What a layer is called: as in the network that was exported, where the names of weights tell, or as its node."""
    weight = op.input_name(index)
    if weight.endswith(".weight") and "::" not in weight:
        return weight.removesuffix(".weight")
    parts = [part for part in op.name.split("/") if part]
    if len(parts) > 1 and parts[-1].split("_")[0] == op.kind:
        parts.pop()
    return ".".join(parts) or op.kind


def is_weight(value: Any, dims: int | None = None) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and dims in (None, value.ndim)


def linear_call(op: Operator, key: Any, name: str, weight: torch.Tensor, bias: torch.Tensor | None, x: fx.Node) -> Any:
    """A call of a linear layer with a weight (outputs, inputs)."""
    weight = weight.contiguous()
    node = op.builder.layer(name, ("linear", *key), partial(linear, weight, bias), x)
    if bias is None:
        op.importer.bare[node] = (key, name, weight, x)
    return node


@imports("MatMul")
def _matmul(op: Operator) -> Value:
    if is_weight(op.inputs[1], 2) and isinstance(op.inputs[0], fx.Node) and op.rank(0) > 0:
        weight = op.constant(1)
        return linear_call(op, (op.input_name(1), "turned", ""), layer_name(op), weight.t(), None, op.tensor(0))
    return op.call(torch.matmul, op.tensor(0), op.tensor(1))


def with_bias(op: Operator) -> Value:
    """A sum of a linear layer that has no bias with a constant vector, as a layer with that bias; None for others."""
    for one, other in ((0, 1), (1, 0)):
        node, bias = op.inputs[one], op.inputs[other]
        if not (isinstance(node, fx.Node) and node in op.importer.bare and is_weight(bias)):
            continue
        key, name, weight, x = op.importer.bare[node]
        outputs = weight.shape[0]
        if op.importer.users.get(op.input_name(one)) == 1 and bias.shape == (outputs,):
            op.builder.forget(node)
            return linear_call(op, (*key[:2], op.input_name(other)), name, weight, bias, x)
    return None


@imports("Gemm")
def _gemm(op: Operator) -> Value:
    alpha, beta = op.attr("alpha", 1.0), op.attr("beta", 1.0)
    turned = bool(op.attr("transB", 0))
    x = op.tensor(0)
    x = op.method("transpose", x, 0, 1) if op.attr("transA", 0) else x
    bias = op.inputs[2] if op.has(2) else None
    if is_weight(op.inputs[1], 2) and (bias is None or is_weight(bias)):
        weight = op.constant(1) if turned else op.constant(1).t()
        flat = None if bias is None else bias.reshape(-1) if bias.numel() == max(bias.shape, default=1) else None
        if bias is None or (flat is not None and len(flat) in (1, len(weight)) and bias.shape[-1:] == flat.shape):
            flat = None if flat is None or beta == 0 else (beta * flat).expand(len(weight)).contiguous()
            weight = weight if alpha == 1 else alpha * weight
            key = (op.input_name(1), f"{turned} {alpha} {beta}", op.input_name(2) if flat is not None else "")
            return linear_call(op, key, layer_name(op), weight, flat, x)
    other = op.tensor(1)
    found = op.call(torch.matmul, x, op.method("transpose", other, 0, 1) if turned else other)
    found = found if alpha == 1 else op.call(torch.mul, found, alpha)
    if bias is None or beta == 0:
        return found
    added = op.tensor(2)
    return op.call(torch.add, found, added if beta == 1 else op.call(torch.mul, added, beta))


@imports("Conv")
def _conv(op: Operator) -> Value:
    weight = op.inputs[1]
    dims = op.rank(1) - 2
    kernel, stride, dilation = _window(op, dims)
    x, padding = padded(op, op.tensor(0), kernel, stride, dilation)
    groups = op.attr("group", 1)
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias = op.inputs[2] if op.has(2) else None
    if is_weight(weight, dims + 2) and (bias is None or is_weight(bias, 1)):
        key = ("conv", op.input_name(1), op.input_name(2) if op.has(2) else "", str(options))
        return op.builder.layer(layer_name(op), key, partial(convolution, weight, bias, **options), x)
    added = op.tensor(2) if op.has(2) else None
    return op.call(CONVOLUTIONS[dims - 1], x, op.tensor(1), added, **{k: _tuple(v) for k, v in options.items()})


@imports("ConvTranspose")
def _conv_transpose(op: Operator) -> Value:
    weight = op.inputs[1]
    dims = op.rank(1) - 2
    _, stride, dilation = _window(op, dims)
    if "output_shape" in op.attributes or op.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise op.fault("output_shape and auto_pad are not imported; export it with pads")
    pads = list(op.attr("pads", [0] * 2 * dims))
    begins, ends = pads[:dims], pads[dims:]
    extra = list(op.attr("output_padding", [0] * dims))
    # torch takes the same off both ends: what more is to be taken off the end is less of its output padding, or is cut
    extra = [more - (end - begin) for more, begin, end in zip(extra, begins, ends, strict=True)]
    cut = [max(0, -more) for more in extra]
    extra = [max(0, more) for more in extra]
    if any(more >= max(s, d) for more, s, d in zip(extra, stride, dilation, strict=True)):
        raise op.fault(f"pads = {pads} with output_padding = {op.attr('output_padding', [0] * dims)} are not imported")
    options: dict[str, Any] = {
        "stride": stride,
        "padding": begins,
        "dilation": dilation,
        "groups": op.attr("group", 1),
        "output_padding": extra,
    }
    bias = op.inputs[2] if op.has(2) else None
    if is_weight(weight, dims + 2) and (bias is None or is_weight(bias, 1)):
        key = ("transposed", op.input_name(1), op.input_name(2) if op.has(2) else "", str(options))
        make = partial(convolution, weight, bias, transposed=True, **options)
        found = op.builder.layer(layer_name(op), key, make, op.tensor(0))
    else:
        added = op.tensor(2) if op.has(2) else None
        plain = {key: _tuple(value) for key, value in options.items()}
        found = op.call(TRANSPOSED[dims - 1], op.tensor(0), op.tensor(1), added, **plain)
    if any(cut):
        index = (slice(None), slice(None), *(slice(None, -n if n else None) for n in cut))
        return op.call(operator.getitem, found, index)
    return found


def _window(op: Operator, dims: int) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and dilation."""
    kernel = list(op.attr("kernel_shape", [size or 0 for size in op.sizes(1)[2:]]))
    if dims not in (1, 2, 3) or len(kernel) != dims:
        raise op.fault(f"over {dims} dimensions it is not imported")
    return kernel, list(op.attr("strides", [1] * dims)), list(op.attr("dilations", [1] * dims))


def padded(
    op: Operator, x: fx.Node, kernel: list[int], stride: list[int], dilation: list[int], value: float = 0.0
) -> tuple[fx.Node, list[int]]:
    """The input with what padding a layer cannot do itself, and the rest, which it does: the same at both ends."""
    dims = len(kernel)
    pads = list(op.attr("pads", [0] * 2 * dims))
    automatic = op.attr("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = [0] * 2 * dims
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        sizes = op.sizes(0)[2:] or [None] * dims
        totals = []
        for k, s, d, size in zip(kernel, stride, dilation, sizes, strict=True):
            if s != 1 and size is None:
                raise op.fault(f"auto_pad = {automatic} of an input whose size is not known is not imported")
            outputs = 1 if size is None else -(-size // s)
            totals.append(d * (k - 1) if s == 1 else max(0, (outputs - 1) * s + d * (k - 1) + 1 - (size or 0)))
        less = [total // 2 for total in totals]
        more = [total - half for total, half in zip(totals, less, strict=True)]
        pads = less + more if automatic == "SAME_UPPER" else more + less
    elif automatic != "NOTSET":
        raise op.fault(f"auto_pad = {automatic!r:.40} is not imported")
    if min(pads) < 0:
        raise op.fault(f"pads = {pads} must not be negative")
    if pads[:dims] == pads[dims:]:
        return x, pads[:dims]
    pairs = [n for pair in reversed(list(zip(pads[:dims], pads[dims:], strict=True))) for n in pair]
    return op.call(functional.pad, x, tuple(pairs), mode="constant", value=value), [0] * dims


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

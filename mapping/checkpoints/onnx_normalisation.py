"""Normalisation, pooling and attention of ONNX."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional

from .builder import batch_norm
from .onnx_layers import is_weight, layer_name, padded
from .onnx_operator import Operator, Value, imports

MAX_POOLS = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
MEAN_POOLS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


@imports("BatchNormalization")
def _batch_norm(op: Operator) -> Value:
    op.refuse(training_mode=0, spatial=1)
    if not all(is_weight(op.inputs[n], 1) for n in range(1, 5)):
        raise op.fault("its scale, bias, mean and variance must be constant")
    weight, bias, mean, variance = (op.constant(n) for n in range(1, 5))
    rank, eps = op.rank(0), op.attr("epsilon", 1e-5)
    if not 2 <= rank <= 5:
        raise op.fault(f"of {rank} dimensions it is not imported")
    key = ("batch norm", *(op.input_name(n) for n in range(1, 5)), rank, eps)
    make = partial(batch_norm, max(rank - 2, 1), weight, bias, mean, variance, eps)
    return op.builder.layer(layer_name(op), key, make, op.tensor(0))


@imports("InstanceNormalization")
def _instance_norm(op: Operator) -> Value:
    weight, bias = op.tensor(1), op.tensor(2)
    eps = op.attr("epsilon", 1e-5)
    return op.call(functional.instance_norm, op.tensor(0), weight=weight, bias=bias, eps=eps)


@imports("LayerNormalization")
def _layer_norm(op: Operator) -> Value:
    axis = op.axis(op.attr("axis", -1), op.rank(0))
    shape = tuple(op.constant(1, "scale").shape)
    if len(shape) != op.rank(0) - axis:
        raise op.fault(f"a scale of shape {shape} at axis {axis} is not imported")
    bias = op.tensor(2) if op.has(2) else None
    return op.call(functional.layer_norm, op.tensor(0), shape, op.tensor(1), bias, op.attr("epsilon", 1e-5))


@imports("GroupNormalization")
def _group_norm(op: Operator) -> Value:
    if op.opset < 21:
        raise op.fault("before version 21 of the operators it is not imported")
    return op.call(
        functional.group_norm,
        op.tensor(0),
        op.attr("num_groups"),
        op.tensor(1),
        op.tensor(2),
        op.attr("epsilon", 1e-5),
    )


@imports("LpNormalization")
def _lp_norm(op: Operator) -> Value:
    x, axis = op.tensor(0), op.attr("axis", -1)
    return op.call(torch.div, x, op.method("norm", x, op.attr("p", 2), (axis,), True))


@imports("LRN")
def _local_response(op: Operator) -> Value:
    size, alpha, beta = op.attr("size"), op.attr("alpha", 1e-4), op.attr("beta", 0.75)
    if size % 2 == 0:
        raise op.fault(f"size = {size} must be odd")
    return op.call(functional.local_response_norm, op.tensor(0), size, alpha, beta, op.attr("bias", 1.0))


@imports("GlobalAveragePool")
def _global_mean(op: Operator) -> Value:
    return op.method("mean", op.tensor(0), tuple(range(2, op.rank(0))), keepdim=True)


@imports("GlobalMaxPool")
def _global_max(op: Operator) -> Value:
    return op.method("amax", op.tensor(0), tuple(range(2, op.rank(0))), keepdim=True)


@imports("MaxPool")
def _max_pool(op: Operator) -> Value:
    op.refuse(storage_order=0)
    if len(op.outputs) > 1 and op.outputs[1] and op.importer.users.get(op.outputs[1]):
        raise op.fault("its output of indices is not imported")
    kernel = list(op.attr("kernel_shape"))
    dims = len(kernel)
    stride, dilation = list(op.attr("strides", [1] * dims)), list(op.attr("dilations", [1] * dims))
    x, padding = padded(op, op.tensor(0), kernel, stride, dilation, float("-inf"))
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):  # torch pads by half a kernel at most
        pairs = [n for p in reversed(padding) for n in (p, p)]
        x, padding = op.call(functional.pad, x, tuple(pairs), value=float("-inf")), [0] * dims
    ceil = bool(op.attr("ceil_mode", 0))
    return op.call(
        MAX_POOLS[dims - 1], x, tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), ceil_mode=ceil
    )


@imports("AveragePool")
def _mean_pool(op: Operator) -> Value:
    kernel = list(op.attr("kernel_shape"))
    dims = len(kernel)
    op.refuse(dilations=[1] * dims)
    stride, counted = list(op.attr("strides", [1] * dims)), bool(op.attr("count_include_pad", 0))
    before = op.tensor(0)
    x, padding = padded(op, before, kernel, stride, [1] * dims)
    ceil = bool(op.attr("ceil_mode", 0))
    if x is not before and not counted:
        raise op.fault("padding that differs at the two ends, and is not counted, is not imported")
    if x is not before and ceil:
        raise op.fault("padding that differs at the two ends, with ceil_mode, is not imported")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise op.fault("padding by more than half a kernel is not imported")
    return op.call(MEAN_POOLS[dims - 1], x, tuple(kernel), tuple(stride), tuple(padding), ceil, counted)


@imports("Attention")
def _attention(op: Operator) -> Value:
    if any(op.has(n) for n in range(4, len(op.inputs))) or any(op.rank(n) != 4 for n in range(3)):
        raise op.fault("other than of query, key, value and mask in four dimensions it is not imported")
    op.refuse(qk_matmul_output_mode=0, softcap=0.0)
    if any(name and op.importer.users.get(name) for name in op.outputs[1:]):
        raise op.fault("only its first output is imported")
    heads = [op.sizes(n)[1] for n in range(2)]
    options: dict[str, Any] = {} if "scale" not in op.attributes else {"scale": op.attr("scale")}
    if heads[0] != heads[1]:
        options["enable_gqa"] = True
    mask = op.tensor(3) if op.has(3) else None
    if mask is not None and op.attr("is_causal", 0):
        raise op.fault("is_causal with a mask is not imported")
    return op.call(
        functional.scaled_dot_product_attention,
        *(op.tensor(n) for n in range(3)),
        attn_mask=mask,
        is_causal=bool(op.attr("is_causal", 0)),
        **options,
    )

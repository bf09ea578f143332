"""Batch norm folded into the matrix layer before it: gamma (W x + b - mean) / sqrt(var + eps) + beta is one matrix."""

from __future__ import annotations

import itertools
from collections import Counter

import torch
from torch import fx, nn

from .layers import HANDLERS

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def foldable(model: nn.Module) -> dict[str, str]:
    """Names of matrix layers whose output goes into one batch norm and nowhere else, with the name of that batch norm.

    The graph of the model says so (torch.fx); a model that cannot be traced still tells by its `nn.Sequential` parts.
    Both modules must be used exactly once, and the batch norm must have running statistics.
    """
    modules = dict(model.named_modules())
    try:
        pairs = _traced(model, modules)
    except Exception:  # a model may do anything while it is traced: then its containers are all there is to go by
        pairs = _sequential(model)
    return {
        layer: norm
        for layer, norm in pairs.items()
        if type(modules[layer]) in HANDLERS
        and isinstance(modules[norm], BATCH_NORMS)
        and modules[norm].running_mean is not None
    }


def _traced(model: nn.Module, modules: dict[str, nn.Module]) -> dict[str, str]:
    graph = fx.Tracer().trace(model)
    names = {id(module): name for name, module in modules.items()}
    called = {
        node: names[id(model.get_submodule(str(node.target)))] for node in graph.nodes if node.op == "call_module"
    }
    uses = Counter(called.values())
    pairs = {}
    for node, name in called.items():
        source = node.args[0] if node.args else None
        alone = isinstance(source, fx.Node) and source in called and len(source.users) == 1
        if alone and uses[called[source]] == uses[name] == 1:
            pairs[called[source]] = name
    return pairs


def _sequential(model: nn.Module) -> dict[str, str]:
    seen = Counter(id(child) for _, child in model.named_modules(remove_duplicate=False))
    pairs = {}
    for prefix, container in model.named_modules():
        if type(container) is nn.Sequential:
            children = [(f"{prefix}.{name}".lstrip("."), child) for name, child in container.named_children()]
            for (name, layer), (norm_name, norm) in itertools.pairwise(children):
                if seen[id(layer)] == seen[id(norm)] == 1:
                    pairs[name] = norm_name
    return pairs


def folded(layer: nn.Module, norm: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a matrix layer with the batch norm behind it folded in (computed in float64)."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    if norm is None:
        return weight, bias if isinstance(bias, torch.Tensor) else None
    assert isinstance(norm, BATCH_NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.running_mean.double()
    if isinstance(bias, torch.Tensor):
        shift = shift + bias.double()
    new_bias = shift * factor
    if norm.bias is not None:
        new_bias = new_bias + norm.bias.double()
    new_weight = weight.double() * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    return new_weight.float(), new_bias.float()

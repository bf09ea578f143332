"""Batch norm folded into the matrix layer before it, gamma (W x + b - mean) / sqrt(var + eps) + beta, or behind it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from .layers import HANDLERS

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FOLLOWS_NONE = "batch norm that follows no matrix layer"


@dataclass
class Folds:
    """Names of the batch norms to fold, by the matrix layer: those `behind` it and those `before` it; and why others
    stay digital, by their names."""

    behind: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def foldable(model: nn.Module) -> Folds:
    """The batch norms that a matrix layer can take in exactly.

    Such a batch norm has running statistics, and either takes the output of the layer, which goes nowhere else, or goes
    into a convolution and nowhere else. There it must not meet padding with zeros, which it would have to shift. Both
    modules must be used exactly once. The graph of the model says so (torch.fx); a model that cannot be traced still
    tells by its `nn.Sequential` parts.
    """
    modules = dict(model.named_modules())
    folds = Folds()
    try:
        pairs = _traced(model, modules, folds.reasons)
    except Exception:  # a model may do anything while it is traced: then its containers are all there is to go by
        pairs = _sequential(model)
    steady = {
        name for name, module in modules.items() if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    }
    for first, second in pairs:
        if type(modules[first]) in HANDLERS and second in steady:
            folds.behind[first] = second
    for first, second in pairs:
        if first in steady and first not in folds.behind.values() and _shiftable(modules[second]):
            folds.before[second] = first
    return folds


def _shiftable(layer: nn.Module) -> bool:
    """Whether a shift of all inputs of a layer, channel by channel, is a shift of its outputs."""
    if type(layer) not in CONVOLUTIONS:
        return False
    assert isinstance(layer, CONVOLUTIONS)
    padded = layer.padding != "valid" if isinstance(layer.padding, str) else any(layer.padding)
    return layer.padding_mode != "zeros" or not padded


def _traced(model: nn.Module, modules: dict[str, nn.Module], reasons: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs of modules, each used once, of which the first one's output goes into the second and nowhere else."""
    graph = fx.Tracer().trace(model)
    names = {id(module): name for name, module in modules.items()}
    called = {
        node: names[id(model.get_submodule(str(node.target)))] for node in graph.nodes if node.op == "call_module"
    }
    uses = Counter(called.values())
    pairs = []
    for node, name in called.items():
        source = node.args[0] if node.args else None
        first = called.get(source) if isinstance(source, fx.Node) else None
        alone = isinstance(source, fx.Node) and len(source.users) == 1
        if first is not None and alone and uses[first] == uses[name] == 1:
            pairs.append((first, name))
        elif isinstance(modules[name], BATCH_NORMS):
            shared = first is not None and type(modules[first]) in HANDLERS
            reasons[name] = f"batch norm of {first}, which is used elsewhere too" if shared else FOLLOWS_NONE
    return pairs


def _sequential(model: nn.Module) -> list[tuple[str, str]]:
    seen = Counter(id(child) for _, child in model.named_modules(remove_duplicate=False))
    pairs = []
    for prefix, container in model.named_modules():
        if type(container) is nn.Sequential:
            children = [(f"{prefix}.{name}".lstrip("."), child) for name, child in container.named_children()]
            for (name, first), (next_name, second) in itertools.pairwise(children):
                if seen[id(first)] == seen[id(second)] == 1:
                    pairs.append((name, next_name))
    return pairs


def _affine(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and shift of a batch norm, (channels,) in float64."""
    assert isinstance(norm, BATCH_NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.running_mean.double() * factor
    return factor, shift if norm.bias is None else shift + norm.bias.double()


def folded(
    layer: nn.Module, behind: nn.Module | None, before: nn.Module | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a matrix layer with the batch norms behind and before it folded in (computed in float64)."""
    assert isinstance(layer.weight, torch.Tensor)
    given = layer.bias if isinstance(layer.bias, torch.Tensor) else None
    if behind is None and before is None:
        return layer.weight, given
    weight = layer.weight.double()
    bias = weight.new_zeros(len(weight)) if given is None else given.double()
    over = (1,) * (weight.ndim - 2)  # the kernel
    if before is not None:
        assert isinstance(layer, CONVOLUTIONS)
        inputs = layer.groups, 1, layer.in_channels // layer.groups
        factor, shift = (
            v.reshape(inputs).expand(-1, len(weight) // layer.groups, -1).reshape(*weight.shape[:2], *over)
            for v in _affine(before)
        )
        bias = bias + (weight * shift).flatten(1).sum(dim=1)
        weight = weight * factor
    if behind is not None:
        factor, shift = _affine(behind)
        bias = bias * factor + shift
        weight = weight * factor.reshape(-1, 1, *over)
    return weight.float(), bias.float()

"""Batch norm folded into the matrix layer before it, gamma (W x + b - mean) / sqrt(var + eps) + beta, or behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from .hooks import hooked
from .kinds.inherited import computes_as
from .kinds.known import handler_of, leaf_of
from .kinds.leaf import Leaf, Matrices, as_matrices, lowered
from .modules import copied, intercept_all

BY_DIMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BATCH_NORMS = (*BY_DIMS, nn.SyncBatchNorm)
FOLLOWS_NONE = "batch norm that follows no matrix layer"


UNTRACED = "batch norm of a model that torch.fx cannot trace, so that nothing shows what else reads its input"
HOOKED = "batch norm with hooks, or of a layer or part with hooks"


@dataclass
class Folds:
    """Names of the batch norms to fold, by the matrix layer: those `behind` it and those `before` it; why others stay
    digital, by their names; and the modules whose tensors the model takes itself, past their forward."""

    behind: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)


def foldable(model: nn.Module) -> Folds:
    """The batch norms that a matrix layer can take in exactly.

    Such a batch norm is torch's own, has running statistics, and either takes the output of the layer, which goes
    nowhere else, or goes into a convolution and nowhere else. There it must not meet padding with zeros, which it would
    have to shift. Both modules must be used exactly once, and no hook may see what goes from one to the other. The
    graph of the model says so (torch.fx); in a model that cannot be traced nothing is folded, as its code may do
    anything with the parts it holds. Where the code takes another way than when it was traced, `guard` notices.
    """
    modules = dict(model.named_modules())
    folds = Folds()
    norms = {name: module for name, module in modules.items() if isinstance(module, BATCH_NORMS)}
    try:
        pairs = _traced(model, modules, folds)
    except Exception:  # a model may do anything while it is traced
        folds.reasons = dict.fromkeys(norms, UNTRACED)
        return folds
    unsteady = {name: why for name, norm in norms.items() if (why := _unsteady(norm))}
    folds.reasons = unsteady | folds.reasons
    pairs = [(first, second) for first, second in pairs if not {first, second} & unsteady.keys()]
    for first, second in pairs:
        if _hooks_between(modules, first, second):
            folds.reasons |= dict.fromkeys({first, second} & norms.keys(), HOOKED)
        elif _takes(modules[first], modules[second]):
            folds.behind[first] = second
    for first, second in pairs:
        known = first in folds.behind.values() or folds.reasons.get(first) == HOOKED
        if not known and first in norms and _folds(modules[second]) and _fits(norms[first], modules[second], False):
            folds.before[second] = first
    return folds


def _unsteady(norm: nn.Module) -> str | None:
    """Why a batch norm is none that multiplies and adds fixed numbers."""
    if (kind := computes_as(type(norm), BATCH_NORMS)) is None:
        return f"a {type(norm).__name__}, which may compute something else than batch norm"
    if any(callable(getattr(type(norm), name, None)) for name in vars(norm)):
        return "batch norm with a forward of its own"
    if kind.forward.__globals__["__name__"] != nn.BatchNorm1d.__module__:
        return "batch norm with a forward of its own"
    if norm.running_mean is None or norm.running_var is None or norm.training:
        return "batch norm that normalises by the batch"
    return None


def _hooks_between(modules: dict[str, nn.Module], first: str, second: str) -> bool:
    """Whether hooks of two modules, or of parts of the model that hold only one of them, see what goes between."""
    inside = [{name.rsplit(".", k)[0] for k in range(name.count(".") + 1)} for name in (first, second)]
    return any(hooked(modules[name]) for name in inside[0] ^ inside[1])


def _takes(layer: nn.Module, norm: nn.Module) -> bool:
    return _folds(layer) and isinstance(norm, BATCH_NORMS) and _fits(norm, layer, True)


def _folds(layer: nn.Module) -> bool:
    """Whether a layer is of a kind that batch norms fold into."""
    leaf = leaf_of(layer)
    return leaf is not None and leaf.folds


def _fits(norm: nn.Module, layer: nn.Module, behind: bool) -> bool:
    """Whether the channels of a batch norm are those of the layer, and in front of it may be shifted."""
    kind = leaf_of(layer)
    assert kind is not None
    try:
        leaf = kind.of(layer)
    except Exception:  # attributes that were set to what the constructor never makes of them: it stays digital
        return False
    if not behind and not leaf.shiftable:
        return False
    channels = leaf.out_features if behind else leaf.in_features
    fitting = BY_DIMS[max(leaf.dims, 1) - 1], nn.SyncBatchNorm
    return computes_as(type(norm), BATCH_NORMS) in fitting and bool(norm.num_features == channels)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, BATCH_NORMS) or handler_of(m) is not None
        return whole or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, modules: dict[str, nn.Module], folds: Folds) -> list[tuple[str, str]]:
    """Pairs of modules, each used once, of which the first one's output goes into the second and nowhere else."""
    if "forward" in vars(model):  # torch.fx would take that of the class
        raise ValueError("forward is overridden on the model")
    twin = copied(model, model.parameters())  # tracing leaves its stand-ins for tensors in whatever the model keeps
    names = {id(module): name for name, module in twin.named_modules()}
    direct: set[str] = set()  # layers whose forward the model calls past their hooks, which watch over folds
    plain = [m for m in twin.modules() if leaf_of(m) is not None and "forward" not in vars(m)]
    intercept_all(twin, ((m, partial(_as_leaf, m, names[id(m)], direct)) for m in plain))
    with torch.random.fork_rng(devices=[]):
        graph = _Tracer().trace(twin)
    called = {node: names[id(twin.get_submodule(str(node.target)))] for node in graph.nodes if node.op == "call_module"}
    uses = Counter(called.values())
    for node in graph.nodes:
        owner = str(node.target).rpartition(".")[0]
        if owner and node.op == "get_attr" and not all(_of_shape(user) for user in node.users):
            folds.taken.add(names[id(twin.get_submodule(owner))])
    pairs = []
    for node, name in called.items():
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        first = called.get(source) if isinstance(source, fx.Node) else None
        alone = isinstance(source, fx.Node) and sum(not _of_shape(user) for user in source.users) == 1
        if (
            first is not None
            and alone
            and uses[first] == uses[name] == 1
            and not {first, name} & (folds.taken | direct)
        ):
            pairs.append((first, name))
        elif isinstance(modules[name], BATCH_NORMS):
            shared = first is not None and _folds(modules[first])
            folds.reasons[name] = f"batch norm of {first}, which is used elsewhere too" if shared else FOLLOWS_NONE
    return pairs


def _as_leaf(module: nn.Module, name: str, direct: set[str], forward: Any) -> Callable[..., Any]:
    """In the place of a layer's forward in a trace: a call of the layer."""

    def instead(*args: Any, **kwargs: Any) -> Any:
        direct.add(name)
        return module(*args, **kwargs)

    return instead


def _of_shape(node: fx.Node) -> bool:
    """Whether a node of a graph asks a tensor for its shape, type or device alone."""
    names = ("shape", "dtype", "device", "ndim", "size", "dim", "numel")
    return (node.args[1] if node.target is getattr else node.target) in names


def _affine(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and shift of a batch norm, (channels,) in float64."""
    assert isinstance(norm, BATCH_NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -norm.running_mean.double() * factor
    return factor.cpu(), (shift if norm.bias is None else shift + norm.bias.double()).cpu()


@torch.no_grad()
def folded(leaf: Leaf, tensors: dict[str, Any], behind: nn.Module | None, before: nn.Module | None = None) -> Matrices:
    """The matrices of a layer with the batch norms behind and before it folded in (computed in float64).

    Args:
        leaf: its geometry.
        tensors: its weight and bias, if it has one.
        behind, before: the batch norms.

    Raises:
        ValueError: see `lowered`.
    """
    weight, given = tensors["weight"], tensors.get("bias")
    plain = lowered(leaf, weight, given)
    if behind is None and before is None:
        return plain
    w = leaf.matrices(weight.detach().to("cpu", torch.float64))
    bias = leaf.columns(w.new_zeros(leaf.out_features) if given is None else given.detach().to("cpu", torch.float64))
    if before is not None:
        groups, rows, _ = w.shape
        factor, shift = (v.reshape(groups, 1, -1) for v in _affine(before))
        factor, shift = (v.expand(-1, rows // v.shape[2], -1).reshape(groups, rows, 1) for v in (factor, shift))
        bias = bias + (w * shift).sum(dim=1)
        w = w * factor
    if behind is not None:
        factor, shift = (leaf.columns(v) for v in _affine(behind))
        bias = bias * factor + shift
        w = w * factor[:, None]
    return as_matrices(w, bias)

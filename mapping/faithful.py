"""Whether a layer would do on tiles what its module does, and the weights that it uses in evaluation.

A module may do more than its type says: hooks, a `forward` of its own, weights that are computed before each use. What
has no exact form on tiles stays digital, with the reason.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from .errors import MappingError
from .hooks import overridden, settled
from .kinds.handler import Handler
from .kinds.inherited import above
from .kinds.known import handler_of, kind_of, leaf_of
from .layers import TileLayer

MADE = re.compile("_(orig|mask|g|v|u)$")  # of the tensors that pruning and norms of weights put in the place of one
TAKEN = ("name", "aliases", "origin", "spec", "session", "samples_along", "matrix")  # attributes of a TileLayer


def unfaithful(module: nn.Module) -> str | None:
    """Why a module that a handler takes stays digital; None if its form on tiles does the same."""
    handler = handler_of(module)
    assert handler is not None
    if why := _own_code(module, handler):
        return why
    try:
        first, second = tensors_of(module), tensors_of(module)
    except Exception as error:  # what computes a weight may be anybody's code
        return f"its weights cannot be computed ({' '.join(str(error).split())[:100]})"
    for name, value in first.items():
        if not isinstance(value, torch.Tensor) or type(value) not in (torch.Tensor, nn.Parameter):
            return f"its {name} is a {type(value).__name__}"
        if value.is_complex():
            return f"its {name} is complex"
        if not value.is_floating_point() or value.layout is not torch.strided or value.is_quantized:
            return f"its {name} is {value.dtype}, {value.layout}: tiles take dense floating-point numbers"
        if value is not second[name] and not torch.equal(value, second[name]) and not value.isnan().any():
            return f"its {name} is drawn anew at each use"
    return _odd_geometry(module, first)


def _own_code(module: nn.Module, handler: type[Handler]) -> str | None:
    kind = kind_of(module)
    for name in overridden(module):
        return f"its {name} is overridden on the instance"
    for name in (*module._parameters, *module._buffers, *module._modules):
        made = MADE.sub("", name)
        if not name.startswith(("weight", "bias")) and not {name, made} & {"parametrizations", *handler.holds}:
            return f"it holds {name} of its own"
    for name in vars(module):
        if name in TAKEN or (hasattr(TileLayer, name) and not hasattr(kind, name)):
            return f"its attribute {name} has another meaning on tiles"
    base = above(kind, handler.types())
    for owner in kind.__mro__[: kind.__mro__.index(base)] if base else ():
        for name in vars(owner):
            if name in TAKEN or (hasattr(TileLayer, name) and not hasattr(base, name)):
                return f"its {name} has another meaning on tiles"
    code = getattr(kind.forward, "__globals__", {}).get("__name__")
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    if code != owner.__module__:
        return f"forward of {kind.__name__} was replaced by one of {code}"
    return None


def tensors_of(module: nn.Module) -> dict[str, Any]:
    """The weights and biases that the forward of a module that a handler takes uses, by name."""
    handler = handler_of(module)
    assert handler is not None
    with settled(module), torch.no_grad():
        found = handler.tensors(module)
    return {name: value for name, value in found.items() if value is not None}


def _odd_geometry(module: nn.Module, tensors: dict[str, Any]) -> str | None:
    """Attributes that do not say what the forward of a leaf does."""
    kind = leaf_of(module)
    if kind is None:
        return None
    try:
        leaf = kind.of(module)
    except ValueError as error:
        return " ".join(str(error).split())[:200]
    except Exception as error:  # attributes that were set to what the constructor never makes of them
        return f"its attributes are not those of its constructor ({' '.join(str(error).split())[:100]})"
    if not isinstance(leaf, kind):
        return f"{kind.__name__}.of gave a {type(leaf).__name__}"
    shapes = {"weight": leaf.weight_shape, "bias": (leaf.out_features,)}
    if "weight" not in tensors or not tensors.keys() <= shapes.keys():
        return f"{kind.__name__}.tensors gave {', '.join(tensors) or 'nothing'}: it must be weight and bias"
    for name, value in tensors.items():
        if tuple(value.shape) != shapes[name]:
            return f"its {name} has the shape {tuple(value.shape)}, its attributes say {shapes[name]}"
    return None


def check_model(model: nn.Module, *, lazy: bool) -> None:
    """Refuse what cannot be mapped as a whole.

    Args:
        lazy: whether modules may have no shapes yet, as there are inputs that give them.

    Raises:
        MappingError: made by `mho.trainable`, compiled, weights without values, or hooks on all modules.
    """
    if not isinstance(model, nn.Module):
        raise MappingError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise MappingError(
            "model is a TorchScript module, whose layers can't be replaced; map the model it was made of"
        )
    for name, module in model.named_modules():
        if getattr(module, "fresh_each_step", False):
            raise MappingError(
                "model is what mho.trainable gave, whose layers are on chips already; "
                "give the network that it was made of, which has the same parameters"
            )
        if "_orig_mod" in module._modules:  # OptimizedModule of torch, which takes seconds to import
            part = f"model.{name}" if name else "model"
            raise MappingError(
                f"{part} was compiled by torch.compile; map the module that it was made of ({part}._orig_mod)"
            )
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(value):
            if lazy:
                continue
            owner, _, leaf = name.rpartition(".")
            raise MappingError(
                f"layer {owner!r}: {leaf} has no shape yet (a lazy module); run the model once before mapping, or pass "
                "calibrate= or check="
            )
        if value.is_meta:
            raise MappingError(
                f"model: {name} is on the device 'meta' and has no values; load weights into it "
                "(to_empty, or load_state_dict with assign=True) before mapping"
            )
    everywhere = nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        raise MappingError(
            "torch has forward hooks on all modules (register_module_forward_hook), which would see other types on the "
            "chip; remove them before mapping"
        )

"""Whether a layer would do on tiles what its module does, and the weights that it uses in evaluation.

A module may do more than its type says: hooks, a `forward` of its own, weights that are computed before each use. What
has no exact form on tiles stays digital, with the reason.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from .errors import MappingError
from .hooks import overridden, settled
from .layers import TileLayer
from .spec import HANDLERS

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
MAPPED = (*HANDLERS, *RECURRENT, *CELLS)
TAKEN = ("name", "aliases", "spec", "session", "samples_along", "matrix")  # attributes of a TileLayer


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The type of a module, without what torch's parametrisations make of it."""
    return parametrize.type_before_parametrizations(module)


def unfaithful(module: nn.Module) -> str | None:
    """Why a module of a mapped type stays digital; None if its form on tiles does the same."""
    kind = kind_of(module)
    if why := _own_code(module, kind):
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
        if not torch.equal(value, second[name]) and not value.isnan().any():
            return f"its {name} is drawn anew at each use"
    return _odd_geometry(module, first) if kind in HANDLERS else None


def _own_code(module: nn.Module, kind: type[nn.Module]) -> str | None:
    for name in overridden(module):
        return f"its {name} is overridden on the instance"
    for name in (*module._parameters, *module._buffers, *module._modules):
        if not name.startswith(("weight", "bias")) and name != "parametrizations":
            return f"it holds {name} of its own"
    for name in vars(module):
        if name in TAKEN or (hasattr(TileLayer, name) and not hasattr(kind, name)):
            return f"its attribute {name} has another meaning on tiles"
    code = getattr(kind.forward, "__globals__", {}).get("__name__")
    if code != kind.__module__:
        return f"forward of {kind.__name__} was replaced by one of {code}"
    return None


def tensors_of(module: nn.Module) -> dict[str, Any]:
    """The weights and biases that the forward of a mapped module uses, by name."""
    kind = kind_of(module)
    with settled(module), torch.no_grad():
        if kind in RECURRENT:  # as its forward takes them
            module._update_flat_weights()  # type: ignore[operator]
            found = dict(zip(module._flat_weights_names, module._flat_weights, strict=True))  # type: ignore[arg-type]
        else:
            cell = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            found = {name: getattr(module, name) for name in (cell if kind in CELLS else ("weight", "bias"))}
    return {name: value for name, value in found.items() if value is not None}


def _odd_geometry(module: nn.Module, tensors: dict[str, Any]) -> str | None:
    """Attributes that do not say what the forward of a linear or convolution layer does."""
    try:
        spec = HANDLERS[kind_of(module)](module)
    except Exception as error:  # attributes that were set to what the constructor never makes of them
        return f"its attributes are not those of its constructor ({' '.join(str(error).split())[:100]})"
    kernel = spec.kernel[3 - spec.dims :]
    shapes = {"weight": (spec.out_features, spec.in_features // spec.groups, *kernel), "bias": (spec.out_features,)}
    for name, value in tensors.items():
        if tuple(value.shape) != shapes[name]:
            return f"its {name} has the shape {tuple(value.shape)}, its attributes say {shapes[name]}"
    if spec.dims and module.padding_mode != "zeros":
        used = tuple(module._reversed_padding_repeated_twice)  # type: ignore[arg-type]
        if used != (spec.padding or (0,) * len(used)):
            return f"it pads by {used}, its attributes say {spec.padding}"
    return None


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be mapped as a whole.

    Raises:
        MappingError: compiled by TorchScript, weights without values, or hooks on all modules.
    """
    if not isinstance(model, nn.Module):
        raise MappingError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise MappingError(
            "model is a TorchScript module, whose layers can't be replaced; map the model it was made of"
        )
    if hasattr(model, "_orig_mod"):  # torch._dynamo's OptimizedModule, which importing would take seconds to name
        raise MappingError("model was compiled by torch.compile; map the module that it was made of (model._orig_mod)")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(value):
            owner, _, leaf = name.rpartition(".")
            raise MappingError(
                f"layer {owner!r}: {leaf} has no shape yet (a lazy module); run the model once before mapping"
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

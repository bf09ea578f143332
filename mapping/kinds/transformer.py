"""torch's transformers as plain data: modules made of others, with the attributes that their forward reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn import functional

_ENCODER_LAYER, _STACK = ("norm_first", "activation"), ("num_layers", "norm")
ATTRIBUTES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.ModuleList: (),
    nn.TransformerEncoderLayer: _ENCODER_LAYER,
    nn.TransformerDecoderLayer: _ENCODER_LAYER,
    nn.TransformerEncoder: (*_STACK, "mask_check", "enable_nested_tensor"),
    nn.TransformerDecoder: _STACK,
    nn.Transformer: ("d_model", "nhead", "batch_first"),
}
COMPOSITES = {kind.__name__: kind for kind in ATTRIBUTES}
ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """The attributes of a composite that are no modules.

    Raises:
        ValueError: one is no plain value, or the module holds tensors of its own.
    """
    if module._parameters or module._buffers:
        raise ValueError(f"{type(module).__name__} holds tensors of its own")
    found = {}
    for name in ATTRIBUTES[type(module)]:
        value = getattr(module, name)
        if isinstance(value, nn.Module):
            continue
        value = next((key for key, function in ACTIVATIONS.items() if value is function), value)
        if not (value is None or isinstance(value, (bool, int, str))):
            raise ValueError(f"{name} of {type(module).__name__} is {getattr(value, '__name__', type(value).__name__)}")
        found[name] = value
    return found


def composite(name: str, attributes: Mapping[str, Any], parts: Mapping[str, nn.Module]) -> nn.Module:
    """A module of the type called so, of these attributes and parts; its fused kernels are off.

    Raises:
        ValueError: other attributes than it has.
    """
    kind = COMPOSITES[name]
    if not attributes.keys() <= set(ATTRIBUTES[kind]):
        raise ValueError(f"{name} has no attributes {', '.join(attributes)}")
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for key, part in parts.items():
        made.add_module(key, part)
    for key, value in attributes.items():
        if key == "activation" and value not in ACTIVATIONS:
            raise ValueError(f"{name} has no activation {value!r}")
        vars(made)[key] = ACTIVATIONS[value] if key == "activation" else value
    plain(made, made)
    return made.eval()


def plain(module: nn.Module, like: nn.Module) -> None:
    """Turn the fused kernels of a transformer layer off, which take weights past the layers that hold them, and have
    it keep the activation of the module `like` in copies: torch's copy of a decoder layer forgets one that is a module.
    """
    if isinstance(module, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0
    elif isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = False
    elif isinstance(module, nn.TransformerDecoderLayer):
        own = module._modules.get("activation")
        if own is not None and isinstance(getattr(like, "activation", None), nn.Module):
            vars(module)["activation"] = own

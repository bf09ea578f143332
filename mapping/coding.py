"""More outputs than a layer needs, and a digital decoder behind them: redundancy that averages the noise of reads.

A read of a coded layer is a code word with noise, so one read does what several votes on the layer do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from scipy.linalg import hadamard
from torch import nn

from .errors import MappingError
from .hooks import hooks_of
from .modules import copied

Code = Literal["hadamard", "repetition"]


class Decoder(nn.Module):
    """Makes the outputs of a layer of the readings of its coded one.

    Attributes:
        readings, outputs: how many.
    """

    def __init__(self, readings: int, outputs: int) -> None:
        super().__init__()
        self.readings, self.outputs = readings, outputs

    def extra_repr(self) -> str:
        return f"{self.readings}, {self.outputs}"


class HadamardDecoder(Decoder):
    """The first coefficients of the Walsh-Hadamard transform of the readings, over their number n.

    The fast transform: log2(n) rounds of n additions, which `mho.schedule` counts as digital operations.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., readings) to (..., outputs)."""
        width = 1
        while width < self.readings:
            first, second = x.unflatten(-1, (self.readings // (2 * width), 2, width)).unbind(-2)
            x = torch.stack((first + second, first - second), dim=-2).flatten(-3)
            width *= 2
        return x[..., : self.outputs] / self.readings


class RepetitionDecoder(Decoder):
    """The mean over the readings of each output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., readings) to (..., outputs)."""
        return x.unflatten(-1, (self.readings // self.outputs, self.outputs)).mean(-2)


def coded(model: nn.Module, outputs: Mapping[str, int], *, code: Code = "hadamard") -> nn.Module:
    """A copy of a model whose named linear layers have more outputs, with a digital decoder behind each.

    A layer y = W x + b with m outputs becomes C W x + C b with n outputs, and a decoder that makes y of them:

    * `hadamard`: C is m columns of the Hadamard matrix of order n, and the decoder is C^T / n. Each reading is a sum of
      all outputs with signs, each output a mean over all readings. Readings r_k with noise of variance s_k^2 leave the
      variance (sum of s_k^2) / n^2 on each output. With noise of sigma relative to each reading (the paper's
      multiplicative noise) that is sigma^2 S / n, S being the sum of all y_i^2, as the r_k^2 sum to n S: where one
      logit a is far above others near 0, sigma a / sqrt(n) on all of them, instead of sigma a on that one.
    * `repetition`: each output is read by n / m columns, whose readings are averaged: sigma a / sqrt(n / m) on it.

    Without noise the model computes the same numbers within rounding. Errors of the layer's cells and converters are
    averaged too; those of its inputs are not. Words of -1 and 1 for classes are error-correcting output codes
    (Dietterich and Bakiri 1995, J. Artif. Intell. Res. 2:263); here the code is on the outputs of a trained layer, so
    that nothing need be trained again.

    Args:
        model: any module. It is not changed.
        outputs: by the name of a layer (`nn.Linear`), how many outputs it is to have: a power of two that is at least
            as large as its own for `hadamard`, a multiple of its own for `repetition`.
        code: of all these layers.

    Returns:
        The copy. A layer NAME is a sequence of NAME.coded, which tiles can do, and NAME.decoder, which is digital.
        `mho.noisy` puts noise between them. The noise of `mho.models` falls behind the decoder, so leave it at 0.

    Raises:
        MappingError: a layer that is not there, not linear or has hooks, a number of outputs that the code does not
            have, or an unknown code.

    Example:
        >>> wide = mho.coded(net, {"2": 8})
        >>> torch.allclose(wide(x), net(x), atol=1e-6)
        True
    """
    if not isinstance(model, nn.Module):
        raise MappingError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(outputs, Mapping):
        raise MappingError(f"outputs must say how many by the name of a layer, as {{'fc': 32}}, got {outputs!r}")
    if code not in CODES:
        raise MappingError(f"code must be one of {', '.join(CODES)}, got {code!r}")
    encode, decoder = CODES[code]
    made = copied(model)
    for module, there in zip(made.modules(), model.modules(), strict=True):
        module.training = there.training
    places: dict[int, list[str]] = {}  # a module may have several names
    for name, module in made.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for name, n in outputs.items():
        layer = _linear(made, name)
        parts = {
            "coded": _encoded(layer, encode(layer.out_features, n, name)),
            "decoder": decoder(n, layer.out_features),
        }
        replaced = nn.Sequential(OrderedDict(parts)).train(layer.training)
        if name == "":
            return replaced
        for place in places[id(layer)]:
            parent, _, last = place.rpartition(".")
            setattr(made.get_submodule(parent), last, replaced)
    return made


def _linear(model: nn.Module, name: str) -> nn.Linear:
    """The layer of this name."""
    try:
        found = model.get_submodule(name)
    except AttributeError:
        there = [other for other, module in model.named_modules() if type(module) is nn.Linear]
        raise MappingError(f"outputs: no layer {name!r}; linear layers are {', '.join(map(repr, there))}") from None
    if type(found) is not nn.Linear:
        raise MappingError(f"outputs: layer {name!r} must be a torch.nn.Linear, got {type(found).__name__}")
    if hooks_of(found) or "forward" in vars(found):
        raise MappingError(f"outputs: layer {name!r} has hooks or a forward of its own, which a coded layer would lose")
    return found


def _encoded(layer: nn.Linear, matrix: torch.Tensor) -> nn.Linear:
    """The layer with `matrix` (n, m) before its weights and bias."""
    made = nn.Linear(layer.in_features, len(matrix), layer.bias is not None, layer.weight.device, layer.weight.dtype)
    with torch.no_grad():
        code = matrix.to(layer.weight.device, torch.float64)
        made.weight.copy_(code @ layer.weight.double())
        if layer.bias is not None:
            made.bias.copy_(code @ layer.bias.double())
    for name, parameter in layer.named_parameters():
        getattr(made, name).requires_grad_(parameter.requires_grad)
    return made


def _hadamard(count: int, n: int, name: str) -> torch.Tensor:
    """(n, count) columns of the Hadamard matrix of order n."""
    if isinstance(n, bool) or not isinstance(n, int) or n < count or n & (n - 1):
        raise MappingError(
            f"outputs: layer {name!r} must have a power of two of at least {count} outputs with code 'hadamard', "
            f"got {n!r}"
        )
    return torch.from_numpy(hadamard(n)[:, :count].astype("float64"))


def _repeated(count: int, n: int, name: str) -> torch.Tensor:
    """(n, count): each output n / count times."""
    if isinstance(n, bool) or not isinstance(n, int) or n < count or n % count:
        raise MappingError(
            f"outputs: layer {name!r} must have a multiple of its {count} outputs with code 'repetition', got {n!r}"
        )
    return torch.eye(count, dtype=torch.float64).repeat(n // count, 1)


CODES: dict[str, tuple[Callable[[int, int, str], torch.Tensor], type[Decoder]]] = {
    "hadamard": (_hadamard, HadamardDecoder),
    "repetition": (_repeated, RepetitionDecoder),
}

"""Random small networks of torch's own layers, with the habits that people have: for `fuzz_networks.py`.

A network is a chain of parts that a model of one of many styles goes through: whole, piece by piece, tapped, in
slices, in a way that torch.fx cannot trace or traces wrongly. Parts carry hooks, parametrisations, pruning, forwards of
their own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from random_parts import (
    STYLES,
    Attends,
    Enlarged,
    Functional,
    Kept,
    Last,
    Net,
    Normed,
    Paired,
    Plain,
    Reflecting,
    Scaled,
    Stepped,
    Symmetric,
    Turned,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm


@dataclass
class Shape:
    """What flows: `kind` vector (F), sequence (T, F) or picture of some dimensions (C, ...)."""

    kind: str
    features: int
    steps: int = 0
    size: tuple[int, ...] = ()

    @property
    def tensor(self) -> tuple[int, ...]:
        return {"vector": (self.features,), "sequence": (self.steps, self.features)}.get(
            self.kind, (self.features, *self.size)
        )


@dataclass
class Maker:
    """Makes a network of one seed; `habits` are what was done to its layers."""

    seed: int
    habits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        torch.manual_seed(self.seed)

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def network(self) -> tuple[nn.Module, tuple[torch.Tensor, ...], str]:
        """A model in evaluation, its inputs for 4 samples, and a description."""
        shape = self.first()
        start = Shape(**vars(shape))
        parts: list[nn.Module] = []
        inputs = torch.randn(4, *start.tensor)
        if shape.kind == "sequence" and self.chance(0.2):
            parts.append(nn.Embedding(7, shape.features))
            inputs = torch.randint(0, 7, (4, shape.steps))
            if self.chance(0.2):
                parts = [nn.EmbeddingBag(7, shape.features)]
                shape.kind, shape.steps = "vector", 0
        for _ in range(self.random.randint(1, 3)):
            parts += self.block(shape)
        if len(parts) > 1 and self.chance(0.1):
            parts += [parts[-1]] if isinstance(parts[-1], nn.ReLU) else [nn.ReLU()]
        if shape.kind == "vector" and self.chance(0.3):
            square = self.habit(nn.Linear(shape.features, shape.features))
            parts += [square, nn.Tanh(), square]
            self.habits.append("shared")
        if parts and isinstance(parts[0], nn.Embedding) and shape.features == start.features and self.chance(0.7):
            head = nn.Linear(shape.features, 7, bias=False)
            head.weight = parts[0].weight
            parts.append(head)
            self.habits.append("tied")
        style = self.one(*STYLES)
        net: nn.Module = Net(parts, style, self.chance(0.6))
        if self.chance(0.15):
            net.register_forward_hook(lambda m, i, o: o)
        if self.chance(0.1) and "weight as a tensor" not in self.habits:
            net, inputs = net.double(), inputs.double() if inputs.is_floating_point() else inputs
            self.habits.append("double")
        self.settle(net)
        traced = "" if not isinstance(net, Net) or net.traceable else ", untraceable"
        kinds = " ".join(type(part).__name__ for part in parts)
        return net.eval(), (inputs,), f"{style}{traced}: {kinds} [{', '.join(self.habits)}]"

    def first(self) -> Shape:
        kind = self.one("vector", "sequence", "picture", "picture")
        if kind == "vector":
            return Shape(kind, self.one(4, 6, 8))
        if kind == "sequence":
            return Shape(kind, self.one(4, 8), self.one(3, 5, 8))
        dims = self.one(1, 2, 2, 3)
        return Shape("picture", self.one(2, 4), size=tuple(self.one(5, 6, 7) for _ in range(dims)))

    def settle(self, net: nn.Module) -> None:
        """Statistics and affine parameters of norms that matter; some networks run once before they are mapped."""
        with torch.no_grad():
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                    module.running_mean.uniform_(-0.5, 0.5)
                    module.running_var.uniform_(0.5, 2)
                    if module.affine:
                        module.weight.uniform_(0.5, 1.5)
                        module.bias.uniform_(-0.5, 0.5)

    def block(self, shape: Shape) -> list[nn.Module]:
        """Some parts; `shape` becomes that of their output."""
        return {"vector": self.dense, "sequence": self.sequence}.get(shape.kind, self.picture)(shape)

    def dense(self, shape: Shape) -> list[nn.Module]:
        out = self.one(3, 5, 8)
        parts = [self.linear(shape.features, out)]
        shape.features = out
        if self.chance(0.5):
            parts.append(self.norm(nn.BatchNorm1d(out, affine=self.chance(0.8), track_running_stats=self.chance(0.9))))
        return [*parts, self.activation()]

    def linear(self, features: int, out: int) -> nn.Module:
        if self.chance(0.1):
            self.habits.append("subclass")
            return Scaled(features, out)
        if self.chance(0.05):
            return Paired(features, out)
        if self.chance(0.1):
            return self.habit(Plain(features, out))
        if self.chance(0.1):
            lazy = nn.LazyLinear(out, bias=self.chance(0.8))
            lazy(torch.zeros(1, features))
            return self.habit(lazy)
        layer = self.habit(nn.Linear(features, out, bias=self.chance(0.8)))
        if self.chance(0.12) and isinstance(layer, nn.Linear):
            self.habits.append("functional")
            return Functional(layer, self.one(0, 1, 2))
        return layer

    def activation(self) -> nn.Module:
        return self.one(nn.ReLU(inplace=True), nn.ReLU(), nn.GELU(), nn.Tanh(), nn.Dropout(0.5), nn.Identity())

    def sequence(self, shape: Shape) -> list[nn.Module]:
        features, kind = shape.features, self.random.randint(0, 6)
        if features % 2 and kind in (3, 4):  # two heads
            kind = 6
        if kind <= 1:
            rnn = self.one(nn.LSTM, nn.GRU, nn.RNN)
            both, hidden = self.chance(0.3), self.one(3, 4)
            layer = rnn(features, hidden, self.one(1, 1, 2), bidirectional=both, batch_first=self.chance(0.5))
            shape.features = hidden * (1 + both)
            names = [name for name in ("weight_hh_l0", "weight_ih_l0") if self.chance(0.1)]
            for name in names:
                self.habits.append("weight norm of a recurrent layer")
                layer = weight_norm(layer, name)
            if self.chance(0.1):
                self.habits.append("recurrent hook")
                layer.register_forward_pre_hook(lambda m, i: (i[0] * 0.5, *i[1:]))
            return [Last(layer, self.chance(0.3))]
        if kind == 2:
            cell = self.one(nn.LSTMCell, nn.GRUCell, nn.RNNCell)(features, 4)
            shape.features = 4
            return [Stepped(self.habit(cell) if self.chance(0.5) else cell)]
        if kind == 3:
            return [Attends(features, self.chance(0.5))]
        if kind == 4:
            first = self.chance(0.5)
            layer = nn.TransformerEncoderLayer(features, 2, 6, batch_first=first, norm_first=self.chance(0.5))
            if first and self.chance(0.4):
                return [nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)]
            return [layer if first else Turned(layer)]
        if kind == 5 and self.chance(0.5):
            out = self.one(3, 4)
            parts: list[nn.Module] = [nn.Flatten(), self.linear(features * shape.steps, out)]
            shape.kind, shape.features, shape.steps = "vector", out, 0
            return parts
        out = self.one(4, 8)
        parts = [self.linear(features, out), self.one(nn.LayerNorm(out), nn.Identity()), self.activation()]
        shape.features = out
        if self.chance(0.15) and shape.steps == out:  # over steps, not features
            parts.insert(1, self.norm(nn.BatchNorm1d(out)))
        return parts

    def transposed(self, shape: Shape) -> tuple[nn.Module, list[int] | None]:
        """A transposed convolution, and the size that its call asks for, if it does."""
        dims, channels = len(shape.size), shape.features
        kernel, stride, dilation = (
            tuple(self.one(*of) for _ in range(dims)) for of in ((1, 2, 3), (1, 2, 2), (1, 1, 2))
        )
        padding = tuple(self.one(0, 0, 1, min(2, d * (k - 1))) for k, d in zip(kernel, dilation, strict=True))
        more = tuple(self.random.randrange(max(pair)) for pair in zip(stride, dilation, strict=True))
        groups = self.one(1, 1, channels)
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        out = self.one(2, 4)
        out, bias = out * groups if out * groups < 9 else groups, self.chance(0.7)
        layer = kind(channels, out, kernel, stride, padding, more, groups, bias, dilation)
        if not self.chance(0.3):
            return layer, None
        made = layer(torch.zeros(1, channels, *shape.size)).shape[2:]
        return layer, [n - m + self.random.randrange(s) for n, m, s in zip(made, more, stride, strict=True)]

    def picture(self, shape: Shape) -> list[nn.Module]:
        dims, channels = len(shape.size), shape.features
        kernel, mode = self.one(1, 2, 3), self.one("zeros", "zeros", "zeros", "reflect", "replicate", "circular")
        if dims == 3 and mode == "reflect":
            mode = "zeros"
        padding: Any = self.one(0, 1, "same", "valid") if kernel > 1 else 0
        stride = self.one(1, 1, 2) if padding != "same" else 1
        groups = self.one(1, 1, channels)
        out = self.one(2, 4) * (groups if groups == 2 else 1)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        layer = conv(
            *(channels, out if out % groups == 0 else groups, kernel, stride, padding),
            *(self.one(1, 1, 2) if kernel == 2 else 1, groups, self.chance(0.7), mode),
        )
        size = None
        if dims == 2 and kernel == 3 and self.chance(0.15):
            layer = Reflecting(channels, self.one(2, 4), kernel)
        elif self.chance(0.35) and max(shape.size) < 12:
            layer, size = self.transposed(shape)
        if size is not None and min(size) < 1:
            size = None
        example = layer(torch.zeros(1, channels, *shape.size), *([] if size is None else [size]))
        parts: list[nn.Module] = []
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
        if self.chance(0.25):
            parts.append(self.norm(norms[dims - 1](channels)))
        out = layer.out_channels
        layer = self.habit(layer)
        parts.append(layer if size is None else Enlarged(layer, size, self.chance(0.3)))
        choice = self.random.randint(0, 9)
        if choice < 6:
            kind = nn.SyncBatchNorm if self.chance(0.2) else norms[dims - 1]
            norm = kind(out, affine=self.chance(0.8), track_running_stats=self.chance(0.9))
            if dims == 2 and self.chance(0.3):
                norm = self.one(Normed, Kept)(out)
            parts.append(self.norm(norm))
        elif choice == 6:
            parts.append(self.one(nn.GroupNorm(1, out), nn.Identity()))
        parts.append(self.activation())
        shape.features, shape.size = out, tuple(example.shape[2:])
        if min(shape.size) < 3 or self.chance(0.3):
            parts += [nn.Flatten()]
            shape.features, shape.kind, shape.size = int(example[0].numel()), "vector", ()
        return parts

    def norm(self, norm: nn.Module) -> nn.Module:
        if self.chance(0.1):
            self.habits.append("hook of a norm")
            norm.register_forward_hook(lambda m, i, o: o.relu())
        elif self.chance(0.05):
            self.habits.append("forward of a norm")
            inner = norm.forward
            norm.forward = lambda input: inner(input) + 1  # type: ignore[method-assign]
        return norm

    def habit(self, layer: nn.Module) -> nn.Module:
        """A layer with something done to it, or not."""
        if self.chance(0.55):
            return layer
        matrix = "weight" if hasattr(layer, "weight") else "weight_hh"
        habits: dict[str, Callable[[], Any]] = {
            "hook": lambda: layer.register_forward_hook(lambda m, i, o: _map(o, lambda y: 2 * y)),
            "pre-hook": lambda: layer.register_forward_pre_hook(lambda m, i: (i[0] + 1, *i[1:]) if i else None),
            "keyword hook": lambda: layer.register_forward_pre_hook(_shifted, with_kwargs=True),
            "observing hook": lambda: layer.register_forward_hook(lambda m, i, o: None),
            "hook that takes the weight": lambda: layer.register_forward_hook(
                lambda m, i, o: _map(o, lambda y: y + getattr(m, matrix).mean())
            ),
            "forward": lambda: _own_forward(layer),
            "old weight norm": lambda: weight_norm(layer, matrix),
            "old spectral norm": lambda: spectral_norm(layer, matrix),
            "weight norm": lambda: parametrizations.weight_norm(layer, matrix),
            "spectral norm": lambda: parametrizations.spectral_norm(layer, matrix),
            "parametrisation": lambda: parametrize.register_parametrization(layer, matrix, Symmetric()),
            "pruned": lambda: prune.l1_unstructured(layer, matrix, 0.4),
            "zero": lambda: nn.init.zeros_(getattr(layer, matrix)),
            "weight as a tensor": lambda: _as_tensor(layer, matrix),
        }
        name = self.one(*habits)
        self.habits.append(name)
        habits[name]()
        if "norm" in name and self.chance(0.7):  # as a checkpoint does: what was computed from the old values is stale
            layer.load_state_dict({key: value * 1.5 + 0.1 for key, value in layer.state_dict().items()})
        return layer


def _map(output: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return tuple(map(function, output)) if isinstance(output, tuple) else function(output)


def _shifted(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return tuple(x - 0.5 if isinstance(x, torch.Tensor) else x for x in args), kwargs


def _own_forward(layer: nn.Module) -> None:
    inner = layer.forward
    layer.forward = lambda *inputs, **named: _map(inner(*inputs, **named), torch.tanh)  # type: ignore[method-assign]


def _as_tensor(layer: nn.Module, name: str) -> None:
    value = 1.1 * getattr(layer, name)  # not a leaf
    delattr(layer, name)
    setattr(layer, name, value)

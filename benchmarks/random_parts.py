"""Parts of the random networks of `random_networks.py`, and the model that goes through them in one of many styles."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

STYLES = (
    "whole",
    "iterate",
    "taps",
    "slice",
    "flag",
    "isinstance",
    "optional",
    "skip",
    "again",
    "dictionary",
    "keyword",
)


class Scaled(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 0.5 * super().forward(input).tanh()


class Plain(nn.Linear):
    """A subclass that computes the same."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__(features, out)
        self.purpose = "none"


class Reflecting(nn.Conv2d):
    """A subclass with another padding, which computes what its attributes say."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel, padding=1, padding_mode="reflect")


class Kept(nn.BatchNorm2d):
    """A subclass that normalises as its parent does."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


class Paired(nn.Module):
    """A bilinear form of a vector with itself."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.pair = nn.Bilinear(features, features, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(x, x)


class Enlarged(nn.Module):
    """A transposed convolution that is asked for a size."""

    def __init__(self, layer: nn.Module, size: list[int], optional: bool) -> None:
        super().__init__()
        self.up, self.size, self.optional = layer, size, optional

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.optional and not isinstance(x, torch.Tensor):  # while it is traced
            return self.up(x)
        return self.up(x, output_size=self.size)


class Normed(nn.BatchNorm2d):
    """A subclass with an activation, as in timm."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


class Symmetric(nn.Module):
    """A parametrisation."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.tanh() + 0.1 * weight.mean()


class Last(nn.Module):
    """The output of a recurrent layer, in the order that the network has."""

    def __init__(self, layer: nn.Module, given_state: bool) -> None:
        super().__init__()
        self.rnn, self.given_state = layer, given_state and not isinstance(layer, nn.LSTM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.rnn.batch_first else x.transpose(0, 1)
        state = None
        if self.given_state:
            count = self.rnn.num_layers * (2 if self.rnn.bidirectional else 1)
            state = 0.1 * y.new_ones(count, x.shape[0], self.rnn.hidden_size)
        y, _ = self.rnn(y, state)
        return y if self.rnn.batch_first else y.transpose(0, 1)


class Stepped(nn.Module):
    """A recurrent cell in a loop."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, outputs = None, []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


class Attends(nn.Module):
    """Self-attention, batch first or not."""

    def __init__(self, features: int, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(features, 2, batch_first=batch_first)
        self.scale = nn.Parameter(torch.rand(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.attention.batch_first else x.transpose(0, 1)
        y, _ = self.attention(y, y, y)
        return x + self.scale * (y if self.attention.batch_first else y.transpose(0, 1))


class Turned(nn.Module):
    """A layer that takes the sequence first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Functional(nn.Module):
    """Uses the weight of a layer itself: alone, beside the layer, or only its shape."""

    def __init__(self, layer: nn.Linear, how: int) -> None:
        super().__init__()
        self.l, self.how = layer, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == 0:
            return functional.linear(x, self.l.weight, self.l.bias)
        if self.how == 1:
            return self.l(x) + x @ self.l.weight.T
        return self.l(x) / self.l.in_features


class Net(nn.Module):
    """Parts that are gone through in one of the styles."""

    def __init__(self, parts: list[nn.Module], style: str, traceable: bool) -> None:
        super().__init__()
        self.style, self.traceable = style, traceable
        self.named = [isinstance(part, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)) for part in parts]
        if style == "dictionary":
            self.parts: Any = nn.ModuleDict({f"p{k}": part for k, part in enumerate(parts)})
        else:
            self.parts = nn.ModuleList(parts) if style in ("iterate", "skip") else nn.Sequential(*parts)

    def tapped(self, x: torch.Tensor) -> torch.Tensor:
        taps = []
        for part in self.parts:
            x = part(x)
            taps.append(x)
        return torch.cat([x.flatten(1), *(tap.flatten(1).mean(1, keepdim=True) for tap in taps)], 1)

    def forward(self, x: torch.Tensor, tap: Any = None) -> Any:
        if not self.traceable and float(x.double().abs().sum()) < 0:
            return x
        if self.style == "taps" or (self.style == "isinstance" and isinstance(x, torch.Tensor)):
            return self.tapped(x)
        if self.style == "optional":
            return self.tapped(x) if tap is None else self.parts(x)
        if self.style == "slice":
            middle = self.parts[: len(self.parts) // 2](x)
            return {"middle": middle, "out": self.parts[len(self.parts) // 2 :](middle)}
        if self.style == "skip":
            outputs = [x]
            for part in self.parts:
                y = part(outputs[-1])
                outputs.append(y + outputs[-1] if y.shape == outputs[-1].shape else y)
            return outputs[-1]
        if self.style == "again":
            y = self.parts(x)
            return y, self.parts(0.5 * x) if x.is_floating_point() else y
        if self.style == "keyword":
            for part, named in zip(self.parts, self.named, strict=True):
                x = part(input=x) if named else part(x)
            return x
        if self.style in ("iterate", "dictionary", "flag"):
            for part in self.parts.values() if self.style == "dictionary" else self.parts:
                x = part(x)
            return x
        return self.parts(x)

"""What the cases of `digests.py` are made of: Mho's doors that they use, hardware, networks and inputs.

Only the functions of the first part touch names of Mho beside `mho.map`, `mho.vote` and the like, so that a change of
names is a change of a few lines here.

Weights and inputs are multiples of 1/16 and 1/8 from NumPy's integers: torch's own random numbers, and its sums of
numbers with more digits, may differ between machines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import mho
from mho.crossbar.expected import expected_errors

Array = np.ndarray[Any, Any]

PRESETS = ("ideal", "nand", "pcm", "reram")
NOISY: dict[str, Any] = {
    "name": "digests",
    "cell": {
        "g_min": "1 uS",
        "g_max": "40 uS",
        "programming": {"kind": "polynomial", "coefficients": ["0.5 uS", "0.2 uS"], "g_ref": "40 uS"},
        "read_noise": {"kind": "relative", "fraction": 0.02},
    },
    "sensing": {"v_read": "0.2 V", "t_read": "100 ns", "amplifier_noise": "10 pA/rtHz"},
    "tile": {"rows": 16, "columns": 24},
    "dac": {"bits": 8, "range": "calibrated"},
    "adc": {"bits": 8, "full_scale": "calibrated"},
}
SEED = 5


# Mho's doors


def noisy(fields: dict[str, Any] | None = None) -> mho.Hardware:
    """The noisy hardware with fields replaced by dotted path."""
    return mho.Hardware.model_validate(NOISY).replace(fields or {})


def preset(name: str, fields: dict[str, Any] | None = None) -> mho.Hardware:
    return mho.Hardware.preset(name).replace(fields or {})


def on_chip(net: nn.Module, hardware: mho.Hardware, x: Any, **options: Any) -> Any:
    """The chip, calibrated with x; unless asked for, the mapping is not checked, which takes half of the time."""
    return mho.map(net, hardware, calibrate=x, **{"seed": SEED, "check": False, **options})


def copy_of(chip: Any, number: int) -> Any:
    return chip.copy(number)


def aged(chip: Any, seconds: float, *, compensate: bool = False) -> Any:
    return chip.at(seconds, drift_compensation=compensate)


def read(chip: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return chip.read(x, **options)


def table(chip: Any) -> dict[str, Any]:
    """The report's numbers, a list a column."""
    return chip.report().table.to_dict("list")


def expected(chip: Any, name: str, x: Array, reads: int) -> dict[str, Any]:
    """Errors expected of a linear layer with inputs (samples, features)."""
    errors = expected_errors(chip.layers[name].tiles, x[:, None, None, None], reads)
    parts = {part: getattr(errors, part) for part in ("frozen", "slow", "fresh")}
    means = {f"{part}: {source}": float(v.mean()) for part, by in parts.items() for source, v in by.items()}
    return {"gain": errors.gain, "y": float(np.square(errors.y).mean()), **means}


# networks and inputs


def inputs(*shape: int, seed: int = 1, signed: bool = True) -> torch.Tensor:
    """Multiples of 1/8 in [-1, 1], or in [0, 1]."""
    values = np.random.default_rng(seed).integers(-8 if signed else 0, 9, shape)
    return torch.from_numpy((values / 8).astype(np.float32))


def filled(net: nn.Module, seed: int = 0, positive: bool = False) -> nn.Module:
    """The network with parameters, and batch norms, of multiples of 1/16 in [-1/2, 1/2], or not negative."""
    rng = np.random.default_rng(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        values = rng.integers(-8, 9, tuple(tensor.shape)) / 16
        if positive or name.endswith("running_var"):
            values = np.abs(values) + (0.25 if name.endswith("running_var") else 0.0)
        tensor.data.copy_(torch.from_numpy(values.astype(np.float32)))
    return net.eval().requires_grad_(False)


def mlp(positive: bool = False) -> nn.Module:
    """20 inputs, 5 outputs."""
    return filled(nn.Sequential(nn.Linear(20, 18), nn.ReLU(), nn.Linear(18, 5)), positive=positive)


def cnn() -> nn.Module:
    """Inputs (n, 3, 8, 8): a folded batch norm, groups, dilation, odd padding, 5 outputs."""
    return filled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4, padding="same", padding_mode="reflect", dilation=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
    )


def conv(dims: int, padding_mode: str = "zeros", **options: Any) -> nn.Module:
    """One convolution of 4 channels to 4, and a linear layer at each position."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return filled(kind(4, 4, 3, padding_mode=padding_mode, **{"padding": 1, **options}))


class Shared(nn.Module):
    """A layer that is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        for _ in range(3):
            x = torch.relu(self.again(x)) * 0.125
        return self.last(x)


class Attention(nn.Module):
    """Inputs (sequence, n, 8), as attention may have them: the samples come second."""

    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.softmax = softmax

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.softmax:
            q, k, v = (part.transpose(0, 1) for part in (q, k, v))
            mixed = (torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v).transpose(0, 1)
        else:
            mixed = torch.relu(q * k) + v
        return self.o(mixed)


class Positions(nn.Module):
    """Positions of a convolution go through a linear layer, once with channels last, once along the other axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.across, self.along = nn.Conv1d(4, 6, 3, padding=1), nn.Linear(6, 5), nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).transpose(1, 2)
        return self.along(torch.relu(self.across(x)).permute(2, 0, 1)).permute(1, 0, 2)


class Steps(nn.Module):
    """A recurrent layer on (n, steps, 6), and a linear layer on what it returns."""

    def __init__(self, kind: type[nn.Module], *, width: int = 6, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, width, batch_first=True, **options)
        self.head = nn.Linear(options.get("proj_size", width) * (1 + options.get("bidirectional", False)), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


class Cell(nn.Module):
    """A recurrent cell that is called at each of the steps of (n, steps, 6)."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.cell, self.head = kind(6, 6, **options), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def sweep_net() -> nn.Module:
    """What the sweep names as `digest_parts:sweep_net`."""
    return mlp()

"""The LSTM for stroke sequences of Qin and Vucinic (section 3.1)."""

from __future__ import annotations

import torch
from torch import nn

from .noise import Kind, Noise
from .weights import kind_of, load_named

STEPS = 50
HIDDEN = 128
MIDDLE = 14.0  # pixels, half an image: coordinates reach the gates between -1.1 and 1


class StrokeLSTM(nn.Module):
    """Sequences (n, 50, 2) of pen points in pixels give logits (n, 10).

    At every step one matrix layer (`gates`, 130 to 512) makes the four gates from the point and the state: input,
    forget, cell, output. These are the paper's four matrix-vector products; their noise comes after the bias and before
    the sigmoid or tanh. The state after the last step goes to the output layer and its noise.

    Coordinates are first brought to the range of the state, with which they share a digital-to-analog converter.
    Weights and bias of `gates` could do the same, so this changes neither what can be learnt nor its noise.
    """

    def __init__(self, sigma_train: float = 0.0, noise: Kind = "mult") -> None:
        super().__init__()
        self.gates = nn.Linear(2 + HIDDEN, 4 * HIDDEN)
        self.gates_noise = Noise(noise, sigma_train)
        self.output = nn.Linear(HIDDEN, 10)
        self.output_noise = Noise(noise, sigma_train)
        with torch.no_grad():
            self.gates.bias[HIDDEN : 2 * HIDDEN] = 1.0  # at first nothing is forgotten

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = (x.reshape(x.size(0), STEPS, 2) - MIDDLE) / MIDDLE
        hidden = cell = points.new_zeros(x.size(0), HIDDEN)
        for step in range(STEPS):
            gates = self.gates_noise(self.gates(torch.cat([points[:, step], hidden], 1)))
            enter, keep, new, show = gates.chunk(4, 1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
        logits: torch.Tensor = self.output_noise(self.output(hidden))
        return logits


def stroke_lstm(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> StrokeLSTM:
    """An LSTM of 128 units over sequences (n, 50, 2) of pen points, with noise after each matrix product.

    Args:
        weights: name of committed weights, `sigma-S` (multiplicative) or `add-sigma-S` (additive) for the sigma they
            were trained with, or a file of `mho train`; None for random ones.
        sigma_train: standard deviation of the noise in training. In inference it is 0 (`set_inference_noise` sets it).
        noise: its kind, `mult` or `add`. Committed weights bring their own.

    Raises:
        ValueError: no weights of that name (the message lists them), or a noise that is none.
    """
    if weights is not None:
        noise = kind_of(weights)
    net = StrokeLSTM(sigma_train, noise)
    return net if weights is None else load_named(net, "stroke_lstm", weights)

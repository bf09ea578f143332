"""How Keras begins a training, which Table 1 of Qin and Vucinic (2018) reads like: the stated guess of `--init glorot`.

Defaults of Keras 2: matrices and kernels are uniform in +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), biases
0; the recurrent half of an LSTM is orthogonal, its forget gate has a bias of 1; batch norms keep 0.99 of their running
statistics each step and add 1e-3 to the variance.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .lstm import HIDDEN, StrokeLSTM

MOMENTUM, EPSILON = 1 - 0.99, 1e-3  # torch counts what is new
PLAIN = 1e-5  # epsilon of torch's batch norms


@torch.no_grad()
def begin(net: nn.Module) -> None:
    """Weights, biases and batch norms of a network as Keras has them before a training."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _BatchNorm):
            module.momentum, module.eps = MOMENTUM, EPSILON
    for module in net.modules():
        if isinstance(module, StrokeLSTM):
            weight = module.gates.weight
            inputs = weight.shape[1] - HIDDEN
            spread = (6 / (inputs + len(weight))) ** 0.5
            weight[:, :inputs].uniform_(-spread, spread)
            weight[:, inputs:] = nn.init.orthogonal_(torch.empty(len(weight), HIDDEN))
            module.gates.bias[HIDDEN : 2 * HIDDEN] = 1.0


@torch.no_grad()
def end(net: nn.Module) -> None:
    """The epsilon of batch norms into their variances: a network of torch's, which computes the same."""
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.eps != PLAIN and module.running_var is not None:
            module.running_var += module.eps - PLAIN
            module.eps = PLAIN

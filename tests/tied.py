"""Networks that keep and share weights in several ways, with inputs of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 8)).eval()


class Words(nn.Module):
    """An embedding that its head shares, digital and on tiles."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.mix = nn.Embedding(20, 12, **options), nn.Linear(12, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.words(tokens))))


X, TOKENS = torch.rand(16, 40, generator=torch.Generator().manual_seed(1)), torch.arange(40).reshape(5, 8) % 20

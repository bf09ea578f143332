"""A network of the shape of NeuroSim's table."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional


class TableNetwork(nn.Module):
    """Convolutions and linear layers of a table, each on the output that it takes; ReLU behind all but the last."""

    def __init__(self, layers: pd.DataFrame, seed: int = 0) -> None:
        super().__init__()
        self.rows: list[dict[Any, Any]] = layers.to_dict("records")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for row in self.rows:
                self.add_module(row["name"], _layer(row))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, channels, length, width) to (samples, outputs, ...); linear layers give (samples, outputs)."""
        outputs = [x]
        for number, row in enumerate(self.rows):
            taken = outputs[row["input"]]
            before = self.rows[row["input"] - 1] if row["input"] else None
            pooled = before is not None and bool(before["pooled"])
            out = self.get_submodule(row["name"])(_as_wanted(taken, row, pooled=pooled))
            outputs.append(out if number + 1 == len(self.rows) else functional.relu(out))
        return outputs[-1]


def _layer(row: dict[Any, Any]) -> nn.Module:
    if row["kind"] == "linear":
        return nn.Linear(row["channels"], row["outputs"], bias=False)
    kernel = (row["kernel_length"], row["kernel_width"])
    padding = (kernel[0] // 2, kernel[1] // 2) if row["padding"] == "same" else (0, 0)
    return nn.Conv2d(row["channels"], row["outputs"], kernel, row["stride"], padding, bias=False)


def _as_wanted(x: torch.Tensor, row: dict[Any, Any], *, pooled: bool) -> torch.Tensor:
    """Pooled and flattened until the layer can take it."""
    size = (row["length"], row["width"])
    if pooled and x.dim() == 4:
        same_channels = x.shape[1] == row["channels"]
        x = functional.adaptive_max_pool2d(x, size) if same_channels else functional.max_pool2d(x, 2)
    if row["kind"] == "linear":
        return x.flatten(1)
    return x.reshape(len(x), -1, 1, 1) if x.dim() == 2 else x

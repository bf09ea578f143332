"""Recurrent layers and attention that are trained on tiles: torch's parameters in place, their matrices as layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...crossbar.hardware import Hardware
from ..faithful import tensors_of
from ..kinds.attention import PROJECTIONS, Attention, MultiheadAttention
from ..kinds.expander import Expander
from ..kinds.known import leaf_of
from ..kinds.recurrent import PARTS, Recurrent, RecurrentLayers, Step
from ..modules import replaced
from .layer import TrainedLayer
from .session import Steps, largest

Tensor = torch.Tensor


class Lent(TrainedLayer):
    """A layer whose weight and bias are lent to it for each forward of the module that it is a part of.

    Attributes:
        seen: largest inputs while ranges are found, of what comes first in it and of the rest; for a matrix that takes
            input and state side by side.
    """

    def __init__(self, name: str, linear: nn.Module, hardware: Hardware, steps: Steps, split: int) -> None:
        kind = leaf_of(linear)
        assert kind is not None
        super().__init__(name, kind.of(linear), linear, hardware, steps)
        for own in ("weight", "bias"):
            del self._parameters[own]
        self.split, self.seen = split, [0.0, 0.0]
        self.lend(None, None)

    def lend(self, weight: Tensor | None, bias: Tensor | None) -> None:
        """The parameters of the next calls."""
        vars(self).update(weight=weight, bias=bias)

    def forward(self, input: Tensor, *more: Any, **named: Any) -> Tensor:
        if self.split and self.steps.calibrating:
            parts = input[..., : self.split], input[..., self.split :]
            percentile = self.hardware.dac.percentile
            self.seen = [max(s, float(largest(x, percentile))) for s, x in zip(self.seen, parts, strict=True)]
        return super().forward(input, *more, **named)


class TrainedExpanded(nn.Module):
    """An nn.LSTM, nn.GRU, nn.RNN, one of their cells, or an nn.MultiheadAttention, on the tiles of a fresh chip.

    It has the parameters of the module in its place under their names, and is called like that.
    """

    def __init__(
        self, name: str, names: list[str], module: nn.Module, kind: type[Expander], hardware: Hardware, steps: Steps
    ) -> None:
        super().__init__()
        for own, parameter in module._parameters.items():
            self.register_parameter(own, parameter)
        for own, part in module._modules.items():
            self.add_module(own, part)
        self.kind, self.origin = kind, type(module)
        plain = {own: value for own, value in vars(module).items() if not own.startswith("_")}
        vars(self).update({own: value for own, value in plain.items() if own != "training"})
        inner = kind.expand(module, tensors_of(module))
        steps_of = [(where, part) for where, part in inner.named_modules() if isinstance(part, Step)]
        for _, one in steps_of:
            one._non_persistent_buffers_set.add("gain")
        for where, linear in [(n, m) for n, m in inner.named_modules() if isinstance(m, nn.Linear)]:
            owner, _, role = where.rpartition(".")
            step = dict(steps_of).get(owner)
            split = step.input_size if step is not None and role == step.joint_name else 0
            settings = hardware.for_layer(*(f"{alias}.{where}" if alias else where for alias in names))
            if split and settings.dac.equalise is not None:
                raise ValueError(
                    f"layer {name!r}: dac.equalise must be null for inputs and states side by side, for mho.trainable"
                )
            made = Lent(f"{name}.{where}" if name else where, linear, settings, steps, split)
            made.rows_are_samples = step is not None
            replaced(inner, where, made)
        if isinstance(inner, Recurrent | Attention):
            inner.between = float(module.dropout)  # type: ignore[arg-type]
        self.on_tiles: Any = inner
        for own in ("bias_k", "bias_v"):
            inner._parameters.pop(own, None)
        self.train(module.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inner = vars(self).get("_modules", {}).get("on_tiles")
            if inner is None or name.startswith("__"):
                raise
            return getattr(inner, name)  # what models read of torch's module

    def forward(self, *args: Any, **named: Any) -> Any:
        lent = list(self._lend())
        try:
            return self.on_tiles(*args, **named)
        finally:
            for layer in lent:
                layer.lend(None, None)

    @property
    def layers(self) -> list[Lent]:
        """Its matrices."""
        return [module for module in self.on_tiles.modules() if isinstance(module, Lent)]

    def equalise(self) -> bool:
        """Set the gains of inputs beside states, as `mho.map` does, from the ranges seen; whether there are any."""
        moved = False
        for where, step in self._steps():
            layer, (w_ih, w_hh, *_) = step.joint, self._weights(where)
            assert isinstance(layer, Lent)
            (r_x, r_h), w_x, w_h = layer.seen, float(w_ih.abs().max()), float(w_hh.abs().max())
            if layer.hardware.dac.range == "calibrated" and r_x * r_h * w_x * w_h > 0:
                step.gain.fill_(((w_x * r_h) / (w_h * r_x)) ** 0.5)
                moved = True
        return moved

    def flatten_parameters(self) -> None:
        """Nothing; models call it."""

    def _steps(self) -> Iterator[tuple[str, Step]]:
        inner = self.on_tiles
        if isinstance(inner, Step):
            yield "", inner
        elif isinstance(inner, Recurrent):
            yield from ((name, inner.step(name)) for names in inner.suffixes for name in names)

    def _weights(self, where: str) -> list[Any]:
        """Those of torch's layer for a step."""
        names = PARTS[:4] if not where else [f"{part}_{where}" for part in PARTS]
        return [self._parameters.get(name) for name in names]

    def _lend(self) -> Iterator[Lent]:
        inner = self.on_tiles
        if isinstance(inner, Attention):
            given = {name: getattr(self, name, None) for name in MultiheadAttention.holds[:5]}
            out = self.get_submodule("out_proj")
            given |= {f"out_proj.{part}": getattr(out, part) for part in ("weight", "bias")}
            tensors: Mapping[str, Any] = {name: value for name, value in given.items() if value is not None}
            vars(inner).update({name: getattr(self, name, None) for name in ("bias_k", "bias_v")})
            for name, (weight, bias) in zip((*PROJECTIONS, "out_proj"), MultiheadAttention.parts(tensors), strict=True):
                yield _lent(inner, name, weight, bias)
            return
        for where, step in self._steps():
            w_ih, *rest = self._weights(where)
            for name, (weight, bias) in step.parts(w_ih, *rest).items():
                if name == step.joint_name:
                    inputs = step.input_size
                    weight = torch.cat([weight[:, :inputs] / step.gain, weight[:, inputs:]], dim=1)
                yield _lent(step, name, weight, bias)


def _lent(owner: nn.Module, name: str, weight: Tensor, bias: Tensor | None) -> Lent:
    layer = owner.get_submodule(name)
    assert isinstance(layer, Lent)
    layer.lend(weight, bias)
    return layer


def expands(kind: type[Expander] | None) -> bool:
    """Whether modules of an expander are trained on tiles."""
    return kind in (RecurrentLayers, MultiheadAttention)

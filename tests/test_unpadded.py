"""Inputs whose padding is left to the codes: those of the padded inputs, in whatever order they lie in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware
from torch import nn

import mho
from mho.crossbar.arrays import Unpadded
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.reader import input_codes
from mho.mapping.kinds.convolution import Convolution
from mho.mapping.layers import TileLayer
from mho.mapping.torch_backend.backend import Torch

DESIGNS = {
    "integers": {},
    "floats": {"dac.bits": 12, "dac.range": 1.0},
    "no converters": {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None},
}


def layer_of(net: nn.Module, x: torch.Tensor, changes: dict[str, Any] | None = None) -> TileLayer:
    chip = mho.map(net.eval(), hardware(**(changes or {})), calibrate=x, seed=1)
    (layer,) = chip.layers.values()
    return layer


def lain(x: torch.Tensor, how: str) -> torch.Tensor:
    """The same values in another order in memory."""
    if how == "last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "turned":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if how == "every second":
        return x.repeat_interleave(2, dim=0)[::2]
    return x.contiguous()


NETS = {
    "2d": (lambda: nn.Conv2d(3, 5, 3, padding=(1, 2)), (2, 3, 6, 7)),
    "one channel": (lambda: nn.Conv2d(1, 2, 5, padding=2), (3, 1, 6, 7)),
    "1d": (lambda: nn.Conv1d(4, 2, 3, padding=1, stride=2), (2, 4, 9)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, padding=(1, 0, 1)), (2, 2, 3, 4, 5)),
    "same": (lambda: nn.Conv2d(2, 3, 4, padding="same"), (2, 2, 6, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (2, 6, 5, 5)),
    "valid": (lambda: nn.Conv2d(3, 2, 3), (2, 3, 5, 6)),
}


@pytest.mark.parametrize("how", ["first", "last", "turned", "every second"])
@pytest.mark.parametrize("name", NETS)
def test_codes_are_those_of_padded_inputs(name: str, how: str) -> None:
    make, shape = NETS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    for changes in DESIGNS.values():
        layer = layer_of(make(), x, changes)
        values, margins = layer.spec.laid_out(lain(2 * x, how))
        assert margins is not None
        given = Unpadded(values.numpy(), margins)
        whole = layer.spec.arrange(2 * x).contiguous().numpy()
        assert given.shape == whole.shape
        for threads in (1, 2):
            (found, counts), (wanted, others) = (
                layer.tiles.reader.input_codes(each, threads) for each in (given, whole)
            )
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)
            assert counts == others


def test_many_values_on_several_threads() -> None:
    x = torch.randn((3, 40, 33, 31), generator=torch.Generator().manual_seed(0))
    layer = layer_of(nn.Conv2d(40, 2, 5, padding=2), x[:1])
    for how in ("first", "last"):
        values, margins = layer.spec.laid_out(lain(x, how))
        wanted = layer.tiles.reader.input_codes(layer.spec.arrange(x).contiguous().numpy())
        found = layer.tiles.reader.input_codes(Unpadded(values.numpy(), margins), 2)
        assert np.array_equal(found[0], wanted[0])
        assert found[1] == wanted[1]


def test_tensors() -> None:
    """The backend of tensors pads them first."""
    backend, x = Torch(), torch.randn((2, 3, 4, 5, 6))
    found = backend.padded(Unpadded(x, ((1, 0), (2, 3), (0, 4))))
    assert torch.equal(found[:, 1:, 2:6, :5], x)
    assert found.shape == Unpadded(x, ((1, 0), (2, 3), (0, 4))).shape == (2, 4, 9, 9, 6)
    assert float(found.abs().sum()) == pytest.approx(float(x.abs().sum()))


def test_no_number_is_told_with_its_place_among_all() -> None:
    x = torch.rand((2, 3, 6, 7))
    layer = layer_of(nn.Conv2d(3, 5, 3, padding=1), x)
    x[1, 2, 3, 4] = float("nan")
    with pytest.raises(ValueError, match="got 1 NaN or infinite of 432"):
        layer(x)


class Mirrored(Convolution):
    """A kind of others that arranges in a way of its own."""

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        return super().arrange(x.flip(-1))


@pytest.mark.parametrize(
    ("kind", "module"),
    [(Mirrored, nn.Conv2d(2, 3, 3, padding=1)), (Convolution, nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"))],
)
def test_other_padding_is_not_left(kind: type[Convolution], module: nn.Conv2d) -> None:
    x = torch.rand((2, 2, 5, 4))
    values, margins = kind.of(module).laid_out(x)
    assert margins is None
    assert torch.equal(values, kind.of(module).arrange(x))


class Coarse(Compiled):
    """A backend with DACs of its own, derived from the compiled one."""

    def codes(self, x: Any, scale: Any, out: Any, threads: int) -> Any:
        found = super().codes(x, scale, out, threads)
        out[:] = out // 8 * 8
        return found


def test_a_backend_with_codes_of_its_own_is_asked() -> None:
    x = torch.rand((2, 3, 6, 7), generator=torch.Generator().manual_seed(0))
    layer = layer_of(nn.Conv2d(3, 5, 3, padding=1), x)
    values, margins = layer.spec.laid_out(x)
    assert margins is not None
    found, _ = input_codes(layer.tiles.design, Unpadded(values.numpy(), margins), Coarse())
    whole, _ = input_codes(layer.tiles.design, layer.spec.arrange(x).numpy(), Coarse())
    assert np.array_equal(found, whole)
    assert not (found % 8).any()
    assert found.any()

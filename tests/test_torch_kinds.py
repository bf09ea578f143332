"""Layers as people have them: subclasses, lazy modules, parametrised weights."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

import mho
from mho.mapping.kinds.handler import Handler
from mho.mapping.kinds.inherited import computes_as, overrides
from mho.mapping.kinds.known import leaf_of
from mho.mapping.kinds.leaf import LEAVES
from mho.mapping.kinds.linear import Linear

IDEAL = mho.Hardware.preset("ideal")


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return float((got - want).detach().norm() / want.detach().norm())


def mapped(net: nn.Module, x: Any, **options: Any) -> mho.Chip:
    """A chip on ideal hardware that equals its network."""
    chip = mho.map(net.eval(), IDEAL, calibrate=x, **options)
    assert error(chip(x), net(x)) < 1e-5
    return chip


def reasons(chip: mho.Chip) -> dict[str, str]:
    return {d.name: d.reason for d in chip.digital}


class Named(nn.Linear):
    """Has a constructor, a way to print and a method of its own."""

    def __init__(self, features: int) -> None:
        super().__init__(features, features)
        self.purpose = "gate"

    def extra_repr(self) -> str:
        return self.purpose

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def norm(self) -> torch.Tensor:
        return self.weight.norm()


class Grandchild(Named):
    pass


class Convolved(nn.Conv2d):
    """As `nn.Conv2d`, with other defaults."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, padding_mode="reflect")


class Halved(nn.Conv2d):
    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return super()._conv_forward(input, 0.5 * weight, bias)


class Computed(nn.Linear):
    """Its weight is a property."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        nn.init.normal_(self._parameters["weight"])  # type: ignore[arg-type]

    @property
    def weight(self) -> Any:
        if "weight" not in self._parameters:
            raise AttributeError
        return 2 * self._parameters["weight"]


class Wrapped(nn.Linear):
    def __call__(self, *args: Any) -> Any:
        return super().__call__(*args).relu()


class Mixin:
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh()


class Mixed(Mixin, nn.Linear):
    pass


class Recurring(nn.GRU):
    """Gives the last output alone, and inherits the rest."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes, batch_first=True)


class Frozen(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Any:
        return super().train(False)


def test_a_subclass_with_the_forward_of_its_parent_is_on_tiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    projection = nn.modules.linear.NonDynamicallyQuantizableLinear(50, 5)
    net = nn.Sequential(Convolved(2), Frozen(2), nn.Flatten(), projection, Named(5), Grandchild(5))
    net[1].running_mean.uniform_(-1, 1)
    x = torch.randn(6, 2, 5, 5)
    chip = mapped(net, x)
    assert list(chip.layers) == ["0", "3", "4", "5"]
    assert reasons(chip)["1"] == "folded into 0"
    assert chip.model[4].purpose == "gate"
    real = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    real.save(tmp_path / "chip")
    for loaded in (mho.load(tmp_path / "chip"), mho.load(tmp_path / "chip", model=net)):
        assert torch.equal(loaded.read(x, read=2), real.read(x, read=2))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Halved(2, 2, 1), "a subclass of Conv2d with its own _conv_forward, which may compute something else"),
        (Computed(), "a subclass of Linear with its own weight, which may compute something else"),
        (Mixed(4, 4), "a subclass of Linear with its own forward, which may compute something else"),
    ],
)
def test_a_subclass_with_its_own_stays_digital(layer: nn.Module, said: str) -> None:
    torch.manual_seed(0)
    chip = mapped(nn.Sequential(nn.Conv2d(2, 2, 1), layer), torch.randn(3, 2, 4, 4))
    assert reasons(chip) == {"1": said}


def test_a_subclass_with_its_own_call_has_its_weight_on_tiles() -> None:
    torch.manual_seed(0)
    chip = mapped(nn.Sequential(nn.Linear(3, 4), Wrapped(4, 4)), torch.randn(5, 3))
    assert list(chip.layers) == ["0", "1.weight_layers.0"]
    assert reasons(chip) == {}


class Helpful(nn.Linear):
    """Has methods that its model calls."""

    @property
    def gain(self) -> float:
        return 1 / self.in_features

    @staticmethod
    def bent(x: torch.Tensor) -> torch.Tensor:
        return x.tanh()

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self.bent(self(self(x))) * self.gain


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Helpful(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer.twice(x)


def test_methods_of_a_subclass_run_with_the_layer_on_tiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Calling().eval(), torch.randn(5, 4)
    chip = mapped(net, x)
    assert list(chip.layers) == ["layer"]
    real = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    assert not torch.equal(real.copy(1).read(x, read=0), real.read(x, read=0))
    real.save(tmp_path / "chip")
    for loaded in (mho.load(tmp_path / "chip"), mho.load(tmp_path / "chip", model=net)):
        assert torch.equal(loaded.read(x, read=2), real.read(x, read=2))
    odd = type("Odd", (nn.Linear,), {"stored": lambda self, kind: 3})(4, 4)
    assert reasons(mapped(nn.Sequential(odd, nn.Linear(4, 2)), x)) == {"0": "its stored has another meaning on tiles"}


def test_a_subclass_of_a_recurrent_layer_is_expanded() -> None:
    torch.manual_seed(0)
    net, x = Recurring(3, 4), torch.randn(5, 6, 3)
    chip = mho.map(net.eval(), IDEAL, calibrate=x)
    assert "l0.gates" in chip.layers
    assert error(chip(x)[0], net(x)[0]) < 1e-5


def test_what_decides_is_what_a_call_runs() -> None:
    assert computes_as(Grandchild, (nn.Linear,)) is nn.Linear
    assert computes_as(Grandchild, (nn.Linear, Named)) is Named
    assert computes_as(nn.Linear, (nn.Conv2d,)) is None
    assert overrides(Halved, nn.Conv2d) == ["_conv_forward"]
    assert "_conv_forward" in overrides(type("Late", (Halved,), {}), nn.Conv2d)
    assert overrides(nn.BatchNorm2d, nn.BatchNorm2d) == []
    assert "_check_input_dim" in overrides(type("Any", (nn.BatchNorm2d,), {"_check_input_dim": print}), nn.BatchNorm2d)


def test_the_projection_of_attention_is_used_past_its_forward() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.attention(x, x, x)[0])

    torch.manual_seed(0)
    net, x = Attends().eval(), torch.randn(5, 3, 4)
    for check in (x, False):
        chip = mho.map(net, IDEAL, check=check)
        assert error(chip(x), net(x)) < 1e-5


def test_a_type_is_taken_by_its_name_once_it_is_imported() -> None:
    """As transformers' `Conv1D` is."""
    home = types.ModuleType("far_away")
    source = """
from torch import nn

class Bent(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(nn.Linear(4, 3).weight.detach()), None

    def forward(self, x):
        return x @ self.weight.T
"""

    class Bent(Linear):
        modules = ()
        named = ("far_away.Bent",)

        @classmethod
        def of(cls, module: Any) -> Any:
            return cls(in_features=4, out_features=3)

    LEAVES.add("test_bent", Bent)
    try:
        assert Bent.types() == ()
        exec(source, vars(home))
        sys.modules["far_away"] = home
        chip = mapped(nn.Sequential(home.Bent(), nn.ReLU()), torch.randn(5, 4))
        assert list(chip.layers) == ["0"]
        again = type("Again", (Bent,), {})
        with pytest.raises(TypeError, match=r"Again: far_away.Bent is taken by 'test_bent' already"):
            LEAVES.register("test_again")(again)
    finally:
        sys.modules.pop("far_away", None)
        del LEAVES._things["test_bent"]
    with pytest.raises(TypeError, match="modules must be a tuple of types"):
        LEAVES.register("test_none")(type("Nameless", (Linear,), {"modules": ()}))


class Squared(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight**2 - 0.1


HOW: dict[str, Any] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Squared()) and layer,
    "of the bias": lambda layer: parametrize.register_parametrization(layer, "bias", Squared()) and layer,
    "old weight norm": weight_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("how", [*HOW])
def test_parametrised_weights_are_those_of_evaluation(how: str) -> None:
    torch.manual_seed(0)
    layers = nn.ConvTranspose2d(3, 4, 2, 2), nn.Conv2d(4, 4, 3), Named(4)
    net = nn.Sequential(*(HOW[how](layer) for layer in layers))
    for norm, at in ((nn.BatchNorm2d(4), 1), (nn.SyncBatchNorm(4), 3)):
        norm.running_var.uniform_(0.5, 2)
        net.insert(at, norm)
    chip = mapped(net, torch.randn(4, 3, 3, 3))
    assert list(chip.layers) == ["0", "2", "4"]
    assert set(reasons(chip).values()) == {"folded into 0", "folded into 2"}
    assert chip.report().cover.on_tiles == sum(p.numel() for p in net.parameters())


def test_handlers_say_what_they_take() -> None:
    assert Handler.types() == ()
    assert leaf_of(Named(3)) is Linear

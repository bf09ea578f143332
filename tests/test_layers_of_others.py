"""Kinds of layers and expanders that are registered from outside the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.errors import MappingError
from mho.mapping.kinds.convolution import Convolution
from mho.mapping.kinds.expander import EXPANDERS, Expander
from mho.mapping.kinds.known import handled_types
from mho.mapping.kinds.leaf import LEAVES, Leaf
from mho.mapping.kinds.linear import Linear

IDEAL = mho.Hardware.preset("ideal")


class Scaled(nn.Linear):
    """A linear layer whose outputs have gains."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gain = nn.Parameter(torch.rand(outputs) + 0.5)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = functional.linear(input, self.weight * self.gain[:, None], self.bias)
        return y


class Child(Scaled):
    """It computes something else than its parent."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


class Gated(nn.Module):
    """sigmoid(A x) * (B x) with one parameter for both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_both = nn.Parameter(torch.randn(2 * outputs, inputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = functional.linear(x, self.weight_both).chunk(2, dim=-1)
        return gate.sigmoid() * value


class GatedLayers(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.both = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.both.weight = nn.Parameter(weight.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        return gate.sigmoid() * value


class ScaledLeaf(Linear):
    modules: ClassVar[tuple[type[nn.Module], ...]] = (Scaled,)
    holds: ClassVar[tuple[str, ...]] = ("gain",)

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        return {"weight": module.weight * module.gain[:, None], "bias": module.bias}


class GatedExpander(Expander):
    modules: ClassVar[tuple[type[nn.Module], ...]] = (Gated,)

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        return {"weight_both": module.weight_both}

    @classmethod
    def expand(cls, module: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        return GatedLayers(tensors["weight_both"]).eval()


@pytest.fixture
def registered() -> Iterator[None]:
    LEAVES.add("test_scaled", ScaledLeaf)
    EXPANDERS.add("test_gated", GatedExpander)
    yield
    del LEAVES._things["test_scaled"], EXPANDERS._things["test_gated"]


def mapped(net: nn.Module, x: torch.Tensor, hardware: mho.Hardware = IDEAL) -> mho.Chip:
    chip = mho.map(net.eval(), hardware, calibrate=x)
    if hardware is IDEAL:
        torch.testing.assert_close(chip(x), net(x), atol=1e-5, rtol=0)
    return chip


def test_a_registered_layer_is_one_like_any_other(registered: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(Scaled(6, 5), nn.BatchNorm1d(5), nn.Tanh(), Scaled(5, 4)), torch.randn(9, 6)
    net[1].running_mean.normal_()  # type: ignore[operator,union-attr]
    chip = mapped(net, x)
    assert list(chip.layers) == ["0", "3"]
    assert [d.reason for d in chip.digital] == ["folded into 0", "no weights"]
    other = mapped(net, x, mho.Hardware.preset("reram"))
    other.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(x, read=1), other.read(x, read=1))
    assert "test_scaled" in (tmp_path / "chip" / "chip.yaml").read_text(encoding="utf-8")


def test_subclasses_of_its_modules_and_what_they_hold_besides_stay_digital(registered: None) -> None:
    net = nn.Sequential(Child(6, 5), Scaled(5, 4), Scaled(4, 3))
    net[2].register_buffer("offset", torch.zeros(3))
    chip = mapped(net, torch.randn(9, 6))
    assert list(chip.layers) == ["1"]
    said = {d.name: d.reason for d in chip.digital}
    assert said["0"] == "a subclass of Scaled with its own forward, which may compute something else"
    assert said["2"] == "it holds offset of its own"


def test_a_registered_expander_puts_layers_in_the_place_of_a_module(registered: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(Gated(6, 5), nn.Linear(5, 4)), torch.randn(9, 6)
    chip = mapped(net, x)
    assert list(chip.layers) == ["0.both", "1"]
    (found,) = chip.digital
    assert (found.name, found.type, found.reason) == ("0", "Gated", Expander.reason)
    assert list(mho.map(net, IDEAL, calibrate=x, exclude="0").layers) == ["1"]
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(x, read=1), chip.read(x, read=1))
    assert torch.equal(mho.load(tmp_path / "chip", model=net).read(x, read=1), chip.read(x, read=1))


def test_without_a_handler_they_stay_digital() -> None:
    assert Scaled not in handled_types()
    with pytest.raises(MappingError, match="no layer to map"):
        mho.map(nn.Sequential(Scaled(6, 5), Gated(5, 4)), IDEAL)


class Wrong(ScaledLeaf):
    """Its weights are not those of its module."""

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        return {"weight": module.weight, "bias": module.bias}


class Odd(ScaledLeaf):
    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight[None]


class NoInverse(ScaledLeaf):
    def weight_of(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices[0].T.flip(1)


class Turned(ScaledLeaf):
    """Right in torch, and other inputs on its word lines."""

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        return super().arrange(x.flip(-1))


class Nowhere(ScaledLeaf):
    @classmethod
    def of(cls, module: Any) -> Any:
        return None


class Unnamed(ScaledLeaf):
    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        return {"kernel": module.weight}


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (Wrong, "layer '0': its output differs by .* from the caller's network"),
        (Odd, r"layer '0': Odd.matrices gives the shape \(1, 5, 6\), not \(1, 6, 5\)"),
        (NoInverse, "layer '0': NoInverse.weight_of does not give the weight that NoInverse.matrices made its"),
        (
            Turned,
            "layer '0': by way of `arrange` and `assemble`, as tiles read it, its output differs by .* from `digital`",
        ),
        (Nowhere, r"no layer to map.*Nowhere.of gave a NoneType"),
        (Unnamed, r"no layer to map.*Unnamed.tensors gave kernel: it must be weight and bias"),
    ],
)
def test_a_handler_that_does_not_do_what_its_module_does_is_an_error(leaf: type[Leaf], said: str) -> None:
    LEAVES.add("test_wrong", leaf)
    try:
        with pytest.raises(MappingError, match=said):
            mho.map(nn.Sequential(Scaled(6, 5)), IDEAL, calibrate=torch.randn(9, 6))
    finally:
        del LEAVES._things["test_wrong"]


class Incomplete(Leaf):
    modules: ClassVar[tuple[type[nn.Module], ...]] = (Scaled,)


class Twice(Linear):
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)


class Nothing(Linear):
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()


class Taken(GatedExpander):
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv2d,)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (
            Incomplete,
            "Incomplete: must define arrange, assemble, matrices, of, weight_of, see mho.mapping.kinds.leaf.Leaf",
        ),
        (Twice, "Twice: Linear is taken by 'linear' already"),
        (Nothing, "Nothing: modules must be a tuple of types of torch modules"),
        (nn.Linear, "'mine' must be a class derived from Leaf"),
        (GatedExpander, "'mine' must be a class derived from Leaf"),
    ],
)
def test_what_is_no_handler_is_not_registered(thing: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        LEAVES.register("mine")(thing)
    assert "mine" not in LEAVES.loaded()


def test_a_module_has_one_handler_of_either_sort() -> None:
    with pytest.raises(TypeError, match="Taken: Conv2d is taken by 'convolution' already"):
        EXPANDERS.add("convolution", Taken)
    assert "convolution" not in EXPANDERS


CONV = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)


@pytest.mark.parametrize("module", [nn.Linear(5, 3), CONV, nn.Conv1d(2, 3, 4, padding="same")])
def test_a_geometry_is_made_again_of_its_plain_data(module: nn.Module) -> None:
    kind = LEAVES["linear" if isinstance(module, nn.Linear) else "convolution"]
    leaf = kind.of(module)
    plain = leaf.describe()
    assert LEAVES[leaf.kind].build(plain) == leaf
    weight = module.weight.detach()  # type: ignore[union-attr,operator]
    assert torch.equal(leaf.weight_of(leaf.matrices(weight)), weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": [3, -1]}, "kernel.1 = -1: "),
        ({"kernel": [3, 2, 1]}, "stride must be 3 numbers like kernel, got 2"),
        ({"kernel": [1] * 4}, "kernel: "),
        ({"stride": [1, 1.5]}, "stride.1 = 1.5: "),
        ({"groups": 4}, "groups = 4 must divide 4 and 6"),
        ({"padding": [1]}, "padding must be 4 numbers or none, got 1"),
        ({"padding": [10**6] * 4}, "padding = .* makes more than"),
        ({"padding_mode": "wrap"}, "padding_mode"),
        ({"in_features": 0}, "in_features must be at least 1, got 0"),
        ({"dtype": "int8"}, "dtype"),
        ({"colour": "red"}, "has no field colour"),
    ],
)
def test_plain_data_that_are_no_geometry_are_refused_in_one_line(change: dict[str, Any], said: str) -> None:
    plain = Convolution.of(CONV).describe()
    with pytest.raises(ValueError, match=said) as caught:
        Convolution.build(plain | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "module", [CONV, nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), nn.Conv3d(4, 4, 2, groups=4)]
)
def test_the_digital_form_by_way_of_the_arranged_inputs_is_that_of_torch(module: Any) -> None:
    leaf, x = Convolution.of(module), torch.randn(3, 4, *(7, 6, 5)[: len(module.kernel_size)], requires_grad=True)
    found = Leaf.digital(leaf, x, leaf.matrices(module.weight), module.bias)
    torch.testing.assert_close(found, module(x), atol=1e-5, rtol=1e-4)
    (one,), (other,) = (torch.autograd.grad(y.square().sum(), x) for y in (found, module(x)))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


class Outer(nn.Module):
    """A module with a part that an expander takes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Gated(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + 1


class OuterExpander(GatedExpander):
    modules: ClassVar[tuple[type[nn.Module], ...]] = (Outer,)
    holds: ClassVar[tuple[str, ...]] = ("inner",)

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        return {"weight_both": module.inner.weight_both}

    @classmethod
    def expand(cls, module: Any, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        return Shifted(tensors["weight_both"])


class Shifted(GatedLayers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def test_parts_of_a_module_that_is_expanded_go_with_it(registered: None) -> None:
    EXPANDERS.add("test_outer", OuterExpander)
    try:
        torch.manual_seed(0)
        net, x = nn.Sequential(Outer(), Gated(6, 3)), torch.randn(9, 6)
        assert list(mapped(net, x).layers) == ["0.both", "1.both"]
        assert list(mapped(net[0], x).layers) == ["both"]
        kept = mho.map(net, IDEAL, calibrate=x, exclude="0")
        assert list(kept.layers) == ["1.both"]
        assert [(d.name, d.reason) for d in kept.digital if d.name.startswith("0")] == [("0", "excluded by name")]
    finally:
        del EXPANDERS._things["test_outer"]

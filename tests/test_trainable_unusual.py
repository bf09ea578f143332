"""Training through a chip with unusual networks and inputs: they do what the plain network does, or are refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from helpers import hardware
from torch import nn
from torch.nn.utils import parametrize, prune

import mho
from mho.mapping.errors import MappingError
from mho.mapping.trainable.layer import TrainedLayer
from mho.mapping.trainable.ranges import with_ranges
from mho.mapping.trainable.trainable import trainable

IDEAL = mho.Hardware.preset("ideal")


class Doubled(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return 2 * value


class First(nn.Module):
    """The first that a module gives."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        many = isinstance(self.inner, nn.MultiheadAttention)
        return self.inner(x, x, x)[0] if many else self.inner(x)[0]


def overridden() -> nn.Module:
    layer = nn.Linear(6, 6)
    plain = layer.forward
    layer.forward = lambda given: 2 * plain(given)  # type: ignore[method-assign, assignment]
    return layer


def doubled(layer: nn.Module, name: str) -> nn.Module:
    parametrize.register_parametrization(layer, name, Doubled())
    return layer if isinstance(layer, nn.Linear) else First(layer)


@pytest.mark.filterwarnings("ignore:mho.trainable. layer")
@pytest.mark.parametrize(
    "odd",
    [
        overridden,
        lambda: doubled(nn.Linear(6, 6), "bias"),
        lambda: prune.random_unstructured(nn.Linear(6, 6), "bias", 0.5),
        lambda: doubled(nn.LSTM(6, 6), "weight_hh_l0"),
        lambda: doubled(nn.GRU(6, 6), "bias_ih_l0"),
        lambda: doubled(nn.MultiheadAttention(6, 2), "in_proj_bias"),
        lambda: doubled(nn.MultiheadAttention(6, 2), "in_proj_weight"),
    ],
)
def test_what_is_computed_otherwise_is_kept(odd: Any) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(odd(), nn.Linear(6, 3)), torch.randn(8, 6)
    made = trainable(net, IDEAL, calibrate=x)
    assert list(made.state_dict()) == list(net.state_dict())
    torch.testing.assert_close(made(x), net(x), rtol=1e-4, atol=1e-5)
    made(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("layer", "shape", "x", "said"),
    [
        (nn.Linear(4, 3), (4,), torch.ones(2, 8), r"takes 4 features in dimension -1, got an input of shape \(2, 8\)"),
        (nn.Conv2d(2, 3, 3), (2, 5, 5), torch.ones(2, 4, 5, 5), "takes 2 channels in dimension -3"),
        (nn.Conv1d(2, 3, 3), (2, 5), torch.ones(2, 2, 2), "is smaller than the kernel"),
        (nn.Linear(4, 3), (4,), torch.ones(2, 4, dtype=torch.uint8), "takes floating-point inputs, got torch.uint8"),
    ],
)
def test_inputs_of_another_kind_are_refused(layer: nn.Module, shape: Any, x: torch.Tensor, said: str) -> None:
    made = trainable(layer, IDEAL, calibrate=torch.rand(4, *shape)).eval()
    with pytest.raises(MappingError, match=f"^layer '': ?{said}|^layer '' {said}|^layer '': .*{said}"):
        made(x)


def test_weights_that_are_not_finite_are_refused() -> None:
    for through_variance in (False, True):
        net, x = nn.Linear(4, 3), torch.rand(5, 4)
        made = trainable(net, hardware(), calibrate=x, through_variance=through_variance)
        with torch.no_grad():
            net.weight[0, 0] = float("nan")
        with pytest.raises(ValueError, match=r"^layer '': its weights are not finite \(NaN or infinite\)$"):
            made(x)


@pytest.mark.parametrize("ranges", ["averaged", "calibrated", "learned"])
def test_a_layer_whose_calibration_inputs_are_zero_is_trained(ranges: Any) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.ReLU(), nn.Linear(6, 5)), torch.rand(8, 6)
    made: Any = trainable(net, hardware(), calibrate=-x, ranges=ranges).train()
    assert made(-x).isfinite().all()
    with_ranges(hardware(), made)
    for _ in range(2):
        made(x)
    if ranges == "averaged":  # the first inputs there are say the range
        assert float(made[1].limit) == float(x.max())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_a_network_that_is_cast_keeps_its_ranges(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(6, 5), torch.rand(8, 6)
    made = trainable(net, hardware(), calibrate=x)
    assert isinstance(made, TrainedLayer)
    before = float(made.limit)  # type: ignore[arg-type]
    made.to(kind)
    assert float(made.limit) == before  # type: ignore[arg-type]
    y = made(x.to(kind))
    y.sum().backward()
    assert y.dtype == kind
    assert net.weight.grad is not None
    assert net.weight.grad.dtype == kind


@pytest.mark.parametrize("how", ["pickle", "assign"])
def test_weights_that_took_the_place_of_others_are_clipped(how: str) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(6, 5), torch.rand(8, 6)
    made: Any = trainable(net, hardware(), calibrate=x, clip=1.5)
    made(x)
    if how == "pickle":
        made(x)
        made = pickle.loads(pickle.dumps(made))
    else:
        made.load_state_dict({name: value.clone() for name, value in net.state_dict().items()}, assign=True)
    while made.weight._version < net.weight._version:  # the version does not tell them apart
        with torch.no_grad():
            made.weight[0, 0] = 100.0
    with torch.no_grad():
        made.weight.data[0, 0] = 100.0
    made(x)
    assert float(made.weight.detach()[0, 0]) < 90.0


def test_a_network_that_is_trained_through_a_chip_is_not_mapped_itself() -> None:
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(8, 6)
    made = trainable(net, hardware(), calibrate=x, exclude=["2"])
    for use in (mho.map, trainable):
        with pytest.raises(MappingError, match=r"^model is what mho\.trainable gave"):
            use(made, hardware(), calibrate=x)


@pytest.mark.parametrize("options", [{}, {"through_variance": True}, {"ranges": "learned"}])
@pytest.mark.parametrize("fields", [{}, {"tile.bias": "array"}, {"cell.stuck.at_g_min": 0.1}, {"adc.full_scale": 1e-4}])
def test_torchs_default_type_may_be_another(options: dict[str, Any], fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(6, 5), torch.rand(8, 6)
    before, found = torch.get_default_dtype(), []
    try:
        for kind in (torch.float64, before):
            torch.set_default_dtype(kind)
            torch.manual_seed(1)
            y = trainable(net, hardware(**fields), calibrate=x, **options)(x)
            y.sum().backward()
            found.append(y)
            assert y.dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)

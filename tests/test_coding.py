"""`mho.coded`: more outputs than a layer needs, and a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import mho
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.coding import Code
from mho.mapping.errors import MappingError
from mho.mapping.fold import foldable

CASES: list[tuple[Code, int]] = [("hadamard", 8), ("hadamard", 64), ("repetition", 5), ("repetition", 20)]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5)).eval()


@pytest.mark.parametrize(("code", "n"), CASES)
def test_it_computes_what_the_network_computes(code: Code, n: int) -> None:
    net = network().double()
    made = mho.coded(net, {"3": n}, code=code)
    x = torch.randn(11, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), net(x), rtol=1e-12, atol=1e-12)
    assert made.get_submodule("3.coded").weight.shape == (n, 7)
    assert net[3].out_features == 5


@pytest.mark.parametrize("shape", [(7,), (2, 7), (3, 4, 7)])
@pytest.mark.parametrize(("code", "n"), CASES)
def test_it_takes_inputs_of_any_shape(code: Code, n: int, shape: tuple[int, ...]) -> None:
    layer = nn.Linear(7, 5, bias=False)
    made = mho.coded(layer, {"": n}, code=code)
    x = torch.randn(shape)
    torch.testing.assert_close(made(x), layer(x))


@pytest.mark.parametrize(("code", "n"), [("hadamard", 16), ("repetition", 15)])
@pytest.mark.parametrize("noise", ["add", "mult"])
def test_noise_of_readings_is_averaged_as_it_says(code: Code, n: int, noise: str) -> None:
    """Of a Hadamard code sigma^2 / n and sigma^2 |y|^2 / n on each output; of r repetitions sigma^2 (y^2) / r."""
    net, sigma = network().double(), 0.3
    made = mho.coded(net, {"3": n}, code=code)
    x = torch.randn(1, 6, dtype=torch.float64)
    y = net(x)[0]
    with torch.no_grad(), mho.noisy(made, **{f"sigma_{noise}": sigma}, layers="3.coded", seed=1):  # type: ignore[arg-type]
        spread = made(x.expand(40_000, 6)).var(0)
    of = torch.ones_like(y) if noise == "add" else y**2
    if code == "hadamard":  # each output has the mean of all
        of = of.mean().expand(5) if noise == "add" else of.sum().expand(5)
    wanted = sigma**2 * of / (n if code == "hadamard" else n / 5)
    torch.testing.assert_close(spread, wanted, rtol=0.05, atol=0)


def test_one_read_of_a_code_does_what_votes_do() -> None:
    """The CNN of the paper with its noise of 1.0 everywhere: 77 % in one read, 99.5 % in 20."""
    net = mho.models.mnist_cnn(weights="sigma-1.0").eval()
    images, labels = mho.models.data.mnist("test")
    images, labels = images[::40], labels[::40]
    found = {}
    for n in (None, 32):
        made = net if n is None else mho.coded(net, {"fc2": n})
        with torch.inference_mode(), mho.noisy(made, sigma_mult=1.0, seed=1):
            found[n] = float((made(images).argmax(1) == labels).float().mean())
    assert found[None] < 0.85
    assert found[32] > 0.95


def test_batch_norms_fold_in_the_copy_too() -> None:
    assert foldable(mho.coded(network(), {"3": 16})).behind == {"0": "1"}


@pytest.mark.parametrize(("code", "n", "work"), [("hadamard", 32, 5 * 32 + 5), ("repetition", 10, 10)])
def test_a_chip_reads_more_columns_and_decodes_digitally(code: Code, n: int, work: int, tmp_path: Path) -> None:
    x = torch.rand(64, 6)
    chip = mho.map(mho.coded(network(), {"3": n}, code=code), mho.Hardware.preset("reram"), calibrate=x)
    plain = mho.map(network(), mho.Hardware.preset("reram"), calibrate=x)
    assert list(chip.layers) == ["0", "3.coded"]
    assert chip.layers["3.coded"].out_features == n
    digital = [call for call in chip.trace if call.layer == "3.coded" and call.digital]
    assert sum(call.work for call in digital) == work
    assert layer_costs(chip)["energy_adc_j"].sum() > layer_costs(plain)["energy_adc_j"].sum()
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip")(x), chip(x))


def test_a_layer_under_two_names_is_coded_under_both() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net.append(net[0])
    made = mho.coded(net, {"0": 8})
    assert made.get_submodule("2") is made.get_submodule("0")
    x = torch.randn(5, 4)
    torch.testing.assert_close(made(x), net(x))


def test_layers_that_fused_kernels_pass_by_are_coded_too() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(mho.coded(net, {"linear1": 16, "linear2": 8})(x), net(x), rtol=1e-4, atol=1e-5)


def test_type_training_and_gradients_are_those_of_the_layer() -> None:
    net = network().bfloat16().train()
    net[3].bias.requires_grad_(False)
    made = mho.coded(net, {"3": 8}).get_submodule("3")
    coded = made.get_submodule("coded")
    assert made.training
    assert (coded.weight.dtype, coded.weight.requires_grad, coded.bias.requires_grad) == (torch.bfloat16, True, False)


@pytest.mark.parametrize(
    ("outputs", "code", "said"),
    [
        ({"3": 12}, "hadamard", "outputs: layer '3' must have a power of two of at least 5 outputs .*, got 12"),
        ({"3": 4}, "hadamard", "outputs: layer '3' must have a power of two of at least 5 outputs .*, got 4"),
        ({"3": 8.0}, "hadamard", "got 8.0"),
        ({"3": True}, "hadamard", "got True"),
        ({"3": 8}, "repetition", "outputs: layer '3' must have a multiple of its 5 outputs .*, got 8"),
        ({"3": 0}, "repetition", "got 0"),
        ({"2": 8}, "hadamard", "outputs: layer '2' must be a torch.nn.Linear, got ReLU"),
        ({"head": 8}, "hadamard", "outputs: no layer 'head'; linear layers are '0', '3'"),
        ({"3": 8}, "golay", "code must be one of hadamard, repetition, got 'golay'"),
    ],
)
def test_what_cannot_be_coded_is_an_error(outputs: dict[str, Any], code: Any, said: str) -> None:
    with pytest.raises(MappingError, match=said):
        mho.coded(network(), outputs, code=code)


def test_what_is_no_network_or_would_be_lost_is_an_error() -> None:
    with pytest.raises(MappingError, match=r"model must be a torch\.nn\.Module, got int"):
        mho.coded(3, {"": 8})  # type: ignore[arg-type]
    with pytest.raises(MappingError, match=r"outputs must say how many by the name of a layer, as .*, got \['3'\]"):
        mho.coded(network(), ["3"])  # type: ignore[arg-type]
    net = network()
    with mho.noisy(net, sigma_mult=0.1), pytest.raises(MappingError, match="layer '3' has hooks or a forward of its"):
        mho.coded(net, {"3": 8})
    pruned = nn.Sequential(nn.utils.prune.l1_unstructured(nn.Linear(3, 4), "weight", 2))
    with pytest.raises(MappingError, match="layer '0' has hooks"):
        mho.coded(pruned, {"0": 8})
    with pytest.raises(MappingError, match=r"layer '0' must be a torch\.nn\.Linear, got Param"):
        mho.coded(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))), {"0": 8})


def sweep(tmp_path: Path, **more: Any) -> pd.DataFrame:
    asked = {"experiment": "accuracy", "model": "mnist_cnn", "weights": "sigma-0.5", "images": 40, "calibrate": 20}
    hardware = {"hardware": "ideal", "grid": {"output_noise.sigma_mult": 0.6, **more.pop("grid", {})}}
    return mho.sweep({**asked, **hardware, **more}, out=tmp_path, jobs=1)


def test_sweeps_take_it_as_a_setting(tmp_path: Path) -> None:
    found = sweep(tmp_path / "grid", grid={"coded": [None, {"fc2": 32}]})
    assert found.coded.isna()[0]
    assert found.coded[1] == '{"fc2": 32}'
    assert found.accuracy[0] < found.accuracy[1]
    again = sweep(tmp_path / "again", coded=found.coded[1])  # as the page of a sweep writes it
    assert again.accuracy[0] == found.accuracy[1]
    assert again.task_id[0] == found.task_id[1]


@pytest.mark.parametrize(
    ("coded", "said"),
    [
        ({"conv1": 32}, "coded: outputs: layer 'conv1' must be a torch.nn.Linear, got Conv2d"),
        ("fc2", "coded = 'fc2': expected names of layers and numbers of outputs"),
        ({"fc2": "many"}, "coded.fc2 = 'many'"),
    ],
)
def test_sweeps_refuse_what_cannot_be_coded(tmp_path: Path, coded: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweep(tmp_path / "run", coded=coded)
    assert not (tmp_path / "run").exists()

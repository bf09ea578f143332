"""The CNN of Table 1, its committed weights, and the noise layer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import ideal
from scipy import stats
from torch import nn

import mho
from mho.models import densenet22, densenet40, densenet100, mnist_cnn, mnist_cnn4, resnet32, weights
from mho.models.attacks import TABLE_10, pgd
from mho.models.data import mnist
from mho.models.densenet import densenet
from mho.models.noise import MANY, Noise, normal_like, set_inference_noise
from mho.models.train import evaluate

SETS = ("sigma-0.0", "sigma-0.5")


def made(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((weights.FOLDER / "mnist_cnn" / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def test_the_layers_are_those_of_table_1() -> None:
    net = mnist_cnn().eval()
    shapes = []
    for layer in net:
        layer.register_forward_hook(lambda module, _, out: shapes.append((type(module).__name__, tuple(out.shape[1:]))))
    net(torch.zeros(2, 1, 28, 28))
    block = ("Conv2d", "BatchNorm2d", "Noise", "ReLU")
    assert shapes == [
        *((kind, (32, 26, 26)) for kind in block),
        *((kind, (32, 24, 24)) for kind in block),
        ("MaxPool2d", (32, 12, 12)),
        *((kind, (64, 10, 10)) for kind in block),
        *((kind, (64, 8, 8)) for kind in block),
        ("MaxPool2d", (64, 4, 4)),
        ("Flatten", (1024,)),
        *((kind, (256,)) for kind in ("Linear", "BatchNorm1d", "Noise", "ReLU")),
        ("Linear", (10,)),
        ("Noise", (10,)),
    ]


def test_layers_have_the_names_that_checkpoints_know() -> None:
    blocks = [f"conv{i} norm{i} noise{i} relu{i}{f' pool{i // 2}' if i % 2 == 0 else ''}" for i in (1, 2, 3, 4)]
    expected = [*blocks, "flatten fc1 norm5 noise5 relu5 fc2 noise6"]
    assert [name for name, _ in mnist_cnn().named_children()] == " ".join(expected).split()


@pytest.mark.parametrize(("noise", "parameters"), [("mult", 330_858), ("add", 329_962)])
def test_kernels_and_parameters(noise: Any, parameters: int) -> None:
    net = mnist_cnn(noise=noise, sigma_train=0.3)
    for conv in (module for module in net if isinstance(module, nn.Conv2d)):
        assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (0, 0))
    assert sum(p.numel() for p in net.parameters()) == parameters
    layers = [(module.kind, module.sigma_train, module.sigma_val) for module in net if isinstance(module, Noise)]
    assert layers == [(noise, 0.3, 0.0)] * 6


def test_all_matrix_layers_go_onto_tiles_exactly() -> None:
    """Six layers, five batch norms folded in, and nothing else that holds weights."""
    torch.manual_seed(0)
    net = mnist_cnn().eval().requires_grad_(False)
    for norm in (m for m in net if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        for part, low, high in (("running_mean", -0.2, 0.2), ("running_var", 0.1, 0.5), ("weight", 0.5, 1.5)):
            getattr(norm, part).data.uniform_(low, high)
        norm.bias.data.uniform_(-0.3, 0.3)
    images = torch.rand(4, 1, 28, 28)
    chip = mho.map(net, ideal())
    assert list(chip.layers) == ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2"]
    reasons = {digital.name: digital.reason for digital in chip.digital}
    folded = {f"norm{i}": f"folded into {layer}" for i, layer in enumerate(list(chip.layers)[:5], start=1)}
    assert {name: reason for name, reason in reasons.items() if reason != "no weights"} == folded
    exact = net(images)
    assert (chip(images) - exact).abs().max() < 1e-4 * exact.abs().max()
    assert [layer.positions for layer in chip.layers.values()] == [26 * 26, 24 * 24, 10 * 10, 8 * 8, 1, 1]


@pytest.mark.parametrize(("noise", "affine"), [("mult", True), ("add", False)])
def test_additive_noise_has_batch_norm_without_gain_and_shift(noise: Any, affine: bool) -> None:
    norms = [m for m in mnist_cnn(noise=noise) if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 5
    assert all((norm.weight is not None) == affine for norm in norms)


def test_tracing_gives_the_same_network() -> None:
    net, images = mnist_cnn(SETS[0]), mnist("test")[0][:8]
    traced = torch.fx.symbolic_trace(net)
    assert torch.equal(traced(images), net(images))
    assert not any(node.op in ("call_function", "call_method") for node in traced.graph.nodes)


@pytest.mark.parametrize("name", ["sigma-9", "sigma-0.5.yaml", "../sigma-0.5", ""])
def test_unknown_weights_are_refused_with_those_there(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*sigma-0\.0, .*sigma-0\.5, .*got"):
        mnist_cnn(name)


@pytest.mark.parametrize("name", SETS)
def test_committed_weights_classify_as_recorded(name: str) -> None:
    record = made(name)
    net = mnist_cnn(name)
    assert not net.training
    assert all(value.dtype == torch.float32 for value in net.parameters())
    assert record["recipe"]["sigma_train"] == float(name.removeprefix("sigma-"))
    assert record["recipe"]["noise"] == "mult"
    assert {"command", "versions", "machine", "date", "seconds"} <= set(record)
    # in this layout and in these batches twice as fast
    accuracy = evaluate(net.to(memory_format=torch.channels_last), *mnist("test"), batch_size=50)
    assert accuracy >= 0.993
    # another processor may round a borderline picture the other way
    assert accuracy == pytest.approx(record["test_accuracy_as_stored"], abs=3e-4)
    assert abs(record["test_accuracy_as_stored"] - record["test_accuracy"]) <= 2e-4


def test_training_with_noise_shows_under_noise() -> None:
    images, labels = (part[:1000] for part in mnist("test"))
    errors = []
    for name in SETS:
        net = mnist_cnn(name)
        set_inference_noise(net, 0.6)
        torch.manual_seed(0)
        errors.append(1 - evaluate(net, images, labels))
    assert errors[1] < errors[0] / 2


def test_the_network_of_madry() -> None:
    net = mnist_cnn4(sigma_train=0.3).eval()
    shapes = []
    for layer in net:
        layer.register_forward_hook(lambda module, _, out: shapes.append((type(module).__name__, tuple(out.shape[1:]))))
    net(torch.zeros(2, 1, 28, 28))
    matrices = [shape for kind, shape in shapes if kind in ("Conv2d", "Linear")]
    assert matrices == [(32, 28, 28), (64, 14, 14), (1024,), (10,)]
    assert [kind for kind, _ in shapes[:4]] == ["Conv2d", "Noise", "ReLU", "MaxPool2d"]
    assert [m.sigma_train for m in net if isinstance(m, Noise)] == [0.3] * 4
    assert mnist_cnn4(noise="add").noise1.kind == "add"


@pytest.mark.parametrize(
    ("build", "depth", "millions"), [(densenet22, 22, 0.3), (densenet40, 40, 1.0), (densenet100, 100, 7.0)]
)
def test_the_densenets(build: Any, depth: int, millions: float) -> None:
    """The parameters of depths 40 and 100 are those of Huang et al. (2017), Table 2."""
    net = build()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth
    assert sum(isinstance(m, Noise) for m in net.modules()) == depth
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
    with pytest.raises(ValueError, match=rf"weights of densenet{depth} must be one of"):
        build("sigma-9")


def test_the_residual_network() -> None:
    """The layers and parameters (0.46 million) are those of He et al. (2016), section 4.2."""
    net = resnet32(sigma_train=0.2).eval()
    kinds = [type(m) for m in net.modules()]
    assert kinds.count(nn.Conv2d) + kinds.count(nn.Linear) == kinds.count(Noise) == 32
    assert sum(p.numel() for p in net.parameters()) == 464_154
    assert {m.sigma_train for m in net.modules() if isinstance(m, Noise)} == {0.2}
    x = torch.rand(2, 16, 8, 8)
    wider = net.block2_1  # halves the size: its shortcut takes every other pixel, and zeros for new channels
    with torch.no_grad():
        wider.norm2.weight.zero_()
        y = wider(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()
    with pytest.raises(ValueError, match="weights of resnet32 must be one of"):
        resnet32("sigma-9")


def test_a_small_densenet_is_attacked() -> None:
    torch.manual_seed(0)
    net = densenet(depth=7, growth=4)
    images = torch.rand(4, 3, 32, 32)
    labels = net.eval()(images).argmax(1)
    found = pgd(net, images, labels, TABLE_10["cifar10"])
    assert float(found.distance(images, math.inf).max()) <= 8 / 256 + 1e-7
    assert bool(found.fooled.any())


def test_saved_weights_come_back(tmp_path: Path) -> None:
    net = mnist_cnn()
    with torch.no_grad():
        net.norm1.running_var.fill_(1e-9)
        net.fc1.weight[0, 0] = 1e5
    weights.save_weights(net, tmp_path, "some", {"seed": 3})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.safetensors", "some.yaml"]
    back = weights.load_saved(mnist_cnn(), tmp_path / "some.safetensors").state_dict()
    for key, value in net.state_dict().items():
        assert back[key].dtype == value.dtype
        torch.testing.assert_close(back[key], value, rtol=2**-11, atol=2**-25)
        if value.ndim < 2:
            assert torch.equal(back[key], value)
    assert back["fc1.weight"][0, 0] == 1e5


@pytest.mark.parametrize("kind", ["mult", "add"])
@pytest.mark.parametrize("training", [True, False])
def test_noise_has_the_moments_of_the_paper(kind: Any, training: bool) -> None:
    sigma, n = 0.3, 1_000_000
    layer = Noise(kind, sigma, 0.0) if training else Noise(kind, 0.0, sigma)
    torch.manual_seed(1)
    y = layer.train(training)(torch.full((n,), 2.0)).double()
    expected = 2 * sigma if kind == "mult" else sigma

    def off(std: float) -> tuple[float, float]:
        """Distance of mean and standard deviation from N(2, std^2), in their standard errors."""
        return abs(y.mean().item() - 2) / std * math.sqrt(n), abs(y.std().item() / std - 1) * math.sqrt(2 * n)

    assert max(off(expected)) < 5
    assert off(1.01 * expected)[1] > 5


@pytest.mark.parametrize(("kind", "std"), [("mult", 0.6), ("add", 0.3)])
def test_noise_is_normal_and_each_element_has_its_own(kind: Any, std: float) -> None:
    torch.manual_seed(2)
    layer, n = Noise(kind, 0.3), 1_000_000
    first, second = ((layer(torch.full((n,), -2.0)).double() + 2) / std for _ in range(2))
    for z in (first, second):
        assert stats.kstest(z.numpy(), "norm", method="asymp").pvalue > 1e-3
        assert stats.kstest(1.01 * z.numpy(), "norm", method="asymp").pvalue < 1e-3  # negative control
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs((a * b).mean()) < 5 / math.sqrt(n)
    assert abs((first * first).mean()) > 5 / math.sqrt(n)  # negative control


@pytest.mark.parametrize("side", [5, 50])
def test_noise_is_drawn_flat_in_the_layout_of_its_input(side: int) -> None:
    """Few and many of them, of a seed; on any number of threads."""
    x = torch.empty(4, 3, 40, side).to(memory_format=torch.channels_last)
    assert (x.numel() >= MANY) == (side == 50)
    drawn = []
    for like, threads in ((x, 1), (x, 2), (torch.empty(x.numel()), 1)):
        torch.manual_seed(7)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        drawn.append(normal_like(like))
        torch.set_num_threads(before)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0].permute(0, 2, 3, 1).flatten(), drawn[2])


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_graphs_draw_anew_in_each_call() -> None:
    x, noise = torch.ones(300, 100), Noise("mult", 0.0, 0.5).eval()
    assert x.numel() >= MANY
    made = {
        "fx": torch.fx.symbolic_trace(nn.Sequential(noise)),
        "trace": torch.jit.trace(noise, x, check_trace=False),
        "export": torch.export.export(noise, (x,)).module(),
        "compile": torch.compile(noise, backend="eager", fullgraph=True),
        "vmap": torch.func.vmap(noise, randomness="different"),
    }
    for name, graph in made.items():
        first, second = graph(x), graph(x)
        assert abs((first * second).mean() - 1) < 0.05, name
        assert abs(first.std() - 0.5) < 0.02, name
        assert len(first.unique()) > 0.9 * x.numel(), name


@pytest.mark.parametrize("kind", ["mult", "add"])
def test_no_noise_is_the_identity(kind: Any) -> None:
    x = torch.randn(4, 3)
    assert Noise(kind, 0.5).eval()(x) is x
    assert Noise(kind, 0.0, 0.5).train()(x) is x


@pytest.mark.parametrize("kind", ["mult", "add"])
def test_noise_leaves_input_and_layout_alone(kind: Any) -> None:
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    before = x.detach().clone()
    y = Noise(kind, 0.5)(x)
    y.sum().backward()
    assert torch.equal(x.detach(), before)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    expected = (y / x).detach() if kind == "mult" else torch.ones_like(before)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gauss", 0.1), "noise must be 'mult' or 'add', got 'gauss'"),
        (("mult", -0.1), "sigma_train must be at least 0 and finite, got -0.1"),
        (("add", math.nan), "sigma_train must be at least 0"),
        (("add", 0.0, math.inf), "sigma_val must be at least 0"),
    ],
)
def test_impossible_noise_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Noise(*arguments)


def test_inference_noise_is_set_in_all_layers() -> None:
    net = mnist_cnn(sigma_train=0.2)
    set_inference_noise(net, 0.4)
    found = [(m.sigma_train, m.sigma_val) for m in net if isinstance(m, Noise)]
    assert found == [(0.2, 0.4)] * 6
    with pytest.raises(ValueError, match="sigma_val must be at least 0"):
        set_inference_noise(net, -1.0)


def test_the_package_names_its_parts() -> None:
    assert mho.models.mnist_cnn is mnist_cnn
    assert mho.models.data.mnist is mnist

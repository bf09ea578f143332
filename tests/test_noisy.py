"""`mho.noisy`: the noise of the paper by hooks, against the package's own noisy networks and against torch."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import small_cnn
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import mho
from mho.mapping.errors import MappingError
from mho.models.noise import set_inference_noise

NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "cnn": (mho.models.mnist_cnn, (1, 28, 28)),
    "cnn4": (mho.models.mnist_cnn4, (1, 28, 28)),
    "lstm": (mho.models.stroke_lstm, (50, 2)),
    "densenet": (mho.models.densenet22, (3, 32, 32)),
    "resnet": (mho.models.resnet32, (3, 32, 32)),
}


def network(name: str, **options: Any) -> tuple[nn.Module, torch.Tensor]:
    factory, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = factory(**options)
    return net, torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))


def seeded(net: nn.Module, x: torch.Tensor, seed: int = 5) -> torch.Tensor:
    torch.manual_seed(seed)
    return net(x)


@pytest.mark.parametrize("kind", ["mult", "add"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_noise_of_the_own_networks_bit_for_bit(name: str, kind: str) -> None:
    own, x = network(name, noise=kind)
    plain, _ = network(name, noise=kind)
    own.eval(), plain.eval()
    set_inference_noise(own, 0.3)
    with torch.no_grad():
        expected = seeded(own, x)
        with mho.noisy(plain, **{f"sigma_{kind}": 0.3}):
            assert torch.equal(seeded(plain, x), expected)
        with mho.noisy(plain, **{f"sigma_{kind}": 0.3}, seed=5):
            assert torch.equal(plain(x), expected)
        assert not torch.equal(seeded(plain, x), expected)


@pytest.mark.parametrize("name", ["cnn", "cnn4", "lstm", "resnet"])
def test_training_has_the_same_noise_and_gradients(name: str) -> None:
    own, x = network(name, sigma_train=0.3)
    plain, _ = network(name)
    own.train(), plain.train()
    seeded(own, x).square().sum().backward()
    with mho.noisy(plain, sigma_mult=0.3):
        seeded(plain, x).square().sum().backward()
    for one, other in zip(own.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_a_dense_block_in_training_does_not_pass_the_noise_by() -> None:
    net, _ = network("densenet")
    net.train()
    block = net.get_submodule("block1")
    features = torch.rand(2, 16, 8, 8)
    plain = block(features)
    with mho.noisy(net, sigma_mult=0.5, layers="block1.*", seed=0) as noise:
        assert len(noise.layers) == len(block)
        assert not torch.allclose(block(features), plain, rtol=0.1)
    assert torch.equal(block(features), plain)


def test_both_noises_have_their_sizes() -> None:
    net = nn.Linear(4, 100_000)
    x = torch.randn(1, 4)
    with torch.no_grad():
        y = net(x)
        with mho.noisy(net, sigma_mult=0.2, sigma_add=0.1, seed=3):
            error = net(x) - y
    expected = (0.04 * y.double().square() + 0.01).mean()
    assert abs(error.double().square().mean() / expected - 1) < 5 * (3 / 100_000) ** 0.5
    assert abs(error.double().mean()) < 5 * (expected / 100_000) ** 0.5


def test_it_falls_behind_a_batch_norm_that_a_chip_folds() -> None:
    net = small_cnn()
    with mho.noisy(net, sigma_mult=0.5) as noise:
        assert noise.layers == {"0": "1", "3": "3", "7": "7"}
    with mho.noisy(net, sigma_mult=0.5, exclude="1") as noise:
        assert noise.layers == {"0": "0", "3": "3", "7": "7"}
    with mho.noisy(net, sigma_mult=0.5, layers=["0", "7"], exclude=["7"]) as noise:
        assert noise.layers == {"0": "1"}
        assert noise.without == ("3", "7")
    chip = mho.map(net, mho.Hardware.paper(sigma_mult=0.5), check=False)
    assert list(chip.layers) == ["0", "3", "7"]


def test_a_model_that_cannot_be_traced_is_told_where_its_noise_falls() -> None:
    class Untraced(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)  # torch.fx cannot know which

    net = Untraced(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    with pytest.warns(
        UserWarning, match=r"noise falls in front of batch norm '1', as torch\.fx cannot trace the model"
    ):
        noise = mho.noisy(net, sigma_mult=0.1)
    assert noise.layers == {"0": "0"}
    noise.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mho.noisy(net, sigma_mult=0.1, exclude="1")


@pytest.mark.parametrize("sigma_mult", [0.0, 0.4])
def test_it_is_what_the_exact_mode_of_a_chip_has(sigma_mult: float) -> None:
    """Mean and spread of many reads, in statistics: `Hardware.paper` draws other numbers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 4)).eval()
    net[1].running_mean.uniform_(-1, 1)
    x = torch.rand(1, 20).expand(4000, 20)
    chip = mho.map(net, mho.Hardware.paper(sigma_mult=sigma_mult, sigma_add=0.1), check=False)
    with torch.no_grad(), mho.noisy(net, sigma_mult=sigma_mult, sigma_add=0.1, seed=0):
        ours = net(x)
    theirs = chip(x)
    spread = theirs.std(0)
    assert (abs(ours.mean(0) - theirs.mean(0)) < 5 * spread * (2 / 4000) ** 0.5).all()
    assert (abs(ours.std(0) / spread - 1) < 5 / 4000**0.5).all()


RECURRENT = [
    lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True),
    pytest.param(
        lambda: nn.LSTM(3, 5, proj_size=2, bias=False),
        marks=pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
    ),
    lambda: nn.GRU(3, 5, num_layers=2),
    lambda: nn.RNN(3, 5, nonlinearity="relu"),
    lambda: nn.LSTM(3, 5, dtype=torch.float64),
]


@pytest.mark.parametrize("make", RECURRENT)
def test_recurrent_layers_by_steps_are_those_of_torch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = make()
    x = torch.rand(4, 6, 3, dtype=next(net.parameters()).dtype, requires_grad=True)

    def passed() -> tuple[Any, list[torch.Tensor]]:
        net.zero_grad()
        output, state = net(x)
        (gradient,) = torch.autograd.grad(output.square().sum(), x, retain_graph=True)
        output.square().sum().backward()
        return (output, state), [gradient, *(p.grad.clone() for p in net.parameters())]

    (output, state), gradients = passed()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with mho.noisy(net, sigma_mult=0.0) as noise:
        assert all("." in name for name in noise.layers)
        assert list(net.state_dict()) == list(before)
        (ours, ours_state), ours_gradients = passed()
        torch.testing.assert_close(ours, output)
        torch.testing.assert_close(ours_state, state)
        torch.testing.assert_close(ours_gradients, gradients)
        noise.sigma_mult = 0.5
        (noisy, _), noisy_gradients = passed()
        assert not torch.allclose(noisy, output, rtol=0.01)
        assert all(g.isfinite().all() and g.any() for g in noisy_gradients)
    assert "forward" not in vars(net)
    assert torch.equal(net(x)[0], output)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_cells_and_packed_sequences_have_noise_too(kind: str) -> None:
    cell, x = getattr(nn, f"{kind}Cell")(3, 5), torch.rand(2, 3)
    first = (lambda y: y[0]) if kind == "LSTM" else (lambda y: y)
    plain = first(cell(x))
    with mho.noisy(cell, sigma_mult=0.0) as noise:
        torch.testing.assert_close(first(cell(x)), plain)
        noise.sigma_add = 1.0
        assert not torch.allclose(first(cell(x)), plain, atol=0.05)
    layer, packed = getattr(nn, kind)(3, 5), pack_padded_sequence(torch.rand(4, 2, 3), torch.tensor([4, 2]))
    plain = layer(packed)[0].data
    with mho.noisy(layer, sigma_mult=0.0):
        torch.testing.assert_close(layer(packed)[0].data, plain)


def test_the_gates_of_an_lstm_have_the_noise_of_the_paper() -> None:
    """nn.LSTM against the package's own LSTM with the same weights, and the same numbers drawn."""
    torch.manual_seed(0)
    own = mho.models.stroke_lstm().eval()
    lstm = nn.LSTM(2, 128, batch_first=True)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(own.gates.weight[:, :2])
        lstm.weight_hh_l0.copy_(own.gates.weight[:, 2:])
        lstm.bias_ih_l0.copy_(own.gates.bias)
        lstm.bias_hh_l0.zero_()
        x = 28 * torch.rand(3, 50, 2)
        set_inference_noise(own, 0.4)
        own.output_noise.sigma_val = 0.0
        expected = seeded(own, x)
        with mho.noisy(lstm, sigma_mult=0.4):
            torch.manual_seed(5)
            last = own.output(lstm((x - 14) / 14)[0][:, -1])
    torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-4)


def attentions() -> list[tuple[nn.MultiheadAttention, tuple[torch.Tensor, ...], dict[str, Any]]]:
    torch.manual_seed(0)
    x, y = torch.rand(2, 5, 8), torch.rand(2, 7, 8)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[0, 5:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    return [
        (nn.MultiheadAttention(8, 2, batch_first=True), (x, x, x), {}),
        (nn.MultiheadAttention(8, 2), (x.transpose(0, 1),) * 3, {"need_weights": False}),
        (nn.MultiheadAttention(8, 2, batch_first=True), (x, y, y), {"key_padding_mask": mask}),
        (
            nn.MultiheadAttention(8, 2, batch_first=True, bias=False, add_bias_kv=True, add_zero_attn=True),
            (x, y, y),
            {},
        ),
        (nn.MultiheadAttention(8, 2, kdim=8, vdim=6, batch_first=True), (x, y, y[..., :6]), {}),
        (nn.MultiheadAttention(8, 2), (x[0], x[0], x[0]), {"attn_mask": causal, "is_causal": True}),
    ]


@pytest.mark.parametrize("which", range(6))
@pytest.mark.parametrize("training", [False, True])
def test_attention_by_its_projections_is_that_of_torch(which: int, training: bool) -> None:
    net, inputs, named = attentions()[which]
    net.train(training)
    with torch.set_grad_enabled(training):
        plain = net(*inputs, **named)
        with mho.noisy(net, sigma_mult=0.0) as noise:
            assert list(noise.layers) == ["in_proj", "out_proj"]
            torch.testing.assert_close(net(*inputs, **named), plain)
            noise.sigma_add = 0.5
            noisy = net(*inputs, **named)[0]
            assert (noisy - plain[0]).std() > 0.4
            if training:
                noisy.sum().backward()
                assert all(p.grad is not None for p in net.parameters())
        torch.testing.assert_close(net(*inputs, **named), plain, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("layers", ["*", "layers.*.self_attn", "layers.1.linear2"])
def test_fused_kernels_of_transformers_do_not_pass_the_noise_by(layers: str) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.rand(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 3:] = True
    before = [dict(vars(module)) for module in net.modules()]
    with torch.no_grad():
        plain = net(x, src_key_padding_mask=mask)
        with mho.noisy(net, sigma_mult=0.0, layers=layers) as noise:
            torch.testing.assert_close(net(x, src_key_padding_mask=mask)[~mask], plain[~mask])
            noise.sigma_mult = 0.5
            assert not torch.allclose(net(x, src_key_padding_mask=mask)[~mask], plain[~mask], rtol=0.05)
        assert torch.equal(net(x, src_key_padding_mask=mask), plain)
    for module, then in zip(net.modules(), before, strict=True):
        assert {k: v for k, v in vars(module).items() if k in then and not k.startswith("_")} == {
            k: v for k, v in then.items() if not k.startswith("_")
        }
        assert not module._forward_hooks


def test_copies_and_files_of_a_noisy_model() -> None:
    net, x = small_cnn(), torch.rand(2, 3, 12, 12)
    keys = list(net.state_dict())
    noise = mho.noisy(net, sigma_mult=0.5, seed=1)
    assert list(net.state_dict()) == keys
    other = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    y = net(x)
    assert torch.equal(again(x), y)  # with the same seed
    assert not torch.equal(other(x), y)
    noise.remove()
    noise.remove()
    assert torch.equal(net(x), net(x))
    assert repr(noise) == "<noise behind 3 layers: sigma_mult=0.5, sigma_add=0.0>"


def test_layers_that_get_no_noise_are_told_of() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x) if x.sum() > 0 else self.idle(x)

    net = Past()
    noise = mho.noisy(net, sigma_mult=0.5)
    with pytest.warns(UserWarning, match=r"^mho.noisy: 'idle' got no noise in this call: the model does not call"):
        net(torch.ones(1, 3))
    net(torch.ones(1, 3))
    noise.remove()

    class Taken(Past):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.used(x), self.idle.weight)

    with pytest.raises(MappingError, match=r"^layer 'idle': the model uses its weights itself, past the layer"):
        mho.noisy(Taken(), sigma_mult=0.5)
    with mho.noisy(Taken(), sigma_mult=0.5, exclude="idle") as noise:
        assert list(noise.layers) == ["used"]


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * nn.functional.linear(x, self.weight, self.bias)


class Pair(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), 1


def test_layers_of_other_kinds() -> None:
    """Subclasses, transposed convolutions, computed weights and other types of numbers."""
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    for layer in (Doubled(8, 8), normed, nn.ConvTranspose1d(8, 8, 1), nn.Linear(8, 8).bfloat16()):
        x = torch.ones(1, 8, 8, dtype=layer.bias.dtype)
        net = nn.Sequential(nn.Identity(), layer)
        plain = net(x)
        with mho.noisy(net, sigma_mult=1.0, seed=0) as noise:
            assert noise.layers == {"1": "1"}
            assert noise.without == ()
            assert net(x).dtype == plain.dtype
            assert not torch.allclose(net(x), plain, rtol=0.1)
    pair = Pair(3, 3)
    with mho.noisy(pair, sigma_mult=0.5), pytest.raises(ValueError, match=r"layer '' gives no dense .*, but tuple"):
        pair(torch.ones(3))
    net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    assert mho.noisy(net, sigma_mult=0.5).without == ("0",)


def test_the_linear_layers_of_gpt2() -> None:
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(4, 3)
    net = nn.Sequential(layer, nn.ReLU())
    with torch.no_grad(), mho.noisy(net, sigma_add=0.5) as noise:
        assert noise.layers == {"0": "0"}
        assert not torch.equal(net(torch.rand(2, 3)), net(torch.rand(2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_mult": -1}, "sigma_mult must be a number of at least 0 and finite, got -1$"),
        ({"sigma_add": float("nan")}, "sigma_add must be a number of at least 0 and finite, got nan$"),
        ({"sigma_mult": "0.5"}, "sigma_mult must be a number of at least 0 and finite, got '0.5'$"),
        ({"sigma_mult": 0.5, "seed": 1.5}, "seed must be a whole number or None, got 1.5$"),
        ({"sigma_mult": 0.5, "layers": "conv*"}, "layers: pattern 'conv\\*' matches no layer; layers are 0, 3, 7$"),
        ({"sigma_mult": 0.5, "exclude": ["7", "8"]}, "exclude: pattern '8' matches no layer; layers are 0, 3, 7$"),
        ({"sigma_mult": 0.5, "exclude": "*"}, "no layer is left to get noise; layers are 0, 3, 7$"),
    ],
)
def test_what_is_wrong_is_one_line(options: dict[str, Any], message: str) -> None:
    net = small_cnn()
    with pytest.raises(ValueError, match=f"^{message}"):
        mho.noisy(net, **options)
    assert not any(module._forward_hooks for module in net.modules())


def test_noise_on_noise_is_an_error() -> None:
    net, lstm = small_cnn(), nn.LSTM(3, 5)
    with (
        mho.noisy(net, sigma_mult=0.5, layers="0", seed=2),
        pytest.raises(MappingError, match="'0': it has noise already"),
    ):
        mho.noisy(net, sigma_mult=0.5)
    with mho.noisy(net, sigma_mult=0.5, layers="0", seed=2), mho.noisy(net, sigma_add=0.5, layers="7", seed=3):
        net(torch.rand(2, 3, 12, 12))
    with mho.noisy(lstm, sigma_mult=0.5), pytest.raises(MappingError, match="its forward is overridden"):
        mho.noisy(lstm, sigma_mult=0.5)
    with pytest.raises(MappingError, match=r"^model has no linear, convolution, recurrent or attention layer$"):
        mho.noisy(nn.ReLU(), sigma_mult=0.5)
    with pytest.raises(MappingError, match=r"^model must be a torch.nn.Module, got "):
        mho.noisy(torch.relu, sigma_mult=0.5)  # type: ignore[arg-type]
    deep, wrong = nn.GRU(3, 5, num_layers=2, dropout=0.5), r"the dropout 0.5 between layers of a GRU in training is not"
    with mho.noisy(deep, sigma_mult=0.5), pytest.raises(ValueError, match=wrong):
        deep(torch.rand(4, 2, 3))

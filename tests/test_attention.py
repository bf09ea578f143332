"""Attention and torch's transformers on tiles: torch's values on ideal hardware, projections on tiles, saved chips."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import hardware, ideal
from torch import nn
from torch.nn.utils import parametrizations, prune

import mho
from mho.mapping.errors import MappingError
from mho.mapping.inputs.order import SampleAxis


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Attends(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = nn.MultiheadAttention(16, 4, **options).eval()
        for p in self.attn.parameters():
            if p.ndim == 1:
                nn.init.normal_(p)

    def forward(self, q, k=None, v=None, **options):
        return self.attn(q, q if k is None else k, q if v is None else v, **options)


OPTIONS = [
    {},
    {"batch_first": True},
    {"kdim": 10, "vdim": 12},
    {"vdim": 10, "batch_first": True},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
]
N, L, S = 3, 4, 5
PADDED = torch.arange(S) >= torch.tensor([[3], [5], [4]])
CAUSAL = torch.ones(L, S).triu(1).bool()
MASKS = [
    {},
    {"key_padding_mask": PADDED},
    {"attn_mask": normal(L, S)},
    {"attn_mask": normal(4 * N, L, S), "key_padding_mask": PADDED * -3.0},
    {"attn_mask": CAUSAL, "is_causal": True},
    {"attn_mask": CAUSAL, "is_causal": True, "key_padding_mask": PADDED},
]
WEIGHTS = [{}, {"need_weights": False}, {"average_attn_weights": False}]


@pytest.mark.parametrize("options", OPTIONS)
def test_attention_is_that_of_torch(options) -> None:
    net = Attends(**options)
    chip = mho.map(net, ideal())
    assert list(chip.layers) == [f"attn.{name}_proj" for name in ("q", "k", "v", "out")]
    sizes = (L, 16), (S, net.attn.kdim), (S, net.attn.vdim)
    q, k, v = (normal(N, steps, size, seed=steps + size) for steps, size in sizes)
    alone = q[0], k[0], v[0]
    if not net.attn.batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    cases = [((q, k, v), mask | weights) for mask in MASKS for weights in WEIGHTS]
    cases += [(alone, {"key_padding_mask": PADDED[0], **weights}) for weights in WEIGHTS]
    for inputs, named in cases:
        with torch.no_grad():
            want, got = net(*inputs, **named), chip(*inputs, **named)
        assert got[0].shape == want[0].shape
        assert torch.allclose(got[0], want[0], atol=1e-5)
        assert (got[1] is None) is (want[1] is None)
        if want[1] is not None:
            assert got[1].shape == want[1].shape
            assert torch.allclose(got[1], want[1], atol=1e-6)
    for name in ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        there, instead = getattr(net.attn, name), getattr(chip.model.attn, name)
        assert (there is None) is (instead is None)
        assert there is None or torch.allclose(instead + 0, there, atol=1e-6)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"attn_mask": torch.zeros(3, 3)}, "attn_mask must have the shape"),
        ({"key_padding_mask": torch.zeros(4, 3)}, "key_padding_mask must have the shape"),
        ({"key_padding_mask": torch.zeros(2, 4).long()}, "bool or floating-point, got"),
        ({"k": torch.zeros(2, 4, 16), "v": torch.zeros(2, 5, 16)}, "key and value with as many steps"),
        ({"is_causal": True}, "needs attn_mask"),
    ],
)
def test_what_attention_does_not_take(named, message) -> None:
    chip = mho.map(Attends(batch_first=True), ideal())
    with pytest.raises((ValueError, RuntimeError), match=message):
        chip(normal(2, 4, 16), **named)


@pytest.mark.parametrize(
    "compute",
    [
        lambda m: prune.l1_unstructured(m, "in_proj_weight", amount=0.5),
        lambda m: prune.l1_unstructured(m.out_proj, "weight", amount=0.5),
        lambda m: parametrizations.weight_norm(m, "in_proj_weight"),
        lambda m: parametrizations.orthogonal(m.out_proj),
    ],
)
def test_computed_weights_of_attention(compute) -> None:
    net, x = Attends(batch_first=True), normal(3, 4, 16)
    compute(net.attn)
    chip = mho.map(net, ideal(), check=x)
    assert len(chip.layers) == 4
    with torch.no_grad():
        assert torch.allclose(chip(x)[0], net(x)[0], atol=1e-5)


@pytest.mark.parametrize(("exclude", "left"), [("attn", 0), ("attn.q_proj", 3), ("attn.*_proj", 0)])
def test_attention_that_is_excluded(tmp_path, exclude, left) -> None:
    net, x = nn.ModuleDict({"attn": Attends().attn}), normal(4, 6, 16)
    net = Joined(net["attn"])
    chip = mho.map(net, hardware(), calibrate=x, exclude=exclude)
    assert len(chip.layers) == left + 1
    assert any(d.name == "attn" for d in chip.digital)
    chip.save(tmp_path / "chip")
    for model in (None, net):
        assert torch.equal(mho.load(tmp_path / "chip", model=model).read(x, read=0), chip.read(x, read=0))


class Joined(nn.Module):
    """Attention with the steps first, and a linear layer."""

    def __init__(self, attn: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attn, self.head = attn, nn.Linear(16, 2)

    def forward(self, x):
        x = x.transpose(0, 1)
        return self.head(self.attn(x, x, x, need_weights=False)[0].transpose(0, 1))


def encoder(**options) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 24, **options)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=options.get("batch_first", False))


def decoder(**options) -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24, batch_first=True, **options), 2)


NETWORKS = {
    "encoder layer": (lambda: nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 1, 6),
    "encoder": (lambda: encoder(batch_first=True), 1, 12),
    "encoder, norm first": (
        lambda: nn.TransformerEncoderLayer(16, 4, 24, 0.0, nn.GELU(), batch_first=True, norm_first=True, bias=False),
        1,
        6,
    ),
    "decoder layer": (lambda: nn.TransformerDecoderLayer(16, 4, 24, 0.0, nn.GELU(), batch_first=True), 2, 10),
    "decoder": (lambda: decoder(activation="gelu"), 2, 20),
    "transformer": (lambda: nn.Transformer(16, 4, 1, 1, 24, batch_first=True), 2, 16),
}


@pytest.mark.parametrize(("make", "inputs", "layers"), NETWORKS.values(), ids=NETWORKS)
def test_transformers_of_torch(tmp_path, make, inputs, layers) -> None:
    torch.manual_seed(0)
    net = make().eval()
    given = tuple(normal(4, 3 + k, 16, seed=k) for k in range(inputs))
    chip = mho.map(net, ideal(), check=given)
    assert len(chip.layers) == layers
    with torch.no_grad():
        assert torch.allclose(chip(*given), net(*given), atol=1e-5)
    noisy = mho.map(net, hardware(), calibrate=given)
    noisy.save(tmp_path / "chip")
    again = mho.load(tmp_path / "chip")
    assert torch.equal(again.read(*given, read=0), noisy.read(*given, read=0))
    assert not torch.equal(again.read(*given, read=0), noisy.read(*given, read=1))
    again.save(tmp_path / "again")
    there = mho.load(tmp_path / "again", model=net)
    assert torch.equal(there.read(*given, read=0), noisy.read(*given, read=0))


@pytest.mark.parametrize("first", [True, False])
def test_padding_and_batches_leave_the_noise_of_a_sample(first) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = encoder(batch_first=first).eval(), nn.Linear(16, 3)

        def forward(self, x, mask=None):
            h = self.encoder(x if first else x.transpose(0, 1), src_key_padding_mask=mask)
            return self.head(h if first else h.transpose(0, 1))

    x, mask = normal(5, 7, 16), (torch.arange(7) >= 4).expand(5, 7)
    chip = mho.map(Classifier(), hardware(), calibrate=(x, mask))
    assert chip.layers["encoder.layers.0.self_attn.k_proj"].samples_along == SampleAxis(0)
    assert chip.layers["encoder.layers.0.linear1"].samples_along == SampleAxis(0 if first else 1)
    whole = chip.read(x, mask, read=3)
    parts = chip.read(x[:2], mask[:2], read=3), chip.read(x[2:], mask[2:], read=3, first_sample=2)
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole[:, :4], chip.read(x[:, :4], read=3))
    assert torch.equal(whole, chip.read(x, mask, read=3, reads=2)[:5])
    assert not torch.equal(whole, chip.read(x, mask, read=4))


def test_products_of_attention_are_digital_and_counted() -> None:
    net, x = Joined(Attends(batch_first=False).attn), normal(4, 6, 16)
    check = mho.map(net, hardware(), calibrate=x).cover.check
    assert check.macs_on_tiles == 2 * 6 * (4 * 16 * 16 + 32)
    assert check.macs == check.macs_on_tiles + 2 * 2 * 6 * 6 * 16


def test_attention_whose_weights_the_model_uses_itself() -> None:
    class Past(Joined):
        hidden = False

        def forward(self, x):
            if self.hidden and not isinstance(x, torch.Tensor):  # what tracing does not see
                return x
            return super().forward(x) + (x @ self.attn.in_proj_weight.T)[..., :2]

    net, x = Past(Attends().attn), normal(4, 6, 16)
    chip = mho.map(net, hardware(), calibrate=x, check=False)
    assert list(chip.layers) == ["head"]
    assert ("attn", "MultiheadAttention", "the model uses its weights itself, past the layer") in chip.digital
    net.hidden = True
    with pytest.raises(MappingError, match=r"layer 'attn': its weight is on tiles, and the model uses it beside them"):
        mho.map(net, hardware(), calibrate=x, check=False)


def test_a_copy_of_a_decoder_keeps_its_activation() -> None:
    """torch's copy of a decoder layer puts a ReLU in the place of an activation that is a module."""
    layer = nn.TransformerDecoderLayer(16, 4, 24, 0.0, nn.GELU(), batch_first=True).eval()
    x = normal(2, 3, 16), normal(2, 4, 16)
    chip = mho.map(layer, ideal(), check=x)
    with torch.no_grad():
        assert torch.allclose(copy.deepcopy(chip)(*x), layer(*x), atol=1e-5)
        assert torch.allclose(chip.copy(1)(*x), layer(*x), atol=1e-5)

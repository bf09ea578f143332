"""Parameters that a model multiplies by itself: on tiles, exact, saved, and never read past the tiles."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hardware, ideal
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.inputs.order import SampleAxis
from mho.mapping.operands.view import Layout, NoLayout, View


def p(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


class Net(nn.Module):
    """Computes `f(self, x)`, with these attributes."""

    def __init__(self, f: Any, **attributes: Any) -> None:
        super().__init__()
        self.f = f
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> Any:
        return self.f(self, x)


def x() -> torch.Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))


CASES: dict[str, Any] = {
    "linear": (lambda s, x: functional.linear(x, s.w, s.b), {"w": (4, 8), "b": (4,)}, 1),
    "by name": (lambda s, x: functional.linear(x, weight=s.w, bias=s.b), {"w": (4, 8), "b": (4,)}, 1),
    "sum behind": (lambda s, x: x @ s.w.T, {"w": (4, 8)}, 1),
    "from the left": (lambda s, x: s.w @ x.mT, {"w": (4, 8)}, 1),
    "vector": (lambda s, x: x @ s.w, {"w": (8,)}, 1),
    "both directions": (lambda s, x: functional.linear(x, s.w).relu() @ s.w, {"w": (4, 8)}, 2),
    "twice": (lambda s, x: (x @ s.w) @ s.w, {"w": (8, 8)}, 1),
    "slices": (lambda s, x: x @ s.w[:, :3] + x @ s.w[:, 3:], {"w": (8, 6)}, 2),
    "chunks": (
        lambda s, x: sum(functional.linear(x, w, b) for w, b in zip(s.w.chunk(3), s.b.chunk(3), strict=True)),
        {"w": (12, 8), "b": (12,)},
        3,
    ),
    "heads": (lambda s, x: torch.einsum("btd,dhk->bhtk", x, s.w), {"w": (8, 2, 3)}, 1),
    "heads, back": (lambda s, x: torch.einsum("...hk,hkd->...d", x.unflatten(2, (2, 4)), s.w), {"w": (2, 4, 5)}, 1),
    "implicit einsum": (lambda s, x: torch.einsum("bti,ij", x, s.w), {"w": (8, 5)}, 1),
    "three at once": (lambda s, x: torch.einsum("bte,gef->btgf", x, s.w), {"w": (3, 8, 4)}, 1),
    "addmm": (lambda s, x: torch.addmm(s.b, x.reshape(-1, 8), s.w).unflatten(0, (-1, 6)), {"w": (8, 4), "b": (4,)}, 1),
    "baddbmm": (lambda s, x: torch.baddbmm(x, x, s.w.expand(len(x), -1, -1), beta=2, alpha=3), {"w": (1, 8, 8)}, 1),
    "bmm": (lambda s, x: torch.bmm(x.transpose(0, 1), s.w).transpose(0, 1), {"w": (6, 8, 4)}, 6),
    "matmul of many": (lambda s, x: (x[:, None] @ s.w).sum(1), {"w": (3, 8, 4)}, 3),
    "unbound": (lambda s, x: torch.stack([x @ w for w in s.w], 1), {"w": (3, 8, 4)}, 3),
    "reshaped": (lambda s, x: functional.linear(x, s.w.permute(1, 2, 0).reshape(-1, 8)), {"w": (8, 2, 3)}, 1),
    "reshaped, split": (lambda s, x: functional.linear(x, s.w.permute(2, 0, 1).reshape(-1, 8)), {"w": (4, 2, 3)}, 1),
    "conv1d": (lambda s, x: functional.conv1d(x, s.w, None, 1, "same", 2, 2), {"w": (4, 3, 3)}, 1),
    "conv2d": (
        lambda s, x: functional.conv2d(x[:, None], s.w, s.b, (1, 2), padding=1),
        {"w": (3, 1, 3, 2), "b": (3,)},
        1,
    ),
    "conv3d": (lambda s, x: functional.conv3d(x[:, None, None], s.w, s.b), {"w": (3, 1, 1, 3, 2), "b": (3,)}, 1),
    "tensordot": (lambda s, x: torch.tensordot(x, s.w, dims=([2], [1])), {"w": (4, 8)}, 1),
    "inner": (lambda s, x: torch.inner(x, s.w), {"w": (4, 8)}, 1),
    "cast": (lambda s, x: x.to(s.w.dtype) @ s.w.to(x.dtype).contiguous().detach(), {"w": (8, 4)}, 1),
    "one bias for two": (
        lambda s, x: functional.linear(x, s.v, s.b) + functional.linear(x, s.w, s.b),
        {"v": (4, 8), "w": (4, 8), "b": (4,)},
        2,
    ),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    f, shapes, _ = CASES[name]
    return Net(f, **{key: p(*shape) for key, shape in shapes.items()}).eval()


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_torch(name: str) -> None:
    net, given = made(name), x()
    chip = mho.map(net, ideal(), check=given)
    with torch.no_grad():
        assert torch.allclose(chip(given), net(given), atol=1e-5)
    assert len(chip.layers) == CASES[name][2]
    total = sum(value.numel() for value in net.parameters())
    assert (chip.cover.parameters, chip.cover.on_tiles) == (total, total)
    assert chip.cover.check.macs == chip.cover.check.macs_on_tiles > 0
    assert not chip.digital


@pytest.mark.parametrize("name", ["linear", "both directions", "heads, back", "baddbmm", "bmm", "conv2d", "chunks"])
def test_noise_of_a_sample_and_saved_chips(tmp_path: Path, name: str) -> None:
    net, given = made(name), x()
    chip = mho.map(net, hardware(), calibrate=given)
    assert all(layer.samples_along == SampleAxis(0) for layer in chip.layers.values())
    whole = chip.read(given, read=3)
    with torch.no_grad():
        assert not torch.allclose(whole, net(given), atol=1e-3)
    parts = chip.read(given[:1], read=3), chip.read(given[1:], read=3, first_sample=1)
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(chip.read(given, read=3, reads=2)[:4], whole)
    chip.save(tmp_path / "chip")
    for model in (net, None):
        if model is None and name in ("baddbmm", "chunks"):  # torch.fx cannot trace these
            with pytest.raises(CheckpointError, match=r"pass mho.load\(path, model=...\)"):
                mho.load(tmp_path / "chip")
            continue
        again = mho.load(tmp_path / "chip", model=model)
        assert torch.equal(again.read(given, read=3), whole)
        again.save(tmp_path / "again")
        assert torch.equal(mho.load(tmp_path / "again", model=net).read(given, read=3), whole)
    assert torch.equal(copy.deepcopy(chip).read(given, read=3), whole)
    assert not torch.equal(chip.copy(1).read(given, read=3), whole)


def test_lists_dicts_and_shared_parameters() -> None:
    torch.manual_seed(0)
    net = Net(
        lambda s, x: sum(x @ w for w in s.ws) + x @ s.more["a"] + x @ s.kept[0] + s.inner(x),
        ws=nn.ParameterList([p(8, 4), p(8, 4)]),
        more=nn.ParameterDict({"a": p(8, 4)}),
        other=p(8, 4),
    )
    net.kept = [net.other]  # the model uses what it keeps in a list of its own
    net.inner = Net(lambda s, x: x @ s.w, w=net.more["a"])
    chip = mho.map(net.eval(), ideal(), check=x())
    assert set(chip.layers) == {"ws.0_layers.0", "ws.1_layers.0", "more.a_layers.0", "other_layers.0"}
    assert chip.layers["more.a_layers.0"].aliases == ["more.a_layers.0", "inner.w_layers.0"]
    assert chip.cover.on_tiles == chip.cover.parameters == 4 * 32
    with torch.no_grad():
        assert torch.allclose(chip(x()), net(x()), atol=1e-5)


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda s, x: functional.linear(x, s.w * 2), "the model computes mul with it"),
        (lambda s, x: x @ s.w.T + s.w.norm(), "the model computes norm with it"),
        (lambda s, x: x @ s.w.T.softmax(0), "the model computes softmax with it"),
        (lambda s, x: x @ s.w[:2].T, "a pass uses 16 of its 32 values"),
        (
            lambda s, x: torch.vmap(lambda row: row @ s.w.T)(x),
            "the model computes products that no tiles take (vmap, complex or sparse numbers) with it",
        ),
        (lambda s, x: x @ x.new_tensor(s.w.tolist()).T, "the model computes tolist with it"),
        (lambda s, x: x, "the pass that shows how it is used does not reach it"),
        (lambda s, x: x @ s.w[torch.tensor([1, 0, 3, 2])].flip(0).T, "the model computes flip with it"),
        (lambda s, x: x @ torch.cat([s.w, s.w]).T, "the model computes cat with it"),
        (lambda s, x: torch.einsum("btd,nd->bt", x, s.w), "the model computes einsum with it"),
        (lambda s, x: x @ s.w.view(torch.int32).view(torch.float32).T, "the model computes view with it"),
        (lambda s, x: x @ s.w.T if (s.w > 0).any() else x, "the model computes gt with it"),
    ],
)
def test_what_stays_digital_says_why(f: Any, reason: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda s, x: f(s, x).sum() + s.v(x), w=p(4, 8), v=nn.Linear(8, 2)).eval()
    chip = mho.map(net, ideal(), check=x())
    assert list(chip.layers) == ["v"]
    (found,) = [d for d in chip.digital if not d.name]
    assert found.reason == f"parameters of its own: w ({reason})"
    assert chip.cover.digital[""] == 32
    with torch.no_grad():
        assert torch.allclose(chip(x()), net(x()), atol=1e-4)


def test_a_bias_for_each_matrix_is_added_digitally() -> None:
    torch.manual_seed(0)
    net = Net(lambda s, x: torch.baddbmm(s.b[:, None], x.transpose(0, 1), s.w).transpose(0, 1), w=p(6, 8, 4), b=p(6, 4))
    chip = mho.map(net.eval(), ideal(), check=x())
    assert len(chip.layers) == 6
    assert chip.cover.digital[""] == 24
    with torch.no_grad():
        assert torch.allclose(chip(x()), net(x()), atol=1e-5)


def test_without_inputs_and_excluded() -> None:
    net = Net(lambda s, x: s.v(x) @ s.w, w=p(2, 3), v=nn.Linear(8, 2)).eval()
    chip = mho.map(net, ideal())
    assert list(chip.layers) == ["v"]
    assert "a pass would show how it is used: give calibrate= or check=" in str(chip.report())
    for exclude in ("w", "w_layers.0"):
        chip = mho.map(net, ideal(), check=x(), exclude=exclude)
        assert list(chip.layers) == ["v"]
        assert any(d.name == exclude and d.reason == "excluded by name" for d in chip.digital)
        assert chip.cover.digital[exclude] == 6
        with torch.no_grad():
            assert torch.allclose(chip(x()), net(x()), atol=1e-5)
    with pytest.raises(MappingError, match=r"pattern 'u' matches no layer; layers are v, w_layers\.0"):
        mho.map(net, ideal(), check=x(), exclude="u")
    alone = Net(lambda s, x: x * s.w, w=p(8)).eval()
    with pytest.raises(MappingError, match=r"no parameter of its own that can be one: 'w' \(the model computes mul"):
        mho.map(alone, ideal(), check=x())


class Branches(nn.Module):
    """Uses its parameter in other ways where the inputs are large."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.other = p(8, 8), other

    def forward(self, x):
        return self.other(x, self.w) if x.max() > 100 else x @ self.w


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda x, w: x @ w[:, :4], "parameter 'w' is on tiles: the model multiplies with another part of it"),
        (lambda x, w: functional.linear(x, w.T, x[0, 0]), None),
        (lambda x, w: x @ (w + 1), "parameter 'w' is on tiles, and the model computes add with it"),
        (lambda x, w: x * w.sum(), "the model computes sum with it"),
        (lambda x, w: torch.as_tensor(w.tolist())[0] * x, "the model computes tolist with it"),
        (lambda x, w: x @ torch.stack([w, w])[0], "the model computes stack with it"),
        (lambda x, w: w.data.add_(1)[0] * x, "the model computes add_ with it"),
        (lambda x, w: x @ w.detach().numpy()[0, 0], "the model computes numpy with it"),
        (lambda x, w: torch.nn.functional.bilinear(x, x, w[None]), "the model computes bilinear with it"),
    ],
)
def test_a_use_that_no_pass_showed_never_reads_past_the_tiles(other: Any, message: str | None) -> None:
    net = Branches(other).eval()
    chip = mho.map(net, ideal(), check=x())
    with torch.no_grad():
        if message is None:  # a digital bias is added behind the tiles
            assert torch.allclose(chip(1000 * x()), net(1000 * x()), rtol=1e-4, atol=1e-2)
        else:
            with pytest.raises(MappingError, match=message):
                chip(1000 * x())


def test_a_layer_does_not_add_its_bias_where_the_model_adds_none() -> None:
    torch.manual_seed(0)
    chip = mho.map(Biased(p(8, 8), p(8)).eval(), ideal(), check=x())
    assert list(chip.layers) == ["w_layers.0"]
    with pytest.raises(MappingError, match="the model multiplies and adds another bias than in the passes"):
        chip(1000 * x())


class Biased(nn.Module):
    """Adds its bias to small inputs alone."""

    def __init__(self, w, b) -> None:
        super().__init__()
        self.w, self.b = w, b

    def forward(self, x):
        return functional.linear(x, self.w, None if x.max() > 100 else self.b)


def test_samples_behind_the_steps() -> None:
    torch.manual_seed(0)
    net, given = Net(lambda s, x: (x.transpose(0, 1) @ s.w).transpose(0, 1), w=p(8, 4)).eval(), x()
    chip = mho.map(net, hardware(), calibrate=given)
    assert chip.layers["w_layers.0"].samples_along == SampleAxis(1)
    parts = chip.read(given[:1], read=3), chip.read(given[1:], read=3, first_sample=1)
    assert torch.equal(chip.read(given, read=3), torch.cat(parts))
    assert torch.equal(chip.read(given[:, :4], read=3), chip.read(given, read=3)[:, :4])


def test_weights_outside_of_an_inference() -> None:
    chip = mho.map(made("both directions"), hardware(), calibrate=x())
    found = chip.model.w
    assert (found.shape, found.dtype, found.requires_grad) == ((4, 8), torch.float32, False)
    assert isinstance(found, nn.Parameter)
    assert "Operand(w, (4, 8)" in repr(found)
    assert 0 < float((found + 0 - made("both directions").w).detach().std()) < 0.2
    assert "w" not in chip.state_dict()
    assert torch.equal(chip.model(x())[:, :1], chip.model(x())[:, :1]) is False  # each call is a read


def test_a_pickled_chip_is_the_same() -> None:
    torch.manual_seed(0)
    chip = mho.map(Biased(p(4, 8), p(4)).eval(), hardware(), calibrate=x())
    again = pickle.loads(pickle.dumps(chip))
    assert list(again.layers) == list(chip.layers)
    assert torch.equal(again.read(x(), read=3), chip.read(x(), read=3))


def test_inputs_of_another_size_are_said_to_be_so() -> None:
    torch.manual_seed(0)
    chip = mho.map(Net(lambda s, x: x @ s.w, w=p(8, 3)).eval(), ideal(), check=x())
    with pytest.raises(MappingError, match=r"'w'.* a tensor of shape \(4, 6, 5\), which must have 8 where it has 5"):
        chip(x()[..., :5])


class Words(nn.Module):
    """Its last layer is the table of its embedding, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.hidden = nn.Embedding(11, 8), nn.Linear(8, 8)

    def forward(self, tokens):
        return self.hidden(self.words(tokens)).tanh() @ self.words.weight.T


def test_a_table_that_is_multiplied_by_too(tmp_path: Path) -> None:
    net, tokens = Words().eval(), torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(0))
    exact = mho.map(net, ideal(), check=tokens)
    assert list(exact.layers) == ["words.weight_layers.0", "hidden"]
    assert exact.cover.on_tiles == exact.cover.parameters == 88 + 72
    assert "rows of it are looked up digitally; what is multiplied by it is on tiles" in str(exact.report())
    with torch.no_grad():
        assert torch.allclose(exact(tokens), net(tokens), atol=1e-5)
    chip = mho.map(net, hardware(), calibrate=tokens)
    assert torch.equal(chip.model.words(tokens), net.words(tokens))
    chip.save(tmp_path / "chip")
    again = mho.load(tmp_path / "chip", model=net)
    assert torch.equal(again.read(tokens, read=0), chip.read(tokens, read=0))
    assert torch.equal(again.copy(1).model.words(tokens), net.words(tokens))
    plain = mho.map(nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 2)).eval(), ideal())
    assert ("0", "Embedding", "a table: rows are looked up, and nothing is multiplied") in plain.digital


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_casts(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = Net(
        lambda s, x: functional.linear(x.to(s.w.dtype), s.w, s.b).float() + x.float() @ s.v.float() @ s.z.float(),
        w=p(4, 8),
        b=p(4),
        v=p(8, 4),
        z=nn.Parameter(torch.zeros(4, 4)),
    )
    net, given = net.to(dtype).eval(), x().to(dtype)
    chip = mho.map(net, ideal(), check=given)
    assert list(chip.layers) == ["w_layers.0", "v_layers.0"]
    assert ("z_layers.0", "Linear", "its weights are all zero") in chip.digital
    with torch.no_grad():
        want, got = net(given), chip(given)
    assert got.dtype == want.dtype
    assert torch.allclose(got, want, atol=1e-5 if dtype == torch.float64 else 0.1)


def test_a_model_that_does_not_fit_a_saved_parameter(tmp_path: Path) -> None:
    chip = mho.map(made("linear"), hardware(), calibrate=x())
    chip.save(tmp_path / "chip")
    for other in (Net(lambda s, x: x, w=p(4, 8)), Net(lambda s, x: x, w=p(8, 4), b=p(4))):
        with pytest.raises(CheckpointError, match="model does not fit: it has no parameter"):
            mho.load(tmp_path / "chip", model=other)


def test_layouts() -> None:
    flat = torch.arange(24.0)
    view = View.whole((2, 3, 4))
    turned = view.moved(torch.permute, ((2, 0, 1),))
    assert turned.layout(1, 2) == Layout(0, (((4, 1),), ((6, 4),)))
    copied = turned.moved(torch.reshape, ((8, 3),))
    assert not copied.places.is_meta
    assert copied.layout(1, 1) == turned.layout(2, 1) == Layout(0, (((4, 1), (2, 12)), ((3, 4),)))
    for made in (turned, copied, view.moved(torch.Tensor.__getitem__, ((1, slice(1, None), ...),))):
        axes = (1,) * len(made.shape)
        assert torch.equal(made.layout(*axes).of(flat), made.of(flat))
        assert Layout.build(made.layout(*axes).plain()) == made.layout(*axes)
    odd = View.whole((4, 2)).moved(torch.Tensor.__getitem__, ([0, 2, 3],))
    with pytest.raises(NoLayout):
        odd.layout(1, 1)
    for wrong in ([0.5, [[[1, 1]]]], [0, [[[1, True]]]], [2**70, []]):
        with pytest.raises(ValueError, match="whole numbers"):
            Layout.build(wrong)

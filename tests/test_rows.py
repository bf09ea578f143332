"""Rows that a model chooses by their values are told of, whatever their number; choices within samples are not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import mho
from mho.mapping.errors import MappingError

RERAM = mho.Hardware.preset("reram")
NOISY = mho.Hardware.paper(sigma_mult=0.2)
CHOSEN = "layer 'e': the model chooses its rows by their values"


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.e, self.head = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inside(x))


class Mask(Base):
    def inside(self, x):
        mask, y = x[..., 0] > 0.5, torch.zeros_like(x)
        y[mask] = self.e(x[mask])
        return y


class Nonzero(Base):
    def inside(self, x):
        rows = (x[:, 0] > 0.5).nonzero().flatten()
        return torch.zeros_like(x).index_add(0, rows, self.e(x.index_select(0, rows)))


class Where(Base):
    def inside(self, x):
        rows, y = torch.where(x[:, 0] > 0.5)[0], torch.zeros_like(x)
        return y.index_copy(0, rows, torch.relu(self.e(2 * x[rows])))


class Listed(Base):
    def inside(self, x):
        rows, y = (x[:, 0] > 0.5).nonzero().flatten().tolist(), torch.zeros_like(x)
        y[rows] = self.e(x[rows])
        return y


class MaskedSelect(Base):
    def inside(self, x):
        mask = (x[:, 0] > 0.5)[:, None]
        return torch.zeros_like(x).masked_scatter(mask, self.e(x.masked_select(mask).view(-1, 4)))


class Sorted(Base):
    def inside(self, x):
        order = self.gate(x)[:, 0].argsort()
        return self.e(x[order])[order.argsort()]


class SplitBySize(Base):
    def inside(self, x):
        expert = self.gate(x).argmax(-1)
        order = expert.argsort()
        parts = x[order].split(torch.bincount(expert, minlength=2).tolist())
        return torch.cat([self.e(part) for part in parts])[order.argsort()]


class ExpertChoice(Base):
    def inside(self, x):
        rows = self.gate(x).t().topk(2, dim=1).indices
        return torch.zeros_like(x).index_add(0, rows.flatten(), self.e(x[rows]).flatten(0, 1))


class Packed(Base):
    def inside(self, x):
        lengths = 1 + (x[..., 0] > 0.5).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        done = nn.utils.rnn.PackedSequence(self.e(packed.data), *packed[1:])
        return nn.utils.rnn.pad_packed_sequence(done, batch_first=True)[0][:, 0]


ROUTED = [Mask, Nonzero, Where, Listed, MaskedSelect, Sorted, SplitBySize, ExpertChoice]


@pytest.mark.parametrize("make", ROUTED)
@pytest.mark.parametrize("mapped", ["checked", "calibrated", "unchecked", "loaded"])
def test_rows_chosen_by_values_are_told_of(make, mapped, tmp_path):
    """Each sample of the mapping has one row, and so have the batches on average: no number shows it."""
    x = torch.rand(6, 4) / 2 + 0.5
    net = make().eval()
    if mapped == "unchecked":
        chip = mho.map(net, NOISY)
    else:
        chip = mho.map(net, RERAM, calibrate=x, check=mapped != "calibrated")
    if mapped == "loaded":
        chip.save(tmp_path / "chip")
        chip = mho.load(tmp_path / "chip", model=net)
    for _ in range(2):
        with pytest.warns(UserWarning, match=CHOSEN):
            whole = chip.read(x, read=0)
    with pytest.warns(UserWarning, match=CHOSEN):  # several reads are made one after another
        several = chip.read(x, read=0, reads=2)
    assert torch.equal(several[:6], whole)


def test_packed_rows_are_told_of():
    with pytest.warns(UserWarning, match=CHOSEN):
        mho.map(Packed().eval(), NOISY)(torch.rand(4, 5, 4))


def test_branches_that_only_later_batches_take():
    class Branch(Base):
        def inside(self, x):
            y, mask = torch.zeros_like(x), x[:, 0] > 0.5
            if mask.any():
                y[mask] = self.e(x[mask])
            return y

    chip = mho.map(Branch().eval(), NOISY, check=torch.zeros(4, 4))
    chip(torch.zeros(4, 4))
    with pytest.warns(UserWarning, match=CHOSEN):
        first = chip.read(torch.ones(4, 4), read=1)
    with pytest.warns(UserWarning, match=CHOSEN):
        assert torch.equal(chip.read(torch.ones(4, 4), read=1), first)


class LastToken(Base):
    def inside(self, x):
        return self.e(x)[torch.arange(len(x)), x[..., 0].argmax(1)]


class FlatLastToken(Base):
    def inside(self, x):
        samples, steps, size = x.shape
        return self.e(x.reshape(-1, size)[torch.arange(samples) * steps + x[..., 0].argmax(1)])


class LastOfSequenceFirst(Base):
    def inside(self, x):
        return self.e(x.transpose(0, 1)[x[..., 0].argmax(1), torch.arange(len(x))])


class TopTokens(Base):
    def inside(self, x):
        best = x[..., 0].topk(2, dim=1).indices
        return self.e(x.gather(1, best[..., None].expand(-1, -1, 4)))


class Dense(Base):
    def inside(self, x):
        share = self.gate(x).softmax(-1)
        return torch.where(x > 0.5, self.e(x), x) * share[..., :1]


class MaskedFill(Base):
    def inside(self, x):
        x = x.clone()
        x[x < 0.2] = 0
        return self.e(x.masked_fill(x > 0.9, 0.9))


class Looked(Base):
    def inside(self, x):
        table = self.gate.bias.new_zeros(9, 4) + torch.arange(9.0)[:, None]
        return self.e(table[(8 * x[..., 0]).long()])


@pytest.mark.parametrize("make", [LastToken, FlatLastToken, LastOfSequenceFirst, TopTokens, Dense, MaskedFill, Looked])
def test_choices_within_samples_change_nothing(make):
    torch.manual_seed(1)
    x = torch.rand(8, 5, 4)
    chip = mho.map(make().eval(), RERAM.replace({"layers": {}}), calibrate=x, exclude=["gate"] * (make is Looked))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = chip.read(x, read=3)
        parts = [chip.read(x[:3], read=3), chip.read(x[3:], read=3, first_sample=3)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)
    assert not chip.session.chosen


# -- layers that are called past their place


class Kept(nn.Module):
    """Keeps its layer in one more place, which `how` says, and calls it there."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.r, self.head = nn.Linear(4, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)
        layer, run = self.l, self.r
        if how == "method":
            self.f = layer.forward
        elif how == "call":
            self.f = layer.__call__
        elif how == "partial":
            from functools import partial

            self.f = partial(lambda m, factor, x: m(factor * x), layer, 1.0)
        elif how == "methods":
            self.f = {"steps": [layer.forward]}["steps"][0]
            self.steps = {"a": (layer.forward,)}
        elif how == "recurrent":
            self.f = lambda x: x
            self.g = run.forward
        elif how == "closure":
            self.f = lambda x: layer(x)
        elif how == "self":
            self.f = lambda x: self.l(x)
        elif how == "object":
            self.f = type("Holder", (), {"__call__": lambda holder, x: holder.layer(x)})()
            self.f.layer = layer
        elif how == "recurrent closure":
            self.f = lambda x: run(x[:, None])[0][:, 0]
        self.how = how

    def forward(self, x):
        if self.how == "recurrent":
            return self.head(self.g(self.l.forward(x)[:, None])[0][:, 0])
        if self.how == "direct":
            return self.head(self.l.forward(x))
        f = self.steps["a"][0] if self.how == "methods" else self.f
        return self.head(f(x))


@pytest.mark.parametrize("how", ["method", "call", "partial", "methods", "recurrent", "direct"])
@pytest.mark.parametrize("checked", [True, False])
def test_layers_kept_elsewhere_are_on_tiles_there_too(how, checked):
    x = torch.rand(8, 4)
    net = Kept(how).eval()
    chip = mho.map(net, NOISY, check=x if checked else False)
    assert "l" in chip.layers
    y = chip.read(x, read=0)
    read = {call.layer for call in chip.trace if not call.digital}
    assert read >= {"head", "r.l0.gates" if how == "recurrent" else "l"}
    assert torch.allclose(chip.read(x, read=0, noisy=False), net(x), atol=1e-5)
    other = chip.copy(1)
    assert torch.equal(other.read(x, read=0, noisy=False), chip.read(x, read=0, noisy=False))
    assert other.calls == 0
    assert torch.equal(torch.cat([chip.read(x[:3], read=0), chip.read(x[3:], read=0, first_sample=3)]), y)
    if checked:
        assert chip.cover.check.macs_on_tiles == chip.cover.check.macs


@pytest.mark.parametrize("how", ["closure", "self", "object", "recurrent closure"])
@pytest.mark.parametrize("checked", [True, False])
def test_layers_kept_where_nothing_replaces_them_are_refused(how, checked):
    x = torch.rand(8, 4)
    net, name = Kept(how).eval(), "r" if how == "recurrent closure" else "l"
    with pytest.raises(MappingError, match=f"layer '{name}': the model computes with its weights past its") as caught:
        mho.map(net, NOISY, check=x if checked else False).copy(1)(x)
    assert "\n" not in str(caught.value)
    kept = mho.map(net, NOISY, check=x, exclude=[name])
    assert torch.allclose(kept.read(x, read=0, noisy=False), net(x), atol=1e-5)


def test_a_forward_called_past_its_hooks_is_compared_and_no_batch_norm_folds_there():
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm, self.l = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x):
            y = self.norm(self.conv.forward(x))
            if y.shape[0] > 100:
                y = y + 1
            return self.l.forward(y.mean((2, 3)))

    x = torch.rand(5, 2, 3, 3)
    net = Direct().eval()
    chip = mho.map(net, NOISY, check=x)
    assert list(chip.layers) == ["conv", "l"]
    assert torch.allclose(chip.read(x, read=0, noisy=False), net(x), atol=1e-5)

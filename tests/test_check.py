"""The self-check of `mho.map`, layers without values, forms of inputs, and what the report covers."""

from __future__ import annotations

import collections
import dataclasses
import sys

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, pictures, small_cnn
from test_faithful import mlp, vectors
from test_fold import settled
from torch import nn
from torch.utils import flop_counter
from torch.utils.data import DataLoader, TensorDataset

import mho
from mho.mapping.check import Check
from mho.mapping.errors import MappingError
from mho.mapping.inputs.batches import Batch, batches_of
from mho.mapping.layers import TileLayer


@pytest.fixture
def wrong(monkeypatch):
    """Tiles of one layer compute something else, by a share."""

    def spoil(name: str, share: float) -> None:
        plain = TileLayer.digital
        monkeypatch.setattr(TileLayer, "digital", lambda self, x: plain(self, x) * (1 + share * (self.name == name)))

    return spoil


def test_the_first_layer_that_differs_is_named(wrong):
    net, x = small_cnn(), pictures()
    assert isinstance(mho.map(net, ideal(), check=x).cover.check, Check)
    wrong("3", 0.01)
    with pytest.raises(MappingError, match=r"layer '3': its output differs by 0.01 .*its inputs are the same"):
        mho.map(net, ideal(), check=x)
    with pytest.raises(MappingError, match=r"layer '3'"):
        mho.map(net, hardware(), calibrate=x)
    assert "unchecked: check=False" in str(mho.map(net, hardware(), calibrate=x, check=False).report())
    assert "unchecked: no inputs were given" in str(mho.map(net, ideal()).report())


def test_errors_as_small_as_rounding_pass(wrong):
    net, x = mlp(), vectors()
    wrong("2", 1e-5)
    assert mho.map(net, ideal(), check=x).cover.check.error == pytest.approx(1e-5, rel=0.1)
    wrong("2", 1e-3)
    with pytest.raises(MappingError, match="layer '2'"):
        mho.map(net, ideal(), check=x)
    assert mho.map(net.bfloat16(), ideal(), check=x.bfloat16()).cover.check.tolerance == pytest.approx(2**-3.5)


class Typed(nn.Module):
    """Asks for the type of its layer, and returns nested outputs."""

    def __init__(self, asks: bool) -> None:
        super().__init__()
        self.l, self.asks = nn.Linear(8, 3), asks

    def forward(self, x):
        y = self.l(x)
        if self.asks and type(self.l) is not nn.Linear:
            y = y + 1
        return Output({"y": y, "size": len(x)}, (y.argmax(1), y.dtype, y > 1e6, None, float(y[0, 0])))


@dataclasses.dataclass
class Output:
    first: dict
    second: tuple


def test_outputs_of_any_structure_are_compared():
    assert mho.map(Typed(False).eval(), ideal(), check=vectors()).cover.check.error < 1e-5
    with pytest.raises(MappingError, match="not the caller's: all 1 layers give the same, and its output differs"):
        mho.map(Typed(True).eval(), ideal(), check=vectors())


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l, self.drop = nn.Linear(8, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.l(x + torch.randn_like(x)) * torch.rand(1)


def test_models_that_draw_numbers_are_checked_and_leave_the_callers_alone():
    state = torch.get_rng_state()
    chip = mho.map(Noise().eval(), ideal(), check=vectors())
    fresh = Noise()
    torch.set_rng_state(state)
    mho.map(fresh.eval(), hardware(), calibrate=vectors(), check=vectors(2))
    assert isinstance(chip.cover.check, Check)


class Counted(nn.Module):
    """Counts its passes, and what it was given."""

    passes: list[int] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.l, self.unused, self.kept = nn.Linear(8, 3), nn.Linear(8, 2), [0]

    def forward(self, x):
        if isinstance(x, torch.Tensor):
            self.passes.append(len(x))
            self.kept[0] += 1
        return self.l(x)


def test_two_passes_on_a_few_samples_that_leave_no_trace():
    Counted.passes.clear()
    chip = mho.map(Counted().eval(), ideal(), check=vectors(100))
    assert Counted.passes == [3, 2]
    assert chip.model.kept == [0]
    assert chip.calls == 0
    assert chip.trace == []
    assert chip.layers["l"].positions is None
    assert "unchecked, as the inputs never reach them: unused" in str(chip.report())


def test_inputs_that_do_not_fit_say_so():
    with pytest.raises(MappingError, match=r"check: inputs of shape \(5, 7\) do not go through the model"):
        mho.map(nn.Sequential(nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 2)), ideal(), check=vectors(5, 7))


def zeroed(net: nn.Module, *names: str) -> nn.Module:
    for name in names:
        nn.init.zeros_(net.get_submodule(name).weight)
    return net


class Residual(nn.Module):
    """A branch that begins as zero, with batch norm, and a head that is not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm_a = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.b, self.norm_b = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.aux, self.aux_norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        y = x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x)))))
        if self.training:
            y = y + self.aux_norm(self.aux(y)).sum()
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("preset", ["ideal", "reram", "pcm"])
def test_layers_of_zeros_stay_digital(preset):
    hw, x = mho.Hardware.preset(preset), pictures(16)
    for names in (["b"], ["norm_b"], ["b", "head"]):
        net = zeroed(settled(Residual()), *names)
        if "norm_b" in names:
            net.norm_b.bias.data.fill_(0.3)
        chip = mho.map(net, hw, calibrate=x)
        reasons = {d.name: d.reason for d in chip.digital}
        assert reasons["b"] == "its weights are all zero"
        assert reasons["aux"] == "the calibration inputs never reach it"
        assert list(chip.layers) == ["a", "head"][: 3 - len(names)]
        assert not reasons["norm_b"].startswith("folded")
        assert isinstance(chip.model.norm_b, nn.BatchNorm2d)
        if preset == "ideal":
            with torch.no_grad():
                assert torch.allclose(chip(x), net(x), atol=1e-5)
        with pytest.raises(MappingError, match=r"layer '.*': weights are all zero, nothing to program"):
            mho.map(net, hw, calibrate=x, strict=True)
        assert mho.vote(chip, x, 2).counts.shape == (16, 4)
    with pytest.raises(MappingError, match=r"no layer to map: layer '' .its weights are all zero"):
        mho.map(zeroed(nn.Linear(3, 2), ""), hw, calibrate=vectors(5, 3))


def test_layers_that_calibration_does_not_reach_are_as_before(tmp_path):
    net, x = settled(Residual()), pictures(16)
    hw = hardware().replace({"layers": {"aux": {"adc.bits": 6}}})
    chip = mho.map(net, hw, calibrate=x)
    assert type(chip.model.aux) is nn.Conv2d
    assert torch.equal(chip.model.aux.weight, net.aux.weight)
    assert not chip.model.aux._forward_hooks
    assert {call.layer for call in chip.trace if not call.digital} == {"a", "b", "head"}
    mho.schedule(chip)
    chip.save(tmp_path / "chip")
    other = mho.load(tmp_path / "chip", model=net)
    assert torch.equal(other.read(x, read=0), chip.read(x, read=0))
    with pytest.raises(MappingError, match="calibrate: layer 'aux': the calibration inputs never reach it"):
        mho.map(net, hw, calibrate=x, strict=True)
    assert "aux" in mho.map(net, ideal(), check=x).layers  # reached or not, its tiles need no ranges


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l, self.norm, self.out, self.rnn = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3), nn.LSTM(8, 4)

    def forward(self, x):
        y = self.norm(self.l(torch.zeros_like(x)))
        state, _ = self.rnn((0 * x)[None])
        return self.out(x + y) + state[0, :, :3]


@pytest.mark.parametrize(
    "hw", [hardware(), ideal(), hardware(wires__r_word_line="1 ohm")], ids=["noisy", "ideal", "wires"]
)
def test_layers_that_calibration_reaches_with_zeros_alone(hw):
    net, x = settled(Gate()), vectors(20)
    chip = mho.map(net, hw, calibrate=x)
    reasons = {d.name: d.reason for d in chip.digital}
    assert reasons["l"] == reasons["rnn.l0.gates"] == "its calibration inputs are all zero" or hw.dac.range is None
    assert list(chip.layers) == ["out"] or hw.dac.range is None
    exact = mho.map(net, ideal(), calibrate=x)
    with torch.no_grad():
        assert torch.allclose(exact(x), net(x), atol=1e-5)


def test_a_step_whose_matrix_is_zero():
    torch.manual_seed(0)
    gru = nn.GRU(3, 4, batch_first=True)
    gru.weight_ih_l0.data[8:] = 0
    x = torch.randn(4, 5, 3)
    chip = mho.map(gru, hardware(), calibrate=x)
    assert list(chip.layers) == ["l0.gates", "l0.candidate_hidden"]
    assert ("l0.candidate_input", "Linear", "its weights are all zero") in chip.digital
    exact = mho.map(gru, ideal())
    with torch.no_grad():
        assert torch.allclose(exact(x)[0], gru(x)[0], atol=1e-5)
    assert chip.report().digital["parameters"].sum() == 12 + 4


def test_groups_of_zeros_map():
    conv = nn.Conv2d(4, 4, 3, groups=4)
    conv.weight.data[1] = 0
    x = torch.randn(3, 4, 6, 6)
    for hw in (ideal(), hardware()):
        chip = mho.map(conv, hw, calibrate=x)
        assert torch.isfinite(chip(x)).all()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.k = nn.Linear(8, 3), nn.Linear(4, 3)

    def forward(self, x, other, *, scale=1.0):
        return self.l(x) + scale * self.k(other)


def pairs(n: int = 20) -> dict[str, torch.Tensor]:
    return {"x": vectors(n), "other": vectors(n, 4)}


def test_calibration_inputs_in_all_their_forms():
    net, x = small_cnn(), pictures(16)
    labels = torch.arange(16)
    want = mho.map(net, hardware(), calibrate=x).read(x, read=0)
    loader = DataLoader(TensorDataset(x, labels), batch_size=4)
    for given in (
        x.numpy(),
        x.numpy().astype(float),
        (x,),
        {"input": x},
        loader,
        [x[:8], x[8:]],
        iter([x]),
        [(x, labels)],
    ):
        assert torch.equal(mho.map(net, hardware(), calibrate=given).read(x, read=0), want)
    both, data = Pair().eval(), pairs()
    want = mho.map(both, hardware(), calibrate=tuple(data.values())).read(*data.values(), read=0)
    named = collections.UserDict(data | {"scale": 1.0})
    triples = DataLoader(TensorDataset(*data.values(), torch.arange(20)), batch_size=20)
    for given in (data, named, [data | {"labels": labels}], triples):
        assert torch.equal(mho.map(both, hardware(), calibrate=given).read(*data.values(), read=0), want)


def test_batches_of_other_shapes_set_ranges_together():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 1)).eval()
    small, large = torch.rand(4, 2, 5), 3 * torch.rand(4, 2, 9)
    limits = [
        mho.map(net, hardware(), calibrate=c).layers["0"].tiles.design.drive.limit
        for c in (small, large, [small, large])
    ]
    assert limits[0] < 0.5 * limits[1]
    assert limits[2] == pytest.approx(limits[1], rel=0.2)


def test_an_iterable_is_read_until_there_is_enough():
    def endless():
        while True:
            yield vectors(100)

    (batch,) = batches_of(endless(), mlp(), "calibrate")
    assert batch.samples == 1100
    assert Batch((vectors(5), torch.ones(2))).first(3).samples == 5  # which are the samples?


WRONG = [
    (3, "calibrate: expected a tensor, a NumPy array, .* got int"),
    ("mnist", "got str"),
    ([], "calibrate: the list holds no batch"),
    ([3.0], "calibrate: batch 0: expected a tensor"),
    ((), "holds no tensor"),
    ({}, "holds no tensor"),
    ({"y": vectors()}, "the model takes no input called y; it takes input"),
    ((vectors(), vectors()), "a tuple of 2 inputs, and the model takes 1"),
    (vectors(0), r"holds no samples, its shape is \(0, 8\)"),
    (np.array(["a"]), "an array that is no tensor"),
    (TensorDataset(vectors()), "wrap it in a torch.utils.data.DataLoader"),
    ([vectors(), vectors(3, 7)], "layer '0' takes 8 features"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_wrong_calibration_inputs_are_one_line(given, message):
    for options in ({"calibrate": given}, {"calibrate": given, "check": False}):
        with pytest.raises(MappingError, match=message) as caught:
            mho.map(mlp(), hardware(), **options)
        assert "\n" not in str(caught.value)
    if "takes 8" not in message:
        with pytest.raises(MappingError, match=message.replace("calibrate", "check")):
            mho.map(mlp(), ideal(), check=given)


class Everything(nn.Module):
    """Parameters of every kind: tied, own, in lists, in attention, excluded, normed, recurrent, expert weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.rnn = nn.LSTM(8, 8, batch_first=True)
        self.experts = nn.Parameter(torch.randn(2, 8, 8))
        self.more = nn.ParameterList([nn.Parameter(torch.ones(8)) for _ in range(2)])
        self.a, self.a_norm, self.excluded = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x):
        y = self.tokens(x)
        y, _ = self.rnn(self.norm(y + self.attention(y, y, y)[0]))
        y = self.a_norm(self.a(y[:, -1])) @ self.experts[0] + self.more[0]
        return self.head(self.excluded(y))


def test_each_parameter_is_on_tiles_or_listed():
    net = settled(Everything())
    x = torch.randint(0, 11, (4, 5))
    chip = mho.map(net, hardware(), calibrate=x, exclude=["excluded"])
    report = chip.report()
    listed = dict(zip(report.digital["name"], report.digital["parameters"], strict=True))
    assert listed["attention"] == 0  # its projections are on tiles
    assert listed["experts_layers.1"] == 64  # which no input reaches
    assert listed["more"] == 16
    assert listed["excluded"] == 72
    assert listed["tokens"] == 0  # the head has them on tiles
    total = sum(p.numel() for p in net.parameters())
    on_tiles = 88 + 2 * 256 + 2 * 32 + 72 + 16  # head, recurrent layer with both biases, a with its batch norm
    on_tiles += 4 * 64 + 24 + 8 + 64  # attention, and an expert
    assert report.cover.parameters == total
    assert report.cover.on_tiles == on_tiles == total - sum(listed.values())
    last = str(report).splitlines()[-1]
    assert last.startswith(f"on tiles: {1000 * on_tiles // total / 10:.1f} % of {total:,} parameters, ")
    assert last.endswith("multiply-accumulates a sample")
    macs = chip.cover.check
    assert macs.macs_on_tiles == 2 * (5 * 512 + 64 + 88 + 64 + 5 * 4 * 64)
    assert macs.macs == macs.macs_on_tiles + 2 * (64 + 2 * 5 * 5 * 8)
    assert "nan" not in str(mho.map(net, ideal()).report()).lower()


def test_the_report_of_a_loaded_chip(tmp_path):
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures())
    chip.save(tmp_path / "chip")
    text = str(mho.load(tmp_path / "chip").report())
    assert "unchecked: the chip was loaded" in text
    assert text.splitlines()[-1].startswith("on tiles: 100.0 % of ")


def test_a_check_does_not_load_the_compiler_of_torch(monkeypatch):
    """That takes longer than a small mapping; torch's guard of its counter would."""
    guarded = flop_counter._FlopCounterMode.__torch_dispatch__
    monkeypatch.delattr(getattr(guarded, "__wrapped__", guarded), "__dynamo_disable", raising=False)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    assert mho.map(small_cnn(), ideal(), check=pictures()).cover.check.macs > 0

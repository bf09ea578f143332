"""Recurrent layers on tiles: torch's values on ideal hardware, noise per step, calibration over all steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, relative_error
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import mho
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Reader
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.errors import CheckpointError, MappingError

KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN": nn.RNNCell}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(got, want, atol: float = 2e-6) -> None:
    """Outputs of any nesting are equal."""
    if isinstance(want, torch.Tensor):
        assert got.shape == want.shape
        assert torch.allclose(got, want, atol=atol, rtol=5 * atol)
    else:
        assert type(got) is type(want)
        for g, w in zip(got, want, strict=True):
            if w is not None:
                same(g, w, atol)


class Classifier(nn.Module):
    """A recurrent layer on (n, steps, 3) and a linear layer on its last output: 4 classes."""

    def __init__(self, kind: str = "LSTM", seed: int = 0, **options) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rnn = KINDS[kind](3, 8, batch_first=True, **options)
        self.head = nn.Linear(8 * (1 + self.rnn.bidirectional), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, _ = self.rnn(x)
        return self.head(output[:, -1])


class ByHand(nn.Module):
    """An LSTM that calls a linear layer at each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gates = nn.Linear(3 + 8, 32)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(len(x), 8)
        for t in range(x.shape[1]):
            i, f, g, o = self.gates(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


LAYERS = [
    *itertools.product(KINDS, (False, True), (False, True), (1, 2), [{}]),
    ("LSTM", True, True, 3, {"proj_size": 5}),
    ("RNN", False, True, 2, {"nonlinearity": "relu", "dropout": 0.5}),
]


@pytest.mark.parametrize(("kind", "both", "first", "layers", "options"), LAYERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_layers_of_every_kind_equal_torch(kind, both, first, layers, options):
    torch.manual_seed(1)
    net = KINDS[kind](3, 8, layers, bias=layers == 1, bidirectional=both, batch_first=first, **options).eval()
    random = torch.get_rng_state()
    chip = mho.map(net, ideal(tile__rows=7))
    assert torch.equal(torch.get_rng_state(), random)
    x = normal(4, 4, 3)
    sizes = [options.get("proj_size", 8), 8] if kind == "LSTM" else [8]
    begin = tuple(normal(layers * (1 + both), 4, size, seed=2) for size in sizes)
    begin = begin if kind == "LSTM" else begin[0]
    single = tuple(h[:, 0] for h in begin) if kind == "LSTM" else begin[:, 0]
    ordered = pack_padded_sequence(normal(4, 6, 3), torch.tensor([6, 6, 3, 1]), batch_first=True)
    packed = pack_padded_sequence(normal(4, 6, 3), torch.tensor([2, 6, 1, 3]), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        for inputs in ((x,), (x, begin), (x[0],), (x[0], single), (ordered,), (packed,), (packed, begin)):
            same(chip.model(*inputs), net(*inputs))
        same(chip(x), net(x))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [False, True])
def test_cells_of_every_kind_equal_torch(kind, bias):
    torch.manual_seed(1)
    net = CELLS[kind](3, 8, bias)
    chip = mho.map(net, ideal())
    x, h, c = normal(5, 3), normal(5, 8, seed=1), normal(5, 8, seed=2)
    begin = (h, c) if kind == "LSTM" else h
    first = (h[0], c[0]) if kind == "LSTM" else h[0]
    with torch.no_grad():
        for inputs in ((x,), (x[0],), (x, begin), (x[0], first)):
            same(chip.model(*inputs), net(*inputs))


def test_names_report_and_costs():
    lstm = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    net = nn.ModuleDict({"a": nn.GRU(3, 4), "b": lstm, "c": nn.RNNCell(3, 4)})

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            y = x.transpose(0, 1)
            self.net["b"](y)
            return self.head(self.net["c"](x[:, 0], self.net["a"](y)[1][0]))

    chip = mho.map(Model(), hardware(), calibrate=normal(20, 6, 3))
    gru = [f"net.a.l0.{part}" for part in ("gates", "candidate_input", "candidate_hidden")]
    steps = [f"net.b.l{k}{end}.{part}" for k in (0, 1) for end in ("", "_reverse") for part in ("gates", "projection")]
    assert list(chip.layers) == [*gru, *steps, "net.c.state", "head"]
    table = chip.report().table.set_index("layer")
    assert table.loc[gru, "positions"].tolist() == [6, 6, 6]
    assert table.loc[[*steps, "net.c.state", "head"], "positions"].tolist() == [6] * 8 + [1, 1]
    assert table.loc[gru, ["outputs", "inputs"]].values.tolist() == [[8, 7], [4, 3], [4, 4]]
    assert {(d.name, d.type) for d in chip.digital} == {("net.a", "GRU"), ("net.b", "LSTM"), ("net.c", "RNNCell")}
    assert all("activations and elementwise products" in d.reason for d in chip.digital)
    assert layer_costs(chip).set_index("layer").loc["net.a.l0.gates", "positions"] == 6
    assert mho.schedule(chip, votes=2).makespan_s > 0


def test_exclusions_and_overrides_by_name():
    hw = ideal().replace({"layers": {"rnn.*": {"tile.rows": 8}, "rnn.l0.gates": {"tile.rows": 4}}})
    x = normal(5, 6, 3)
    net = Classifier(num_layers=2)
    chip = mho.map(net, hw, exclude=["head"])
    assert [layer.placement.row_tiles for layer in chip.layers.values()] == [3, 2]
    for exclude in ("rnn", "rnn.l0.gates", "rnn.l?.gates"):
        chip = mho.map(net, ideal(), exclude=exclude)
        assert len(chip.layers) == 2 if exclude == "rnn.l0.gates" else 1
        assert "excluded by name" in {d.reason for d in chip.digital}
        with torch.no_grad():
            same(chip(x), net(x))
    with pytest.raises(MappingError, match=r"exclude: pattern 'lstm' .*; layers are rnn.l0.gates, rnn.l1.gates, head"):
        mho.map(net, ideal(), exclude="lstm")
    with pytest.raises(MappingError, match="no layer to map: all are excluded"):
        mho.map(nn.LSTM(3, 4), ideal(), exclude="*")


def test_a_shared_layer_is_one_layer(tmp_path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = self.b = nn.GRU(3, 3, batch_first=True)

        def forward(self, x):
            return self.b(self.a(x)[0])[0]

    net, x = Twice(), normal(5, 6, 3)
    with torch.no_grad():
        same(mho.map(net, ideal())(x), net(x))
    chip = mho.map(net, hardware(), calibrate=x)
    assert list(chip.layers) == ["a.l0.gates", "a.l0.candidate_input", "a.l0.candidate_hidden"]
    assert chip.layers["a.l0.gates"].aliases == ["a.l0.gates", "b.l0.gates"]
    assert chip.layers["a.l0.gates"].positions == 12
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(x, read=0), chip.read(x, read=0))


@pytest.mark.parametrize("make", [Classifier, ByHand])
def test_noise_of_each_step_is_its_own(make, monkeypatch):
    """Output noise of Eq. (2) in the gates at two steps: independent, of the right size, once for each gate."""
    sigma, n, steps = 0.3, 20_000, 3
    net = make()
    chip = mho.map(net, mho.Hardware.paper(sigma_add=sigma))
    noise, repeated = [], []
    read = Reader.read

    def compare(self, x, **options):
        (y, counts), (quiet, _) = read(self, x, **options), read(self, x, **options | {"noisy": False})
        noise.append(y - quiet)
        repeated.append(read(self, x, **options | {"call": 0})[0] - quiet)
        return y, counts

    monkeypatch.setattr(Reader, "read", compare)
    chip(normal(1, steps, 3).expand(n, steps, 3))
    assert len(noise) == steps + 1
    z = np.concatenate(noise[:steps], axis=1) / sigma  # (n, steps x gates)
    assert z.shape == (n, steps * 32)
    assert np.abs(z.std(axis=0) - 1).max() < 5 / (2 * n) ** 0.5
    correlation = np.corrcoef(z.T) - np.eye(steps * 32)
    assert np.abs(correlation).max() < 5.5 / n**0.5  # of 4,560 pairs
    again = np.corrcoef(repeated[0][:, 0], repeated[1][:, 0])[0, 1]
    assert abs(again) > 5.5 / n**0.5  # negative control: a step that draws the numbers of another


def test_the_papers_noise_falls_on_the_sum_of_input_state_and_bias():
    """Eq. (3): a gate is (W_ih x + W_hh h + b) z; its standard deviation is sigma times the whole sum."""
    torch.manual_seed(0)
    sigma, n = 0.2, 40_000
    cell = nn.RNNCell(3, 8, nonlinearity="relu")
    cell.bias_ih.data += 20  # so that the ReLU never acts
    x, h = normal(1, 3), normal(1, 8, seed=1)
    chip = mho.map(cell, mho.Hardware.paper(sigma_mult=sigma))
    with torch.no_grad():
        exact = cell(x, h)[0]
        y = chip(x.expand(n, 3), h.expand(n, 8))
        state = torch.nn.functional.linear(h, cell.weight_hh)[0]
    spread = y.std(dim=0) / sigma
    assert ((spread / exact - 1).abs() < 5 / (2 * n) ** 0.5).all()
    apart = ((exact - state).square() + state.square()).sqrt()  # negative control: noise on either product
    assert not ((spread / apart - 1).abs() < 5 / (2 * n) ** 0.5).all()


@pytest.mark.parametrize("make", [Classifier, ByHand, lambda: Classifier("GRU", bidirectional=True, num_layers=2)])
def test_batches_votes_and_threads_give_the_same_bits(make):
    chip, x = mho.map(make().eval(), hardware(), calibrate=normal(40, 7, 3)), normal(23, 7, 3, seed=3)
    every = chip.read(x, read=2)
    for size in (1, 5):
        parts = [chip.read(x[k : k + size], read=2, first_sample=k) for k in range(0, len(x), size)]
        assert torch.equal(torch.cat(parts), every)
    assert torch.equal(chip.read(x, read=1, reads=3)[len(x) : 2 * len(x)], every)
    whole = mho.vote(chip, x, 5)
    for options in ({"batch_size": 4}, {"batch_size": None}):
        assert torch.equal(mho.vote(chip, x, 5, **options).softmax, whole.softmax)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - threads if threads < 3 else 1)
        assert torch.equal(chip.read(x, read=2), every)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(chip.copy(1).read(x, read=2), every)
    assert torch.equal(chip.copy(0).read(x, read=2), every)


def test_packed_sequences_draw_the_same_noise_in_any_batch():
    class Ends(nn.Module):
        """Sequences end at their first row of zeros."""

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 8, bidirectional=True, batch_first=True)

        def forward(self, x):
            lengths = (x.abs().sum(2) > 0).sum(1)
            return self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1].transpose(0, 1)

    x = normal(12, 6, 3)
    for k in range(12):
        x[k, 1 + k % 6 :] = 0
    chip = mho.map(Ends().eval(), hardware(), calibrate=x)
    every = chip.read(x, read=4)
    for size in (1, 5):
        parts = [chip.read(x[k : k + size], read=4, first_sample=k) for k in range(0, 12, size)]
        assert torch.equal(torch.cat(parts), every)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_digital_parts_round_alike_in_any_batch(make):
    """Odd sizes, where vectors of the processor leave a rest."""
    torch.manual_seed(0)
    chip, x = mho.map(make(3, 7, batch_first=True), ideal()), normal(41, 9, 3)
    every = chip.read(x, read=0)[0]
    assert torch.equal(torch.cat([chip.read(x[k : k + 3], read=0, first_sample=k)[0] for k in range(0, 41, 3)]), every)


def test_a_packed_output_keeps_its_order():
    net = nn.RNN(3, 4)
    sequences = [normal(n, 3, seed=n) for n in (2, 5, 3)]
    output, _ = mho.map(net, ideal()).model(pack_sequence(sequences, enforce_sorted=False))
    assert isinstance(output, PackedSequence)
    _, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == [2, 5, 3]


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exclude", [[], ["rnn.l0.*"], ["rnn"]])
def test_saved_chips_give_the_same_bits(kind, options, exclude, tmp_path):
    net, x = Classifier(kind, **options).eval(), normal(10, 5, 3)
    chip = mho.map(net, hardware(), calibrate=x, exclude=exclude)
    chip.save(tmp_path / "chip")
    given = [Classifier(kind, seed=5, **options)]
    if exclude == ["rnn"]:  # torch's own layer is no plain data
        with pytest.raises(CheckpointError, match="cannot be rebuilt"):
            mho.load(tmp_path / "chip")
    else:
        given.append(None)
    for model in given:
        assert torch.equal(mho.load(tmp_path / "chip", model=model).read(x, read=1), chip.read(x, read=1))


@pytest.mark.parametrize("net", [nn.LSTM(3, 4, batch_first=True), nn.LSTMCell(3, 4), ByHand().eval()])
def test_a_recurrent_model_itself_is_saved(net, tmp_path):
    x = normal(6, 3) if isinstance(net, nn.LSTMCell) else normal(6, 5, 3)
    chip = mho.map(net, hardware(), calibrate=x)
    chip.save(tmp_path / "chip")
    loaded = [mho.load(tmp_path / "chip", model=net)]
    if not isinstance(net, ByHand):
        loaded.append(mho.load(tmp_path / "chip"))
    for other in loaded:
        same(other.read(x, read=1), chip.read(x, read=1), atol=0)


@pytest.mark.parametrize("make", [Classifier, ByHand])
def test_ranges_cover_all_steps_and_cells_are_programmed_once(make, monkeypatch):
    """Inputs grow from step to step, so that ranges of the first would clip the rest."""
    count = []
    program = Programmed.of

    def counted(design, *args, **options):
        count.append(design.matrix.name)
        return program(design, *args, **options)

    monkeypatch.setattr(Programmed, "of", staticmethod(counted))
    x = normal(50, 40, 3) * torch.linspace(0.05, 1, 40)[:, None]
    chip = mho.map(make().eval(), hardware(), calibrate=x)
    gates = next(iter(chip.layers))
    assert count.count(gates) <= 2
    counts = chip.layers[gates].counts
    assert counts.inputs_clipped <= 1e-3 * counts.inputs
    assert counts.readings_clipped <= 5e-3 * counts.readings
    first = mho.map(make().eval(), hardware(), calibrate=x[:, :1])  # negative control
    first(x)
    counts = first.layers[gates].counts
    assert counts.inputs_clipped > 0.1 * counts.inputs


def test_separate_products_at_a_zero_state_are_calibrated_too():
    class Elman(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 8)

        def forward(self, x):
            h = x.new_zeros(len(x), 8)
            for t in range(x.shape[1]):
                h = torch.tanh(self.a(x[:, t]) + self.b(h))
            return h

    net, x = Elman(), normal(50, 6, 3)
    chip = mho.map(net, hardware(), calibrate=x)
    with torch.no_grad():
        assert relative_error(chip(x), net(x)) < 0.2
    first = mho.map(net, hardware(), calibrate=x[:, :1])  # which the state reaches as zeros
    assert ("b", "Linear", "its calibration inputs are all zero") in first.digital
    with pytest.raises(MappingError, match="layer 'b': its calibration inputs are all zero"):
        mho.map(net, hardware(), calibrate=x[:, :1], strict=True)


@pytest.mark.parametrize("scale", [0.02, 50.0])
def test_an_input_of_another_size_than_the_state_costs_neither_its_precision(scale):
    """Inputs times s and W_ih / s are the same network; the gain makes them the same chip, to rounding."""
    net, x = Classifier().eval(), normal(200, 10, 3)
    scaled = Classifier().eval()
    scaled.rnn.weight_ih_l0.data /= scale
    hw = hardware(cell__programming={"kind": "polynomial", "coefficients": ["0.1 uS"], "g_ref": "1 uS"})
    chips = mho.map(net, hw, calibrate=x), mho.map(scaled, hw, calibrate=scale * x)
    with torch.no_grad():
        errors = [relative_error(chip(s * x), net(x)) for chip, s in zip(chips, (1, scale), strict=True)]
    assert 0.8 < errors[1] / errors[0] < 1.25
    chips[1].model.get_submodule("rnn.l0").gain.fill_(1)  # negative control: the range is for other inputs
    with torch.no_grad():
        assert relative_error(chips[1](scale * x), net(x)) > 2 * errors[0]


def test_bad_inputs_are_refused():
    chip = mho.map(nn.LSTM(3, 4), ideal())
    for x, message in (
        (torch.zeros(5, 2, 4), r"2 or 3 dimensions, the last of 3 features, got an input of shape \(5, 2, 4\)"),
        (torch.zeros(3), r"got an input of shape \(3,\)"),
        (torch.zeros(0, 2, 3), "at least one step"),
    ):
        with pytest.raises(ValueError, match=message):
            chip(x)
    with pytest.raises(ValueError, match=r"initial state must have shape \(1, 2, 4\), got \(1, 3, 4\)"):
        chip(torch.zeros(5, 2, 3), (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)))
    broken = nn.LSTM(3, 4)
    broken.weight_hh_l0.data[0] = float("nan")
    with pytest.raises(MappingError, match=r"layer 'l0.gates': weights must be finite"):
        mho.map(broken, ideal())
    with pytest.raises(MappingError, match=r"layer 'rnn.l0.gates': calibration inputs must be finite"):
        mho.map(Classifier(), hardware(), calibrate=torch.full((3, 4, 3), float("nan")))
    assert mho.map(Classifier(), ideal())(torch.zeros(0, 4, 3)).shape == (0, 4)

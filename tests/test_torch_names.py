"""What models ask of recurrent layers, cells and quantized layers: torch's names, shapes, types and values."""

from __future__ import annotations

import pytest
import torch
from helpers import hardware, ideal
from torch import nn

import mho
from mho.mapping.errors import MappingError

LAYERS = [
    nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True, dropout=0.3),
    nn.LSTM(4, 3, proj_size=2),
    nn.GRU(4, 3, bias=False),
    nn.GRU(4, 3, 2),
    nn.RNN(4, 3, nonlinearity="relu"),
    nn.LSTMCell(4, 3),
    nn.GRUCell(4, 3),
    nn.RNNCell(4, 3, bias=False),
    nn.LSTM(4, 3).double(),
]
JOINED = ("bias_ih", "bias_hh")
PLAIN = (bool, int, float, str)


@pytest.mark.parametrize("layer", LAYERS, ids=[f"{type(m).__name__}{k}" for k, m in enumerate(LAYERS)])
def test_attributes_of_recurrent_layers(layer):
    instead = mho.map(nn.Sequential(layer), ideal()).model[0]
    for name in vars(layer):
        if not name.startswith("_") and name != "training" and isinstance(getattr(layer, name), PLAIN):
            assert getattr(instead, name) == getattr(layer, name), name
    sums = {}
    for name, value in layer.named_parameters():
        mine = getattr(instead, name)
        assert (mine.shape, mine.dtype, mine.device) == (value.shape, value.dtype, value.device), name
        if name.startswith(JOINED):
            end = name[7:]
            sums[end] = sums.get(end, 0) + (mine + 0) - value
        else:
            assert torch.allclose(mine + 0, value, atol=1e-5), name
    if not isinstance(layer, (nn.GRU, nn.GRUCell)):  # b_ih + b_hh; the candidate of a GRU has both
        assert all(torch.allclose(off, torch.zeros_like(off), atol=1e-6) for off in sums.values())
    if isinstance(layer, nn.RNNBase):
        assert instead.mode == layer.mode
        names = [[tuple(w.shape) for w in weights] for weights in layer.all_weights]
        assert [[tuple(w.shape) for w in weights] for weights in instead.all_weights] == names
        assert instead._flat_weights_names == layer._flat_weights_names
        assert [w.shape for w in instead._flat_weights] == [w.shape for w in layer._flat_weights]
        instead.flatten_parameters()
    elif not layer.bias:
        assert instead.bias_ih is None
    with pytest.raises(AttributeError, match="no attribute 'weight_ih_l7'"):
        instead.weight_ih_l7  # noqa: B018


class Asks(nn.Module):
    def __init__(self, uses: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head, self.uses = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2), uses

    def forward(self, x):
        self.rnn.flatten_parameters()
        like = self.rnn.weight_hh_l0
        state = torch.zeros(1, len(x), self.rnn.hidden_size, dtype=like.dtype, device=self.rnn.all_weights[0][0].device)
        y = self.rnn(x, (state, state))[0]
        return self.head(y @ self.rnn.weight_hh_l0[:3] if self.uses and len(x) > 3 else y)


def test_models_that_ask_before_the_call():
    x = torch.rand(4, 5, 4)
    net = Asks(False).eval()
    chip = mho.map(net, hardware(), calibrate=x)
    assert torch.allclose(mho.map(net, ideal(), check=x)(x), net(x), atol=1e-5)
    off = chip.model.rnn.weight_ih_l0 - net.rnn.weight_ih_l0
    assert 1e-3 < off.square().mean().sqrt() < 0.1  # the gain of the input comes off
    using = mho.map(Asks(True).eval(), ideal(), check=False)
    with pytest.raises(MappingError, match=r"layer 'rnn\.l0': its weight_hh_l0 is on tiles"):
        using(x)


@pytest.mark.filterwarnings("ignore:.*quantiz.*")  # torch's own: it will move
def test_quantized_layers_are_listed_with_their_parameters(tmp_path):
    inner = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), {nn.Linear})
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), inner).eval()
    chip = mho.map(net, ideal())
    (listed,) = (d for d in chip.digital if d.name.startswith("2.0"))
    assert listed[:2] == ("2.0", "DynamicQuantizedLinear")
    assert listed.reason.startswith("its weights are packed integers")
    report = chip.report()
    assert dict(zip(report.digital["name"], report.digital["parameters"], strict=True))["2.0"] == 8 * 4 + 4
    assert (report.cover.on_tiles, report.cover.parameters) == (72, 108)
    with pytest.raises(MappingError, match=r"cannot be saved: '2\.0.* is no tensor"):
        chip.save(tmp_path / "chip")

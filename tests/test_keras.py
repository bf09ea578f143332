"""`--init glorot`: weights and batch norms as Keras begins, and a result that is a plain network of torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mho.models import mnist_cnn, stroke_lstm
from mho.models.keras import EPSILON, begin, end


def test_weights_are_uniform_and_of_the_size_that_glorot_says() -> None:
    torch.manual_seed(0)
    net = mnist_cnn()
    begin(net)
    for module in net.requires_grad_(False).modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            area = module.weight[0, 0].numel()
            most = (6 / (area * (module.weight.shape[0] + module.weight.shape[1]))) ** 0.5
            assert 0.97 * most < float(module.weight.abs().max()) <= most
            assert float(module.weight.square().mean()) == pytest.approx(most**2 / 3, rel=0.1)
            assert not module.bias.any()
    weights = torch.cat([p.flatten() for p in net.parameters() if p.ndim > 1])
    assert float(weights.square().mean().sqrt()) == pytest.approx(0.042, abs=0.001)  # torch's own: 0.022


def test_an_lstm_has_an_orthogonal_half_and_remembers() -> None:
    torch.manual_seed(0)
    net = stroke_lstm()
    begin(net)
    recurrent = net.requires_grad_(False).gates.weight[:, -128:]
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(128), atol=1e-5, rtol=0)
    most = (6 / (2 + 512)) ** 0.5
    assert 0.95 * most < float(net.gates.weight[:, :2].abs().max()) <= most
    assert net.gates.bias.tolist() == [0.0] * 128 + [1.0] * 128 + [0.0] * 256


def test_the_result_computes_the_same_with_the_epsilon_of_torch() -> None:
    torch.manual_seed(0)
    net, x = mnist_cnn(), torch.rand(32, 1, 28, 28)
    begin(net)
    net.train()(x)
    norm = net.norm1
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.eps == EPSILON
    torch.testing.assert_close(norm.running_var[:1], 0.99 + 0.01 * net.conv1(x).var((0, 2, 3))[:1])
    wanted = net.eval()(x)
    end(net)
    plain = mnist_cnn()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(plain.eval()(x), wanted, rtol=1e-4, atol=1e-5)
    end(net)  # once
    torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)

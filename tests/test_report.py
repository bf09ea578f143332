"""The report of a chip: tiles, errors of the cells, clipping."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, pictures, small_cnn
from torch import nn

import mho


def test_the_report_tells_what_it_took():
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures())
    report = chip.report()
    table = report.table.set_index("layer")
    assert list(table.index) == ["0", "3", "7"]
    row = table.loc["7"]
    assert (row["inputs"], row["outputs"], row["word_lines"], row["bit_lines"]) == (72, 10, 72, 20)
    assert (row["row_tiles"], row["column_tiles"], row["tiles"], row["cells"]) == (3, 1, 3, 1440)
    assert row["utilisation"] == pytest.approx(1440 / (3 * 1024))
    assert table.loc["3", "tiles"] == 4
    assert table.loc["0", "positions"] == 36
    text = str(report)
    assert "folded into 0" in text
    assert "10 x 72" in text


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_the_report_tells_the_errors_of_the_cells(factor):
    """Weight error and conductances of a layer against 300 simulated ones; 30 % more is told apart."""
    matrix = mho.map(small_cnn(), hardware(), calibrate=pictures()).layers["7"].matrix
    row = mho.map(small_cnn(), hardware(), calibrate=pictures()).report().table.set_index("layer").loc["7"]
    weight = matrix.weights[0].astype(np.float64)
    largest = [
        np.broadcast_to(np.abs(weight[a:b]).max(axis=0), (b - a, 10)) for a, b in pairwise(matrix.placement.edges)
    ]
    span, rng = 39e-6 / np.concatenate(largest), np.random.default_rng(0)  # each tile's columns have their own scale
    target = 1e-6 + span * np.stack([np.maximum(weight, 0), np.maximum(-weight, 0)])
    g = np.maximum(target + factor * 0.5e-6 * rng.standard_normal((300, *target.shape)), 0)
    error = np.sqrt(np.square((g[:, 0] - g[:, 1]) / span - weight).mean(axis=(1, 2)) / np.square(weight).mean())
    assert (abs(row["weight_rmse"] - error.mean()) < 5 * error.std()) == (factor == 1)
    if factor == 1:  # the report's conductances are in steps of a hundredth of g_max
        assert row["g_mean"] == pytest.approx(g.mean(), abs=5 * g.mean(axis=(1, 2, 3)).std() + 0.02e-6)
        assert row["g_std"] == pytest.approx(g.std(), rel=0.01)


def test_the_report_counts_what_is_clipped():
    torch.manual_seed(1)
    layer, x = nn.Linear(50, 12, bias=False), torch.rand(40, 50) * 2 - 1
    chip = mho.map(layer, ideal(dac__bits=8, dac__range=0.8, adc__bits=6, adc__full_scale="10 uA"))
    chip(x)
    row = chip.report().table.iloc[0]
    codes = np.rint(np.clip(x.numpy() / 0.8, -1, 1) * 127) / 127
    weight = layer.weight.detach().numpy().T
    current = 0.2 * 1e-4 * codes @ (weight / np.abs(weight).max(axis=0))
    assert row["dac_clipped"] == pytest.approx((np.rint(np.abs(x.numpy()) / 0.8 * 127) > 127).mean())
    assert row["adc_clipped"] == pytest.approx((np.abs(current) > 10e-6 * (1 + 0.5 / 31)).mean())
    assert 0.1 < row["adc_clipped"] < 0.9

"""Tables that are looked up, heads tied to them, and language models of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import mho

IDEAL = mho.Hardware.preset("ideal")


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return float((got - want).detach().norm() / want.detach().norm())


def mapped(net: nn.Module, x: torch.Tensor) -> mho.Chip:
    """A chip on ideal hardware that equals its network."""
    chip = mho.map(net.eval(), IDEAL, calibrate=x)
    assert error(chip(x), net(x)) < 1e-5
    return chip


class Words(nn.Module):
    """A language model whose head is tied to its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.bag, self.body = nn.Embedding(11, 6), nn.EmbeddingBag(11, 6), nn.Linear(6, 6)
        self.head, self.pair = nn.Linear(6, 11, bias=False), nn.Bilinear(6, 6, 2)
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.body(self.table(tokens)) + self.bag(tokens)[:, None]
        return torch.cat([self.head(x), self.pair(x, x)], -1)


def test_tables_are_looked_up_and_a_tied_head_counts_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, tokens = Words(), torch.randint(0, 11, (6, 4))
    chip = mapped(net, tokens)
    report = chip.report()
    rows = report.digital.set_index("name")
    table = "a table: rows are looked up, and nothing is multiplied"
    assert rows.loc[["table", "bag"], "reason"].tolist() == [table, table]
    assert rows["parameters"].to_dict() == {"table": 0, "bag": 66, "pair": 2 * 36 + 2}
    assert rows["macs"].to_dict() == {"table": 0, "bag": 0, "pair": 4 * 2 * 36}
    assert report.cover.on_tiles == 66 + 42
    assert report.cover.parameters == sum(p.numel() for p in net.parameters())
    assert "pair (Bilinear): no handler maps this type; 74 parameters; 288 multiply-accumulates a sample" in str(report)
    real = mho.map(net, mho.Hardware.preset("reram"), calibrate=tokens)
    real.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded.read(tokens, read=1), real.read(tokens, read=1))
    assert (loaded.report().cover.on_tiles, loaded.report().cover.parameters) == (108, report.cover.parameters)


def test_conv1d_of_transformers(tmp_path: Path) -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    net = nn.Sequential(utils.Conv1D(5, 4), nn.GELU(), utils.Conv1D(3, 5))
    nn.init.normal_(net[0].bias)
    x = torch.randn(6, 7, 4)
    chip = mapped(net, x)
    assert list(chip.layers) == ["0", "2"]
    assert (chip.model[0].nf, chip.model[0].nx) == (5, 4)
    assert torch.allclose(chip.model[0].weight + 0, net[0].weight, atol=1e-6)
    real = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    real.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(x, read=1), real.read(x, read=1))


def test_gpt2_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 31, "n_positions": 12}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    net, tokens = transformers.GPT2LMHeadModel(config).eval(), torch.randint(0, 31, (4, 8))
    chip = mho.map(net, IDEAL, calibrate=tokens)
    assert error(chip(tokens).logits, net(tokens).logits) < 1e-5
    report = chip.report()
    assert "lm_head" in chip.layers
    assert sum("c_" in name for name in chip.layers) == 8
    held = sum(p.numel() for name, p in net.named_parameters() if "c_" in name or "wte" in name)
    assert report.cover.on_tiles == held

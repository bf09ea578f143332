"""NeuroSim's table of a network becomes layers and a network of that shape; its parameters become hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mho
from mho.importing import network, neurosim

# rows in the form of NeuroSim's own tables: two convolutions, pooled, a branch of 1 x 1, two linear layers
PLAIN = """\
8,8,3,3,3,4,0,1
8,8,4,3,3,6,1,1
4,4,6,3,3,8,0,2
4,4,6,1,1,8,0,2
2,2,8,3,3,8,1,1
1,1,8,1,1,16,0,1
1,1,16,1,1,5,0,1
"""
PARAM = """
/* user defined: resistanceOn = 1; */
Param::Param() {
    memcelltype = 2;        // 2: RRAM
    technode = 22;
    numRowSubArray = 64;    // # of rows
    numColSubArray = 128;
    numColMuxed = 8;
    levelOutput = 32;
    cellBit = 2;
    resistanceOn = 6e3;     // Ron
    resistanceOff = 6e3*150;
    maxConductance = (double) 1/resistanceOn;
    readVoltage = 0.5;
    readPulseWidth = 10e-9;
    temp = 300;
    SARADC = false;
    operationmode = 2;
    heightInFeatureSizeSRAM = 10;
    alpha = 1.44;
    wireWidth = 40;
    /**** NO need to modify ****/
    cellBit = 1;
}
"""


def layers_of(text: str, folder: Path) -> pd.DataFrame:
    path = folder / "NetWork.csv"
    path.write_bytes(text.encode())
    found = neurosim(path)
    assert found.layers is not None
    return found.layers


def test_rows_are_layers(tmp_path: Path) -> None:
    layers = layers_of(PLAIN, tmp_path)
    assert list(layers["name"]) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert list(layers["rows"]) == [27, 36, 54, 6, 72, 8, 16]
    assert list(layers["positions"]) == [64, 64, 4, 4, 4, 1, 1]
    assert list(layers["input"]) == [0, 1, 2, 2, 4, 5, 6]  # the branch takes what the layer before it took
    assert layers["macs"].sum() == 27 * 4 * 64 + 36 * 6 * 64 + 54 * 8 * 4 + 6 * 8 * 4 + 72 * 8 * 4 + 8 * 16 + 16 * 5


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("\n", "\r\n"),
        "\ufeff" + PLAIN,
        PLAIN.replace(",", ", ") + "\n\n",
        PLAIN.replace("\n", ",,\n"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",0,", ",0.0,"),
    ],
)
def test_tables_of_any_editor(tmp_path: Path, text: str) -> None:
    pd.testing.assert_frame_equal(layers_of(text, tmp_path), layers_of(PLAIN, tmp_path))


@pytest.mark.parametrize("table", [None, 3, b"NetWork.csv", [3], [["a"] * 8], [[]], [[True] * 8]])
def test_rows_that_are_none(table: Any) -> None:
    with pytest.raises(ValueError, match="neurosim table"):
        neurosim(table)


def test_older_tables_have_no_strides(tmp_path: Path) -> None:
    old = "6,6,1,3,3,2,1\n3,3,2,3,3,4,0\n1,1,36,1,1,3,0\n"
    layers = layers_of(old, tmp_path)
    assert list(layers["stride"]) == [1, 1, 1]
    assert network(layers)(torch.zeros(2, 1, 6, 6)).shape == (2, 3)


def test_kernels_without_padding_are_told_by_the_next_row(tmp_path: Path) -> None:
    lenet = "28,28,1,5,5,6,1,1\n12,12,6,5,5,16,1,1\n1,1,256,1,1,120,0,1\n1,1,120,1,1,10,0,1\n"
    layers = layers_of(lenet, tmp_path)
    assert list(layers["padding"][:2]) == ["none", "none"]
    assert list(layers["positions"][:2]) == [576, 64]
    assert network(layers)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_a_network_of_that_shape_goes_onto_tiles_and_into_a_schedule(tmp_path: Path) -> None:
    layers = layers_of(PLAIN, tmp_path)
    net = network(layers)
    assert torch.equal(net(torch.ones(1, 3, 8, 8)), network(layers)(torch.ones(1, 3, 8, 8)))  # the same each time
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    assert list(chip.layers) == list(layers["name"])
    assert [layer.positions for layer in chip.layers.values()] == list(layers["positions"])
    assert mho.schedule(chip, votes=2).throughput > 0


def test_parameters_are_hardware(tmp_path: Path) -> None:
    (tmp_path / "NetWork.csv").write_text(PLAIN)
    (tmp_path / "Param.cpp").write_text(PARAM)
    found = neurosim(tmp_path / "NetWork.csv", tmp_path / "Param.cpp")
    hardware = found.hardware
    assert hardware is not None
    assert hardware.cell.g_max == pytest.approx(1 / 6e3)
    assert hardware.cell.g_min == pytest.approx(1 / 9e5)
    assert (hardware.cell.levels, hardware.tile.slices, hardware.tile.rows) == (4, 4, 64)
    assert (hardware.adc.bits, hardware.dac.bits_per_pulse, hardware.cost.adcs_per_tile) == (5, 1, 16)
    assert hardware.cost.node == pytest.approx(22e-9)
    assert (hardware.sensing.v_read, hardware.sensing.t_read) == (0.5, 1e-8)
    assert set(found.missing) == {"alpha", "wireWidth"}
    assert "resistanceOff" in str(found)


def test_parameters_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "NetWork.csv").write_text(PLAIN)
    path = tmp_path / "Param.cpp"
    for text, said in (
        ("int x;", "resistanceOn"),
        (PARAM.replace("memcelltype = 2", "memcelltype = 1"), "SRAM"),
        (PARAM.replace("6e3*150", "600"), "resistanceOn must be below"),
        (PARAM.replace("levelOutput = 32", "levelOutput = -32"), "levelOutput must be a number of at least 2"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            neurosim(tmp_path / "NetWork.csv", path)
    path.write_text(PARAM)
    with pytest.raises(ValueError, match="synapse_bits must be a whole number from 1 to 16, got 99"):
        neurosim(tmp_path / "NetWork.csv", path, synapse_bits=99)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no layers"),
        ("8,8,3,3,3\n", "row 1 must have 7 or 8 numbers, got 5"),
        ("8,8,3,3,3,4,0,1\n8,8,4,3,3,4,0\n", "row 2 has 7 numbers, row 1 has 8"),
        ("8,8,3,3,3,-4,0,1\n", "outputs of row 1 must be a whole number from 1 to 1000000, got -4.0"),
        ("8,8,3,3,3,4.5,0,1\n", "outputs of row 1 must be a whole number"),
        ("8,8,3,3,3,nan,0,1\n", "outputs of row 1 must be a whole number"),
        ("8,8,3,3,3,4,2,1\n", "pooled of row 1 must be a whole number from 0 to 1, got 2.0"),
        ("8,8,3,3,3,4,0,0\n", "stride of row 1 must be a whole number from 1"),
        ("8,8,3,3,3,4,0,1\n9,9,4,3,3,4,0,1\n", "row 2 takes 9 x 9 x 4, which no row before gives"),
        ("length,width\n", "line 1 must be numbers, got 'length,width'"),
        ("8 px,8,3,3,3,4,0,1\n", "line 1 must be numbers"),
        ("8,8,3,99,99,4,0,1\n", "the kernel of row 1 is larger than its input"),
        ("1,1,1000000,1,1,1000000,0,1\n1,1,1000000,1,1,1000000,0,1\n" * 5001, "more than 10000 layers"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "Netz µ.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="neurosim table") as error:
        neurosim(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)

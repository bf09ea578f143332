"""Groups that are read together: the bits of reading them one after another."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

import mho
from mho.crossbar.backend import Backend
from mho.crossbar.backends import compiled
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.calibration import calibrate
from mho.crossbar.cells import Drawn
from mho.crossbar.matrix import Matrix
from mho.crossbar.patches import Patches
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Seeds

NO_CONVERTERS = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
OFFSET = {"tile.slices": 2, "cell.levels": 16, "tile.encoding": "offset"}
CONSTANT = {"cell.read_noise": {"kind": "constant", "std_g": "0.5 uS"}}
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
NOISE = {"sensing.gain_noise": 0.02, "sensing.supply_noise": 0.02}


class OneByOne(Compiled):
    """Reads group by group."""

    def read_groups(self, *job) -> int:
        return Backend.read_groups(self, *job)


def matrices(
    fields: dict, shape: tuple[int, int, int], patches: Patches, size: tuple[int, int, int] = (1, 7, 9)
) -> tuple[Programmed, Programmed, np.ndarray]:
    """A matrix of shape (groups, channels and outputs of each), read in both ways, and inputs of it."""
    (groups, channels, outputs), rng = shape, np.random.default_rng(0)
    hardware = mho.Hardware.preset("reram").replace(fields)
    rows = prod(patches.kernel) * channels
    weights, bias = rng.normal(size=(groups, rows, outputs)), rng.normal(size=(groups, outputs))
    if hardware.tile.encoding == "single":
        weights, bias = np.abs(weights), np.abs(bias)
    matrix = Matrix("layer", weights.astype(np.float32), bias.astype(np.float32), hardware, patches)
    x = rng.uniform(-1, 1, (3, *size, groups * channels)).astype(np.float32)
    both = (calibrate(matrix, (x,), Drawn(hardware, 0), Seeds(0), each) for each in (OneByOne(), Compiled()))
    return *both, x


def check(one: Programmed, other: Programmed, x: np.ndarray) -> None:
    rows = len(x) * prod(one.design.matrix.patches.positions(x.shape[1:4]))

    def read(which: Programmed, x: np.ndarray, **how):
        count = rows * len(x) // 3
        scales = np.linspace(0, 3, count, dtype=np.float32) if one.design.scaled else None
        return which.reader.read(x, scales=scales, **how)

    ways = [{"read": 3}, {"read": 8, "first_sample": 5, "call": 2, "threads": 2}, {"noisy": False}]
    ways += [{"reads": 2, "shared": True}]
    for how in ways:
        (y, counts), (z, others) = (read(which, x, **how) for which in (one, other))
        assert np.array_equal(y, z)
        assert counts == others
    twice = np.concatenate([x, x[::-1]])
    apart, together = (read(which, twice, reads=2)[0] for which in (one, other))
    assert np.array_equal(apart, together)
    if not one.design.scaled:
        assert np.array_equal(read(other, x[1:], first_sample=1)[0], read(one, x)[0][rows // 3 :])


@pytest.fixture(autouse=True)
def threads_at_once(monkeypatch):
    """Several threads also for small reads."""
    monkeypatch.setattr(compiled, "WORTH_A_THREAD", 1)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dac.bits_per_pulse": 1, "dac.phases": 2},
        OFFSET,
        NO_CONVERTERS,
        {"tile.bias": "array", "tile.rows": 8},
        {**CONSTANT, "dac.bits": 8},
        {**CONSTANT, **NO_CONVERTERS, "tile.encoding": "single"},
        {"tile.encoding": "single", "tile.bias": "array"},
        NOISE,
        {**NOISE, "tile.rows": 4, "tile.columns": 6, "tile.encoding": "offset"},
        {"adc.offset": 1.0, "adc.gain": 0.02, "tile.encoding": "offset"},
        {"adc.polarity": "apart", "dac.scaling": "sample"},
        {"cell.read_noise": TELEGRAPH, "sensing.read_interval": "200 ns"},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(7, 1, 1), (3, 3, 2), (20, 1, 4), (3, 2, 7), (3, 2, 20)], ids=str)
def test_bits_of_groups_together(fields, shape):
    check(*matrices(fields, shape, Patches((1, 3, 3))))


@pytest.mark.parametrize(
    ("patches", "size"),
    [
        (Patches(), (1, 1, 1)),
        (Patches((1, 1, 1), (1, 2, 2)), (1, 5, 5)),
        (Patches((2, 3, 2), (1, 2, 1), (1, 1, 2)), (4, 7, 6)),
        (Patches((1, 1, 5), (1, 1, 3), (1, 1, 2)), (1, 1, 700)),
        (Patches((1, 7, 7)), (1, 20, 21)),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(18, 1, 1), (3, 3, 2), (3, 4, 9)], ids=str)
def test_patches_of_groups_together(patches, size, shape):
    check(*matrices({"tile.rows": 16, "tile.bias": "array"}, shape, patches, size))


@pytest.mark.parametrize("outputs", [31, 32, 63])
def test_bits_of_groups_with_more_reference_columns_than_their_outputs_leave_room_for(outputs):
    fields = {"tile.encoding": "offset", "tile.columns": 6}
    check(*matrices(fields, (3, 2, outputs), Patches()))
    check(*matrices({**fields, "adc.offset": 1.0, "adc.gain": 0.02}, (3, 2, outputs), Patches()))


def test_what_the_kernel_does_not_do_is_read_group_by_group():
    one, other, x = matrices({"dac.bits_per_pulse": 1, "dac.accumulate": "scaled"}, (3, 1, 1), Patches((1, 3, 3)))
    check(one, other, x)

"""Matrices on tiles are frozen parts: single cells, ranges and blocks, and what copies, ages and files share."""

from __future__ import annotations

import copy
import gc
import pickle
from dataclasses import FrozenInstanceError, replace
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, on_tiles, pictures, small_cnn

import mho
from mho.crossbar import row_tile, wires
from mho.crossbar.cells import Given
from mho.crossbar.placement import Block, Placement
from mho.crossbar.programmed import Programmed
from mho.crossbar.ranges import Ranges
from mho.crossbar.tile import Tile
from mho.mapping.parameters import TileParameter

LOSSY = {"r_word_line": 30.0, "r_bit_line": 30.0}
ERRING: dict[str, Any] = {  # each error that a cell can have, and a bias, several groups, row tiles and column tiles
    "cell": {
        "g_min": "1 uS",
        "g_max": "40 uS",
        "levels": 16,
        "programming": {"kind": "polynomial", "coefficients": ["0.5 uS"], "g_ref": "1 uS"},
        "read_noise": {"kind": "relative", "fraction": 0.02},
        "drift": {
            "kind": "power_law",
            "t_0": "20 s",
            "g_ref": "40 uS",
            "mean": {"offset": 0.05, "slope": 0.0, "low": 0.0, "high": 1.0},
            "spread": {"offset": 0.01, "slope": 0.0, "low": 0.0, "high": 1.0},
        },
        "stuck": {"at_g_min": 0.02, "at_g_max": 0.03},
    },
    "time_s": 3600.0,
    "tile__rows": 16,
    "tile__columns": 6,
    "tile__bias": "array",
}
LAYOUTS = [
    ("differential", 1),
    ("differential", 2),
    ("differential_two_sided", 1),
    ("differential_two_sided", 3),
    ("offset", 1),
    ("offset", 2),
    ("single", 1),
    ("single", 2),
]


def tiled(encoding="differential", slices=1, x=None, wire_compensation=None, **fields) -> Programmed:
    """Two groups of 33 word lines, one of them of the bias, by 7 outputs."""
    rng = np.random.default_rng(5)
    weights, bias = rng.normal(size=(2, 32, 7)), rng.normal(size=(2, 7))
    if encoding == "single":
        weights, bias = np.abs(weights), np.abs(bias)
    return on_tiles(
        weights.astype(np.float32),
        hardware(**{**ERRING, "tile__encoding": encoding, "tile__slices": slices, **fields}),
        bias=bias.astype(np.float32),
        inputs=x,
        limit=1.0,
        wire_compensation=wire_compensation,
    )


def inputs() -> np.ndarray:
    return np.random.default_rng(6).uniform(-1, 1, (20, 1, 1, 1, 64)).astype(np.float32)


def table_of(found: Programmed) -> tuple[np.ndarray, ...]:
    """The conductances of all cells of each group: (slices, polarities, rows, columns) siemens."""
    placement = found.design.placement
    return tuple(
        np.concatenate(
            [found.cells.conductances(found.design, g, t, found.backend) for t in range(placement.row_tiles)], axis=2
        )
        for g in range(placement.groups)
    )


@pytest.mark.parametrize(("encoding", "slices"), LAYOUTS)
@pytest.mark.parametrize("bits", [8, 10])
def test_single_cells_are_those_that_are_read(encoding, slices, bits, monkeypatch):
    """One cell less its partner is what the kernels hold, in integers and in floats, wherever a tile was cut."""
    monkeypatch.setattr(row_tile, "BLOCK", 50)  # a few word lines at a time
    found = tiled(encoding, slices, dac__bits=bits)
    design, placement, g_max = found.design, found.design.placement, found.hardware.cell.g_max
    columns = 7 + (placement.column_tiles if encoding == "offset" else 0)
    polarities = 2 if encoding.startswith("differential") else 1
    assert placement.row_tiles == 3
    assert placement.column_tiles > 1
    for table, packed in zip(table_of(found), found.packed, strict=True):
        assert table.shape == (slices, polarities, 33, columns)
        assert table.dtype == np.float32
        assert table.min() >= 0
        signed = table[:, 0] - (table[:, 1] if polarities == 2 else 0)
        step = np.repeat(packed.planes.mean_unit, np.diff(placement.edges), axis=1)[..., None] if bits == 8 else 0
        off = np.abs(signed / g_max - packed.conductances[..., :columns])
        assert (off <= 0.501 * step + 1e-6).all()
        assert packed.histogram.sum() == table.size
        assert np.allclose(packed.row_conductance, table.sum(axis=(1, 3)), rtol=1e-5)
    other = replace(found, cells=replace(found.cells, copy=1))  # negative control
    assert np.abs(table_of(other)[0] - table_of(found)[0]).max() > 0.02 * g_max
    assert not np.array_equal(table_of(found)[0], table_of(found)[1])
    assert np.array_equal(design.rows_of(0)[:-1], design.matrix.weights[0])


def test_single_cells_have_the_targets_of_their_weights():
    """Without errors: the pair of a weight, and the middle of the range in reference columns."""
    weights = np.array([[[0.5, -1.0], [1.0, 0.25]]], np.float32)
    pair = on_tiles(weights, ideal(cell__g_min="1 uS", cell__g_max="101 uS"))
    g = pair.cells.conductances(pair.design, 0, 0, pair.backend)
    assert np.allclose(g[0], 1e-6 * np.array([[[51, 1], [101, 26]], [[1, 101], [1, 1]]]))
    offset = on_tiles(weights, ideal(cell__g_min="1 uS", cell__g_max="101 uS", tile__encoding="offset"))
    g = offset.cells.conductances(offset.design, 0, 0, offset.backend)
    assert np.allclose(g[0], 1e-6 * np.array([[[76, 1, 51], [101, 63.5, 51]]]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tile__encoding": "offset", "tile__slices": 2},
        {"dac__bits": 10},
        {"wires": LOSSY},
        {"sensing__read_interval": "1 us", "cell__read_noise": {"kind": "flicker", "k_f": 1e-6, "t_0": "20 s"}},
    ],
)
def test_given_cells_are_read_as_if_they_were_programmed(fields):
    drawn, x = tiled(x=inputs(), **fields), inputs()
    cells = Given(drawn.hardware, table_of(drawn))
    given = Programmed.of(drawn.design, cells, drawn.seeds, drawn.backend, drawn.ranges)
    for options in ({}, {"read": 3}, {"noisy": False}):
        (mine, counts), (theirs, counted) = given.reader.read(x, **options), drawn.reader.read(x, **options)
        assert np.array_equal(mine, theirs)
        assert counts == counted
    assert given.digest() == drawn.digest()
    for mine, theirs in zip(given.packed, drawn.packed, strict=True):
        assert np.array_equal(mine.histogram, theirs.histogram)
        assert np.array_equal(mine.row_conductance, theirs.row_conductance)
    double = Programmed.of(
        drawn.design, replace(cells, table=tuple(2 * g for g in cells.table)), drawn.seeds, drawn.backend
    )
    assert not np.array_equal(double.weights, drawn.weights)  # negative control


def broken(table: np.ndarray, value: float) -> np.ndarray:
    table = table.astype(np.float64)
    table[0, 1, 20, 3] = value
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (a,), r"must have shape \(1, 2, 33, 7\) for each of 2 group\(s\), got \[\(1, 2, 33, 7\)\]"),
        (lambda a, b: (a, b, b), r"for each of 2 group\(s\)"),
        (lambda a, b: (a, b[:, :, :-1]), r"got \[\(1, 2, 33, 7\), \(1, 2, 32, 7\)\]"),
        (lambda a, b: (a, b[:, :1]), r"\(1, 1, 33, 7\)\]"),
        (lambda a, b: (a[..., :6], b), r"\[\(1, 2, 33, 6\)"),
        (lambda a, b: (a[0], b), r"\[\(2, 33, 7\)"),
        (lambda a, b: (a, broken(b, np.nan)), "must be finite and at least 0"),
        (lambda a, b: (broken(a, np.inf), b), "must be finite and at least 0"),
        (lambda a, b: (broken(a, 1e39), b), "must be finite and at least 0"),
        (lambda a, b: (broken(a, -1e-9), b), "must be finite and at least 0"),
    ],
)
def test_tables_that_no_chip_has_are_refused(change, message):
    drawn = tiled()
    cells = Given(drawn.hardware, change(*table_of(drawn)))
    with pytest.raises(ValueError, match=f"^layer 'layer': conductances .*{message}") as error:
        Programmed.of(drawn.design, cells, drawn.seeds, drawn.backend)
    assert "\n" not in str(error.value)


def test_measured_cells_are_known_at_one_time():
    drawn = tiled()
    given = Programmed.of(drawn.design, Given(drawn.hardware, table_of(drawn)), drawn.seeds, drawn.backend)
    assert given.at(3600.0, drift_compensation=False).digest() == given.digest()
    with pytest.raises(ValueError, match=r"^time_s must be 3600, when the cells were measured, got 7200$"):
        given.at(7200.0, drift_compensation=False)
    with pytest.raises(ValueError, match="when the cells were measured, got 0"):
        given.at(3600.0, drift_compensation=True)  # it compares with the start
    assert drawn.at(7200.0, drift_compensation=False).digest() != drawn.digest()  # others age


def test_nothing_of_a_programmed_matrix_can_be_set():
    found = tiled()
    given = Given(found.hardware, table_of(found))
    parts = {
        "programmed": (found, "ranges"),
        "matrix": (found.design.matrix, "weights"),
        "design": (found.design, "drive"),
        "placement": (found.design.placement, "blocks"),
        "encoding": (found.design.encodings[0], "scale"),
        "drawn": (found.cells, "seed"),
        "given": (given, "table"),
        "ranges": (found.ranges, "full_scale"),
        "packed": (found.packed[0], "planes"),
    }
    for part, field in parts.values():
        with pytest.raises(FrozenInstanceError):
            setattr(part, field, getattr(part, field))


def test_copies_and_ages_share_their_design():
    found = tiled(x=inputs(), wires=LOSSY, wire_compensation="program")
    others = found.copied(1), found.at(7200.0, drift_compensation=False), found.at(0.0, drift_compensation=True)
    for other in (*others, found.with_ranges(Ranges(np.ones(1))), found.forgetful()):
        assert other.design is found.design
    assert len({other.digest() for other in (found, *others)}) == 4
    assert found.copied(0).digest() == found.digest()


def test_chips_share_the_designs_of_their_layers():
    chip = mho.map(small_cnn(), hardware(time_s=60.0, cell__drift=ERRING["cell"]["drift"]), calibrate=pictures())
    for other in (chip.copy(1), chip.at(3600.0), chip.at(3600.0, drift_compensation=True)):
        for name, layer in other.layers.items():
            assert layer.tiles.design is chip.layers[name].tiles.design
            assert layer.matrix is layer.tiles.design.matrix
            assert layer.tiles is not chip.layers[name].tiles


TILE = Tile(rows=16, columns=14)


@pytest.mark.parametrize("tile", [TILE, Tile(rows=7, columns=9, encoding="offset"), Tile(rows=64, columns=64)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 12, 1), (32, 7, 3), (100, 64, 2)])
def test_blocks_cover_each_group_once(tile, shape):
    rows, outputs, groups = shape
    placement = Placement.of(tile, *shape)
    covered = np.zeros((groups, rows, outputs), int)
    for block in placement.blocks:
        covered[block.group, block.first_row : block.last_row, block.first_output : block.last_output] += 1
        assert 0 < block.last_row - block.first_row <= tile.rows
        assert 0 < block.last_output - block.first_output <= tile.outputs
    assert (covered == 1).all()
    assert placement.tiles == len(placement.blocks) == groups * placement.row_tiles * placement.column_tiles
    assert len({block.tile for block in placement.blocks}) == placement.tiles


WHOLE = Placement.of(TILE, 33, 12, groups=2)


@pytest.mark.parametrize(
    "blocks",
    [
        WHOLE.blocks[1:],
        (*WHOLE.blocks, WHOLE.blocks[0]),
        (*WHOLE.blocks, Block(2, *WHOLE.blocks[0][1:])),
        tuple(block for block in WHOLE.blocks if block.group == 0),
        tuple(block for block in WHOLE.blocks if block.first_row),  # all groups without their first rows
        tuple(block for block in WHOLE.blocks if block.first_output),
        tuple(block for block in WHOLE.blocks if block.last_row < 33),
        (*WHOLE.blocks, *(Block(g, -2, 0, a, b, 99) for g in range(2) for a, b in ((0, 7), (7, 12)))),
        (*WHOLE.blocks, *(Block(g, 33, 40, a, b, 99) for g in range(2) for a, b in ((0, 7), (7, 12)))),
        tuple(block._replace(first_row=max(0, block.first_row - 1)) for block in WHOLE.blocks),
        tuple(block._replace(last_output=min(12, block.last_output + 1)) for block in WHOLE.blocks),
        (),
    ],
)
def test_blocks_that_overlap_or_miss_are_refused(blocks):
    with pytest.raises(ValueError, match=r"^blocks must cover 2 group\(s\) of 33 rows and 12 outputs once each"):
        replace(WHOLE, blocks=blocks)


def test_groups_may_share_tiles():
    """Four groups of 4 x 2 beside one another on one tile of 16 x 16 cells: it counts once."""
    tile = Tile(rows=16, columns=16)
    apart = Placement.of(tile, 4, 2, groups=4)
    shared = replace(apart, blocks=tuple(block._replace(tile=0) for block in apart.blocks))
    assert (apart.tiles, shared.tiles) == (4, 1)
    assert apart.utilisation == 4 * 4 * 4 / (4 * 256)
    assert shared.utilisation == 4 * apart.utilisation
    assert (shared.cells, shared.conversions) == (apart.cells, apart.conversions)
    assert (shared.row_tiles, shared.column_tiles) == (1, 1)


@pytest.mark.parametrize("kind", ["program", "gain"])
def test_loading_solves_no_wires(kind, tmp_path, monkeypatch):
    hw, x = hardware(wires=LOSSY), pictures()
    chip = mho.map(small_cnn(), hw, calibrate=pictures(20), wire_compensation=kind)
    chip.save(tmp_path / "chip")
    solved: list[int] = []
    make = wires.Network.__init__
    monkeypatch.setattr(wires.Network, "__init__", lambda self, *args: (solved.append(1), make(self, *args))[1])
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded.read(x, read=0), chip.read(x, read=0))
    loaded.report()
    assert not solved
    copied = loaded.copy(1)
    assert len(solved) >= sum(layer.placement.tiles for layer in chip.layers.values())  # so that they are counted
    assert torch.equal(copied.read(x, read=0), chip.copy(1).read(x, read=0))


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda chip: pickle.loads(pickle.dumps(chip))])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"wires": LOSSY},
        {"sensing__read_interval": "1 us", "cell__read_noise": {"kind": "flicker", "k_f": 1e-6, "t_0": "20 s"}},
    ],
)
def test_pickled_and_deep_copied_chips_are_the_same_chip(twin, fields):
    kind = "gain" if "wires" in fields else None
    chip, x = mho.map(small_cnn(), hardware(**fields), calibrate=pictures(20), wire_compensation=kind), pictures()
    first = chip.read(x, read=2)
    other = twin(chip)
    assert all(layer.counts == chip.layers[name].counts for name, layer in other.layers.items())
    assert torch.equal(other.read(x, read=2), first)
    assert torch.equal(other(x), chip(x))
    assert torch.equal(other.copy(1).read(x, read=0), chip.copy(1).read(x, read=0))
    for name, layer in other.layers.items():
        tiles = layer.tiles
        assert tiles.digest() == chip.layers[name].tiles.digest()
        assert tiles.design is tiles.reader.design  # and nothing is held twice
        assert layer.matrix is tiles.design.matrix
        assert tiles.design is not chip.layers[name].tiles.design


def held(thing: Any) -> dict[int, int]:
    """Bytes of the arrays and tensors that can be reached from a thing, by the address of their memory."""
    found: dict[int, int] = {}
    seen, rest = set(), [thing]
    while rest:
        one = rest.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType)):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            while isinstance(one.base, np.ndarray):
                one = one.base
            found[one.ctypes.data] = one.nbytes
            rest.append(one.base)
        elif isinstance(one, torch.Tensor) and not isinstance(one, TileParameter):  # which has no values of its own
            storage = torch.Tensor.untyped_storage(one)
            found[storage.data_ptr()] = storage.nbytes()
        if isinstance(one, FunctionType):
            rest += [one.__closure__, one.__defaults__]
        else:
            rest += gc.get_referents(one)
    return {address: size for address, size in found.items() if address}


def test_a_chip_holds_about_twice_its_weights():
    """At most 2.2 times the weights in 32 bits, also after reads, and not the caller's besides."""
    net = torch.nn.Linear(1024, 1024)
    size = 4 * net.weight.numel()
    assert sum(held(net).values()) == pytest.approx(size, rel=1e-3)  # so that weights are found
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=torch.rand(64, 1024))
    chip(torch.rand(8, 1024))
    assert size <= sum(held(chip).values()) <= 2.2 * size
    assert net.weight.data_ptr() not in held(chip)
    gc.collect()
    mine = set(held(chip))
    other = chip.copy(1)  # which shares the design
    assert sum(bytes_ for address, bytes_ in held(other).items() if address not in mine) <= 1.2 * size

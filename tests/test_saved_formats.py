"""Saved chips of every format, chips of given cells, and files that are mapped into memory."""

from __future__ import annotations

import importlib
import tracemalloc
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from torch import nn

import mho
from mho.crossbar import wires
from mho.crossbar.cells import Drawn, Given
from mho.crossbar.kept import CHUNK, _check_sums
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.saved.store import TENSORS, TEXT
from mho.mapping.saved.tensor_file import bytes_of, read_tensors

GOLDEN = Path(__file__).parent / "golden"
OLD = "saved by version 0.1 .format 2., without digests: nothing tells whether it is as it was written"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("saved_chips")


def same_bits(one: mho.Chip, other: mho.Chip, x: torch.Tensor) -> bool:
    return all(torch.equal(one.read(x, read=read), other.read(x, read=read)) for read in (0, 3))


def inputs() -> torch.Tensor:
    return torch.rand(5, 40, generator=torch.Generator().manual_seed(4))


def linear_chip(wire_compensation: str | None = None, **fields: object) -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    return mho.map(net, hardware(**fields), calibrate=torch.rand(8, 40), wire_compensation=wire_compensation)


WIRED = {"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm"}


@pytest.mark.parametrize("name", ["chip", "convolutions"])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_chip_of_version_01_reads_as_it_did_but_for_its_noise(name, mmap, tmp_path):
    kept = np.load(GOLDEN / "saved_0.1" / ("reads.npz" if name == "chip" else f"{name}.npz"))
    x = mlp_inputs() if name == "chip" else torch.from_numpy(kept["inputs"])
    with pytest.warns(
        UserWarning, match=f"saved_0.1/{name}: {OLD}.*noise of reads, .* since version 0.2; save it anew$"
    ):
        chip = mho.load(GOLDEN / "saved_0.1" / name, mmap=mmap)
    assert np.array_equal(chip.read(x, read=2, noisy=False).numpy(), kept["noiseless"])
    if name == "chip":  # one position a sample: the keys are the same
        assert np.array_equal(chip.read(x, read=2).numpy(), kept["noisy"])
    assert len(chip.report().table) == len(chip.layers)
    chip.save(tmp_path / "anew")
    assert same_bits(chip, mho.load(tmp_path / "anew"), x)  # no warning


def mlp_inputs() -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        return importlib.import_module("digest_parts").inputs(6, 20)


@pytest.mark.parametrize("name", ["plain", "wires", "slow"])
def test_the_same_chip_of_versions_02_and_03_reads_the_same(name, tmp_path):
    x = mlp_inputs()
    older, newer = (mho.load(GOLDEN / f"saved_{version}" / name) for version in ("0.2", "0.3"))
    assert same_bits(older, newer, x)
    assert same_bits(older.copy(1), newer.copy(1), x)
    for chip, other in ((older, "older"), (newer, "newer")):
        chip.save(tmp_path / other)
    assert (tmp_path / "older" / TENSORS).read_bytes() == (tmp_path / "newer" / TENSORS).read_bytes()
    assert (tmp_path / "newer" / TENSORS).read_bytes() == (GOLDEN / "saved_0.3" / name / TENSORS).read_bytes()


def test_a_kept_chip_of_given_cells_reads_as_it_did():
    kept = np.load(GOLDEN / "saved_0.3" / "given.npz")
    chip, x = mho.load(GOLDEN / "saved_0.3" / "given"), torch.from_numpy(kept["inputs"])
    assert all(isinstance(layer.tiles.cells, Given) for layer in chip.layers.values())
    assert np.array_equal(chip.read(x, read=2).numpy(), kept["noisy"])


KINDS = {
    "convolutions": lambda: mho.map(small_cnn(), hardware(), calibrate=pictures()),
    "slices": lambda: linear_chip(tile__slices=2, cell__levels=16, tile__encoding="offset"),
    "bias on the array": lambda: linear_chip(tile__bias="array", dac__bits=None),
    "gains": lambda: linear_chip("gain", **WIRED),
    "programmed for wires": lambda: linear_chip("program", **WIRED),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("number", [2, 3])
def test_chips_of_older_formats_are_the_chips_they_were(make, number, files, tmp_path):
    chip, x = make(), pictures() if make is KINDS["convolutions"] else inputs()
    chip.save(tmp_path)
    files.make_older(tmp_path, number)
    assert files.format_of(tmp_path) == number
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{OLD}")
        other = mho.load(tmp_path)
    assert same_bits(chip, other, x)
    assert same_bits(chip.copy(1), other.copy(1), x)
    assert same_bits(chip.at(0.0), other.at(0.0), x)  # with gains of the columns as they are in the scale


def test_a_text_without_digests_beside_tensors_of_a_later_version_is_refused(files, tmp_path):
    for place in ("old", "new"):
        linear_chip().save(tmp_path / place)
    files.make_older(tmp_path / "old", 2)
    (tmp_path / "new" / TEXT).write_bytes((tmp_path / "old" / TEXT).read_bytes())
    with pytest.raises(CheckpointError, match="its tensors are of another chip: a later version wrote them"):
        mho.load(tmp_path / "new")


def test_a_drive_that_its_hardware_does_not_give_is_refused(files, tmp_path):
    linear_chip().save(tmp_path)
    files.make_older(tmp_path, 2)
    text, tensors = files.opened(tmp_path)
    text["layers"]["0"]["drive"]["full_code"] = 200
    files.write(tmp_path, text, tensors, 2)
    with pytest.raises(CheckpointError, match="layer '0': its drive is not that of its hardware"):
        mho.load(tmp_path)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_given_cells_are_saved(make, files, tmp_path):
    chip, x = files.measured(make(), 1.25), pictures() if make is KINDS["convolutions"] else inputs()
    assert not same_bits(chip, make(), x)
    chip.save(tmp_path)
    other = mho.load(tmp_path)
    assert same_bits(chip, other, x)
    for name, layer in chip.layers.items():
        mine, theirs = layer.tiles.cells, other.layers[name].tiles.cells
        assert type(theirs) is Given
        assert all(np.array_equal(a, b) for a, b in zip(mine.table, theirs.table, strict=True))
        assert [table.dtype for table in theirs.table] == ["float32"] * len(mine.table)
    assert same_bits(chip.at(0.0), other.at(0.0), x)
    assert same_bits(chip.copy(0), other.copy(0), x)
    for one in (chip, other):
        with pytest.raises(ValueError, match=r"its cells are known of one chip alone, .* there is no copy 1$"):
            one.copy(1)
    with pytest.raises(ValueError, match="time_s must be 0, when the cells were measured, got 10"):
        other.at(10.0)


def test_tables_of_doubles_are_saved_as_cells_settle(files, tmp_path):
    chip = files.measured(linear_chip())
    for layer in chip.layers.values():
        table = tuple(np.asarray(g, np.float64) for g in layer.tiles.cells.table)
        layer.programmed = type(layer.tiles)(
            layer.tiles.design, Given(layer.hardware, table), layer.tiles.ranges, layer.tiles.reader
        )
    chip.save(tmp_path)
    assert same_bits(chip, mho.load(tmp_path), inputs())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.where(t > t.min(), float("nan")), "0.conductances must be from 0"),
        (lambda t: t.where(t > t.min(), -1e-9), "0.conductances must be from 0"),
        (lambda t: t[:, :1], r"0.conductances of shape \(1, 1, 40, 20\)"),
        (lambda t: t.double(), r"0.conductances of shape .* float64"),
        (lambda t: None, "its tensor '0.conductances' is missing"),
    ],
)
def test_tables_that_no_chip_has_are_refused(change, match, files, tmp_path):
    files.measured(linear_chip()).save(tmp_path)
    text, tensors = files.opened(tmp_path)
    found = change(tensors.pop("layer.0.0.conductances"))
    files.write(tmp_path, text, tensors if found is None else tensors | {"layer.0.0.conductances": found.contiguous()})
    with pytest.raises(CheckpointError, match=match):
        mho.load(tmp_path)
    text["layers"]["0"]["cells"]["kind"] = "drawn"
    files.write(tmp_path, text, tensors | {"layer.0.0.conductances": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"layer '0': it has no 0\.conductances"):
        mho.load(tmp_path)


def test_cells_that_a_file_has_no_room_for_are_not_saved(tmp_path):
    class Grown(Drawn):
        pass

    chip = linear_chip()
    tiles = chip.layers["0"].tiles
    chip.layers["0"].programmed = type(tiles)(tiles.design, Grown(tiles.hardware, 0), tiles.ranges, tiles.reader)
    with pytest.raises(MappingError, match=r"^chip cannot be saved: layer '0': cells must be .*, got Grown$"):
        chip.save(tmp_path / "chip")
    assert not (tmp_path / "chip").exists()


@pytest.mark.parametrize("wire_compensation", [None, "gain", "program"])
def test_loading_and_reading_solves_no_wires(wire_compensation, tmp_path, monkeypatch):
    chip, x = linear_chip(wire_compensation, **WIRED), inputs()
    chip.save(tmp_path)
    solved = []
    init = wires.Network.__init__
    monkeypatch.setattr(wires.Network, "__init__", lambda self, *args: (solved.append(1), init(self, *args))[1])
    loaded = mho.load(tmp_path)
    assert same_bits(chip, loaded, x)
    str(loaded.report())
    mho.vote(loaded, x, 3)
    mho.schedule(loaded)
    loaded.save(tmp_path)
    assert not solved
    loaded.copy(1)
    assert solved  # negative control


def mapped_files() -> str:
    """The files that this process has mapped into its memory."""
    return Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_mapped_chip_is_the_same_chip(make, tmp_path):
    chip, x = make(), pictures() if make is KINDS["convolutions"] else inputs()
    chip.save(tmp_path / "chip")
    before = (tmp_path / "chip" / TENSORS).read_bytes()
    mapped = mho.load(tmp_path / "chip", mmap=True)
    assert same_bits(chip, mapped, x)
    assert same_bits(chip.copy(1), mapped.copy(1), x)
    for tensor in mapped.model.state_dict().values():
        tensor.fill_(0)
    layer = next(iter(mapped.layers.values()))
    layer.tiles.packed[0].planes.mean.fill(0)
    assert (tmp_path / "chip" / TENSORS).read_bytes() == before  # what is written to memory stays there


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the list of mapped files of Linux")
def test_only_a_mapped_chip_keeps_its_file_open(small_chip, tmp_path):
    path = str(tmp_path / "chip" / TENSORS)
    small_chip.save(tmp_path / "chip")
    copied = mho.load(tmp_path / "chip")
    assert path not in mapped_files()
    mapped = mho.load(tmp_path / "chip", mmap=True)
    assert path in mapped_files()
    assert same_bits(copied, mapped, pictures())
    small_chip.copy(1).save(tmp_path / "chip")  # another one in its place
    assert same_bits(copied, mapped, pictures())
    mapped.save(tmp_path / "chip")
    assert same_bits(copied, mho.load(tmp_path / "chip"), pictures())


def test_damage_of_a_mapped_file_is_noticed(folder):
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(CheckpointError, match="is not as it was written"):
        mho.load(folder, mmap=True)


def test_tensors_that_stand_askew_in_their_file_are_read(folder):
    """A header of any length: safetensors fills it up, others need not."""
    tensors, content = read_tensors(folder / TENSORS), (folder / TENSORS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    head, rest = content[8 : 8 + size], content[8 + size :]
    (folder / TENSORS).write_bytes((size + 1).to_bytes(8, "little") + head + b" " + rest)
    for mapped in (False, True):
        found = read_tensors(folder / TENSORS, mapped=mapped)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(value, tensors[name]) for name, value in found.items())
        assert all(value.data_ptr() % value.itemsize == 0 for value in found.values())


def test_tensors_of_all_types_and_shared_ones_are_kept(tmp_path):
    net = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.LayerNorm(4))
    net[2].weight = net[1].weight
    for kind in ("float16", "bfloat16", "complex64", "bool", "uint8", "int8", "int32", "float64", "float8_e5m2"):
        net.register_buffer(f"of_{kind}", torch.arange(6).reshape(2, 3).T.to(getattr(torch, kind)))  # not contiguous
    net.register_buffer("nothing", torch.empty(0, 3))
    net.register_buffer("single", torch.tensor(3))
    chip = mho.map(net, hardware(), calibrate=torch.rand(4, 6))
    chip.save(tmp_path)
    for mmap in (False, True):
        state = mho.load(tmp_path, model=net, mmap=mmap).model.state_dict()
        for name, value in chip.model.state_dict().items():
            assert state[name].dtype == value.dtype
            assert bytes_of(state[name].contiguous()).tobytes() == bytes_of(value.contiguous()).tobytes()


def test_checks_need_little_memory_beside_the_planes():
    """Numbers of a large plane are looked at in parts."""
    packed = np.ones((1, 64, 1024, 64), np.int16)  # 8 MiB
    tracemalloc.start()
    _check_sums("mean", packed, np.array([0, 1024, 2048]), 127)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * CHUNK
    packed[0, 63, 1023, 63] = 30000
    with pytest.raises(ValueError, match="a column adds up to 32047, more than its kernel can hold"):
        _check_sums("mean", packed, np.array([0, 2048]), 2**17)


def test_both_files_may_be_read_by_the_same_people(folder):
    assert (folder / TEXT).stat().st_mode == (folder / TENSORS).stat().st_mode

"""Limits of memory, what is kept in files, and programming by several threads: the same bits."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from safetensors.torch import save_file
from tied import TOKENS, Words, X, mlp
from torch import nn

import mho
from mho.crossbar import max_memory as memory
from mho.crossbar import threads
from mho.mapping.errors import CheckpointError

RERAM = mho.Hardware.preset("reram")
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is told by /proc")


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every array of a chip, small ones too, goes into a file."""
    monkeypatch.setattr(memory, "SMALLEST", 1)
    with mho.limits(max_memory=(memory.held() or 0) + 1_000_000) as limit:
        yield limit


@needs_proc
@pytest.mark.parametrize(("make", "x"), [(mlp, X), (small_cnn, pictures()), (Words, TOKENS)])
@pytest.mark.parametrize("fields", [{}, {"sensing__read_interval": 1e-6}, {"tile__slices": 2, "cell__levels": 4}])
def test_the_same_bits_from_a_file(make: Any, x: torch.Tensor, fields: dict[str, Any], tmp_path: Path) -> None:
    hw = RERAM.replace({name.replace("__", "."): value for name, value in fields.items()})
    chip = mho.map(make(), hw, calibrate=x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SMALLEST", 1)
        with mho.limits(max_memory=(memory.held() or 0) + 1_000_000):
            other = mho.map(make(), hw, calibrate=x)
            pair = chip.copy(1), other.copy(1)
    for layer in other.layers.values():
        assert memory.in_file(layer.matrix.weights)
        assert all(memory.in_file(packed.planes.mean) for packed in layer.tiles.packed)
    assert not any(memory.in_file(layer.matrix.weights) for layer in chip.layers.values())
    for one, two in ((chip, other), pair, (chip.at(10.0), other.at(10.0))):
        assert torch.equal(one.read(x, read=3, reads=2), two.read(x, read=3, reads=2))
        assert [a.tiles.digest() for a in one.layers.values()] == [b.tiles.digest() for b in two.layers.values()]
    other.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip", model=make()).read(x, read=0), chip.read(x, read=0))
    columns = ["weight_rmse", "g_mean", "g_std", "array_energy_j"]
    assert other.report().table[columns].equals(chip.report().table[columns])


@needs_proc
def test_a_file_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory.zeros((4,), np.float32)
    with mho.limits(max_memory=(memory.held() or 0) + 1_000_000):
        before = memory.held()
        array = memory.zeros((50, 1_000_000), np.float32)
        array += 1
        assert memory.held() - before < 10_000_000  # type: ignore[operator]
        memory.released(array, np.zeros(3))
        assert float(array[::7, ::1001].min()) == float(array.max()) == 1
        assert memory.zeros((4,), np.float32).base is None
    assert not memory.in_file(memory.zeros((2_000_000,), np.float32))


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (10**12, 10**12),
        ("900GB", 9 * 10**11),
        (" 1.5 tb ", 15 * 10**11),
        ("1000GiB", 1000 * 2**30),
        ("800 G", 8 * 10**11),
    ],
)
@needs_proc
def test_sizes(given: Any, size: int) -> None:
    with mho.limits(max_memory=given):
        assert memory.limit() == size
        with mho.limits(max_memory=None):
            assert memory.limit() is None
        assert memory.limit() == size
    assert memory.limit() is None


@pytest.mark.parametrize(
    "given", ["12 bananas", "", "GB", -1, 0, float("nan"), float("inf"), True, [1], "-3 GB", "1e9"]
)
def test_what_is_no_size(given: Any) -> None:
    with pytest.raises(ValueError, match="max_memory must be a size such as '12 GB' or a number of bytes, got"):
        mho.limits(max_memory=given)
    assert memory.limit() is None


@needs_proc
def test_less_than_there_is_already() -> None:
    with pytest.raises(ValueError, match=r"max_memory must be more than the \d+ MB that the process has, got '1 MB'"):
        mho.limits(max_memory="1 MB")


def test_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_limit", memory._Unasked)
    monkeypatch.setenv("MHO_MAX_MEMORY", "much")
    with pytest.raises(ValueError, match="MHO_MAX_MEMORY must be a size"):
        mho.map(mlp(), RERAM, calibrate=X)
    monkeypatch.setenv("MHO_MAX_MEMORY", "900 GB")
    if memory.held() is not None:
        assert memory.limit() == 9 * 10**11


def test_no_way_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held", lambda: None)
    with pytest.raises(ValueError, match="max_memory needs a system that tells"):
        mho.limits(max_memory="900 GB")


@needs_proc
def test_folders_that_cannot_hold_it(tight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"has no room for .* GB more .*name another folder by the variable TMPDIR"):
        memory.zeros((3_000_000,), np.float32)
    monkeypatch.setattr(memory, "_kind_of_files", lambda folder: "tmpfs")
    with pytest.raises(ValueError, match="is a folder in memory; name another by the variable TMPDIR"):
        memory.zeros((3_000_000,), np.float32)


def regions(path: Path) -> list[tuple[int, int]]:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]  # type: ignore[misc]


@needs_proc
def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    model, path = Words(), tmp_path / "words.safetensors"
    save_file({name: value for name, value in model.state_dict().items() if name != "head.weight"}, path)
    torch.manual_seed(5)
    other = mho.load_model(path, Words(max_norm=None), mmap=True)
    assert other.head.weight is other.words.weight
    there = regions(path)
    assert all(any(low <= p.data_ptr() < high for low, high in there) for p in other.parameters())
    chips = [mho.map(net, RERAM, calibrate=TOKENS) for net in (model, other)]
    assert torch.equal(chips[0].read(TOKENS, read=0), chips[1].read(TOKENS, read=0))
    with mho.limits(max_memory="900 GB"):  # pages go, and come back
        third = mho.map(other, RERAM, calibrate=TOKENS)
    assert torch.equal(third.read(TOKENS, read=0), chips[0].read(TOKENS, read=0))
    assert torch.equal(other(TOKENS), model(TOKENS))
    with torch.no_grad():
        other.mix.weight.zero_()  # written to memory, not to the file
    again = mho.load_model(path, Words(), mmap=True)
    assert torch.equal(again.mix.weight, model.mix.weight)


def test_weights_of_another_type_are_converted(tmp_path: Path) -> None:
    model, path = mlp(), tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in model.state_dict().items()}, path)
    loaded = mho.load_model(path, mlp(), mmap=True)
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, model[0].weight.half().float())


def test_only_safetensors_stay_in_their_file(tmp_path: Path) -> None:
    torch.save(mlp().state_dict(), tmp_path / "w.pt")
    for path in (tmp_path / "w.pt", tmp_path):
        with pytest.raises(CheckpointError, match="mmap is for files of safetensors"):
            mho.load_model(path, mlp(), mmap=True)
    save_file(mlp().state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(mho.load_model(tmp_path, mlp(), mmap=True)[0].weight, mlp()[0].weight)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, hw = nn.Linear(300, 20).eval(), hardware(tile__rows=32)
    x, found = torch.rand(9, 300), []
    for count in (1, 4):
        monkeypatch.setattr(threads, "available", lambda wanted, count=count: count)
        chip = mho.map(model, hw, calibrate=x)
        found.append([layer.tiles.digest() for layer in chip.layers.values()])
    assert found[0] == found[1]


def test_parallel_calls_keep_their_order_and_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available", lambda wanted: 3)
    with np.errstate(divide="raise"):
        assert threads.in_parallel(lambda i: (i, np.geterr()["divide"]), 7) == [(i, "raise") for i in range(7)]
    here = threads.threading.current_thread().name
    for each, alone in ((threads.AT_ONCE, True), (threads.FEW, False), (1000, True), (0, False)):
        names = threads.in_parallel(lambda i: threads.threading.current_thread().name, 7, each=each)
        assert (names == [here] * 7) is alone
    with pytest.raises(ZeroDivisionError):
        threads.in_parallel(lambda i: 1 // i, 3)

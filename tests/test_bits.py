"""Same seed, same bits: whatever the threads, the batches, the process, and how the input lies in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from torch import nn

import mho

HARDWARE = {
    "converters": {},
    "no converters": {"dac__bits": None, "dac__range": None, "adc__bits": None, "adc__full_scale": None},
    "offset": {"tile__encoding": "offset", "tile__bias": "array"},
    "slices and pulses": {"tile__slices": 2, "cell__levels": 16, "dac__bits_per_pulse": 3},
    "gain and output noise": {
        "sensing__gain_noise": 0.01,
        "output_noise__sigma_add": 0.1,
        "output_noise__sigma_mult": 0.1,
        "dac__bits": 10,
    },
}


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 37), nn.ReLU(), nn.Linear(37, 10)).eval()


def conv1d() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 5, 9, stride=4), nn.Flatten(), nn.Linear(170, 4)).eval()


def conv3d() -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.Unflatten(1, (3, 1)), nn.Conv3d(3, 4, (1, 3, 3), stride=2, padding=(0, 1, 1)), nn.Flatten()
    return nn.Sequential(*parts, nn.Linear(144, 4)).eval()


def images() -> torch.Tensor:
    return pictures(70, seed=7)


def on_chip(build, fields) -> mho.Chip:
    return mho.map(build(), hardware(**fields), calibrate=pictures(16), seed=5)


CASES = {name: (small_cnn, fields) for name, fields in HARDWARE.items()} | {
    "linear": (linear, {}),
    "conv1d": (conv1d, {}),
    "conv3d": (conv3d, {}),
}


@pytest.fixture(params=CASES.values(), ids=CASES, scope="module")
def case(request) -> Any:
    return request.param


@pytest.fixture(scope="module")
def chip(case) -> mho.Chip:
    """All its matrix layers are on tiles."""
    return on_chip(*case)


@pytest.fixture(scope="module")
def whole(chip) -> torch.Tensor:
    """The read that all others must equal: all samples at once."""
    return chip.read(images(), read=2)


@pytest.fixture(params=[1, 2])
def threads(request) -> Iterator[int]:
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(min(request.param, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


def test_any_number_of_threads(case, chip, whole, threads):
    assert torch.equal(chip.read(images(), read=2), whole)
    assert torch.equal(on_chip(*case).read(images(), read=2), whole)
    assert not torch.equal(chip.read(images(), read=3), whole)  # negative control


@pytest.mark.parametrize("size", [1, 7, 64])
def test_any_batch(chip, whole, size):
    x = images()
    parts = [chip.read(x[start : start + size], read=2, first_sample=start) for start in range(0, len(x), size)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(chip.read(x[size:], read=2, first_sample=0), whole[size:])  # negative control


def test_any_order_of_reads(chip, whole):
    for read in (9, 0, 4):
        chip.read(images(), read=read)
    chip(images())
    assert torch.equal(chip.read(images(), read=2), whole)
    fresh = chip.copy(0)
    assert torch.equal(torch.stack([fresh(images()) for _ in range(3)])[2], whole)


@pytest.mark.parametrize("first", [0, 7])
def test_several_reads_at_once(chip, whole, first):
    x = images()[first:]
    several = chip.read(x, read=1, reads=3, first_sample=first).chunk(3)
    assert torch.equal(several[1], whole[first:])
    assert torch.equal(several[2], chip.read(x, read=3, first_sample=first))
    assert not torch.equal(several[0], several[1])  # negative control


def test_after_saving(chip, whole, tmp_path):
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(images(), read=2), whole)


def test_any_layout_of_the_input(chip, whole):
    x = images()
    layouts = {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "every second of twice as many": x.repeat_interleave(2, dim=0)[::2],
        "part of a wider picture": torch.nn.functional.pad(x, (3, 2, 1, 0))[:, :, 1:, 3:-2],
        "transposed": x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "with gradient": x.clone().requires_grad_(),
    }
    for name, same in layouts.items():
        assert torch.equal(same, x)
        assert torch.equal(chip.read(same, read=2), whole), name


def test_double_precision_is_read_as_single(chip, whole):
    assert torch.equal(chip.read(images().double(), read=2).float(), whole)


@pytest.mark.parametrize("options", [{}, {"rule": "soft", "copies": 2}])
def test_votes_in_any_batch(options):
    chip, x = on_chip(small_cnn, {}), images()
    whole = mho.vote(chip, x, 4, batch_size=None, **options)
    for size in (1, 7, 64):
        parts = mho.vote(chip, x, 4, batch_size=size, **options)
        assert torch.equal(parts.winners, whole.winners)
        assert torch.equal(parts.counts, whole.counts)
        assert torch.equal(parts.softmax, whole.softmax)


PROGRAM = """
import os, sys
os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = sys.argv[1]
sys.path.insert(0, sys.argv[2])
import test_bits
print(test_bits.digest())
"""


def digest() -> str:
    """Of one read of each case."""
    found = sha256()
    for case in CASES.values():
        found.update(on_chip(*case).read(images(), read=2).contiguous().numpy().tobytes())
    return found.hexdigest()


def test_a_fresh_process():
    expected = digest()
    for count in ("1", "2"):
        command = [sys.executable, "-c", PROGRAM, count, str(Path(__file__).parent)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected

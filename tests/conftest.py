"""The ground of all tests: two threads at most, no windows, the same random examples in every run."""

import os
import sys

for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "2"
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait by spinning are slow on a busy machine
# many tests start processes: Mho is translated to bytecode once, and not in each, whatever the environment says
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# ruff: noqa: E402  (after the environment that libraries read when they are imported)
from pathlib import Path
from typing import Any

import pytest
import torch
from command_shop import refused, shop  # noqa: F401  (fixtures)
from helpers import hardware, pictures, small_cnn
from hypothesis import settings

import mho

# the longest, first: two workers end together, and have not both to compile what these need
FIRST = ("test_workers.py", "test_pages.py", "test_compiled.py", "test_bits.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


settings.register_profile("mho", deadline=None, derandomize=True)
settings.load_profile("mho")


@pytest.fixture(scope="session", autouse=True)
def torchvision_operators() -> Any:
    """What torchvision asks for at its import, where it has no compiled part; timm and transformers import it."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.fixture(scope="module")
def small_chip() -> mho.Chip:
    return mho.map(small_cnn(), hardware(), calibrate=pictures(), seed=3)


@pytest.fixture
def folder(small_chip: mho.Chip, tmp_path: Path) -> Path:
    """A saved chip, to be spoiled."""
    small_chip.save(tmp_path / "chip")
    return tmp_path / "chip"

"""MNIST: the bundled test pictures, IDX files of every fault, the data folder, and the download."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import struct
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mho
from mho.inputs import DATA_SETS, find_inputs
from mho.models.data import data_folder, mnist, mnist_images
from mho.models.networks import NETWORKS

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, pixels: bytes | None, labels: bytes | None, *, packed: bool = True) -> Path:
    """A folder with the two training files, those that are not None."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(TRAIN, (pixels, labels), strict=True):
        if content is not None:
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty data folder, set by MHO_DATA, and no network."""

    def refuse(url, timeout):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("MHO_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_test_pictures_come_with_the_package(home):
    images, labels = mho.models.data.mnist("test")
    assert (images.shape, images.dtype) == ((10_000, 1, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((10_000,), torch.int64)
    assert (images.min(), images.max()) == (0, 1)
    assert torch.equal(images * 255, (images * 255).round())
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert images.double().mean() == pytest.approx(0.13251, abs=1e-5)  # known of the official files
    assert not home.exists()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_training_files_are_read_from_a_folder(tmp_path, packed, below):
    write(tmp_path / below, idx(PIXELS), idx(LABELS), packed=packed)
    for root in (tmp_path, str(tmp_path)):
        images, labels = mnist("train", root=root)
        assert torch.equal((images * 255).round().byte()[:, 0], torch.from_numpy(PIXELS))
        assert labels.tolist() == list(range(7))


def test_test_files_are_read_from_a_folder_that_is_named(tmp_path):
    for name, array in zip(("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"), (PIXELS, LABELS), strict=True):
        (tmp_path / name).write_bytes(idx(array))
    assert len(mnist("test", root=tmp_path)[0]) == 7
    assert len(mnist("test")[0]) == 10_000


DAMAGED = {
    "truncated": (idx(PIXELS)[:-1], idx(LABELS), r"truncated or misshapen, says \(7, 28, 28\) and holds 5487 bytes"),
    "too long": (idx(PIXELS), idx(LABELS) + b"\0", "truncated or misshapen"),
    "no header": (b"\0\0\x08", idx(LABELS), "no IDX file of unsigned bytes in 3 dimensions"),
    "foreign": (b"PK\x03\x04" + bytes(100), idx(LABELS), "no IDX file"),
    "other numbers": (b"\0\0\x0d" + idx(PIXELS)[3:], idx(LABELS), "no IDX file of unsigned bytes"),
    "swapped": (idx(LABELS), idx(PIXELS), "no IDX file of unsigned bytes in 3 dimensions"),
    "other size": (idx(PIXELS[:, :20]), idx(LABELS), "truncated or misshapen"),
    "other number": (idx(PIXELS), idx(LABELS[:5]), "expected 7 images and labels, got 7.* 5"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fault", DAMAGED)
def test_damaged_files_are_refused(tmp_path, fault, packed):
    pixels, labels, message = DAMAGED[fault]
    write(tmp_path, pixels, labels, packed=packed)
    with pytest.raises(ValueError, match=message) as caught:
        mnist("train", root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [gzip.compress(idx(PIXELS))[:-20], b"no gzip at all", gzip.compress(b"")], ids=["cut", "none", "empty"]
)
def test_a_damaged_gzip_file_is_refused(tmp_path, content):
    write(tmp_path, None, idx(LABELS))
    (tmp_path / f"{TRAIN[0]}.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"{TRAIN[0]}.gz: (damaged gzip file|no IDX file)"):
        mnist("train", root=tmp_path)


def test_the_data_folder_holds_all_of_mnist_or_none(home, monkeypatch):
    """A training on part of the set would call itself one on MNIST; `root` is the way to part of it."""
    write(home / "mnist", idx(PIXELS), idx(LABELS))
    with pytest.raises(ValueError, match="expected 60000 images and labels, got 7"):
        mnist("train")
    assert len(mnist("train", root=home)[0]) == 7
    monkeypatch.setitem(mnist_images.FILES, "train", (*TRAIN, 7))
    assert len(mnist("train")[0]) == 7


def test_no_files_and_no_network(home):
    with pytest.raises(FileNotFoundError) as caught:
        mnist("train")
    text = str(caught.value)
    for part in (f"{TRAIN[0]}.gz", f"{TRAIN[1]}.gz", str(home / "mnist"), "no network in tests", "MHO_DATA"):
        assert part in text
    assert "\n" not in text
    assert not home.exists()
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte\.gz"):
        mnist("test", root=home)
    assert not home.exists()


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'validation'"):
        mnist("validation")


def test_where_the_data_folder_is(tmp_path, monkeypatch):
    monkeypatch.delenv("MHO_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".cache" / "mho"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_folder() == tmp_path / "cache" / "mho"
    monkeypatch.setenv("MHO_DATA", str(tmp_path / "mine"))
    assert data_folder() == tmp_path / "mine"
    monkeypatch.setenv("MHO_DATA", "")
    assert data_folder() == tmp_path / "cache" / "mho"


class Server:
    """Stands in for `urlopen`: what each mirror sends, an exception or bytes, by the order of the mirrors."""

    def __init__(self, *answers: dict[str, bytes] | Exception) -> None:
        self.answers = dict(zip(mnist_images.MIRRORS, answers, strict=True))
        self.asked: list[str] = []

    def __call__(self, url, timeout):
        assert timeout > 0
        self.asked.append(url)
        mirror, _, name = url.rpartition("/")
        answer = self.answers[f"{mirror}/"]
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer[name])


GOOD = {f"{name}.gz": gzip.compress(idx(array)) for name, array in zip(TRAIN, (PIXELS, LABELS), strict=True)}
OTHER = {f"{name}.gz": gzip.compress(idx(array)) for name, array in zip(TRAIN, (PIXELS + 1, LABELS), strict=True)}
CUT = {name: content[:-9] for name, content in GOOD.items()}


@pytest.fixture
def small(home, monkeypatch) -> Path:
    """The data folder of a world whose official training set has seven pictures."""
    monkeypatch.setitem(mnist_images.FILES, "train", (*TRAIN, 7))
    for name, array in zip(TRAIN, (PIXELS, LABELS), strict=True):
        monkeypatch.setitem(mnist_images.SHA256, name, hashlib.sha256(idx(array)).hexdigest())
    return home


def test_what_is_missing_is_downloaded_once(small, monkeypatch):
    server = Server(GOOD, GOOD)
    monkeypatch.setattr(urllib.request, "urlopen", server)
    images, labels = mnist("train")
    assert torch.equal((images * 255).round().byte()[:, 0], torch.from_numpy(PIXELS))
    assert labels.tolist() == list(range(7))
    assert files(small) == [f"mnist/{name}.gz" for name in TRAIN]
    assert server.asked == [f"{mnist_images.MIRRORS[0]}{name}.gz" for name in TRAIN]
    mnist("train")
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "first",
    [
        OTHER,
        CUT,
        dict.fromkeys(GOOD, b"<html>moved</html>"),
        urllib.error.URLError("refused"),
        urllib.error.HTTPError("url", 404, "Not Found", http.client.HTTPMessage(), None),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b"", 9),
    ],
    ids=["another file", "cut short", "no gzip", "refused", "404", "timeout", "incomplete"],
)
def test_the_next_mirror_is_asked_when_one_fails(small, monkeypatch, first):
    monkeypatch.setattr(urllib.request, "urlopen", Server(first, GOOD))
    assert len(mnist("train")[0]) == 7
    assert files(small) == [f"mnist/{name}.gz" for name in TRAIN]


def test_a_file_with_another_checksum_is_not_kept(small, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", Server(OTHER, CUT))
    with pytest.raises(FileNotFoundError) as caught:
        mnist("train")
    assert all(mirror in str(caught.value) for mirror in mnist_images.MIRRORS)
    assert "\n" not in str(caught.value)
    assert not small.exists() or files(small) == []


def test_a_disk_that_is_full_leaves_no_part_of_a_file(small, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", Server(GOOD, GOOD))

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        mnist("train")
    assert files(small) == []


def test_test_sets_have_names(monkeypatch):
    data = torch.rand(3, 50, 2), torch.arange(3)
    for network in DATA_SETS.values():
        monkeypatch.setitem(NETWORKS, network, replace(NETWORKS[network], load=lambda split: (*data, split)))
    for name in ("mnist", "cifar10", "strokes"):
        assert find_inputs(name) == data

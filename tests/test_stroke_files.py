"""Stroke sequences: genuine files of every fault, and the cache of those made from pictures."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mho.models.data import mnist, strokes
from mho.models.data.strokes import load, points_of, read_points, sequence

TWO = "col,row\n3,4\n4,4\n-1,-1\n9,9\n-2,-2\n"


def listed(drawn: list[np.ndarray]) -> str:
    """The content of a genuine file."""
    parts = ["".join(f"{col},{row}\n" for col, row in stroke) for stroke in drawn]
    return "col,row\n" + "-1,-1\n".join(parts) + "-2,-2\n"


def test_points_are_read(tmp_path):
    path = tmp_path / "trainimg-0-points.txt"
    for content in (TWO, TWO.replace("\n", "\r\n"), TWO.rstrip("\n")):
        path.write_bytes(content.encode())
        assert [stroke.tolist() for stroke in read_points(str(path))] == [[[3, 4], [4, 4]], [[9, 9]]]
    for image in mnist("test")[0][:5, 0].numpy():
        drawn = points_of(image)
        path.write_text(listed(drawn))
        assert all(np.array_equal(*pair) for pair in zip(read_points(path), drawn, strict=True))
    path.write_text("col,row\n-2,-2\n")
    assert read_points(path) == []


FAULTS = {
    "empty": ("", "expected the first line 'col,row', got ''"),
    "no header": (TWO[8:], "expected the first line 'col,row', got '3,4'"),
    "only a header": ("col,row\n", "expected '-2,-2' as the last line, got 'col,row'"),
    "cut short": (TWO[:-6], "expected '-2,-2' as the last line, got '9,9': the file is cut short"),
    "goes on": (TWO + "5,5\n", "expected '-2,-2' as the last line, got '5,5'"),
    "two in one": (TWO + TWO, r"line 6: expected 'col,row' from 1 to 28, or '-1,-1', got '-2,-2'"),
    "zero": (TWO.replace("9,9", "0,9"), "line 5: expected 'col,row' from 1 to 28, or '-1,-1', got '0,9'"),
    "outside": (TWO.replace("9,9", "9,29"), "line 5: .* got '9,29'"),
    "no number": (TWO.replace("9,9", "9,x"), "line 5: .* got '9,x'"),
    "one number": (TWO.replace("9,9", "9"), "line 5: .* got '9'"),
    "three": (TWO.replace("9,9", "9,9,9"), "line 5: .* got '9,9,9'"),
    "bytes": (TWO.replace("9,9", "\x00\xe9"), "line 5: expected"),
    "up twice": (TWO.replace("9,9", "-1,-1"), "line 5: expected a point before pen up"),
    "up at the start": (TWO.replace("3,4\n4,4\n", ""), "line 2: expected a point before pen up"),
    "up at the end": (TWO.replace("9,9\n", ""), "expected a point after the last pen up"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_points_are_refused(tmp_path, fault):
    content, message = FAULTS[fault]
    path = tmp_path / "testimg-7-points.txt"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        read_points(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# The data folder


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with the first five test pictures, labelled 0 to 4."""
    write_pictures(tmp_path, np.rint(mnist("test")[0][:5, 0].numpy() * 255).astype(np.uint8))
    return tmp_path


def write_pictures(root: Path, pixels: np.ndarray) -> None:
    for name, array in (("images-idx3", pixels), ("labels-idx1", np.arange(len(pixels), dtype=np.uint8))):
        (root / f"t10k-{name}-ubyte").write_bytes(idx(array))


def point_files(count: int = 5, split: str = "test") -> dict[str, bytes]:
    """Files that the pictures could not have made: number N goes N + 1 columns to the right."""
    lines = {n: "".join(f"{col},{n + 1}\n" for col in range(1, n + 2)) for n in range(count)}
    return {f"{split}img-{n}-points.txt": f"col,row\n{text}-2,-2\n".encode() for n, text in lines.items()}


def packed(files: dict[str, bytes], *others: tarfile.TarInfo, folder: str = "sequences/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for other in others:
            archive.addfile(other)
        for name, content in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes], place: str) -> None:
    if place.endswith(".tar.gz"):
        files = {"sequences.tar.gz": packed(files)}
        place = "strokes"
    (root / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / place / name).write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


PLACES = ["strokes/sequences.tar.gz", "strokes", "strokes/sequences"]


@pytest.mark.parametrize("place", PLACES)
def test_genuine_files_are_read_where_they_are(root, place):
    others = {"testimg-0-inputdata.txt": b"1 1 0 0\n", "testimg-0-targetdata.txt": b"", "readme.txt": b"no points"}
    write(root, point_files() | point_files(2, "train") | others, place)
    before = names(root)
    data = load("test", root)
    assert data.source == "genuine"
    assert (data.sequences.shape, data.sequences.dtype) == ((5, 50, 2), torch.float32)
    assert (data.labels.tolist(), data.labels.dtype) == ([0, 1, 2, 3, 4], torch.int64)
    assert data.sequences[3, :5].tolist() == [[1, 4], [2, 4], [3, 4], [4, 4], [0, 0]]
    assert names(root) == before


def faulty(place: str) -> dict[str, tuple[dict[str, bytes], str]]:
    files = point_files()
    some = {name: content for name, content in files.items() if "-3-" not in name}
    cut = files | {"testimg-4-points.txt": files["testimg-4-points.txt"][:-7]}
    where = "strokes/sequences.tar.gz" if place.endswith("gz") else place
    wanted = f"{where}: expected 5 files testimg-0-points.txt to testimg-4-points.txt"
    return {
        "part": (some, rf"{wanted}, got 4 \(no testimg-3-points.txt\)"),
        "one less": (point_files(4), rf"{wanted}, got 4 \(no testimg-4-points.txt\)"),
        "one more": (point_files(6), rf"{wanted}, got 6 \(a testimg-5-points.txt\)"),
        "other split": (point_files(5, "train"), rf"{wanted}, got 0 \(no testimg-0-points.txt\)"),
        "damaged": (cut, "testimg-4-points.txt: expected '-2,-2' as the last line"),
    }


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", faulty("strokes"))
def test_genuine_files_are_all_there_or_refused(root, place, fault):
    files, message = faulty(place)[fault]
    write(root, files, place)
    with pytest.raises(ValueError, match=message) as caught:
        load("test", root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = packed(point_files())
LINK = tarfile.TarInfo("sequences/testimg-0-points.txt")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "/etc/passwd"
LARGE = {"testimg-0-points.txt": b"col,row\n" + b"1,1\n" * 20_000}
ARCHIVES = {
    "no gzip": (b"<html>moved</html>", "damaged or no tar.gz .* after 0 test files"),
    "empty": (b"", "damaged or no tar.gz"),
    "cut short": (GOOD[: len(GOOD) // 2], "damaged or no tar.gz|got . .no testimg"),
    "no tar": (gzip.compress(b"some text" * 99), "damaged or no tar.gz"),
    "flipped": (GOOD[:200] + bytes([GOOD[200] ^ 255]) + GOOD[201:], "damaged|expected"),
    "second one": (packed(point_files() | {"../testimg-0-points.txt": b""}), "testimg-0-points.txt: expected one file"),
    "a link": (packed({}, LINK), r"got 0 \(no testimg-0-points.txt\)"),
    "large": (packed(LARGE), "testimg-0-points.txt: expected at most 65536 bytes, got 80008"),
}


@pytest.mark.parametrize("fault", ARCHIVES)
def test_a_damaged_archive_is_refused(root, fault):
    content, message = ARCHIVES[fault]
    (root / "strokes").mkdir()
    (root / "strokes" / "sequences.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load("test", root)
    assert f"{root}/strokes/sequences.tar.gz: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(root / "strokes") == ["sequences.tar.gz"]


@pytest.fixture
def drawings(monkeypatch) -> list[int]:
    """Counts the pictures that are drawn."""
    seen: list[int] = []
    drawn = strokes._drawn
    monkeypatch.setattr(strokes, "_drawn", lambda skeleton: seen.append(1) or drawn(skeleton))
    return seen


def test_sequences_are_made_from_pictures_once(root, drawings, monkeypatch):
    monkeypatch.setattr(strokes, "CHUNK", 2)
    first = load("test", root)
    assert first.source == "from MNIST pictures"
    assert names(root / "strokes") == ["made-test.npz"]
    assert (first.sequences.shape, first.sequences.dtype) == ((5, 50, 2), torch.float32)
    assert first.labels.tolist() == [0, 1, 2, 3, 4]
    for row, image in zip(first.sequences, mnist("test")[0][:5, 0].numpy(), strict=True):
        assert np.array_equal(row.numpy(), sequence(points_of(image)))
    drawings.clear()
    again = load("test", str(root))
    assert torch.equal(again.sequences, first.sequences)
    assert (again.sequences.dtype, again.source, drawings) == (torch.float32, first.source, [])


@pytest.mark.parametrize("change", ["damaged", "cut short", "foreign", "other pictures", "other recipe"])
def test_a_cache_that_does_not_fit_is_made_again(root, drawings, monkeypatch, change):
    first = load("test", root).sequences
    path = root / "strokes" / "made-test.npz"
    content = path.read_bytes()
    if change == "damaged":
        path.write_bytes(content[:300] + bytes([content[300] ^ 255]) + content[301:])
    elif change == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif change == "foreign":
        path.write_bytes(b"something else")
    elif change == "other pictures":
        write_pictures(root, np.zeros((5, 28, 28), np.uint8))
    else:
        monkeypatch.setattr(strokes, "RECIPE", "another")
    drawings.clear()
    again = load("test", root).sequences
    assert len(drawings) == 5
    assert torch.equal(again, torch.zeros_like(first) if change == "other pictures" else first)
    assert path.read_bytes() != b"something else"


def test_a_folder_that_cannot_be_written_to_does_not_matter(root):
    (root / "strokes").write_text("a file where the folder should be")
    assert load("test", root).source == "from MNIST pictures"


def test_an_interrupted_run_leaves_no_cache(root, monkeypatch):
    def full(file, **arrays):
        file.write(b"part")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(KeyboardInterrupt):
        load("test", root)
    assert names(root / "strokes") == []


def test_the_data_folder_is_used_and_all_of_it_wanted(tmp_path, monkeypatch):
    """The test pictures come with the package: the genuine files must be 10,000 then."""
    monkeypatch.setenv("MHO_DATA", str(tmp_path))
    write(tmp_path, point_files(), "strokes")
    with pytest.raises(ValueError, match=r"expected 10000 files testimg-0-points.txt to .*, got 5 \(no testimg-5-"):
        load("test")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'all'"):
        load("all")

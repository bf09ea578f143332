"""MNIST as stroke sequences: de Jong's data set where the user has it, else made from the pictures by its recipe.

E. D. de Jong, MNIST digits stroke sequence data (2016), used by Qin and Vucinic for their LSTM. docs/strokes.md has the
format, the recipe and how exactly it meets the genuine data.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import label

from ...mapping.saved.folders import whole
from .mnist_images import data_folder, mnist

Array = np.ndarray[Any, Any]
Pixel = tuple[int, int]

SIDE = 28
STEPS = 50
PEN_UP = (-1, -1)
END = (-2, -2)
NAME = re.compile(r"(train|test)img-(0|[1-9]\d{0,5})-points\.txt")
LARGEST_FILE = 1 << 16  # bytes; the genuine files have some hundred

RECIPE = "de Jong, version 1"  # part of the cache's key: sequences of another recipe are made again
THRESHOLDS = range(25, 226, 25)  # grey levels of 0 to 255
ROUNDS = 2
SPECK = 2  # points
CHUNK = 1000  # pictures at a time, for the memory

AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # (row, col), clockwise from north
KEPT = (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6)))  # in a half round, ink with all three of these neighbours stays
BESIDE = ((0, 1), (1, 0), (0, -1), (-1, 0))
ACROSS = ((1, 1), (1, -1), (-1, -1), (-1, 1))
TURNS = [(BESIDE[i:] + BESIDE[:i], ACROSS[i:] + ACROSS[:i]) for i in range(4)]
SIDES_TOUCH = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])
CORNERS_TOUCH = np.array([[[0] * 3] * 3, [[1] * 3] * 3, [[0] * 3] * 3])


@dataclass(frozen=True)
class Strokes:
    """Sequences (n, 50, 2) float32 (see `sequence`), labels (n,) int64, and where the sequences are from.

    `source` is `genuine` or `from MNIST pictures`.
    """

    sequences: torch.Tensor
    labels: torch.Tensor
    source: str


def load(split: str, root: str | Path | None = None) -> Strokes:
    """The stroke sequences of MNIST, in the order of its pictures.

    Genuine where `strokes/` of the data folder has `sequences.tar.gz`, or the files of it unpacked there or in
    `strokes/sequences/`; else made from the pictures, once: they are kept in `strokes/made-SPLIT.npz`.

    Args:
        split: `train` or `test`.
        root: a folder to use instead of the data folder, for the pictures too; it may hold fewer of them.

    Raises:
        ValueError: an unknown split, or genuine files that are damaged or not complete.
        FileNotFoundError: no MNIST (whose labels are needed in any case) and no download.
    """
    images, labels = mnist(split, root=root)
    folder = (Path(root) if root is not None else data_folder()) / "strokes"
    found = _genuine(folder, split, len(labels))
    if found is not None:
        return Strokes(_stacked(found), labels, "genuine")
    pixels = _bytes_of(images[:, 0].numpy())
    return Strokes(_cached(pixels, folder / f"made-{split}.npz"), labels, "from MNIST pictures")


def sequence(strokes: list[Array], steps: int = STEPS) -> Array:
    """The input of the paper's LSTM: (steps, 2) float32, a point (col, row) a step.

    Points are 1-based pixel coordinates, as they are. Between two strokes stands the pen-up marker (-1, -1), a step of
    its own; there is no end marker. What exceeds `steps` is cut off, what is missing is filled with (0, 0), at the end.
    """
    result = np.zeros((steps, 2), np.float32)
    rows: list[Array] = []
    for stroke in strokes:
        rows += [np.array([PEN_UP])] if rows else []
        rows.append(stroke)
    if rows:
        points = np.concatenate(rows)[:steps]
        result[: len(points)] = points
    return result


def read_points(path: str | Path) -> list[Array]:
    """The strokes of a genuine `*-points.txt` file, each (n, 2) int (col, row), 1-based.

    Raises:
        ValueError: another file, or a damaged one.
    """
    return _parsed(Path(path).read_bytes(), str(path))


def points_of(image: Array | torch.Tensor) -> list[Array]:
    """The strokes of a picture (28, 28) in [0, 1] by de Jong's recipe, each (n, 2) int (col, row), 1-based.

    The highest threshold that keeps the digit in one piece, two rounds of thinning (Zhang and Suen, A fast parallel
    algorithm for thinning digital patterns, 1984), and a tour from the top left end always to the nearest pixel left.
    Neighbours in a stroke are neighbours in the picture, and no pixel comes twice. An empty picture has no strokes.

    Raises:
        ValueError: another shape, or values outside of [0, 1].
    """
    picture = np.asarray(image)
    if picture.shape != (SIDE, SIDE):
        raise ValueError(f"image must have shape ({SIDE}, {SIDE}), got shape {picture.shape}")
    if not ((picture >= 0) & (picture <= 1)).all():
        raise ValueError(f"image must have values in [0, 1], got {picture.min()} to {picture.max()}")
    return _drawn(_skeletons(_bytes_of(picture[None]))[0])


# Genuine files


def _parsed(content: bytes, name: str) -> list[Array]:
    lines = content.decode("ascii", "replace").split()
    if lines[:1] != ["col,row"]:
        raise ValueError(f"{name}: expected the first line 'col,row', got {''.join(lines[:1])[:40]!r}")
    if lines[-1] != "-2,-2":
        raise ValueError(f"{name}: expected '-2,-2' as the last line, got {lines[-1][:40]!r}: the file is cut short")
    strokes: list[list[Pixel]] = [[]]
    for number, line in enumerate(lines[1:-1], start=2):
        point = _point(line, f"{name}, line {number}")
        if point != PEN_UP:
            strokes[-1].append(point)
        elif strokes[-1]:
            strokes.append([])
        else:
            raise ValueError(f"{name}, line {number}: expected a point before pen up (-1,-1), got none")
    if not strokes[-1] and len(strokes) > 1:
        raise ValueError(f"{name}: expected a point after the last pen up (-1,-1), got none")
    return [np.array(stroke) for stroke in strokes if stroke]


def _point(line: str, where: str) -> Pixel:
    match = re.fullmatch(r"(-?\d{1,3}),(-?\d{1,3})", line)
    point = (int(match[1]), int(match[2])) if match else (0, 0)
    if point != PEN_UP and not (1 <= point[0] <= SIDE and 1 <= point[1] <= SIDE):
        raise ValueError(f"{where}: expected 'col,row' from 1 to {SIDE}, or '-1,-1', got {line[:40]!r}")
    return point


def _genuine(folder: Path, split: str, count: int) -> list[list[Array]] | None:
    """The strokes of all `count` pictures of a split, or None where there are no genuine files."""
    archive = folder / "sequences.tar.gz"
    if archive.is_file():
        return _complete(_archived(archive, split), split, count, archive)
    for place in (folder, folder / "sequences"):
        if any(place.glob("*img-*-points.txt")):
            return _complete(_unpacked(place, split), split, count, place)
    return None


def _complete(found: dict[int, list[Array]], split: str, count: int, place: Path) -> list[list[Array]]:
    missing = [number for number in range(count) if number not in found]
    if missing or len(found) != count:
        wrong = f"no {split}img-{missing[0]}" if missing else f"a {split}img-{max(found)}"
        raise ValueError(
            f"{place}: expected {count} files {split}img-0-points.txt to {split}img-{count - 1}-points.txt, "
            f"got {len(found)} ({wrong}-points.txt)"
        )
    return [found[number] for number in range(count)]


def _unpacked(folder: Path, split: str) -> dict[int, list[Array]]:
    names = [match for path in folder.glob(f"{split}img-*-points.txt") if (match := NAME.fullmatch(path.name))]
    return {int(match[2]): read_points(folder / match[0]) for match in names}


def _archived(path: Path, split: str) -> dict[int, list[Array]]:
    """The files of a split in a tar.gz, in whatever folder of it; nothing is written to the disk."""
    found: dict[int, list[Array]] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                match = NAME.fullmatch(member.name.rpartition("/")[2])
                content = archive.extractfile(member) if match and match[1] == split and member.isreg() else None
                if match is None or content is None:
                    continue
                where = f"{path}: {member.name}"
                if member.size > LARGEST_FILE:
                    raise ValueError(f"{where}: expected at most {LARGEST_FILE} bytes, got {member.size}")
                if int(match[2]) in found:
                    raise ValueError(f"{where}: expected one file of this name, got a second one")
                found[int(match[2])] = _parsed(content.read(), where)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged or no tar.gz ({error}) after {len(found)} {split} files") from error
    return found


# From pictures


def _cached(pixels: Array, path: Path) -> torch.Tensor:
    """The sequences (n, 50, 2) of pictures (n, 28, 28) uint8, from the file at `path` if it was made from the same."""
    key = hashlib.sha256(RECIPE.encode() + pixels.tobytes()).hexdigest()
    # a file that is not there, damaged or of other pictures is made again
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
    with contextlib.suppress(*damage), path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
        if str(saved["key"]) == key:
            return torch.from_numpy(saved["sequences"].astype(np.float32))
    chunks = [_skeletons(pixels[start : start + CHUNK]) for start in range(0, len(pixels), CHUNK)]
    sequences = _stacked([_drawn(skeleton) for chunk in chunks for skeleton in chunk])
    with contextlib.suppress(OSError):  # a data folder that cannot be written to costs only time
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part, part.open("wb") as new:
            np.savez_compressed(new, sequences=sequences.numpy().astype(np.int8), key=np.array(key))
    return sequences


def _stacked(pictures: list[list[Array]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([sequence(strokes) for strokes in pictures]))


def _bytes_of(images: Array) -> Array:
    return np.rint(images * 255).astype(np.uint8)


def _skeletons(pixels: Array) -> Array:
    """Pictures (n, 28, 28) uint8 to the pixels (n, 28, 28) bool that the pen visits."""
    return _without_specks(_thinned(_ink(pixels)))


def _ink(pixels: Array) -> Array:
    """The pixels above a threshold of each picture's own.

    It is raised as long as the parts of the digit (that touch at sides) keep their number and half of the pixels stay.
    """
    ink = pixels > 0
    parts, area = _parts(ink), ink.sum((1, 2))
    rising = np.ones(len(pixels), bool)
    for threshold in THRESHOLDS:
        higher = pixels > threshold
        rising &= (_parts(higher) == parts) & (2 * higher.sum((1, 2)) >= area)
        ink[rising] = higher[rising]
    return ink


def _parts(ink: Array) -> Array:
    """The number (n,) of parts of each picture, of pixels that touch at their sides."""
    labels, count = label(ink, SIDES_TOUCH)
    pictures = np.zeros(count + 1, np.int64)
    where = np.nonzero(ink)
    pictures[labels[where]] = where[0]
    return np.bincount(pictures[1:], minlength=len(ink))


def _thinned(ink: Array) -> Array:
    """Two rounds of Zhang and Suen's thinning; pixels at the border of the picture stay."""
    ink = ink.copy()
    for full, other in KEPT * ROUNDS:
        around = _around(ink)
        count = around.sum(0)
        once = (~around & np.roll(around, -1, axis=0)).sum(0) == 1
        edge = once & (count >= 2) & (count <= 6) & ~around[list(full)].all(0) & ~around[list(other)].all(0)
        ink[:, 1:-1, 1:-1] &= ~edge[:, 1:-1, 1:-1]
    return ink


def _around(ink: Array) -> Array:
    """The eight neighbours (8, n, 28, 28) of each pixel, clockwise from north."""
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    return np.stack([padded[:, 1 + r : 1 + r + SIDE, 1 + c : 1 + c + SIDE] for r, c in AROUND])


def _without_specks(skeletons: Array) -> Array:
    """Drops parts of one or two pixels, unless a picture has no others."""
    labels, _ = label(skeletons, CORNERS_TOUCH)
    kept = skeletons & (np.bincount(labels.ravel())[labels] > SPECK)
    return np.where(kept.any((1, 2), keepdims=True), kept, skeletons)


def _drawn(skeleton: Array) -> list[Array]:
    """The strokes of a skeleton (28, 28): of four tours, the one with the cheapest way back to its start."""
    pixels = [(int(row), int(col)) for row, col in np.argwhere(skeleton)]
    if not pixels:
        return []
    start = _start(pixels)
    _, tour = min((_tour(pixels, start, turn) for turn in range(len(TURNS))), key=lambda found: found[0])
    points = np.array(tour)[:, ::-1] + 1
    jumps = np.flatnonzero(np.abs(np.diff(points, axis=0)).max(1) > 1)
    return np.split(points, jumps + 1)


def _start(pixels: list[Pixel]) -> Pixel:
    """The top left (least row + col) of the pixels with one neighbour or none, else of all."""
    ink = set(pixels)
    ends = [(r, c) for r, c in pixels if sum((r + dr, c + dc) in ink for dr, dc in AROUND) <= 1]
    return min(ends, key=lambda p: (sum(p), p[0])) if ends else min(pixels, key=lambda p: (sum(p), p[1]))


def _tour(pixels: list[Pixel], start: Pixel, turn: int) -> tuple[int, list[Pixel]]:
    """A tour always to the nearest pixel left, and its cost, with the way back to the start.

    A step costs |rows|^3 + |cols|^3. `turn` (0 to 3) decides between neighbours that are equally near.
    """
    left = dict.fromkeys(pixels)
    del left[start]
    tour, cost = [start], 0
    while left:
        here = tour[-1]
        there = _neighbour(here, left, turn) or min(left, key=lambda pixel: _cost(here, pixel))
        cost += _cost(here, there)
        del left[there]
        tour.append(there)
    return cost + _cost(tour[-1], start), tour


def _neighbour(pixel: Pixel, left: dict[Pixel, None], turn: int) -> Pixel | None:
    row, col = pixel
    for directions in TURNS[turn]:
        for down, right in directions:
            if (row + down, col + right) in left:
                return (row + down, col + right)
    return None


def _cost(one: Pixel, other: Pixel) -> int:
    return abs(one[0] - other[0]) ** 3 + abs(one[1] - other[1]) ** 3

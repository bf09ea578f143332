"""Stroke sequences: the recipe on drawn pictures and on genuine samples."""

from __future__ import annotations

import itertools
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mho.models.data import mnist, strokes
from mho.models.data.strokes import points_of, sequence

GOLDEN = Path(__file__).parent / "golden" / "strokes.json"


def picture(*pixels: tuple[int, int]) -> np.ndarray:
    """White pixels (row, col), counted from 0, on black (28, 28)."""
    image = np.zeros((28, 28), np.float32)
    for pixel in pixels:
        image[pixel] = 1
    return image


def ring(row: float, col: float, radius: float) -> np.ndarray:
    """A circle two pixels wide."""
    rows, cols = np.mgrid[:28, :28]
    return (np.abs(np.hypot(rows - row, cols - col) - radius) <= 1).astype(np.float32)


def visited(drawn: list[np.ndarray]) -> np.ndarray:
    mask = np.zeros((28, 28), int)
    for stroke in drawn:
        np.add.at(mask, (stroke[:, 1] - 1, stroke[:, 0] - 1), 1)
    return mask


def steps(drawn: list[np.ndarray]) -> np.ndarray:
    """The larger of |columns| and |rows| of each step within the strokes."""
    return np.concatenate([np.zeros(0, int), *(np.abs(np.diff(stroke, axis=0)).max(1) for stroke in drawn)])


# The recipe


def test_an_empty_picture_has_no_strokes():
    assert points_of(np.zeros((28, 28))) == []


@pytest.mark.parametrize(("row", "col"), [(0, 0), (0, 27), (13, 4), (27, 27)])
def test_one_pixel_is_one_point_and_coordinates_count_from_one(row, col):
    (stroke,) = points_of(picture((row, col)))
    assert stroke.tolist() == [[col + 1, row + 1]]


@pytest.mark.parametrize("values", [torch.from_numpy, np.float64, lambda image: image * np.float32(0.4)])
def test_a_line_is_one_stroke_from_left_to_right(values):
    (stroke,) = points_of(values(picture(*((9, col) for col in range(5, 20)))))
    assert stroke.tolist() == [[col + 1, 10] for col in range(5, 20)]


def test_a_broad_line_becomes_one_pixel_wide():
    image = np.zeros((28, 28))
    image[4:24, 10:13] = 1
    (stroke,) = points_of(image)
    assert len(set(stroke[:, 0].tolist())) == 1
    assert stroke[0, 1] < stroke[-1, 1]
    assert 16 <= len(stroke) <= 20


def test_a_circle_is_one_stroke_around_it():
    (stroke,) = points_of(ring(13, 13, 8))
    assert (steps([stroke]) == 1).all()
    assert np.abs(stroke[0] - stroke[-1]).max() == 1
    radius = np.hypot(stroke[:, 1] - 14, stroke[:, 0] - 14)
    assert (np.abs(radius - 8) <= 1.1).all()
    assert stroke.sum(1).argmin() == 0


def test_an_eight_is_drawn_in_full():
    drawn = points_of(np.maximum(ring(8, 13, 5), ring(18, 13, 5)))
    mask = visited(drawn)
    assert len(drawn) <= 3
    assert mask.max() == 1
    assert all(mask[row].any() for row in range(4, 23))
    assert sum(map(len, drawn)) >= 50


def test_parts_that_are_apart_are_strokes_and_specks_are_none():
    bars = [(9, col) for col in range(5, 15)] + [(20, col) for col in range(5, 15)]
    assert [len(stroke) for stroke in points_of(picture(*bars))] == [10, 10]
    assert [len(stroke) for stroke in points_of(picture(*bars, (14, 2), (14, 3)))] == [10, 10]
    assert [len(stroke) for stroke in points_of(picture((14, 2), (14, 3)))] == [2]


@pytest.mark.parametrize(("seam", "hook"), [(255, False), (110, False), (95, True)])
def test_the_threshold_rises_until_the_digit_would_fall_apart(seam, hook):
    """A pale hook is gone at a threshold of 100, unless a seam in the line would be gone too."""
    image = picture(*((9, col) for col in range(4, 24)))
    image[9, 12] = seam / 255
    image[10:21, 23] = 90 / 255
    (stroke,) = points_of(image)
    mask = visited([stroke])
    assert mask[9, 4:22].all()
    assert mask[10:21, 23].any() == hook


@pytest.mark.parametrize(("pale", "kept"), [(20, False), (21, True)])
def test_the_threshold_leaves_half_of_the_pixels(pale, kept):
    """A line of 20 white pixels goes on around two corners in `pale` grey ones."""
    image = picture(*((9, col) for col in range(4, 24)))
    image[10:20, 23] = 90 / 255
    image[19, 33 - pale : 23] = 90 / 255
    assert (image > 0).sum() == 20 + pale
    assert visited(points_of(image))[15, 23] == kept


@given(arrays(np.uint8, (28, 28), elements=st.sampled_from([0, 0, 0, 60, 140, 255])))
def test_each_pixel_of_a_skeleton_is_visited_once_in_steps_to_neighbours(grey):
    drawn = points_of((grey / np.float32(255)).astype(np.float32))
    skeleton = strokes._skeletons(grey[None])[0]
    assert np.array_equal(visited(drawn), skeleton.astype(int))
    assert not (skeleton & (grey == 0)).any()
    assert (steps(drawn) == 1).all()
    ends = [(one[-1], other[0]) for one, other in itertools.pairwise(drawn)]
    assert all(np.abs(there - here).max() > 1 for here, there in ends)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 28, 28)), r"shape \(28, 28\), got shape \(1, 28, 28\)"),
        (np.full((28, 28), 255), r"values in \[0, 1\], got 255 to 255"),
        (np.full((28, 28), np.nan), r"values in \[0, 1\], got nan"),
        (np.full((28, 28), -0.1), r"values in \[0, 1\], got -0.1"),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        points_of(image)


# The genuine samples


def digest(array: np.ndarray) -> str:
    return sha256(array.astype(np.uint8).tobytes()).hexdigest()


def agreement() -> tuple[int, int, int]:
    """Genuine samples with the same number of points, the same pixels, the same order of all points, of 29."""
    images = mnist("test")[0][:, 0].numpy()
    same = np.zeros(3, int)
    for number, genuine in json.loads(GOLDEN.read_text()).items():
        drawn = points_of(images[int(number)])
        points = np.concatenate(drawn)
        found = {"points": len(points), "pixels": digest(visited(drawn) > 0), "order": digest(points)}
        same += [found[key] == genuine[key] for key in ("points", "pixels", "order")]
    points, pixels, order = same.tolist()
    return points, pixels, order


def test_genuine_samples_have_the_same_pixels():
    assert agreement() == (29, 29, 28)
    images = mnist("test")[0][:100, 0].numpy()
    assert all((steps(points_of(image)) == 1).all() for image in images)


def test_the_recipe_makes_a_difference(monkeypatch):
    """Thinned by one round, some of the samples come out differently: the comparison is able to fail."""
    monkeypatch.setattr(strokes, "ROUNDS", 1)
    assert agreement()[1] < 29


# Sequences


def test_a_sequence_has_points_markers_and_padding():
    drawn = [np.array([[3, 4], [4, 4]]), np.array([[9, 9]])]
    rows = sequence(drawn)
    assert (rows.shape, rows.dtype) == ((50, 2), np.float32)
    assert rows[:4].tolist() == [[3, 4], [4, 4], [-1, -1], [9, 9]]
    assert not rows[4:].any()
    assert sequence(drawn, steps=3).tolist() == [[3, 4], [4, 4], [-1, -1]]
    assert not sequence([]).any()


def test_a_long_sequence_is_cut_at_fifty():
    long = np.stack([np.arange(70) % 28 + 1, np.arange(70) // 28 + 1], axis=1)
    assert np.array_equal(sequence([long]), long[:50])
    assert np.array_equal(sequence([long[:49], long[49:]])[48:], [long[48], [-1, -1]])

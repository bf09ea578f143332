"""Figures of merit of trained networks, on made-up boxes and embeddings; the networks where they are installed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def merit(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("figures_of_merit")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("trained_networks")


def test_overlap_of_boxes(merit):
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]])
    np.testing.assert_allclose(merit.overlap(boxes[:1], boxes), [[1, 1 / 3, 0, 0]])
    np.testing.assert_array_equal(merit.overlap(boxes[3:], boxes[3:]), [[0]])  # an empty box covers nothing
    assert merit.overlap(boxes[:0], boxes).shape == (0, 4)


def test_suppression_keeps_the_best_of_what_overlaps(merit):
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [5, 0, 15, 10]])
    assert merit.suppress(boxes, np.array([0.8, 0.9, 0.7, 0.95]), 0.5).tolist() == [3, 1, 2]
    assert merit.suppress(boxes, np.array([0.8, 0.9, 0.7, 0.1]), 0.2).tolist() == [1, 2]
    assert merit.suppress(boxes[:0], np.zeros(0), 0.5).tolist() == []


def test_faces_found_and_false(merit):
    reference = np.array([[0.0, 0, 10, 10], [100, 0, 110, 10], [200, 0, 210, 10]])
    points = np.zeros((3, 5, 2))
    boxes = np.array([[101.0, 0, 111, 10], [0, 0, 10, 10], [100, 0, 110, 10], [50, 50, 60, 60], [206, 0, 216, 10]])
    found = np.zeros((5, 5, 2))
    found[1] = [3, 4]  # 5 pixels off
    found[2, 0] = [0, 5]  # one of five landmarks, 5 pixels off
    result = merit.faces_found(reference, boxes, points, found)
    assert result.kept.tolist() == [1, 1, 0]
    assert result.false_boxes == 3  # the second box of a face counts as false
    np.testing.assert_allclose(result.landmark_error, [5, 1, np.nan])


def test_no_boxes_at_all(merit):
    one, none = np.array([[0.0, 0, 10, 10]]), np.zeros((0, 4))
    missed = merit.faces_found(one, none, np.zeros((1, 5, 2)), np.zeros((0, 5, 2)))
    assert (missed.kept.tolist(), missed.false_boxes) == ([0], 0)
    spurious = merit.faces_found(none, one, np.zeros((0, 5, 2)), np.zeros((1, 5, 2)))
    assert (len(spurious.kept), spurious.false_boxes) == (0, 1)


def test_pairs_of_speakers(merit):
    embeddings = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    same, different = merit.pairs(embeddings, np.array(["a", "a", "b", "b"]))
    np.testing.assert_allclose(np.sort(same), [0.8, 0.8])
    np.testing.assert_allclose(np.sort(different), [0, 0.6, 0.6, 0.96])


@pytest.mark.parametrize(
    ("same", "different", "rate"),
    [
        ([0.9, 0.8], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.9, 0.8], 1.0),
        ([0.9, 0.8, 0.7, 0.3], [0.5, 0.2, 0.1, 0.0], 0.25),
        ([0.5, 0.5], [0.5, 0.5], 0.5),  # nothing tells them apart
    ],
)
def test_equal_error_rate(merit, same, different, rate):
    assert merit.equal_error_rate(np.array(same), np.array(different)) == pytest.approx(rate)


def test_interval_covers_chips_and_items(merit):
    rng = np.random.default_rng(1)
    items = rng.normal(size=200)
    mean, low, high = merit.interval(np.tile(items, (3, 1)))
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.25)
    chips = np.array([[0.0] * 50, [1.0] * 50])  # two chips that differ in all of them
    assert merit.interval(chips) == (0.5, 0.0, 1.0)
    assert merit.interval(np.array([[2.0, np.nan]])) == (2.0, 2.0, 2.0)
    assert np.isnan(merit.interval(np.full((2, 3), np.nan))).all()


def test_votes_are_the_mean_of_fresh_reads(bench):
    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls, x

    x = torch.ones(2, 3)
    mean, other = bench.Mean(Counted(), 3)(x)
    torch.testing.assert_close(mean, 2 * x)
    torch.testing.assert_close(other, x)


def test_missing_files_are_named_with_their_package(bench, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"chan3\.wav is neither in --data .* it comes with pocketsphinx"):
        bench.find("chan3.wav", tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "cards").mkdir()
    for folder in ("other", "cards"):
        (tmp_path / folder / "002.wav").touch()
    assert bench.find("cards/002.wav", tmp_path) == tmp_path / "cards" / "002.wav"


@pytest.mark.parametrize("asked", [["--parts", "noses"], ["--chips", "0"]])
def test_what_cannot_be_asked_for(bench, asked, capsys):
    with pytest.raises(SystemExit):
        bench.main(asked)
    assert asked[0] in capsys.readouterr().err


@pytest.mark.skipif(find_spec("facenet_pytorch") is None, reason="needs facenet-pytorch")
@pytest.mark.filterwarnings("ignore")
def test_the_cascade_runs_with_our_suppression(bench, merit):
    mtcnn = bench.cascade()
    boxes, points = bench.detected(mtcnn, np.full((60, 60, 3), 128, dtype=np.uint8))
    assert (boxes.shape, points.shape) == ((0, 4), (0, 5, 2))
    apart = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10]])  # the last is in another picture
    detect = importlib.import_module("facenet_pytorch.models.utils.detect_face")
    kept = detect.batched_nms(apart, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), 0.5)
    assert kept.tolist() == [0, 2]


@pytest.mark.skipif(find_spec("facenet_pytorch") is None, reason="needs facenet-pytorch")
@pytest.mark.filterwarnings("ignore")
def test_boxes_beside_the_picture_are_cut_to_a_pixel(bench):
    bench.cascade()
    detect = importlib.import_module("facenet_pytorch.models.utils.detect_face")
    boxes = torch.tensor([[2.0, 3, 8, 9], [70, -30, 90, -10], [-40, 65, -20, 80]])
    top, bottom, left, right = detect.pad(boxes, 60, 50)
    assert (top.tolist(), bottom.tolist()) == ([3, 1, 50], [9, 1, 50])
    assert (left.tolist(), right.tolist()) == ([2, 60, 1], [8, 60, 1])

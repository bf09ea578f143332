"""Figures of merit of networks that find faces and compare voices, and their intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Found(NamedTuple):
    """What a detector finds of the faces of a reference in one picture.

    Attributes:
        kept: (faces,) 1 where a box covers the face, else 0.
        false_boxes: boxes that cover no face, or one that another box covers.
        landmark_error: (faces,) mean distance of its landmarks from those of the reference, in pixels; NaN if not kept.
    """

    kept: Array
    false_boxes: int
    landmark_error: Array


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes (n, 4) and (m, 4), each left, top, right, bottom: (n, m)."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(corner[1] - corner[0], 0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def suppress(boxes: Array, scores: Array, threshold: float) -> Array:
    """Non-maximum suppression of boxes (n, 4): the indices that stay, best first; what overlaps a better one goes."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while order.size:
        kept.append(order[0])
        order = order[1:][overlap(boxes[order[:1]], boxes[order[1:]])[0] <= threshold]
    return np.array(kept, dtype=np.int64)


def faces_found(reference: Array, boxes: Array, points: Array, found: Array, iou: float = 0.5) -> Found:
    """Boxes (m, 4) with landmarks (m, 5, 2) beside a reference (n, 4) with (n, 5, 2): best pairs first, each once."""
    shared = overlap(reference, boxes)
    kept, error = np.zeros(len(reference)), np.full(len(reference), np.nan)
    while shared.size and shared.max() >= iou:
        face, box = np.unravel_index(shared.argmax(), shared.shape)
        kept[face] = 1
        error[face] = np.linalg.norm(points[face] - found[box], axis=1).mean()
        shared[face], shared[:, box] = -1, -1
    return Found(kept, len(boxes) - int(kept.sum()), error)


def pairs(embeddings: Array, speakers: Array) -> tuple[Array, Array]:
    """Cosines of embeddings (n, d) of norm 1: those of pairs of one speaker, and those of two speakers."""
    first, second = np.triu_indices(len(embeddings), 1)
    cosines = (embeddings[first] * embeddings[second]).sum(axis=1)
    same = speakers[first] == speakers[second]
    return cosines[same], cosines[~same]


def equal_error_rate(same: Array, different: Array) -> float:
    """Where as many same pairs are below a threshold as different ones are at or above it: the mean of the two rates.

    Of the thresholds between scores the one with the smallest difference of the rates counts.
    """
    scores = np.unique(np.concatenate([same, different]))
    thresholds = np.append(scores, np.inf)
    missed = (same[None] < thresholds[:, None]).mean(axis=1)
    taken = (different[None] >= thresholds[:, None]).mean(axis=1)
    best = np.abs(missed - taken).argmin()
    return float((missed[best] + taken[best]) / 2)


def interval(values: Array, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of values (chips, items) and its 95 % interval, chips and items drawn anew (bootstrap); NaN is left out."""
    chips, items = values.shape
    if np.isnan(values).all():
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(chips, size=(draws, chips, 1)), rng.integers(items, size=(draws, 1, items))
    drawn = values[rows, columns].reshape(draws, -1)
    there = ~np.isnan(drawn)
    means = np.where(there, drawn, 0).sum(axis=1)[there.any(axis=1)] / there.sum(axis=1)[there.any(axis=1)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.nanmean(values)), float(low), float(high)

"""The planes of all groups of a matrix side by side, as the kernels that read them in one call take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd, lcm
from typing import Any

import numpy as np

from ..kernels.group_layout import Together
from ..kernels.group_products import Steps, block_of
from ..kernels.lanes import LANES
from ..kernels.panel import PANEL, unpack
from ..kernels.read import ALIKE, Circuit, Geometry, Planes

Array = np.ndarray[Any, Any]
FEW = 4  # columns of a group up to which its inputs have a lane of their own
BATCH = 64  # columns that are read together, where a group has less
WIDE = 25  # places of a kernel above which half as many are: boxes overlap less, and weights stay in the first cache
CACHE = 384 * 1024  # bytes of scratch that stay in the second-level cache
ROWS = 512  # of a box, at most


def fits(planes: Sequence[Planes], circuit: Circuit) -> bool:
    """Whether groups can be read together: there are several, and nothing is asked that only `kernels.read` does."""
    return len(planes) > 1 and not circuit.joined and not any(p.linear.size or p.total.size for p in planes)


def together(planes: Sequence[Planes], geometry: Geometry, circuit: Circuit) -> Together:
    """The planes of groups, whose patches are as the `geometry` of the first says."""
    first, groups = planes[0], len(planes)
    outputs, slices, tiles = first.bias.size, len(first.mean), len(first.edges) - 1
    columns = int(first.reference.max()) + 1 if first.reference.size else outputs
    pitch = columns if columns <= LANES else -(-columns // LANES) * LANES
    close = PANEL // gcd(PANEL, pitch) if columns <= LANES else 1  # groups that fill whole panels
    if columns <= FEW:
        close = lcm(close, block_of(pitch))
    width = -(-groups // close) * close * pitch  # of all blocks and batches
    width = -(-width // PANEL) * PANEL

    def table(values: Sequence[Array]) -> Array:
        """(slices, row tiles, columns of all groups) of what each group has in (slices, row tiles, columns).

        Scales end with the outputs, in whole groups of columns: reference columns beyond have zeros.
        """
        found = np.zeros((slices, tiles, groups, pitch), values[0].dtype)
        own = columns if values[0].shape[-1] == 1 else min(columns, values[0].shape[-1])
        found[..., :own] = np.stack([value[..., :own] for value in values], axis=2)
        return np.pad(found.reshape(slices, tiles, -1), [(0, 0), (0, 0), (0, width - groups * pitch)])

    def units(values: Sequence[Array]) -> Array:
        return table([value[..., None] for value in values])

    laid_out = -(-geometry.channels // 2) / pitch if columns <= FEW else 1  # at each place, for each column
    halo = 2 if columns <= FEW and np.prod(geometry.kernel) > WIDE else 1
    wide = max(PANEL, int(BATCH / halo / max(1, laid_out)))
    zeros, alike = np.zeros((slices, tiles), np.float32), any(p.uniform.size for p in planes)
    adcs: dict[str, Any] = _converters(planes, table) if first.adc_inverse.size else ALIKE
    lanes, panels = (_lanes, _no_panels) if columns <= FEW else (_no_lanes, _panels)
    return Together(
        groups=groups,
        outputs=outputs,
        columns=columns,
        pitch=pitch,
        batch=min(groups, close * max(1, wide // (close * pitch))),
        **lanes(planes, geometry, circuit, pitch),
        **panels(planes),
        own=-(-geometry.channels // (2 if circuit.integers else 1)),
        mean_unit=units([p.mean_unit for p in planes]),
        variance_unit=units([p.variance_unit for p in planes]),
        uniform=units([p.uniform if p.uniform.size else zeros for p in planes])
        if alike
        else np.empty((0, 0, 0), np.float32),
        floor=table([p.floor for p in planes]),
        scale=table([p.scale for p in planes]),
        edges=first.edges,
        reference=first.reference,
        bias=np.concatenate([p.bias for p in planes]),
        constant=circuit.constant != 0,
        **adcs,
    )


def _converters(planes: Sequence[Planes], table: Any) -> dict[str, Any]:
    """The `adc_` fields of ADCs that are not all alike."""
    names = ("adc_inverse", "adc_shift", "adc_step", "adc_zero")
    firsts = np.cumsum([0, *(len(p.adc_transitions) for p in planes[:-1])])
    which = [p.adc_which + np.int32(n) for p, n in zip(planes, firsts, strict=True)]
    transitions = np.concatenate([p.adc_transitions for p in planes])
    return {name: table([getattr(p, name) for p in planes]) for name in names} | {
        "adc_which": table(which),
        "adc_transitions": transitions,
    }


def _panels(planes: Sequence[Planes]) -> dict[str, Any]:
    """Products of panels, as they are packed; those of groups without variances of cells are zero."""
    mean, noisy = np.stack([p.mean for p in planes]), any(p.variance.size for p in planes)
    variance = np.zeros(mean.shape if noisy else (*mean.shape[:2], 0, 0, 0), mean.dtype)
    for g, p in enumerate(planes) if noisy else ():
        variance[g] = p.variance if p.variance.size else 0
    return {"panel_mean": mean, "panel_variance": variance}


def _no_panels(planes: Sequence[Planes]) -> dict[str, Any]:
    return dict.fromkeys(("panel_mean", "panel_variance"), np.empty((0, 0, 0, 0, 0), planes[0].mean.dtype))


def _no_lanes(planes: Sequence[Planes], geometry: Geometry, circuit: Circuit, pitch: int) -> dict[str, Any]:
    """Steps of panels, where the word lines of a pair are neighbours in the inputs; none where patches are gathered."""
    nothing = np.empty((len(planes[0].mean), 0, 0, 0, 0), planes[0].mean.dtype)
    each = 2 if circuit.integers else 1
    place = np.empty((0, 4), np.int64)
    if geometry.channels % each == 0 and not circuit.pedestal and not any(p.uniform.size for p in planes):
        place, _ = _pairs(geometry, together=each)
    edges = np.minimum(planes[0].edges // each, len(place))
    steps = Steps(place, np.empty((0, 2), np.bool_), edges)
    return {"steps": steps, "mean": nothing, "variance": nothing, "ones": nothing}


def _lanes(planes: Sequence[Planes], geometry: Geometry, circuit: Circuit, pitch: int) -> dict[str, Any]:
    """Products of lanes: in integers of pairs of word lines, whose inputs are put side by side."""
    mean, groups = np.stack([p.mean for p in planes]), len(planes)
    noisy = any(p.variance.size for p in planes)
    place, pairs = _pairs(geometry, together=2 if circuit.integers else 1)
    edges, depth, filled = planes[0].edges, int(planes[0].edges[-1]), int(pairs.max(initial=-1)) + 1
    inside = [(pairs >= a) & (pairs < b) & (pairs >= 0) for a, b in pairwise(edges)]
    used = [found.any(axis=1) for found in inside]
    steps = Steps(
        np.concatenate([place[some] for some in used]),
        np.pad(
            np.concatenate([found[some] for found, some in zip(inside, used, strict=True)]),
            [(0, 0), (0, 2 - pairs.shape[1])],
        ),
        np.cumsum([0, *(some.sum() for some in used)]),
    )
    taken = np.concatenate([np.where(found, pairs, depth)[some] for found, some in zip(inside, used, strict=True)])
    last = np.full((1, pairs.shape[1]), depth)
    last[0, 0] = filled if filled < depth else depth  # driven with a constant
    taken = np.concatenate([taken, last])

    block = block_of(pitch)

    def of_lanes(values: Array) -> Array:
        """Weights of the steps, of values (slices, word lines, groups, columns)."""
        values = np.pad(values, [(0, 0), (0, 1), (0, -groups % block), (0, 0)])[:, taken]
        slices, count, two = values.shape[:3]
        parts = values.reshape(slices, count, two, -1, block, pitch).transpose(0, 3, 1, 5, 4, 2)
        return np.ascontiguousarray(parts).reshape(slices, -1, count, pitch, block * two)

    def of_groups(stacked: Array) -> Array:
        """(slices, word lines, columns of all groups) of packed panels of each group."""
        return of_lanes(np.stack([[unpack(panels)[:, :pitch] for panels in slices] for slices in stacked], axis=2))

    nothing = np.empty((len(mean[0]), 0, 0, 0, 0), mean.dtype)
    variances = np.stack([p.variance if p.variance.size else np.zeros_like(p.mean) for p in planes]) if noisy else None
    return {
        "steps": steps,
        "mean": of_groups(mean),
        "variance": nothing if variances is None else of_groups(variances),
        "ones": of_lanes(np.ones((1, depth, groups, pitch), mean.dtype)) if circuit.pedestal else nothing,
    }


def _pairs(geometry: Geometry, *, together: int) -> tuple[Array, Array]:
    """What each step takes: where it is (see `Steps.place`), and its word lines (steps, `together`), -1 for none.

    Pairs are of neighbouring channels or, where a group has one, of places of the kernel that are neighbours in a line.
    """
    kd, kh, kw = (int(k) for k in geometry.kernel)
    own, wide = geometry.channels, geometry.channels == 1
    place, lines = [], []
    for a, b in np.ndindex(kd, kh):
        for c in range(0, kw, together if wide else 1):
            for i in range(0, own, together):
                start = ((a * kh + b) * kw + c) * own + i
                left = kw - c if wide else own - i
                place.append((a, b, c, i // together))
                lines.append([start + k if k < left else -1 for k in range(together)])
    return np.array(place, np.int64), np.array(lines, np.int64)


Size = tuple[int, int, int]


@dataclass
class Sizes:
    """How the outputs of a read are cut into boxes.

    Attributes:
        out: outputs of a sample: depth, height, width.
        window: of lines and of pixels, the span and the stride of a kernel, where the inputs of a box are laid out.
        bytes_of: scratch for each input pixel of these, and for each row.
        batches: how many read each box.
    """

    out: Size
    window: tuple[tuple[int, int], tuple[int, int]]
    bytes_of: tuple[int, int]
    batches: int
    known: dict[tuple[int, int], Size] = field(default_factory=dict)

    def boxes(self, rows: int, wanted: int) -> Size:
        """(samples, lines, pixels) of boxes of so many rows, by at least `wanted` jobs if there can be.

        A box is of whole samples, or of whole lines of one, or a part of a line, and fits into the cache if it can.
        """
        if (rows, wanted) not in self.known:
            self.known[rows, wanted] = self._boxes(rows, wanted)
        return self.known[rows, wanted]

    def _boxes(self, rows: int, wanted: int) -> Size:
        (depth, height, width), ((reach_y, step_y), (reach_x, step_x)) = self.out, self.window
        samples = max(1, rows // max(1, depth * height * width))

        def suits(count: int, lines: int, pixels: int) -> bool:
            inputs = ((lines - 1) * step_y + reach_y) * ((pixels - 1) * step_x + reach_x)
            size = count * (inputs * self.bytes_of[0] + lines * pixels * self.bytes_of[1])
            parts = -(-samples // count) * depth * -(-height // lines) * -(-width // pixels)
            return size <= CACHE and count * lines * pixels <= ROWS and parts * self.batches >= wanted

        def most(limit: int, sizes: Callable[[int], Size]) -> int:
            return next((n for n in range(limit, 1, -1) if suits(*sizes(n))), 1)

        pixels = most(width, lambda n: (1, 1, n))
        lines = most(height, lambda n: (1, n, pixels)) if pixels == width else 1
        whole = depth == 1 and pixels == width and lines == height
        return most(samples, lambda n: (n, lines, pixels)) if whole else 1, lines, pixels


def sizes_of(geometry: Geometry, planes: Together, circuit: Circuit) -> Sizes:
    """Of the reads of groups."""
    columns, batches = planes.batch * planes.pitch, -(-planes.groups // planes.batch)
    kernel, stride, dilation = ([int(n) for n in field] for field in geometry[:3])
    out = int(geometry.out[0]), int(geometry.out[1]), int(geometry.out[2])
    if len(planes.panel_mean) and not len(planes.steps.place):
        lines = planes.batch * int(planes.edges[-1]) * planes.panel_mean.itemsize
        return Sizes(out, ((1, 1), (1, 1)), (0, 2 * lines + 12 * columns), batches)
    cells = planes.variance.shape[1] > 0 or planes.panel_variance.shape[2:3] > (0,)
    block = 1 if len(planes.panel_mean) else block_of(planes.pitch)
    across = -(-planes.batch // block) * block
    pixel = (1 + (circuit.pulses > 1) + cells) * planes.bias.itemsize * across * planes.own
    window = [((k - 1) * d + 1, s) for k, d, s in zip(kernel, dilation, stride, strict=True)]
    return Sizes(out, (window[1], window[2]), (kernel[0] * pixel, 12 * columns), batches)

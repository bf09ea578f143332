"""Each kernel against its plain twin, and the properties that results rest on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mho.crossbar import patches
from mho.crossbar.backends import plain
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.kernels.convert import make_codes
from mho.crossbar.kernels.gather import gather
from mho.crossbar.kernels.held import hold
from mho.crossbar.kernels.panel import PANEL, multiply_panels, unpack
from mho.crossbar.kernels.philox import Rows, round_keys
from mho.crossbar.kernels.read import ALIKE, Circuit, Deal, Geometry, Planes, read_matrix, read_matrix_parallel
from mho.crossbar.packed import empty_panels, halves_squares, pack_tile

KEY = round_keys(7 + (8 << 32))
ONE = np.ones(3, dtype=np.int64)


def pack(matrix: np.ndarray) -> np.ndarray:
    """(rows, columns) float32 or int16 in panels of its type."""
    panels = empty_panels((1, *matrix.shape), matrix.dtype == np.int16)[0]
    largest = 1 if matrix.dtype == np.int16 else None
    step = pack_tile(matrix.astype(np.float32), 0, largest, panels, Compiled())
    assert largest is None or step == np.abs(matrix).max() / (2**15 - 1)
    return panels


def pack_planes(values: np.ndarray, edges: list[int], largest: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Planes of (slices, rows, columns) and the steps of their row tiles."""
    panels = empty_panels(values.shape, largest is not None)
    steps = [
        [pack_tile(v[a:b], a, largest, p, Compiled()) for a, b in itertools.pairwise(edges)]
        for v, p in zip(values, panels, strict=True)
    ]
    return panels, np.array(steps, np.float32)


def make_planes(
    rng, rows, outputs, tile_rows, *, slices=1, cell_noise=True, uniform=False, reference=False, largest=None
) -> Planes:
    columns = outputs + reference
    mean = rng.uniform(-1, 1, (slices, rows, columns)).astype(np.float32)
    tiles = -(-rows // tile_rows)
    edges = [t * rows // tiles // 2 * 2 for t in range(tiles)] + [rows]
    packed, mean_unit = pack_planes(mean, edges, largest)
    halve = largest is not None and halves_squares(largest)
    square = ((largest**2 + 1) // 2 if halve else largest**2) if largest else None
    noise, variance_unit = pack_planes((0.02 + 0.05 * np.abs(mean)) ** 2, edges, square)
    return Planes(
        packed,
        noise if cell_noise else np.empty((slices, 0, 0, 0), packed.dtype),
        mean_unit,
        2 * variance_unit if halve else variance_unit,
        rng.uniform(0, 1e-3, (slices, tiles)).astype(np.float32) if uniform else np.empty((0, 0), np.float32),
        rng.uniform(0, 1e-3, (slices, tiles, plain.padded(columns))).astype(np.float32),
        rng.uniform(0.5, 1, (slices, tiles, plain.padded(outputs))).astype(np.float32),
        np.array([*edges[:-1], rows + rows % 2 if largest else rows], dtype=np.int64),
        np.full(outputs, outputs) if reference else np.empty(0, np.int64),
        rng.normal(size=outputs).astype(np.float32),
        np.empty((slices, 0, 0, 0), packed.dtype),
        np.ones((slices, tiles), np.float32),
        np.empty((0, 0, 0), np.float32),
        *ALIKE.values(),
    )


def make_circuit(
    *,
    noisy=True,
    slices=1,
    pulses=1,
    digit_bits=7,
    adc=True,
    gain=0.0,
    supply=0.0,
    pedestal=0.0,
    centre=0.0,
    integers=False,
) -> Circuit:
    full = float(2 ** (pulses * digit_bits) - 1)
    step = np.full(slices, 0.02, np.float32) if adc else np.empty(0, np.float32)
    halve = integers and halves_squares(int(full) if pulses == 1 else 2**digit_bits - 1)
    noise = gain, supply, noisy
    chain = 1, np.empty(0, np.float32), 0
    adc = step, -127.0, 127.0, centre
    return Circuit(integers, halve, pulses, digit_bits, full, full, *noise, *adc, pedestal, *chain)


def run(
    x,
    geometry,
    planes,
    circuit,
    *,
    whose=None,
    read=0,
    reads=1,
    shared=False,
    workers=1,
    chunk=48,
) -> tuple[np.ndarray, int]:
    rows = x.shape[0] * int(np.prod(geometry.out)) // (1 if shared else reads)
    out = np.empty((reads, rows, planes.bias.size), dtype=np.float32)
    codes = x.astype(planes.mean.dtype)
    job = codes, codes[:0], hold(geometry, planes, circuit, False), KEY
    deal = Deal(*(whose or rows_of()), np.uint32(read), chunk)
    clipped = read_matrix_parallel(*job, deal, workers, out) if workers > 1 else read_matrix(*job, deal, out)
    return (out if reads > 1 else out[0]), clipped


def vector_inputs(rng, samples, rows, full=127) -> tuple[np.ndarray, Geometry]:
    x = np.rint(rng.uniform(-full, full, (samples, 1, 1, 1, rows))).astype(np.float32)
    return x, Geometry(ONE, ONE, ONE, ONE, 0, rows)


@given(st.integers(1, 70), st.integers(1, 130), st.integers(1, 15), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_panel_product_is_the_product_in_a_fixed_order(depth, columns, rows, random):
    rng = np.random.default_rng(random.randrange(2**32))
    x = rng.normal(size=(rows, depth)).astype(np.float32)
    g = rng.normal(size=(depth, columns)).astype(np.float32)
    out = np.zeros((rows, plain.padded(columns)), np.float32)
    multiply_panels(x, pack(g), out)
    assert np.allclose(out[:, :columns], x.astype(np.float64) @ g, atol=1e-4)
    assert not out[:, columns:].any()
    assert np.array_equal(unpack(pack(g))[:, :columns], g)
    again = np.empty((rows, PANEL), np.float32)
    multiply_panels(x, pack(g[:, :PANEL]), again)
    assert np.array_equal(again, out[:, :PANEL])
    one = np.empty((1, plain.padded(columns)), np.float32)
    multiply_panels(x[-1:], pack(g), one)
    assert np.array_equal(one[0, :columns], out[-1, :columns])


@given(st.integers(1, 40), st.integers(1, 130), st.integers(1, 15), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_integer_panel_product_is_exact(pairs, columns, rows, random):
    rng = np.random.default_rng(random.randrange(2**32))
    x = rng.integers(-255, 256, (rows, 2 * pairs)).astype(np.int16)
    g = rng.integers(-3000, 3001, (2 * pairs, columns)).astype(np.int16)
    g[0, 0] = 2**15 - 1  # so that the step is 1
    out = np.zeros((len(x), plain.padded(columns)), np.float32)
    multiply_panels(x, pack(g), out)
    assert np.array_equal(out[:, :columns], (x.astype(np.int64) @ g).astype(np.float32))
    assert np.array_equal(unpack(pack(g))[:, :columns], g)


@given(
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.sampled_from([(1, 1), (3, 3), (4, 2)]),
)
@settings(max_examples=30)
def test_gather_equals_its_twin(kernel, stride, dilation, channels):
    total, used = channels
    out = (2, 3, 2)
    size = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, stride, dilation, kernel, strict=True)]
    x = np.random.default_rng(0).normal(size=(2, *size, total)).astype(np.float32)
    triples = [np.array(v, dtype=np.int64) for v in (kernel, stride, dilation, out)]
    for first in range(0, total, used):
        geometry = Geometry(*triples, first, used)
        expected = patches.gather(x, geometry)
        got = np.full((24, expected.shape[1] + 1), np.nan, np.float32)
        gather(x, geometry, 0, 24, np.float32(9), got)
        assert np.array_equal(got[:, :-1], expected)
        assert (got[:, -1] == 9).all()


@pytest.mark.parametrize(
    ("shape", "planes", "circuit"),
    [
        ((300, 40, 128), {}, {}),
        ((64, 10, 64), {"slices": 2}, {"slices": 2, "pulses": 4, "digit_bits": 2}),
        ((50, 7, 20), {"reference": True, "cell_noise": False}, {"gain": 0.01, "centre": 0.5}),
        ((50, 7, 20), {"cell_noise": False}, {"noisy": False, "pedestal": 0.1}),
        ((33, 17, 33), {}, {"adc": False, "gain": 0.02}),
        ((40, 70, 16), {"cell_noise": False, "uniform": True, "largest": 127}, {"integers": True}),
        ((40, 9, 16), {"cell_noise": False, "uniform": True}, {}),
        ((301, 40, 128), {"largest": 255}, {"integers": True, "digit_bits": 8}),
        ((64, 10, 64), {"slices": 2, "largest": 3}, {"slices": 2, "pulses": 4, "digit_bits": 2, "integers": True}),
        ((51, 7, 20), {"reference": True, "largest": 127}, {"gain": 0.01, "integers": True, "pedestal": 0.1}),
        ((300, 64, 128), {}, {}),
        ((50, 32, 20), {"cell_noise": False}, {"gain": 0.01, "centre": 0.5, "pedestal": 0.1}),
        ((40, 96, 16), {"cell_noise": False, "uniform": True, "largest": 127}, {"integers": True}),
    ],
)
def test_read_equals_its_twin(shape, planes, circuit):
    rng = np.random.default_rng(1)
    rows, outputs, tile_rows = shape
    p, c = make_planes(rng, rows, outputs, tile_rows, **planes), make_circuit(**circuit)
    x, geometry = vector_inputs(rng, 53, rows, c.full_code)
    c = c._replace(constant=0.0)
    positions = int(np.prod(geometry.out))
    out, clipped = run(x, geometry, p, c, whose=rows_of(11, positions), read=3)
    count = c.pulses * len(p.mean) * (len(p.edges) - 1)
    row = np.arange(len(out))
    z = [plain.draw_normals(11 + row // positions, row % positions, p.floor.shape[2], i, 3, KEY) for i in range(count)]
    expected, expected_clipped = plain.read_matrix(x, geometry, p, c, np.stack(z))
    # a reading on the edge between two codes may fall either way in float32: few do, and by one step
    off = np.abs(out - expected) > 1e-4
    assert off.sum() <= 1 + 2e-3 * off.size
    assert np.abs(out - expected).max() < 0.03 * c.pulses * len(p.mean)
    assert abs(clipped - expected_clipped) <= 2


@pytest.mark.parametrize(("outputs", "gain"), [(32, 0.0), (64, 0.01), (96, 0.0), (96, 0.01)])
def test_readings_in_one_pass_are_those_in_two(outputs, gain):
    """A column more, so that groups are not whole, sends a read the other way; positions need a second table."""
    rng = np.random.default_rng(5)
    p, c = make_planes(rng, 90, outputs + 1, 32), make_circuit(gain=gain, pedestal=0.1, centre=0.5)
    x, geometry = vector_inputs(rng, 3 * 13, 90)
    whose = Rows(np.uint64(3), np.arange(4090, 4103, dtype=np.uint32))
    cut = {name: np.ascontiguousarray(getattr(p, name)[..., :outputs]) for name in ("floor", "scale", "bias")}
    panels = {name: np.ascontiguousarray(getattr(p, name)[:, : outputs // PANEL]) for name in ("mean", "variance")}
    one, _ = run(x, geometry, p._replace(**cut, **panels), c, whose=whose)
    two, _ = run(x, geometry, p, c, whose=whose)
    assert np.array_equal(one, two[:, :outputs])


def test_same_bits_in_any_batch_and_number_of_threads():
    rng = np.random.default_rng(2)
    p, c = make_planes(rng, 90, 20, 32), make_circuit()
    x, geometry = vector_inputs(rng, 200, 90)
    whole, _ = run(x, geometry, p, c)
    parts = [run(x[a : a + 37], geometry, p, c, whose=rows_of(a))[0] for a in range(0, 200, 37)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(
        np.concatenate([run(x[a : a + 1], geometry, p, c, whose=rows_of(a))[0] for a in range(200)]), whole
    )
    for workers, chunk in ((2, 48), (2, 7), (1, 200), (3, 1)):
        assert np.array_equal(run(x, geometry, p, c, workers=workers, chunk=chunk)[0], whole)
    assert not np.array_equal(run(x, geometry, p, c, read=1)[0], whole)


@pytest.mark.parametrize("largest", [None, 127])
def test_reads_at_once_are_reads_one_after_another(largest):
    rng = np.random.default_rng(2)
    p, c = make_planes(rng, 90, 20, 32, largest=largest), make_circuit(integers=largest is not None)
    x, geometry = vector_inputs(rng, 100, 90)
    single = np.stack([run(x, geometry, p, c, read=4 + v, whose=rows_of(9))[0] for v in range(3)])
    together, _ = run(x, geometry, p, c, read=4, whose=rows_of(9), reads=3, shared=True)
    assert np.array_equal(together, single)
    x3, geometry = vector_inputs(rng, 300, 90)
    single = np.stack([run(x3[100 * v : 100 * (v + 1)], geometry, p, c, read=4 + v)[0] for v in range(3)])
    together, _ = run(x3, geometry, p, c, read=4, reads=3)
    assert np.array_equal(together, single)


def test_integers_cost_few_adc_steps():
    """Rounded conductances move at most 1 % of the readings, by one step."""
    rng = np.random.default_rng(7)
    state = rng.bit_generator.state
    exact = make_planes(rng, 256, 64, 256)
    rng.bit_generator.state = state
    rounded = make_planes(rng, 256, 64, 256, largest=127)
    x, geometry = vector_inputs(rng, 500, 256)
    same = {"scale": np.ones_like(exact.scale), "bias": np.zeros_like(exact.bias), "floor": exact.floor}
    step = {"step": np.full(1, 0.2, np.float32)}
    a, _ = run(x, geometry, exact._replace(**same), make_circuit()._replace(**step))
    b, _ = run(x, geometry, rounded._replace(**same), make_circuit(integers=True)._replace(**step))
    moved = np.rint(np.abs(a - b) / 0.2)
    assert moved.max() <= 1
    assert moved.mean() < 0.01


def test_aggregated_noise_is_the_noise_of_the_cells_in_distribution():
    rng = np.random.default_rng(3)
    p = make_planes(rng, 24, 3, 12)
    c = make_circuit(adc=False, gain=0.02**2)
    one = np.rint(rng.uniform(-127, 127, 24)).astype(np.float32)
    n = 40_000
    x = np.broadcast_to(one, (n, 1, 1, 1, 24)).copy()
    _, geometry = vector_inputs(rng, 1, 24)
    got, _ = run(x, geometry, p, c)
    cells, _ = plain.per_cell_read(x, geometry, p, c, np.random.default_rng(4))
    for j in range(3):
        a, b = got[:, j].astype(np.float64), cells[:, j]
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var() + b.var()) / n)
        assert abs(a.var() / b.var() - 1) < 5 * np.sqrt(4 / n)
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    weaker = p._replace(variance=p.variance * np.float32(0.9))
    other, _ = plain.per_cell_read(x, geometry, weaker, c, np.random.default_rng(4))
    assert any(abs(got[:, j].var() / other[:, j].var() - 1) > 5 * np.sqrt(4 / n) for j in range(3))  # negative control


def test_codes_are_clipped_and_counted():
    x = np.array([-1.0, 0.0, 0.25, 0.5, 2.0, np.nan, np.inf], np.float32)
    codes = np.empty_like(x)
    clipped, broken = make_codes(x[:5], np.float32(10), np.float32(-7), np.float32(7), True, codes[:5])
    assert codes[:5].tolist() == [-7, 0, 2, 5, 7]
    assert (clipped, broken) == (2, 0)
    assert make_codes(x, np.float32(10), np.float32(-7), np.float32(7), True, codes)[1] == 2

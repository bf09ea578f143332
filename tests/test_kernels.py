"""Each kernel against its plain twin, and the properties that results rest on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mho.crossbar import patches
from mho.crossbar.backends import plain
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.kernels.convert import add_output_noise, make_codes
from mho.crossbar.kernels.lanes import LANES
from mho.crossbar.kernels.panel import PANEL, multiply_panels, unpack
from mho.crossbar.kernels.philox import GROUP, Rows, draw_normals, round_keys, words
from mho.crossbar.kernels.program import fill_rows
from mho.crossbar.kernels.read import Circuit, Deal, Geometry, Planes, gather, read_matrix, read_matrix_parallel
from mho.crossbar.packed import empty_panels, halves_squares, pack_tile

KEY = round_keys(7 + (8 << 32))
ONE = np.ones(3, dtype=np.int64)


def rows_of(first_sample: int = 0, positions: int = 1) -> Rows:
    """Rows with so many positions, numbered from 0, a sample."""
    return Rows(np.uint64(first_sample), np.arange(positions, dtype=np.uint32))


def normals(rows: int, columns: int, whose: Rows | None = None, start=0, plane=0, read=0, key=KEY) -> np.ndarray:
    """The first columns of normals that are drawn in whole groups."""
    out = np.empty((rows, plain.padded(columns)), dtype=np.float32)
    draw_normals(whose or rows_of(), start, (np.uint32(plane), np.uint32(read)), key, out)
    return out[:, :columns]


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
    return Circuit(integers, halve, pulses, digit_bits, full, full, *noise, step, -127.0, 127.0, centre, pedestal)


def run(
    x,
    geometry,
    planes,
    circuit,
    *,
    first_sample=0,
    positions=1,
    read=0,
    reads=1,
    shared=False,
    key=KEY,
    workers=1,
    chunk=48,
) -> tuple[np.ndarray, int]:
    rows = x.shape[0] * int(np.prod(geometry.out)) // (1 if shared else reads)
    out = np.empty((reads, rows, planes.bias.size), dtype=np.float32)
    job = x.astype(planes.mean.dtype), geometry, planes, circuit, key
    deal = Deal(*rows_of(first_sample, positions), np.uint32(read), chunk)
    clipped = read_matrix_parallel(*job, deal, workers, out) if workers > 1 else read_matrix(*job, deal, out)
    return (out if reads > 1 else out[0]), clipped


def vector_inputs(rng, samples, rows, full=127) -> tuple[np.ndarray, Geometry]:
    x = np.rint(rng.uniform(-full, full, (samples, 1, 1, 1, rows))).astype(np.float32)
    return x, Geometry(ONE, ONE, ONE, ONE, 0, rows)


def philox_of_the_paper(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Salmon et al. 2011, in Python's own integers, apart from Mho's code."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = high >> 32 ^ c1 ^ k0, high % 2**32, low >> 32 ^ c3 ^ k1, low % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def box_muller(radius_word: int, angle_word: int) -> tuple[float, float]:
    """Box and Muller 1958 as docs/random-numbers.md has it, with Python's logarithm, sine and cosine."""
    radius = math.sqrt(-2 * math.log((radius_word // 2 + 0.5) / 2**31))
    signed = angle_word - 2**32 if angle_word >= 2**31 else angle_word
    angle = math.pi * signed / 2**32 + math.pi * (angle_word % 2)  # the last bit fills the other half of the circle
    return radius * math.cos(angle), radius * math.sin(angle)


def place_of(sample: int, position: int, column: int, plane: int, read: int) -> tuple[tuple[int, ...], int]:
    """Counter of a reading's normal, and which of the counter's four it is: docs/random-numbers.md."""
    group, rest = divmod(column, 32)
    first = 8 * group + rest % 8 + 2**16 * (position // 2**12)
    return (first, sample, plane + 2**20 * (position % 2**12), read), rest // 8


def normal_of(sample: int, position: int, column: int, plane: int, read: int, key: tuple[int, int]) -> float:
    counter, which = place_of(sample, position, column, plane, read)
    words = philox_of_the_paper(counter, key)
    return box_muller(*words[2 * (which // 2) : 2 * (which // 2) + 2])[which % 2]


@pytest.mark.parametrize(
    ("counter", "key", "words_of_counter"),
    [  # known answers published with Random123, philox4x32-10
        ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter, key, words_of_counter):
    assert philox_of_the_paper(tuple(counter), key) == words_of_counter
    keys = round_keys(key[0] + (key[1] << 32))
    assert plain.philox4x32(np.array(counter, np.uint32), keys).tolist() == words_of_counter
    out = np.empty((4, LANES), np.int32)
    words(tuple(map(np.uint32, counter)), keys, out)
    assert out.view(np.uint32)[:, 0].tolist() == words_of_counter
    following = np.array([[(counter[0] + i), *counter[1:]] for i in range(LANES)], np.uint64)
    whole = following[:, 0] < 2**32  # the first word of a real counter does not overflow
    expected = plain.philox4x32(following.astype(np.uint32), keys)
    assert np.array_equal(out.view(np.uint32).T[whole], expected[whole])


def test_normals_equal_their_twin_and_depend_on_their_counter_alone():
    whose = Rows(np.uint64(2**31 + 5), np.array([3, 4097, 2**28 - 1], np.uint32))
    block = normals(9, 70, whose, 4, 3, 4)
    number = np.arange(4, 13)
    samples, positions = 2**31 + 5 + number // 3, whose.positions[number % 3]
    assert np.abs(block - plain.draw_normals(samples, positions, 70, 3, 4, KEY)).max() < 3e-6
    assert np.array_equal(block[4:6, :8], normals(2, 8, whose, 8, 3, 4))
    alone = Rows(np.uint64(samples[2]), positions[2:3])
    assert np.array_equal(block[2:3], normals(1, 70, alone, 0, 3, 4))  # whichever positions the sample has besides
    for other in (
        normals(9, 70, whose._replace(first_sample=np.uint64(5)), 4, 3, 4),
        normals(9, 70, whose._replace(positions=whose.positions ^ np.uint32(1)), 4, 3, 4),
        normals(9, 70, whose._replace(positions=whose.positions ^ np.uint32(1 << 13)), 4, 3, 4),
        normals(9, 70, whose, 4, 2, 4),
        normals(9, 70, whose, 4, 3, 5),
    ):
        assert not (block == other).any()
    rows = np.empty((9, 70), np.float32)
    fill_rows(rows, np.uint64(7), 3, 4, KEY)  # word lines are samples of one position
    assert np.array_equal(rows, normals(9, 70, rows_of(7), 0, 3, 4))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4), st.integers(0, 2**64 - 1))
@settings(max_examples=50)
def test_words_are_those_of_the_paper(counter, key):
    expected = philox_of_the_paper(tuple(counter), (key % 2**32, key >> 32))
    out = np.empty((4, LANES), np.int32)
    words(tuple(map(np.uint32, counter)), round_keys(key), out)
    assert out.view(np.uint32)[:, 0].tolist() == expected
    assert plain.philox4x32(np.array(counter, np.uint32), round_keys(key)).tolist() == expected


def test_normals_are_those_of_their_counters():
    """Against a generator of its own, at the first, the last and some other columns of two groups."""
    key, columns = (0x12345678, 0x9ABCDEF0), 70
    keys = round_keys(key[0] + (key[1] << 32))
    for sample, position, plane, read in (
        (0, 0, 0, 0),
        (5, 1, 3, 4),
        (12345, 2**12 - 1, 2**19 - 1, 2**32 - 1),
        (2**32 - 1, 2**28 - 1, 2**20 - 1, 7),
    ):
        whose = Rows(np.uint64(sample), np.array([position], np.uint32))
        found = normals(1, columns, whose, 0, plane, read, keys)
        for j in (0, 1, 7, 8, 15, 16, 24, 31, 32, 40, 63, 64, columns - 1):
            expected = normal_of(sample, position, j, plane, read, key)
            assert abs(found[0, j] - expected) < 3e-6
            assert abs(found[0, j] + expected) > 3e-6  # none of them is so small that its sign would not show


def test_normals_are_standard_normal():
    z = normals(1000, 1000).astype(np.float64).ravel()
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    pairs = normals(50_000, GROUP).astype(np.float64).reshape(-1, 4, LANES)[:, :, 3]  # the four of one counter
    for a in range(4):
        for b in range(a):
            assert abs((pairs[:, a] * pairs[:, b]).mean()) < 5 / np.sqrt(len(pairs))
            assert abs(((pairs[:, a] ** 2 - 1) * (pairs[:, b] ** 2 - 1)).mean()) < 10 / np.sqrt(len(pairs))
    assert stats.kstest(1.01 * z, "norm").pvalue < 1e-3  # negative control


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
    ],
)
def test_read_equals_its_twin(shape, planes, circuit):
    rng = np.random.default_rng(1)
    rows, outputs, tile_rows = shape
    p, c = make_planes(rng, rows, outputs, tile_rows, **planes), make_circuit(**circuit)
    x, geometry = vector_inputs(rng, 53, rows, c.full_code)
    c = c._replace(constant=0.0)
    positions = int(np.prod(geometry.out))
    out, clipped = run(x, geometry, p, c, first_sample=11, positions=positions, read=3)
    count = c.pulses * len(p.mean) * (len(p.edges) - 1)
    row = np.arange(len(out))
    z = [plain.draw_normals(11 + row // positions, row % positions, p.floor.shape[2], i, 3, KEY) for i in range(count)]
    expected, expected_clipped = plain.read_matrix(x, geometry, p, c, np.stack(z))
    # a reading on the edge between two codes may fall either way in float32: few do, and by one step
    off = np.abs(out - expected) > 1e-4
    assert off.sum() <= 1 + 2e-3 * off.size
    assert np.abs(out - expected).max() < 0.03 * c.pulses * len(p.mean)
    assert abs(clipped - expected_clipped) <= 2


def test_same_bits_in_any_batch_and_number_of_threads():
    rng = np.random.default_rng(2)
    p, c = make_planes(rng, 90, 20, 32), make_circuit()
    x, geometry = vector_inputs(rng, 200, 90)
    whole, _ = run(x, geometry, p, c)
    parts = [run(x[a : a + 37], geometry, p, c, first_sample=a)[0] for a in range(0, 200, 37)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(
        np.concatenate([run(x[a : a + 1], geometry, p, c, first_sample=a)[0] for a in range(200)]), whole
    )
    for workers, chunk in ((2, 48), (2, 7), (1, 200), (3, 1)):
        assert np.array_equal(run(x, geometry, p, c, workers=workers, chunk=chunk)[0], whole)
    assert not np.array_equal(run(x, geometry, p, c, read=1)[0], whole)


@pytest.mark.parametrize("largest", [None, 127])
def test_reads_at_once_are_reads_one_after_another(largest):
    rng = np.random.default_rng(2)
    p, c = make_planes(rng, 90, 20, 32, largest=largest), make_circuit(integers=largest is not None)
    x, geometry = vector_inputs(rng, 100, 90)
    single = np.stack([run(x, geometry, p, c, read=4 + v, first_sample=9)[0] for v in range(3)])
    together, _ = run(x, geometry, p, c, read=4, first_sample=9, reads=3, shared=True)
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


def output_noise(values, sigma_add, sigma_mult, *, read=0, key=(7, 8)) -> np.ndarray:
    """(1000, outputs) float64 of what output-referred noise adds to values (outputs,), as rows from 0 on."""
    out = np.tile(np.asarray(values, np.float32), (1000, 1))
    before = out.astype(np.float64)
    keys = round_keys(key[0] + (key[1] << 32))
    add_output_noise(out, np.float32(sigma_add), np.float32(sigma_mult), rows_of(), 0, np.uint32(read), keys)
    return out - before


@pytest.mark.parametrize(("sigma_add", "sigma_mult"), [(0.3, 0.2), (0.3, 0.0), (0.0, 0.2)])
def test_output_noise_has_the_variance_of_its_sigmas(sigma_add, sigma_mult):
    """Of each output, sigma_add^2 + sigma_mult^2 y^2, over 100 reads; sigmas that are 2 % larger are told apart."""
    values = np.array([-3.0, -0.5, 0.0, 0.1, 1.0, 10.0])
    noise = np.concatenate([output_noise(values, sigma_add, sigma_mult, read=read) for read in range(100)])
    n, expected = len(noise), np.sqrt(sigma_add**2 + (sigma_mult * values) ** 2)
    zero = expected == 0
    assert not noise[:, zero].any()
    z = noise[:, ~zero] / expected[~zero]
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(n)
    assert np.abs(z.var(axis=0) - 1).max() < 5 * np.sqrt(2 / n)
    assert np.abs((1.02 * z).var(axis=0) - 1).min() > 5 * np.sqrt(2 / n)  # negative control
    assert min(stats.kstest(column, "norm").pvalue for column in z.T) > 1e-4
    correlation = np.corrcoef(z.T)[~np.eye(z.shape[1], dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert np.abs((z[1:] * z[:-1]).mean(axis=0)).max() < 5 / np.sqrt(n)  # one row and the next, one read and the next


def test_output_noise_is_made_of_the_normals_of_its_counters():
    key = 7, 8
    noise = output_noise(np.linspace(-2, 2, 40), 0.3, 0.2, read=5, key=key)
    for m, j in itertools.product((0, 1, 64, 999), (0, 9, 31, 32, 39)):
        y = -2 + 4 * j / 39
        expected = math.sqrt(0.3**2 + (0.2 * y) ** 2) * normal_of(m, 0, j, 0, 5, key)
        assert noise[m, j] == pytest.approx(expected, abs=3e-6)


def test_codes_are_clipped_and_counted():
    x = np.array([-1.0, 0.0, 0.25, 0.5, 2.0, np.nan, np.inf], np.float32)
    codes = np.empty_like(x)
    clipped, broken = make_codes(x[:5], np.float32(10), np.float32(-7), np.float32(7), True, codes[:5])
    assert codes[:5].tolist() == [-7, 0, 2, 5, 7]
    assert (clipped, broken) == (2, 0)
    assert make_codes(x, np.float32(10), np.float32(-7), np.float32(7), True, codes)[1] == 2

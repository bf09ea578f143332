"""Random numbers of the kernels: those of the paper, of their counters, and of the distribution that they stand for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mho.crossbar.backends import plain
from mho.crossbar.kernels.convert import add_output_noise
from mho.crossbar.kernels.lanes import LANES
from mho.crossbar.kernels.philox import GROUP, Rows, draw_normals, round_keys, words
from mho.crossbar.kernels.program import fill_rows

KEY = round_keys(7 + (8 << 32))


def normals(rows: int, columns: int, whose: Rows | None = None, start=0, plane=0, read=0, key=KEY) -> np.ndarray:
    """The first columns of normals that are drawn in whole groups."""
    out = np.empty((rows, plain.padded(columns)), dtype=np.float32)
    draw_normals(whose or rows_of(), start, (np.uint32(plane), np.uint32(read)), key, out)
    return out[:, :columns]


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
    assert stats.kstest(z, "norm", method="asymp").pvalue > 1e-3
    pairs = normals(50_000, GROUP).astype(np.float64).reshape(-1, 4, LANES)[:, :, 3]  # the four of one counter
    for a in range(4):
        for b in range(a):
            assert abs((pairs[:, a] * pairs[:, b]).mean()) < 5 / np.sqrt(len(pairs))
            assert abs(((pairs[:, a] ** 2 - 1) * (pairs[:, b] ** 2 - 1)).mean()) < 10 / np.sqrt(len(pairs))
    assert stats.kstest(1.01 * z, "norm", method="asymp").pvalue < 1e-3  # negative control


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
    assert min(stats.kstest(column, "norm", method="asymp").pvalue for column in z.T) > 1e-4
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

"""`mho.matrix`: products both ways against NumPy and against the cells, shapes and types, and SciPy's solvers."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from helpers import hardware, ideal
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.linalg import LinearOperator, aslinearoperator, gmres, svds

import mho
from mho.mapping.errors import MappingError

RNG = np.random.default_rng(0)
W, X, Y = RNG.standard_normal((30, 50)), RNG.standard_normal((50, 40)), RNG.standard_normal((30, 40))
EXACT: dict[str, Any] = {"cell__programming": {"kind": "none"}, "dac__bits": 12, "adc__bits": 14}
WIRES = {"wires__r_word_line": "20 ohm", "wires__r_bit_line": "10 ohm"}


def analog(w: Any = W, **fields: Any) -> mho.AnalogMatrix:
    return mho.matrix(w, hardware(**fields), calibrate=X, calibrate_transposed=Y)


def off(found: Any, wanted: Any) -> float:
    """Relative error, RMS over RMS."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    return float(np.sqrt(np.mean(np.abs(found - wanted) ** 2) / np.mean(np.abs(wanted) ** 2)))


@pytest.mark.parametrize("kind", ["float32", "float64", "complex64", "complex128", "int64", "bool"])
@pytest.mark.parametrize("of_x", ["float32", "float64", "complex128", "int16"])
def test_shapes_and_types_are_those_of_numpy(kind: str, of_x: str) -> None:
    w = (2 * W + (1j * W[::-1] if kind.startswith("complex") else 0)).astype(kind)
    x = (10 * X[:, :3] + (1j * X[:, 3:6] if of_x.startswith("complex") else 0)).astype(of_x)
    a = mho.matrix(w, ideal())
    w = w if w.dtype.kind in "fc" else w.astype(float)
    assert (a.shape, a.dtype, len(a), a.ndim) == (w.shape, w.dtype, 30, 2)
    stack = np.stack([x, 2 * x, x - 1])
    for given in (x, x[:, 0], x[:, :1], x[:, :0], stack, x.tolist()):
        wanted = w @ np.asarray(given)
        found = a @ given
        assert (type(found), found.dtype, found.shape) == (np.ndarray, wanted.dtype, wanted.shape)
        assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max(initial=0))
    y = x[:30, :3] if len(x) >= 30 else x
    for one, other in ((a.T, w.T), (a.H, w.conj().T), (a.conj(), w.conj()), (a.T.T, w), (a.H.T, w.conj())):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        given = y if other.shape[1] == 30 else x
        assert_allclose(one @ given, other @ given, rtol=1e-4, atol=1e-3)
        assert_allclose(np.asarray(one), other, rtol=1e-5, atol=1e-5)
        assert_array_equal(one.exact, other)
    assert_allclose(y.T @ a, y.T @ w, rtol=1e-4, atol=1e-3)
    assert_allclose(y[:, 0] @ a, y[:, 0] @ w, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.complex64, torch.bfloat16])
def test_tensors_give_tensors(kind: torch.dtype) -> None:
    w, x = torch.from_numpy(W).to(kind), torch.from_numpy(X).to(kind)
    a = mho.matrix(w, ideal())
    for found, wanted in ((a @ x, w @ x), (a @ x[:, 0], w @ x[:, 0]), (x[:30].T @ a, x[:30].T @ w)):
        assert isinstance(found, torch.Tensor)
        assert found.dtype == (torch.float32 if kind == torch.bfloat16 else kind)
        torch.testing.assert_close(
            found,
            wanted.to(found.dtype),
            rtol=0.05 if kind == torch.bfloat16 else 1e-4,
            atol=1e-3 if kind != torch.bfloat16 else 0.5,
        )
    assert isinstance(a @ X, np.ndarray)
    assert (mho.matrix(W, ideal()) @ x.requires_grad_() if kind.is_floating_point else x).requires_grad is False


CASES: list[dict[str, Any]] = [
    {},
    {"tile__rows": 16, "tile__columns": 12},
    {"tile__scale": "tile"},
    {"tile__encoding": "differential_two_sided", "tile__devices": 2},
    {"cell__levels": 4, "tile__slices": 3},
    {"dac__scaling": "sample"},
    {"dac__equalise": 0.5},
    {"adc__polarity": "apart", "dac__phases": 2},
    {**WIRES, "wires__r_driver": "100 ohm", "wires__r_sense": "50 ohm"},
    {**WIRES, "wires__pairs": "shared"},
    {**WIRES, "wires__drivers": "both", "tile__rows": 10},
    {"tile__encoding": "single", **WIRES},
]


@pytest.mark.parametrize("fields", CASES)
def test_both_ways_read_the_same_cells(fields: dict[str, Any]) -> None:
    """What the cells stand for, with all their errors and the loss in wires, which is up to a half."""
    programming = (
        {"kind": "none"}
        if "cell__levels" in fields
        else {"kind": "polynomial", "coefficients": ["2 uS"], "g_ref": "1 uS"}
    )
    w = np.abs(W) if fields.get("tile__encoding") == "single" else W
    a = analog(w, dac__bits=12, adc__bits=14, **{**fields, "cell__programming": programming})
    cells = np.asarray(a)
    assert off(cells, w) > 1e-3
    assert off(a.read(X, read=0, noisy=False), cells @ X) < 5e-3
    assert off(a.T.read(Y, read=0, noisy=False), cells.T @ Y) < 5e-3


@pytest.mark.parametrize("fields", [{"wires__pairs": "shared"}, {"adc__polarity": "apart"}])
def test_lines_that_float_are_read_both_ways(fields: dict[str, Any]) -> None:
    """Their voltages are divided by what their own cells conduct, so that errors of cells count otherwise each way."""
    a = analog(**EXACT, **fields, sensing__mode="voltage")
    assert off(a.read(X, read=0, noisy=False), W @ X) < 5e-3
    assert off(a.T.read(Y, read=0, noisy=False), W.T @ Y) < 5e-3


def test_slices_of_the_other_way_are_driven_one_after_another_whatever_joins_them() -> None:
    """Mirrors behind the bit lines join slices of the forward product alone."""
    sliced = {"tile__slices": 2, "tile__slicing": "shares", "tile__significance": 2.0}
    apart = analog(**sliced)
    joined = analog(**sliced, tile__join="mirror", tile__mirror_mismatch=0.1)
    assert off(joined.read(X, read=0), apart.read(X, read=0)) > 0.01
    assert_array_equal(joined.T.read(Y, read=0), apart.T.read(Y, read=0))
    assert apart.counts.readings - joined.counts.readings == 2 * W.shape[0] * X.shape[1]  # two row tiles, forward


def test_cells_of_the_other_way_that_are_not_those_of_the_first_are_seen() -> None:
    """The test above can fail: cells of another chip are as far away as errors of programming are."""
    a = analog(**EXACT | {"cell__programming": {"kind": "polynomial", "coefficients": ["2 uS"], "g_ref": "1 uS"}})
    assert off(a.copy(1).T.read(Y, read=0, noisy=False), np.asarray(a).T @ Y) > 0.05


def test_noise_of_the_other_way_is_that_of_its_cells() -> None:
    """The variance of the transposed product, from the read noise of each cell: 5 sigma of 2,000 reads of 50."""
    a = analog(
        cell__programming={"kind": "none"},
        sensing__amplifier_noise=0.0,
        dac__bits=None,
        adc__bits=None,
        adc__full_scale=None,
    )
    y = np.repeat(Y[:, :1], 2000, axis=1)
    noise = a.T @ y - np.asarray(a).T @ y
    tiles = a.chip.layers["matrix"].tiles
    encoding, (cells,) = tiles.design.encodings[0], tiles.conductances()
    variance = np.zeros(50)
    for t, (first, last) in enumerate(pairwise(tiles.design.placement.edges)):
        unit = encoding.scale[0, t]  # weight of a siemens
        spread = np.square(0.02 * cells[0, :, first:last].astype(float)).sum(axis=0)
        variance[first:last] = spread @ np.square(Y[:, 0] * unit)
    assert_allclose(np.square(noise).mean() / variance.mean(), 1, atol=5 * (2 / 100_000) ** 0.5)
    assert abs(np.corrcoef(np.square(noise).mean(axis=1), variance)[0, 1]) > 0.7


def test_noise_is_fresh_and_repeats_with_the_seed() -> None:
    a, again, other = (mho.matrix(W, hardware(), calibrate=X, seed=seed) for seed in (1, 1, 2))
    first = a @ X
    assert not np.array_equal(a @ X, first)
    back = a.T @ Y
    assert_array_equal(again @ X, first)
    again @ X
    assert_array_equal(again.T @ Y, back)
    assert not np.array_equal(other @ X, first)
    assert_array_equal(a.read(X, read=0), first)
    assert_array_equal(a.T.read(Y, read=2), back)
    assert (a.calls, again.calls) == (3, 3)
    assert a.T.calls == 3
    assert_array_equal(a.read(X[:, :3], read=0), first[:, :3])  # a column is a sample


def test_conversions_are_counted_both_ways() -> None:
    a = analog(tile__rows=128, tile__columns=128)
    assert a.counts.inputs == 0
    a @ X[:, :4]
    assert (a.counts.inputs, a.counts.readings) == (50 * 4, 30 * 4)
    a.T @ Y[:, :2]
    assert (a.counts.inputs, a.counts.readings) == (50 * 4 + 30 * 2, 30 * 4 + 50 * 2)
    a.T @ (10 * Y[:, :2])
    assert a.counts.inputs_clipped > 0


def test_copies_ages_and_measured_cells_are_of_both_ways() -> None:
    drift = {"kind": "power_law", "t_0": "20 s", "g_ref": "40 uS"}
    drift |= {
        "mean": {"offset": 0.1, "slope": 0, "low": 0, "high": 1},
        "spread": {"offset": 0, "slope": 0, "low": 0, "high": 1},
    }
    a = analog(**EXACT, cell__drift=drift)
    aged, compensated = a.at(1e5), a.at(1e5, drift_compensation=True)
    lost = (1 + 1e5 / 20) ** -0.1
    for made, factor in ((aged, lost), (compensated, 1.0), (a.copy(1).at(1e5), lost), (aged.T.T, lost)):
        assert made.calls == 0 or made is aged.T.T
        assert off(made.read(X, read=0, noisy=False), factor * W @ X) < 0.02
        assert off(made.T.read(Y, read=0, noisy=False), factor * W.T @ Y) < 0.02
    table = compensated.conductances().table()
    table["siemens"] *= 0.5
    half = compensated.with_conductances(table)
    assert off(half.read(X, read=0, noisy=False), 0.5 * W @ X) < 0.02
    assert off(half.T.read(Y, read=0, noisy=False), 0.5 * W.T @ Y) < 0.02
    assert off(a.T.at(1e5).read(Y, read=0, noisy=False), lost * W.T @ Y) < 0.02
    for made in (a, a.copy(1), compensated, half):
        assert_array_equal(pickle.loads(pickle.dumps(made)).T.read(Y, read=0), made.T.read(Y, read=0))
        assert_array_equal(copy.deepcopy(made).read(X, read=0), made.read(X, read=0))
    same = a.with_conductances(a.conductances())
    assert_array_equal(same.T.read(Y, read=4), a.T.read(Y, read=4))
    with pytest.raises(ValueError, match="its cells are known of one chip alone"):
        same.copy(1)


def test_gains_for_wires_are_measured_both_ways() -> None:
    fields = hardware(**EXACT, **WIRES)
    plain = mho.matrix(W, fields, calibrate=X, calibrate_transposed=Y)
    a = mho.matrix(W, fields, calibrate=X, calibrate_transposed=Y, wire_compensation="gain")
    for made in (a, a.copy(1), a.at(0.0)):
        assert off(made.T.read(Y, read=0, noisy=False), W.T @ Y) < 0.6 * off(
            plain.T.read(Y, read=0, noisy=False), W.T @ Y
        )


def test_scipy_takes_it_as_an_operator() -> None:
    n = 40
    well = np.eye(n) + 0.3 * RNG.standard_normal((n, n)) / n**0.5
    b = RNG.standard_normal(n)
    a = mho.matrix(well, ideal())
    assert aslinearoperator(a) is a
    x, failed = gmres(a, b, rtol=1e-5)
    assert failed == 0
    assert_allclose(well @ x, b, atol=1e-4)
    assert_allclose(
        svds(a, 2, return_singular_vectors=False, random_state=0), np.sort(np.linalg.svd(well)[1])[-2:], rtol=1e-4
    )
    v = RNG.standard_normal((n, 3))
    assert_allclose(a.matvec(b), well @ b, atol=1e-4)
    assert_allclose(a.matmat(v), well @ v, atol=1e-4)
    assert_allclose(a.rmatvec(b), well.T @ b, atol=1e-4)
    assert_allclose(a.rmatmat(v), well.T @ v, atol=1e-4)
    assert_allclose(a.dot(v), well @ v, atol=1e-4)
    assert isinstance(2 * a + a, LinearOperator)
    assert_allclose((2 * a + a @ a) @ b, 2 * well @ b + well @ well @ b, atol=1e-3)
    assert_allclose(mho.matrix(scipy.sparse.csr_array(well), ideal()) @ b, well @ b, atol=1e-4)
    assert_allclose(a @ scipy.sparse.csr_array(v), well @ v, atol=1e-4)


def test_complex_matrices_of_noisy_cells() -> None:
    w, x, y = W + 1j * W[::-1], X + 1j * X[::-1], Y - 1j * Y[::-1]
    a = mho.matrix(w, hardware(), calibrate=x)
    assert a.chip.layers["matrix"].matrix.weights.shape == (1, 100, 60)
    assert off(a @ x, w @ x) < 0.1
    assert off(np.asarray(a), w) < 0.05
    b = mho.matrix(w, hardware(), calibrate=x, calibrate_transposed=y)
    assert off(b.H @ y, w.conj().T @ y) < 0.1
    assert off(b.T @ y.conj(), w.T @ y.conj()) < 0.1
    assert off(mho.matrix(W, hardware(), calibrate=X) @ x, W @ x) < 0.1  # a real one, with complex vectors


def test_reports_and_costs_are_those_of_a_chip() -> None:
    a = analog()
    assert str(a.report()).startswith("chip: custom, seed 0")
    assert a.report().table["layer"].tolist() == ["matrix"]
    cost = a.cost()
    assert cost.work_j > 0
    assert cost.area_m2 > 0
    assert mho.schedule(a.chip).makespan_s > 0


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (W[0], {}, r"matrix: must be \(m, n\) numbers, at least one, got shape \(50,\) of float64$"),
    (W[:0], {}, r"matrix: must be \(m, n\) numbers, at least one, got shape \(0, 50\) of float64$"),
    ([["a"]], {}, r"matrix: must be \(m, n\) numbers, at least one, got shape \(1, 1\) of <U1$"),
    ([[1, 2], [3]], {}, r"matrix: must be an array of numbers, all rows of one length$"),
    (np.full((2, 2), np.nan), {}, r"matrix: its entries must be finite, and within 32-bit numbers$"),
    (np.full((2, 2), 1e300), {}, r"matrix: its entries must be finite, and within 32-bit numbers$"),
    (np.zeros((2, 2)), {}, r"matrix: its entries are all zero \(as 32-bit numbers\), nothing to program$"),
    (
        W,
        {"calibrate": X.T},
        r"calibrate must be numbers of shape \(50,\) or \(50, k\), got shape \(40, 50\) of float64$",
    ),
    (W, {"calibrate": 0 * X}, r"calibrate must not be all zero: ranges are set from it$"),
    (W, {"calibrate": np.inf * X}, r"calibrate must be finite, and within 32-bit numbers$"),
    (W, {"calibrate_transposed": X}, r"calibrate_transposed must be numbers of shape \(30,\) or \(30, k\), got "),
    (W, {}, r".*calibrate"),
]


@pytest.mark.parametrize(("w", "options", "message"), BAD)
def test_what_is_no_matrix_is_one_line(w: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        mho.matrix(w, hardware(), **options)
    assert "\n" not in str(caught.value)


def test_signs_that_calibration_has_not_seen_are_an_error() -> None:
    a = mho.matrix(np.abs(W), hardware(), calibrate=np.abs(X))
    assert off(a @ np.abs(X), np.abs(W) @ np.abs(X)) < 0.1
    for product, given in ((a, X), (a.T, Y)):
        with pytest.raises(ValueError, match=r"^A @ x: x has negative numbers, and its converters have one sign"):
            product @ given


def test_what_is_no_vector_is_one_line() -> None:
    a = mho.matrix(W, ideal())
    wrong = r"^A @ x: A has shape \(30, 50\), so x must have shape \(50,\) or \(..., 50, k\), got "
    for x in (X[:49], X.T, 3.0, X[0], torch.zeros(3, 40, 50)):
        with pytest.raises(ValueError, match=wrong):
            a @ x
    with pytest.raises(ValueError, match=r"^A @ x: A has shape \(50, 30\), so x must have shape \(30,\)"):
        X[:, 0] @ a
    with pytest.raises(ValueError, match=r"^A @ x: x must be finite, and within 32-bit numbers$"):
        a @ np.full(50, np.nan)
    with pytest.raises(ValueError, match=r"^A @ x: x must be finite, and within 32-bit numbers$"):
        a.T @ np.full(30, 1e300)
    with pytest.raises(ValueError, match=r"^A @ x: x must hold numbers, got <U1$"):
        a @ np.full(50, "a")
    with pytest.raises(ValueError, match=r"^read must be a whole number, got 1.5$"):
        a.read(X, read=1.5)  # type: ignore[arg-type]
    with pytest.raises(MappingError, match=r"^hardware must be a mho.Hardware"):
        mho.matrix(W, "reram")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"tile__encoding": "offset"}, {}, "A.T: tile.encoding is 'offset', whose reference column"),
        (WIRES, {"wire_compensation": "program"}, "A.T: wire_compensation is 'program'"),
        (
            {**WIRES, "cell__levels": 4, "tile__slices": 2},
            {},
            "A.T: wires with resistance are solved for tile.slices = 1",
        ),
        (
            {**WIRES, "wires__order": "conductance"},
            {},
            "A.T: wires with resistance are solved for .* got 1, 'conductance'",
        ),
    ],
)
def test_what_has_no_other_way_still_has_the_first(
    fields: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    a = mho.matrix(W, hardware(**fields), calibrate=X, **options)
    assert (a @ X).shape == (30, 40)
    with pytest.raises(ValueError, match=f"^{message}"):
        a.T @ Y
    b = mho.matrix(W, hardware(dac__range=5.0, adc__bits=None, adc__full_scale=None))
    with pytest.raises(ValueError, match=r"^A.T: its converters have ranges to calibrate; give calibrate="):
        b.T @ Y

"""The reduction to sigma_add and sigma_mult: what it finds where the answer is known, and what its model is worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import hardware, ideal, on_tiles, pictures, small_cnn
from scipy.stats import t as student

import mho
from mho.crossbar.adc_errors import undithered_share
from mho.crossbar.expected import ExpectedCells
from mho.mapping.estimates import mean_with_error
from mho.mapping.reduce import reduce

PARTS = ("frozen", "slow", "fresh", "total")


def parts(chip, n=64, reads=16):
    return reduce(chip, pictures(n, seed=7), reads=reads).table.set_index(["layer", "part"])


FIGURES = ("sigma_add", "sigma_mult", "rms")


def trials(noise, n=40, images=128, reads=6, layers=2) -> pd.DataFrame:
    """Tables of chips with the paper's noise, of one or two linear layers, that differ in their seed."""
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10)).eval()
    net = net[: 2 * layers - 1]
    x = torch.randn(images, 32, generator=torch.Generator().manual_seed(3))
    hw = mho.Hardware.paper().replace({f"output_noise.{name}": value for name, value in noise.items()})
    return pd.concat([reduce(mho.map(net, hw, seed=seed), x, reads=reads).table for seed in range(n)])


@pytest.mark.parametrize(
    "noise",
    [
        {"sigma_add": 0.1},
        {"sigma_mult": 0.4},
        {"sigma_add": 0.05, "sigma_mult": 0.2},
        {"sigma_add": 0.1, "frozen_add": 0.05},
        {"sigma_add": 0.05, "frozen_add": 0.03, "frozen_mult": 0.2},
    ],
)
def test_figures_are_as_sure_as_they_say(noise):
    """Within 3 standard errors of what the noise was made with, and these are those of repeated trials."""
    table = trials(noise)
    add, mult, kept_add, kept_mult = (
        noise.get(name, 0.0) for name in ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")
    )
    fresh = np.hypot(add, mult * kept_add), mult * np.hypot(1, kept_mult)
    known = {"frozen": (kept_add, kept_mult), "fresh": fresh, "total": np.hypot(fresh, (kept_add, kept_mult))}
    inside, scores = [], []
    for (layer, part), rows in table[table["part"] != "slow"].groupby(["layer", "part"]):
        a, b = known[part]
        true = {"sigma_add": a, "sigma_mult": b, "rms": np.hypot(a, b * rows["y_rms"].iloc[0])}
        for name in FIGURES:
            found, error = rows[name].to_numpy(), rows[f"{name}_se"].to_numpy()
            inside.append(np.abs(found - true[name]) <= 3 * error)
            assert inside[-1].mean() >= 0.9, (layer, part, name)
            assert (error > 0).all()
        if true["rms"]:
            assert (rows["rms"] > 5 * rows["rms_se"]).all()  # what is there is found
            scores.append((rows["rms"] - true["rms"]) / rows["rms_se"])
        else:
            assert (rows["rms"] == 0).mean() > 0.95
    assert np.mean(inside) >= 0.99
    z = np.concatenate(scores)
    sure = 5 * np.sqrt(2 * 2 / len(z))  # total and its parts are not independent
    assert abs(np.square(z).mean() - 1) < sure
    assert (
        abs(np.square(2 * z).mean() - 1) > sure
    )  # negative control: standard errors of half the size, and of three times
    assert abs(np.square(z / 3).mean() - 1) > sure


@pytest.mark.parametrize(("images", "wrong"), [(2, 0.70), (3, 0.81)])
def test_intervals_of_few_images_hold_the_truth(images, wrong):
    """1.96 standard errors either way are the 95 % interval, whatever the number of images.

    With standard errors of a normal number they would hold as often as Student's t of so few is within 1.96.
    """
    table = trials({"sigma_mult": 0.4}, n=200, images=images, reads=4, layers=1)
    rows = table[table["part"] == "fresh"]
    off = (rows["sigma_mult"] - 0.4).abs()
    assert student.cdf(1.96, images - 1) - student.cdf(-1.96, images - 1) == pytest.approx(wrong, abs=0.01)
    bound = 4 * np.sqrt(0.95 * 0.05 / len(rows))
    assert (off <= 1.96 * rows["sigma_mult_se"]).mean() > 0.95 - bound
    narrow = rows["sigma_mult_se"] * 1.96 / student.ppf(0.975, images - 1)
    assert (off <= 1.96 * narrow).mean() < wrong + 4 * np.sqrt(wrong * (1 - wrong) / len(rows))  # negative control


def test_what_chance_makes_is_none():
    """A chip of exact cells has no frozen error, its noise is what it is said to be, and nothing else is found."""
    table = trials({"sigma_mult": 0.4}, n=60, images=64, reads=3)
    frozen, total = (table[table["part"] == part] for part in ("frozen", "total"))
    assert (frozen["rms"] == 0).mean() > 0.97
    assert (frozen.loc[frozen["rms"] == 0, ["sigma_add", "sigma_mult", "misfit", "misfit_outputs"]] == 0).all(axis=None)
    assert frozen.loc[frozen["rms"] == 0, "holds"].all()
    for name in ("misfit", "misfit_outputs"):
        assert (total[name] == 0).mean() > 0.97
    assert total["holds"].mean() > 0.97
    assert (table["gain"] == 1).mean() > 0.97
    weak = trials({"sigma_mult": 0.4, "frozen_mult": 0.2}, n=20, images=64, reads=3)  # negative control
    assert (weak[weak["part"] == "frozen"]["rms"] > 0).mean() > 0.95


@pytest.mark.parametrize(("images", "reads"), [(3, 8), (5, 8), (2, 20)])
def test_few_images_make_no_finding(images, reads):
    """Each bin has values enough that their spread tells how sure the figures are."""
    table = trials({"sigma_mult": 0.4}, n=8, images=images, reads=reads)
    assert table["holds"].all()
    fresh = table[table["part"] == "fresh"]
    assert (fresh["rms_se"] > 1e-6 * fresh["rms"]).all()
    assert (fresh["sigma_mult_se"] > 0).all()


def test_an_exact_chip_has_no_errors():
    table = reduce(mho.map(small_cnn(), ideal()), pictures(4), reads=2).table
    assert (table[["sigma_add", "sigma_mult", "misfit", "misfit_outputs"]] == 0).all(axis=None)
    assert table["rms"].max() < 1e-6
    assert table["holds"].all()


def test_errors_without_read_noise_are_found_from_two_reads():
    quiet = hardware(cell__read_noise={"kind": "none"}, sensing__amplifier_noise=0.0)
    quiet = quiet.replace({"sensing.thermal": False, "sensing.shot": False})
    table = reduce(mho.map(small_cnn(), quiet, calibrate=pictures(64), seed=1), pictures(3), reads=2).table
    frozen = table[table["part"] == "frozen"]
    assert (frozen["rms"] > 0.3 * frozen["predicted_rms"]).all()
    assert (table[table["part"] == "fresh"]["rms"] == 0).all()


def test_a_standard_error_that_samples_share():
    """Values that are the same in all rows of a sample are as many as samples, and no more."""
    rng = np.random.default_rng(0)
    samples = np.repeat(np.arange(50), 20)
    found = [mean_with_error(rng.normal(size=50)[samples][:, None] * np.ones(3), samples) for _ in range(400)]
    means, errors = np.array(found).T
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(means.std(), rel=5 / np.sqrt(2 * 400))
    assert means.std() == pytest.approx(1 / np.sqrt(50), rel=5 / np.sqrt(2 * 400))


CHIPS = 12  # the frozen error of one small chip says little
SLOW = {"kind": "relative", "fraction": 0.05, "memory": {"kind": "telegraph", "tau": "1 us"}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cell__programming": {"kind": "none"}, "sensing__gain_noise": 0.02, "sensing__supply_noise": 0.03},
        {"cell__read_noise": SLOW, "sensing__read_interval": "0.2 us"},
        {"tile__slices": 2, "cell__levels": 16, "dac__bits_per_pulse": 2, "sensing__amplifier_noise": "100 pA/rtHz"},
        {"tile__encoding": "offset", "tile__bias": "array", "adc__bits": 6},
        {"tile__encoding": "differential_two_sided", "cell__stuck": {"at_g_min": 0.05, "at_g_max": 0.05}},
    ],
)
def test_physics_predicts_what_is_measured(fields):
    """The mean over chips is within 5 standard errors, of the spread among them; other predictions are not.

    What is kept is compared with the gain of each chip, which the fit takes off and the prediction does not: total less
    fresh. A hundredth of the squared error may be off: where an ADC's errors are so small, they are no even noise.
    """
    chips = [mho.map(small_cnn(), hardware(**fields), calibrate=pictures(64), seed=seed) for seed in range(CHIPS)]
    tables = [parts(chip) for chip in chips]
    squares = {
        name: np.square([[t.loc[layer][name][list(PARTS)] for layer in chips[0].layers] for t in tables])
        for name in ("rms", "predicted_rms")
    }
    for layer in range(3):
        total = squares["predicted_rms"][:, layer, 3].mean()
        for part, less, wrong in ((2, None, 1.5), (3, 2, 4.0)):
            rms, predicted = (s[:, layer, part] - (0 if less is None else s[:, layer, less]) for s in squares.values())
            error = 5 * rms.std(ddof=1) / np.sqrt(CHIPS)
            assert abs(rms.mean() - predicted.mean()) < error + 0.01 * total, (layer, part)
            if predicted.mean() > 0.1 * total:
                assert abs(rms.mean() - wrong * predicted.mean()) > error + 0.01 * total  # negative control


def spreads(chip, x) -> tuple[float, float]:
    """Of one read, and between two."""
    exact, (first, second) = small_cnn()(x), (chip.read(x, read=read) for read in range(2))
    return tuple(float(off.square().mean().sqrt()) for off in (first - exact, first - second))


def test_the_model_is_a_chip_of_that_noise(tmp_path):
    """What is made of output noise alone has that noise: within 5 %, and a fifth more is told apart."""
    noise = {"sigma_add": 0.1, "sigma_mult": 0.2, "frozen_add": 0.1, "frozen_mult": 0.1}
    x = pictures(1024, seed=8)
    chip = mho.map(small_cnn(), mho.Hardware.paper().replace({f"output_noise.{k}": v for k, v in noise.items()}))
    model = reduce(chip, pictures(256, seed=7)).model(seed=1)
    louder = mho.Hardware.paper().replace({f"output_noise.{k}": 1.2 * v for k, v in noise.items()})
    found = spreads(chip, x)
    assert spreads(model, x) == pytest.approx(found, rel=0.05)
    assert all(a > 1.1 * b for a, b in zip(spreads(mho.map(small_cnn(), louder), x), found, strict=True))
    model.save(tmp_path / "model")
    assert torch.equal(mho.load(tmp_path / "model").read(x, read=3), model.read(x, read=3))


def test_bad_input():
    chip = mho.map(small_cnn(), ideal(), seed=1)
    with pytest.raises(ValueError, match=r"images must hold at least 2 samples, .* got 1"):
        reduce(chip, pictures(4)[:1])
    with pytest.raises(ValueError, match="images: holds no samples"):
        reduce(chip, pictures(4)[:0])
    with pytest.raises(ValueError, match="reads must be at least 2"):
        reduce(chip, pictures(4), reads=1)


def test_expected_cells_are_those_programmed():
    hw = mho.Hardware.preset("pcm").replace({"time_s": 1e4, "cell.stuck.at_g_min": 0.02})
    ones = np.ones((1, 128, 128), np.float32)  # all cells at g_max, their partners at g_min
    tiled = on_tiles(ones, hw, limit=1.0, signed=False)
    expected = ExpectedCells.of(hw)
    mean = tiled.packed[0].conductances[0][:, :128].astype(np.float64) * hw.cell.g_max
    target = np.array([hw.cell.g_max, hw.cell.g_min])
    g, variance = expected.at(expected.mean, target), expected.at(expected.variance, target)
    std = np.sqrt(variance.sum())
    assert mean.mean() == pytest.approx(g[0] - g[1], abs=5 * std / 128)
    assert mean.std() == pytest.approx(std, rel=0.05)


def test_noise_dithers_a_quantiser():
    rng = np.random.default_rng(0)
    for noise in (0.05, 0.2, 0.4):
        x = rng.uniform(-50, 50, 4000)
        error = np.rint(x + noise * rng.standard_normal((400, 4000))).mean(axis=0) - x
        left = np.square(error).mean() - noise**2 / 400
        assert left * 12 == pytest.approx(float(undithered_share(np.array(noise))), abs=0.03)
    assert undithered_share(np.zeros(1)) == 1


def test_outputs_of_unequal_noise_do_not_hold():
    """Weights of one output are 10 times as large, and with a scale of its own its noise is too."""
    net = torch.nn.Sequential(torch.nn.Linear(64, 16)).eval()
    with torch.no_grad():
        net[0].weight[0] *= 10
    for scale, expected in (("tile", True), ("column", False)):
        loud = hardware(
            tile__scale=scale,
            sensing__amplifier_noise="2 nA/rtHz",
            cell__programming={"kind": "none"},
            cell__read_noise={"kind": "none"},
        )
        x = torch.rand(256, 64, generator=torch.Generator().manual_seed(2))
        reduced = reduce(mho.map(net, loud, calibrate=x, seed=0), x)
        assert reduced.holds == expected, str(reduced)

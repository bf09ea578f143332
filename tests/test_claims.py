"""The ledger of the paper's claims: docs/claims.md is what the committed cells say, and a verdict depends on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The claims and the ledger of the committed results."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from paper import claims, main
    from paper.ledger import Ledger

    return claims, Ledger.read(main.RESULTS, main.TABLES_11, main.COSTS)


def test_the_page_is_that_of_the_committed_cells(parts):
    claims, ledger = parts
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == claims.page(claims.verdicts(ledger))


def test_verdicts_follow_the_cells(parts):
    claims, ledger = parts
    before = claims.verdicts(ledger)["verdict"]
    worse = ledger.cells.assign(**{name: 0.5 * ledger.cells[name] for name in ("single", "hard")})
    after = claims.verdicts(replace(ledger, cells=worse))["verdict"]
    reached = before.index[claims.verdicts(ledger)["claim"].str.contains("reach") & (before == "holds")]
    assert len(reached) >= 5
    assert set(after[reached]) == {"fails"}


def test_a_gain_that_may_be_none_does_not_hold(parts):
    claims, ledger = parts
    table = ledger.attacks["CIFAR-10"]
    for low, holds in ((-0.01, False), (0.001, True)):
        changed = table.assign(single_gain=0.02, single_gain_low=low, single_gain_high=0.04)
        assert claims.defended(replace(ledger, attacks={"CIFAR-10": changed}), "CIFAR-10", 1.13).holds is holds
    cells = ledger.cells.assign(network="mnist_cnn", noise="mult", k=1, sigma_val=0.4, images=10_000, single=0.97)
    for gain, holds in ((0.002, False), (0.01, True)):
        better = cells.assign(single=0.97 + gain * (cells["sigma_train"] > 0))
        assert claims.uniform(replace(ledger, cells=better), "MNIST").holds is holds


def test_better_at_every_noise_means_without_noise_too(parts):
    claims, ledger = parts
    rows = [(0.0, 0.0, 0.98), (0.5, 0.0, 0.97), (0.0, 0.4, 0.9), (0.5, 0.4, 0.97)]
    cells = pd.DataFrame(rows, columns=["sigma_train", "sigma_val", "single"])
    cells = cells.assign(network="mnist_cnn", noise="mult", k=1, images=10_000)
    found = claims.uniform(replace(ledger, cells=cells), "MNIST")
    assert not found.holds
    assert "(at 0.0)" in found.ours
    assert claims.uniform(replace(ledger, cells=cells[cells["sigma_val"] > 0]), "MNIST").holds


def test_what_an_image_is_taken_for(parts):
    claims, ledger = parts
    share = {6: 0.5, 8: 0.3, 1: 0.2}
    rows = [
        {"weights": "some", "sigma_val": s, "digit": d, "share": share.get(d, 0.0)}
        for s in (0.6, 0.8)
        for d in range(10)
    ]
    shown = replace(ledger, outputs=pd.DataFrame(rows))
    assert claims.confused(shown, "some", 8) == ("50 % say 6, 30 % 8 (at 0.6); 50 % say 6, 30 % 8 (at 0.8)", True)
    assert not claims.confused(shown, "some", 1).holds
    assert claims.confused(shown, "some", None).holds
    shown.outputs.loc[shown.outputs["digit"] == 8, "share"] = 0.6
    assert not claims.confused(shown, "some", None).holds
    with pytest.raises(claims.Untested, match="no outputs of others"):
        claims.confused(shown, "others", 8)


def test_energy_and_power(parts):
    claims, ledger = parts
    assert claims.energy(ledger).holds
    assert not claims.square(ledger).holds
    votes, voltage = ledger.costs["votes"], ledger.costs["voltage"]
    cheap = votes.assign(energy_full_j=votes["energy_full_j"] / votes["votes"])
    assert not claims.energy(replace(ledger, costs=ledger.costs | {"votes": cheap})).holds
    array = voltage.assign(power_rest_w=0.0)
    assert claims.square(replace(ledger, costs=ledger.costs | {"voltage": array})).holds


def test_fewer_samples_than_all_are_named(parts):
    claims, ledger = parts
    small = replace(ledger, cells=ledger.cells[ledger.cells["images"] == 250])
    assert claims.collapse(small, "CIFAR-10", 29.9).ours.endswith("], of 250 samples")
    assert "samples" not in claims.collapse(ledger, "CIFAR-10", 29.9).ours
    assert claims.uniform(ledger, "CIFAR-10").ours.endswith(", of 250 samples")


def test_trainings_are_compared_on_the_most_samples_that_all_were_measured_with(parts):
    _, ledger = parts
    rows = [  # sigma_train, sigma_val, samples, accuracy
        (0.0, 0.4, 1000, 0.5),
        (0.6, 0.4, 1000, 0.6),
        (0.6, 0.4, 10_000, 0.9),
        (0.0, 0.6, 1000, 0.1),
        (0.0, 0.6, 10_000, 0.2),
        (0.6, 0.6, 10_000, 0.7),
        (0.6, 0.0, 10_000, 0.95),
        (0.6, 0.0, 1000, 0.96),
        (0.0, 0.0, 10_000, 0.97),
    ]
    cells = pd.DataFrame(rows, columns=["sigma_train", "sigma_val", "images", "single"])
    small = replace(ledger, cells=cells.assign(network="mnist_cnn", noise="mult", k=1))
    found = {sigma: (part["images"].max(), len(part)) for sigma, part in small.all_trainings("MNIST", "mult").items()}
    assert found == {0.0: (10_000, 2), 0.4: (1000, 2), 0.6: (10_000, 2)}
    own = small.of_training("MNIST", "mult", 0.6)
    assert own["sigma_val"].tolist() == [0.0, 0.4, 0.6]
    assert own["single"].tolist() == [0.95, 0.9, 0.7]


def test_what_is_not_measured_is_untested(parts):
    claims, ledger = parts
    nothing = claims.verdicts(replace(ledger, cells=ledger.cells.iloc[:0], again=ledger.again.iloc[:0]))
    by_cells = nothing[nothing["claim"].str.contains("MNIST|strokes|CIFAR") & ~nothing["claim"].str.contains("attack")]
    assert set(by_cells["verdict"]) == {"untested"}
    assert set(nothing.loc[nothing["claim"].str.contains("latency"), "verdict"]) == {"holds"}
    assert pd.notna(nothing["ours"]).all()


def test_networks_that_were_trained_again(parts):
    """An interval needs three; the better of the trainings counts, and its interval."""
    claims, ledger = parts
    rows = [(seed, sigma, sigma, 20, 98.0, 98.0 + gain, gain, 0.01) for seed, sigma, gain in _gains(0.3, -0.2)]
    from paper import seeds

    table = pd.DataFrame(rows, columns=seeds.COLUMNS)
    with pytest.raises(claims.Untested, match="2 networks are trained, an interval needs 3"):
        claims.confirmed(replace(ledger, again=table[table["seed"] < 2]))
    few = "\n".join(seeds.section(table[table["seed"] < 2]))
    assert "sigma_train 0.3: +0.35 points over 2 networks, too few for an interval" in few
    assert seeds.section(table[table["seed"] < 1]) == []
    assert "| 2 | 0.4 | 0.4 | 98.00 | 97.70 | -0.30 | 0.01 |" in seeds.section(table)
    assert claims.confirmed(replace(ledger, again=table)) == ("+0.30 ± 0.25 points over 3 networks", True)
    less = table.assign(gain=table["gain"] - 0.1)
    assert not claims.confirmed(replace(ledger, again=less)).holds


def _gains(*means: float) -> list[tuple[int, float, float]]:
    return [
        (seed, sigma, mean + off)
        for seed, off in enumerate((0.1, 0.0, -0.1))
        for sigma, mean in zip((0.3, 0.4), means, strict=True)
    ]


def test_names_of_seeds(monkeypatch, parts):
    from paper import cells

    known = ["sigma-0.0", "sigma-0.3", "add-sigma-0.0", "seed-1-sigma-0.0", "seed-12-sigma-0.4", "seed-1", "like-reram"]
    monkeypatch.setattr(cells, "names", lambda network: known)
    assert cells.trained_again("any") == {
        0: {0.0: "sigma-0.0", 0.3: "sigma-0.3"},
        1: {0.0: "seed-1-sigma-0.0"},
        12: {0.4: "seed-12-sigma-0.4"},
    }
    cell = cells.Cell("any", "seed-12-sigma-0.4", 0.2)
    assert (cell.noise, cell.sigma_train) == ("again", 0.4)
    assert cells.Cell("any", "dropout-0.2", 0.2).sigma_train == 0

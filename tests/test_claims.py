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

    return claims, Ledger.read(main.CELLS, main.CURVES, main.RESULTS / "table_4.csv", main.TABLES_11)


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
    ]
    cells = pd.DataFrame(rows, columns=["sigma_train", "sigma_val", "images", "single"])
    small = replace(ledger, cells=cells.assign(network="mnist_cnn", noise="mult", k=1))
    found = {sigma: (part["images"].max(), len(part)) for sigma, part in small.all_trainings("MNIST", "mult").items()}
    assert found == {0.4: (1000, 2), 0.6: (10_000, 2)}
    own = small.of_training("MNIST", "mult", 0.6)
    assert own["sigma_val"].tolist() == [0.0, 0.4, 0.6]
    assert own["single"].tolist() == [0.95, 0.9, 0.7]


def test_what_is_not_measured_is_untested(parts):
    claims, ledger = parts
    nothing = claims.verdicts(replace(ledger, cells=ledger.cells.iloc[:0]))
    by_cells = nothing[nothing["claim"].str.contains("MNIST|strokes|CIFAR") & ~nothing["claim"].str.contains("attack")]
    assert set(by_cells["verdict"]) == {"untested"}
    assert set(nothing.loc[nothing["claim"].str.contains("latency"), "verdict"]) == {"holds"}
    assert pd.notna(nothing["ours"]).all()

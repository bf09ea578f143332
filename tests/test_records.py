"""What stands beside results: records that are written whole, tables, intervals of means."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mho.mapping.voting.intervals import half_of_mean, of_chips, of_mean
from mho.records import record, write_json, write_measured
from mho.tables import Column, print_table, write_table

TABLE = pd.DataFrame({"way": ["a", "a", "b"], "latency_s": [1.5e-6, np.nan, 3e-6], "votes": [1, 2, 3]})
COLUMNS = {"way": Column("way", "s"), "latency_s": Column("latency (us)", ".3g", 1e6), "votes": Column("votes", "d")}


def test_a_record_says_where_it_was_made() -> None:
    found = record(("mho", "torch", "no-such-package"), "benchmarks/x.py --runs 3")
    assert list(found) == ["date", "command", "machine", "cpu", "cores", "versions"]
    assert found["command"] == "benchmarks/x.py --runs 3"
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["no-such-package"] is None
    assert found["versions"]["mho"]


def test_a_record_is_written_whole_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs" / "run.json"
    write_json({"seconds": 1}, path)
    with pytest.raises(TypeError):
        write_json({"seconds": object()}, path)
    assert path.read_text(encoding="utf-8") == '{\n  "seconds": 1\n}\n'

    def failing() -> dict[str, int]:
        raise ValueError("no network")

    assert write_measured(path, failing) == 2
    assert capsys.readouterr().err == "error: no network\n"
    assert write_measured(path / "run.json", dict) == 2
    assert f"error: --out {path} exists and is not a folder" in capsys.readouterr().err
    assert [found.name for found in path.parent.iterdir()] == ["run.json"]
    assert write_measured(path, lambda: {"seconds": 2}) == 0
    assert json.loads(path.read_text(encoding="utf-8")) == {"seconds": 2}


def test_tables_are_shown_in_their_units(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Votes", TABLE, COLUMNS, markdown=True)
    lines = [
        "| way | latency (us) | votes |",
        "| :-- | --: | --: |",
        "| a | 1.5 | 1 |",
        "| a | - | 2 |",
        "| b | 3 | 3 |",
    ]
    assert capsys.readouterr().out.splitlines() == lines
    print_table("Votes", TABLE, COLUMNS)
    grouped = capsys.readouterr().out.splitlines()
    assert grouped[0].strip() == "Votes"
    assert [line[0] for line in grouped[4:8]] == ["│", "│", "├", "│"]  # a line between the ways
    print_table("Votes", TABLE.iloc[1:], COLUMNS)
    assert not any(line.startswith("├") for line in capsys.readouterr().out.splitlines())


def test_tables_are_written_as_csv_and_parquet(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / "votes.of.all", csv_format="%.1e")
    assert pd.read_parquet(tmp_path / "votes.of.all.parquet").equals(TABLE)
    assert (tmp_path / "votes.of.all.csv").read_text() == "way,latency_s,votes\na,1.5e-06,1\na,,2\nb,3.0e-06,3\n"


@pytest.mark.parametrize("kind", [np.array, pd.Series])
def test_intervals_of_means(kind: type) -> None:
    values = kind([0.9, 0.8, 0.85, 0.99])
    known = stats.ttest_1samp(np.array(values), 0.0).confidence_interval(0.95)
    assert of_mean(values) == pytest.approx((0.885, known.low, known.high))
    assert half_of_mean(values) == pytest.approx(known.high - 0.885)
    assert of_mean(kind([0.9])) == (0.9, -np.inf, np.inf)
    assert half_of_mean(kind([0.9])) == 0


def test_intervals_of_chips_are_shares() -> None:
    assert of_chips(pd.Series([0.99, 1.0, 0.9]), 100)[1] == 1.0
    assert of_chips(pd.Series([0.01, 0.0, 0.1]), 100)[0] == 0.0
    few, many = (of_chips(pd.Series([0.9]), n) for n in (100, 10_000))
    assert few[0] < many[0] < 0.9 < many[1] < few[1]

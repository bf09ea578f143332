"""Searches: the front and the cheapest point they report, and that they are the same bits however they came about."""

from __future__ import annotations

import os
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sweeps_model import write_files

import mho
from mho.cli import app, run
from mho.mapping.voting.intervals import Accuracy, difference
from mho.sweeps.optimum import Optimum, front_of, near_front_of
from mho.sweeps.search import Search

HERE = Path(__file__).parent
pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search of 30 trials."""
    sweep = write_files(tmp_path_factory.mktemp("files"))
    del sweep["grid"]
    return {
        **sweep,
        "search": {
            "sensing.v_read": {"low": "10 mV", "high": 0.2, "log": True},
            "adc.bits": {"low": 4, "high": 8},
            "sensing.t_read": ["50 ns", "200 ns"],
            "votes": [1, 3, 9],
            "copies": [1, 2],
            "vote_error": [None, 0.05],
        },
        "target": 0.6,
        "trials": 30,
        "population": 10,
        "confirm": {"seed": [7, 8], "images": 200},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def undisturbed(fields: dict[str, Any], folder: Path) -> mho.Optimum:
    return mho.optimize(fields, out=folder)


def same(one: mho.Optimum, other: mho.Optimum) -> None:
    pd.testing.assert_frame_equal(one.trials, other.trials)
    pd.testing.assert_frame_equal(one.confirmed, other.confirmed)


def parts(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "parts").glob("*.parquet")}


def test_a_notebook_shows_it(undisturbed: mho.Optimum) -> None:
    assert escape(str(undisturbed)) in undisturbed._repr_html_()


def test_a_trial_is_what_a_sweep_gives(fields: dict[str, Any], undisturbed: mho.Optimum, tmp_path: Path) -> None:
    names = list(fields["search"])
    point = undisturbed.front().to_dict("records")[-1]
    shared = {name: value for name, value in fields.items() if name in ("experiment", "model", "data", "images")}
    rest = {name: fields[name] for name in ("calibrate", "hardware")}
    asked = {name: None if point[name] != point[name] else point[name] for name in names}
    row = mho.sweep({**shared, **rest, "points": [asked]}, out=tmp_path).iloc[0]
    assert row["task_id"] == point["task_ids"]
    for name in ("accuracy", "low", "high", "mean_reads", "total_energy_j", "latency_s", "area_m2"):
        assert row[name] == point[name]


def test_the_search_keeps_its_bounds(undisturbed: mho.Optimum) -> None:
    trials = undisturbed.trials
    assert len(trials) <= 30
    assert trials["trial"].is_monotonic_increasing
    assert not trials["task_ids"].duplicated().any()
    assert trials["sensing.v_read"].between(0.01, 0.2).all()
    assert (trials["sensing.v_read"] == [float(f"{v:.3g}") for v in trials["sensing.v_read"]]).all()
    assert set(trials["adc.bits"]) <= {4, 5, 6, 7, 8}
    assert set(trials["sensing.t_read"]) == {50e-9, 200e-9}
    assert (trials["copies"] <= trials["votes"]).all()
    assert trials["accuracy"].nunique() > 5


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_the_front_is_what_no_point_beats(points: list[tuple[int, int]]) -> None:
    accuracy, cost = np.array(points, float).T
    on = front_of(accuracy, cost)
    for number, (a, c) in enumerate(points):
        beaten = any((p[0] >= a and p[1] <= c) and p != (a, c) for p in points)
        twin = (a, c) in points[:number]
        assert on[number] == (not beaten and not twin)


def points_of(*right: int, n: int = 300) -> pd.DataFrame:
    """Points that cost 1, 2, 3, ... with so many right answers of n."""
    found = [Accuracy(count, n) for count in right]
    rows = [
        {"trial": k, "accuracy": float(a), "low": a.low, "high": a.high, "total_energy_j": k + 1.0}
        for k, a in enumerate(found)
    ]
    table = pd.DataFrame(rows)
    table["front_total_energy_j"] = front_of(table["accuracy"].to_numpy(), table["total_energy_j"].to_numpy())
    table["near_front_total_energy_j"] = near_front_of(table, table["total_energy_j"].to_numpy())
    same = {"reaches": table["low"] >= 0.97, "may_reach": table["high"] >= 0.97, "mean_reads": 1.0, "votes": 1}
    return table.assign(**same, latency_s=1.0, area_m2=1.0, extrapolated="")


def test_the_interval_of_a_difference() -> None:
    """Newcombe (1998), Table II: 56 of 70 less 48 of 80 is 0.2000, from 0.0524 to 0.3339 by method 10."""
    one, other = ({"accuracy": float(a), "low": a.low, "high": a.high} for a in (Accuracy(48, 80), Accuracy(56, 70)))
    assert difference(one, other) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_sampling_error_is_no_finding(fields: dict[str, Any]) -> None:
    """294 and 297 of 300 are on the front and not told apart, 250 and 294 are; a point behind may be as good."""
    table = points_of(250, 294, 293, 297, 240)
    assert list(table["front_total_energy_j"]) == [True, True, False, True, False]
    assert list(table["near_front_total_energy_j"]) == [True, True, True, True, False]
    wide = {"search": {"votes": [1, 3]}, "costs": ["total_energy_j"], "target": 0.97, "confirm": {}}
    said = str(Optimum(Search.read({**fields, **wide}), table, table.iloc[:0]))
    steps = [line for line in said.splitlines() if "[+" in line or "[-" in line]
    assert ["not told apart" in line for line in steps] == [False, True]
    assert "not told apart from it: 1 more point (near_front_total_energy_j)" in said
    assert "whether cheaper points reach it: the interval of trials 1, 2 has the target in it" in said
    none = Optimum(Search.read({**fields, **wide}), points_of(250, 294), table.iloc[:0])
    assert none.best is None
    assert "the search does not tell whether others do: the interval of trial 1 has the target in it" in str(none)
    odd = points_of(297).assign(extrapolated="cell.g_max = 1 S is outside the data of cell.drift, 1 to 2 S")
    said = str(Optimum(Search.read({**fields, **wide}), odd, odd.iloc[:0]))
    assert "outside the data (trial 0): cell.g_max = 1 S is outside the data of cell.drift, 1 to 2 S" in said


def test_the_cheapest_reaches_the_target_twice(fields: dict[str, Any], undisturbed: mho.Optimum, folder: Path) -> None:
    best, trials, confirmed = undisturbed.best, undisturbed.trials, undisturbed.confirmed
    assert best is not None
    assert best["low"] >= 0.6
    reach = trials[trials["low"] >= 0.6].sort_values("total_energy_j")
    assert list(confirmed["trial"]) == list(reach["trial"][: len(confirmed)])
    assert list(confirmed["reaches"]) == [False] * (len(confirmed) - 1) + [True]
    results = pd.read_parquet(folder / "results.parquet").set_index("task_id")
    two = results.loc[best["task_ids"].split()]
    assert list(two["seed"]) == [7, 8]
    assert set(two["pictures"]) == {200}
    for name, mean in (("accuracy", two["accuracy"].mean()), ("low", two["low"].mean())):
        assert best[name] == pytest.approx(mean, rel=1e-12)
    assert best["accuracy_min"] == two["accuracy"].min()
    assert not set(best["task_ids"].split()) & {id for ids in trials["task_ids"] for id in ids.split()}


def test_a_target_out_of_reach(fields: dict[str, Any], undisturbed: mho.Optimum, folder: Path) -> None:
    far = mho.optimize({**fields, "target": 0.999}, out=folder)
    assert far.best is None
    assert "no point reaches the target" in str(far)
    assert not (folder / "confirmed.parquet").exists()
    flags = ["reaches", "may_reach"]
    pd.testing.assert_frame_equal(far.trials.drop(columns=flags), undisturbed.trials.drop(columns=flags))
    lucky = {**fields, "confirm": {"votes": 1, "images": 10}, "search": {"adc.bits": [7, 8]}, "trials": 8}
    found = mho.optimize({**lucky, "population": 2, "votes": 20}, out=folder)
    assert list(found.confirmed["reaches"]) == [False, False]
    assert found.best is None
    assert "2 did in the search, and none when it was measured once more" in str(found)


def test_without_confirmation_the_report_says_so(fields: dict[str, Any], folder: Path) -> None:
    found = mho.optimize({**fields, "confirm": {}}, out=folder)
    reach = found.trials[found.trials["reaches"]]
    assert found.best is not None
    assert found.best["total_energy_j"] == reach["total_energy_j"].min()
    assert "on the images and chips that it was chosen on" in str(found)


def test_the_means_over_a_grid(fields: dict[str, Any], tmp_path: Path) -> None:
    small = {**fields, "search": {"votes": [1, 3]}, "grid": {"seed": [0, 1, 2]}, "trials": 6, "population": 2}
    found = mho.optimize({**small, "confirm": {}}, out=tmp_path, csv=True)
    assert len(found.trials) == 2
    results = pd.read_csv(tmp_path / "results.csv").set_index("task_id")
    assert len(results) == 6
    for row in found.trials.itertuples():
        of_it = results.loc[row.task_ids.split()]
        assert row.accuracy == pytest.approx(of_it["accuracy"].mean(), rel=1e-12)
        assert row.accuracy_min == of_it["accuracy"].min()
    assert len(pd.read_csv(tmp_path / "trials.csv")) == 2


def test_another_seed_chooses_otherwise(fields: dict[str, Any], undisturbed: mho.Optimum, folder: Path) -> None:
    first = mho.optimize({**fields, "trials": 10, "confirm": {}}, out=folder).trials
    pd.testing.assert_frame_equal(
        first[[name for name in first if "front_" not in name]],
        undisturbed.trials.iloc[: len(first)][[name for name in first if "front_" not in name]],
    )
    other = mho.optimize({**fields, "trials": 10, "confirm": {}, "search_seed": 1}, out=folder).trials
    assert not set(other["task_ids"]) & set(first["task_ids"])


def test_killed_and_finished_by_two_processes(
    fields: dict[str, Any], undisturbed: mho.Optimum, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    code = (
        "import mho, os, signal\n"
        "stop = lambda done, total: done >= 14 and os.kill(os.getpid(), signal.SIGKILL)\n"
        f"mho.optimize({str(path)!r}, out={str(out)!r}, progress=stop)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(HERE)}, check=False)
    assert killed.returncode == -9
    before = parts(out)
    assert len(before) >= 10

    def stop(done: int, total: int) -> None:
        if done >= 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mho.optimize(path, out=out, progress=stop)
    assert len(parts(out)) > len(before)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    same(mho.optimize({**fields, "batch_size": 17}, out=out, jobs=2), undisturbed)
    after = parts(out)
    assert {name: after[name] for name in before} == before
    monkeypatch.setattr("mho.sweeps.run.run_group", None)  # nothing is left to do
    same(mho.optimize(path, out=out), undisturbed)


def test_what_a_sweep_has_measured_is_not_measured_again(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {name: fields[name] for name in ("experiment", "model", "data", "images", "calibrate", "hardware")}
    mho.sweep({**common, "grid": {"votes": [1, 3], "adc.bits": [5, 8]}}, out=tmp_path)
    monkeypatch.setattr("mho.sweeps.run.run_group", None)
    search = {"votes": [1, 3], "adc.bits": [5, 8]}
    found = mho.optimize({**common, "search": search, "target": 0.5, "trials": 20, "population": 4}, out=tmp_path)
    assert 2 < len(found.trials) <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": 1.5}, "search: target = 1.5: Input should be less than 1"),
        ({"target": None}, "search: target"),
        ({"costs": ["speed"]}, "costs.0 = 'speed': Input should be 'total_energy_j', 'latency_s' or 'area_m2'"),
        ({"costs": ["latency_s", "latency_s"]}, "costs: each once, got latency_s, latency_s"),
        ({"points": []}, "Search has no field points; its fields are model, "),
        ({"search": {}}, "search: expected names and lists of values, or ranges"),
        ({"search": {"votes": 3}}, r"votes must be a list of values, or a range \{low, high, log\}, got 3"),
        ({"search": {"votes": {"low": 3}}}, "votes must be a list of values, or a range"),
        ({"search": {"votes": []}}, "votes must be a list of values, or a range"),
        ({"search": {"vote": [1, 2]}}, "search: there is no setting 'vote'"),
        ({"search": {"seed": [0, 1]}}, "search: seed says what is measured, and is nothing to choose"),
        ({"search": {"votes": [1, 2]}, "confirm": {"votes": 9}}, "confirm: 'votes' is what the search chooses"),
        ({"search": {"votes": [1, 2]}, "grid": {"votes": 9}}, "search: 'votes' stands in grid too"),
        ({"search": {"votes": [0, 1]}}, "votes = 0: Input should be greater than or equal to 1"),
        ({"search": {"copies": [1, "many"]}}, "copies = 'many': Input should be a valid integer"),
        ({"search": {"sensing.v_read": {"low": 0.1, "high": 9}}}, "v_read must be at most cell.v_max"),
        ({"search": {"sensing.v_read": [0.1, "100 mV"]}}, "search: sensing.v_read has the value 0.1 twice"),
        ({"search": {"sensing.v_read": {"low": 0.2, "high": 0.1}}}, "must have a low below its high, got 0.2 and 0.1"),
        ({"search": {"time_s": {"low": 0, "high": 1, "log": True}}}, "a low below its high, both positive, got 0.0"),
        ({"search": {"rule": {"low": "hard", "high": "soft"}}}, "search: rule is no number, and has no range"),
        ({"search": {"adc.bots": [1, 2]}}, "Adc has no field bots"),
    ],
)
def test_the_impossible_is_refused_before_anything_runs(
    fields: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    preset = {"hardware": "reram"} if "v_max" in message else {}
    with pytest.raises(ValueError, match=message):
        mho.optimize({**fields, **preset, **change}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sweep_is_no_search(fields: dict[str, Any], tmp_path: Path) -> None:
    sweep = {name: value for name, value in fields.items() if name not in ("search", "target")}
    with pytest.raises(ValueError, match=r"search: has no field search, .*; mho sweep runs it as a sweep$"):
        mho.optimize(sweep, out=tmp_path / "run")


def test_a_missing_optuna_is_named(fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"mho optimize needs Optuna: pip install 'mho\[search\]'"):
        mho.optimize(fields, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_converters_without_bits_have_no_cost(fields: dict[str, Any], tmp_path: Path) -> None:
    free = {"search": {"adc.bits": [None]}, "grid": {"adc.full_scale": [None]}, "trials": 2, "population": 2}
    with pytest.raises(ValueError, match=r"adc.bits: None: has no total_energy_j, as a converter has no bits; set"):
        mho.optimize({**fields, **free}, out=tmp_path)


def test_fronts_of_other_costs(undisturbed: mho.Optimum, fields: dict[str, Any]) -> None:
    latency = undisturbed.front("latency_s")
    assert latency["latency_s"].is_monotonic_increasing
    assert latency["accuracy"].is_monotonic_increasing
    assert latency["accuracy"].iloc[-1] == undisturbed.trials["accuracy"].max()
    with pytest.raises(ValueError, match="cost must be one of total_energy_j, latency_s, got 'area_m2'"):
        undisturbed.front("area_m2")
    assert Search.read(yaml.safe_load(undisturbed.search.dump())) == undisturbed.search


def test_the_command(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(HERE)
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**fields, "trials": 4, "population": 2, "target": 0.1}), encoding="utf-8")
    assert run(app, ["optimize", str(path), "--out", str(tmp_path / "run"), "--csv"]) == 0
    said = capsys.readouterr().out
    assert "4 trials, " in said
    assert "cheapest point that reaches it, measured once more (1 candidate tried):" in said
    assert "front of accuracy and latency, as estimated:" in said
    names = {"results", "trials", "confirmed"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        ".lock", "hardware.yaml", "parts", "search.yaml", "report.txt", "front.png",
        *(f"{name}.parquet" for name in names), *(f"{name}.csv" for name in names),
    }  # fmt: skip
    assert (tmp_path / "run" / "report.txt").read_text(encoding="utf-8") in said

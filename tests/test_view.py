"""The explorer of sweeps: what its page holds is the table, and the YAML of a point gives its row again."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mho
from mho.cli import app, run
from mho.explorer import page_of

SWEEP: dict[str, Any] = {
    "experiment": "accuracy",
    "model": "mnist_cnn",
    "weights": "sigma-0.5",
    "images": 20,
    "calibrate": 10,
    "hardware": "reram",
    "batch_size": 20,
    "grid": {"sensing.v_read": [0.01, 0.2], "votes": [1, 2], "vote_error": [None]},
}


def kept(text: str) -> dict[str, Any]:
    """What the page of a run keeps."""
    (found,) = re.findall(r'id="data-run">(.*?)</script>', text, re.DOTALL)
    return dict(json.loads(found))


def values(column: dict[str, Any]) -> list[Any]:
    if column["kind"] == "number":
        return list(np.frombuffer(base64.b64decode(column["data"]), "<f8"))
    index = np.frombuffer(base64.b64decode(column["index"]), f"<u{column['bytes']}")
    return [column["values"][k] for k in index]


def test_the_page_holds_the_table() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "task_id": [f"{k:x}" for k in range(6000)],
            "votes": rng.integers(1, 400, 6000),
            "rule": rng.choice(["hard", "soft"], 6000),
            "vote_error": rng.choice([0.1, np.nan], 6000),
            "accuracy": rng.random(6000),
            "seconds_meta": 1.0,
        }
    )
    found = {column["name"]: column for column in kept(str(page_of(table, {}, "t")))["columns"]}
    assert list(found) == ["votes", "rule", "vote_error", "accuracy"]
    assert [column["setting"] for column in found.values()] == [True, True, True, False]
    for name in ("votes", "rule", "accuracy"):
        assert values(found[name]) == list(table[name])
    assert values(found["vote_error"]) == [None if np.isnan(x) else x for x in table["vote_error"]]


def test_what_is_shown_first() -> None:
    table = pd.DataFrame({"votes": [1, 2], "accuracy": [0.1, 0.2], "total_energy_j": [1e-6, 2e-6]})
    start = kept(str(page_of(table, {}, "t")))["start"]
    assert (start["x"], start["y"], start["colour"]) == ("total_energy_j", "accuracy", "votes")
    assert (start["betterX"], start["betterY"], start["logX"]) == ("low", "high", True)
    plain = kept(str(page_of(pd.DataFrame({"a": [1, 2]}), {}, "t")))["start"]
    assert (plain["x"], plain["y"], plain["colour"]) == ("a", "a", None)


def test_the_command_and_what_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"votes": [1, 2], "accuracy": [0.5, 0.6]}).to_csv("t.csv", index=False)
    assert run(app, ["view", "t.csv"]) == 0
    assert capsys.readouterr().out == f"to look at in a browser: {tmp_path.resolve() / 'view.html'}\n"
    Path("empty").mkdir()
    Path("t.txt").write_text("x")
    Path("bad.parquet").write_text("x")
    pd.DataFrame({"votes": []}).to_csv("none.csv", index=False)
    for wrong, said in (
        ("empty", "run: empty has none of results.parquet, trials.parquet: is the sweep finished?"),
        ("t.txt", "run: expected the folder of a sweep or search, or a .csv or .parquet table, got t.txt"),
        ("nowhere", "run: expected the folder of a sweep or search, or a .csv or .parquet table, got nowhere"),
        ("bad.parquet", "run: bad.parquet holds no table"),
        ("none.csv", "run: none.csv has no rows"),
    ):
        assert run(app, ["view", wrong, "--out", "p.html"]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"a page is written to a file that ends in \.html"):
        mho.view("t.csv", "p.txt")
    assert not Path("p.html").exists()


def test_the_page_of_a_sweep_has_what_it_takes_to_run_a_point(tmp_path: Path) -> None:
    mho.sweep(SWEEP, out=tmp_path / "run")
    found = kept(mho.view(tmp_path / "run").read_text())
    assert found["again"]
    settings = {column["name"] for column in found["columns"] if column["setting"]}
    assert settings == {"sensing.v_read", "votes", "vote_error"}
    assert {"experiment", "model", "weights", "images", "hardware"} <= set(found["base"])
    assert not {"grid", "points"} & set(found["base"])


@pytest.mark.parametrize("texts", [False, True])
def test_cells_that_are_lists_and_mappings_are_what_was_given(texts: bool, tmp_path: Path) -> None:
    noises = [{"kind": "none"}, {"kind": "relative", "fraction": 0.01}]
    grid = {"layers": [None, ["fc2"], ["fc1", "fc2"]], "cell.read_noise": noises}
    rows = [(layers, noise) for layers in grid["layers"] for noise in noises]
    pd.DataFrame(
        {
            "layers": [layers for layers, _ in rows],
            "cell.read_noise": [json.dumps(noise) if texts else noise for _, noise in rows],
            "accuracy": np.linspace(0, 1, len(rows)),
        }
    ).to_parquet(tmp_path / "results.parquet")
    (tmp_path / "sweep.yaml").write_text(json.dumps({"experiment": "accuracy", "grid": grid}))
    found = {column["name"]: column for column in kept(mho.view(tmp_path).read_text())["columns"]}
    assert [found[name]["setting"] for name in grid] == [True, True]
    assert [list(pair) for pair in zip(*(values(found[name]) for name in grid), strict=True)] == [
        [*row] for row in rows
    ]


def test_the_page_of_a_search_has_fronts_over_votes_and_voltage(tmp_path: Path) -> None:
    trials = Path(__file__).parents[1] / "docs" / "results" / "search" / "trials.csv"
    found = kept(mho.view(trials, tmp_path / "search.html").read_text())
    columns = {column["name"]: column for column in found["columns"]}
    assert {"votes", "sensing.v_read"} <= {name for name, column in columns.items() if column["setting"]}
    assert len(set(values(columns["sensing.v_read"]))) > 1
    start = found["start"]
    assert (start["x"], start["y"], start["colour"]) == ("total_energy_j", "accuracy", "votes")
    assert (start["betterX"], start["betterY"]) == ("low", "high")  # the front is of cheap and accurate points

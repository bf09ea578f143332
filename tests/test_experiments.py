"""Experiments of sweeps that others add: from outside of the package, in all workers, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps_model import write_files

import mho
from mho.sweeps.experiments import EXPERIMENTS, Experiment, experiment_of
from mho.sweeps.file import Sweep
from mho.sweeps.tasks import tasks_of

DOCS = Path(__file__).parents[1] / "docs"
HERE = Path(__file__).parent


class Spread(Experiment):
    """How the right answers to the pictures lie."""

    version = 2
    columns = ("right", "first", "names")

    most: int = 5
    names: tuple[str, ...] = ("a", "b")

    def run(self, bench, settings):
        right = bench.right(0, settings.images, settings)
        return {"right": right[-1], "first": right[0] > self.most, "names": "".join(self.names)}


@pytest.fixture
def fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A sweep of an experiment that was added."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(EXPERIMENTS, "_things", EXPERIMENTS.loaded())
    EXPERIMENTS.add("spread", Spread)
    return {**write_files(tmp_path), "experiment": "spread", "votes": 2, "grid": {"seed": [0, 1]}}


def ids(fields: dict[str, Any]) -> list[str]:
    return [task.id for task in tasks_of(Sweep.read(fields))]


def blocks() -> tuple[str, str, str]:
    """The module, its use and its entry point, in the docs."""
    text = (DOCS / "sweeps.md").read_text(encoding="utf-8").split("## How to add an experiment")[1]
    module, use = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    toml = text.split("```toml\n")[1].split("```")[0]
    return module, use, toml.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")


def test_the_example_of_the_docs_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """In a process that names neither module nor class; `test_pages.py` runs its sweep, in workers."""
    module, use, points = blocks()
    (tmp_path / "my_experiments.py").write_text(module, encoding="utf-8")
    info = tmp_path / "my_experiments-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-experiments\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    assert "import my_experiments" not in use
    script = (
        "import sys\nfrom mho.sweeps.experiments import experiment_of\nassert 'my_experiments' not in sys.modules\n"
        "found = experiment_of('retention')\nassert (found.version, found.__module__) == (1, 'my_experiments')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_row_has_the_options_and_the_columns(fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {**fields, "options": {"most": 45}, "grid": {"options.names": [["a"], ["a", "b", "c"]], "seed": [1]}}
    table = mho.sweep(fields, out=tmp_path / "run")
    assert list(table["options.most"]) == [45, 45]
    assert list(table["options.names"]) == ['["a"]', '["a", "b", "c"]']
    assert list(table["names"]) == ["a", "abc"]
    asked = {**fields, "experiment": "accuracy", "options": {}, "grid": {"seed": [1]}}
    usual = mho.sweep(asked, out=tmp_path / "usual")
    assert list(table["right"]) == [round(usual["accuracy"][0] * usual["pictures"][0])] * 2
    assert not any("options" in name for name in usual)
    assert "\noptions:" not in (tmp_path / "usual" / "sweep.yaml").read_text("utf-8")
    assert Sweep.read(tmp_path / "run" / "sweep.yaml") == Sweep.read(fields)


def test_ids_know_version_and_options(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(fields)
    assert ids({**fields, "options": {"most": 5}}) == before  # the default
    assert set(ids({**fields, "options": {"most": 6}})).isdisjoint(before)
    assert ids({**fields, "grid": {"options.most": [6], "seed": [0, 1]}}) == ids({**fields, "options": {"most": 6}})
    monkeypatch.setattr(Spread, "version", 3)
    assert set(ids(fields)).isdisjoint(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"least": 1}}, r"point 1 .*: Spread: Spread has no field least; its fields are most, names"),
        ({"options": {"most": "few"}}, r"point 1 .*: Spread: most = 'few': Input should be a valid integer"),
        ({"grid": {"options.most": [1, 0.5]}}, r"point 2 \(options.most: 0.5\): Spread: most = 0.5: Input should be"),
        ({"grid": {"options": [{}]}}, r"grid: options vary one by one: name them as options.NAME"),
        ({"experiment": "accuracy", "options": {"most": 1}}, r"point 1 .*: Voted: Voted has no field most"),
        (
            {"experiment": "spreads"},
            r"^experiment must be one of accuracy, voting, reduction, regression, spread, got 'spreads'$",
        ),
        ({"experiment": "no_module:spread"}, r"^experiment 'no_module:spread': its module does not load \(ModuleNot"),
        ({"experiment": "sweeps_model:drift"}, r"^experiment 'sweeps_model:drift': its module adds no 'drift'; there"),
        ({"experiment": ":"}, r"^experiment ':': its module does not load \(ValueError: Empty module name\)$"),
    ],
)
def test_what_is_impossible_is_said_before_anything_runs(
    fields: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        mho.sweep({**fields, **change}, out=tmp_path / "never")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"right": 1}, r"seed: 0\): experiment spread: must give the columns right, first, names, got right"),
        ({"right": 1, "first": 2, "names": [3]}, r"column names must be a number, a text or a bool, got \[3\]"),
        (
            {"right": 1, "first": np.ones(2), "names": ""},
            r"column first must be a number, .* got array\(\[1., 1.\]\)",
        ),
        (None, r"must give the columns right, first, names, got NoneType"),
    ],
)
def test_columns_are_those_that_it_says(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Any, message: str
) -> None:
    monkeypatch.setattr(Spread, "run", lambda *_: found)
    with pytest.raises(ValueError, match=message):
        mho.sweep(fields, out=tmp_path / "run")


def test_a_search_needs_its_columns(fields: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    asked = {**fields, "grid": {}, "search": {"votes": [1, 2]}, "target": 0.5}
    with pytest.raises(ValueError, match=r"^search: experiment spread has no column accuracy, low, high, .* to search"):
        mho.optimize(asked, out=tmp_path / "never")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 0}, "version must be a whole number from 1 on, got 0"),
        ({"version": None}, "version must be a whole number from 1 on, got None"),
        ({"columns": "right"}, "columns must be a tuple of names, got 'right'"),
        ({"columns": ()}, r"columns must be a tuple of names, got \(\)"),
        ({"columns": ("seed",)}, "column 'seed' must have a name of its own"),
        ({"columns": ("a", "a")}, "column 'a' must have a name of its own"),
        ({"columns": ("a.b",)}, "column 'a.b' must have a name of its own"),
        ({"columns": ("a_meta",)}, "column 'a_meta' must have a name of its own"),
        ({"run": None}, "Lacking must define run"),
        ({"__annotations__": {"most": int}}, "option 'most' must have a default"),
    ],
)
def test_what_is_no_experiment_is_refused(changes: dict[str, Any], message: str) -> None:
    whole = {"version": 1, "columns": ("right",), "run": lambda self, bench, settings: {}, "__module__": __name__}
    given = {name: value for name, value in (whole | changes).items() if name != "run" or value is not None}
    with pytest.raises(TypeError, match=f"^experiment 'x': {message}"):
        EXPERIMENTS.add("x", type("Lacking", (Experiment,), given))
    with pytest.raises(TypeError, match=r"^experiment 'x' must be a class derived from mho.sweeps.experiments.Exper"):
        EXPERIMENTS.add("x", print)


def test_ours_are_there() -> None:
    assert list(EXPERIMENTS) == ["accuracy", "voting", "reduction", "regression"]
    assert experiment_of("mho.sweeps.experiments:voting") is EXPERIMENTS["voting"]

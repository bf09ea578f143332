"""Ids of tasks know the code of users: cells, layers, experiments, networks, and what their modules import."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeps_model import write_files

import mho
from mho.devices.code import code_of, digest, sources
from mho.devices.programming import ProgrammingModel
from mho.mapping.kinds.expander import EXPANDERS
from mho.mapping.kinds.leaf import LEAVES
from mho.sweeps.experiments import EXPERIMENTS
from mho.sweeps.file import Sweep
from mho.sweeps.tasks import Parcel, groups_of, run_parcel, tasks_of

HERE = Path(__file__).parent
REGISTRIES = (ProgrammingModel.registry, EXPERIMENTS, LEAVES, EXPANDERS)
CELLS = """
from typing import Literal
from mho.devices.programming import ProgrammingModel
from of_user_help import shift

class Shifted(ProgrammingModel):
    kind: Literal["of_user"] = "of_user"

    def apply(self, g, normals, conditions, xp):
        return g * 1.0 + shift(g)
"""
HELP = "def shift(g):\n    return 0.0 * g\n"
NETS = """
from torch import nn
from sweeps_model import net as plain

class Twice(nn.Module):
    def forward(self, x):
        return 2 * x

def net():
    return nn.Sequential(*plain(), Twice())
"""
EXPERIMENT = """
from mho.sweeps.experiments import EXPERIMENTS, Experiment

@EXPERIMENTS.register("of_user")
class Count(Experiment):
    version = 1
    columns = ("right", "folder")
    fail: bool = False

    def run(self, bench, settings):
        if self.fail:
            return {"right": {}["no"]}
        return {"right": int(bench.right(0, settings.images, settings)[0]), "folder": "one"}
"""
LAYERS = """
from mho.mapping.kinds.leaf import LEAVES
from mho.mapping.kinds.linear import Linear
from torch import nn

class Mine(nn.Linear):
    pass

@LEAVES.register("of_user")
class MineLeaf(Linear):
    modules = (Mine,)

def net():
    from sweeps_model import net as plain
    first, *rest = plain()
    mine = Mine(16, 24)
    mine.load_state_dict(first.state_dict())
    return nn.Sequential(mine, *rest)
"""
FILES = {
    "of_user_cells": CELLS,
    "of_user_help": HELP,
    "of_user_nets": NETS,
    "of_user_experiment": EXPERIMENT,
    "of_user_layers": LAYERS,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules of a user, which can be imported."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(HERE), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a tick of their time stamps
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_things", registry.loaded())
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.fixture
def fields(folder: Path) -> dict[str, Any]:
    return {**write_files(folder), "grid": {"seed": [0]}}


def ids(fields: dict[str, Any]) -> list[str]:
    return [task.id for task in tasks_of(Sweep.read(fields))]


def change(folder: Path, name: str, before: str, after: str) -> None:
    """Other code of a module, which is loaded anew."""
    path = folder / f"{name}.py"
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    importlib.invalidate_caches()
    if name in sys.modules:
        importlib.reload(sys.modules[name])


def with_cells(folder: Path, fields: dict[str, Any], **layers: Any) -> dict[str, Any]:
    """The sweep on cells of the user: of all layers, or of some."""
    chip = yaml.safe_load((folder / "chip.yaml").read_text("utf-8"))
    if layers:
        chip["layers"] = layers
    else:
        chip["cell"]["programming"] = {"kind": "of_user"}
    (folder / "own.yaml").write_text(yaml.safe_dump(chip), encoding="utf-8")
    return {**fields, "hardware": str(folder / "own.yaml")}


def test_ids_without_code_of_users_are_those_of_before(fields: dict[str, Any]) -> None:
    """Folders of earlier versions are gone on with."""
    (task,) = tasks_of(Sweep.read({**fields, "model": "mnist_cnn", "weights": "sigma-0.5", "data": "mnist"}))
    assert task.code == ()
    import of_user_cells
    import of_user_layers  # both are there, and take no part

    assert of_user_cells.Shifted.registry["of_user"]
    assert LEAVES["of_user"] is of_user_layers.MineLeaf
    again = {**fields, "model": "mnist_cnn", "weights": "sigma-0.5", "data": "mnist"}
    assert ids(again) == [task.id]


@pytest.mark.parametrize("layers", [{}, {"0": {"cell.programming": {"kind": "of_user"}}}])
@pytest.mark.parametrize("name", ["of_user_cells", "of_user_help"])
def test_ids_know_the_code_of_cells(folder: Path, fields: dict[str, Any], name: str, layers: dict[str, Any]) -> None:
    asked = {**with_cells(folder, fields, **layers), "imports": ["of_user_cells"]}
    before, plain = ids(asked), ids(fields)
    assert ids(asked) == before
    change(folder, name, *(("g * 1.0", "g * 1.5") if name == "of_user_cells" else ("0.0 * g", "0.5 * g")))
    assert ids(fields) == plain
    after = ids(asked)
    assert set(after).isdisjoint(before)
    change(folder, name, *(("g * 1.5", "g * 1.0") if name == "of_user_cells" else ("0.5 * g", "0.0 * g")))
    assert ids(asked) == before


@pytest.mark.parametrize(
    ("asked", "name", "before", "after"),
    [
        ({"model": "of_user_nets:net"}, "of_user_nets", "2 * x", "-2 * x"),
        ({"model": "of_user_layers:net"}, "of_user_layers", "pass", "kind_of = 3"),
        ({"experiment": "of_user_experiment:of_user"}, "of_user_experiment", '"one"', '"two"'),
        ({"imports": ["of_user_help"]}, "of_user_help", "0.0 * g", "0.5 * g"),
    ],
)
def test_ids_know_the_code_of_networks_layers_experiments_and_imports(
    folder: Path, fields: dict[str, Any], asked: dict[str, Any], name: str, before: str, after: str
) -> None:
    first, plain = ids({**fields, **asked}), ids(fields)
    change(folder, name, before, after)
    second = ids({**fields, **asked})
    assert set(second).isdisjoint(first)
    assert ids(fields) == plain
    change(folder, name, after, before)
    assert ids({**fields, **asked}) == first


def test_changed_code_is_run_again(folder: Path, fields: dict[str, Any]) -> None:
    """In the same process too, where the network of before is at hand."""
    asked = {**fields, "model": "of_user_nets:net", "images": 100}
    first = mho.sweep(asked, out=folder / "run")
    change(folder, "of_user_nets", "2 * x", "-2 * x")
    second = mho.sweep(asked, out=folder / "run")
    assert first["accuracy"][0] > 0.5 > second["accuracy"][0]
    assert len(list((folder / "run" / "parts").iterdir())) == 2
    change(folder, "of_user_nets", "-2 * x", "2 * x")
    assert mho.sweep(asked, out=folder / "run").equals(first)  # that row is kept, its time included


def test_a_worker_with_other_code_is_refused(folder: Path, fields: dict[str, Any]) -> None:
    asked = {**with_cells(folder, fields), "imports": ["of_user_cells"]}
    (group,) = groups_of(tasks_of(Sweep.read(asked)))
    parcel = Parcel.of(group)
    (row,) = run_parcel(parcel)
    assert row["task_id"] == group[0].id
    change(folder, "of_user_help", "0.0 * g", "0.5 * g")
    with pytest.raises(
        ValueError, match=r"^module of_user_cells: has other code here than where the sweep was started"
    ):
        run_parcel(parcel)


def test_what_was_loaded_counts_and_not_what_was_written_later(folder: Path, fields: dict[str, Any]) -> None:
    """Where a class is registered, and its file is edited before the first sweep."""
    import of_user_cells

    asked = with_cells(folder, fields)
    path = folder / "of_user_cells.py"
    path.write_text(CELLS.replace("1.0", "1.5"), encoding="utf-8")
    late = ids(asked)
    path.write_text(CELLS, encoding="utf-8")
    importlib.reload(of_user_cells)
    assert ids(asked) == late


def test_errors_of_own_experiments_name_the_point(folder: Path, fields: dict[str, Any]) -> None:
    asked = {**fields, "experiment": "of_user_experiment:of_user", "options": {"fail": True}}
    with pytest.raises(ValueError, match=r"^point 1 \(seed: 0\): KeyError: 'no'$") as caught:
        mho.sweep(asked, out=folder / "run")
    assert isinstance(caught.value.__cause__, KeyError)


def test_code_without_a_source_needs_a_version(fields: dict[str, Any]) -> None:
    def made(**more: Any) -> type[ProgrammingModel]:
        text = CELLS.replace("from of_user_help import shift", "").replace(" + shift(g)", "")
        scope: dict[str, Any] = {"__name__": "of_nowhere"}
        exec(compile(text, "nowhere", "exec", dont_inherit=True), scope)
        for name, value in more.items():
            setattr(scope["Shifted"], name, value)
        return scope["Shifted"]

    with pytest.raises(ValueError, match=r"^of_nowhere.Shifted: has no source file, .* attribute `version") as caught:
        code_of([made()])
    assert "\n" not in str(caught.value)
    assert code_of([made(version=3)]) == {"of_nowhere:Shifted": "version 3"}


def test_sources_are_those_of_the_user(folder: Path) -> None:
    """Through relative imports and packages, and without what is installed."""
    package = folder / "of_user_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("import numpy, json, torch.nn\nfrom . import one\n", encoding="utf-8")
    (package / "one.py").write_text("from .inner import TWO\nfrom mho import Hardware\n", encoding="utf-8")
    (package / "inner" / "__init__.py").write_text("from ..three import TWO\n", encoding="utf-8")
    (package / "three.py").write_text("TWO = 2\n\ndef late():\n    import of_user_help\n", encoding="utf-8")
    (package / "unused.py").write_text("def (\n", encoding="utf-8")
    top = "of_user_package"
    wanted = {top, f"{top}.one", f"{top}.inner", f"{top}.three", "of_user_help"}
    assert set(sources(top)) == wanted
    before = digest(top)
    (package / "unused.py").write_text("", encoding="utf-8")
    assert digest(top) == before
    (folder / "of_user_help.py").write_text("", encoding="utf-8")
    assert digest(top) != before


def test_a_sweep_file_names_modules_beside_it(folder: Path, fields: dict[str, Any], tmp_path: Path) -> None:
    """The command, in a process of its own and elsewhere, with two workers."""
    asked = {**with_cells(folder, fields), "imports": ["of_user_cells"], "grid": {"seed": [0, 1]}}
    asked["experiment"] = "of_user_experiment:of_user"
    (folder / "sweep.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "mho", "sweep", str(folder / "sweep.yaml"), "--out", "run", "--jobs", "2"]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 results" in done.stdout
    assert "imports:\n- of_user_cells\n" in (tmp_path / "elsewhere" / "run" / "sweep.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of_nobody", r"imports: there is no module 'of_nobody' on PYTHONPATH or in .*\('of_nobody' is missing\)$"),
        ("of_user_nets.deeper", r"imports: there is no module 'of_user_nets.deeper' on"),
        ("of_user_broken", r"imports: module 'of_user_broken' does not load \(ZeroDivisionError: division by zero\)$"),
        ("of_user_needs", r"imports: module 'of_user_needs' does not load \(ModuleNotFoundError: No module named 'no_"),
        ("../of_user_nets", r"imports: a module must be named as package.module, got '../of_user_nets'$"),
        ("", "imports: a module must be named as package.module, got ''$"),
    ],
)
def test_modules_that_cannot_be_imported_are_one_line(
    folder: Path, fields: dict[str, Any], name: str, message: str
) -> None:
    (folder / "of_user_broken.py").write_text("1 / 0\n", encoding="utf-8")
    (folder / "of_user_needs.py").write_text("import no_such\n", encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**fields, "imports": [name]}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^sweep file .*sweep.yaml: {message}") as caught:
        Sweep.read(path)
    assert "\n" not in str(caught.value)

"""What a sweep is asked for: what identifies a task, what is refused, which files and numbers are read."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel
from sweeps_model import net, write_files

import mho
from mho.sweeps.file import Settings, Sweep, field_of, is_hardware
from mho.sweeps.run import joined
from mho.sweeps.search import Search
from mho.sweeps.tasks import tasks_of


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep of 24 tasks."""
    return write_files(tmp_path_factory.mktemp("files"))


def ids(fields: dict[str, Any], **changes: Any) -> list[str]:
    return [task.id for task in tasks_of(Sweep.read({**fields, **changes}))]


def one(fields: dict[str, Any], **changes: Any) -> str:
    return ids(fields, **{"grid": {}, "votes": 3, **changes})[0]


@pytest.mark.parametrize(
    "change",
    [
        {"votes": 4},
        {"copies": 2},
        {"rule": "soft"},
        {"vote_error": 0.1},
        {"seed": 1},
        {"images": 51},
        {"calibrate": 21},
        {"target_width": 0.1},
        {"model": "sweeps_model:random_net"},
        {"hardware": "reram"},
        {"grid": {"adc.bits": 7}},
        {"grid": {"cost.adc_rate": 1e8}},
        {"grid": {"time_s": 1.0}},
    ],
)
def test_what_changes_a_result_changes_the_id(fields: dict[str, Any], change: dict[str, Any]) -> None:
    assert one(fields, **change) != one(fields)


def test_what_changes_no_result_keeps_the_id(fields: dict[str, Any], tmp_path: Path) -> None:
    chip = mho.Hardware.load(fields["hardware"])
    said = {"name": "other", "description": "words", "sources": {"cell.g_min": "a book"}}
    chip.replace(said).save(tmp_path / "other.yaml")
    changes: list[dict[str, Any]] = [
        {"hardware": str(tmp_path / "other.yaml")},
        {"batch_size": 7},
        {"backend": "dask"},
        {"grid": {"votes": [3]}},
        {"points": [{"sensing.v_read": "200 mV"}]},
    ]
    assert {one(fields, **change) for change in changes} == {one(fields)}


def test_contents_count_not_names(fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copy.npz").write_bytes(Path(fields["data"]).read_bytes())
    assert one(fields, data=str(tmp_path / "copy.npz")) == one(fields)
    torch.save(net().state_dict(), tmp_path / "weights.pt")
    assert one(fields, weights=str(tmp_path / "weights.pt")) == one(fields)
    other = net()
    other[0].bias.data[0] += 1e-3  # type: ignore[index, operator, union-attr]
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    assert one(fields, weights=str(tmp_path / "weights.pt")) != one(fields)
    experiments = importlib.import_module("mho.sweeps.experiments").EXPERIMENTS
    before = one(fields)
    monkeypatch.setattr(experiments["accuracy"], "version", 99)
    assert one(fields) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {}, "target": 0.9}, r"has a field search, so it is a search: run it with mho optimize"),
        ({"imagse": 3}, "Sweep has no field imagse; its fields are model, "),
        ({"experiment": "speed"}, "experiment must be one of accuracy, voting, reduction, regression, got 'speed'"),
        ({"images": 0}, "sweep: images = 0: Input should be greater than or equal to 1"),
        ({"images": 401}, r"images must be at most 400, the images of .*, got 401"),
        ({"rule": "loud"}, "rule = 'loud': Input should be 'hard' or 'soft'"),
        ({"cluster": "tcp://127.0.0.1:1"}, "cluster: an address needs backend: dask or ray, got loky"),
        ({"grid": {"vote": [1]}}, "grid: there is no setting 'vote'; settings are model, "),
        ({"grid": {"votes": []}}, "grid: votes must have at least one value, got none"),
        ({"grid": [1]}, "grid: expected names and lists of values"),
        ({"points": [{"votes": 1}]}, r"points\[0\]: 'votes' stands in grid too; say it once"),
        ({"grid": {"seed": [0, 1], "adc.bit": [6]}}, r"point 1 \(seed: 0, adc.bit: 6\): .*Adc has no field bit;"),
        ({"grid": {"adcs.bits": [6]}}, r"point 1 \(adcs.bits: 6\): hardware has no field 'adcs.bits'"),
        ({"grid": {"votes": [4, 2], "copies": [3]}}, r"point 2 \(votes: 2, copies: 3\): copies must be at most votes"),
        ({"grid": {"hardware": ["reram"], "sensing.v_read": [0.1, 9]}}, r"point 2 .*v_read must be at most cell.v_max"),
        ({"grid": {"seed": [1, 2, 1]}}, r"point 3 \(seed: 1\): is the same task as point 1 \(seed: 1\); leave one out"),
        ({"grid": {"batch_size": [1, 2]}}, "is the same task as point 1"),
        ({"model": "mnist_cnn"}, "weights: mnist_cnn needs some"),
        ({"model": "mnist_cnn", "weights": "sigma"}, "weights of mnist_cnn must be one of add-sigma-0.0, "),
        ({"model": "cnn"}, "model must be one of .*mnist_cnn, .* or package.module:factory"),
    ],
)
def test_the_impossible_is_refused_before_anything_runs(
    fields: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mho.sweep({**fields, **change}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("[1", "not a YAML file"), ("- 1", "expected a mapping of fields, got list")]
)
def test_a_file_that_is_no_sweep(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        mho.sweep(tmp_path / "sweep.yaml", out=tmp_path / "run")
    with pytest.raises(ValueError, match="No such file"):
        mho.sweep(tmp_path / "none.yaml", out=tmp_path / "run")


def test_numbers_of_numpy_are_numbers(fields: dict[str, Any], tmp_path: Path) -> None:
    arrays = (np.array([0, 1]), torch.arange(2), pd.Series([0, 1]), [np.int64(0), np.uint8(1)], range(2))
    for seeds in arrays:
        asked = {"images": np.int64(7), "grid": {"sensing.v_read": np.array([0.1, 0.2]), "seed": seeds}}
        plain = {"images": 7, "grid": {"sensing.v_read": [0.1, 0.2], "seed": [0, 1]}}
        paths = {name: Path(fields[name]) for name in ("data", "hardware")}
        assert Sweep.read({**fields, **paths, **asked}).dump() == Sweep.read({**fields, **plain}).dump()
    few = {**fields, "grid": {"votes": np.array(2)}}
    assert list(mho.sweep(few, out=tmp_path, jobs=np.int64(2))["votes"]) == [2]
    for jobs, said in ((0, "jobs must be at least 1, got 0"), (2.0, r"jobs must be a whole number, got 2\.0")):
        with pytest.raises(ValueError, match=said):
            mho.sweep(few, out=tmp_path, jobs=jobs)  # type: ignore[arg-type]


def test_points_and_grid_combine(fields: dict[str, Any]) -> None:
    points = [{"sensing.v_read": 0.1, "votes": 4}, {"adc.bits": 6}]
    values = Sweep.read({**fields, "points": points, "grid": {"seed": [0, 1]}}).values
    assert values == [{**point, "seed": seed} for point in points for seed in (0, 1)]


DEFAULTS = {
    "tile.groups": ["apart", "diagonal"],
    "cell.stuck.word_lines": [0.0, 0.01],
    "wires.r_word_line": [0.0, 1.0],
    "adc.offset": [0.0, 0.5],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_that_is_asked_for_stands_in_the_table_and_can_be_searched(fields: dict[str, Any], name: str) -> None:
    values = DEFAULTS[name]
    tasks = tasks_of(Sweep.read({**fields, "grid": {name: values}}))
    assert [joined(task, [name], {})[name] for task in tasks] == values
    search = {key: value for key, value in fields.items() if key != "grid"} | {"search": {name: values}, "target": 0.5}
    assert Search.read(search).space()[name].values == values


@pytest.mark.parametrize("preset", ["ideal", "reram", "pcm", "nand"])
def test_every_field_of_the_hardware_is_found_by_its_name(preset: str) -> None:
    def walked(part: BaseModel, place: str = "") -> Iterator[tuple[str, Any]]:
        for name in type(part).model_fields:
            value = getattr(part, name)
            yield from walked(value, f"{place}{name}.") if isinstance(value, BaseModel) else [(place + name, value)]

    hardware = mho.Hardware.preset(preset)
    found = {name: value for name, value in walked(hardware) if is_hardware(name)}
    assert len(found) > 100
    for name, value in found.items():
        given = field_of(Settings.model_construct(), hardware, name)
        assert hardware.replace({name: given}) == hardware
        assert (given is None) == (value is None)

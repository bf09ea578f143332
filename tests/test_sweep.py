"""Sweeps: what identifies a task, what is refused, and that results are the same bits however they came about."""

import importlib
import multiprocessing
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from helpers import hardware
from sweeps_model import net, write_files, write_sweep

import mho
from mho.cli import app, run
from mho.crossbar.reader import Counts
from mho.mapping.architecture.decision import decision
from mho.mapping.voting.adaptive import adaptive_vote
from mho.mapping.voting.intervals import Accuracy
from mho.mapping.voting.votes import vote
from mho.sweeps.file import Sweep
from mho.sweeps.folder import SweepFolder
from mho.sweeps.run import planned
from mho.sweeps.tasks import groups_of, tasks_of

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep of 24 tasks."""
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def undisturbed(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """What it ends with in one process."""
    return mho.sweep(fields, out=tmp_path_factory.mktemp("undisturbed"))


def results(table: pd.DataFrame) -> pd.DataFrame:
    return table[[name for name in table if not name.endswith("_meta")]]


def test_a_row_is_what_map_and_vote_give(fields: dict[str, Any], undisturbed: pd.DataFrame) -> None:
    images, labels = mho.inputs.find_inputs(fields["data"])
    row = undisturbed.iloc[5]
    assert (row["sensing.v_read"], row["seed"], row["votes"]) == (0.05, 1, 4)
    chip = mho.map(
        net(), mho.Hardware.load(fields["hardware"]).replace({"sensing.v_read": 0.05}), calibrate=images[:20], seed=1
    )
    curve = vote(chip, images[:50], 4).accuracy_over_votes(labels[:50])
    assert (row["accuracy_1"], row["accuracy"], row["low"], row["high"]) == (
        curve[0],
        curve[3],
        curve[3].low,
        curve[3].high,
    )
    assert (row["accuracy_1_low"], row["accuracy_1_high"]) == (curve[0].low, curve[0].high)
    assert row["mean_reads_se"] == 0
    fresh = mho.map(net(), chip.hardware, calibrate=images[:20], seed=1)
    for layer in fresh.layers.values():
        layer.counter.counts = Counts()  # without those of the calibration
    fresh(images[:50])
    counts = [layer.counts for layer in fresh.layers.values()]
    assert row["dac_clipped"] == sum(c.inputs_clipped for c in counts) / sum(c.inputs for c in counts)
    assert row["adc_clipped"] == sum(c.readings_clipped for c in counts) / sum(c.readings for c in counts)
    energy = mho.mapping.architecture.cost.layer_costs(chip)
    assert row["array_energy_j"] == pytest.approx(energy["energy_array_j"].sum(), rel=1e-12)
    assert row["inference_energy_j"] == pytest.approx(energy["energy_j"].sum(), rel=1e-12)
    cost = decision(chip, 4)
    assert row["decision_energy_j"] == pytest.approx(cost.work_j, rel=1e-12)
    assert row["total_energy_j"] == pytest.approx(cost.energy_j, rel=1e-12)
    assert (row["latency_s"], row["area_m2"], row["mean_reads"]) == (cost.latency_s, cost.area_m2, 4)


@pytest.mark.parametrize("copies", [1, 2])
def test_adaptive_votes_are_a_setting(fields: dict[str, Any], tmp_path: Path, copies: int) -> None:
    grid = {"votes": [8, 20], "vote_error": [None, 0.05]}
    table = mho.sweep({**fields, "copies": copies, "grid": grid}, out=tmp_path / "run")
    assert len(groups_of(tasks_of(Sweep.read({**fields, "copies": copies, "grid": grid})))) == 1
    images, labels = mho.inputs.find_inputs(fields["data"])
    chip = mho.map(net(), mho.Hardware.load(fields["hardware"]), calibrate=images[:20])
    one, whole = decision(chip, copies, copies=copies), decision(chip, 20, copies=copies)
    found = mho.adaptive_vote(chip, images[:50], 20, error=0.05, copies=copies)
    fixed, row = table.iloc[2], table.iloc[3]
    assert (row["accuracy"], row["mean_reads"]) == (found.accuracy(labels[:50]), found.mean_reads)
    assert row["mean_reads_se"] == pytest.approx(float(found.reads.double().std() / 50**0.5), rel=1e-12)
    rounds = float(found.rounds.double().mean())
    assert row["latency_s"] == pytest.approx(rounds * one.latency_s, rel=1e-12)
    leaked = one.leakage_w * one.interval_s * rounds
    assert row["decision_energy_j"] == pytest.approx(found.energy_j(chip), rel=1e-12)
    assert row["total_energy_j"] == pytest.approx(found.energy_j(chip) + leaked, rel=1e-12)
    assert fixed["total_energy_j"] == pytest.approx(whole.energy_j, rel=1e-12)
    assert row["total_energy_j"] < fixed["total_energy_j"]
    assert row["accuracy_1"] == fixed["accuracy_1"]
    wide = mho.sweep(
        {**fields, "images": 25, "copies": copies, "votes": 20, "vote_error": 0.05, "target_width": 0.001, "grid": {}},
        out=tmp_path / "wide",
    )
    every = mho.adaptive_vote(chip, images, 20, error=0.05, copies=copies)
    assert (wide["pictures"][0], wide["accuracy"][0]) == (400, every.accuracy(labels))
    assert wide["mean_reads"][0] == every.mean_reads


def test_voting_gives_what_the_votes_give(fields: dict[str, Any], tmp_path: Path) -> None:
    images, labels = mho.inputs.find_inputs(fields["data"])
    asked = {**fields, "experiment": "voting", "grid": {"votes": 12, "copies": [1, 2]}, "batch_size": 20}
    table = mho.sweep(asked, out=tmp_path / "voting")
    chip = mho.map(net(), mho.Hardware.load(fields["hardware"]), calibrate=images[:20], seed=0)
    for copies, row in zip((1, 2), table.to_dict("records"), strict=True):
        voted = vote(chip, images[:50], 12, copies=copies)
        stopped = adaptive_vote(chip, images[:50], 12, copies=copies)
        assert (row["voted"], row["adaptive"]) == (voted.accuracy(labels[:50]), stopped.accuracy(labels[:50]))
        assert (row["single"], row["single_low"]) == (
            voted.accuracy_over_votes(labels[:50])[0],
            voted.accuracy_over_votes(labels[:50])[0].low,
        )
        assert (row["mean_reads"], row["capped"]) == (stopped.mean_reads, stopped.capped)
        assert row["mean_reads_se"] == pytest.approx(float(stopped.reads.double().std() / 50**0.5), rel=1e-12)
        assert row["adaptive_energy_j"] == pytest.approx(stopped.energy_j(chip), rel=1e-12)
    with pytest.raises(ValueError, match=r"target_width: experiment voting makes no use of it, leave it out, got 0\.1"):
        mho.sweep({**asked, "target_width": 0.1}, out=tmp_path / "width")


def test_a_reduction_is_beside_its_chip(fields: dict[str, Any], tmp_path: Path) -> None:
    images, labels = mho.inputs.find_inputs(fields["data"])
    row = mho.sweep({**fields, "experiment": "reduction", "grid": {"votes": 5}}, out=tmp_path / "out").iloc[0]
    chip = mho.map(net(), mho.Hardware.load(fields["hardware"]), calibrate=images[:20], seed=0)
    reduced = mho.reduce(chip, images[:20])
    for name, found in (("chip", chip), ("model", reduced.model())):
        curve = vote(found, images[:50], 5).accuracy_over_votes(labels[:50])
        assert (row[f"{name}_single"], row[f"{name}_voted"], row[f"{name}_voted_low"]) == (
            curve[0],
            curve[4],
            curve[4].low,
        )
    assert row["holds"] == reduced.holds
    assert row["layer"] in chip.layers
    power = reduced.table.pivot(index="layer", columns="part", values="rms") ** 2
    assert row["frozen"] == ((power["frozen"] + power["slow"]) / power["total"]).max()
    assert 0 < row["frozen_se"] < 0.05
    total = reduced.table[reduced.table["part"] == "total"]
    assert row["misfit"] == total[["misfit", "misfit_outputs"]].max(axis=None)
    assert 0 < row["misfit_se"] < 0.3


@pytest.mark.filterwarnings("ignore::mho.devices.data.ExtrapolationWarning")
def test_what_is_outside_the_data_is_a_column(fields: dict[str, Any], tmp_path: Path) -> None:
    """In the table and in its files, in the words of the report; an override of one layer counts."""
    mho.Hardware.preset("reram").replace({"layers": {"2": {"cell.g_max": 5e-5}}}).save(tmp_path / "layer.yaml")
    points = [{"cell.g_max": 4e-5}, {"cell.g_max": 3e-4}, {"hardware": str(tmp_path / "layer.yaml")}]
    small = {**fields, "images": 20, "hardware": "reram", "grid": {}, "points": points}
    table = mho.sweep(small, out=tmp_path / "out", csv=True)
    chip = mho.map(net(), mho.Hardware.preset("reram").replace({"cell.g_max": 3e-4}), calibrate=torch.rand(9, 16))
    inside, outside, layer = table["extrapolated"]
    assert inside == ""
    assert outside == "; ".join(chip.report().extrapolated)
    assert "cell.g_max = 0.0003 S is outside the data of cell.programming, 1e-06 to 4e-05 S" in outside
    assert "cell.g_max = 5e-05 S is outside the data" in layer
    for kept in (pd.read_parquet(tmp_path / "out" / "results.parquet"), pd.read_csv(tmp_path / "out" / "results.csv")):
        assert list(kept["extrapolated"].fillna("")) == [inside, outside, layer]


def test_rows_stand_in_the_order_of_the_sweep(fields: dict[str, Any], undisturbed: pd.DataFrame) -> None:
    grid = fields["grid"]
    asked = [(v, s, k) for v in (0.05, 0.1) for s in grid["seed"] for k in grid["votes"]]
    assert list(zip(*(undisturbed[name] for name in ("sensing.v_read", "seed", "votes")), strict=True)) == asked
    assert undisturbed.columns[0] == "task_id"
    assert undisturbed["task_id"].is_unique
    assert undisturbed["accuracy"].nunique() > 5  # the noise tells


def test_shared_reads_give_what_tasks_alone_give(
    fields: dict[str, Any], undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    few = {**fields, "grid": {"sensing.v_read": 0.05, "seed": 0, "votes": [2]}}
    alone = mho.sweep(few, out=tmp_path / "alone")
    pd.testing.assert_frame_equal(results(alone), results(undisturbed.iloc[[3]]).reset_index(drop=True))
    assert len(groups_of(tasks_of(Sweep.read(fields)))) == 6


def test_a_changed_sweep_reuses_what_matches(fields: dict[str, Any], tmp_path: Path) -> None:
    first = {**fields, "grid": {"seed": [0, 1], "votes": [1, 2]}}
    mho.sweep(first, out=tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    told: list[tuple[int, int]] = []
    changed = {**fields, "grid": {"votes": [2, 5], "seed": [1, 2]}}
    table = mho.sweep(changed, out=tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (3, 4), (4, 4)]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert list(table["votes"]) == [2, 2, 5, 5]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), table)
    again = Sweep.read(tmp_path / "sweep.yaml")
    assert again == Sweep.read(changed)


def test_an_interrupted_sweep_goes_on(fields: dict[str, Any], undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mho.sweep(fields, out=tmp_path, progress=stop)
    assert planned(fields, out=tmp_path)["done"].sum() == 12
    assert not (tmp_path / "results.parquet").exists()
    (tmp_path / "parts" / ".half.1.part").write_bytes(b"PAR1")
    pd.testing.assert_frame_equal(results(mho.sweep(fields, out=tmp_path)), results(undisturbed))
    assert not list((tmp_path / "parts").glob(".*"))


def test_two_processes_give_the_same_bits(
    fields: dict[str, Any], undisturbed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    table = mho.sweep({**fields, "batch_size": 17}, out=tmp_path, jobs=2)
    pd.testing.assert_frame_equal(results(table), results(undisturbed))
    assert multiprocessing.current_process().pid not in set(table["pid_meta"])


def test_killed_twice_and_finished(
    fields: dict[str, Any], undisturbed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE.parent / "benchmarks")
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    kill = importlib.import_module("kill_sweep")
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    rng, whole = random.Random(3), kill.results_of(undisturbed)  # killed as it starts, and after 10 of 24 tasks
    found = kill.kill_and_finish(path, tmp_path / "run", whole, kills=2, jobs=[2, 1], rng=rng, spread=0.05, fresh=1)
    assert (found.kills, found.lost, found.repeated) == (2, 0, 0)
    assert found.parts[-1] >= 10
    assert found.finished >= 1
    assert found.equal
    assert not kill.results_of(undisturbed.assign(accuracy=0.5)).equals(kill.results_of(undisturbed))


def test_a_folder_has_one_sweep_at_a_time(fields: dict[str, Any], tmp_path: Path) -> None:
    with (
        SweepFolder(tmp_path).locked(),
        pytest.raises(ValueError, match=r"is in use by another sweep \(process \d+ on"),
    ):
        mho.sweep(fields, out=tmp_path)


def test_other_folders_and_damaged_parts_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no folder of a sweep"):
        mho.sweep(fields, out=tmp_path)
    few = {**fields, "grid": {}}
    table = mho.sweep(few, out=tmp_path / "run")
    part = tmp_path / "run" / "parts" / f"{table['task_id'][0]}.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"\.parquet: damaged .*; delete it"):
        mho.sweep(few, out=tmp_path / "run")


def test_a_target_width_takes_as_many_pictures_as_it_needs(fields: dict[str, Any], tmp_path: Path) -> None:
    wide = {**fields, "grid": {"sensing.v_read": 0.05, "votes": [1, 9], "target_width": [0.2, 0.1, 1e-3]}}
    table = mho.sweep({**wide, "images": 20}, out=tmp_path)
    images, labels = mho.inputs.find_inputs(fields["data"])
    for row in table.itertuples():
        assert row.pictures in (20, 40, 80, 160, 320, 400)
        assert row.width <= row.target_width or row.pictures == 400
        chip = mho.map(net(), hardware(output_noise__sigma_add=0.3, sensing__v_read=0.05), calibrate=images[:20])
        curve = [
            Accuracy(int((vote(chip, images[:n], row.votes).classes == labels[:n]).sum()), n)
            for n in (20, 40, 80, 160, 320, 400)
        ]
        found = next((a for a in curve if a.high - a.low <= row.target_width), curve[-1])
        assert (row.accuracy, row.pictures, row.low) == (found, found.n, found.low)
    assert table["pictures"].nunique() > 2


def test_a_model_that_is_another_each_time_is_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"point 1 \(seed: 0\): model .* has other weights each time it is made"):
        mho.sweep({**fields, "model": "sweeps_model:random_net", "grid": {"seed": [0]}}, out=tmp_path)


def test_converters_without_bits_have_no_cost(fields: dict[str, Any], tmp_path: Path) -> None:
    points = [{"adc.bits": None, "adc.full_scale": None}, {"adc.bits": 8}]
    table = mho.sweep({**fields, "grid": {"votes": 2}, "points": points}, out=tmp_path, csv=True)
    assert list(table["decision_energy_j"].isna()) == [True, False]
    assert list(table["adc.bits"].isna()) == [True, False]
    assert list(table["adc_clipped"].isna()) == [True, False]
    assert len(pd.read_csv(tmp_path / "results.csv")) == 2


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(HERE)
    path = str(write_sweep(tmp_path, grid={"votes": [1, 2]}))
    out = tmp_path / "run"
    assert run(app, ["sweep", path, "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()
    assert "2 tasks, 0 of them done" in capsys.readouterr().out
    assert run(app, ["sweep", path, "--out", str(out), "--csv"]) == 0
    assert "2 results in" in capsys.readouterr().out
    assert run(app, ["sweep", path, "--out", str(out), "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert "2 tasks, 2 of them done" in listed
    assert "point 2 (votes: 2)" in listed
    assert {p.name for p in out.iterdir()} == {
        ".lock", "hardware.yaml", "parts", "results.csv", "results.parquet", "sweep.yaml",
    }  # fmt: skip
    assert set(yaml.safe_load((out / "hardware.yaml").read_text())) == {str(tmp_path / "chip.yaml")}

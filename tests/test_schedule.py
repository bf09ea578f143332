"""The event simulation of the pipeline against its closed forms, and what no schedule may break."""

import importlib.util
import math
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mho.mapping.architecture.chain import Stages
from mho.mapping.architecture.closed_forms import overhead, pipelined, sequential
from mho.mapping.architecture.schedule import schedule

seconds = st.floats(1e-9, 1e3)
pipelines = st.lists(seconds, min_size=1, max_size=8)
votes = st.integers(1, 12)
inputs = st.integers(1, 4)
voters = st.none() | seconds


@pytest.mark.parametrize("depth", [1, 2, 6, 40])
@pytest.mark.parametrize("k", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("t", [1.0, 0.1, 1e-7 / 3])
def test_equal_stages_take_l_plus_k(depth: int, k: int, t: float) -> None:
    stages = [t] * depth
    assert schedule(stages=stages, votes=k, voter=t).makespan_s == (depth + k) * t
    assert schedule(stages=stages, votes=k).makespan_s == (depth + k - 1) * t
    assert sequential(stages, k) == pytest.approx(k * depth * t, rel=1e-15)
    assert overhead(stages, k, voter=t) == k / depth


@given(stages=pipelines, k=votes, n=inputs, voter=voters)
def test_simulation_equals_closed_form(stages: list[float], k: int, n: int, voter: float | None) -> None:
    run = schedule(stages=stages, votes=k, inputs=n, voter=voter)
    assert run.makespan_s == pipelined(stages, k, voter, inputs=n)
    assert run.first_latency_s == pipelined(stages, k, voter)
    whole_network = schedule(stages=[math.fsum(stages)], votes=k, inputs=n, voter=voter)
    assert whole_network.makespan_s == pytest.approx(sequential(stages, k, voter, inputs=n), rel=1e-12)


@given(stages=pipelines, k=votes, n=inputs, voter=voters)
def test_no_job_is_lost_and_order_is_kept(stages: list[float], k: int, n: int, voter: float | None) -> None:
    run = schedule(stages=stages, votes=k, inputs=n, voter=voter)
    services = [*stages, *([] if voter is None else [voter])]
    assert len(run.events) == len(services) * n * k
    before = np.zeros(n * k)
    for name, service in zip(run.names, services, strict=True):
        mine = run.events[run.events["stage"] == name].sort_values("job")
        assert mine["job"].tolist() == list(range(n * k))
        assert (mine["job"] == mine["input"] * k + mine["vote"]).all()
        start, end = mine["start_s"].to_numpy(), mine["end_s"].to_numpy()
        assert np.allclose(end - start, service, rtol=0, atol=1e-15 * run.makespan_s)
        assert (start >= before).all()
        assert (start[1:] >= end[:-1]).all()
        before = end
    assert run.events["end_s"].max() == run.makespan_s


@given(stages=pipelines, k=votes, n=inputs, voter=voters)
def test_makespan_lies_between_its_bounds(stages: list[float], k: int, n: int, voter: float | None) -> None:
    run = schedule(stages=stages, votes=k, inputs=n, voter=voter)
    busiest = n * k * max(run.service_s)
    assert busiest * (1 - 1e-12) <= run.makespan_s <= n * k * sum(run.service_s) * (1 + 1e-12)
    assert all(0 < share <= 1 + 1e-12 for share in run.utilisation.values())
    assert run.utilisation[run.bottleneck] == max(run.utilisation.values())
    assert run.throughput * run.decision_interval_s == pytest.approx(1)


def test_decisions_leave_one_interval_apart() -> None:
    run = schedule(stages=[2.0, 5.0, 1.0], votes=3, inputs=4, voter=0.5)
    last = run.events[(run.events["stage"] == "voter") & (run.events["vote"] == 2)]["end_s"]
    assert np.diff(last).tolist() == [run.decision_interval_s] * 3 == [15.0] * 3
    assert run.bottleneck == "stage 2"
    assert run.utilisation["stage 2"] == 12 * 5.0 / run.makespan_s


def test_a_wrong_form_is_told_apart() -> None:
    """Negative control: without the voter's stage, or with the mean for the slowest stage, the form does not fit."""
    stages = [1.0, 2.0, 4.0]
    run = schedule(stages=stages, votes=5, voter=1.0)
    assert run.makespan_s != pipelined(stages, 5)
    assert run.makespan_s != sum(stages) + 1 + 4 * sum(stages) / 3


def test_gantt_is_written(tmp_path: Path) -> None:
    run = schedule(stages=Stages([1e-6, 2e-6], names=["conv", "fc"]), votes=3, inputs=2, voter=1e-6)
    figure = run.gantt(tmp_path / "gantt.png")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv", "fc", "voter"]
    assert sum(len(bars.get_paths()) for bars in axes.collections) == len(run.events)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a chip or stages"),
        ({"chip": SimpleNamespace(layers={}), "stages": [1.0]}, "give a chip or stages"),
        ({"chip": SimpleNamespace(layers={}), "stages": Stages([1.0])}, "give a chip or stages"),
        ({"stages": []}, "at least one stage"),
        ({"stages": [1.0, 0.0]}, r"stages\[1\]: .* got 0.0"),
        ({"stages": [-1.0]}, r"stages\[0\]: .* got -1.0"),
        ({"stages": [math.nan]}, r"stages\[0\]: .* got nan"),
        ({"stages": [math.inf]}, r"stages\[0\]: .* got inf"),
        ({"stages": ["fast"]}, r"stages\[0\]: .* got 'fast'"),
        ({"stages": [1.0], "voter": 0}, "voter: .* got 0"),
        ({"stages": [1.0], "votes": 0}, "votes: .* got 0"),
        ({"stages": [1.0], "votes": 2.5}, "votes: .* got 2.5"),
        ({"stages": [1.0], "votes": True}, "votes: .* got True"),
        ({"stages": [1.0], "inputs": -1}, "inputs: .* got -1"),
        ({"stages": Stages([1.0, 1.0], ["a", "a"])}, "a name of its own"),
        ({"stages": Stages([1.0], ["voter"]), "voter": 1.0}, "a name of its own"),
        ({"stages": [1.0], "buffers": 0}, "buffers: a whole number of at least 1, got 0"),
        ({"stages": [1.0], "copies": 0}, "copies: .* got 0"),
        ({"stages": [1.0], "replicas": {"stage 1": 0}}, r"replicas\['stage 1'\]: .* got 0"),
        ({"stages": [1.0], "replicas": {"conv": 2}}, "replicas: 'conv' is none of the stages stage 1"),
        ({"stages": [1.0], "line_buffers": True}, "line_buffers: only a chip"),
        ({"stages": Stages([1.0], ["fc"]), "replicas": {"conv": 2}}, "replicas: 'conv' is none of the stages fc"),
    ],
)
def test_bad_plans_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": []}, "^stages: a pipeline needs at least one stage, got none$"),
        ({"times": [1.0, -1.0]}, r"stages\[1\]: .* got -1.0$"),
        ({"times": [1.0], "names": ["a", "b"]}, "^names: 2 names for 1 stages$"),
        ({"times": [1.0, 1.0], "names": []}, "^names: 0 names for 2 stages$"),
        ({"times": [1.0, 1.0], "links": [(1, 0)]}, r"links: .* got \(1, 0\)"),
        ({"times": [1.0, 1.0], "links": [(0, 2)]}, r"links: .* got \(0, 2\)"),
        ({"times": [1.0], "steps": 0}, "steps: .* got 0"),
        ({"times": [1.0], "steps": True}, "steps: .* got True"),
        ({"times": [1.0, 1.0], "steps": 2, "links": [(0, 1)]}, "steps: a sequence goes through a chain"),
    ],
)
def test_bad_stages_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stages(**arguments)


def test_stages_without_more_are_their_times() -> None:
    plain, named = schedule(stages=[1.0, 2.0], votes=3), schedule(stages=Stages([1.0, 2.0]), votes=3)
    assert plain.events.equals(named.events)
    assert named.names == ("stage 1", "stage 2")
    split = schedule(stages=Stages([1.0, 1.0, 1.0], links=[]))  # nothing waits for anything
    assert split.makespan_s == 1.0


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "latency_power.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("latency_power", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_benchmark_writes_the_abstract_table(benchmark_script: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "lp"
    for votes in ("1,20", "1,20,50"):  # a second run takes the first one's place
        assert benchmark_script.main(["--abstract-only", "--out", str(out), "--votes", votes]) == 0
    table = pd.read_csv(out / "abstract.csv")
    pd.testing.assert_frame_equal(table, pd.read_parquet(out / "abstract.parquet"), rtol=1e-14)  # pandas 2 rounds
    row = table[(table["depth"] == 40) & (table["votes"] == 20)].iloc[0]
    assert (row["sequential_T"], row["pipelined_T"], row["overhead"]) == (800, 60, 0.5)
    loop = pd.read_csv(out / "recurrent.csv").set_index("votes").loc[20]
    assert loop["one_after_the_other_T"] == 20 * 2 * 28
    assert loop["interleaved_T"] == 20 * 28 + 1
    assert (out / "latency_abstract.png").stat().st_size > 0
    ticks = benchmark_script.figures.abstract(table).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["1", "20", "50"]  # and no powers of ten
    assert [path.name for path in out.parent.iterdir()] == ["lp"]


def test_benchmark_writes_every_table_of_a_chip(
    benchmark_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_script, "VOLTAGES", (0.5, 1.0))
    layers = {"conv": nn.Conv2d(1, 2, 3), "relu": nn.ReLU(), "flatten": nn.Flatten(), "fc": nn.Linear(2 * 16, 3)}
    net = nn.Sequential(OrderedDict(layers))
    tiny = benchmark_script.Network(
        lambda: net,
        lambda: torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)),
    )
    monkeypatch.setitem(benchmark_script.NETWORKS, "tiny", tiny)
    arguments = ["--networks", "tiny", "--presets", "reram", "--votes", "1,4", "--out", str(tmp_path / "lp")]
    assert benchmark_script.main([*arguments, "--ways", "4"]) == 0
    tables = {name: pd.read_csv(tmp_path / "lp" / f"{name}.csv") for name in ("layers", "votes", "ways", "voltage")}
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "lp" / f"{name}.parquet"), rtol=1e-14)
    one, four = tables["votes"].to_dict("records")
    assert four["energy_j"] == pytest.approx(4 * one["energy_j"])
    assert one["pipelined_s"] < four["pipelined_s"] < four["sequential_s"]
    assert four["copies_s"] == pytest.approx(one["pipelined_s"])
    low, high = tables["voltage"].to_dict("records")
    assert high["power_array_w"] == pytest.approx(4 * low["power_array_w"])
    assert high["power_rest_w"] == pytest.approx(low["power_rest_w"])
    assert {"gantt_tiny_reram.png", "gantt_tiny_reram_lines.json", "voltage.png"} <= {
        path.name for path in (tmp_path / "lp").iterdir()
    }
    with pytest.raises(SystemExit):
        benchmark_script.parse(["--networks", "mnist_cnn,other"])


def test_benchmark_leaves_nothing_half_written(
    benchmark_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(benchmark_script, "map_network", fail)
    assert benchmark_script.main(["--out", str(tmp_path / "lp"), "--votes", "1"]) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis.tex").write_text("years of work")
    assert benchmark_script.main(["--abstract-only", "--out", str(tmp_path)]) == 2
    assert (tmp_path / "thesis.tex").exists()

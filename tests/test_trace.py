"""The graph of a chip as it is recorded from an inference, and schedules of branches, pictures and sequences."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hardware
from torch import nn

import mho
from mho.cli import app, run
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.schedule import schedule
from mho.mapping.trace import Call


class Residual(nn.Module):
    """conv1, then two convolutions with a short cut around them, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).relu()
        y = self.conv3(torch.relu(self.conv2(x)))
        y += x
        return self.fc(nn.functional.max_pool2d(y, 2).flatten(1))


class Dense(nn.Module):
    """Each convolution takes what all before it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 + 2 * n, 2, 3, padding=1) for n in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = torch.cat([x, torch.relu(conv(x))], dim=1)
        return x.mean((2, 3))


class Recurrent(nn.Module):
    """A plain recurrent layer with two matrices, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)
        self.hidden = nn.Linear(5, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.ones(len(x), 5)
        for step in range(x.shape[1]):
            state = torch.tanh(self.inner(x[:, step]) + self.hidden(state))
        return self.out(state)


def chip_of(model: nn.Module, *shape: int, **fields: Any) -> mho.Chip:
    torch.manual_seed(0)
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    return mho.map(model, hardware(**fields), calibrate=x)


def links(calls: list[Call]) -> set[tuple[str, str]]:
    names = [call.layer if not call.digital else f"{call.layer}|{'+'.join(call.digital)}" for call in calls]
    return {(names[before], name) for name, call in zip(names, calls, strict=True) for before in call.after}


@pytest.fixture(scope="module")
def residual() -> mho.Chip:
    return chip_of(Residual(), 1, 8, 8)


def test_residual_connections_are_branches(residual: mho.Chip) -> None:
    assert links(residual.trace) == {
        ("conv1", "conv1|relu"),
        ("conv1|relu", "conv2"),
        ("conv2", "conv2|relu"),
        ("conv2|relu", "conv3"),
        ("conv3", "conv3|add_+max_pool2d"),
        ("conv1|relu", "conv3|add_+max_pool2d"),
        ("conv3|add_+max_pool2d", "fc"),
    }
    by_name = {call.layer: call for call in residual.trace if not call.digital}
    assert by_name["conv2"].positions == 64
    assert by_name["conv2"].needs == (1, 2, 3, 4, 5, 6, 7, 7)
    assert by_name["fc"].positions == 1
    assert by_name["fc"].values == 64
    (joined,) = (call for call in residual.trace if "add_" in call.digital)
    assert joined.work == 2 * 4 * 64  # the sum, and the pictures that are pooled
    assert joined.needs == (1, 3, 5, 7)


def test_folded_batch_norms_lose_no_link() -> None:
    first = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)
    chip = chip_of(nn.Sequential(*first, nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU()).eval(), 1, 8, 8)
    assert "folded" in str(chip.report())
    assert links(chip.trace) == {("0", "0|relu"), ("0|relu", "4"), ("4", "6"), ("6", "6|relu")}


def test_dense_connections_reach_every_later_layer() -> None:
    calls = chip_of(Dense(), 2, 6, 6).trace
    assert [call.layer for call in calls if not call.digital] == ["convs.0", "convs.1", "convs.2"]
    assert calls[4].after == (1, 3)
    assert calls[-1].digital == ("relu", "mean")
    assert calls[-1].after == (1, 3, 4)
    assert calls[-1].needs == (5,)  # a mean needs the whole picture


def test_a_chain_of_the_layers_would_take_longer_or_lose_a_link(residual: mho.Chip) -> None:
    plan = schedule(residual, votes=3, inputs=2, voter=1e-7)
    assert plan.names == (
        *("conv1", "conv1.digital", "conv2", "conv2.digital", "conv3", "conv3.digital", "fc"),
        "voter",
    )
    ends = plan.events.pivot(index="job", columns="stage", values="left_s")
    starts = plan.events.pivot(index="job", columns="stage", values="start_s")
    for before, after in [("conv1.digital", "conv3.digital"), ("conv3", "conv3.digital"), ("conv3.digital", "fc")]:
        assert (starts[after] >= ends[before]).all()
    assert plan.makespan_s == ends["voter"].max()


def test_rows_flow_on_with_line_buffers(residual: mho.Chip) -> None:
    whole, rows = (schedule(residual, votes=2, line_buffers=flag) for flag in (False, True))
    assert rows.first_latency_s < 0.7 * whole.first_latency_s
    assert rows.decision_interval_s == pytest.approx(whole.decision_interval_s)
    events = rows.events[rows.events["job"] == 1].set_index(["stage", "step"])
    for row in range(7):  # a row of 3 x 3 windows needs the row below it
        assert events.loc[("conv2", row), "start_s"] >= events.loc[("conv1.digital", row + 1), "left_s"]
    assert events.loc[("conv2", 0), "start_s"] < events.loc[("conv1", 7), "end_s"]
    assert events.loc[("fc", 0), "start_s"] >= events.loc[("conv3.digital", 3), "left_s"]
    for buffers in (1, 2):
        tight = schedule(residual, votes=4, line_buffers=True, buffers=buffers)
        assert len(tight.events) == 2 * len(rows.events)


def test_replicas_share_the_positions(residual: mho.Chip) -> None:
    one = schedule(residual, votes=4)
    four = schedule(residual, votes=4, replicas={"conv1": 4, "conv2": 4, "conv3": 4, "fc": 2})
    read = layer_costs(residual).set_index("layer").loc["conv1", "read_interval_s"]
    assert one.service_s[0] - four.service_s[0] == pytest.approx(48 * read)
    assert four.servers == (1, 1, 1, 1, 1, 1, 2)
    assert four.makespan_s < one.makespan_s
    with pytest.raises(ValueError, match=r"replicas: 'conv9' is no layer on tiles; those are conv1, conv2, conv3, fc"):
        schedule(residual, replicas={"conv9": 2})


@pytest.fixture(scope="module")
def recurrent() -> mho.Chip:
    return chip_of(Recurrent(), 6, 3, cost__digital_rate="50 MHz")  # gates about as slow as the matrix


def test_steps_wait_for_each_other_and_votes_interleave(recurrent: mho.Chip) -> None:
    assert [call.layer for call in recurrent.trace if not call.digital].count("hidden") == 6
    one, turns, mixed = (schedule(recurrent, votes=k, buffers=b) for k, b in ((1, None), (8, 1), (8, None)))
    hidden = one.events[one.events["stage"] == "hidden"]
    gates = one.events[one.events["stage"].str.endswith(".digital")]
    assert (hidden["start_s"].to_numpy()[1:] >= gates["left_s"].to_numpy()[:-1]).all()
    loop = one.events["stage"].isin(["hidden", "hidden.digital"])
    span = one.events[loop]["end_s"].max() - one.events[loop]["start_s"].min()
    assert turns.makespan_s > 7 * span  # one sequence after the other
    assert mixed.makespan_s < 0.75 * turns.makespan_s
    assert mixed.utilisation["hidden"] > 0.8
    assert turns.utilisation["hidden"] < 0.7


def test_a_saved_chip_keeps_its_graph(residual: mho.Chip, tmp_path: Path) -> None:
    residual.save(tmp_path / "chip")
    again = mho.load(tmp_path / "chip", model=Residual())
    assert again.trace == residual.trace
    assert schedule(again, votes=2).makespan_s == schedule(residual, votes=2).makespan_s


def test_the_command_schedules_a_saved_chip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    chip = chip_of(net, 1, 6, 6)
    chip.save(tmp_path / "chip")
    files = [tmp_path / "gantt.png", tmp_path / "trace.json"]
    arguments = ["schedule", str(tmp_path / "chip"), "--votes", "4", "--line-buffers"]
    assert run(app, [*arguments, "--gantt", str(files[0]), "--trace", str(files[1])]) == 0
    shown = capsys.readouterr().out
    assert f"makespan          {schedule(chip, votes=4, line_buffers=True).makespan_s:.6g} s" in shown
    assert f"energy            {decision(chip, 4).work_j:.4g} J a decision (dac " in shown
    assert all(file.stat().st_size for file in files)
    assert run(app, [*arguments, "--replica", "0=3", "--programmed-for", "100"]) == 0
    shown = capsys.readouterr().out
    cost = decision(chip, 4, replicas={"0": 3}, line_buffers=True, programmed_for=100)
    assert f"area              {1e6 * cost.area_m2:.4g} mm2" in shown
    assert f"programming       {cost.programming_j:.4g} J a decision, of 100 until the next time" in shown


def test_the_graph_does_not_depend_on_the_batch() -> None:
    model = Residual()
    many, few = (
        mho.map(model, hardware(), calibrate=torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        for n in (7, 1)
    )
    assert many.trace == few.trace
    copy = many.copy(1)
    assert copy.trace == many.trace


def test_a_chip_that_has_seen_no_input_is_refused() -> None:
    fixed = hardware(dac__bits=None, dac__range=None, adc__bits=None, adc__full_scale=None)
    with pytest.raises(ValueError, match="calibrate="):
        schedule(mho.map(Residual(), fixed))

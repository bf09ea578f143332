"""What results, costs, hardware and reports show when they are printed: a few lines that say what matters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mho
from mho.devices.budget import budget
from mho.mapping.architecture.decision import decision
from mho.mapping.architecture.replication import replicate

X = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def chip() -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    return mho.map(net, mho.Hardware.preset("reram"), calibrate=X)


def test_votes(chip: mho.Chip) -> None:
    assert str(mho.vote(chip, X, 4)) == "30 samples, 4 inferences of each, hard votes: see accuracy(labels)"
    assert "of each on 2 chips, soft votes" in str(mho.vote(chip, X, 4, copies=2, rule="soft"))
    assert str(mho.vote(chip, X, 4, rule="mean")).endswith(", means: see rmse(labels)")
    found = mho.adaptive_vote(chip, X, k=9)
    mean = f"{found.mean_reads:.3g}"
    assert (
        str(found) == f"30 samples, 9 inferences of each at most ({mean} on average), hard votes: see accuracy(labels)"
    )
    labelled = DataLoader(TensorDataset(X, torch.zeros(30, dtype=torch.long)), 10)
    assert str(mho.vote(chip, labelled, 1)) == "30 samples, 1 inference of each, hard votes: see accuracy()"


def test_costs_and_schedules(chip: mho.Chip) -> None:
    replicas = replicate(chip, tiles=3, votes=3, goal="latency")
    found: list[Any] = [decision(chip, 3), mho.schedule(chip, votes=3), replicas]
    shown = [str(one).splitlines() for one in found]
    assert all(len(line) < 60 for lines in shown for line in lines)
    assert "votes                 3" in shown[0]
    assert any(line.startswith("busiest stage") for line in shown[1])
    assert shown[2][-1] == "replicas       0 2, 2 1"


def test_replicas_that_are_no_numbers_by_name(chip: mho.Chip) -> None:
    found: Any = replicate(chip, tiles=3, votes=3, goal="latency")
    assert mho.schedule(chip, replicas=found.replicas).servers[0] == 2
    for call in (mho.schedule, decision):
        with pytest.raises(ValueError, match=r"replicas: expected numbers by name, .* got Replication$"):
            call(chip, replicas=found)


def test_a_budget() -> None:
    hardware = mho.Hardware.preset("reram")
    lines = str(budget([20e-6] * 64, [0.5] * 64, hardware.cell, hardware.sensing, [0.1, 0.2])).splitlines()
    assert lines[0].split() == ["v_read", "(V)", "0.1", "0.2"]
    assert len(lines) == 16
    assert len({len(line) for line in lines}) == 1


def test_hardware_is_the_yaml_of_what_is_set() -> None:
    hardware = mho.Hardware.paper(sigma_mult=0.5)
    assert "output_noise:\n  sigma_mult: 0.5" in str(hardware)
    assert "nothing is noisy" not in str(hardware)
    assert mho.Hardware.parse(str(hardware), "here") == hardware


def test_a_report_says_how_old_the_cells_are(chip: mho.Chip) -> None:
    assert chip.report().title == "reram, seed 0"
    assert chip.at(3600.0).report().title == "reram, seed 0, 3600 s after programming"


def test_places_that_a_report_cannot_show_or_be_written_to(chip: mho.Chip, tmp_path: Any) -> None:
    for places in (["0:0"], "0", [("0",)], [0]):
        with pytest.raises(ValueError, match=r"^tiles: expected pairs of a layer and a number, as .*, got "):
            chip.report().save(tmp_path / "a.html", tiles=places)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")) as error:
        chip.report().save(tmp_path / "none" / "a.html")
    assert ".part" not in str(error.value)


def test_a_kind_without_its_fields() -> None:
    with pytest.raises(ValueError, match=r"cell.read_noise = 0.02: expected a kind and its fields, .* one of none, "):
        mho.Hardware.preset("reram").replace({"cell.read_noise": 0.02})

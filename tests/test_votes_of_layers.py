"""Votes that read some layers again: their bits, their schedule, and what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mho
from mho.mapping.architecture.decision import decision

NOISY = mho.Hardware.preset("reram").replace({"sensing.v_read": 0.005})


class Branches(nn.Module):
    """Two paths from one layer, of which one passes `side`; what they give is added up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.main, self.side = nn.Linear(12, 9), nn.Linear(9, 8), nn.Linear(9, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x).relu_()
        return self.head(self.main(h).add_(self.side(h)).relu_())


@pytest.fixture(scope="module")
def branches() -> tuple[mho.Chip, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.rand(12, 12)
    return mho.map(Branches().eval(), NOISY, calibrate=x, seed=2), x


def by_hand(chip: mho.Chip, x: torch.Tensor, number: int, again: str) -> torch.Tensor:
    """Scores of the inference of a number that reads these layers again; the others are those of inference 0."""
    layers = chip.layers

    def read(name: str, given: torch.Tensor) -> torch.Tensor:
        run = mho.mapping.inference.Read(number if name in again else 0, samples=len(x))
        return chip.session.within(run, lambda: layers[name](given))

    h = read("stem", x).relu()
    return read("head", (read("main", h) + read("side", h)).relu())


def test_only_the_layers_and_what_comes_after_them_are_read_again(branches):
    chip, x = branches
    found = mho.vote(chip, x, 4, layers="side")
    scores = torch.stack([by_hand(chip, x, number, "side head") for number in range(4)])
    assert torch.equal(found.counts, nn.functional.one_hot(scores.argmax(-1), 5).sum(0))
    assert torch.allclose(found.softmax, scores.softmax(-1).mean(0), atol=1e-6)
    whole = torch.stack([by_hand(chip, x, number, "stem main side head") for number in range(4)])
    assert not torch.equal(scores[1:], whole[1:])
    assert torch.equal(mho.vote(chip, x, 4).softmax, whole.double().softmax(-1).mean(0).float())


def test_all_layers_are_whole_votes_and_batches_change_nothing(branches):
    chip, x = branches
    assert (
        mho.vote(chip, x, 5, layers=list(chip.layers)) == mho.vote(chip, x, 5) == mho.vote(chip, x, 5, layers=["stem"])
    )
    for how in ({}, {"copies": 2}, {"rule": "mean"}):
        whole = mho.vote(chip, x, 5, layers=["head"], **how)
        assert whole == mho.vote(chip, x, 5, layers=["head"], batch_size=5, **how)
    apart = [mho.vote(chip, x[k : k + 4], 5, layers="head", first_sample=k).softmax for k in (0, 4, 8)]
    assert torch.equal(torch.cat(apart), mho.vote(chip, x, 5, layers="head").softmax)


def test_conversions_are_those_that_are_made(branches):
    chip, x = branches
    before = {name: layer.counts.readings for name, layer in chip.layers.items()}
    mho.vote(chip, x, 6, layers="side")
    made = {name: layer.counts.readings - before[name] for name, layer in chip.layers.items()}
    assert made == {"stem": 12 * 9, "main": 12 * 8, "side": 6 * 12 * 8, "head": 6 * 12 * 5}


def test_steps_of_a_recurrent_layer_are_held_or_read_again():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(x)[0][:, -1])

    torch.manual_seed(1)
    x = torch.rand(6, 7, 4)
    chip = mho.map(Last().eval(), NOISY, calibrate=x)
    inner = [name for name in chip.layers if name != "out"]
    assert mho.vote(chip, x, 3, layers=inner) == mho.vote(chip, x, 3)
    counts = [[layer.counts.readings for layer in chip.layers.values()]]
    for ask in (lambda: chip.read(x, read=0), lambda: mho.vote(chip, x, 8, layers="out", rule="mean")):
        found = ask()
        counts.append([layer.counts.readings for layer in chip.layers.values()])
    once, voted = np.diff(np.array(counts), axis=0).tolist()
    assert voted == [made * (8 if name == "out" else 1) for name, made in zip(chip.layers, once, strict=True)]
    assert (found.std > 0).all()
    assert found == mho.vote(chip, x, 8, layers="out", rule="mean", batch_size=2)


def test_a_model_with_random_numbers_of_its_own_is_refused():
    class Dice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x + torch.rand(1)))

    x = torch.rand(5, 4)
    chip = mho.map(Dice().eval(), NOISY, calibrate=x, strict=False)
    with pytest.raises(mho.mapping.errors.MappingError, match="layer 'a': its input differs from one inference"):
        mho.vote(chip, x, 3, layers=["b"])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "must name at least one layer on tiles, got none"),
        ("haed", "'haed' is no layer on tiles of this chip; some are head"),
        (["head", "x"], "'x' is no layer on tiles"),
        (3, r"must be names of layers on tiles, as \['head'\], got 3"),
    ],
)
def test_what_is_no_layer_is_refused(branches, layers, message):
    chip, x = branches
    for ask in (lambda: mho.vote(chip, x, 2, layers=layers), lambda: mho.schedule(chip, votes=2, layers=layers)):
        with pytest.raises(ValueError, match=f"layers:? .*{message}|layers {message}"):
            ask()


def test_the_schedule_reads_the_others_once(branches):
    chip, _ = branches
    once, all_of_it = mho.schedule(chip), mho.schedule(chip, votes=8)
    run = mho.schedule(chip, votes=8, inputs=3, layers="head")
    counts = run.events.groupby("stage").size()
    assert (counts["stem"], counts["main"], counts["side"], counts["head"]) == (3, 3, 3, 24)
    assert sorted(set(run.events.loc[run.events["stage"] == "head", "vote"])) == list(range(8))
    head = dict(zip(once.names, once.service_s, strict=True))["head"]
    assert run.first_latency_s == pytest.approx(once.makespan_s + 7 * head, rel=1e-12)
    assert run.decision_interval_s == pytest.approx(max(8 * head, *once.service_s), rel=1e-12)
    assert run.first_latency_s <= all_of_it.first_latency_s
    same = mho.schedule(chip, votes=8, layers=list(chip.layers))
    assert (same.makespan_s, same.utilisation) == (all_of_it.makespan_s, all_of_it.utilisation)


def test_a_decision_pays_for_what_is_read(branches):
    chip, _ = branches
    one, all_of_it, found = decision(chip, 1), decision(chip, 8), decision(chip, 8, layers="head")
    table = mho.mapping.architecture.cost.layer_costs(chip).set_index("layer")
    assert found.work_j == pytest.approx(one.work_j + 7 * table.loc["head", "energy_j"], rel=1e-12)
    assert found.operations == one.operations + 7 * table.loc["head", "operations"]
    assert found.area_m2 == one.area_m2
    assert decision(chip, 8, layers="stem").energy == pytest.approx(all_of_it.energy, rel=1e-12)
    spread = decision(chip, 8, copies=4, layers="head")
    assert spread.work_j == pytest.approx(4 * one.work_j + 4 * table.loc["head", "energy_j"], rel=1e-12)


def test_what_does_not_go_together_is_refused(branches):
    chip, _ = branches
    with pytest.raises(ValueError, match="buffers: how long a result is held"):
        mho.schedule(chip, votes=2, layers="head", buffers=1)
    with pytest.raises(ValueError, match="layers: only a chip has layers on tiles"):
        mho.schedule(stages=[1.0], layers="head")


def test_a_sweep_over_layers(tmp_path: Any):
    asked = {
        "model": "mnist_cnn", "weights": "sigma-0.0", "images": 20, "calibrate": 10, "hardware": "reram", "votes": 5,
        "experiment": "accuracy", "grid": {"layers": [None, ["fc2"]]},
    }  # fmt: skip
    table = mho.sweep(asked, out=tmp_path / "runs")
    assert table["accuracy_1"][0] == table["accuracy_1"][1]
    assert table["decision_energy_j"][1] < 0.3 * table["decision_energy_j"][0]
    for fields, message in (
        ({"experiment": "voting"}, "layers: experiment voting makes no use of it"),
        ({"experiment": "reduction", "grid": {"copies": 2}}, "copies: experiment reduction makes no use of it"),
        ({"vote_error": 0.1}, "layers and vote_error"),
    ):
        with pytest.raises(ValueError, match=message):
            mho.sweep({**asked, **fields}, out=tmp_path / "refused")

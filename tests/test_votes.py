"""Votes: the stated rules on made-up logits, and what votes on one chip and on several average."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from scipy import stats
from torch import nn

import mho
from mho.mapping.voting import asked
from mho.mapping.voting.intervals import Accuracy
from mho.mapping.voting.votes import VoteResult, vote


class Scripted:
    """Stands for a chip: its logits (reads, samples, classes) are given; a copy repeats them with another sign."""

    def __init__(self, logits: torch.Tensor, copy_index: int = 0) -> None:
        self.logits, self.copy_index = logits, copy_index
        self.asked: list[tuple[int, int]] = []
        self.largest_output = 4

    def read(self, images: torch.Tensor, *, read: int, reads: int, first_sample: int) -> torch.Tensor:
        self.asked += [(v, first_sample) for v in range(read, read + reads)]
        return self.logits[read : read + reads, first_sample : first_sample + len(images)].flatten(0, 1)

    def copy(self, index: int) -> Scripted:
        other = Scripted(self.logits + 100 * index, index)
        self.asked.append((-1, index))
        return other


def decide(rows: list[list[float]], rule: str = "hard", **options) -> VoteResult:
    """The result of one sample whose reads have these logits."""
    logits = torch.tensor(rows)[:, None]
    return vote(Scripted(logits), torch.zeros(1, 1), len(rows), rule=rule, **options)


def clear(winner: int, by: float = 5.0, classes: int = 3) -> list[float]:
    return [by if c == winner else 0.0 for c in range(classes)]


def test_the_mode_wins_however_unsure_its_votes_are():
    result = decide([clear(2, 9.0), clear(1, 0.1), clear(1, 0.1)])
    assert result.counts.tolist() == [[0, 2, 1]]
    assert result.classes.tolist() == [1]
    assert result.winners.tolist() == [[2, 2, 1]]  # after two reads: a tie, which the surer vote decides
    assert result.margin.tolist() == pytest.approx([1 / 3])
    assert result.topk(3).tolist() == [[1, 2, 0]]
    assert (result.k, result.rule, result.copies) == (3, "hard", 1)


def test_the_mean_softmax_wins_in_soft_votes():
    rows = [clear(2, 9.0), clear(1, 0.1), clear(1, 0.1)]
    result = decide(rows, "soft")
    mean = torch.tensor(rows).softmax(dim=1).mean(dim=0)
    assert torch.allclose(result.softmax[0], mean)
    assert result.counts.tolist() == [[0, 2, 1]]
    assert result.classes.tolist() == [2]
    assert result.topk(2).tolist() == [[2, 1]]
    assert result.margin.tolist() == pytest.approx([float(mean[2] - mean[1])])


def test_ties_go_to_the_larger_mean_softmax_and_then_to_the_lower_class():
    surer = decide([clear(0, 1.0), clear(2, 2.0)])
    assert surer.counts.tolist() == [[1, 0, 1]]
    assert surer.classes.tolist() == [2]
    assert surer.margin.tolist() == [0]
    assert surer.topk(3).tolist() == [[2, 0, 1]]
    lower = decide([clear(2, 1.0), clear(1, 1.0)])
    assert lower.classes.tolist() == [1]
    assert lower.topk(3).tolist() == [[1, 2, 0]]
    assert decide([[0.0, 0.0, 0.0]]).classes.tolist() == [0]
    assert decide([clear(2, 1.0), clear(1, 1.0)], "soft").classes.tolist() == [1]


@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_results_agree_with_one_another(rule):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(15, 200, 4, generator=generator)
    logits[:, 100:] = logits[:, 100:].round()  # ties in plenty
    result = vote(Scripted(logits), torch.zeros(200, 1), 15, rule=rule, batch_size=33)
    assert torch.equal(result.winners[:, -1], result.classes)
    assert torch.equal(result.topk(1)[:, 0], result.classes)
    assert torch.equal(result.topk(4).sort(dim=1).values, torch.arange(4).expand(200, 4))
    assert torch.equal(result.counts.sum(dim=1), torch.full((200,), 15))
    assert torch.equal(result.counts, torch.nn.functional.one_hot(logits.argmax(dim=2), 4).sum(dim=0))
    assert torch.allclose(result.softmax.sum(dim=1), torch.ones(200))
    assert (result.margin >= 0).all()
    scores = result.counts if rule == "hard" else result.softmax
    assert torch.equal(scores.gather(1, result.topk(4)), scores.sort(dim=1, descending=True).values)
    for k in (1, 4, 7):
        assert torch.equal(vote(Scripted(logits), torch.zeros(200, 1), k, rule=rule).classes, result.winners[:, k - 1])


def test_reads_and_samples_are_named_by_their_place():
    chip = Scripted(torch.randn(3, 5, 2))
    vote(chip, torch.zeros(5, 1), 3, batch_size=2)
    assert chip.asked == [(read, start) for start in (0, 2, 4) for read in (0, 1, 2)]
    whole = Scripted(chip.logits)
    vote(whole, torch.zeros(5, 1), 3, batch_size=None)
    assert whole.asked == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("cast", [mho.vote, mho.adaptive_vote])
def test_progress_is_told_after_each_batch(cast):
    told = []
    cast(Scripted(torch.randn(3, 5, 2)), torch.zeros(5, 1), 3, batch_size=2, progress=lambda *now: told.append(now))
    assert told == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(("index", "others"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1]), (7, [0, 1])])
def test_copies_are_chips_of_their_own(index, others):
    chip = Scripted(torch.randn(7, 2, 3), index)
    result = vote(chip, torch.zeros(2, 1), 7, copies=3)
    assert [place for read, place in chip.asked if read == -1] == others
    assert [read for read, _ in chip.asked if read >= 0] == [0, 3, 6]
    assert result.copies == 3


@pytest.mark.parametrize(("right", "n"), [(7, 10), (0, 20), (20, 20), (9934, 10_000), (1, 1)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_the_wilson_interval(right, n, confidence):
    accuracy = Accuracy(right, n, confidence)
    known = stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
    assert (float(accuracy), accuracy.n) == (right / n, n)
    assert (accuracy.low, accuracy.high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert 0 <= accuracy.low <= accuracy <= accuracy.high <= 1


def test_accuracy_of_a_result():
    result = vote(Scripted(torch.tensor([[clear(0), clear(1), clear(2)]] * 2)), torch.zeros(3, 1), 2)
    labels = torch.tensor([0, 1, 1])
    assert result.accuracy(labels) == pytest.approx(2 / 3)
    assert result.accuracy(labels).low == Accuracy(2, 3).low
    assert result.accuracy(labels, 0.5).low == Accuracy(2, 3, 0.5).low
    assert [float(a) for a in result.accuracy_over_votes(labels)] == pytest.approx([2 / 3, 2 / 3])
    assert str(result.accuracy(labels)) == "66.67 % [20.77, 93.85]"
    for wrong in (labels[:2], labels[:, None]):
        with pytest.raises(ValueError, match=r"labels must have shape \(3,\), got"):
            result.accuracy(wrong)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"images": torch.zeros(0, 1)}, "images must hold at least one sample"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"copies": 0}, "copies must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"k": 2, "copies": 3}, "copies must be at most k = 2, got 3"),
        ({"rule": "loud"}, "rule must be 'hard', 'soft' or 'mean', got 'loud'"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        vote(Scripted(torch.zeros(9, 4, 3)), **{"images": torch.zeros(4, 1)} | options)


@pytest.mark.parametrize("shape", [(4,), (5, 3), (4, 1), (4, 3, 1), (4, 1, 3, 3), (5, 3, 2)])
def test_an_output_that_is_not_classes_is_refused(shape):
    class Odd(Scripted):
        def read(self, images, *, read, reads, first_sample):
            return torch.zeros(shape)

    with pytest.raises(ValueError, match=r"vote needs an output of shape \(samples, .* gives \("):
        vote(Odd(torch.zeros(0)), torch.zeros(4, 1), 1)


class Returning(Scripted):
    """A chip whose model returns something else than a tensor."""

    def __init__(self, output: object) -> None:
        super().__init__(torch.zeros(1, 4, 3))
        self.output = output

    def read(self, images, *, read, reads, first_sample):
        return self.output


@pytest.mark.parametrize("cast", [mho.vote, mho.adaptive_vote])
@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"scores": torch.zeros(4, 3), "hidden": None}, "a dict with 'scores', 'hidden'"),
        ({}, "an empty dict"),
        ((torch.zeros(4, 3), torch.zeros(4)), "a tuple of 2"),
        ([torch.zeros(4, 3)], "a list of 1"),
        (None, "a NoneType"),
        (np.zeros((4, 3)), "a ndarray"),
        (torch.zeros(4, 3, dtype=torch.complex64), "a tensor of complex64"),
    ],
)
def test_a_model_that_returns_no_tensor_is_refused_in_one_line(cast, output, said):
    with pytest.raises(ValueError, match=r"vote needs a model that returns one tensor") as caught:
        cast(Returning(output), torch.zeros(4, 1), 1)
    assert f"this one returns {said}; say with output= where it is" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cast", [mho.vote, mho.adaptive_vote])
def test_a_model_of_a_dict_on_a_chip_is_refused_in_one_line(cast):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.head(x)}

    chip = mho.map(Named().eval(), mho.Hardware.preset("ideal"))
    with pytest.raises(ValueError, match=r"this one returns a dict with 'scores'; say with output= where"):
        cast(chip, torch.rand(4, 8), 3)


def test_an_output_of_nan_is_no_vote():
    with pytest.raises(ValueError, match="the model gives NaN"):
        vote(Scripted(torch.full((1, 4, 3), torch.nan)), torch.zeros(4, 1), 1)


@pytest.mark.parametrize("cast", [mho.vote, mho.adaptive_vote])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": 2.5}, "k must be a whole number, got 2.5"),
        ({"k": "3"}, "k must be a whole number, got '3'"),
        ({"copies": 1.0}, "copies must be a whole number, got 1.0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"first_sample": -1}, "first_sample must be at least 0, got -1"),
        ({"images": {"x": 1}}, "images: holds no tensor"),
        ({"images": [[1, 2], [3]]}, "images must be a tensor or an array of numbers, got list"),
        ({"images": "mnist"}, "images: expected a tensor, a NumPy array, a tuple"),
        ({"images": torch.tensor(1.0)}, "images must hold at least one sample"),
        ({"images": np.zeros((0, 1))}, "images must hold at least one sample"),
    ],
)
def test_counts_and_samples_that_are_none(cast, options, match):
    with pytest.raises(ValueError, match=match):
        cast(Scripted(torch.zeros(9, 4, 3)), **{"images": torch.zeros(4, 1)} | options)


def test_arrays_are_as_good_as_tensors():
    chip = mho.map(nn.Linear(8, 3).eval(), mho.Hardware.preset("reram"), calibrate=torch.rand(16, 8))
    x, labels = torch.rand(5, 8), torch.tensor([0, 1, 2, 0, 1])
    for cast in (mho.vote, mho.adaptive_vote):
        found = cast(chip, x, 4)
        assert cast(chip, x.numpy(), np.int64(4), batch_size=np.int32(2), first_sample=np.int64(0)) == found
        assert cast(chip, x.double().numpy(), 4) == found
        assert cast(chip, x, 5) != found
        assert found.accuracy(labels.numpy()) == found.accuracy(labels) == found.accuracy([0, 1, 2, 0, 1])
        with pytest.raises(ValueError, match=r"labels must have shape \(5,\), got \(4,\)"):
            found.accuracy(labels.numpy()[:4])
        with pytest.raises(ValueError, match="labels must be a tensor or an array of numbers, got list"):
            found.accuracy(["cat"] * 5)


def clones(value):
    yield from (copy.copy(value), copy.deepcopy(value))
    yield from (pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_an_accuracy_survives_copies(confidence):
    accuracy = Accuracy(9934, 10_000, confidence)
    for again in clones(accuracy):
        assert type(again) is Accuracy
        assert (again, again.low, again.high, again.n) == (accuracy, accuracy.low, accuracy.high, 10_000)
        assert (str(again), repr(again)) == (str(accuracy), repr(accuracy))


@pytest.mark.parametrize("cast", [mho.vote, mho.adaptive_vote])
def test_results_survive_copies_and_can_be_compared(cast):
    torch.manual_seed(0)
    chip = Scripted(torch.randn(6, 5, 3))
    result = cast(chip, torch.zeros(5, 1), 6)
    for again in clones(result):
        assert again == result
        assert again.accuracy(result.classes) == result.accuracy(result.classes)
        assert repr(again) == repr(result)
    assert result != cast(chip, torch.zeros(5, 1), 6, rule="soft")
    assert result != "a result"


def test_an_interval_holds_its_share():
    for n in range(1, 200):
        for right in (0, 1, n // 2, n - 1, n):
            accuracy = Accuracy(right, n)
            assert 0 <= accuracy.low <= accuracy <= accuracy.high <= 1


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_shares_of_nothing_are_refused(right, n):
    with pytest.raises(ValueError, match=f"got {right} of {n}"):
        Accuracy(right, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, float("nan"), 95])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(ValueError, match="confidence must be above 0 and below 1, got"):
        Accuracy(1, 2, confidence)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_topk_of_more_classes_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be 1 to 3, the number of classes, got {k}"):
        decide([clear(0)]).topk(k)


@pytest.fixture(scope="module")
def chip() -> mho.Chip:
    return mho.map(small_cnn(), hardware(), calibrate=pictures())


@pytest.mark.parametrize("options", [{}, {"rule": "soft"}, {"copies": 3}])
def test_a_chip_votes_the_same_at_once_or_one_after_another(chip, options, monkeypatch):
    x = pictures(20)
    nine = mho.vote(chip, x, 9, **options)
    five = mho.vote(chip, x, 5, **options)
    assert torch.equal(five.winners, nine.winners[:, :5])
    chip(x)
    for size in (1, 7, None):
        again = mho.vote(chip, x, 5, batch_size=size, **options)
        assert torch.equal(again.softmax, five.softmax)
        assert torch.equal(again.counts, five.counts)
    for together in (1, 4000, 10**6):
        monkeypatch.setattr(asked, "TOGETHER", together)
        assert torch.equal(mho.vote(chip, x, 5, **options).softmax, five.softmax)
    assert not torch.equal(mho.vote(chip, x, 1).softmax, mho.vote(chip, x, 2).softmax)


def test_votes_under_inference_mode_are_the_same(chip):
    x = pictures(20)
    with torch.inference_mode():
        inside = mho.vote(chip, x.clone(), 5)
    assert torch.equal(inside.softmax, mho.vote(chip, x, 5).softmax)


def test_votes_average_fresh_noise_and_copies_frozen_errors_too():
    """The variance of a mean of 16 logits is frozen + fresh / 16 on one chip, and (frozen + fresh) / 16 on 16 chips."""
    torch.manual_seed(0)
    net = nn.Linear(64, 400, bias=False).eval()
    x = torch.rand(1, 64)
    hw = hardware(dac__bits=None, dac__range=1.0, adc__bits=None, adc__full_scale=None, cell__read_noise__fraction=0.02)
    chip = mho.map(net, hw)
    with torch.no_grad():
        exact = net(x)[0]
    noise = [chip.read(x, read=read)[0] - chip.read(x, read=0, noisy=False)[0] for read in range(64)]
    fresh = float(torch.stack(noise).var())
    frozen = float((chip.read(x, read=0, noisy=False)[0] - exact).var())
    assert 0.2 < fresh / frozen < 5  # so that the two claims differ

    def variance(copies: int) -> float:
        chips = [chip.copy(index) for index in range(copies)]
        mean = torch.stack([chips[read % copies].read(x, read=read)[0] for read in range(16)]).mean(dim=0)
        return float((mean - exact).var())

    bound = 5 * (2 / 400) ** 0.5  # of the relative error of a variance over 400 outputs, and of the expected one
    assert abs(variance(1) / (frozen + fresh / 16) - 1) < bound
    assert abs(variance(16) / ((frozen + fresh) / 16) - 1) < 2 * bound
    assert abs(variance(1) / ((frozen + fresh) / 16) - 1) > 2 * bound  # negative control

"""Adaptive votes: the error they promise, the reads they make, and the bits they share with the fixed vote."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from helpers import hardware, pictures, small_cnn

import mho
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.voting.adaptive import adaptive_vote
from mho.mapping.voting.votes import vote


class Scripted:
    """Stands for a chip with given logits (reads, samples, classes); keeps what was asked."""

    largest_output = 4
    copy_index = 0

    def __init__(self, logits: torch.Tensor, index: int = 0, asked: torch.Tensor | None = None) -> None:
        self.logits, self.copy_index = logits, index
        self.asked = torch.zeros(logits.shape[:2], dtype=torch.int64) if asked is None else asked

    def read(self, images: torch.Tensor, *, read: int, reads: int, first_sample: int) -> torch.Tensor:
        self.asked[read : read + reads, first_sample : first_sample + len(images)] += 1
        return self.logits[read : read + reads, first_sample : first_sample + len(images)].flatten(0, 1)

    def copy(self, index: int) -> Scripted:
        return Scripted(self.logits, index, self.asked)


def draws(odds: list[list[float]], reads: int, samples: int, seed: int = 0) -> Scripted:
    """Independent reads: read r of every sample is a class drawn with odds[r mod len(odds)]."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.multinomial(torch.tensor(odds[r % len(odds)]), samples, replacement=True, generator=generator)
        for r in range(reads)
    ]
    return Scripted(8.0 * torch.nn.functional.one_hot(torch.stack(rows), len(odds[0])).float())


def decide(chip: Scripted, **options) -> mho.AdaptiveResult:
    reads, samples, _ = chip.logits.shape
    return adaptive_vote(chip, torch.zeros(samples, 1), reads, **options)


NEAR = [
    [[0.49, 0.51]],
    [[0.1, 0.1, 0.38, 0.42]],
    [[0.05, 0.46, 0.49]],
    [[0.9, 0.1], [0.06, 0.94]],  # two copies that disagree: the choice of both together is class 1
]


@pytest.mark.parametrize("odds", NEAR)
@pytest.mark.parametrize("rule", ["hard", "soft"])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_a_safe_answer_is_wrong_no_more_often_than_promised(odds, rule, error):
    n = 1500
    result = decide(draws(odds, 60, n), error=error, rule=rule, copies=len(odds), batch_size=None)
    mean = torch.tensor(odds).mean(dim=0)
    wrong = float((result.safe & (mean[result.classes] < mean.max())).double().mean())
    assert wrong <= error + 5 * sqrt(error * (1 - error) / n)


def test_looking_at_every_read_for_a_significant_lead_is_wrong_more_often_than_promised():
    """The negative control: the test of a fixed number of reads, repeated after each of them."""
    n, error = 4000, 0.05
    chip = draws([[0.49, 0.51]], 120, n)
    votes = chip.logits.argmax(dim=2)
    lead = (2 * votes - 1).cumsum(dim=0)
    significant = lead.abs() > 1.96 * torch.arange(1, 121)[:, None] ** 0.5
    first = significant.int().argmax(dim=0)
    wrong = significant.any(dim=0) & (lead.gather(0, first[None])[0] < 0)
    assert float(wrong.double().mean()) > error + 5 * sqrt(error * (1 - error) / n)


def test_bets_that_ignore_rounds_of_copies_break_the_promise():
    """The negative control of the copies: the same reads taken for those of one chip."""
    n, error = 50, 0.05
    odds = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], *[[0.0, 1.0]] * 5]  # class 1 by 5 to 4, in turn
    chip = draws(odds, 18, n)
    held = decide(chip, error=error, copies=9, batch_size=None)
    assert not (held.safe & (held.classes == 0)).any()
    broken = decide(chip, error=0.5, batch_size=None)
    assert bool((broken.safe & (broken.classes == 0)).all())


@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_easy_inputs_take_few_reads(rule):
    chip = draws([[0.97, 0.01, 0.01, 0.01]], 100, 500)
    result = decide(chip, error=0.01, rule=rule)
    assert result.mean_reads < 15
    assert result.capped == 0
    assert bool((result.classes == 0).all())
    unanimous = decide(draws([[1.0, 0.0, 0.0]], 100, 3), error=0.01)
    assert unanimous.reads.tolist() == [9, 9, 9]  # 1.667 x 1.8 x ... : the ninth bet reaches 100
    assert decide(draws([[1.0, 0.0, 0.0]], 100, 3), error=0.1).reads.tolist() == [5, 5, 5]


def test_decided_samples_are_not_read_again():
    easy, hard = draws([[1.0, 0.0]], 40, 30), draws([[0.5, 0.5]], 40, 10)
    chip = Scripted(torch.cat([easy.logits[:, :15], hard.logits, easy.logits[:, 15:]], dim=1))
    result = decide(chip, error=0.01)
    assert bool((chip.asked <= 1).all())
    asked = chip.asked.sum(dim=0)
    assert bool((asked >= result.reads).all())
    assert bool((asked - result.reads < 4).all())
    assert float(asked[:15].double().mean()) == 12
    assert result.capped > 5


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("rule", ["hard", "soft"])
def test_reads_are_the_first_of_the_fixed_vote(rule, copies):
    torch.manual_seed(0)
    chip = Scripted(2 * torch.randn(30, 200, 4) + torch.tensor([3, 0.5, 0, 0]) * torch.rand(200, 1))
    whole = decide(chip, error=0.05, rule=rule, copies=copies)
    assert len(whole.reads.unique()) > 2
    for k in whole.reads.unique().tolist():
        fixed, mine = vote(chip, torch.zeros(200, 1), k, rule=rule, copies=copies), whole.reads == k
        assert torch.equal(whole.counts[mine], fixed.counts[mine])
        assert torch.equal(whole.softmax[mine], fixed.softmax[mine])
        assert torch.equal(whole.classes[mine], fixed.classes[mine])
    capped = ~whole.safe
    assert 0 < whole.capped < 200
    assert bool((whole.reads[capped] > 15).all())  # fewer than half the votes leave the winner open
    fixed = vote(chip, torch.zeros(200, 1), 30, rule=rule, copies=copies)
    assert torch.equal(whole.classes[capped], fixed.classes[capped])


def test_a_chip_gives_the_same_bits_in_any_batch():
    chip = mho.map(small_cnn(), hardware(cell__read_noise__fraction=0.3), calibrate=pictures())
    x = pictures(40)
    result = mho.adaptive_vote(chip, x, 20, error=0.05)
    assert len(result.reads.unique()) > 2
    winners = mho.vote(chip, x, 20)
    assert torch.equal(winners.winners.gather(1, result.reads[:, None] - 1)[:, 0], result.classes)
    for size in (1, 7, None):
        again = mho.adaptive_vote(chip, x, 20, error=0.05, batch_size=size)
        assert torch.equal(again.softmax, result.softmax)
        assert torch.equal(again.reads, result.reads)
    parts = [mho.adaptive_vote(chip, x[a:b], 20, error=0.05, first_sample=a) for a, b in ((0, 13), (13, 40))]
    assert torch.equal(torch.cat([part.softmax for part in parts]), result.softmax)
    energy = result.energy_j(chip) / layer_costs(chip)["energy_j"].sum()
    assert energy == pytest.approx(result.mean_reads)
    labels = winners.classes
    assert float(result.accuracy(labels)) == pytest.approx(float((result.classes == labels).double().mean()))


@pytest.mark.parametrize("error", [0.0, 1.0, -0.1, float("nan"), "0.1", None])
def test_an_error_that_is_no_probability_is_refused(error):
    with pytest.raises(ValueError, match="error must be a probability above 0 and below 1, got"):
        decide(draws([[0.5, 0.5]], 3, 2), error=error)


@pytest.mark.parametrize(
    ("options", "match"), [({"copies": 4}, "copies must be at most k = 3"), ({"rule": "loud"}, "rule must be")]
)
def test_bad_options_are_refused_as_in_the_fixed_vote(options, match):
    with pytest.raises(ValueError, match=match):
        decide(draws([[0.5, 0.5]], 3, 2), **options)

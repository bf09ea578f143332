"""Votes over what models really take and return: dicts, loaders, tokens, pixels, numbers; and their intervals."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from lms import LanguageModel, Regression, Segmenter, padded, texts
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mho
from mho.mapping.voting.clusters import Estimate, of_counts, share
from mho.mapping.voting.intervals import Accuracy

NOISY = mho.Hardware.paper(sigma_mult=0.4)


@pytest.fixture(scope="module")
def language() -> mho.Chip:
    return mho.map(LanguageModel().eval(), NOISY, check=texts())


def test_all_forms_of_inputs_vote_alike(language):
    ids = texts(7)
    found = mho.vote(language, ids, 4, batch_size=3)
    assert found.classes.shape == (7, 5)
    assert found.winners.shape == (7, 5, 4)
    assert found.counts.shape == (7, 5, 11)
    assert torch.equal(found.counts.sum(-1), torch.full((7, 5), 4))
    ones = torch.ones_like(ids)
    forms = [
        ids.numpy(),
        (ids,),
        {"input_ids": ids},
        {"input_ids": ids.numpy(), "attention_mask": ones},
        [ids[:2], ids[2:]],
        [{"input_ids": ids[:5]}, {"input_ids": ids[5:]}],
        DataLoader(ids, batch_size=3),
        (ids[i : i + 1] for i in range(7)),
    ]
    for form in forms:
        assert torch.equal(mho.vote(language, form, 4).winners, found.winners)
    for form in ({"input_ids": ids}, [ids[:3], ids[3:]]):
        adaptive = mho.adaptive_vote(language, form, 4, error=1e-6, output="logits")
        assert torch.equal(adaptive.classes, found.classes)


def test_labels_come_along_from_loaders(language):
    ids, labels = texts(6), texts(6, seed=1)
    found = mho.vote(language, DataLoader(TensorDataset(ids, labels), batch_size=4), 2)
    assert torch.equal(found.labels, labels)
    assert found.accuracy() == found.accuracy(labels)
    named = mho.vote(language, [{"input_ids": ids, "labels": labels}], 2)
    assert torch.equal(named.labels, labels)
    assert torch.equal(named.winners, found.winners)
    assert mho.vote(language, ids, 2).labels is None
    with pytest.raises(ValueError, match="labels are missing"):
        mho.vote(language, ids, 2).accuracy()
    with pytest.raises(ValueError, match=r"labels must be those of the 6 samples of their batch, got \(3,\)"):
        mho.vote(language, [(ids, labels[:3, 0])], 2)
    assert copy.deepcopy(named) == pickle.loads(pickle.dumps(named)) == named == found
    assert mho.vote(language, ids, 2) != found


def test_outputs_are_found_by_name_number_and_function(language):
    ids = texts(4)
    whole = mho.vote(language, ids, 3)
    for where in ("logits", 0, lambda out: out.logits):
        assert mho.vote(language, ids, 3, output=where) == whole
    last = mho.vote(language, ids, 3, output=lambda out: out.logits[:, -1])
    assert last.classes.shape == (4,)
    assert torch.equal(last.classes, whole.classes[:, -1])
    turned = mho.vote(language, ids, 3, output=lambda out: out.logits.transpose(1, 2)[..., None])  # as of pixels
    assert torch.equal(turned.classes[..., 0], whole.classes)
    for wrong, said in [
        ("scores", "output='scores': the model returns a Output with 'logits', 'loss'"),
        (9, "output=9: the model returns a Output"),
        (True, "output must be a name, a number or a function, got bool"),
        (lambda out: out.logits[:2], r"vote needs an output of shape \(samples, ...\), the model gives \(2, 5, 11\)"),
        ("hidden", "this one returns a tuple of 1; say with output="),
    ]:
        with pytest.raises(ValueError, match=said):
            mho.vote(language, ids, 1, output=wrong)


def test_padding_and_ignored_labels_do_not_count(language):
    ids, mask = padded(texts(6, 6), [0, 1, 2, 3, 4, 2], front=True)
    found = mho.vote(language, {"input_ids": ids, "attention_mask": mask}, 3)
    assert torch.equal(found.mask, mask.bool())
    right = (found.classes == ids) & mask.bool()
    accuracy = found.accuracy(ids)
    assert float(accuracy) == pytest.approx(float(right.sum()) / float(mask.sum()))
    assert (accuracy.n, accuracy.answers) == (6, int(mask.sum()))
    assert found.accuracy(torch.where(mask.bool(), ids, -100)) == accuracy
    assert found.accuracy(ids, mask=mask).answers == accuracy.answers
    fewer = found.accuracy(ids, mask=(torch.arange(6) > 4).expand(6, 6))
    assert fewer.answers == 6
    following = found.accuracy(ids, next_token=True)
    truth = (found.classes[:, :-1] == ids[:, 1:]) & mask[:, :-1].bool() & mask[:, 1:].bool()
    assert float(following) == pytest.approx(float(truth.sum()) / following.answers)
    assert following.answers == int(mask.sum()) - 6
    with pytest.raises(ValueError, match="no answer counts"):
        found.accuracy(torch.full_like(ids, -100))
    with pytest.raises(ValueError, match=r"mask must have shape \(6, 6\)"):
        found.accuracy(ids, mask=mask[:, 1:])
    adaptive = mho.adaptive_vote(language, {"input_ids": ids, "attention_mask": mask}, 3, error=0.3)
    assert adaptive.reads.shape == (6,)
    assert torch.equal(adaptive.mask, mask.bool())
    assert adaptive.capped <= int(mask.sum())
    assert not adaptive.counts[~mask.bool()].any()


def test_texts_of_several_lengths_make_one_result(language):
    short, long = texts(3, 4), texts(2, 6)
    found = mho.vote(language, [(short, short), (long, long)], 2)
    assert found.classes.shape == found.labels.shape == (5, 6)
    assert torch.equal(found.mask, torch.tensor([4, 4, 4, 6, 6])[:, None] > torch.arange(6))
    assert bool((found.classes[:3, 4:] == -1).all() and (found.labels[:3, 4:] == -100).all())
    alone = mho.vote(language, short, 2)
    assert torch.equal(found.winners[:3, :4], alone.winners)
    assert found.accuracy().answers == 24
    assert mho.adaptive_vote(language, [short, long], 2, error=0.5).accuracy(found.labels).answers == 24


def test_adaptive_votes_of_tokens_are_the_first_of_the_fixed(language):
    ids = texts(8)
    few, all = mho.adaptive_vote(language, ids, 12, error=0.2), mho.vote(language, ids, 12)
    assert 1 < few.mean_reads <= 12
    reads = few.counts.sum(-1)
    assert torch.equal(reads.amax(1), few.reads)
    assert reads.min() < reads.max()
    taken = all.winners.gather(-1, (reads - 1)[..., None])[..., 0]
    assert torch.equal(few.classes, taken)


def test_pixels_vote_and_pictures_count():
    x = torch.rand(5, 3, 6, 4, generator=torch.Generator().manual_seed(0))
    chip = mho.map(Segmenter().eval(), NOISY, check=x)
    found = mho.vote(chip, x, 3, output="out")
    assert found.classes.shape == (5, 6, 4)
    assert found.margin.shape == (5, 6, 4)
    assert found.topk(2).shape == (5, 6, 4, 2)
    truth = found.classes.clone()
    truth[0] = (truth[0] + 1) % 3
    accuracy = found.accuracy(truth)
    assert (float(accuracy), accuracy.n, accuracy.answers) == (0.8, 5, 120)
    assert accuracy.high - accuracy.low > 2 * (Accuracy(96, 120).high - Accuracy(96, 120).low)
    with pytest.raises(ValueError, match=r"labels must have shape \(5, 6, 4\), got \(5, 3, 6, 4\)"):
        found.accuracy(torch.zeros(5, 3, 6, 4))
    with pytest.raises(ValueError, match="vote needs a model that returns one tensor"):
        mho.vote(chip, x, 1)


def test_numbers_are_averaged():
    generator = torch.Generator().manual_seed(0)
    given = {"a": torch.rand(9, 4, generator=generator), "b": torch.rand(9, 3, generator=generator)}
    net = Regression().eval()
    chip = mho.map(net, NOISY, check=given)
    found = mho.vote(chip, given, 5, rule="mean", output=1, batch_size=4)
    each = torch.stack([chip.read(read=r, named=given)[1] for r in range(5)])
    assert torch.allclose(found.mean, each.mean(0), atol=1e-6)
    assert torch.allclose(found.std, each.std(0), atol=1e-6)
    assert torch.equal(found.means[..., -1], found.mean)
    assert torch.allclose(found.means[..., 0], each[0])
    assert torch.allclose(found.standard_error, each.std(0) / 5**0.5, atol=1e-6)
    truth = net(**given)[1].detach()
    rmse, mae = found.rmse(truth), found.mae(truth)
    assert float(rmse) == pytest.approx(float((found.mean - truth).square().mean().sqrt()))
    assert float(mae) == pytest.approx(float((found.mean - truth).abs().mean()))
    assert rmse.low <= rmse <= rmse.high
    assert rmse.n == 9
    assert [float(x) for x in found.rmse_over_votes(truth)][-1] == float(rmse)
    assert mho.vote(chip, given, 1, rule="mean", output=1).std.isnan().all()
    assert mho.vote(chip, given, 5, rule="mean", output=1) == found
    with pytest.raises(ValueError, match="labels must have shape"):
        found.rmse(truth[:3])
    with pytest.raises(ValueError, match="rule must be 'hard' or 'soft', got 'mean'"):
        mho.adaptive_vote(chip, given, 5, rule="mean")


def test_cross_entropy_and_perplexity_of_tokens():
    torch.manual_seed(0)
    net = LanguageModel().eval()
    ids = texts(20)
    found = mho.vote(mho.map(net, mho.Hardware.preset("ideal")), ids, 2)
    logits = net(ids).logits.detach()
    wanted = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss = found.cross_entropy(ids, next_token=True)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    assert loss.n == 20
    assert loss.low < loss < loss.high
    perplexity = found.perplexity(ids, next_token=True)
    assert float(perplexity) == pytest.approx(np.exp(float(loss)))
    assert perplexity.low == pytest.approx(np.exp(loss.low))
    with pytest.raises(ValueError, match="labels must be classes 0 to 10, got 11"):
        found.cross_entropy(torch.full_like(ids, 11))
    with pytest.raises(
        ValueError, match="labels must be classes 0 to 10, got -1; ignore_index or mask leaves some out"
    ):
        found.accuracy(torch.full_like(ids, -1))
    with pytest.raises(ValueError, match="labels must be classes 0 to 10, got 11"):
        found.accuracy_over_votes(torch.where(ids == ids[0, 0], 11, ids), next_token=True)
    assert found.accuracy(torch.where(ids == ids[0, 0], -1, ids), ignore_index=-1).answers < ids.numel()


@pytest.mark.parametrize("spread", [0.0, 0.35])
def test_the_interval_over_samples_covers_the_truth(spread):
    """Sentences of 20 tokens, of which some are hard in whole: 95 % of the intervals hold the truth, and naive ones do
    not."""
    rng = np.random.default_rng(0)
    hits = naive = 0
    for _ in range(400):
        odds = np.clip(0.6 + spread * rng.choice([-1, 1], 40), 0, 1)
        right = torch.from_numpy(rng.random((40, 20)) < odds[:, None])
        clustered, plain = share(right, torch.ones_like(right)), Accuracy(int(right.sum()), right.numel())
        hits += clustered.low <= 0.6 <= clustered.high
        naive += plain.low <= 0.6 <= plain.high
    assert 0.91 <= hits / 400 <= 0.99
    assert (naive / 400 < 0.6) == (spread > 0)  # the negative control


def test_shares_at_the_edges():
    ones = torch.ones(10, 7, dtype=torch.bool)
    assert share(ones, ones).low == Accuracy(10, 10).low
    assert share(~ones, ones).high == Accuracy(0, 10).high
    assert share(ones[:1], ones[:1]).low == Accuracy(1, 1).low
    plain = torch.tensor([True, False, True])
    assert str(share(plain, torch.ones_like(plain))) == str(Accuracy(2, 3))
    again = pickle.loads(pickle.dumps(share(ones, ones)))
    assert (again.low, again.n, again.answers) == (share(ones, ones).low, 10, 70)
    assert of_counts(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).n == 2
    estimate = Estimate.of(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert (float(estimate), estimate.low, estimate.high) == (2.0, -np.inf, np.inf)
    assert pickle.loads(pickle.dumps(estimate)).high == np.inf
    with pytest.raises(ValueError, match="confidence must be above 0"):
        share(ones, ones, 1.0)

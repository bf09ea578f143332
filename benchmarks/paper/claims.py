"""Every numeric claim of the paper with ours beside it and a verdict: `python benchmarks/paper.py --claims`.

Where the paper states an accuracy that a method reaches, the claim holds if ours is as high, within its 95 % interval;
where it states a loss or a limit, if ours keeps it. Nothing is measured here: the ledger reads the committed cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import sqrt

import pandas as pd

import mho
from mho import models

from .ledger import Found, Ledger, Untested, decibels, said

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Claim:
    """A sentence with a number: where it stands, what it says in our words, the number, and how it is checked."""

    where: str
    says: str
    paper: str
    check: Callable[[Ledger], Found]


def collapse(ledger: Ledger, data: str, stated: float) -> Found:
    found = ledger.single(data, 1.0, 0.0)
    return Found(said(found), 100 * found.low <= stated)


def trained(ledger: Ledger, data: str, stated: float) -> Found:
    found = ledger.single(data, 1.0)
    return Found(said(found), 100 * found.high >= stated)


def voted(ledger: Ledger, data: str, stated: float) -> Found:
    found = ledger.voted(data, 1.0)
    return Found(said(found), 100 * found.high >= stated)


def clean(ledger: Ledger, data: str, stated: float) -> Found:
    found = ledger.single(data, 0.0, 0.0)
    return Found(said(found), 100 * found.high >= stated)


def helped(ledger: Ledger, data: str, points: float) -> Found:
    quiet = ledger.single(data, 0.0)
    best = max((ledger.voted(data, sigma) for sigma in LEVELS), key=float)
    low = 100 * (best.low - quiet)
    return Found(f"{said(best)} against {100 * quiet:.2f}", low > 0 and 100 * (best.high - quiet) >= points)


def lost(ledger: Ledger, noise: str, points: float) -> Found:
    quiet, found = (ledger.single("MNIST", sigma, 0.0, noise) for sigma in (0.0, 0.4))
    return Found(f"{100 * (quiet - found):.2f} points", 100 * (quiet - found.low) >= points - 0.05)


def uniform(ledger: Ledger, data: str, noise: str = "mult") -> Found:
    """Some training with noise beats that without at every noise of inference, by more than the samples leave open."""
    gains = []
    for sigma, rows in ledger.all_trainings(data, noise).items():
        means = rows.groupby("sigma_train")["single"].mean()
        best, clean = means.drop(0.0).max(), means[0.0]
        open_ = 1.96 * sqrt((best * (1 - best) + clean * (1 - clean)) / rows["images"].iloc[0])
        gains.append((sigma, 100 * (best - clean), 100 * open_))
    sigma, least, open_ = min(gains, key=lambda found: found[1] - found[2])
    told = f"gains of {least:.2f} ± {open_:.2f} points (at {sigma}) to {max(gain for _, gain, _ in gains):.1f}"
    return Found(told, bool(least > open_))


def within(ledger: Ledger, data: str, most: float, points: float, noise: str = "mult") -> Found:
    """The best training loses less than some points up to a noise of inference."""
    quiet = ledger.single(data, 0.0, None, noise)
    levels = [sigma for sigma in LEVELS if sigma <= most]
    losses = {sigma: 100 * (quiet - ledger.single(data, sigma, None, noise)) for sigma in levels}
    worst = max(losses, key=lambda sigma: losses[sigma])
    return Found(f"{losses[worst]:.2f} points (at {worst})", losses[worst] < points)


def one_training(ledger: Ledger, noise: str, sigma: float, points: float) -> Found:
    """One training loses less than some points at all noises of inference up to its own."""
    found = ledger.of_training("MNIST", noise, sigma)
    found = found[found["sigma_val"] <= sigma]
    worst = 100 * (found["single"].iloc[0] - found["single"].min())
    return Found(f"{worst:.2f} points of {found['images'].iloc[0]:,.0f} samples", worst < points)


def snr(stated: float, sigma: float) -> Found:
    found = decibels(sigma)
    return Found(f"{found:.2f} dB", abs(found - stated) < 0.005)


def concentrated(ledger: Ledger) -> Found:
    rows = ledger.cells[(ledger.cells["images"] == 10_000) & (ledger.cells["k"] <= 20)]
    rows = rows[rows.groupby("key")["k"].transform("max") == 20]
    spread = rows.groupby("key")["single"].agg(lambda x: (x - x.mean()).abs().max())
    told = f"at most {100 * spread.max():.2f} points from the mean in {len(spread)} cells of 20 runs"
    return Found(told, spread.max() < 0.01)


def heavier(ledger: Ledger, column: str) -> Found:
    by = ledger.weights.set_index("sigma_train")[column].dropna()
    if len(by) < 2:
        raise Untested("not trained yet")
    quiet, noisy = by[0.0], by.drop(0.0)
    return Found(f"{quiet:.3f} without, {noisy.min():.3f} to {noisy.max():.3f} with", noisy.min() > quiet)


def slower(ledger: Ledger) -> Found:
    first = ledger.curves[ledger.curves["minibatch"] == ledger.curves["minibatch"].min()].sort_values("sigma_train")
    values = first["accuracy"].tolist()
    return Found(
        f"{100 * values[0]:.1f} to {100 * values[-1]:.1f} % after {int(first['minibatch'].iloc[0]):,} minibatches",
        values == sorted(values, reverse=True),
    )


def gained_by_votes(ledger: Ledger, data: str, points: float) -> Found:
    one, many = ledger.single(data, 1.0), ledger.voted(data, 1.0)
    return Found(f"{100 * one:.2f} to {100 * many:.2f}", 100 * (many - one) > points)


def kept(ledger: Ledger, data: str, points: float) -> Found:
    quiet, found = ledger.single(data, 0.0), ledger.voted(data, 1.0)
    return Found(f"{100 * quiet:.2f} against {said(found)}", 100 * (quiet - found) <= points)


def same_accuracy_gain(ledger: Ledger, stated: float) -> Found:
    """How much stronger noise 20 votes stand than one inference of the same accuracy, from the levels of the table."""
    wanted = ledger.voted("MNIST", 1.0)
    level = max((sigma for sigma in LEVELS if ledger.single("MNIST", sigma) >= wanted), default=0.0)
    gain = decibels(level) if level else float("inf")
    return Found(f"{gain:.1f} dB: one inference reaches {100 * wanted:.2f} % up to {level}", gain >= stated - 0.05)


def tolerance_gain(ledger: Ledger, data: str, points: float, stated: float) -> Found:
    quiet = ledger.single(data, 0.0)
    one = max((s for s in LEVELS if 100 * (quiet - ledger.single(data, s)) <= points), default=0.0)
    many = max((s for s in LEVELS if 100 * (quiet - ledger.voted(data, s)) <= points), default=0.0)
    gain = decibels(one) - decibels(many) if one else float("inf")
    return Found(f"{gain:.1f} dB: from {one} to {many}", gain >= stated - 0.05)


def flat(ledger: Ledger, data: str) -> Found:
    rows = ledger.rows(data, "mult", 1.0, images=int(ledger.rows(data, "mult", 1.0, k=20)["images"].iloc[0]))
    best = rows[rows["sigma_train"] == rows.loc[rows["hard"].idxmax(), "sigma_train"]].set_index("k")["hard"]
    first, second = 100 * (best[10] - best[1]), 100 * (best[20] - best[10])
    return Found(f"{first:.1f} points to 10 votes, {second:.1f} from there to 20", second < first / 5)


def latency(ledger: Ledger) -> Found:
    layers, k, t = 8, 20, 1e-6
    run = mho.schedule(stages=[t] * layers, votes=k, voter=t)
    return Found(f"{run.makespan_s / t:.0f} T for L = {layers}, K = {k}", abs(run.makespan_s / t - layers - k) < 1e-9)


def beside(ledger: Ledger) -> Found:
    layers, k, t = 8, 20, 1e-6
    run = mho.schedule(stages=[t] * layers, votes=k, copies=k)
    told = f"{run.makespan_s / t:.0f} T for L = {layers}, K = {k}; a voter adds its own T"
    return Found(told, run.makespan_s <= layers * t * (1 + 1e-9))


def million(ledger: Ledger) -> Found:
    count = sum(p.numel() for p in models.densenet40(weights=None).parameters())
    return Found(f"{count:,}", 0.9e6 < count < 1.1e6)


def defended(ledger: Ledger, data: str, points: float) -> Found:
    if data not in ledger.attacks:
        raise Untested("its networks are not trained adversarially yet")
    rows = ledger.attacks[data][ledger.attacks[data]["sigma"] > 0]
    best = rows.loc[rows["single_gain"].idxmax()]
    gain, low, high = (100 * best[name] for name in ("single_gain", "single_gain_low", "single_gain_high"))
    voted = rows.loc[rows["voted_gain"].idxmax()]
    votes = "[{:+.2f}, {:+.2f}]".format(*(100 * voted[f"voted_gain_{end}"] for end in ("low", "high")))
    told = f"{gain:+.2f} [{low:+.2f}, {high:+.2f}] at best; votes {100 * voted['voted_gain']:+.2f} {votes}"
    return Found(told, bool(low > 0 and high >= points))


def _of_three(
    where: str, says: str, check: Callable[..., Found], stated: tuple[float, float, float]
) -> Iterator[Claim]:
    for data, value in zip(("MNIST", "CIFAR-10", "strokes"), stated, strict=True):
        yield Claim(where, f"{data}: {says}", f"{value} %", partial(check, data=data, stated=value))


CLAIMS: tuple[Claim, ...] = (
    *_of_three("abstract", "trained without noise, inference at sigma_val 1.0 falls to", collapse, (21.1, 29.9, 15.5)),
    *_of_three("abstract", "20 votes at sigma_val 1.0 reach", voted, (99.5, 89.1, 89.6)),
    *_of_three("1", "trained with noise, one inference at sigma_val 1.0 reaches", trained, (77.7, 66.9, 66.9)),
    Claim(
        "1, 3.3",
        "strokes: votes under noise beat noiseless inference by",
        "0.5 points",
        partial(helped, data="strokes", points=0.5),
    ),
    *_of_three("3.1", "trained without noise, noiseless inference reaches", clean, (99.5, 92.5, 94.8)),
    Claim("3.1", "parameters of the DenseNet", "about a million", million),
    *(
        Claim(
            "3.2", f"{data}: training with noise is better at every sigma_val", "uniformly", partial(uniform, data=data)
        )
        for data in ("MNIST", "CIFAR-10", "strokes")
    ),
    Claim("3.2.1", "runs of one cell lie within", "1 % of their mean, of 50 runs", concentrated),
    Claim(
        "3.2.1",
        "MNIST, multiplicative: trained without noise, sigma_val 0.4 costs",
        "5.8 points",
        partial(lost, noise="mult", points=5.8),
    ),
    Claim(
        "3.2.1",
        "MNIST, additive: trained without noise, sigma_val 0.4 costs",
        "3.6 points",
        partial(lost, noise="add", points=3.6),
    ),
    Claim(
        "3.2.1",
        "MNIST, multiplicative: the best training loses, up to 0.4, less than",
        "0.2 points",
        partial(within, data="MNIST", most=0.4, points=0.2),
    ),
    Claim(
        "3.2.1",
        "MNIST, additive: the best training loses, up to 0.6, less than",
        "0.3 points",
        partial(within, data="MNIST", most=0.6, points=0.3, noise="add"),
    ),
    Claim("3.2.1", "SNR of sigma_val 0.4", "7.96 dB", lambda ledger: snr(7.96, 0.4)),
    Claim(
        "3.2.1",
        "MNIST, multiplicative: sigma_train 0.4 loses, up to 0.4, less than",
        "0.2 points",
        partial(one_training, noise="mult", sigma=0.4, points=0.2),
    ),
    Claim(
        "3.2.1",
        "MNIST, additive: sigma_train 0.4 loses, up to 0.4, less than",
        "0.2 points",
        partial(one_training, noise="add", sigma=0.4, points=0.2),
    ),
    Claim("3.2.1", "more noise in training learns more slowly (Figure 3)", "generally", slower),
    *(
        Claim(
            "3.2.1",
            f"weights trained with noise are larger (Table 4), by the paper's protocol begun as {whose} does",
            "0.049 without, 0.054 to 0.060 with",
            partial(heavier, column=column),
        )
        for whose, column in (("torch", "rms_by_protocol"), ("Keras", "rms_begun_as_keras"))
    ),
    Claim(
        "3.2.2",
        "CIFAR-10: the best training loses, up to 0.4, less than",
        "1.3 points",
        partial(within, data="CIFAR-10", most=0.4, points=1.3),
    ),
    Claim(
        "3.2.3",
        "strokes: the best training loses, up to 0.4, less than",
        "1.3 points",
        partial(within, data="strokes", most=0.4, points=1.3),
    ),
    *(
        Claim(
            "3.3",
            f"{data}: at sigma_val 1.0 votes gain more than",
            "20 points",
            partial(gained_by_votes, data=data, points=20),
        )
        for data in ("MNIST", "CIFAR-10", "strokes")
    ),
    Claim(
        "3.3",
        "MNIST: 20 votes at sigma_val 1.0 against noiseless inference",
        "99.5 against 99.6 %",
        partial(kept, data="MNIST", points=0.15),
    ),
    Claim(
        "3.3",
        "MNIST: votes stand more noise than one inference of that accuracy, by",
        "14 dB",
        partial(same_accuracy_gain, stated=14.0),
    ),
    Claim(
        "3.3",
        "CIFAR-10: tolerable noise for 1.5 points grows by",
        "6 dB",
        partial(tolerance_gain, data="CIFAR-10", points=1.5, stated=6.0),
    ),
    Claim(
        "3.3",
        "strokes: tolerable noise for 1 point grows by",
        "3.5 dB",
        partial(tolerance_gain, data="strokes", points=1.0, stated=3.5),
    ),
    *(
        Claim("3.3", f"{data}: beyond 10 votes accuracy is almost flat", "Figure 11", partial(flat, data=data))
        for data in ("MNIST", "CIFAR-10")
    ),
    Claim("3.3", "latency of K pipelined votes through L layers", "(L + K) T", latency),
    Claim("3.3", "latency of K votes on K copies", "no overhead", beside),
    *(
        Claim(
            "4",
            f"{data}: noise raises accuracy under black-box attack by",
            f"{points} points",
            partial(defended, data=data, points=points),
        )
        for data, points in (("MNIST", 0.5), ("CIFAR-10", 1.13))
    ),
)

INCONSISTENT = (
    "The introduction gives 10.1 % for strokes trained without noise at sigma_val 1.0; the abstract, Table 6 and "
    "the conclusion give 15.5 %.",
    "A loss of 5.8 points at sigma_val 0.4 is stated; Table 2 has 99.5 and 93.5, 6.0 points, and 99.3 and 93.5, 5.8.",
    "A loss of 3.6 points is stated for additive noise; Table 3 has 99.5 and 95.8, 3.7 points.",
    "The conclusion's gain from (95.8, 88.5, 49.8) to (99.4, 91.5, 94.3) takes its MNIST numbers from Table 3, "
    "additive noise, and the others from multiplicative noise.",
    "A loss below 0.2 points is claimed up to 0.4; the best of Table 2 are 99.6 and 99.3, 0.3 points.",
    "The gain of votes for strokes is read off Table 6, which has no votes; it is Table 9.",
    "The 93 % of a DenseNet is attributed to the paper on residual networks; it is Huang and others' of 2017.",
    "99.5 % is called the same as 99.6 %, and one inference has 99.5 % at sigma_val 0.2: the 14 dB compare 0.2 "
    "with 1.0.",
)


def verdicts(ledger: Ledger) -> pd.DataFrame:
    """A row per claim: where, claim, paper, ours, verdict (holds, fails, untested)."""
    rows = []
    for claim in CLAIMS:
        try:
            ours, holds = claim.check(ledger)
            verdict = "holds" if holds else "fails"
        except Untested as why:
            ours, verdict = str(why), "untested"
        rows.append({"where": claim.where, "claim": claim.says, "paper": claim.paper, "ours": ours, "verdict": verdict})
    return pd.DataFrame(rows)


def page(found: pd.DataFrame) -> str:
    """docs/claims.md."""
    counts = found["verdict"].value_counts()
    words = {"holds": "hold", "fails": "fail", "untested": "untested"}
    told = ", ".join(f"{counts.get(verdict, 0)} {word}" for verdict, word in words.items())
    lines = [
        "# The paper's claims",
        "",
        "Each sentence with a number of Qin and Vucinic, *Noisy Computations during Inference: Harmful or Helpful?*",
        "(2018), ours beside it, and a verdict. `python benchmarks/paper.py --claims` writes it from the cells that",
        "are measured for [paper.md](paper.md).",
        "",
        "Accuracies are per cent with their 95 % Wilson interval, of 10,000 test samples where nothing else is said.",
        "An accuracy that a method reaches holds where ours is as high within the interval; a loss or a limit holds",
        "where ours keeps it; a gain holds where its interval is above zero and reaches the paper's. The best training",
        "is the best of those that were measured on all samples.",
        "",
        f"{len(found)} claims: {told}.",
        "",
        "| section | claim | paper | Mho | verdict |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in found.to_numpy().tolist()),
        "",
        "## Where the paper contradicts itself",
        "",
        *(f"- {line}" for line in INCONSISTENT),
        "",
    ]
    return "\n".join(lines)

"""Every numeric claim of the paper with ours beside it and a verdict: `python benchmarks/paper.py --claims`.

Where the paper states an accuracy that a method reaches, the claim holds if ours is as high, within its 95 % interval;
where it states a fall, if ours falls as low; where it states a loss or a limit, if ours keeps it. Nothing is measured
here: the ledger reads the committed cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd

from .checks import (
    beside,
    clean,
    collapse,
    concentrated,
    confirmed,
    confused,
    defended,
    energy,
    flat,
    gained_by_votes,
    heavier,
    helped,
    kept,
    latency,
    lost,
    million,
    one_training,
    same_accuracy_gain,
    slower,
    snr,
    square,
    tolerance_gain,
    trained,
    uniform,
    voted,
    within,
)
from .ledger import Found, Ledger, Untested


@dataclass(frozen=True)
class Claim:
    """A sentence with a number: where it stands, what it says in our words, the number, and how it is checked."""

    where: str
    says: str
    paper: str
    check: Callable[[Ledger], Found]


def _of_three(
    where: str, says: str, check: Callable[..., Found], stated: tuple[float, float, float]
) -> Iterator[Claim]:
    for data, value in zip(("MNIST", "CIFAR-10", "strokes"), stated, strict=True):
        yield Claim(where, f"{data}: {says}", f"{value} %", partial(check, data=data, stated=value))


def _at_04(says: str, check: Callable[..., Found], stated: tuple[float, float, float]) -> Iterator[Claim]:
    """Of the conclusion, whose MNIST numbers are those of additive noise."""
    noises = (("MNIST, additive", "MNIST", "add"), ("CIFAR-10", "CIFAR-10", "mult"), ("strokes", "strokes", "mult"))
    for (said, data, noise), value in zip(noises, stated, strict=True):
        yield Claim(
            "5", f"{said}: {says}", f"{value} %", partial(check, data=data, stated=value, sigma=0.4, noise=noise)
        )


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
    Claim("3.3", "strokes: networks that are trained separately confirm it", "several", confirmed),
    *_of_three("3.1", "trained without noise, noiseless inference reaches", clean, (99.5, 92.5, 94.8)),
    Claim("3.1", "parameters of the DenseNet", "about a million", million),
    *(
        Claim(
            "3.2",
            f"{said}: training with noise is better at every sigma_val, 0 among them",
            "uniformly",
            partial(uniform, data=data, noise=noise),
        )
        for said, data, noise in (
            ("MNIST, multiplicative", "MNIST", "mult"),
            ("MNIST, additive", "MNIST", "add"),
            ("CIFAR-10", "CIFAR-10", "mult"),
            ("strokes", "strokes", "mult"),
        )
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
        "the same, by the paper's protocol begun as Keras does",
        "5.8 points",
        partial(lost, noise="protocol", points=5.8),
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
        "3.2.1",
        "one image of a 6, trained without noise: from sigma_val 0.6 on 8 comes next (Figure 4)",
        "6 and 8",
        partial(confused, weights="sigma-0.0", digit=8),
    ),
    Claim(
        "3.2.1",
        "one image of a 6, trained with sigma_train 1.0: 6 stays the most frequent answer (Figure 5)",
        "always",
        partial(confused, weights="sigma-1.0", digit=None),
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
    Claim("3.3", "SNR of sigma_val 0.2", "14 dB", lambda ledger: snr(14, 0.2, 0.5)),
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
    Claim("3.3", "power of K votes", "K P", energy),
    Claim("3.3", "power follows the square of the voltage", "P ~ V^2", square),
    *(
        Claim(
            "4",
            f"{data}: noise raises accuracy under black-box attack by",
            f"{points} points",
            partial(defended, data=data, points=points),
        )
        for data, points in (("MNIST", 0.5), ("CIFAR-10", 1.13))
    ),
    *_at_04("trained without noise, inference at sigma_val 0.4 falls to", collapse, (95.8, 88.5, 49.8)),
    *_at_04("trained with noise, one inference at sigma_val 0.4 reaches", trained, (99.4, 91.5, 94.3)),
)

INCONSISTENT = (
    "The introduction gives 10.1 % for strokes trained without noise at sigma_val 1.0; the abstract, Table 6 and "
    "the conclusion give 15.5 %.",
    "A loss of 5.8 points at sigma_val 0.4 is stated; Table 2 has 99.5 and 93.5, 6.0 points, and 99.3 and 93.5, 5.8.",
    "A loss of 3.6 points is stated for additive noise; Table 3 has 99.5 and 95.8, 3.7 points.",
    "The conclusion's gain from (95.8, 88.5, 49.8) to (99.4, 91.5, 94.3) takes its MNIST numbers from Table 3, "
    "additive noise, and the others from multiplicative noise.",
    "A loss below 0.2 points is claimed up to 0.4; the best of Table 2 are 99.6 and 99.3, 0.3 points.",
    "A loss below 0.3 points is claimed for additive noise up to 0.6; the best of Table 3 are 99.6 and 99.2, 0.4.",
    "Losses are counted from two bases: the 0.2 and 0.3 points of MNIST fit the noiseless training, 99.5 %, the 1.3 "
    "points of CIFAR-10 and strokes the best, 92.8 and 95.6 %. All four are exactly so large, and said to be less.",
    "For strokes a loss of 1 point is said to allow sigma_val 0.4 without votes; the best of Table 6 lose 1.3 points "
    "there, from 95.6 to 94.3 %.",
    "The gain of votes for strokes is read off Table 6, which has no votes; it is Table 9.",
    "The 93 % of a DenseNet is attributed to the paper on residual networks; it is Huang and others' of 2017.",
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
        "An accuracy that a method reaches holds where ours is as high within the interval; a fall holds where ours",
        "falls as low, so that it fails for networks that stand more noise than the paper's; a loss or a limit holds",
        "where ours keeps it; a gain holds where its interval is above zero and reaches the paper's. The best training",
        "is the best of those that were measured on the most samples. One inference is the mean of 20 (of DenseNet-40,",
        "with 10,000 samples, one), the paper's of 50. Where ours is worse, [paper.md](paper.md) says why, below the",
        "table.",
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

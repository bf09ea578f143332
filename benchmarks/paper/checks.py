"""How the claims of `claims.py` are checked: each function takes the ledger, says what came out and whether it holds.

It raises `Untested` where the ledger lacks what it needs.
"""

from __future__ import annotations

from math import sqrt

import mho
from mho import models
from mho.mapping.architecture import closed_forms

from . import seeds
from .ledger import Found, Ledger, Untested, decibels, of, said

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
CONFUSED = 0.6  # from this noise of inference on the paper's Figure 4 has an 8 beside the 6


def collapse(ledger: Ledger, data: str, stated: float, sigma: float = 1.0, noise: str = "mult") -> Found:
    found = ledger.single(data, sigma, 0.0, noise)
    return Found(said(found), 100 * found.low <= stated)


def trained(ledger: Ledger, data: str, stated: float, sigma: float = 1.0, noise: str = "mult") -> Found:
    found = ledger.single(data, sigma, None, noise)
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


def confirmed(ledger: Ledger) -> Found:
    """Votes of networks with other seeds do, by one of the trainings, on average more than they do without noise."""
    if (count := ledger.again["seed"].nunique()) < seeds.FEWEST:
        raise Untested(f"{count} networks are trained, an interval needs {seeds.FEWEST}")
    best = max((seeds.gain_of(ledger.again, sigma) for sigma in seeds.VOTED), key=lambda gain: gain.mean - gain.half)
    return Found(f"{best.mean:+.2f} ± {best.half:.2f} points over {best.count} networks", best.mean > best.half)


def lost(ledger: Ledger, noise: str, points: float) -> Found:
    quiet, found = (ledger.single("MNIST", sigma, 0.0, noise) for sigma in (0.0, 0.4))
    return Found(f"{100 * (quiet - found):.2f} points", 100 * (quiet - found.low) >= points - 0.05)


def uniform(ledger: Ledger, data: str, noise: str = "mult") -> Found:
    """Some training with noise beats that without at every noise of inference, 0 among them, by more than the samples
    leave open.
    """
    gains, samples = [], []
    for sigma, rows in ledger.all_trainings(data, noise).items():
        means = rows.groupby("sigma_train")["single"].mean()
        best, clean = means.drop(0.0).max(), means[0.0]
        open_ = 1.96 * sqrt((best * (1 - best) + clean * (1 - clean)) / rows["images"].iloc[0])
        gains.append((sigma, 100 * (best - clean), 100 * open_))
        samples.append(int(rows["images"].iloc[0]))
    sigma, least, open_ = min(gains, key=lambda found: found[1] - found[2])
    told = f"gains of {least:.2f} ± {open_:.2f} points (at {sigma}) to {max(gain for _, gain, _ in gains):.1f}"
    return Found(told + of(*samples), bool(least > open_))


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
    return Found(f"{worst:.3f} points{of(int(found['images'].iloc[0]))}", worst < points)


def snr(stated: float, sigma: float, half: float = 0.005) -> Found:
    """`half`: of the last digit stated."""
    found = decibels(sigma)
    return Found(f"{found:.2f} dB", abs(found - stated) < half)


def concentrated(ledger: Ledger) -> Found:
    rows = ledger.cells[(ledger.cells["images"] == 10_000) & (ledger.cells["k"] <= 20)]
    rows = rows[rows.groupby("key")["k"].transform("max") == 20]
    by_cell = rows.groupby("key")["single"]
    away, spread = by_cell.agg(lambda x: (x - x.mean()).abs().max()), by_cell.std()
    wide = int((away >= 0.01).sum())
    told = f"up to {100 * away.max():.2f} points from the mean, 1 or more in {wide} of {len(away)} cells of 20 runs"
    return Found(f"{told}; standard deviation at most {100 * spread.max():.2f}", wide == 0)


def heavier(ledger: Ledger, column: str) -> Found:
    by = ledger.weights.set_index("sigma_train")[column].dropna()
    if len(by) < 2:
        raise Untested("not trained yet")
    quiet, noisy = by[0.0], by.drop(0.0)
    return Found(f"{quiet:.3f} without, {noisy.min():.3f} to {noisy.max():.3f} with", noisy.min() > quiet)


def confused(ledger: Ledger, weights: str, digit: int | None) -> Found:
    """Of one image of a 6: which answer is the most frequent of the wrong ones from `CONFUSED` on. Holds if it is
    `digit`, or, for None, if 6 stays the most frequent of all.
    """
    shares = ledger.outputs[(ledger.outputs["weights"] == weights) & (ledger.outputs["sigma_val"] >= CONFUSED)]
    if shares.empty:
        raise Untested(f"no outputs of {weights}")
    told, holds = [], []
    for sigma, rows in shares.groupby("sigma_val"):
        answers = rows.set_index("digit")["share"]
        right, wrong = answers[6], answers.drop(6)
        told += [f"{100 * right:.0f} % say 6, {100 * wrong.max():.0f} % {wrong.idxmax()} (at {sigma})"]
        holds += [wrong.idxmax() == digit if digit is not None else right > wrong.max()]
    return Found("; ".join(told), all(holds))


def slower(ledger: Ledger) -> Found:
    first = ledger.curves[ledger.curves["minibatch"] == ledger.curves["minibatch"].min()].sort_values("sigma_train")
    values = first["accuracy"].tolist()
    return Found(
        f"{100 * values[0]:.1f} to {100 * values[-1]:.1f} % after {int(first['minibatch'].iloc[0]):,} minibatches",
        values == sorted(values, reverse=True),
    )


def gained_by_votes(ledger: Ledger, data: str, points: float) -> Found:
    one, many = ledger.single(data, 1.0), ledger.voted(data, 1.0)
    return Found(f"{100 * one:.2f} to {100 * many:.2f}{of(many.n)}", 100 * (many - one) > points)


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
    told = f"{gain:.1f} dB: from {one} to {many}{of(ledger.voted(data, many or 1.0).n)}"
    return Found(told, gain >= stated - 0.05)


def flat(ledger: Ledger, data: str) -> Found:
    rows = ledger.rows(data, "mult", 1.0, images=int(ledger.rows(data, "mult", 1.0, k=20)["images"].iloc[0]))
    best = rows[rows["sigma_train"] == rows.loc[rows["hard"].idxmax(), "sigma_train"]].set_index("k")["hard"]
    first, second = 100 * (best[10] - best[1]), 100 * (best[20] - best[10])
    told = f"{first:.1f} points to 10 votes, {second:.1f} from there to 20{of(int(rows['images'].iloc[0]))}"
    return Found(told, second < first / 5)


def latency(ledger: Ledger) -> Found:
    layers, k, t = 8, 20, 1e-6
    run = mho.schedule(stages=[t] * layers, votes=k, voter=t)
    alone = closed_forms.sequential([t] * layers, k)
    told = f"{run.makespan_s / t:.0f} T for L = {layers}, K = {k}; {alone / t:.0f} T one after the other"
    return Found(told, abs(run.makespan_s / t - layers - k) < 1e-9)


def beside(ledger: Ledger) -> Found:
    layers, k, t = 8, 20, 1e-6
    run = mho.schedule(stages=[t] * layers, votes=k, copies=k)
    told = f"{run.makespan_s / t:.0f} T for L = {layers}, K = {k}; a voter adds its own T"
    return Found(told, run.makespan_s <= layers * t * (1 + 1e-9))


def energy(ledger: Ledger) -> Found:
    """Of K votes over that of one, leakage included, for all networks and presets."""
    found = ledger.costs["votes"].set_index(["network", "preset", "votes"])["energy_full_j"].unstack("votes")
    ratio = found[20] / found[1]
    ends = " to ".join(sorted({f"{ratio.min():.1f}", f"{ratio.max():.1f}"}))
    return Found(f"{ends} times the energy of one for K = 20", bool((ratio / 20 - 1).abs().max() < 0.01))


def square(ledger: Ledger) -> Found:
    """Power at a preset's own read voltage over that at a quarter of it."""
    found = ledger.costs["voltage"].sort_values("v_read").groupby(["network", "preset"])
    low, own = found.first(), found.last()
    steps, array = own["v_read"] / low["v_read"], own["power_array_w"] / low["power_array_w"]
    chip = own[["power_array_w", "power_rest_w"]].sum(axis=1) / low[["power_array_w", "power_rest_w"]].sum(axis=1)
    told = f"the array {array.min():.1f} times less at a quarter of the voltage"
    return Found(
        f"{told}, the chip {chip.min():.2f} to {chip.max():.2f} times", bool((chip / steps**2 - 1).abs().max() < 0.05)
    )


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
    return Found(told + of(int(best["n"])), bool(low > 0 and high >= points))

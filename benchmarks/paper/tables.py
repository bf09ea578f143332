"""The tables of the paper beside ours, from the cells that `cells.py` measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mho.mapping.voting.intervals import Accuracy

from .cells import (
    COMPLETE,
    QUICK,
    SINGLE,
    VOTED,
    Cell,
    Measurement,
    mcnemar,
    otherwise_trained,
    right,
    rms_weight,
    trained,
)

PAPER: dict[Any, Any] = yaml.safe_load(Path(__file__).with_name("numbers.yaml").read_text(encoding="utf-8"))
SIGMA_VAL: list[float] = PAPER["sigma_val"]
TABLES, ACCURACIES = (2, 3, 4, 5, 6, 7, 8, 9), (2, 3, 5, 6)
CLOSE = 0.005  # accuracies of few samples that are closer than this to the best may well be better
OTHERWISE = {  # rows of weights by another recipe
    "dropout": "without noise but with dropout, Mho",
    "protocol": "trained without noise, the paper's protocol begun as Keras does, Mho",
    "protocol_best": "best of that protocol, Mho",
}


def shown(number: int) -> tuple[str, str]:
    """Network and noise of a table."""
    entry = PAPER[number]
    entry = PAPER[entry["of"]] if "of" in entry else entry
    return entry["network"], entry["noise"]


@dataclass(frozen=True)
class Grid:
    """Where cells come from: `quick` for all pairs of sigma_train and sigma_val, `single` and `voted` for those that a
    table states, of one inference and of votes."""

    quick: Measurement
    single: Measurement
    voted: Measurement

    @classmethod
    def of(cls, stated: Measurement, quick: int) -> Grid:
        """Cells like those of `stated`, the quick ones of fewer samples; all of less for slow networks."""
        return cls(
            replace(stated, images=quick, at_most=QUICK),
            replace(stated, at_most=SINGLE),
            replace(stated, at_most=VOTED),
        )

    def candidates(self, network: str, noise: str, sigma_val: float) -> dict[str, pd.DataFrame]:
        """The cells of all trained weights at one noise that the best is chosen from."""
        every = self.every(network)
        return {weights: every.cell(Cell(network, weights, sigma_val)) for weights in trained(network, noise)}

    def every(self, network: str) -> Measurement:
        """Of all pairs of weights and noise, which curves are drawn from and the best is chosen from."""
        return self.single if network in COMPLETE else self.quick

    def best(self, network: str, noise: str, sigma_val: float, voted: bool) -> str:
        """The weights that do best at one noise, alone or in all votes.

        Of a network whose cells are of few samples, one inference of those that are nearly as good there is measured
        again, on as many samples as the table states, and decides. Votes of all of them would take too long.
        """
        found = {
            weights: float(cell["hard"].iloc[-1] if voted else cell["single"].mean())
            for weights, cell in self.candidates(network, noise, sigma_val).items()
        }
        best = max(found, key=lambda weights: found[weights])
        close = [weights for weights, share in found.items() if share >= found[best] - CLOSE]
        if network in COMPLETE or voted or len(close) == 1:
            return best
        again = {weights: self.single.cell(Cell(network, weights, sigma_val))["single"].mean() for weights in close}
        return max(again, key=lambda weights: again[weights])

    def crossed(self, network: str, noise: str, sigma_val: float, voted: bool) -> dict[str, float]:
        """`crossed`: accuracy of the best in per cent where every other sample chooses and the rest is measured, both
        ways, with the 95 % Wilson interval `crossed_low`, `crossed_high`. It is not raised by the choice, as that of
        the best cell is.

        `against`: p value of McNemar's exact test of the best cell against that trained without noise, on the same
        samples; of the first inference, or of the vote. NaN for itself. None of these for an incomplete table.
        """
        if network not in COMPLETE:
            return {}
        cells = self.candidates(network, noise, sigma_val)
        bits = {weights: right(cell, -1 if voted else 0) for weights, cell in cells.items()}
        count = 0
        for own, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
            chosen = max(bits, key=lambda weights: bits[weights][own].mean())
            count += int(bits[chosen][other].sum())
        best = bits[self.best(network, noise, sigma_val, voted)]
        clean = next((found for weights, found in bits.items() if weights.endswith("sigma-0.0")), best)
        found = Accuracy(count, len(best))
        names = ("crossed", "crossed_low", "crossed_high")
        return dict(zip(names, (100 * x for x in (found, found.low, found.high)), strict=True)) | {
            "against": mcnemar(best, clean)
        }


def accuracies(grid: Grid, number: int) -> pd.DataFrame:
    """Tables 2, 3, 5 and 6: a row per sigma_val, accuracies in per cent.

    `clean` and `best` are means over all inferences, `..._std` their standard deviation from one inference to the
    next, `..._half` half the 95 % Wilson interval for the number of samples, `by` the sigma_train of the best.
    Weights by another recipe (`cells.OTHER`) have columns of their own: those without noise that of their kind, and
    where there are some with noise, `KIND_best` the best of all, `KIND_by` its sigma_train.
    """
    paper = PAPER[number]
    network, noise = shown(number)
    there = trained(network, noise)
    clean = next((name for name in there if name.endswith("sigma-0.0")), None)
    rows = []
    for place, sigma_val in enumerate(SIGMA_VAL):
        row: dict[str, Any] = {"table": number, "sigma_val": sigma_val}
        row |= {
            "paper_clean": paper["clean"][place],
            "paper_best": paper["best"][place],
            "paper_by": paper["by"][place],
        }
        chosen = {"clean": clean, "best": grid.best(network, noise, sigma_val, voted=False) if there else None}
        for name, best in chosen.items():
            row |= _single(grid, network, best, sigma_val, name)
        for kind, weights in otherwise_trained(network, noise).items():
            row |= _otherwise(grid, network, weights, sigma_val, kind)
        row["by"] = float("nan") if chosen["best"] is None else Cell(network, chosen["best"], sigma_val).sigma_train
        row |= grid.crossed(network, noise, sigma_val, voted=False)
        rows.append(row)
    return pd.DataFrame(rows)


def _single(grid: Grid, network: str, weights: str | None, sigma_val: float, name: str) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys((name, f"{name}_std", f"{name}_half"), float("nan"))
    cell = grid.single.cell(Cell(network, weights, sigma_val))
    one = cell.iloc[0]
    spread = float(cell["single"].std()) if len(cell) > 1 else 0.0
    half = float(one["high"] - one["low"]) / 2
    return {name: 100 * float(cell["single"].mean()), f"{name}_std": 100 * spread, f"{name}_half": 100 * half}


def _otherwise(grid: Grid, network: str, weights: list[str], sigma_val: float, kind: str) -> dict[str, float]:
    """The columns of weights by another recipe."""
    found = [_single(grid, network, name, sigma_val, kind) for name in weights]
    if len(found) == 1:
        return found[0]
    best = max(range(len(found)), key=lambda i: found[i][kind])
    renamed = {name.replace(kind, f"{kind}_best"): value for name, value in found[best].items()}
    return found[0] | renamed | {f"{kind}_by": Cell(network, weights[best], sigma_val).sigma_train}


def voting(grid: Grid, number: int) -> pd.DataFrame:
    """Tables 7 to 9: a row per sigma_val, accuracies in per cent of the vote of all inferences.

    `voted` is the hard vote with its interval `low`, `high`, `soft` and `adaptive` the other two, `reads` the mean
    inferences of the latter; `by` the sigma_train.
    """
    paper = PAPER[number]
    network, noise = shown(number)
    rows = []
    for place, sigma_val in enumerate(SIGMA_VAL):
        row: dict[str, Any] = {"table": number, "sigma_val": sigma_val}
        row |= {"paper_voted": paper["best"][place], "paper_by": paper["by"][place]}
        if trained(network, noise):
            weights = grid.best(network, noise, sigma_val, voted=True)
            measured = grid.voted if sigma_val else grid.single
            last = measured.cell(Cell(network, weights, sigma_val)).iloc[-1]
            row |= {"voted": 100 * last["hard"], "low": 100 * last["low"], "high": 100 * last["high"]}
            row |= {"soft": 100 * last["soft"], "adaptive": 100 * last["adaptive"], "reads": last["reads"]}
            row["by"] = last["sigma_train"]
            row |= grid.crossed(network, noise, sigma_val, voted=True)
        rows.append(row)
    return pd.DataFrame(rows)


def weights_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Table 4: root mean square of all weights of the networks trained with multiplicative noise, of those of the
    learning curves, and of those begun as Keras does.
    """

    def by_sigma(those: list[str]) -> dict[float, float]:
        return {float(name.rpartition("-")[2]): rms_weight("mnist_cnn", name) for name in those}

    ours = by_sigma(trained("mnist_cnn", "mult"))
    begun = by_sigma(otherwise_trained("mnist_cnn", "mult").get("protocol", []))
    same = {} if curves.empty else curves.groupby("sigma_train")["rms_weight"].last().to_dict()
    found = pd.DataFrame({"table": 4, "sigma_train": PAPER[4]["sigma_train"], "paper_rms": PAPER[4]["rms_weight"]})
    columns = {"rms": ours, "rms_by_protocol": same, "rms_begun_as_keras": begun}
    return found.assign(**{name: found["sigma_train"].map(values) for name, values in columns.items()})


def table(grid: Grid, number: int, curves: pd.DataFrame) -> pd.DataFrame:
    """One of Tables 2 to 9; `curves`, of which Table 4 has a line, may be empty."""
    if number == 4:
        return weights_table(curves)
    return accuracies(grid, number) if number in ACCURACIES else voting(grid, number)


def markdown(number: int, found: pd.DataFrame) -> str:
    """A table of the paper with ours below each of its lines."""
    if number == 4:
        lines = [("sigma_train", [f"{s:.1f}" for s in found["sigma_train"]])]
        whose = {"paper": "paper_rms", "Mho": "rms", "Mho, the paper's protocol": "rms_by_protocol"}
        whose |= {"Mho, that protocol begun as Keras does": "rms_begun_as_keras"}
        lines += [(who, [_number(v, 3) for v in found[column]]) for who, column in whose.items()]
    elif number in ACCURACIES:
        lines = [("sigma_val", [f"{s:.1f}" for s in found["sigma_val"]])]
        lines += [("trained without noise, paper", [_number(v, 1) for v in found["paper_clean"]])]
        lines += [("trained without noise, Mho", _with_half(found, "clean"))]
        lines += [(name, _with_half(found, kind)) for kind, name in OTHERWISE.items() if kind in found]
        lines += [("best, paper", [_number(v, 1) for v in found["paper_best"]])]
        lines += [("best, Mho", _with_half(found, "best"))]
        lines += _crossed(found)
        lines += [("sigma_train of the best, paper", [_number(v, 1) for v in found["paper_by"]])]
        lines += [("sigma_train of the best, Mho", [_number(v, 1) for v in found["by"]])]
        if "protocol_by" in found:
            lines += [("sigma_train of the best of that protocol, Mho", [_number(v, 1) for v in found["protocol_by"]])]
    else:
        lines = [("sigma_val", [f"{s:.1f}" for s in found["sigma_val"]])]
        lines += [("hard vote, paper", [_number(v, 1) for v in found["paper_voted"]])]
        if "voted" in found:
            hard = [f"{v:.2f} ({a:.2f} to {b:.2f})" for v, a, b in found[["voted", "low", "high"]].to_numpy()]
            lines += [("hard vote, Mho", hard), ("soft vote, Mho", [_number(v, 2) for v in found["soft"]])]
            lines += [("adaptive vote, Mho", [_number(v, 2) for v in found["adaptive"]])]
            lines += [("its mean number of inferences", [_number(v, 1) for v in found["reads"]])]
            lines += _crossed(found)
            lines += [("sigma_train, Mho", [_number(v, 1) for v in found["by"]])]
        lines += [("sigma_train, paper", [_number(v, 1) for v in found["paper_by"]])]
    rows = [f"| {name} | {' | '.join(values)} |" for name, values in lines]
    return "\n".join([rows[0], "|---" * (len(lines[0][1]) + 1) + "|", *rows[1:]])


def _crossed(found: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """See `Grid.crossed`."""
    if "crossed" not in found:
        return []
    half = [f"{v:.2f} ({a:.2f} to {b:.2f})" for v, a, b in found[["crossed", "crossed_low", "crossed_high"]].to_numpy()]
    p = ["the same" if v != v else "< 0.0001" if v < 1e-4 else f"{v:.2g}" for v in found["against"]]
    return [("best, chosen on the other half", half), ("p, best against trained without noise", p)]


def at_most_apart(found: pd.DataFrame, one: str, other: str) -> str:
    """The largest difference of two rows, in points."""
    return f"{(found[one] - found[other]).abs().max():.1f}"


def below(number: int, found: pd.DataFrame, row: str = "", than: str = "") -> list[str]:
    """The cells of a row that are less than the paper's, which has them to 0.1: of the best or voted, or of `row`."""
    ours = row or ("best" if number in ACCURACIES else "voted")
    theirs = than or f"paper_{ours}"
    return [
        f"{row[ours]:.2f} for {row[theirs]:.1f} at sigma_val {row['sigma_val']:.1f}"
        for row in found.to_dict("records")
        if row[ours] < row[theirs] - 0.05
    ]


def _with_half(found: pd.DataFrame, name: str) -> list[str]:
    return [
        "not trained" if value != value else f"{value:.2f} ± {half:.2f}"
        for value, half in found[[name, f"{name}_half"]].to_numpy()
    ]


def _number(value: float, digits: int) -> str:
    return "not trained" if value != value else f"{value:.{digits}f}"

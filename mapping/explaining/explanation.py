"""What an explanation found: tables, sentences, a figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..voting.clusters import Estimate
from ..voting.intervals import Accuracy
from .differences import Difference
from .picture import draw
from .sources import NOISE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.9  # of what all noise of reads costs, from which on one part of it is named in its place
NAMED = 3  # layers, sources or tries in a sentence


@dataclass(frozen=True)
class Explanation:
    """Why a chip is less accurate than its network: see `explain`.

    All differences are those of answers to the same samples. In tables each comes as `..._low`, `..._high`, the ends of
    its 95 % interval, and `..._sure`: whether it would leave out 0 if the tests of its table were to be wrong in 5 % of
    all explanations together (Bonferroni), so that one of many does not stand out by chance. If the chip has
    lost nothing, nothing is certain. Where labels are target numbers, mean squared errors take the place of accuracies,
    and gains are their decrease.

    Attributes:
        digital, chip: accuracy of the network and of the chip.
        loss: by how much the network is better.
        layers: a row per layer or group: `gain` with it computed digitally, all else on tiles; `cost` with it on tiles,
            all else digital, against the network.
        sources: a row per source of error, in all layers (`layer` is "all"), or in one of the worst: `gain` without the
            source; `cost` with no other source, against the network.
        tries: a row per try: `gain`; `energy_j` and `time_s` of a decision (one layer after the other) and what they
            are relative to the chip's (NaN: unknown); `outside`, settings beyond the data behind their models.
        left_out: what was not measured, and why.
        samples, votes, measured: how many samples were classified, by so many inferences each, how many times.
    """

    digital: Accuracy | Estimate
    chip: Accuracy | Estimate
    loss: Difference
    layers: pd.DataFrame
    sources: pd.DataFrame
    tries: pd.DataFrame
    left_out: tuple[str, ...]
    samples: int
    votes: int
    measured: int

    @property
    def classes(self) -> bool:
        """Whether answers are classes."""
        return isinstance(self.chip, Accuracy)

    @property
    def lost(self) -> bool:
        """Whether the chip is surely worse than its network."""
        return self.loss.low > 0

    @property
    def worst_layer(self) -> str | None:
        """The layer or group that surely matters most: by what the chip gains without it, or by what it costs alone."""
        return self._worst(self.layers, "layer")

    @property
    def worst_source(self) -> str | None:
        """The source of error that surely matters most, in all layers together, as `worst_layer`.

        Where it is the noise of reads as a whole, and one part of it makes most of that, it is that part.
        """
        whole = self.sources[self.sources["layer"] == "all"]
        worst = self._worst(whole, "source")
        if worst != NOISE:
            return worst
        parts = whole[(whole["kind"] == "fresh") & (whole["source"] != NOISE)]
        most = _sure(whole[whole["source"] == NOISE]).max()
        return self._worst(parts[_sure(parts) >= SHARE * most], "source") or NOISE

    @property
    def worst_place(self) -> tuple[str, str] | None:
        """The source and the layer where switching off one in the other surely gains most; None: no such pair."""
        if not self.lost:
            return None
        found = self.sources[(self.sources["layer"] != "all") & self.sources["gain_sure"] & (self.sources["gain"] > 0)]
        if not len(found):
            return None
        row = _largest(found, found["gain"])
        return str(row["source"]), str(row["layer"])

    def _worst(self, table: pd.DataFrame, column: str) -> str | None:
        sizes = _sure(table)
        if not self.lost or not len(sizes) or sizes.max() <= 0:
            return None
        return str(_largest(table, sizes)[column])

    def table(self) -> pd.DataFrame:
        """All that was measured, a row each: columns `about`, `layer`, `source` or `try` (`name`), and the figures."""
        parts = [
            self.layers.assign(about="layer", name=self.layers["layer"]),
            self.sources.assign(about="source", name=self.sources["source"]),
            self.tries.assign(about="try", name=self.tries["try"]),
        ]
        found = pd.DataFrame([row for part in parts for row in part.to_dict("records")])
        first = ["about", "name", "layer"]
        rest = [column for column in found.columns if column not in (*first, "source", "try")]
        return found.reindex(columns=[*first, *rest])

    @property
    def findings(self) -> list[str]:
        """The certain findings, in sentences; if nothing is lost, they say so."""
        head = f"network {self._value(self.digital)}, chip {self._value(self.chip)}"
        if not self.lost:
            return [
                f"{head}: no loss is shown, the difference is {self._difference(self.loss)}; "
                f"{self.samples} samples would show one of about {self._size(self.loss.high - self.loss.value)}"
            ]
        return [
            f"{head}: {self._difference(self.loss)} lost",
            *self._of_layers(),
            *self._of_sources(),
            *self._of_tries(),
        ]

    def _of_layers(self) -> Iterator[str]:
        sure = self.layers[self.layers["gain_sure"] & (self.layers["gain"] > 0)].nlargest(NAMED, "gain")
        alone = self.layers[self.layers["cost_sure"] & (self.layers["cost"] > 0)].nlargest(NAMED, "cost")
        if len(sure):
            yield "layers that the chip gains most without: " + "; ".join(self._each(sure, "layer", "gain"))
        else:
            yield "no single layer wins anything for sure by being digital"
        if len(alone):
            yield "layers that cost most on their own: " + "; ".join(self._each(alone, "layer", "cost"))

    def _of_sources(self) -> Iterator[str]:
        worst, whole = self.worst_source, self.sources[self.sources["layer"] == "all"]
        if worst is None:
            yield "no single source of error costs anything for sure"
            return
        row = whole[whole["source"] == worst].iloc[0]
        if row["gain_sure"] and row["gain"] > 0:
            yield f"the source that costs most: {worst}; without it in all layers {self._gain(row, 'gain')}"
        else:
            yield f"the source that costs most on its own: {worst}, {self._gain(row, 'cost')}; others hide what it does"
        parts = whole[(whole["kind"] == "fresh") & (whole["source"] != NOISE) & (_sure(whole) > 0)]
        if worst == NOISE and len(parts):
            part = _largest(parts, _sure(parts))
            yield f"most of it is {part['source']}: without it {self._gain(part, 'gain')}"
        if self.worst_place is not None:
            source, layer = self.worst_place
            places = self.sources
            row = places[(places["layer"] == layer) & (places["source"] == source)].iloc[0]
            yield f"most of all in {layer}: without {source} there {self._gain(row, 'gain')}"

    def _of_tries(self) -> Iterator[str]:
        sure = self.tries[self.tries["gain_sure"] & (self.tries["gain"] > 0)].nlargest(NAMED, "gain")
        if len(sure):
            yield "what helps most: " + "; ".join(
                f"{row['try']} {self._gain(row, 'gain')}{_ratios(row)}" for row in sure.to_dict("records")
            )
        elif len(self.tries):
            yield "nothing of what was tried helps for sure"

    def _each(self, rows: pd.DataFrame, name: str, key: str) -> list[str]:
        return [f"{row[name]} {self._gain(row, key)}" for row in rows.to_dict("records")]

    def _gain(self, row: Any, key: str) -> str:
        return self._difference(Difference(row[key], row[f"{key}_low"], row[f"{key}_high"]), sign=key == "gain")

    def _value(self, value: Accuracy | Estimate) -> str:
        return f"{value}" if self.classes else f"mean squared error {value}"

    def _size(self, value: float) -> str:
        return f"{100 * value:.2f} points" if self.classes else f"{value:.3g}"

    def _difference(self, d: Difference, *, sign: bool = False) -> str:
        if self.classes:
            plus = "+" if sign else ""
            return f"{100 * d.value:{plus}.2f} [{100 * d.low:.2f}, {100 * d.high:.2f}] points"
        return f"{d.value:.3g} [{d.low:.3g}, {d.high:.3g}]"

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.findings)
        tables = [self._table(table, keys) for _, table, keys in self._tables() if len(table)]
        return f"<ul>{lines}</ul>" + "".join(table.to_html(index=False) for table in tables)

    def _tables(self) -> tuple[tuple[str, pd.DataFrame, tuple[str, ...]], ...]:
        return (
            ("layer by layer", self.layers, ("layer", "gain", "cost")),
            ("source by source", self.sources, ("source", "layer", "gain", "cost")),
            ("what was tried", self.tries, ("try", "gain", "energy", "time")),
        )

    def __str__(self) -> str:
        text = [*self.findings]
        for title, table, keys in self._tables():
            if len(table):
                shown = self._table(table, keys).to_string(index=False)
                text += ["", f"{title} ({self._unit()}; * sure):", shown]
        text += ["", *(f"left out: {line}" for line in self.left_out)] if self.left_out else []
        return "\n".join(text)

    def _unit(self) -> str:
        return "points of accuracy" if self.classes else "mean squared error"

    def _table(self, table: pd.DataFrame, keys: tuple[str, ...]) -> pd.DataFrame:
        """A table for people."""
        shown = pd.DataFrame(index=table.index)
        for key in keys:
            if key in ("gain", "cost"):
                heads = {"gain": "gain without" if "try" not in keys else "gain", "cost": "cost alone"}
                shown[heads[key]] = [self._cell(row, key) for row in table.to_dict("records")]
            elif key in ("energy", "time"):
                shown[key] = ["-" if x != x else f"x {x:.3g}" for x in table[f"{key}_ratio"]]
            else:
                shown[key] = table[key]
        return shown

    def _cell(self, row: Any, key: str) -> str:
        value, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
        if value != value:
            return "-"
        factor, digits = (100, ".2f") if self.classes else (1, ".3g")
        star = "*" if row[f"{key}_sure"] else " "
        return f"{factor * value:{digits}} [{factor * low:{digits}}, {factor * high:{digits}}]{star}"

    def figure(self, path: str | PathLike[str] | None = None) -> Figure:
        """Gains and costs with their intervals: by layer, by source, by try. Written to `path`, if given."""
        figure = draw(self.layers, self.sources, self.tries, classes=self.classes, title=self.findings[0])
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `layers.csv`, `sources.csv`, `tries.csv`, `explanation.txt` and `explanation.png` to a folder.

        Raises:
            OSError: it cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("layers", "sources", "tries"):
            getattr(self, name).to_csv(folder / f"{name}.csv", index=False)
        (folder / "explanation.txt").write_text(f"{self}\n", encoding="utf-8")
        self.figure(folder / "explanation.png")


def _largest(table: pd.DataFrame, sizes: pd.Series) -> dict[str, Any]:
    """The row of the largest size."""
    rows: list[Any] = table.to_dict("records")
    return dict(rows[int(sizes.to_numpy().argmax())])


def _sure(table: pd.DataFrame) -> pd.Series:
    """The larger of gain and cost of each row, where it is sure; else 0."""
    sides = [table[key].where(table[f"{key}_sure"] & (table[key] > 0), 0.0) for key in ("gain", "cost")]
    return sides[0].combine(sides[1], max)


def _ratios(row: Any) -> str:
    pairs = [(row["energy_ratio"], "energy"), (row["time_ratio"], "time")]
    return "".join(f", {name} x {value:.3g}" for value, name in pairs if value == value)

"""What a search has found: the fronts of accuracy and cost, the cheapest point, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..mapping.voting.intervals import difference
from .search import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"total_energy_j": "energy (J)", "latency_s": "latency (s)", "area_m2": "area (m2)"}
NAMED = 6  # points that a line names


@dataclass(frozen=True)
class Optimum:
    """What a search found.

    Attributes:
        search: the settings of the search.
        trials: a row for each point that was measured, in the order of the trials: `task_ids`; `trial`, the first that
            chose it; what it chose; the means over its tasks of `accuracy`, of the ends `low` and `high` of its 95 %
            interval, of `accuracy_1`, `mean_reads` and the costs; `accuracy_min` of the worst task; `reaches`, whether
            `low` is at least the target, and `may_reach`, whether `high` is; `extrapolated`, its settings outside the
            data behind the models; `front_<cost>`, whether the estimates show no point that is as cheap and more
            accurate, or cheaper and as accurate; `near_front_<cost>`, whether no point that costs as little is more
            accurate by more than chance (see `difference`).
        confirmed: points measured once more, the cheapest first, in the same columns but for the fronts. The last one
            reached the target, or none did. Empty if the search does not ask for it.
    """

    search: Search
    trials: pd.DataFrame
    confirmed: pd.DataFrame

    @property
    def best(self) -> pd.Series[Any] | None:
        """The cheapest point that reaches the target, as measured last; None if there is none."""
        found = self.confirmed if self.search.confirm else ranked(self.trials, self.search.costs)
        good = found[found["reaches"]]
        return good.iloc[0] if len(good) else None

    def front(self, cost: str | None = None) -> pd.DataFrame:
        """The rows of `trials` that no other point beats, the cheapest first.

        Args:
            cost: one of the costs of the search; None is its first.

        Raises:
            ValueError: a cost that the search did not keep small.
        """
        name = self.search.costs[0] if cost is None else cost
        if name not in self.search.costs:
            raise ValueError(f"cost must be one of {', '.join(self.search.costs)}, got {name!r}")
        return self.trials[self.trials[f"front_{name}"]].sort_values(name, ignore_index=True)

    def figure(self) -> Figure:
        """Accuracy over each cost: all points, the front, the target and the best point."""
        from ..figures import fronts

        costs = {str(name): LABELS[name] for name in self.search.costs}
        best = None if self.best is None else int(self.best["trial"])
        return fronts(self.trials, costs, self.search.target, best)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        search, best = self.search, self.best
        lines = [
            f"{search.trials} trials, {len(self.trials)} points measured; "
            f"target: accuracy {100 * search.target:g} %, by the lower end of the 95 % interval"
        ]
        if best is None:
            reached = int(self.trials["reaches"].sum())
            lines.append(
                f"no point reaches the target: {reached} did in the search, and none when it was measured once more"
                if reached
                else "no point reaches the target"
            )
            may = self.trials[self.trials["may_reach"] & ~self.trials["reaches"]]
            if len(may):
                lines.append(f"the search does not tell whether others do: {_may(may)}")
        else:
            lines += [f"cheapest point that reaches it, {self._basis()}:", self._table(best.to_frame().T)]
            cost = search.costs[0]
            cheaper = self.trials[(self.trials[cost] < best[cost]) & ~self.trials["reaches"] & self.trials["may_reach"]]
            if len(cheaper):
                lines.append(f"the search does not tell whether cheaper points reach it: {_may(cheaper)}")
            if search.confirm:
                before = self.trials[self.trials["trial"] == best["trial"]].iloc[0]
                lines.append(f"in the search it had {_percent(before)}")
        for cost in search.costs:
            front, what = self.front(cost), LABELS[cost].split(" ")[0]
            near = int((self.trials[f"near_front_{cost}"] & ~self.trials[f"front_{cost}"]).sum())
            lines += ["", f"front of accuracy and {what}, as estimated:", self._table(front, steps=True)]
            lines.append(f"not told apart from it: {near} more point{'s' * (near != 1)} (near_front_{cost})")
        for said, rows in self.trials[self.trials["extrapolated"] != ""].groupby("extrapolated", sort=False):
            lines += ["", f"outside the data ({_trials(rows)}): {said}"]
        return "\n".join(lines)

    def _basis(self) -> str:
        """What the accuracy of the best point rests on."""
        if not self.search.confirm:
            return "on the images and chips that it was chosen on"
        tried = len(self.confirmed)
        return f"measured once more ({tried} candidate{'s' if tried > 1 else ''} tried)"

    def _table(self, rows: pd.DataFrame, *, steps: bool = False) -> str:
        """Points as text; with `steps`, how much more accurate each is than the one before, and whether it is told."""
        shown = rows[["trial", *self.search.search]].copy()
        for name in self.search.search:
            shown[name] = [_said(value) for value in rows[name]]
        shown["accuracy"] = [_percent(row) for _, row in rows.iterrows()]
        if steps:
            shown["more than before"] = ["-", *(_step(one, other) for one, other in pairwise(rows.to_dict("records")))]
        shown["reads"] = [f"{value:.2f}" for value in rows["mean_reads"]]
        for name, label in LABELS.items():
            shown[label] = [f"{value:.3e}" for value in rows[name]]
        return shown.to_string(index=False)


def _said(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(row: pd.Series[Any]) -> str:
    return f"{100 * row['accuracy']:.2f} % [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"


def _trials(rows: pd.DataFrame) -> str:
    """Some of the points, by trial."""
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"trial{'s' * (len(rows) > 1)} {', '.join(str(trial) for trial in rows['trial'][:NAMED])}{more}"


def _may(rows: pd.DataFrame) -> str:
    return f"the interval of {_trials(rows)} has the target in it"


def _step(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> str:
    step, low, high = (100 * value for value in difference(one, other))
    return f"{step:+.2f} [{low:+.2f}, {high:+.2f}]" + ("" if low > 0 else ", not told apart")


def near_front_of(trials: pd.DataFrame, cost: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whether no point that costs as little is more accurate by more than chance."""
    points = trials[["accuracy", "low", "high"]].to_dict("records")
    return np.array(
        [
            all(difference(point, points[k])[1] <= 0 for k in np.flatnonzero(cost <= own))
            for point, own in zip(points, cost, strict=True)
        ]
    )


def ranked(trials: pd.DataFrame, costs: Sequence[str]) -> pd.DataFrame:
    """Points from the cheapest on: by the first cost, ties by the next, and then by accuracy."""
    names = [*costs, "accuracy"]
    return trials.sort_values(names, ascending=[*[True] * len(costs), False], kind="stable", ignore_index=True)


def front_of(accuracy: np.ndarray[Any, Any], cost: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whether no other point is as cheap and more accurate, or cheaper and as accurate; of equal ones, the first."""
    on = np.zeros(len(cost), bool)
    best = -np.inf
    for point in np.lexsort((-accuracy, cost)):
        on[point] = accuracy[point] > best
        best = max(best, accuracy[point])
    return on

"""What is measured for an explanation, one stage after another: layers, sources of error, both together, tries."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .bench import CALIBRATED, Bench
from .differences import Difference, Scores
from .explanation import SHARE, Explanation
from .groups import Group, split
from .partly import Variant
from .sources import FRESH, NOISE, Present
from .tries import Cost, Settings, cost_of, outside

EACH = 24  # layers up to which each is measured by itself
WORST = 3  # layers, and sources, that are looked at together
WRONG = 0.05  # chance that any test of a table is wrong


@dataclass
class Rows:
    """The rows of a table, each with what it says and the pairs of scores whose differences it holds."""

    keys: tuple[str, ...]
    said: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, tuple[Scores, Scores]]] = field(default_factory=list)

    def add(self, said: dict[str, Any], **pairs: tuple[Scores, Scores]) -> dict[str, Difference]:
        """One more row. A pair is (the better, the worse) as one expects it; the differences are returned."""
        self.said.append(said)
        self.pairs.append(pairs)
        return {key: better.better_than(worse) for key, (better, worse) in pairs.items()}

    def best(self, row: int) -> float:
        """The largest difference of a row whose 95 % interval leaves out 0; 0 where there is none."""
        found = [better.better_than(worse) for better, worse in self.pairs[row].values()]
        return max((d.value for d in found if d.low > 0), default=0.0)

    def table(self, columns: Sequence[str], *, lost: bool) -> pd.DataFrame:
        """Columns as said, then value, ends and certainty of differences; nothing is sure of a chip without loss."""
        tests = max(1, sum(len(pairs) for pairs in self.pairs))
        made = []
        for said, pairs in zip(self.said, self.pairs, strict=True):
            row = dict(said)
            for key in self.keys:
                better, worse = pairs.get(key, (None, None))
                known = None if better is None or worse is None else better.better_than(worse)
                strict = None if better is None or worse is None else better.better_than(worse, 1 - WRONG / tests)
                row |= {
                    key: float("nan") if known is None else known.value,
                    f"{key}_low": float("nan") if known is None else known.low,
                    f"{key}_high": float("nan") if known is None else known.high,
                    f"{key}_sure": lost and strict is not None and strict.sure,
                }
            made.append(row)
        ends = [f"{key}{end}" for key in self.keys for end in ("", "_low", "_high", "_sure")]
        before = [column for column in columns if column in COMMON]
        after = [column for column in columns if column not in COMMON]
        types = {end: bool if end.endswith("_sure") else float for end in ends}  # of tables without rows too
        return pd.DataFrame(made, columns=[*before, *ends, *after]).astype(types)


COMMON = ("layer", "layers", "source", "kind", "try")


class Stages:
    """An explanation in the making.

    Attributes:
        lost: whether the chip is worse than its network.
        finished: whether all was measured that was to be.
    """

    def __init__(self, bench: Bench, groups: list[Group] | None, calibrate: Any) -> None:
        self.bench, self.groups, self.calibrate = bench, groups, calibrate
        self.digital = bench.digital()
        bench.say(f"network: {self.digital.mean}")
        self.base = bench.of()
        bench.say(f"chip: {self.base.mean}")
        self.present = Present.of(bench.chip.layers, bench.clipped)
        self.loss = self.digital.better_than(self.base)
        self.lost, self.finished = self.loss.low > 0, False
        self.by_layer, self.by_source, self.by_try = Rows(("gain", "cost")), Rows(("gain", "cost")), Rows(("gain",))
        self.measured: list[Group] = []
        self.left_out: list[str] = []
        found = len(self.present.all)
        self._plan(2 * (len(groups) if groups else min(EACH, len(bench.names))) + 2 * found)

    def _plan(self, more: int) -> None:
        self.bench.planned = min(self.bench.most, self.bench.done + more)

    def _say(self, what: str, found: Mapping[str, Difference]) -> None:
        factor, unit = (100, " points") if self.base.classes else (1, "")
        words = {"gain": "gain", "cost": "alone it costs"}
        said = [
            f"{words[key]} {factor * d.value:.3g} [{factor * d.low:.3g}, {factor * d.high:.3g}]{unit}"
            for key, d in found.items()
        ]
        self.bench.say(f"{what}: {', '.join(said)}")

    def layers(self) -> None:
        """Each layer or group digital, and each alone on tiles; of many layers the worst groups first."""
        names = self.bench.names
        if self.groups is not None or len(names) <= EACH:
            for group in self.groups or [Group(name, (name,)) for name in names]:
                self._layer(group)
            return
        queue: list[tuple[float, int]] = []
        wave, limit = split(names), self.bench.most // 2
        while wave:
            for group in wave:
                row = self._layer(group)
                if len(group.layers) > 1 and self.by_layer.best(row):
                    heapq.heappush(queue, (-self.by_layer.best(row), row))
            room = self.bench.done < limit
            wave = split(self.measured[heapq.heappop(queue)[1]].layers) if queue and room else []
        if queue:
            self.left_out.append(
                f"layers of {', '.join(self.measured[row].name for _, row in sorted(queue))}, one by one"
            )

    def _layer(self, group: Group) -> int:
        """Measure a group; the number of its row."""
        mine = frozenset(group.layers)
        without = self.bench.of(variant=Variant(digital=mine))
        alone = self.bench.of(variant=Variant(digital=frozenset(self.bench.names) - mine))
        said = {"layer": group.name, "layers": len(mine)}
        found = self.by_layer.add(said, gain=(without, self.base), cost=(self.digital, alone))
        self.measured.append(group)
        self._say(group.name, found)
        return len(self.measured) - 1

    def sources(self) -> None:
        """Each source of error switched off in all layers, and all others switched off."""
        for source in self.present.all:
            others = {
                name: [one for one in mine if not _part_of(one, source)] for name, mine in self.present.possible.items()
            }
            only = {name: [source] for name, mine in self.present.layers.items() if source in mine}
            try:
                without, alone = self.bench.off(only), self.bench.off(others)
            except ValueError as error:
                self.left_out.append(f"{source}: {error}")
                continue
            said = {"source": source, "layer": "all", "kind": _kind(source)}
            found = self.by_source.add(said, gain=(without, self.base), cost=(self.digital, alone))
            self._say(f"without {source}", found)

    def places(self) -> None:
        """The worst sources switched off in one of the worst layers, where there are several layers."""
        if len(self.bench.names) == 1:
            return
        single = [row for row, group in enumerate(self.measured) if len(group.layers) == 1]
        layers = _worst(self.by_layer, single or range(len(self.measured)))
        sources = _worst(self.by_source, self._told_apart())
        pairs = [
            (self.measured[layer], self.by_source.said[source]["source"]) for layer in layers for source in sources
        ]
        self._plan(len(pairs))
        for group, source in pairs:
            only = {name: [source] for name in group.layers if source in self.present.layers[name]}
            if not only:
                continue
            said = {"source": source, "layer": group.name, "kind": _kind(source)}
            found = self.by_source.add(said, gain=(self.bench.off(only), self.base))
            self._say(f"without {source} in {group.name}", found)

    def _told_apart(self) -> list[int]:
        """The rows of sources, without the noise of reads as a whole where one part makes most of it."""
        rows = {said["source"]: row for row, said in enumerate(self.by_source.said)}
        most = self.by_source.best(rows[NOISE]) if NOISE in rows else 0.0
        parts = [row for source, row in rows.items() if source in FRESH and self.by_source.best(row) >= SHARE * most]
        return [row for source, row in rows.items() if source != NOISE or not parts]

    def tries(self) -> None:
        """Other settings, and other ways to use the chip."""
        bench = self.bench
        single = [row for row, group in enumerate(self.measured) if len(group.layers) == 1]
        worst = _worst(self.by_layer, single)
        given = self._few() if self.calibrate is None else self.calibrate
        settings = Settings(bench.chip, given, self.measured[worst[0]].name if worst else None)
        base, tries = cost_of(bench.chip, votes=bench.votes), list(settings.all())
        self._plan(len(tries))
        for one in tries:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what is outside the data stands in the table
                    chip = bench.chip if one.chip is None else one.chip()
                    scores = bench.of(chip, one.variant, bench.votes * one.votes)
            except ValueError as error:
                self.left_out.append(f"{one.name}: {error}")
                continue
            cost = cost_of(chip, one.variant, bench.votes * one.votes)
            said = {"try": one.name, **_costs(cost, base), "outside": outside(chip, bench.chip)}
            self._say(one.name, self.by_try.add(said, gain=(scores, self.base)))

    def _few(self) -> Any:
        """The first samples, to calibrate with."""
        found, left = [], CALIBRATED
        for batch in self.bench.batches:
            found.append(batch.part(0, min(left, batch.samples)))
            left -= found[-1].samples
            if left <= 0:
                break
        return found

    def explanation(self) -> Explanation:
        """What was found so far."""
        more = (
            [] if self.finished else [f"what follows: {self.bench.done} accuracies were measured, the most asked for"]
        )
        return Explanation(
            self.digital.mean,
            self.base.mean,
            self.loss,
            self.by_layer.table(("layer", "layers"), lost=self.lost),
            self.by_source.table(("source", "layer", "kind"), lost=self.lost),
            self.by_try.table(("try", *TRIED), lost=self.lost),
            (*self.present.left_out, *self.left_out, *more),
            self.bench.samples,
            self.bench.votes,
            self.bench.done,
        )


TRIED = ("energy_j", "energy_ratio", "time_s", "time_ratio", "outside")


def _part_of(one: str, source: str) -> bool:
    """Whether a source is another one, or a part of it, or all of which it is a part."""
    return one == source or (source == NOISE and one in FRESH) or (source in FRESH and one == NOISE)


def _kind(source: str) -> str:
    if source == NOISE or source in FRESH:
        return "fresh"
    return "converter" if source.startswith(("ADC", "DAC")) else "frozen"


def _worst(rows: Rows, among: Sequence[int]) -> list[int]:
    """The numbers of the worst rows that show a difference, worst first."""
    found = sorted(((rows.best(row), row) for row in among), key=lambda pair: -pair[0])
    return [row for best, row in found[:WORST] if best > 0]


def _costs(cost: Cost, base: Cost) -> dict[str, float]:
    return {
        "energy_j": cost.energy_j,
        "energy_ratio": cost.energy_j / base.energy_j if base.energy_j else float("nan"),
        "time_s": cost.time_s,
        "time_ratio": cost.time_s / base.time_s if base.time_s else float("nan"),
    }

"""What a search file says, and the space of settings that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ..devices.config import Config, faults
from .file import Count, Study, Sweep, Values, check_names, field_of, lists

FIXED = ("data", "images", "calibrate", "seed", "batch_size", "target_width")
Cost = Literal["total_energy_j", "latency_s", "area_m2"]


class Range(Config):
    """All values from low to high, whole numbers where both are; `log` spreads them evenly in the logarithm."""

    low: Any
    high: Any
    log: bool = False


class Search(Study):
    """A search file: an experiment, the settings that all its trials share, and what is chosen.

    search: names and lists of values to choose from, or ranges (`{low: 20 mV, high: 0.5 V, log: true}`).
    grid: what each trial is measured at, as several chips (`seed: [0, 1, 2]`); a trial has the means.
    target: accuracy that is asked for; a point reaches it when the lower end of its 95 % interval does.
    costs: columns to keep small. The first is the one that the cheapest point has least of, the next settle ties.
    trials: how many points are tried; population: how many of them make a generation of NSGA-II.
    search_seed: of the choices.
    confirm: what the cheapest point is measured at once more, as `grid`: other chips, more images. If it does not
        reach the target there, the next cheapest is. Nothing: it is not confirmed.
    """

    kind = "search"

    search: dict[str, Range | list[Any]]
    target: Annotated[float, Field(gt=0, lt=1)]
    costs: Annotated[tuple[Cost, ...], Field(min_length=1)] = ("total_energy_j", "latency_s")
    trials: Count = 200
    population: Annotated[int, Field(ge=2)] = 20
    search_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    confirm: dict[str, list[Any]] = Field(default_factory=dict)

    @field_validator("search", mode="before")
    @classmethod
    def _choices(cls, search: Any) -> Any:
        if not isinstance(search, Mapping) or not search:
            raise ValueError("expected names and lists of values, or ranges")
        for name, choice in search.items():
            if isinstance(choice, list) and choice:
                continue
            if not isinstance(choice, Mapping) or not {"low", "high"} <= set(choice) <= {"low", "high", "log"}:
                raise ValueError(f"{name} must be a list of values, or a range {{low, high, log}}, got {choice!r}")
        return dict(search)

    @field_validator("confirm", mode="before")
    @classmethod
    def _lists_too(cls, confirm: Any) -> Any:
        return lists(confirm)

    @model_validator(mode="after")
    def _known(self) -> Search:
        check_names("search", self.search, taken=self.grid)
        check_names("confirm", self.confirm, taken=())
        for name in self.search:
            if name in FIXED:
                raise ValueError(
                    f"search: {name} says what is measured, and is nothing to choose; set it for all trials, or in grid"
                )
            if name in self.confirm:
                raise ValueError(f"confirm: {name!r} is what the search chooses; leave it out")
        if len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs: each once, got {', '.join(self.costs)}")
        return self

    def sweep(self, points: list[Values], grid: Mapping[str, list[Any]]) -> Sweep:
        """The sweep that measures points of this search, each at all of the grid."""
        shared = {name: getattr(self, name) for name in Sweep.model_fields if name != "points"}
        try:
            return Sweep.model_validate({**shared, "points": points, "grid": dict(grid)})
        except ValidationError as error:
            raise ValueError(f"search: {faults(error)}") from error

    def possible(self, values: Values) -> Values:
        """The same values with no more copies than votes."""
        votes, copies = values.get("votes", self.votes), values.get("copies", self.copies)
        return values if copies <= votes else {**values, "copies": votes}

    def space(self) -> dict[str, Dimension]:
        """What a trial chooses, by name.

        Raises:
            ValueError: an impossible value, one that stands there twice, or a range that is none.
        """
        return {name: self._dimension(name, choice) for name, choice in self.search.items()}

    def _dimension(self, name: str, choice: Range | list[Any]) -> Dimension:
        if isinstance(choice, list):
            values = [self._resolved(name, value) for value in choice]
            twice = [value for number, value in enumerate(values) if value in values[:number]]
            if twice:
                raise ValueError(f"search: {name} has the value {twice[0]!r} twice")
            return Dimension(values)
        low, high = (self._resolved(name, end) for end in (choice.low, choice.high))
        if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in (low, high)):
            raise ValueError(f"search: {name} is no number, and has no range; list its values")
        if not (0 if choice.log else -float("inf")) < low < high:
            positive = ", both positive" if choice.log else ""
            raise ValueError(f"search: {name} must have a low below its high{positive}, got {low!r} and {high!r}")
        return Dimension([low, high], log=choice.log, between=True)

    def _resolved(self, name: str, value: Any) -> Any:
        """A value as settings or hardware have it, in SI units."""
        beside = {"copies": {"votes": value}, "votes": {"copies": 1}}.get(name, {})
        grid = {name: values[:1] for name, values in self.grid.items()}
        ((settings, hardware),) = self.sweep([{name: value, **beside}], grid).resolve()
        return field_of(settings, hardware, name)


@dataclass(frozen=True)
class Dimension:
    """One thing that a trial chooses: one of some values, or any from the first to the last."""

    values: list[Any]
    log: bool = False
    between: bool = False

    def suggest(self, trial: Any, name: str) -> Any:
        """The choice of a trial of Optuna. Numbers of a range have three digits."""
        if not self.between:
            return self.values[trial.suggest_int(name, 0, len(self.values) - 1)]
        low, high = self.values
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(name, low, high, log=self.log)
        return min(max(float(f"{trial.suggest_float(name, low, high, log=self.log):.3g}"), low), high)

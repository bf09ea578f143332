"""What a file of another simulator says, field by field, and what became of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from numbers import Integral, Real
from typing import Any, Literal

import pandas as pd

from ..crossbar.hardware import Hardware
from ..devices.units import brief

Status = Literal["taken", "approximated", "missing", "unknown", "assumed", "off", "aside"]
DIFFERS = ("missing", "unknown")
HEADINGS: dict[Status, str] = {
    "missing": "without counterpart: results differ from theirs",
    "unknown": "not known to this importer: left out",
    "approximated": "approximated",
    "taken": "taken",
    "assumed": "assumed: they do not say",
    "off": "off: without effect there, with these settings",
    "aside": "of training or of the program: no part of a read",
}
DEEPEST = 20
MOST_FIELDS = 20_000
LARGEST = 2**1000  # whole number that a float holds


@dataclass(frozen=True)
class Row:
    """What became of one field.

    Attributes:
        theirs: its name there, dotted; empty for a setting of ours that they do not have.
        value: as it was given.
        status: a key of `HEADINGS`.
        ours: the setting here, with its value and unit; empty without one.
        note: how the two differ, or what is left out.
    """

    theirs: str
    value: Any
    status: Status
    ours: str = ""
    note: str = ""

    def __str__(self) -> str:
        given = f"{self.theirs} = {brief(self.value)}" if self.theirs else ""
        mapped = " -> ".join(part for part in (given, self.ours) if part)
        return f"{mapped}: {self.note}" if self.note else mapped


@dataclass(frozen=True)
class Imported:
    """What was imported, and what became of each field.

    Attributes:
        peer: whose file it was.
        rows: one for each field of it, and one for each setting that was assumed.
        hardware: the hardware; None where the file has none.
        layers: the layers, a row each, where the file has them: see `neurosim`.
    """

    peer: str
    rows: tuple[Row, ...]
    hardware: Hardware | None = None
    layers: pd.DataFrame | None = field(default=None, compare=False)

    @property
    def table(self) -> pd.DataFrame:
        """The rows, with the columns of `Row`."""
        return pd.DataFrame([vars(row) for row in self.rows], columns=["theirs", "value", "status", "ours", "note"])

    @property
    def missing(self) -> list[str]:
        """Names of the fields that change results there and have no counterpart here, or are not known."""
        return [row.theirs for row in self.rows if row.status in DIFFERS]

    def of(self, status: Status) -> list[Row]:
        """The rows of one status."""
        return [row for row in self.rows if row.status == status]

    def __str__(self) -> str:
        lines = [self._head()]
        for status, heading in HEADINGS.items():
            found = self.of(status)
            if found and status in ("off", "aside"):
                lines += ["", f"{heading}:", *(f"  {line}" for line in _grouped(found))]
            elif found:
                lines += ["", f"{heading}:", *(f"  {row}" for row in found)]
        return "\n".join(lines)

    def _head(self) -> str:
        counts: Counter[str] = Counter(row.status for row in self.rows)
        words = {"missing": "without counterpart", "unknown": "not known", "assumed": "assumed"}
        told = [s for s in ("taken", "approximated", "missing", "unknown", "assumed") if counts[s]]
        return f"{self.peer}: " + ", ".join(f"{counts[s]} {words.get(s, s)}" for s in told)

    def _repr_html_(self) -> str:
        order = {status: number for number, status in enumerate(HEADINGS)}
        shown = self.table.sort_values("status", key=lambda column: column.map(order), kind="stable")
        shown["value"] = [brief(value) for value in shown["value"]]
        return f"<b>{escape(self._head())}</b>{shown.to_html(index=False)}"


def _grouped(rows: list[Row]) -> Iterator[str]:
    """Names by the group that they are in, those of large groups counted."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        group, _, name = row.theirs.rpartition(".")
        groups.setdefault(group, []).append(name)
    for group, names in groups.items():
        listed = ", ".join(names) if len(names) <= 24 else f"{len(names)} fields"
        yield f"{group}: {listed}" if group else listed


def tree_of(given: Any, depth: int = 0) -> Any:
    """Data classes and other objects as dicts with their `class`, enumerations as their values, classes as names.

    Raises:
        ValueError: nested too deep, or in itself; keys that are neither text nor numbers.
    """
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if isinstance(given, Enum):
        return given.value
    if given is None or isinstance(given, str | bool):
        return given
    if isinstance(given, Integral):
        return int(given)
    if isinstance(given, Real):
        return float(given)
    if isinstance(given, type):
        return given.__name__
    if isinstance(given, Mapping):
        if not all(isinstance(key, str | Real) for key in given):
            raise ValueError(f"names of fields must be text, got {brief(list(given))}")
        return {str(key): tree_of(value, depth + 1) for key, value in given.items()}
    if isinstance(given, Sequence) or hasattr(given, "tolist"):
        values = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(values, list | tuple):  # an array of one number
            return tree_of(values, depth + 1)
        return [tree_of(value, depth + 1) for value in values]
    if hasattr(given, "__dict__"):
        own = {name: value for name, value in vars(given).items() if name != "class"}
        return {"class": type(given).__name__, **tree_of(own, depth)}
    return repr(given)


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


class Fields:
    """The fields of a peer's file, by dotted path; those that the file leaves out have the peer's `defaults`.

    Settings are gathered with what is said of each field. A field of which nothing was said is reported as unknown.
    """

    def __init__(self, peer: str, given: Any, defaults: Mapping[str, Any]) -> None:
        try:
            tree = tree_of(given)
        except ValueError as error:
            raise ValueError(f"{peer}: {error}") from error
        if not isinstance(tree, dict):
            raise ValueError(f"{peer}: expected its fields by name, got {type(given).__name__}")
        self.peer = peer
        self.tree = tree
        self.given = dict(_leaves(tree))
        if len(self.given) > MOST_FIELDS:
            raise ValueError(f"{peer}: has {len(self.given)} fields, more than {MOST_FIELDS}")
        self.defaults = defaults
        self.rows: dict[str, Row] = {}
        self.assumptions: list[Row] = []
        self.settings: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def has(self, path: str) -> bool:
        """Whether the file has this field, or fields below it."""
        return path in self.given or any(name.startswith(f"{path}.") for name in self.given)

    def value(self, path: str) -> Any:
        """Of a field: as given, or the default.

        Raises:
            ValueError: a group of fields, or neither.
        """
        if path in self.given:
            return self.given[path]
        if self.has(path):
            raise ValueError(f"{self.peer}: {path} must be a value, got a group of fields")
        if path in self.defaults:
            return self.defaults[path]
        raise ValueError(f"{self.peer}: {path} is needed and is not there")

    def number(self, path: str, low: float = -math.inf, high: float = math.inf, *, open_end: bool = False) -> float:
        """A finite number from `low` to `high`; with `open_end` infinity too.

        Raises:
            ValueError: anything else.
        """
        found = self.value(path)
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            found = math.nan
        if isinstance(found, int) and abs(found) > LARGEST:
            found = math.nan
        if math.isnan(found) or (math.isinf(found) and not open_end):
            bounds = "" if low == -math.inf else f" of at least {low:g}"
            bounds += "" if high == math.inf else f" and at most {high:g}"
            raise ValueError(f"{self.peer}: {path} must be a number{bounds}, got {brief(self.value(path))}")
        return float(found)

    def whole(self, path: str, low: int = 0, high: int = 2**31) -> int:
        """A whole number.

        Raises:
            ValueError: anything else.
        """
        found = self.number(path, low, high)
        if found != int(found):
            raise ValueError(f"{self.peer}: {path} must be a whole number, got {brief(self.value(path))}")
        return int(found)

    def flag(self, path: str) -> bool:
        """A truth value.

        Raises:
            ValueError: anything else.
        """
        found = self.value(path)
        if not isinstance(found, bool):
            raise ValueError(f"{self.peer}: {path} must be true or false, got {brief(found)}")
        return found

    def choice(self, path: str, names: Mapping[str, Any]) -> str:
        """One of the names of an enumeration, by name (any case, underscores ignored) or by value.

        Raises:
            ValueError: none of them.
        """
        found = self.value(path)
        for name, value in names.items():
            if not isinstance(found, bool) and (found == value or _same(found, name) or _same(found, value)):
                return name
        raise ValueError(f"{self.peer}: {path} must be one of {', '.join(names)}, got {brief(found)}")

    def numbers(self, path: str, least: int = 1) -> list[float]:
        """A list of finite numbers.

        Raises:
            ValueError: anything else.
        """
        found = self.value(path)
        good = isinstance(found, list) and len(found) >= least
        if not good or not all(_is_finite(x) for x in found):
            raise ValueError(f"{self.peer}: {path} must be a list of {least} or more numbers, got {brief(found)}")
        return [float(x) for x in found]

    def set(self, theirs: str, ours: str, value: Any, note: str = "", *, exact: bool = True, unit: str = "") -> None:
        """A setting of ours that their field gives."""
        self.settings[ours] = value
        self.sources[ours] = f"{self.peer}: {theirs} = {brief(self._shown(theirs))}"[:1000]
        self.say(
            theirs, "taken" if exact else "approximated", f"{ours} = {_text(value)}{f' {unit}' * bool(unit)}", note
        )

    def assume(self, ours: str, value: Any, note: str, unit: str = "") -> None:
        """A setting that they do not have."""
        self.settings[ours] = value
        self.sources[ours] = f"assumption: {note}"
        shown = f"{ours} = {_text(value)}{f' {unit}' * bool(unit)}"
        self.assumptions.append(Row("", None, "assumed", shown, note))

    def say(self, theirs: str, status: Status, ours: str = "", note: str = "") -> None:
        """What becomes of a field; the first word stands."""
        if theirs not in self.given:
            note = f"{note} (not in the file: their default)".strip()
        self.rows.setdefault(theirs, Row(theirs, self._shown(theirs), status, ours, note))

    def missing_if(self, theirs: str, differs: bool, note: str) -> None:
        """A field without counterpart, or one that is off."""
        if differs:
            self.say(theirs, "missing", note=note)
        else:
            self.say(theirs, "off")

    def rest(self, prefix: str, status: Status, note: str = "") -> None:
        """All fields at and below `prefix` of which nothing was said."""
        for name in self.given:
            if name == prefix or name.startswith(f"{prefix}."):
                self.say(name, status, note=note)

    def finish(self, name: str, description: str) -> Imported:
        """The hardware, and what became of each field in the order of the file.

        Raises:
            ValueError: the settings make no hardware.
        """
        for path in self.given:
            if path not in self.rows:
                self.say(path, "unknown", note="")
        order = [*(self.rows[path] for path in self.given)]
        order += [row for path, row in self.rows.items() if path not in self.given]
        whole = {**self.settings, "name": name, "description": description, "sources": self.sources}
        try:
            hardware = Hardware.preset("ideal").replace(whole)
        except ValueError as error:
            raise ValueError(f"{self.peer}: what it says makes no hardware here: {error}") from error
        return Imported(self.peer, (*order, *self.assumptions), hardware)

    def _shown(self, theirs: str) -> Any:
        return self.given.get(theirs, self.defaults.get(theirs))


def _is_finite(x: Any) -> bool:
    return isinstance(x, int | float) and abs(x) < LARGEST


def _same(found: Any, name: Any) -> bool:
    if not isinstance(found, str) or not isinstance(name, str):
        return False
    return _bare(found) == _bare(name)


def _bare(name: str) -> str:
    return name.rpartition(".")[2].replace("_", "").lower()


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return value["kind"] if "kind" in value else brief(value)
    return str(value)


def bits_of_levels(levels: float) -> int | None:
    """b where there are 2^b - 1 levels, as converters with a level at zero have them; None where there is no such b."""
    bits = round(math.log2(levels + 1)) if levels >= 1 else 0
    return bits if bits and abs(2**bits - 1 - levels) < 1e-3 * levels else None

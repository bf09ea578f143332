"""What a sweep file says, and the points it stands for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from ..crossbar.hardware import Hardware
from ..crossbar.yaml_text import read_yaml
from ..devices.config import Config, faults, one_line, plain
from ..devices.imports import import_modules, importable
from ..devices.units import Number, Whole

Count = Annotated[Whole, Field(ge=1, le=10**9)]
Seed = Annotated[Whole, Field(ge=-(2**63), lt=2**63)]
Share = Annotated[Number, Field(gt=0, lt=1)]
OPTION = "options."  # begins the names of an experiment's own fields
Values = dict[str, Any]
S = TypeVar("S", bound="Study")


class Shared(Config):
    """The settings of an experiment, beside the fields of its hardware.

    model: a network of `mho.models` by name, package.module:factory, timm:NAME, transformers:NAME, or a file or folder
        that holds one (`.onnx`, `.pt2`, Hugging Face).
    weights: committed weights of that network by name, or a checkpoint file; null for a factory that brings its own.
    coded: by the name of a linear layer, how many outputs it is to have, as in `mho.coded`; null: the network as it is.
    data: `mnist`, `cifar10` or `strokes` (their test sets), or an .npz file with images and labels.
    images: how many of them, from the first; with `target_width`, how many to begin with.
    calibrate: how many of them, from the first, set the converters' ranges.
    hardware: a preset, or a YAML file.
    votes, copies, rule: as in `mho.vote`.
    layers: of the network, those that are read again in each vote, as in `mho.vote`; null: all.
    vote_error: null for that many votes; a probability for adaptive votes, at most that many: the `error` of
        `mho.adaptive_vote`.
    seed: which chip.
    batch_size: images processed together; does not change the result.
    target_width: widest 95 % interval of the accuracy; images are doubled until it is reached or there are no more.
    output: where the scores are in what the network returns: a name, a number, or package.module:function; null: it is
        the output itself, or its part `logits`.
    next_token: the labels are the tokens of the texts, and the answer at each token is about the next one.
    options: the fields of the experiment, where it has some; `options.NAME` in a grid.
    """

    model: str
    weights: str | None = None
    coded: dict[str, Count] | None = None
    data: str = "mnist"
    images: Count = 1000
    calibrate: Count = 256
    hardware: str
    votes: Count = 1
    copies: Count = 1
    rule: Literal["hard", "soft"] = "hard"
    layers: tuple[str, ...] | None = None
    vote_error: Share | None = None
    seed: Seed = 0
    batch_size: Count = 250
    target_width: Share | None = None
    output: str | None = None
    next_token: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("coded", mode="before")
    @classmethod
    def _cell(cls, coded: Any) -> Any:
        """Tables have it as JSON."""
        try:
            return json.loads(coded) if isinstance(coded, str) else coded
        except json.JSONDecodeError:
            raise ValueError(f"expected names of layers and numbers of outputs, got {coded!r}") from None


class Settings(Shared):
    """Those of one point."""

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if self.copies > self.votes:
            raise ValueError(f"copies must be at most votes = {self.votes}, got {self.copies}")
        if self.layers is not None and self.vote_error is not None:
            raise ValueError(f"layers and vote_error: adaptive votes read all layers, got layers {list(self.layers)}")
        return self


class Study(Shared):
    """What the files of sweeps and searches have in common.

    imports: modules of own parts of cells, layers, experiments: see `mho.devices.imports`.
    grid: names and their values (one, or a list), in all combinations, the last name varying fastest.
    backend, cluster: what runs the tasks: processes of this machine (loky), or the Dask or Ray cluster at an address
        (null: one that is started here and ended with the study).

    Names with a dot, and `time_s`, are fields of the hardware, but for `options.NAME`; the others are settings.
    """

    kind: ClassVar[str]

    experiment: str
    imports: tuple[str, ...] = ()
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    backend: Literal["loky", "dask", "ray"] = "loky"
    cluster: str | None = None

    @field_validator("grid", mode="before")
    @classmethod
    def _lists(cls, grid: Any) -> Any:
        return lists(grid)

    @model_validator(mode="after")
    def _placed(self) -> Study:
        check_names("grid", self.grid)
        if self.cluster is not None and self.backend == "loky":
            raise ValueError("cluster: an address needs backend: dask or ray, got loky")
        return self

    @classmethod
    def read(cls: type[S], source: str | Path | Mapping[str, Any]) -> S:
        """A study from a YAML file, or from what such a file holds. Its `imports` are imported.

        Modules beside the file can be imported from here on.

        Raises:
            ValueError: not YAML, a field that does not exist, an impossible value, or a module that cannot be imported;
                the message names the file.
        """
        where = cls.kind if isinstance(source, Mapping) else f"{cls.kind} file {source}"
        fields = source if isinstance(source, Mapping) else read_yaml(source, where)
        if not isinstance(fields, Mapping):
            raise ValueError(f"{where}: expected a mapping of fields, got {type(fields).__name__}")
        if cls.kind == "sweep" and "search" in fields:
            raise ValueError(f"{where}: has a field search, so it is a search: run it with mho optimize (mho.optimize)")
        if cls.kind == "search" and "search" not in fields:
            raise ValueError(f"{where}: has no field search, which says what to choose; mho sweep runs it as a sweep")
        try:
            study = cls.model_validate(plain(fields))
        except ValidationError as error:
            raise ValueError(f"{where}: {faults(error)}") from error
        except RecursionError:
            raise ValueError(f"{where}: nested too deep") from None
        beside = [] if isinstance(source, Mapping) else [Path(source).parent]
        for folder in beside:
            importable(folder)
        try:
            import_modules(study.imports, *beside)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return study

    def dump(self) -> str:
        """The study as YAML, all fields resolved; `read` takes it."""
        empty = {name for name in ("options", "imports") if not getattr(self, name)}
        fields = self.model_dump(mode="json", exclude_none=True, exclude=empty)
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


class Sweep(Study):
    """A sweep file: an experiment, the settings that its points share, and what varies.

    points: a list of explicit points, each some names and values; each is combined with the whole grid.
    """

    kind = "sweep"

    points: Annotated[list[Values], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _known(self) -> Sweep:
        for i, names in enumerate(self.points or []):
            check_names(f"points[{i}]", names, taken=self.grid)
        return self

    @property
    def values(self) -> list[Values]:
        """What varies, at each point, in the order of the results."""
        products = itertools.product(*self.grid.values())
        combined = [dict(zip(self.grid, values, strict=True)) for values in products]
        return [{**point, **values} for point in self.points or [{}] for values in combined]

    def resolve(self) -> list[tuple[Settings, Hardware]]:
        """The settings and the hardware of each point of `values`.

        Raises:
            ValueError: an impossible point; the message says which.
        """
        chips: dict[str, Hardware] = {}
        return [self._point(number, values, chips) for number, values in enumerate(self.values, start=1)]

    def _point(self, number: int, values: Values, chips: dict[str, Hardware]) -> tuple[Settings, Hardware]:
        changed = {name: value for name, value in values.items() if not is_hardware(name)}
        fields = {name: value for name, value in values.items() if is_hardware(name)}
        try:
            options = {
                name.removeprefix(OPTION): changed.pop(name) for name in list(changed) if name.startswith(OPTION)
            }
            shared = {name: getattr(self, name) for name in Settings.model_fields} | changed
            settings = Settings.model_validate({**shared, "options": {**self.options, **options}})
            return settings, _hardware(settings.hardware, fields, chips)
        except ValueError as error:
            text = faults(error) if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"point {number} ({describe(values)}): {text}") from error


def lists(grid: Any) -> dict[str, list[Any]]:
    """Names and their values as lists.

    Raises:
        ValueError: something else, or a name without values.
    """
    if not isinstance(grid, Mapping):
        raise ValueError("expected names and lists of values")
    found = {str(name): values if isinstance(values, list) else [values] for name, values in grid.items()}
    empty = [name for name, values in found.items() if not values]
    if empty:
        raise ValueError(f"{empty[0]} must have at least one value, got none")
    return found


def check_names(where: str, names: Iterable[str], taken: Iterable[str] = ()) -> None:
    """Raises ValueError for a name that is no setting and no field of the hardware, or that the grid has too."""
    for name in names:
        if name == "options":
            raise ValueError(f"{where}: options vary one by one: name them as {OPTION}NAME")
        if name not in Settings.model_fields and not is_hardware(name) and not name.startswith(OPTION):
            raise ValueError(
                f"{where}: there is no setting {name!r}; settings are {', '.join(Settings.model_fields)}, and "
                "fields of the hardware are given by dotted path, as sensing.v_read"
            )
        if name in taken:
            raise ValueError(f"{where}: {name!r} stands in grid too; say it once")


def is_hardware(name: str) -> bool:
    """Whether a name of a grid is a field of the hardware."""
    return ("." in name and not name.startswith(OPTION)) or name == "time_s"


def describe(values: Values) -> str:
    """The values of a point, for messages."""
    return one_line(", ".join(f"{name}: {value}" for name, value in values.items()), 1000) or "no grid"


def field_of(settings: Settings, hardware: Hardware, name: str) -> Any:
    """A setting or a field of the hardware by its name, as YAML and tables have it; None where there is none."""
    tree: Any
    held: Any
    if name.startswith(OPTION):
        return settings.options.get(name.removeprefix(OPTION))
    if not is_hardware(name):
        return getattr(settings, name)
    tree, held = hardware.model_dump(mode="json"), hardware
    for part in name.split("."):  # texts leave out some fields at their defaults
        held = getattr(held, part) if isinstance(held, BaseModel) and part in type(held).model_fields else None
        tree = tree[part] if isinstance(tree, dict) and part in tree else to_jsonable_python(held)
    return tree


def _hardware(name: str, fields: Values, known: dict[str, Hardware]) -> Hardware:
    """Hardware by name with fields replaced; `known` keeps what was resolved before."""
    from ..inputs import find_hardware

    if name not in known:
        known[name] = find_hardware(name)
    if not fields:
        return known[name]
    key = f"{name} {fields!r}"
    if key not in known:
        known[key] = known[name].replace(fields)
    return known[key]

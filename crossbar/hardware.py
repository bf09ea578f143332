"""The whole of a hardware configuration: cell, sensing, tile, converters, noise, wires, cost, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from html import escape
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ..devices.cell import Cell
from ..devices.config import Config, Name, faults, one_line, plain, without_defaults
from ..devices.parts import Conditions
from ..devices.sensing import Sensing
from ..devices.units import Kelvin, Number, Second, Whole, brief
from .chain import check_chain
from .components import Cost
from .converters import Adc, Dac
from .limits import check_numbers
from .lines import Wires
from .tile import Tile
from .yaml_text import parse_yaml, read_yaml

PRESET_FOLDER = resources.files(__package__.replace("crossbar", "devices")).joinpath("presets")
PRESETS = tuple(sorted(file.name.removesuffix(".yaml") for file in PRESET_FOLDER.iterdir()))


Additive = Annotated[Number, Field(ge=0, le=1e9)]
Relative = Annotated[Number, Field(ge=0, le=1000)]
Count = Annotated[Whole, Field(ge=0, le=10**15)]
NEWER = ("reads", "cycles", "program_temperature", "storage_temperature")  # left out of texts at their defaults
Seed = Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)]


def _writable(text: str) -> str:
    text.encode()  # lone halves of a surrogate pair are no text
    return text


Text = Annotated[str, Field(max_length=10_000), AfterValidator(_writable)]


class OutputNoise(Config):
    """Noise in weight units, once per output of a layer, after the row tiles are summed and the bias is added.

    y becomes y z + n with z ~ N(1, sigma_mult^2) and n ~ N(0, sigma_add^2): Eqs. (3) and (2) of Qin and Vucinic. The
    `sigma_` noise is drawn anew in each read; that of `frozen_add` and `frozen_mult`, added before it, is the same in
    all reads of a sample.
    """

    sigma_add: Additive = Field(0.0, description="standard deviation of what is added anew in each read")
    sigma_mult: Relative = Field(0.0, description="that of the factor 1 + n, anew in each read")
    frozen_add: Additive = Field(0.0, description="standard deviation of what is added alike in all reads of a sample")
    frozen_mult: Relative = Field(0.0, description="that of the factor 1 + n, alike in all reads of a sample")


class Seeds(Config):
    """Seeds that override the seed of `mho.map`: `program` for frozen errors, `read` for the noise of reads."""

    program: Seed | None = Field(None, description="of frozen errors; null: the seed of the chip")
    read: Seed | None = Field(None, description="of the noise of reads; null: the seed of the chip")


class Hardware(Config):
    """A crossbar chip: what its cells, tiles and converters are, and how noisy.

    Fields are SI; YAML may write units ("50 uS"). `layers` overrides fields for the layers whose names match a pattern
    of shell wildcards, later patterns last: ``{"conv*": {"adc.bits": 6}}``. `sources` says where each number comes
    from.

    Example:
        >>> hardware.adc.bits, hardware.sensing.v_read
        (8, 0.2)
    """

    name: Name = Field("custom", description="what it is called in reports")
    description: Text = Field("", description="what it is, in words")
    cell: Cell
    sensing: Sensing
    tile: Tile = Tile()
    dac: Dac = Dac()
    adc: Adc = Adc()
    output_noise: OutputNoise = OutputNoise()
    wires: Wires = Wires()
    cost: Cost = Cost()
    time_s: Annotated[Second, Field(ge=0)] = Field(0.0, description="time from programming to reading")
    reads: Count = Field(0, description="pulses that each cell was read with since it was programmed")
    cycles: Count = Field(0, description="times that each cell was programmed before")
    program_temperature: Annotated[Kelvin, Field(gt=0)] | None = Field(
        None, description="of the array while it is programmed; null: sensing.temperature"
    )
    storage_temperature: Annotated[Kelvin, Field(gt=0)] | None = Field(
        None, description="of the array from programming to reading; null: sensing.temperature"
    )
    seeds: Seeds = Seeds()
    layers: Annotated[dict[Name, dict[Name, Any]], Field(max_length=1000)] = Field(
        default_factory=dict, description="settings of layers whose names match a pattern; later patterns win"
    )
    sources: Annotated[dict[Name, Text], Field(max_length=10_000)] = Field(
        default_factory=dict, description="where each number comes from, by the name of the setting"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Hardware:
        if self.tile.slices > 1 and self.cell.levels is None and self.tile.slicing == "digits":
            raise ValueError(
                "cell.levels must be set when tile.slices > 1: slices are digits in base cell.levels, unless "
                "tile.slicing says otherwise"
            )
        if self.dac.scaling != "layer" and self.tile.bias == "array":
            raise ValueError(
                f"tile.bias must be 'digital' when dac.scaling is {self.dac.scaling!r}, got 'array': the word "
                "line of a bias would have to be driven by the inverse of each scale"
            )
        v_max, v_read = self.cell.v_max, self.sensing.v_read
        if v_max is not None and v_read > v_max:
            raise ValueError(f"sensing.v_read must be at most cell.v_max = {v_max:g} V, got {v_read:g} V")
        check_chain(self.cell, self.sensing, self.tile, self.dac, self.adc, self.wires)
        check_numbers(self.cell, self.sensing, self.tile, self.adc, self.wires, self.conditions)
        for pattern in self.layers:
            self._check_overrides(pattern)
        return self

    def _check_overrides(self, pattern: str) -> None:
        """Overrides that make no valid hardware are an error here, not while mapping."""
        overrides = self.layers[pattern]
        if any(path.split(".")[0] == "layers" for path in overrides):
            raise ValueError(f"layers.{pattern}: overrides of a layer have no layers")
        try:
            self.replace({**overrides, "layers": {}})
        except ValueError as error:
            raise ValueError(f"layers.{pattern}: {error}") from error

    @property
    def conditions(self) -> Conditions:
        """What its cells are read at."""
        return replace(
            self.sensing.conditions(self.time_s),
            reads=self.reads,
            cycles=self.cycles,
            program_temperature=self.program_temperature,
            storage_temperature=self.storage_temperature,
        )

    @property
    def when_programmed(self) -> Hardware:
        """As it is when its cells have just been programmed."""
        at_once = {"time_s": 0.0, "reads": 0, "sensing.temperature": self.conditions.programmed_at}
        return self.replace(at_once | {"storage_temperature": None})

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, fields(self), *NEWER)

    @classmethod
    def preset(cls, name: str) -> Hardware:
        """A configuration that comes with the package: `ideal`, `reram`, `pcm` or `nand`.

        Raises:
            ValueError: there is no preset of that name.

        Example:
            >>> mho.Hardware.preset("pcm").cell.technology
            'PCM'
        """
        if name not in PRESETS:
            raise ValueError(f"hardware preset must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls.parse(PRESET_FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"preset {name}")

    @classmethod
    def paper(cls, *, sigma_add: float = 0.0, sigma_mult: float = 0.0) -> Hardware:
        """An ideal cell with output-referred noise: Eq. (2) and (3) of Qin and Vucinic, exactly.

        Example:
            >>> mho.Hardware.paper(sigma_mult=0.5).output_noise.sigma_mult
            0.5
        """
        noise = {"output_noise.sigma_add": sigma_add, "output_noise.sigma_mult": sigma_mult}
        said = "The noise of Qin and Vucinic: products are exact, and every output of a layer has noise."
        return cls.preset("ideal").replace({**noise, "name": "paper", "description": said, "sources": {}})

    @classmethod
    def load(cls, path: str | Path) -> Hardware:
        """Read a YAML file.

        Raises:
            ValueError: not YAML, a field that does not exist, or an impossible value; the message names the file.

        Example:
            >>> hardware.save("mine.yaml")
            >>> mho.Hardware.load("mine.yaml") == hardware
            True
        """
        where = one_line(str(path), 1000)
        return cls._of(read_yaml(path, f"hardware file {where}"), where)

    @classmethod
    def parse(cls, text: str, where: str) -> Hardware:
        """Hardware from the text of a YAML file; `where` names it in errors.

        Raises:
            ValueError: as `load`.

        Example:
            >>> mho.Hardware.parse(hardware.dump(), "my text") == hardware
            True
        """
        return cls._of(parse_yaml(text, where), where)

    @classmethod
    def _of(cls, fields: Any, where: str) -> Hardware:
        if not isinstance(fields, dict):
            raise ValueError(f"{where}: expected a mapping of hardware fields, got {type(fields).__name__}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ValueError(f"{where}: {faults(error)}") from None

    def __str__(self) -> str:
        """What is not at its default, as YAML."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)).rstrip()

    def _repr_html_(self) -> str:
        head = f"<b>{escape(self.name)}</b>: {escape(self.description)}"
        return f"<details open><summary>{head}</summary><pre>{escape(str(self))}</pre></details>"

    def dump(self) -> str:
        """The configuration as YAML, all fields resolved.

        Example:
            >>> print(hardware.dump().splitlines()[0])
            name: reram
        """
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write `dump()` to a file, which `load` reads back equal.

        Raises:
            ValueError: `path` is no path.
            OSError: it cannot be written.

        Example:
            >>> hardware.replace({"adc.bits": 6}).save("six_bits.yaml")
            >>> mho.Hardware.load("six_bits.yaml").adc.bits
            6
        """
        if not isinstance(path, (str, Path)):
            raise ValueError(f"hardware file: expected a path, got {type(path).__name__}")
        Path(path).write_text(self.dump(), encoding="utf-8")

    def replace(self, fields: Mapping[str, Any]) -> Hardware:
        """A copy with fields replaced by dotted path: ``hardware.replace({"adc.bits": 6})``.

        Values may be NumPy's.

        Raises:
            ValueError: a path or value that does not exist or fit, in one line.

        Example:
            >>> hardware.replace({"adc.bits": 6, "sensing.v_read": "50 mV"}).sensing.v_read
            0.05
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"fields must be a mapping of dotted paths to values, got {type(fields).__name__}")
        tree = self.model_dump()
        try:
            for path, value in fields.items():
                if not isinstance(path, str):
                    raise ValueError(f"hardware has no field {brief(path)}")
                *parents, last = path.split(".")
                node = tree
                for part in parents:
                    node = node.get(part) if isinstance(node, dict) else None  # type: ignore[assignment]
                if not isinstance(node, dict):
                    raise ValueError(f"hardware has no field {brief(path)}")
                node[last] = plain(value)
            return type(self).model_validate(tree)
        except ValidationError as error:
            raise ValueError(faults(error)) from None
        except RecursionError:
            raise ValueError(f"{', '.join(map(str, fields))}: nested too deep") from None

    def for_layer(self, *names: str) -> Hardware:
        """This hardware with the overrides that match one of a layer's names applied, and no overrides left.

        Example:
            >>> fewer = hardware.replace({"layers": {"conv*": {"adc.bits": 6}}})
            >>> fewer.for_layer("conv1").adc.bits, fewer.for_layer("fc").adc.bits
            (6, 8)
        """
        fields: dict[str, Any] = {"layers": {}}
        for pattern, overrides in self.layers.items():
            if any(fnmatchcase(name, pattern) for name in names):
                fields.update(overrides)
        return self.replace(fields) if self.layers else self

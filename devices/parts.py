"""What the parts of a cell have in common: their kinds, which anyone can add, and the conditions they are used under.

A part (`ProgrammingModel`, `DriftModel`, `ReadNoiseModel`, `MemoryModel`, `NonlinearityModel`, `SensingNoise`) is a
frozen pydantic model. A class that derives from it and has a field ``kind: Literal["my_kind"] = "my_kind"`` is one more
kind of it, from the moment that its class statement has run: hardware files may name it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BeforeValidator

from .config import Config
from .registry import HINT, NONE, Registry
from .units import brief

P = TypeVar("P", bound="Part")


@dataclass(frozen=True)
class Conditions:
    """What a cell is used at.

    Attributes:
        v_read: largest voltage of a read, in volts; conductances are those at it.
        t_read: time that a read averages over, in seconds.
        temperature: of the array while it is read, in kelvins.
        time_s: seconds since programming ended.
        reads: pulses that the cell was read with since then.
        cycles: how often the cell was programmed before.
        program_temperature, storage_temperature: while it was programmed, and since then; None: `temperature`.
    """

    v_read: float
    t_read: float
    temperature: float = 300.0
    time_s: float = 0.0
    reads: int = 0
    cycles: int = 0
    program_temperature: float | None = None
    storage_temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.time_s >= 0:
            raise ValueError(f"time_s must be at least 0 seconds after programming, got {self.time_s}")

    @property
    def programmed_at(self) -> float:
        """Kelvins while it was programmed."""
        return self.temperature if self.program_temperature is None else self.program_temperature

    @property
    def stored_at(self) -> float:
        """Kelvins since then."""
        return self.temperature if self.storage_temperature is None else self.storage_temperature


class Part(Config):
    """A part of a cell that has several kinds, told apart by `kind`."""

    registry: ClassVar[Registry[Any]]

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **fields: Any) -> None:
        super().__pydantic_init_subclass__(**fields)
        name = cls.model_fields["kind"].default
        if isinstance(name, str):
            cls.registry.add(name, cls)


def check_part(name: str, thing: Any) -> None:
    """Raises TypeError for a class that is no part, or lacks what its contract asks for."""
    if not (isinstance(thing, type) and issubclass(thing, Part)):
        raise TypeError(f"{name!r} must be a class derived from a part of a cell, got {brief(thing)}")
    kind = thing.model_fields["kind"]
    if get_origin(kind.annotation) is not Literal or get_args(kind.annotation) != (name,) or kind.default != name:
        raise TypeError(f'{thing.__name__}: its kind must be a field `kind: Literal["{name}"] = "{name}"`')
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(thing.__abstractmethods__))
        raise TypeError(f"{thing.__name__}: must define {missing}, see {thing.__mro__[1].__name__}")


def kinds_of(base: type[P]) -> BeforeValidator:
    """For ``Annotated[base, kinds_of(base), SerializeAsAny()]``: a field that takes any kind of `base`, or its fields.

    Fields without a kind, or of a kind that there is not, are a ValueError of one line.
    """

    def made(value: Any) -> Any:
        if isinstance(value, str | int | float):
            raise ValueError(f"expected a kind and its fields, as {{kind: ...}}; {_kinds(base)}")
        if not isinstance(value, Mapping):
            return value
        registry, name = base.registry, value.get("kind")
        model = registry[name] if isinstance(name, str) and name in registry else None
        if model is None or not issubclass(model, base):
            got = f"got {brief(name)}" if "kind" in value else "and is missing"
            got += f"; {HINT}" if isinstance(name, str) else ""
            raise ValueError(f"{_kinds(base)}, {got}")
        return model.model_validate(dict(value))

    return BeforeValidator(made)


def _kinds(base: type[P]) -> str:
    loaded = base.registry.loaded()
    known = [other for other in base.registry if issubclass(loaded.get(other, base), base)]
    return f"kind must be one of {', '.join(known) or NONE}"

"""The strict base of all configuration models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, model_validator

from .units import brief

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

# what pydantic puts into the path of a field that takes several types
TYPE_NAMES = ("literal[", "function-", "constrained-")
MOST = 4  # faults that one message tells
# what pydantic says of an attribute without a type, new or in the place of a field
UNTYPED = re.compile(r"A non-annotated attribute was detected: `(\w+)|Field '(\w+)' .* non-annotated")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"expected text of printable characters in one line, got {brief(text)}")
    return text


Name = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]
"""A line of printable characters, at most 1,000."""


class _OneLine(ModelMetaclass):
    """Makes what a constructor refuses a ValueError of one line; `model_validate` raises pydantic's own.

    A class that pydantic refuses is a TypeError of one line.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        try:
            return super().__new__(mcs, name, bases, namespace, **options)
        except PydanticUserError as error:
            bare = UNTYPED.match(error.message)
            if bare is None:
                raise TypeError(f"{name}: {' '.join(error.message.split())}") from error
            field = bare[1] or bare[2]
            ways = f"write `{field}: TYPE = ...`" + ("" if bare[2] else f", or `{field}: ClassVar[TYPE] = ...`")
            raise TypeError(f"{name}: {field} = {brief(namespace.get(field))} needs a type: {ways}") from error

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise ValueError(f"{cls.__name__}: {faults(error)}") from None


class Config(BaseModel, metaclass=_OneLine):
    """A frozen pydantic model: unknown fields, NaN and infinity are errors, and defaults are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = [one_line(str(name)) for name in data if name not in cls.model_fields]
            if unknown:
                fields = ", ".join(cls.model_fields)
                raise ValueError(f"{cls.__name__} has no field {', '.join(unknown[:MOST])}; its fields are {fields}")
        return data


def without_defaults(model: BaseModel, found: dict[str, Any], *names: str) -> dict[str, Any]:
    """What a model is written as, without these fields where they have their defaults.

    So hardware that does without them is written as it was before there were any.
    """
    fields = type(model).model_fields
    same = {name for name in names if getattr(model, name) == fields[name].get_default(call_default_factory=True)}
    return {name: value for name, value in found.items() if name not in same}


def faults(error: ValidationError) -> str:
    """A validation error in one line: for each fault the dotted path, the value and what is wrong with it."""
    found = []
    for fault in error.errors(include_url=False):
        path = ".".join(part for part in map(str, fault["loc"]) if not part.startswith(TYPE_NAMES))
        value = fault["input"]
        shown = f" = {brief(value)}" if path and isinstance(value, (str, int, float)) else ""
        text = fault["msg"].removeprefix("Value error, ")
        found.append(f"{one_line(path)}{shown}: {text}" if path else text)
    more = [f"and {len(found) - MOST} more"] if len(found) > MOST else []
    return one_line("; ".join(found[:MOST] + more), 2000)


def one_line(text: str, most: int = 200) -> str:
    """Text with its unprintable characters written as escapes, cut after so many characters."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return line if len(text) <= most else f"{line}..."


def plain(value: Any) -> Any:
    """With lists and Python's numbers in place of NumPy's, torch's and pandas', tuples and ranges; paths as text."""
    if hasattr(value, "tolist"):
        try:
            found = value.tolist()
        except Exception as error:  # of tensors without values, and of what other libraries call so
            raise ValueError(f"expected plain values, got {type(value).__name__} without any") from error
        return plain(found)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple | range) else value

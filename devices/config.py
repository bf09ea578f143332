"""The strict base of all configuration models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

# what pydantic puts into the path of a field that takes several types
TYPE_NAMES = ("literal[", "function-", "constrained-")


class Config(BaseModel):
    """A frozen pydantic model: unknown fields, NaN and infinity are errors, and defaults are validated too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = [str(name) for name in data if name not in cls.model_fields]
            if unknown:
                fields = ", ".join(cls.model_fields)
                raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {fields}")
        return data


def faults(error: ValidationError) -> str:
    """A validation error in one line: for each fault the dotted path, the value and what is wrong with it."""
    found = []
    for fault in error.errors(include_url=False):
        path = ".".join(part for part in map(str, fault["loc"]) if not part.startswith(TYPE_NAMES))
        value = fault["input"]
        shown = f" = {value!r}" if path and isinstance(value, (str, int, float)) else ""
        text = fault["msg"].removeprefix("Value error, ")
        found.append(f"{path}{shown}: {text}" if path else text)
    return "; ".join(found)

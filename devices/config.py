"""The strict base of all configuration models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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

"""Cells that no programming moves: stuck ones, and those on lines that carry nothing."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .arrays import Array, Namespace, ndtr
from .config import Config, Name, without_defaults
from .units import Number, brief

Fraction = Annotated[Number, Field(ge=0, le=1)]
WORKS, AT_G_MIN, AT_G_MAX = 0, 1, 2  # entries of a map
ENDS = (".npz", ".npy")


class Stuck(Config):
    """Cells that do not take their targets: by rate, by line, or one by one.

    Attributes:
        at_g_min, at_g_max: fractions of the cells that sit at one end of the conductance range, whatever their target.
        word_lines, bit_lines: fractions of the lines of a tile that are open: their cells carry no current (0 S).
        map: which cells are stuck, by layer: a file (`.npz` with an array for each layer by its name, or `.npy`, one
            array for every layer), or nested lists by the name of the layer. Entries are 0 (works), 1 (at g_min) and 2
            (at g_max), in the shape (groups, slices, polarities, rows, columns) of the cells, or without axes of length
            1; columns are the outputs, then the reference columns. All copies of a chip have the map.
        map_sha256: of the file; filled in when it is first seen, and a file that changed is an error from then on.
    """

    at_g_min: Fraction = 0.0
    at_g_max: Fraction = 0.0
    word_lines: Fraction = 0.0
    bit_lines: Fraction = 0.0
    map: Name | Annotated[dict[Name, list[Any]], Field(max_length=1000)] | None = None
    map_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _digest(cls, fields: Any) -> Any:
        """A map in a file is known by its digest."""
        if not isinstance(fields, dict) or not isinstance(fields.get("map"), str | Path):
            return fields
        path, known = str(fields["map"]), fields.get("map_sha256")
        if not path.endswith(ENDS):
            raise ValueError(f"map must be a file {' or '.join(ENDS)}, or lists by layer, got {brief(path)}")
        if known is None:
            known = digest_of(path)
        return {**fields, "map": path, "map_sha256": known}

    @model_validator(mode="after")
    def _at_most_all(self) -> Stuck:
        if self.at_g_min + self.at_g_max > 1:
            raise ValueError(f"at_g_min + at_g_max must be at most 1, got {self.at_g_min} + {self.at_g_max}")
        if self.map_sha256 is not None and not isinstance(self.map, str):
            raise ValueError("map_sha256 must be null where map is no file")
        if isinstance(self.map, dict):
            for name, entries in self.map.items():
                checked(f"map of layer {name!r}", entries)
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, fields(self), "word_lines", "bit_lines", "map", "map_sha256")

    @property
    def any(self) -> bool:
        """Whether there are stuck cells by rate."""
        return self.at_g_min + self.at_g_max > 0

    @property
    def alive(self) -> float:
        """The probability that neither line of a cell is open."""
        return (1 - self.word_lines) * (1 - self.bit_lines)

    def apply(self, g: Array, normal: Array, ends: tuple[float, float], xp: Namespace) -> Array:
        """Conductances `g` (siemens) with the cells that are stuck by rate at one of the `ends` (g_min, g_max).

        Args:
            normal: of the shape of `g`, standard normal: cells of the lowest numbers are stuck at g_min, those of the
                highest at g_max.
        """
        u = ndtr(normal, xp)
        return xp.where(u < self.at_g_min, ends[0], xp.where(u >= 1 - self.at_g_max, ends[1], g))

    def maps(self) -> dict[str, Array]:
        """The map of each layer, int8; under the name `` one for every layer; empty without a map.

        Raises:
            ValueError: a file that is not there, that has changed, or that holds anything else.
        """
        if self.map is None or isinstance(self.map, dict):
            return {name: checked(f"map of layer {name!r}", entries) for name, entries in (self.map or {}).items()}
        if (found := digest_of(self.map)) != self.map_sha256:
            raise ValueError(f"cell.stuck.map: file {self.map} has changed: its SHA-256 is {found}, was {self.map_sha256}")
        try:
            with np.load(self.map, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files} if hasattr(held, "files") else None
        except AttributeError:  # one array
            arrays = None
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"cell.stuck.map: file {self.map} holds no arrays ({error})") from error
        arrays = {"": np.load(self.map, allow_pickle=False)} if arrays is None else arrays
        return {name: checked(f"cell.stuck.map: file {self.map}: {name!r}", array) for name, array in arrays.items()}


def digest_of(path: str) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"cell.stuck.map: file {path} cannot be read ({error.strerror})") from error


def checked(what: str, entries: Any) -> Array:
    """A map as an int8 array.

    Raises:
        ValueError: it is no array of 0, 1 and 2.
    """
    try:
        array = np.asarray(entries)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{what}: must be an array, all rows of one length") from error
    if array.dtype.kind not in "bui" or not array.size or not ((array >= WORKS) & (array <= AT_G_MAX)).all():
        raise ValueError(f"{what}: entries must be 0 (works), 1 (at g_min) and 2 (at g_max), at least one")
    return array.astype(np.int8)

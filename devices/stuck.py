"""Cells that no programming moves: stuck ones, and those on lines that carry nothing."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .arrays import Array, Namespace, ndtr
from .config import Config, Name, one_line, without_defaults
from .units import Number, brief

Fraction = Annotated[Number, Field(ge=0, le=1)]
WORKS, AT_G_MIN, AT_G_MAX = 0, 1, 2  # entries of a map
ENDS = (".npz", ".npy")


def _with_digest(given: Any) -> Any:
    """A map in a file with the digest of the file."""
    held = {"file": given} if isinstance(given, str | Path) else given
    if not isinstance(held, dict) or not isinstance(held.get("file"), str | Path):
        return held
    path, known = str(held["file"]), held.get("sha256")
    if held.keys() - {"file", "sha256"} or not path.endswith(ENDS):
        raise ValueError(f"expected a file {' or '.join(ENDS)}, or lists by layer, got {brief(given)}")
    if known is not None and not (isinstance(known, str) and re.fullmatch("[0-9a-f]{64}", known)):
        raise ValueError(f"sha256 must be 64 hexadecimal digits or left out, got {brief(known)}")
    return {"file": path, "sha256": known or digest_of(path)}


class Stuck(Config):
    """Cells that do not take their targets: by rate, by line, or one by one.

    Attributes:
        at_g_min, at_g_max: fractions of the cells that sit at one end of the conductance range, whatever their target.
        word_lines, bit_lines: fractions of the lines of a tile that are open: their cells carry no current (0 S).
        map: which cells are stuck, by layer: the path of a file (`.npz` with an array for each layer by its name, or
            `.npy`, one array for every layer), or nested lists by the name of the layer. Entries are 0 (works), 1 (at
            g_min) and 2 (at g_max), in the shape (groups, slices, polarities, rows, columns) of the cells, or without
            axes of length 1; columns are the outputs, then the reference columns. All copies of a chip have the map. A
            file is kept as `{file: path, sha256: digest}`: one that changes later is an error.
    """

    at_g_min: Fraction = 0.0
    at_g_max: Fraction = 0.0
    word_lines: Fraction = 0.0
    bit_lines: Fraction = 0.0
    map: Annotated[dict[Name, Any], BeforeValidator(_with_digest), Field(max_length=1000)] | None = None

    @model_validator(mode="after")
    def _at_most_all(self) -> Stuck:
        if self.at_g_min + self.at_g_max > 1:
            raise ValueError(f"at_g_min + at_g_max must be at most 1, got {self.at_g_min} + {self.at_g_max}")
        if self.alive == 0:
            raise ValueError(
                f"word_lines and bit_lines must be below 1, or no cell works, got {self.word_lines} and "
                f"{self.bit_lines}"
            )
        for name, entries in ({} if self.file else self.map or {}).items():
            checked(f"map of layer {name!r}", entries)
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, fields(self), "word_lines", "bit_lines", "map")

    @property
    def any(self) -> bool:
        """Whether there are stuck cells by rate."""
        return self.at_g_min + self.at_g_max > 0

    @property
    def file(self) -> tuple[str, str] | None:
        """Path and SHA-256 of the file of the map, if it is in one."""
        held = self.map or {}
        return (held["file"], held["sha256"]) if isinstance(held.get("file"), str) else None

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
        if self.file is None:
            return {name: checked(f"map of layer {name!r}", entries) for name, entries in (self.map or {}).items()}
        path, known = self.file
        if (found := digest_of(path)) != known:
            raise ValueError(f"cell.stuck.map: file {path} has changed: its SHA-256 is {found}, was {known}")
        try:
            with open(path, "rb") as file:
                held = np.load(file, allow_pickle=False)
                arrays = {"": held} if isinstance(held, np.ndarray) else {name: held[name] for name in held.files}
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise ValueError(f"cell.stuck.map: file {path} holds no arrays ({one_line(str(error))})") from error
        return {name: checked(f"cell.stuck.map: file {path}: {name!r}", array) for name, array in arrays.items()}


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

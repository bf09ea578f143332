"""The conductances of a chip's cells: arrays by layer, a table with a line for each cell, and files of it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from .cell_table import KINDS, table_of
from .errors import MappingError
from .layers import TileLayer
from .saved.folders import whole

Array = np.ndarray[Any, Any]
LAYER = "layer"
ENDS = (".parquet", ".npz", ".csv")


class Conductances(Mapping[str, list[Array]]):
    """The cells of a chip's layers. What it gives is made when it is asked for, a layer at a time.

    ``found[layer]`` is a list of arrays, one a group of its matrix, (slices, polarities, rows, columns) in siemens,
    float32: cells by the weights that they stand for. The second polarity is taken off the first. Rows are word lines,
    that of a bias on the array last; columns are the outputs, then the reference columns. `table` has them by their
    places on tiles.
    """

    def __init__(self, layers: Mapping[str, TileLayer]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, layer: str) -> list[Array]:
        return self._layers[layer].tiles.conductances()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        cells = sum(layer.placement.cells * layer.placement.tile.devices for layer in self._layers.values())
        return f"<conductances of {cells:,} cells of {len(self)} layers>"

    def table(self, *layers: str) -> pd.DataFrame:
        """A line for each cell of these layers (by default of all), tile by tile and word line by word line.

        Columns: `layer`; `slice` and `polarity` (1: taken off the cell of polarity 0); `tile` of the layer;
        `word_line` and `bit_line` of the tile, counted over those in use from the end that is far from the sense
        amplifiers, and from the drivers on; `device` where cells have several in parallel; `siemens`, float32.

        Raises:
            MappingError: no such layer.
        """
        for name in layers:
            if name not in self._layers:
                raise MappingError(f"layer {name!r}: is not among {', '.join(self)}")
        names = layers or tuple(self)
        devices = any(self._layers[name].placement.tile.devices > 1 for name in names)
        found = []
        for name in names:
            table = self._lines(name, devices=devices)
            table.insert(0, LAYER, pd.Series(pd.Categorical([name]).repeat(len(table))))
            found.append(table)
        table = pd.concat(found, ignore_index=True)
        return table.astype({LAYER: pd.CategoricalDtype(list(dict.fromkeys(names)))})

    def save(self, path: str | Path) -> None:
        """Write the table to a file, a layer at a time: complete or not at all.

        `.parquet` has the columns of `table`, with a row group for each layer or more. `.npz` has an array with the
        fields of the table, but `layer`, under the name of each layer. `.csv` is the table as text, which is large:
        about 30 bytes a cell. All hold the conductances bit by bit, and `Chip.with_conductances` takes them.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        if path.suffix not in ENDS:
            raise ValueError(f"conductances are written to .parquet, .npz or .csv, got {path}")
        write = {".parquet": self._write_parquet, ".npz": self._write_npz, ".csv": self._write_csv}[path.suffix]
        with whole(path) as part:
            write(part)

    def _lines(self, name: str, *, devices: bool) -> pd.DataFrame:
        """The table of a layer, without its name."""
        return table_of(self._layers[name].tiles, devices=devices)

    def _write_parquet(self, path: Path) -> None:
        devices = any(layer.placement.tile.devices > 1 for layer in self._layers.values())
        kinds = {key: pa.from_numpy_dtype(kind) for key, kind in KINDS.items() if devices or key != "device"}
        schema = pa.schema({LAYER: pa.dictionary(pa.int32(), pa.string()), **kinds})
        with pq.ParquetWriter(path, schema) as file:
            for name in self:
                lines = pa.Table.from_pandas(self._lines(name, devices=devices), preserve_index=False)
                names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(lines), np.int32)), pa.array([name]))
                file.write_table(lines.add_column(0, LAYER, names).cast(schema))

    def _write_csv(self, path: Path) -> None:
        devices = any(layer.placement.tile.devices > 1 for layer in self._layers.values())
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, name in enumerate(self):
                lines = self._lines(name, devices=devices)
                lines.insert(0, LAYER, name)
                lines.to_csv(file, index=False, header=number == 0)

    def _write_npz(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
            for name, layer in self._layers.items():
                lines = self._lines(name, devices=layer.placement.tile.devices > 1).to_records(index=False)
                with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(lines), allow_pickle=False)


def given_by_layer(given: Any) -> Mapping[str, Any]:
    """What each layer is given of what `Chip.with_conductances` takes: a table, or the arrays of its groups.

    Raises:
        MappingError: nothing of the kind.
        ValueError: a file that cannot be read.
    """
    if isinstance(given, str | Path):
        return _from_file(Path(given))
    if isinstance(given, pa.Table):
        given = given.to_pandas()
    if isinstance(given, np.ndarray) and given.dtype.names:
        given = pd.DataFrame({name: given[name] for name in given.dtype.names})
    if isinstance(given, pd.DataFrame):
        if LAYER not in given.columns:
            raise MappingError(f"conductances: the table has no column 'layer', but {list(given.columns)}")
        if not len(given):
            raise MappingError("conductances: the table has no lines")
        if given[LAYER].isna().any():
            raise MappingError("conductances: the column 'layer' must name the layer of each cell, got lines without")
        groups = given.groupby(LAYER, sort=False, observed=True)
        return {str(name): table.drop(columns=LAYER) for name, table in groups}
    if not isinstance(given, Mapping):
        raise MappingError(
            f"conductances must be given by layer, or as a table or a .parquet, .npz or .csv file of one, got "
            f"{type(given).__name__}"
        )
    return given


class _Lazy(Mapping[str, Any]):
    """Tables that are read when they are asked for."""

    def __init__(self, names: list[str], read: Callable[[str], Any]) -> None:
        self.names, self.read = names, read

    def __getitem__(self, name: str) -> Any:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _from_file(path: Path) -> Mapping[str, Any]:
    """The tables in a file, by layer.

    Raises:
        ValueError: it cannot be read, or holds none.
    """
    if path.suffix not in ENDS:
        raise ValueError(f"conductances are read from .parquet, .npz or .csv, got {path}")
    return {".parquet": _from_parquet, ".npz": _from_npz, ".csv": _from_csv}[path.suffix](path)


def _from_csv(path: Path) -> Mapping[str, Any]:
    try:
        table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types={LAYER: pa.string()}))
    except pa.ArrowException as error:
        raise ValueError(f"conductances: file {path} holds no table ({_short(error)})") from error
    return given_by_layer(table)


def _from_parquet(path: Path) -> Mapping[str, Any]:
    try:
        if LAYER not in pq.read_schema(path).names:
            raise ValueError("it has no column 'layer'")
        column = pq.read_table(path, columns=[LAYER])[LAYER]
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"conductances: file {path} holds no table ({_short(error)})") from error
    if column.null_count:
        raise MappingError("conductances: the column 'layer' must name the layer of each cell, got lines without")
    if not len(column):
        raise MappingError("conductances: the table has no lines")
    names = {str(name): name for name in column.unique().to_pylist()}

    def read(name: str) -> pd.DataFrame:
        lines = pq.read_table(path, filters=[(LAYER, "==", names[name])])
        return lines.drop_columns([LAYER]).to_pandas()

    return _Lazy(list(names), read)


def _from_npz(path: Path) -> Mapping[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file.files)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"conductances: file {path} holds no arrays ({_short(error)})") from error

    def read(name: str) -> Any:
        try:
            with np.load(path, allow_pickle=False) as file:
                return file[name]
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"conductances: file {path}: {name!r} is no array ({_short(error)})") from error

    return _Lazy(names, read)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

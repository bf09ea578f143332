"""The folder of a sweep or search: its settings, a small Parquet file for each finished task, at the end the tables."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..mapping.saved.folders import whole


def csv_of(table: str) -> str:
    """Name of the same table as CSV."""
    return table.replace(".parquet", ".csv")


MARK, SEARCH_MARK, HARDWARE, PARTS, LOCK = "sweep.yaml", "search.yaml", "hardware.yaml", "parts", ".lock"
TABLE, TRIALS, CONFIRMED = "results.parquet", "trials.parquet", "confirmed.parquet"
REPORT, FIGURE = "report.txt", "front.png"
MADE = (*(name for table in (TABLE, TRIALS, CONFIRMED) for name in (table, csv_of(table))), REPORT, FIGURE)

Row = Mapping[str, Any]


class SweepFolder:
    """What a sweep or a search leaves behind. A task is done when its part is there; parts are whole or not there.

    Raises:
        ValueError: the path is neither new, empty nor such a folder.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"out: expected a path, got {type(path).__name__}")
        self.path = Path(path)
        if self.path.exists() and not (self.path.is_dir() and self._ours()):
            raise ValueError(f"out: {self.path} exists and is no folder of a sweep; choose another")

    def _ours(self) -> bool:
        """Whether it has the mark, or only what is written before it."""
        names = {name for name in _names(self.path) if not _is_half(name)}
        return bool(names & {MARK, SEARCH_MARK}) or names <= {LOCK, PARTS, HARDWARE}

    def done(self) -> set[str]:
        """Ids of the finished tasks."""
        parts = self.path / PARTS
        return {name.removesuffix(".parquet") for name in _names(parts) if name.endswith(".parquet")}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. The lock goes with the process, however it ends.

        Raises:
            ValueError: another process holds it.
        """
        (self.path / PARTS).mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise ValueError(
                    f"out: {self.path} is in use by another sweep ({file.read().strip() or 'starting'}); "
                    "wait for it, or choose another folder"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            for folder in (self.path, self.path / PARTS):
                for name in _names(folder):
                    if _is_half(name):
                        (folder / name).unlink()
            yield

    def begin(self, mark: str, study: str, hardware: str) -> None:
        """Write the settings, those of the study as `mark`. Tables of earlier ones go; their parts stay."""
        for name in MADE:
            (self.path / name).unlink(missing_ok=True)
        _write(self.path / HARDWARE, hardware.encode())
        _write(self.path / mark, study.encode())

    def add(self, row: Row) -> None:
        """Write the part of a finished task; on return it is on the disk."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist([dict(row)]), sink, compression="none")
        _write(self.path / PARTS / f"{row['task_id']}.parquet", sink.getvalue())

    def read(self, task_id: str) -> dict[str, Any]:
        """The row of a finished task.

        Raises:
            ValueError: a damaged file.
        """
        path = self.path / PARTS / f"{task_id}.parquet"
        try:
            (row,) = pq.ParquetFile(path).read().to_pylist()
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:100]}); delete it") from error
        return dict(row)

    def finish(self, name: str, rows: Sequence[Row], *, csv: bool) -> pa.Table:
        """Write the table of all rows, in their order."""
        table = pa.table({column: _column([row.get(column) for row in rows]) for column in rows[0]})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        _write(self.path / name, sink.getvalue())
        if csv:
            _write(self.path / csv_of(name), table.to_pandas().to_csv(index=False).encode())
        return table

    def write(self, name: str, content: bytes) -> None:
        """Write another file that is whole or not there."""
        _write(self.path / name, content)


def _column(values: list[Any]) -> pa.Array:
    """One type for all values of a column: numbers, strings, or else JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) > 1:
        return pa.array(values, pa.float64())
    if len(kinds) > 1 or kinds & {list, dict}:
        return pa.array([value if isinstance(value, str) else json.dumps(value) for value in values])
    return pa.array(values)


def _is_half(name: str) -> bool:
    """Whether a file was left behind by a process that was killed while it wrote."""
    return name.startswith(".") and name.endswith(".part")


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _write(path: Path, content: Any) -> None:
    """Write a file that is whole or not there, even if the power goes."""
    try:
        with whole(path) as part, part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk does not say where
        raise OSError(error.errno, error.strerror, str(path)) from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

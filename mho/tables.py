"""Tables of results on a terminal, in GitHub Markdown and in files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table


class Column(NamedTuple):
    """How a column is shown: its heading, the format of its values (`s` for text), and a factor for its unit."""

    heading: str
    format: str
    factor: float = 1


Columns = Mapping[str, Column]


def print_table(title: str, table: pd.DataFrame, columns: Columns, *, markdown: bool = False) -> None:
    """The chosen columns of a table on the terminal, or as GitHub Markdown; `-` where there is no value.

    Rows with the same value in the first column stand together, between lines.
    """
    cells = [[_cell(row[name], column) for name, column in columns.items()] for row in table.to_dict("records")]
    if markdown:
        headings = [column.heading for column in columns.values()]
        sides = [":--" if column.format == "s" else "--:" for column in columns.values()]
        print(*(f"| {' | '.join(line)} |" for line in [headings, sides, *cells]), sep="\n")
        return
    shown = Table(title=title, title_justify="left")
    for column in columns.values():
        shown.add_column(column.heading, justify="left" if column.format == "s" else "right")
    firsts = [line[0] for line in cells]
    grouped = len(set(firsts)) < len(firsts)
    for line, following in zip(cells, [*firsts[1:], ""], strict=True):
        shown.add_row(*line, end_section=grouped and line[0] != following)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def print_notes(notes: Sequence[str]) -> None:
    """Lines below a table."""
    for note in notes:
        print(f"- {note}")


def _cell(value: Any, column: Column) -> str:
    if value is None or value != value:
        return "-"
    return format(value if isinstance(value, str) else value * column.factor, column.format)


def write_table(table: pd.DataFrame, path: Path, *, csv_format: str | None = None) -> None:
    """A table as CSV and as Parquet: `path` with either ending. `csv_format` is that of floats in the CSV file."""
    table.to_csv(path.with_name(f"{path.name}.csv"), index=False, float_format=csv_format)
    table.to_parquet(path.with_name(f"{path.name}.parquet"), index=False)

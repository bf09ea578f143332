"""`mho.view`: the table of a sweep or a search as a page to explore: axes, colours, filters, fronts, single points."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from .mapping.reports.page import COLOURS, Page, check_name
from .mapping.saved.folders import as_path
from .sweeps.file import OPTION, Settings, is_hardware
from .sweeps.folder import CONFIRMED, MARK, SEARCH_MARK, TABLE, TRIALS

MOST_KINDS = 4096  # values of a column that are kept once each
COSTS = ("total_energy_j", "decision_energy_j", "latency_s", "area_m2")
QUALITIES = ("accuracy", "voted", "single")
COLOUR = ("votes", "sensing.v_read")
APART = ("grid", "points", "search", "target", "costs", "confirm", "trials", "population", "search_seed", "options")
CONTROLS = """
<div class="choose">
<label>x axis <select id="x"></select></label>
<label>better <select id="better-x"><option value="">neither</option><option>low</option><option>high</option></select>
</label><label><input type="checkbox" id="log-x"> logarithmic</label></div>
<div class="choose"><label>y axis <select id="y"></select></label>
<label>better <select id="better-y"><option value="">neither</option><option>low</option><option>high</option></select>
</label><label><input type="checkbox" id="log-y"> logarithmic</label>
<label>coloured by <select id="colour"></select></label></div>
<p id="count" role="status"></p>
<div class="explorer"><div id="plot" role="img" aria-label="the rows that stay, as points"></div>
<aside><div id="row" class="scroll" tabindex="0" aria-label="the row pointed at">Point at a row to see all of it;
click to keep it.</div></aside></div>
<div id="yaml-part" hidden><h3>To run this point again</h3><pre id="yaml"></pre>
<button type="button" id="copy">copy</button> <button type="button" id="save">save as point.yaml</button>
<span id="copied" role="status"></span></div>
"""
FILTERS = """
<div id="settings"></div><details><summary>by results</summary><div id="results"></div></details>
"""
FRONT = """<div class="scroll" tabindex="0"><table id="front"></table></div>"""


def view(run: str | PathLike[str], path: str | PathLike[str] | None = None) -> Path:
    """Write a page over the table of a sweep or a search, for a browser: one file that needs no network.

    Args:
        run: folder of a sweep or a search, or a table (.csv, .parquet) of one.
        path: of the page; None: `view.html` in the folder, or beside the table.

    Returns:
        The path of the page.

    Raises:
        ValueError: nothing of the kind, a table without rows, or another ending than .html.

    Example:
        >>> import pandas as pd
        >>> pd.DataFrame({"bits": [6, 8], "accuracy": [0.91, 0.97]}).to_csv("table.csv")
        >>> mho.view("table.csv", "table.html").name
        'table.html'
    """
    source = as_path(run, "run")
    where = source if source.is_dir() else source.parent
    target = check_name(where / "view.html" if path is None else path)
    table, study = _found(source)
    if not len(table):
        raise ValueError(f"run: {source} has no rows")
    page_of(table, study, source.name).write(target)
    return target


def page_of(table: pd.DataFrame, study: dict[str, Any], name: str) -> Page:
    """The page of a table; `study` is what its file says, empty where that is not known."""
    nested = {c: _texts(table[c]) for c in table.columns if _is_nested(table[c])}
    table = table.assign(**nested)
    settings = [c for c in table.columns if _is_setting(str(c), table[c], study)]
    columns = [_column(str(c), table[c], c in settings) for c in table.columns if not _is_dull(str(c), table[c])]
    for column in columns:
        if column["name"] in nested or (is_hardware(column["name"]) and column["kind"] == "words"):
            column["values"] = [_from_text(value) for value in column["values"]]
    page = Page(f"Explore: {name}", f"{len(table):,} rows. This file needs no network.")
    page.section("")
    page.html(f"<style>{files(__package__).joinpath('explorer.css').read_text('utf-8')}</style>")
    page.html(CONTROLS)
    page.section("Front", "Rows that no other row beats on both axes, after filtering.")
    page.html(FRONT)
    page.section("Filters", "Only rows that pass all filters are shown.")
    page.html(FILTERS)
    base = {
        key: yaml.safe_dump({key: value}, sort_keys=False).rstrip() for key, value in study.items() if key not in APART
    }
    options = {k: v for k, v in study.get("options", {}).items() if OPTION + k not in table.columns}
    if options:
        base["options"] = yaml.safe_dump({"options": options}, sort_keys=False).rstrip()
    page.data(
        "run",
        {
            "rows": len(table), "columns": columns, "base": base, "again": bool(study), "colours": COLOURS,
            "start": _start([c["name"] for c in columns], [str(c) for c in settings]),
        },
    )  # fmt: skip
    page.script(files(__package__).joinpath("explorer.js").read_text("utf-8"))
    return page


def _found(source: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table, and what the file of its study says.

    Raises:
        ValueError: there is none.
    """
    if source.is_dir():
        tables = [source / name for name in (TABLE, TRIALS, CONFIRMED) if (source / name).is_file()]
        if not tables:
            raise ValueError(f"run: {source} has none of {TABLE}, {TRIALS}: is the sweep finished?")
        source = tables[0]
    elif not source.is_file() or source.suffix not in (".csv", ".parquet"):
        raise ValueError(f"run: expected the folder of a sweep or search, or a .csv or .parquet table, got {source}")
    try:
        table = pd.read_csv(source) if source.suffix == ".csv" else pd.read_parquet(source)
    except (ValueError, OSError) as error:
        raise ValueError(f"run: {source} holds no table ({' '.join(str(error).split())[:100]})") from error
    for mark in (MARK, SEARCH_MARK):
        if (file := source.parent / mark).is_file():
            return table, dict(yaml.safe_load(file.read_text("utf-8")) or {})
    return table, {}


def _is_setting(name: str, column: pd.Series[Any], study: dict[str, Any]) -> bool:
    """Whether a column is what a point was asked for, not what came out."""
    asked: set[str] = set(study.get("grid", {})) | set(study.get("search", {}))
    asked |= {key for point in study.get("points", ()) for key in point}
    known = name in Settings.model_fields or is_hardware(name) or name.startswith(OPTION)
    return name in asked or (known and column.nunique(dropna=False) > 1)


def _is_nested(column: pd.Series[Any]) -> bool:
    """Whether cells of a column are lists or mappings, as those of `layers` and of parts of a cell are."""
    return column.dtype == object and any(isinstance(value, (list, dict, np.ndarray)) for value in column)


def _texts(column: pd.Series[Any]) -> pd.Series[Any]:
    """Cells that are lists or mappings as JSON, which can be told apart and counted."""
    return column.map(lambda value: None if value is None else json.dumps(_plain(value)))


def _from_text(value: Any) -> Any:
    """A list or a mapping of its JSON, as tables have those of hardware; other values stay."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError:  # a path may begin so
        return value


def _plain(value: Any) -> Any:
    """A cell as it was given: files of tables have arrays for lists, and all fields of all rows in each mapping."""
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items() if held is not None}
    return [_plain(held) for held in value] if isinstance(value, (list, np.ndarray)) else value


def _is_dull(name: str, column: pd.Series[Any]) -> bool:
    """Whether a column tells nothing that one would look at."""
    return name.startswith("task_id") or name.endswith("_meta") or (name == "extrapolated" and not column.any())


def _column(name: str, column: pd.Series[Any], setting: bool) -> dict[str, Any]:
    """A column as the page keeps it: values once each, with their numbers; or numbers of 64 bits."""
    about = {"name": name, "setting": setting, "top": "." not in name and name != "time_s"}
    values = column.astype(object).where(column.notna(), None)
    index, kinds = pd.factorize(values, use_na_sentinel=False)
    if len(kinds) > MOST_KINDS and pd.api.types.is_numeric_dtype(column):
        data = base64.b64encode(column.to_numpy("<f8").tobytes()).decode()
        return {**about, "kind": "number", "data": data}
    width = 1 if len(kinds) <= 2**8 else 2 if len(kinds) <= 2**16 else 4
    packed = base64.b64encode(index.astype(f"<u{width}").tobytes()).decode()
    plain = [None if value is None or value != value else value for value in kinds]
    return {**about, "kind": "words", "values": plain, "index": packed, "bytes": width}


def _start(names: list[str], settings: list[str]) -> dict[str, Any]:
    """What is shown first: accuracy over energy, if there are such."""
    x = next((name for name in (*COSTS, *settings, *names) if name in names), names[0])
    y = next((name for name in (*QUALITIES, *reversed(names)) if name in names and name != x), names[-1])
    colour = next((name for name in (*COLOUR, *settings) if name in settings and name not in (x, y)), None)
    cost = x in COSTS
    return {
        "x": x, "y": y, "colour": colour, "logX": cost,
        "betterX": "low" if cost else "", "betterY": "high" if cost and y in QUALITIES else "",
    }  # fmt: skip

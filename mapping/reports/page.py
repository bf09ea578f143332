"""A page of figures and tables as one HTML file that opens offline: script, data and style are in it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..saved.folders import as_path, whole

Array = np.ndarray[Any, Any]
Figure = dict[str, Any]  # `data` and `layout`, as plotly's script takes them
# of Okabe and Ito 2008, told apart by all eyes
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
NONE = -32768  # a number that is not there, in `packed`


class Page:
    """A page that grows by sections; `write` makes the file."""

    def __init__(self, title: str, said: str = "") -> None:
        self.title = title
        self._head = f"<h1>{escape(title)}</h1>" + (f'<p class="soft">{escape(said)}</p>' if said else "")
        self._sections: list[tuple[str, list[str]]] = []
        self._data: dict[str, str] = {}
        self._scripts: list[str] = []

    def section(self, title: str, *said: str) -> None:
        """Begin a section, with paragraphs of plain text."""
        self._sections.append((title, [f"<p>{escape(text)}</p>" for text in said]))

    def html(self, text: str) -> None:
        """Add HTML to the section that was begun last."""
        self._sections[-1][1].append(text)

    def cards(self, values: Mapping[str, str]) -> None:
        """Add numbers that stand out, by what they are."""
        self.html(
            '<div class="cards">'
            + "".join(
                f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
                for name, value in values.items()
            )
            + "</div>"
        )

    def figure(self, figure: Figure, height: int = 420, label: str = "") -> None:
        """Add a figure; `label` says what it shows to those who cannot see it."""
        self.html(
            f'<div class="figure" role="img" aria-label="{escape(label)}" data-figure="{self._keep(figure)}" '
            f'style="height:{height}px"></div>'
        )

    def figures(self, named: Mapping[str, Figure], what: str, height: int = 420) -> None:
        """Add figures of which one is shown, chosen by its name."""
        place = f"choice-{len(self._data)}"
        options = "".join(f'<option value="{self._keep(one)}">{escape(name)}</option>' for name, one in named.items())
        self.html(
            f'<div class="choose"><label for="{place}">{escape(what)}</label>'
            f'<select id="{place}">{options}</select></div>'
            f'<div class="figure" role="img" aria-label="{escape(what)}" data-choice="{place}" '
            f'style="height:{height}px"></div>'
        )

    def table(self, table: pd.DataFrame, text: Sequence[str] = ()) -> None:
        """Add a table whose columns can be sorted; those named in `text` hold words."""

        def cell(name: str, value: Any) -> str:
            kind = ' class="text"' if name in text else ""
            if isinstance(value, float | np.floating):
                return f'<td{kind} data-value="{float(value)!r}">{escape(number(float(value)))}</td>'
            if isinstance(value, int | np.integer) and not isinstance(value, bool):
                return f'<td{kind} data-value="{int(value)}">{int(value):,}</td>'
            return f"<td{kind}>{escape(str(value))}</td>"

        heads = "".join(
            f'<th scope="col"{" class=" + chr(34) + "text" + chr(34) if name in text else ""}>'
            f'<button type="button">{escape(str(name))}</button></th>'
            for name in table.columns
        )
        names = [str(name) for name in table.columns]
        rows = "".join(
            "<tr>" + "".join(cell(name, value) for name, value in zip(names, row, strict=True)) + "</tr>"
            for row in table.itertuples(index=False, name=None)
        )
        self.html(
            f'<div class="scroll" tabindex="0"><table class="sortable"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def data(self, name: str, value: Any) -> None:
        """Keep data for a script, which finds them by their name."""
        self._data[name] = _json(value)

    def script(self, text: str) -> None:
        """Add a script that runs behind the page's own."""
        self._scripts.append(text)

    def _keep(self, figure: Figure) -> str:
        name = f"f{len(self._data)}"
        self._data[name] = _json(figure)
        return name

    def __str__(self) -> str:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

        style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
        links = "".join(f'<a href="#s{k}">{escape(title)}</a>' for k, (title, _) in enumerate(self._sections) if title)
        parts = [
            f'<section id="s{k}">' + (f"<h2>{escape(title)}</h2>" if title else "") + "\n".join(rest) + "</section>"
            for k, (title, rest) in enumerate(self._sections)
        ]
        kept = [
            f'<script type="application/json" id="data-{name}">{value}</script>' for name, value in self._data.items()
        ]
        scripts = [f"<script>{text}</script>" for text in (get_plotlyjs(), script, *self._scripts)]
        return "\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
                f"<title>{escape(self.title)}</title><style>{style}</style></head><body>",
                f"<header>{self._head}<nav>{links}</nav></header><main>",
                *parts,
                "</main>",
                *kept,
                *scripts,
                "</body></html>",
            ]
        )

    def write(self, path: str | PathLike[str]) -> None:
        """Write the file: complete or not at all.

        Raises:
            ValueError: a name that does not end in .html.
            OSError: it cannot be written.
        """
        with whole(check_name(path)) as part:
            part.write_text(str(self), encoding="utf-8")


def check_name(path: str | PathLike[str]) -> Path:
    """The path of a page.

    Raises:
        ValueError: a name that does not end in .html.
    """
    if (target := as_path(path, "path")).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"a page is written to a file that ends in .html, got {target}")
    return target


def packed(values: Array) -> dict[str, Any]:
    """Numbers of one or two dimensions in two bytes each, to 1 part in 65,000 of their range; page.js unpacks them."""
    found = np.asarray(values, np.float64)
    good = np.isfinite(found)
    low, high = (float(found[good].min()), float(found[good].max())) if good.any() else (0.0, 0.0)
    scale = (high - low) / 65534 or 1.0
    whole_numbers = np.where(good, np.rint((np.where(good, found, low) - low) / scale) - 32767, NONE).astype("<i2")
    return {
        "q": base64.b64encode(whole_numbers.tobytes()).decode(),
        "scale": scale,
        "offset": low + 32767 * scale,
        "shape": list(found.shape),
    }


def number(value: float) -> str:
    """A number for people: four digits, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def as_table(values: Mapping[str, str]) -> str:
    """Names and values as HTML, for notebooks."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in values.items())
    return f"<table>{rows}</table>"


def as_text(values: Mapping[str, str]) -> str:
    """Names and values as lines, for a terminal."""
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())


def axis_of_votes(most: int) -> dict[str, Any]:
    """A horizontal axis of plotly for 1 to `most` votes, about ten whole numbers on it."""
    return {"title": {"text": "votes"}, "tick0": 0, "dtick": max(1, most // 10)}


def engineering(value: float, unit: str) -> str:
    """A quantity with a prefix of SI, as 3.2 uJ."""
    if not value or not math.isfinite(value):
        return f"{value:g} {unit}"
    power = max(-6, min(4, math.floor(math.log10(abs(value)) / 3)))
    return f"{value / 1000.0**power:.3g} {'afpnum kMGT'[power + 6].strip()}{unit}"


def _json(value: Any) -> str:
    """JSON that may stand inside of a script element."""
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | pd.Series | list | tuple):
        return [_plain(part) for part in (value.tolist() if hasattr(value, "tolist") else value)]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

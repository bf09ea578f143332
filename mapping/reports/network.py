"""The network as a picture: its layers on tiles and the digital work between them, from the input down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from ..trace import Call
from .page import Figure

ROW = 30  # pixels of a level
BEND = 0.25  # of the distance between neighbours
GREY = "#9aa3ad"
WIDTH, LETTER = 850, 7  # pixels of the figure beside its bar of colours, and of a letter
KEPT = 3  # functions of digital work that are named


@dataclass
class Node:
    """A layer on tiles with all its calls, or the digital work behind it."""

    name: str
    on_tiles: bool
    functions: list[str] = field(default_factory=list)
    work: int = 0
    positions: int = 0
    after: list[int] = field(default_factory=list)


def nodes_of(trace: Sequence[Call], layers: Sequence[str]) -> list[Node]:
    """The calls of an inference, those of one layer together; the layers in a row where no inference was recorded."""
    if not trace:
        return [Node(name, True, after=[k - 1] if k else []) for k, name in enumerate(layers)]
    numbers: dict[tuple[str, bool], int] = {}
    found: list[Node] = []
    of_call: list[int] = []
    for call in trace:
        key = call.layer, not call.digital
        if key not in numbers:
            numbers[key] = len(found)
            found.append(Node(call.layer, not call.digital))
        number = numbers[key]
        node = found[number]
        node.functions += [name for name in call.digital if name not in node.functions]
        node.work += call.work
        node.positions += call.positions
        node.after += [of_call[k] for k in call.after if of_call[k] != number and of_call[k] not in node.after]
        of_call.append(number)
    return found


def places_of(nodes: Sequence[Node]) -> list[tuple[float, int]]:
    """Where each node stands: across, and its level, one below the lowest of those that it needs."""
    levels: list[int] = []
    for number, node in enumerate(nodes):  # what a loop hands back comes later, and is passed over
        levels.append(1 + max((levels[k] for k in node.after if k < number), default=-1))
    taken: dict[int, set[float]] = {}
    across: list[float] = []
    for number, node in enumerate(nodes):
        before = [across[k] for k in node.after if k < number]
        wanted = min(before, key=abs) if before else 0.0
        row = taken.setdefault(levels[number], set())
        steps = (wanted + side * step for step in range(len(nodes) + 1) for side in (1, -1))
        across.append(next(x for x in steps if all(abs(x - other) >= 1 for other in row)))
        row.add(across[number])
    return list(zip(across, levels, strict=True))


def network_figure(nodes: Sequence[Node], values: Mapping[str, float], what: str, words: Mapping[str, str]) -> Figure:
    """The picture with the layers on tiles coloured by a value; `words` are said where the mouse is on one."""
    places = places_of(nodes)
    pairs = list(zip(nodes, places, strict=True))
    tiles, digital = ([pair for pair in pairs if pair[0].on_tiles is kind] for kind in (True, False))
    axis = {"visible": False, "zeroline": False, "showgrid": False}
    wide = max((abs(x) for x, _ in places), default=0.0)
    layout = {
        "xaxis": {**axis, "range": [-wide - 1, wide + 3]},
        "yaxis": {**axis, "autorange": "reversed"},
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "hovermode": "closest",
    }
    data = [
        _edges(nodes, places),
        _marks(digital, _digital(digital)),
        _marks(tiles, _tiles(tiles, values, what, words)),
    ]
    return {"data": data, "layout": layout}


Placed = list[tuple[Node, tuple[float, int]]]


def _edges(nodes: Sequence[Node], places: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Lines from each node to those that need it."""
    lines: dict[str, list[float | None]] = {"x": [], "y": []}
    for number, node in enumerate(nodes):
        for k in node.after:
            (x0, y0), (x1, y1) = places[k], places[number]
            round_others = x0 == x1 and abs(y1 - y0) > 1  # a bend shows that it passes them
            lines["x"] += [x0, *([x0 - BEND] * 2 if round_others else []), x1, None]
            lines["y"] += [y0, *([y0 + 0.6, y1 - 0.6] if round_others else []), y1, None]
    drawn = {"line": {"color": "#b3bbc4", "width": 1.2}, "hoverinfo": "skip", "showlegend": False}
    return {"type": "scatter", "mode": "lines", **lines, **drawn}


def _marks(mine: Placed, more: dict[str, Any]) -> dict[str, Any]:
    x, y = [x for _, (x, _) in mine], [y for _, (_, y) in mine]
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "hoverinfo": "text", "showlegend": False} | more


def _tiles(tiles: Placed, values: Mapping[str, float], what: str, words: Mapping[str, str]) -> dict[str, Any]:
    """How layers on tiles look."""
    names = [node.name for node, _ in tiles]
    wide = max((abs(x) for _, (x, _) in tiles), default=0.0)
    room = max(6, int(WIDTH / (2 * wide + 4) / LETTER) - 3)  # letters between two columns
    crowded = Counter(level for _, (_, level) in tiles)
    shown = [
        f"...{name[-room:]}" if crowded[level] > 1 and len(name) > room + 3 else name
        for name, (_, (_, level)) in zip(names, tiles, strict=True)
    ]
    colours = [values.get(name) for name in names]
    known = [value for value in colours if value is not None and not isnan(value)]
    marker = {"size": 16, "symbol": "square", "color": colours, "colorscale": "Cividis", "showscale": True}
    marker |= {"cmin": min(known, default=0), "cmax": max(known, default=1), "line": {"color": "#1b1f24", "width": 1}}
    marker["colorbar"] = {"title": {"text": what}, "thickness": 14, "exponentformat": "SI"}
    said = [f"<b>{name}</b><br>{words.get(name, '')}" for name in names]
    how = {"mode": "markers+text", "textposition": "middle right"}
    return {**how, "text": shown, "hovertext": said, "marker": marker}


def _digital(digital: Placed) -> dict[str, Any]:
    """How digital work looks."""

    def said(node: Node) -> str:
        more = f" and {len(node.functions) - KEPT} more" if node.functions[KEPT:] else ""
        return f"digital: {', '.join(node.functions[:KEPT])}{more}<br>{node.work:,} operations"

    return {"hovertext": [said(node) for node, _ in digital], "marker": {"size": 9, "color": GREY}}


def height_of(nodes: Sequence[Node]) -> int:
    """Pixels that the picture needs."""
    levels = 1 + max((level for _, level in places_of(nodes)), default=0)
    return max(260, min(6000, ROW * levels + 60))

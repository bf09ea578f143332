"""The code on one page, drawn from the code itself: its rooms, their files, and which room imports which.

    python benchmarks/architecture.py [--out docs/images/architecture.png]

A room is a folder of the package; it stands above the rooms that it imports. The width of an arrow says how many of its
files import from the other room, inside functions too.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
ROWS = (
    ("mho", "mho/commands", "mho/sweeps", "mho/importing"),
    ("models", "models/data", "models/kernels"),
    ("mapping/explaining", "mapping/architecture", "mapping/voting", "mapping/trainable", "mapping/exports"),
    ("mapping", "mapping/saved", "mapping/reports", "mapping/checkpoints"),
    ("mapping/kinds", "mapping/operands", "mapping/inputs", "mapping/torch_backend"),
    ("crossbar", "crossbar/backends", "crossbar/kernels"),
    ("devices",),
)
COLOURS = ("#fbe3c8", "#f7d3d6", "#cfe0f3", "#d8e6f5", "#e0ebf7", "#d9eeda", "#ece3f4")
WIDTH, GAP, HEIGHT = 34, 1.5, 17.0  # of the page and between rooms, in units of the drawing
NARROW = 7  # a room that has no space for the name of the folder around it
LINES = 10  # files one below the other in a room


def files(room: str) -> list[Path]:
    """The modules of a room, without `__init__` and `__main__`."""
    return sorted(path for path in (ROOT / room).glob("*.py") if not path.stem.startswith("__"))


def room_of(name: tuple[str, ...]) -> str | None:
    """The room of a module of the package by its dotted name, in parts without `mho` in front; None for others."""
    rooms = {room for row in ROWS for room in row}
    for length in (2, 1):
        found = "/".join(name[:length])
        if len(name) >= length and found in rooms:
            return found
        inside = "/".join(("mho", *name[:length]))
        if inside in rooms and not (ROOT / found).is_dir():
            return inside
    return None


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    place = path.relative_to(ROOT).parent.parts
    home = place[1:] if place[0] == "mho" else place
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            up = node.level - 1
            base = home[: len(home) - up] if up else home
            names = [*(node.module or "").split(".")] if node.module else []
            room = room_of((*base, *names)) or ("mho" if not base else None)
            found.add(room)
    return {room for room in found if room}


def arrows() -> Counter[tuple[str, str]]:
    """How many files of one room import from another."""
    return Counter(
        (room, other)
        for row in ROWS
        for room in row
        for path in files(room)
        for other in imported(path)
        if other != room
    )


def places() -> dict[str, tuple[float, float, float]]:
    """Left, bottom and width of each room; rooms of a row share its width by their files."""
    found = {}
    for level, row in enumerate(ROWS):
        columns = {room: max(1, -(-len(files(room)) // LINES)) for room in row}
        unit = (WIDTH - GAP * (len(row) - 1)) / max(sum(columns.values()), 5)
        left = 0.0
        for room in row:
            width = unit * columns[room]
            found[room] = left, -level * HEIGHT, width
            left += width + GAP
    return found


def draw_room(axes: Axes, room: str, place: tuple[float, float, float], colour: str) -> None:
    left, bottom, width = place
    frame = {"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "#555555", "zorder": 2}
    axes.add_patch(FancyBboxPatch((left, bottom), width, HEIGHT - 4, **frame))
    title = room if width > NARROW else room.split("/")[-1]
    axes.text(left + 0.2, bottom + HEIGHT - 4.6, f"{title}/", fontsize=11, fontweight="bold", va="top")
    names = [path.stem for path in files(room)]
    columns = max(1, -(-len(names) // LINES))
    for number, name in enumerate(names):
        column, line = divmod(number, LINES)
        place_of = left + 0.3 + column * width / columns, bottom + HEIGHT - 6.6 - 1.05 * line
        axes.text(*place_of, name, fontsize=8, va="top")


def figure() -> Figure:
    page = Figure(figsize=(13, 15))
    axes = page.add_axes((0.01, 0.01, 0.98, 0.98))
    where = places()
    for level, row in enumerate(ROWS):
        for room in row:
            draw_room(axes, room, where[room], COLOURS[level])
    for (room, other), count in sorted(arrows().items()):
        (left, bottom, width), (to, under, span) = where[room], where[other]
        if bottom == under:
            continue  # rooms side by side are told in the table of docs/architecture.md
        start, end = (left + width / 2, bottom - 0.2), (to + span / 2, under + HEIGHT - 3.8)
        axes.add_patch(
            FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, linewidth=0.8 + count / 4, color="#777777")
        )
    axes.set_xlim(-0.6, WIDTH + 0.6)
    axes.set_ylim(-(len(ROWS) - 1) * HEIGHT - 0.6, HEIGHT - 3)
    axes.axis("off")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/architecture.png"))
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    figure().savefig(out, dpi=110)
    print(f"{len(arrows())} arrows between rooms; {out}")


if __name__ == "__main__":
    main()

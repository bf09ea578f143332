"""Every setting of the hardware in one page: unit, default, range, meaning and source.

    python benchmarks/settings.py [--out docs/settings.md]

What a setting means is written where it is defined: in its description, or in the docstring of its class. A test keeps
the page as this makes it.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import mho
from mho.crossbar.adc_kinds import AdcKind
from mho.devices.data import DataRange
from mho.devices.drift import Drift
from mho.devices.memory import Memory
from mho.devices.nonlinearity import Nonlinearity
from mho.devices.parts import Part
from mho.devices.programming import ProgrammingModel
from mho.devices.read_noise import ReadNoiseModel
from mho.devices.sources import SensingNoise
from mho.devices.units import Unit

HEAD = """# Settings

Every setting of `mho.Hardware`, by its name in a YAML file, in `hardware.replace({...})` and in sweeps. Numbers
are in the unit given; YAML may write them with a prefix, as `50 uS`. `python benchmarks/settings.py` makes this page
from the code.

The presets (`reram`, `pcm`, `nand`) set many of these, each with its source: [devices.md](devices.md). Costs name
their source in the last column.

"""
GROUPS = {
    "": "The chip",
    "cell": "Cells",
    "cell.stuck": "Stuck cells and open lines",
    "sensing": "Sensing",
    "tile": "Tiles",
    "dac": "DACs",
    "adc": "ADCs",
    "output_noise": "Noise of outputs",
    "wires": "Wires",
    "seeds": "Seeds",
    "cost": "Energy, area and time",
}
KINDS: dict[str, tuple[str, Any]] = {
    "cell.programming": ("Kinds of programming error", ProgrammingModel.registry),
    "cell.drift": ("Kinds of drift", Drift.registry),
    "cell.read_noise": ("Kinds of read noise", ReadNoiseModel.registry),
    "cell.read_noise.memory": ("Kinds of memory of read noise", Memory.registry),
    "cell.nonlinearity": ("Kinds of nonlinearity", Nonlinearity.registry),
    "sensing.noise[]": ("Kinds of sensing noise", SensingNoise.registry),
    "adc.kind": ("Kinds of ADC", AdcKind.registry),
}


def rows_of(model: type[BaseModel], *, nested: bool = False) -> Iterator[tuple[str, str, str, str, str]]:
    """Name, unit, default, range and meaning of the fields of a model, and with `nested` of those of models in it."""
    said = meanings(model)
    for name, field in model.model_fields.items():
        inner = _model(field.annotation)
        meaning = field.description or said.get(name, "")
        if name == "kind" or inner is DataRange:
            continue
        if inner is not None and issubclass(inner, Part):
            yield name, "", _default(field), "", _kinds(inner)
            continue
        if inner is not None:
            for below, *rest in rows_of(inner) if nested else ():
                yield f"{name}.{below}", *rest
            continue
        yield name, _unit(field), _default(field), _range(field), meaning[:1].upper() + meaning[1:]


def _kinds(part: type[Part]) -> str:
    titles = {id(registry): title for title, registry in KINDS.values()}
    title = titles[id(part.registry)]
    return f"One of the [{title[0].lower() + title[1:]}](#{title.lower().replace(' ', '-')})"


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a class and of those that it derives from say of its fields, as `name, other: text`."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        text = _said(one)
        for match in re.finditer(r"^( *)([a-z]\w*(?:, [a-z]\w*)*): (.+(?:\n\1 +\S.*)*)", text, re.MULTILINE):
            for name in match[2].split(", "):
                found[name] = " ".join(match[3].split())
    return found


def _parts(annotation: Any) -> list[Any]:
    """What an annotation is made of, alternatives and what they are annotated with."""
    if hasattr(annotation, "__metadata__"):
        return [*_parts(annotation.__origin__), *annotation.__metadata__]
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return [part for one in get_args(annotation) for part in _parts(one)]
    return [annotation]


def _model(annotation: Any) -> type[BaseModel] | None:
    for part in _parts(annotation):
        if inspect.isclass(part) and issubclass(part, BaseModel):
            return part
    return None


def _all(field: Any) -> list[Any]:
    found = [*_parts(field.annotation), *field.metadata]
    return [part for one in found for part in ([one, *getattr(one, "metadata", ())] if one is not None else [])]


def _unit(field: Any) -> str:
    units = [getattr(part, "func", None) for part in _all(field)]
    return next((unit.spellings[0] for unit in units if isinstance(unit, Unit) and unit.spellings), "")


def _default(field: Any) -> str:
    if field.is_required():
        return "(needed)"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "`null`"
    if isinstance(value, Part):
        return f"`{value.kind}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (tuple, dict)) and not value:
        return "none"
    return f"`{value}`" if isinstance(value, str) and value else (str(value) or "empty")


def _range(field: Any) -> str:
    words = [f"`{value}`" for part in _all(field) if get_origin(part) is Literal for value in get_args(part)]
    ends = {
        kind: getattr(part, kind) for part in _all(field) for kind in ("ge", "gt", "le", "lt") if hasattr(part, kind)
    }
    low = f"from {ends['ge']:g}" if "ge" in ends else f"above {ends['gt']:g}" if "gt" in ends else ""
    high = f"to {ends['le']:g}" if "le" in ends else f"below {ends['lt']:g}" if "lt" in ends else ""
    numbers = " ".join(part for part in (low, high) if part)
    off = "`null`" if type(None) in get_args(field.annotation) and (words or numbers) else ""
    truth = "`true`, `false`" if field.annotation is bool else ""
    return ", ".join(part for part in (*dict.fromkeys(words), truth, numbers, off) if part)


def table(prefix: str, model: type[BaseModel], *, nested: bool = False) -> str:
    """Of the fields of a model, whose names begin with `prefix`; see `rows_of`."""
    lines = ["| setting | unit | default | range | meaning |", "|---|---|---|---|---|"]
    for name, *rest in rows_of(model, nested=nested):
        rest[-1] = rest[-1] or "see above"
        cells = [f"`{prefix}{name}`", *(text.replace("|", "\\|") for text in rest)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def models() -> dict[str, type[BaseModel]]:
    """Those of the parts of the hardware, by their dotted names."""
    found: dict[str, type[BaseModel]] = {"": mho.Hardware}
    for path in [name for name in GROUPS if name]:
        *above, last = path.split(".")
        part = _model(found[".".join(above)].model_fields[last].annotation)
        assert part is not None
        found[path] = part
    return found


def page() -> str:
    parts = [HEAD]
    for path, model in models().items():
        about = _plain(_said(model))
        parts.append(f"## {GROUPS[path]}\n\n{about}\n\n{table(f'{path}.' if path else '', model)}\n")
    for path, (title, registry) in KINDS.items():
        parts.append(f"## {title}\n\n`{path}` is one of these, chosen by `kind`.\n\n")
        for name in sorted(registry):
            kind = registry[name]
            if not kind.__module__.startswith("mho."):  # of a package that is installed here
                continue
            parts.append(f"### `{name}`\n\n{_plain(_said(kind))}\n\n")
            if list(rows_of(kind, nested=True)):
                parts.append(table("", kind, nested=True) + "\n")
    about = _plain(_said(DataRange))
    parts.append(f"## Data behind a model\n\nKinds that were fitted to data may have these. {about}\n\n")
    parts.append(table("data.", DataRange))
    return "".join(parts).rstrip() + "\n"


def _said(one: type) -> str:
    """The docstring of a class, without its examples."""
    return inspect.cleandoc(one.__doc__ or "").partition("\nExample:")[0]


def _plain(text: str) -> str:
    """A docstring as Markdown: what it says of fields stands in the table."""
    text = re.sub(r"^(?:Attributes|Args|Raises|Warns):\n(?: +.*\n?)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)([a-z]\w*(?:, [a-z]\w*)*): (.+(?:\n\1 +\S.*)*)\n?", "", text, flags=re.MULTILINE)
    text = text.replace("``", "`")
    text = re.sub(r"`[^`]*`|[*<]", lambda found: found[0] if found[0][0] == "`" else "\\" + found[0], text)
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/settings.md"))
    options = parser.parse_args(arguments)
    options.out.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

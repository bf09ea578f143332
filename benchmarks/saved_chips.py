"""Saved chips opened and written unchecked, in every format that is read, and chips of given cells: for the fuzzer and
the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import mho
from mho.crossbar.cells import Given
from mho.crossbar.drive import Drive
from mho.crossbar.kept import arrays_of
from mho.crossbar.programmed import Programmed
from mho.crossbar.stacked import ALL
from mho.mapping.saved import store
from mho.mapping.saved.migration import DRIVE

Text = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def format_of(folder: Path) -> int:
    """The format of a saved chip that is whole."""
    first = (folder / store.TEXT).read_bytes().partition(b"\n")[0]
    return 2 if first == b"format: 2" else int(first.split()[4].rstrip(b","))


def opened(folder: Path) -> tuple[Text, Tensors]:
    """What the files of a chip say, unchecked."""
    content = (folder / store.TEXT).read_bytes()
    text = yaml.safe_load(content) if format_of(folder) == 2 else json.loads(content.partition(b"\n")[2])
    return text, {name: value.clone() for name, value in store.load_file(folder / store.TENSORS).items()}


def write(folder: Path, text: Text, tensors: Tensors, number: int = store.FORMAT) -> None:
    """Write both files in the format of this number, with new digests where it has some."""
    if number > 2:
        store.write(folder, text, tensors, number)
    else:
        (folder / store.TEXT).write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
        store.save_file(tensors, folder / store.TENSORS)


def make_older(folder: Path, number: int) -> None:
    """Write a saved chip of drawn cells anew as a version with an older format, 2 or 3, would have."""
    text, tensors = opened(folder)
    for name, found in mho.load(folder).layers.items():  # the arrays of each group by themselves
        tensors = {key: value for key, value in tensors.items() if not key.startswith(f"layer.{name}.{ALL}.")}
        for g, group in enumerate(arrays_of(found.tiles)):
            tensors |= {f"layer.{name}.{g}.{key}": torch.from_numpy(array.copy()) for key, array in group.items()}
    hardware = mho.Hardware.model_validate(text["hardware"])
    del text["digests"]
    for layer in text["layers"].values():
        layer["spec"] = _older_spec(layer.pop("kind"), layer["spec"])
        del layer["cells"]
        layer["compensate"] = layer.pop("wire_compensation")
        layer["array_energy_j"] = layer.pop("ranges")["array_energy_j"]
        if number == 2:
            dac, drive = hardware.for_layer(*layer["aliases"]).dac, layer["drive"]
            found = Drive.of(dac, None if dac.range is None else drive["limit"], drive["signed"])
            layer["drive"] = {key: getattr(found, key) for key in DRIVE}
            del layer["samples_along"], layer["spec"]["dtype"]
            layer["positions"] = 1
    if number == 2:
        text = {key: value for key, value in text.items() if key not in ("located", "origin", "batch", "strict")}
        tensors = {name: value for name, value in tensors.items() if not name.endswith((".cells", ".gains"))}
    write(folder, {**text, "format": number}, tensors, number)


def _older_spec(kind: str, spec: Text) -> Text:
    """The geometry of a layer as formats 2 and 3 say it: three numbers for each size."""
    if kind == "linear":
        sizes = {key: [1, 1, 1] for key in ("kernel", "stride", "dilation")}
        return {"dims": 0, "groups": 1, **sizes, "padding": [], "padding_mode": "constant", **spec}
    dims = len(spec["kernel"])
    sizes = {key: [1] * (3 - dims) + list(spec[key]) for key in ("kernel", "stride", "dilation")}
    return {**spec, "dims": dims, **sizes}


def table_of(programmed: Programmed) -> tuple[np.ndarray[Any, Any], ...]:
    """Its cells as a table for `Given`: of each group (slices, polarities, rows, columns) siemens."""
    design, cells, backend = programmed.design, programmed.cells, programmed.backend
    return tuple(
        np.concatenate(
            [cells.conductances(design, g, t, backend) for t in range(design.placement.row_tiles)],
            axis=2,
        )
        for g in range(design.placement.groups)
    )


def measured(chip: mho.Chip, change: float = 1.0) -> mho.Chip:
    """The chip with its cells given one by one, all conductances times `change`."""

    def given(layer: Any) -> Programmed:
        now = layer.tiles
        cells = Given(now.hardware, tuple(np.float32(change) * table for table in table_of(now)))
        return Programmed.of(now.design, cells, now.seeds, now.backend, now.ranges)

    return chip.remade(chip.hardware, given)

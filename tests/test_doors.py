"""What is no path at the doors of Mho is an error of one line; and `strict` is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import hardware, pictures, small_cnn

import mho
from mho.mapping.checkpoints.loading import build_model, read_state_dict
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.saved import store

IDEAL = mho.Hardware.preset("ideal")
DOORS = {
    "Hardware.load": mho.Hardware.load,
    "Hardware.preset": mho.Hardware.preset,
    "Hardware.save": IDEAL.save,
    "load": mho.load,
    "save": lambda path: mho.map(small_cnn(), IDEAL).save(path),
    "checkpoint": read_state_dict,
    "model": build_model,
    "sweep": lambda source: mho.sweep(source, out="runs/never"),
    "sweep out": lambda out: mho.sweep({}, out=out),
    "optimize": lambda source: mho.optimize(source, out="runs/never"),
    "optimize out": lambda out: mho.optimize({}, out=out),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("given", [None, 3, True, 1.5, b"ideal", [], {}, "folder", "missing/x.yaml", "\0"], ids=repr)
def test_what_is_no_file_is_one_line(door, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/file").touch()
    Path("missing").touch()
    with pytest.raises((ValueError, OSError)) as caught:
        DOORS[door](given)
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_strict_is_remembered_at_other_times_and_by_copies(tmp_path):
    pcm, x = mho.Hardware.preset("pcm"), pictures()
    chip = mho.map(small_cnn(), pcm, calibrate=x, strict=True)
    chip.at(3600.0)
    chip.save(tmp_path / "chip")
    for twin in (chip, chip.copy(1), chip.at(10.0), mho.load(tmp_path / "chip")):
        with pytest.raises(
            MappingError, match=r"layer '0': time_s = 1e\+09 s is outside the data .*strict=True"
        ) as caught:
            twin.at(1e9)
        assert "\n" not in str(caught.value)
    assert not mho.map(small_cnn(), pcm, calibrate=x).strict


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text["hardware"]["cell"].update(g_max=text["hardware"]["cell"]["g_max"] * 1.5),
        lambda text: text["hardware"]["sensing"].update(amplifier_noise=0.0),
        lambda text: text["hardware"].update(name="other"),
    ],
)
def test_a_text_that_disagrees_with_its_cells_is_refused(change, tmp_path):
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures())
    chip.save(tmp_path / "chip")
    text = json.loads((tmp_path / "chip" / store.TEXT).read_bytes().partition(b"\n")[2])
    tensors = {name: value.clone() for name, value in store.load_file(tmp_path / "chip" / store.TENSORS).items()}
    store.write(tmp_path / "chip", text, tensors)
    mho.load(tmp_path / "chip")
    change(text)
    store.write(tmp_path / "chip", text, tensors)
    with pytest.raises(CheckpointError, match="its hardware is not that which its cells were programmed on"):
        mho.load(tmp_path / "chip")

"""Array files and checkpoints that lie or are damaged: one line of error, or arrays."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command_shop import tiny
from safetensors.torch import save_file

from mho.inputs import find_inputs
from mho.mapping.checkpoints.loading import load_weights


def npy(header: bytes, data: bytes = b"") -> bytes:
    """An array file of that header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


ARRAYS = {
    "huge": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 3), }"),
    "huger": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000000000000000000, 3), }"),
    "negative": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }", bytes(24)),
    "nested": npy(b"(" * 9000 + b")" * 9000),
    "no shape": npy(b"{'descr': '<f4'}"),
    "code": npy(b"__import__('os').abort()"),
    "words for a type": npy(b"{'descr': 'colour', 'fortran_order': False, 'shape': (2, 3), }"),
    "objects": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }"),
    "another version": b"\x93NUMPY\x09\x00\x00\x00",
    "short": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", bytes(20)),
}


@pytest.mark.parametrize("content", ARRAYS.values(), ids=ARRAYS)
def test_array_files_that_lie(shop, refused, content):
    Path("a.npy").write_bytes(content)
    refused(shop.map(calibrate="a.npy"), "data a.npy: not a readable array file")
    with zipfile.ZipFile("a.npz", "w") as archive:
        archive.writestr("images.npy", content)
    refused(shop.map(calibrate="a.npz"), "data a.npz: not a readable array file")


def test_archives_that_lie(shop, refused):
    with zipfile.ZipFile("a.npz", "w") as archive:
        archive.writestr("images", b"no array")
    refused(shop.map(calibrate="a.npz"), "data a.npz: images must be numbers")
    content = bytearray(Path("data.npz").read_bytes())
    central = content.index(b"PK\x01\x02")
    for place, value in ((6, 1), (8, 1), (10, 99), (central + 8, 1), (central + 10, 99), (central + 42, 200)):
        spoiled = bytearray(content)  # encrypted, packed in an unknown way, elsewhere
        spoiled[place] = value
        Path("b.npz").write_bytes(spoiled)
        if place > central:
            refused(shop.map(calibrate="b.npz"), "data b.npz: not a readable array file")
    shop.data(images=shop.images.astype(float) * 1e300)
    refused(shop.map(), "calibration inputs must be finite")
    shop.data(images=shop.images, labels=np.full(20, np.nan))
    refused(shop.map(), "labels must be numbers of classes, got nan to nan")


@pytest.mark.parametrize("name", ["data.npz", "a.npy", "tiny.pt", "a.safetensors"])
def test_a_file_with_some_bytes_wrong_gives_arrays_or_an_error_of_ours(shop, name):
    np.save("a.npy", shop.images)
    save_file(tiny().state_dict(), "a.safetensors")
    content, chance = Path(name).read_bytes(), random.Random(0)
    wrong, said = Path(f"wrong{Path(name).suffix}"), []
    for _ in range(150):
        spoiled = bytearray(content)
        for _ in range(chance.choice((1, 3, 30))):
            spoiled[chance.randrange(chance.choice((200, len(spoiled))))] = chance.randrange(256)
        wrong.write_bytes(spoiled[: chance.choice((len(spoiled), len(spoiled) // 2))])
        try:
            if "np" in name:
                find_inputs(str(wrong))
            else:
                load_weights(tiny(), wrong)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 50
    assert all(line.startswith((f"data {wrong}: ", f"checkpoint {wrong}")) and "\n" not in line for line in said)

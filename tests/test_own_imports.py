"""Modules of own cells and layers by `--import`, and what says that one is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_shop import Shop
from torch import nn

import mho
from mho.cli import app, run
from mho.devices.programming import ProgrammingModel
from mho.mapping.errors import CheckpointError
from mho.mapping.kinds.leaf import LEAVES, Leaf

CELLS = """
from typing import Literal
from mho.devices.programming import ProgrammingModel

class Plus(ProgrammingModel):
    kind: Literal["imported_plus"] = "imported_plus"

    def apply(self, g, normals, conditions, xp):
        return g + 1e-7
"""
LAYERS = """
from mho.mapping.kinds.leaf import LEAVES
from mho.mapping.kinds.linear import Linear
from torch import nn

class Own(nn.Linear):
    pass

@LEAVES.register("imported_own")
class OwnLeaf(Linear):
    modules = (Own,)
"""
HINT = "one of your own is known once its module is imported"
BUILD = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))\n"


@pytest.fixture
def there(shop: Shop) -> Iterator[Path]:
    """A folder `own` with modules and hardware of its own, beside the working directory's files."""
    own = shop.folder / "own"
    own.mkdir()
    (own / "imported_cells.py").write_text(CELLS, encoding="utf-8")
    (own / "imported_layers.py").write_text(LAYERS, encoding="utf-8")
    (own / "imported_broken.py").write_text("1 / 0\n", encoding="utf-8")
    (shop.folder / "imported_net.py").write_text(BUILD, encoding="utf-8")
    forget()
    fields = yaml.safe_load(mho.Hardware.preset("reram").dump())
    fields["cell"]["programming"] = {"kind": "imported_plus"}
    (own / "chip.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
    exec(compile(BUILD, "net", "exec", dont_inherit=True), scope := {"__name__": "net"})
    net = scope["net"]()
    torch.save(net.state_dict(), shop.folder / "weights.pt")
    x = torch.rand(40, 6)
    shop.data(images=x.numpy(), labels=net(x).argmax(1).numpy())
    yield own
    forget()


def forget() -> None:
    for name in ("imported_cells", "imported_layers", "imported_net"):
        sys.modules.pop(name, None)
    ProgrammingModel.registry._things.pop("imported_plus", None)
    LEAVES._things.pop("imported_own", None)


def test_commands_import_what_hardware_and_chips_need(
    there: Path, refused: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    mapped = ["map", "weights.pt", "--model", "imported_net:net", "--hardware", "own/chip.yaml", "--images", "40"]
    mapped += ["--calibrate", "data.npz", "--out", "own/saved"]
    refused(mapped, "programming: kind must be one of none,", "got 'imported_plus'", HINT)
    refused([*mapped, "--import", "imported_nothing"], "there is no module 'imported_nothing' on PYTHONPATH or in")
    refused([*mapped, "--import", "imported_broken"], "module 'imported_broken' does not load (ZeroDivisionError")
    assert run(app, [*mapped, "--import", "imported_cells"]) == 0
    for command in (["vote", "own/saved", "--data", "data.npz", "--votes", "2"], ["schedule", "own/saved"]):
        forget()
        refused(command, "chip own/saved: ", "got 'imported_plus'", HINT)
        sys.path[:] = [folder for folder in sys.path if folder != str(there)]
        capsys.readouterr()
        assert run(app, [*command, "--import", "imported_cells"]) == 0, capsys.readouterr().err


def test_a_chip_whose_layers_are_not_imported_says_what_is_missing(there: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(there))
    import imported_layers

    net = nn.Sequential(imported_layers.Own(6, 4)).eval()
    x = torch.rand(9, 6)
    chip = mho.map(net, mho.Hardware.preset("ideal"), calibrate=x)
    chip.save(tmp_path / "saved")
    assert torch.equal(mho.load(tmp_path / "saved").read(x, read=0), chip.read(x, read=0))
    forget()
    with pytest.raises(
        CheckpointError, match=rf"kind of layer must be one of linear, .* got 'imported_own'; {HINT}"
    ) as caught:
        mho.load(tmp_path / "saved")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"dims": 2}, r"Own: dims = 2 needs a type: write `dims: TYPE = ...`, or `dims: ClassVar\[TYPE\] = ...`$"),
        ({"stride": (1, 2)}, r"Own: stride = \(1, 2\) needs a type: write `stride: TYPE = ...`, or `stride: ClassVar"),
        ({"in_features": 3}, r"Own: in_features = 3 needs a type: write `in_features: TYPE = ...`$"),
        ({"__annotations__": {"table": np.ndarray}}, r"Own: Unable to generate pydantic-core schema for <class 'numpy"),
    ],
)
def test_fields_without_a_type_are_one_line(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}") as caught:
        type("Own", (Leaf,), {"__module__": __name__, **attributes})
    assert "\n" not in str(caught.value)

"""The example of kinds of layers in the docs, as a package of its own that is installed beside Mho."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mho
from mho.mapping.errors import CheckpointError

DOCS = Path(__file__).parents[1] / "docs" / "mapping.md"


def section() -> str:
    return DOCS.read_text(encoding="utf-8").split("## How to add a layer")[1]


def blocks() -> list[str]:
    return [block.split("```")[0] for block in section().split("```python\n")[1:]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the documentation, as installed with its entry points."""
    tmp_path = tmp_path_factory.mktemp("package")
    (tmp_path / "my_layers.py").write_text(blocks()[0], encoding="utf-8")
    info = tmp_path / "my_layers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-layers\nVersion: 1.0\n", encoding="utf-8")
    points = section().split("```toml\n")[1].split("```")[0]
    points = points.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return tmp_path


def ran(package: Path, code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(package)}
    options: Any = {"cwd": package, "env": env, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


SAME = """
import torch, mho
from torch import nn
from my_layers import SameConv2d
for kernel, stride, options in ((3, 2, dict(groups=2)), ((3, 2), (1, 3), dict(bias=False))):
    torch.manual_seed(0)
    layers, x = (nn.BatchNorm2d(4), SameConv2d(4, 6, kernel, stride, **options)), torch.randn(5, 4, 5, 6)
    net = nn.Sequential(*layers).eval()
    net[0].running_mean.fill_(1)
    chip = mho.map(net, mho.Hardware.preset("ideal"), check=x)
    assert torch.allclose(chip(x), net(x), atol=1e-5), kernel
    assert torch.allclose(chip.model[1].weight + 0, net[1].weight, atol=1e-6), kernel
    assert chip.model[1].stride == net[1].stride
"""


@pytest.fixture(scope="module")
def report(package: Path) -> str:
    """What the example prints, which leaves a saved chip; and then the layers are compared."""
    assert "my_layers" not in sys.modules
    return ran(package, blocks()[1] + SAME)


def test_the_example_of_the_docs_runs_outside_of_the_package(package: Path, report: str) -> None:
    assert "masked_linear" not in report
    lines = [line.split() for line in report.splitlines()]
    assert {"0", "3"} <= {line[0] for line in lines if line}
    shown = ran(package, "import mho; c = mho.load('chip'); print([x.spec.kind for x in c.layers.values()])")
    assert shown.strip() == "['same_convolution', 'masked_linear']"


def test_a_chip_of_a_kind_that_is_not_installed_is_refused_in_one_line(package: Path, report: str) -> None:
    said = "kind of layer must be one of linear, .*convolution.* got '(masked_linear|same_convolution)'"
    with pytest.raises(CheckpointError, match=said) as caught:
        mho.load(package / "chip")
    assert "\n" not in str(caught.value)

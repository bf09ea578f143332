"""The command `mho attack` from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mho.cli import app, run
from mho.models import mnist_cnn
from mho.models.attacks import Pgd, pgd
from mho.models.data import mnist
from mho.models.weights import save_weights


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attack(*arguments: str, network: str = "mnist-cnn", weights: str = "sigma-0.0") -> int:
    return run(app, ["attack", network, "--weights", weights, "--images", "20", *arguments])


def test_the_pictures_are_written_and_the_accuracy_printed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--epsilon", "0.1", "--step", "0.05", "--iterations", "3", "--restarts", "2", "--seed", "4")
    assert attack(*arguments, "--out", "here/found.npz") == 0
    text = capsys.readouterr().out
    images, labels = (part[:20] for part in mnist("test"))
    exact = pgd(mnist_cnn("sigma-0.0"), images, labels, Pgd(0.1, 0.05, 3, 2), seed=4)
    with np.load("here/found.npz") as found:
        assert np.array_equal(found["images"], exact.images.numpy())
        assert np.array_equal(found["labels"], labels.numpy())
        assert np.array_equal(found["fooled"], exact.fooled.numpy())
    assert "accuracy on the 20 originals   100.00 %" in text
    assert f"accuracy on the attacked     {100 * (1 - exact.fooled.float().mean()):.2f} %" in text
    assert "largest change 0.1\n" in text


def test_methods_target_and_a_file_of_weights(capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(mnist_cnn("sigma-0.5"), Path(), "mine", {})
    assert attack("--method", "fgsm", "--epsilon", "0.2", "--target", "7", weights="mine.safetensors") == 0
    text = capsys.readouterr().out
    labels = mnist("test")[1][:20]
    assert f"accuracy on the {int((labels != 7).sum())} originals" in text
    assert "taken for 7" in text
    arguments = ("--method", "carlini-wagner", "--iterations", "1", "--sigma", "0.2", "--out", "a.npz")
    assert attack(*arguments) == 0
    with np.load("a.npz") as found:
        assert np.isfinite(found["images"]).all()


def test_noise_of_the_attacked_network(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--iterations", "1", "--restarts", "1", "--epsilon", "0.1", "--sigma", "0.5", "--samples", "2")
    assert attack(*arguments, "--seed", "1", "--out", "a.npz") == 0
    assert attack(*arguments, "--seed", "1", "--out", "b.npz") == 0
    with np.load("a.npz") as first, np.load("b.npz") as second:
        assert np.array_equal(first["images"], second["images"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (),
            {"network": "stroke-lstm"},
            "one of mnist-cnn, mnist-cnn4, densenet22, densenet40, densenet100, resnet32, got",
        ),
        ((), {"weights": "sigma-7"}, "weights of mnist_cnn must be one of"),
        ((), {"weights": "no.safetensors"}, "weights no.safetensors: no such file"),
        (("--method", "guess"), {}, "method must be one of pgd, fgsm, carlini-wagner, got 'guess'"),
        (("--method", "fgsm", "--step", "0.1"), {}, "step is no setting of method fgsm"),
        (("--loss", "hinge"), {}, "loss must be 'cross-entropy' or 'margin', got 'hinge'"),
        (("--sigma", "-1"), {}, "sigma_val must be at least 0 and finite, got -1"),
        (("--target", "12"), {}, "labels must be classes 0 to 9, got 12 to 12"),
        (("--epsilon", "nan"), {}, "epsilon must be above 0 and finite, got nan"),
        (("--out", "found.txt"), {}, "out must be a .npz file, got 'found.txt'"),
    ],
)
def test_bad_options_get_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    assert attack(*arguments, **options) == 2
    out, err = capsys.readouterr()
    assert err.startswith("mho: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "accuracy" not in out
    assert not list(Path().iterdir())

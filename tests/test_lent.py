"""Weights of the caller: read where they are, changed by nothing; data that are asked for once; progress."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import pytest
import torch
from helpers import pictures, small_cnn
from tied import TOKENS, Words, X, mlp
from torch import nn
from torch.nn import functional

import mho
from mho.mapping import progress
from mho.mapping.inputs.samples import locate
from mho.mapping.lent import Written, lent

RERAM = mho.Hardware.preset("reram")
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is told by /proc")


@pytest.mark.parametrize(("make", "x"), [(mlp, X), (small_cnn, pictures()), (Words, TOKENS)])
def test_what_the_caller_does_afterwards_changes_no_chip(make: Any, x: torch.Tensor, tmp_path: Path) -> None:
    model = make()
    before = {name: (value.data_ptr(), value._version, value.clone()) for name, value in model.state_dict().items()}
    chip = mho.map(model, RERAM, calibrate=x)
    for name, value in model.state_dict().items():
        place, version, kept = before[name]
        assert (value.data_ptr(), value._version) == (place, version)
        assert torch.equal(value, kept)
    report = str(chip.report())
    wanted = [chip.read(x, read=0), chip.copy(1).read(x, read=0), chip.at(10.0).read(x, read=0)]
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.fill_(7)
    chip.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip", model=make())
    for each in (chip, loaded):
        found = [each.read(x, read=0), each.copy(1).read(x, read=0), each.at(10.0).read(x, read=0)]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert str(mho.map(make(), RERAM, calibrate=x).report()) == report


def test_weights_are_read_where_they_are() -> None:
    model = Words()
    with lent(model, share=True) as mine:
        assert all(a.data_ptr() == b.data_ptr() for a, b in zip(mine.parameters(), model.parameters(), strict=True))
        assert all(a is not b for a, b in zip(mine.parameters(), model.parameters(), strict=True))
        assert mine.head.weight is mine.words.weight
        assert torch.equal(mine(TOKENS), model(TOKENS))
        with pytest.raises(Written):
            mine.mix.weight.data.mul_(2)
        with pytest.raises(Written), torch.no_grad():
            mine.words.weight[:, 1].zero_()
        with pytest.raises(Written), torch.no_grad():
            torch.add(mine.mix.weight, 1, out=mine.mix.weight)
    with lent(model, share=False) as mine:
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(mine.parameters(), model.parameters(), strict=True))
    model.mix.register_forward_hook(lambda *_: None)
    with lent(model, share=True) as mine:  # hooks get the torch module later on
        assert mine.mix.weight.data_ptr() != model.mix.weight.data_ptr()
        assert mine.words.weight.data_ptr() == model.words.weight.data_ptr()


class Clamped(nn.Module):
    """Keeps its weights within a range in each call, one or the other way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.first, self.second = how, nn.Linear(40, 30), nn.Linear(30, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            try:
                if self.how == "in place":
                    self.second.weight.clamp_(-0.1, 0.1)
                elif self.how == "data":
                    self.second.weight.data = self.second.weight.data.clamp(-0.1, 0.1)
                else:
                    torch.clamp(self.second.weight, -0.1, 0.1, out=self.second.weight)
            except Exception:  # as careless code does
                return self.first(x)
        return self.second(functional.relu(self.first(x)))


@pytest.mark.parametrize("how", ["in place", "data", "out"])
@pytest.mark.parametrize("check", [True, False])
def test_a_model_that_writes_to_its_weights_gets_copies(how: str, check: bool) -> None:
    model = Clamped(how).eval()
    kept = copy.deepcopy(model.state_dict())
    chip = mho.map(model, mho.Hardware.preset("ideal"), calibrate=X, check=check)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert list(chip.layers) == ["first"]  # of the other the model takes the weights itself
    model.eval()(X)  # the caller's network writes
    assert torch.allclose(chip(X), model(X), atol=1e-5)


def test_embeddings_with_a_largest_norm_stay_as_they_are() -> None:
    model = Words(max_norm=0.5).eval()
    kept = model.words.weight.detach().clone()
    mho.map(model, RERAM, calibrate=TOKENS)
    assert torch.equal(model.words.weight, kept)


def test_a_table_of_words_that_is_on_tiles_too_is_kept_once() -> None:
    chip = mho.map(Words(), RERAM, calibrate=TOKENS)
    assert chip.model.words.weight.data_ptr() == chip.layers["head"].matrix.weights.ctypes.data
    bounded = mho.map(Words(max_norm=0.5), RERAM, calibrate=TOKENS)  # whose lookups write to the table
    assert bounded.model.words.weight.data_ptr() != bounded.layers["head"].matrix.weights.ctypes.data
    assert torch.equal(chip.model.words(TOKENS), Words().words(TOKENS))


class Scaled(nn.Module):
    """Says where its own parameter is in each call, and writes to it if it is told to."""

    def __init__(self, *, writes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale = nn.Linear(40, 8), nn.Parameter(torch.full((8,), 2.0))
        self.writes = writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        PLACES.append(self.scale.data_ptr())
        if self.writes:
            with torch.no_grad():
                self.scale.mul_(0.5)
        return self.layer(x) * self.scale


PLACES: list[int] = []


@pytest.mark.parametrize("writes", [False, True])
def test_passes_that_look_for_samples_copy_weights_only_for_models_that_write(writes: bool) -> None:
    hardware = RERAM.replace({"dac.range": 4.0, "adc.full_scale": 1e-3})
    chip = mho.map(Scaled(writes=writes).eval(), hardware)
    place, x = chip.model.scale.data_ptr(), torch.rand(3, 5, 40)
    PLACES.clear()
    chip.read(x, read=0)
    *passes, read = PLACES
    assert read == place
    assert len(passes) == (3 if writes else 2)  # of one sample and of two, and one that was broken off
    assert [p == place for p in passes] == ([True, False, False] if writes else [True, True])
    assert torch.equal(chip.model.scale.detach(), torch.full((8,), 1.0 if writes else 2.0))


def test_writes_to_weights_of_the_caller_are_told_while_it_is_mapped() -> None:
    model, hardware = Scaled(writes=True).eval(), RERAM.replace({"dac.range": 4.0, "adc.full_scale": 1e-3})
    chip = mho.map(Scaled(writes=False).eval(), hardware)
    with lent(model, share=True) as mine:
        chip.model.scale, chip.model.writes = mine.scale, True
        with pytest.raises(Written):
            locate(chip, (torch.rand(3, 5, 40),), {})
    assert torch.equal(model.scale.detach(), torch.full((8,), 2.0))


def test_hooked_layers_do_not_notice_what_the_caller_does() -> None:
    model = mlp()
    model[2].register_forward_hook(lambda module, args, output: output * 2)
    chip = mho.map(model, RERAM, calibrate=X)
    wanted = chip.read(X, read=0)
    with torch.no_grad():
        model[2].weight.zero_()
    assert torch.equal(chip.read(X, read=0), wanted)


def test_weights_that_were_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = mlp()
    assert torch.equal(
        mho.map(model, RERAM, calibrate=X).read(X, read=0), mho.map(mlp(), RERAM, calibrate=X).read(X, read=0)
    )


def test_torch_compiler_is_not_loaded() -> None:
    code = (
        "import sys, torch, mho\n"
        "mho.map(torch.nn.Linear(4, 3), mho.Hardware.preset('reram'), calibrate=torch.rand(5, 4))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("alpha", "passes"), [(None, 1), (0.5, 2)])
def test_data_are_asked_for_once(alpha: float | None, passes: int) -> None:
    class Loader:
        asked = 0

        def __len__(self) -> int:
            return 30

        def __iter__(self) -> Any:
            self.asked += 1
            return (torch.rand(100, 40, generator=torch.Generator().manual_seed(seed)) for seed in range(30))

    loader, hw = Loader(), RERAM.replace({"dac.equalise": alpha})
    chip = mho.map(mlp(), hw, calibrate=loader)
    assert loader.asked == passes
    whole = mho.map(mlp(), hw, calibrate=list(Loader()))
    assert torch.equal(chip.read(X, read=0), whole.read(X, read=0))


class Terminal:
    """Standard error on a terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.text = terminal, ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_progress_shows_after_a_while_and_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.AFTER == 2
    monkeypatch.setattr(progress, "AFTER", 0.2)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal(True))
    with progress.told("layers") as tell:
        tell(1, 9)
        assert not terminal.text
        time.sleep(0.5)
        assert terminal.text.endswith("layers: 1 of 9, 0 s")
        tell(2, 9)
        assert terminal.text.endswith("layers: 2 of 9, 1 s") or terminal.text.endswith("layers: 2 of 9, 0 s")
    assert terminal.text.endswith(progress.ERASE)


def test_short_work_and_files_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for terminal, after in ((True, 60.0), (False, 0.0)):
        monkeypatch.setattr(progress, "AFTER", after)
        monkeypatch.setattr(sys, "stderr", shown := Terminal(terminal))
        mho.map(mlp(), RERAM, calibrate=X)
        assert not shown.text


@numba.njit
def inner(x):
    return x + 1


def outer(x):
    return inner(x) * 2


@pytest.mark.parametrize(("name", "terminal"), [("mho.crossbar.kernels.one", True), ("mho.one", False), ("own", True)])
def test_compilation_of_kernels_is_told(name: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER", 0.0)
    monkeypatch.setattr(sys, "stderr", shown := Terminal(terminal))
    compiled = numba.njit(FunctionType(outer.__code__, globals()))
    compiled.py_func.__module__ = name
    assert compiled(3) == 8
    assert shown.text.count("compiling kernels, once") == (terminal and name != "own")
    assert shown.text.endswith(progress.ERASE) == (terminal and name != "own")


def test_mapping_tells_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(sys, "stderr", shown := Terminal(True))
    mho.map(mlp(), RERAM, calibrate=X)
    assert "mapping, layers: 3 of 3" in shown.text
    told: list[tuple[int, int]] = []
    shown.text = ""
    mho.map(mlp(), mho.Hardware.paper(sigma_mult=0.1), progress=lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not shown.text
